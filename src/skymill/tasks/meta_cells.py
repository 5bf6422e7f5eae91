"""The cells of a patch that metadetection shears (step meta_4a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT
from numpy.typing import NDArray

from skymill.coadd.cells import CellOptions, plan_cells, star_radius
from skymill.coadd.noise_spectrum import NoiseSpectrumOptions
from skymill.data.errors import NoDataError
from skymill.data.geometry import local_jacobian
from skymill.data.images import Coadd
from skymill.data.units import magnitude_from_njy
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import reference_catalogue

__all__ = ["MetaCellsConfig", "MetaCellsConnections", "MetaCellsTask"]


class MetaCellsConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"coaddName": "deep", "starRefCat": "gaia"},
):
    """Datasets of `MetaCellsTask`."""

    coadds = cT.Input(
        doc="Coadds of all bands.",
        name="{coaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    stars = reference_catalogue("Bright stars that are masked.", "{starRefCat}")
    cells = cT.Output(
        doc="Cells with their PSFs and noise.",
        name="{coaddName}Coadd_metaCells",
        storageClass="SkymillRecord",
        dimensions=("skymap", "tract", "patch"),
    )

    def __init__(self, *, config: MetaCellsConfig | None = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.doMaskBrightStars:
            del self.stars


class MetaCellsConfig(PipelineTaskConfig, pipelineConnections=MetaCellsConnections):
    """Options of `MetaCellsTask`."""

    shearBands = ListField[str](
        dtype=str, doc="Bands whose sum is searched and gives shapes.", default=["r"]
    )
    doMaskBrightStars = Field[bool](
        dtype=bool, doc="Mask stars of a catalogue; saturated ones always are.", default=True
    )
    brightStarMag = Field[float](dtype=float, doc="Faintest masked star [mag].", default=18.0)
    brightStarField = Field[str](
        dtype=str, doc="Magnitude of the stars, without _flux.", default="phot_g_mean"
    )
    cells = options_field(CellOptions, "Cells, masks, how much the PSF may change.")
    noise = options_field(NoiseSpectrumOptions, "Measurement of the noise's spectrum.")


class MetaCellsTask(PipelineTask):
    """Cut the coadds of a patch into cells with one PSF each; mask; measure the noise."""

    ConfigClass = MetaCellsConfig
    _DefaultName = "metaCells"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read coadds and shards of the catalogue, run, write."""
        coadds = {str(ref.dataId["band"]): butlerQC.get(ref) for ref in inputRefs.coadds}
        handles = butlerQC.get(getattr(inputRefs, "stars", []))
        butlerQC.put(self.run(coadds, [handle.get() for handle in handles]), outputRefs)

    def run(self, coadds: Mapping[str, Coadd], stars: Sequence[Table] = ()) -> Struct:
        """Plan the cells of one patch.

        Parameters
        ----------
        coadds : mapping of str to Coadd
            Coadds by band.
        stars : sequence of Table
            Shards of the catalogue of stars.

        Returns
        -------
        lsst.pipe.base.Struct
            ``cells``: a `skymill.coadd.cells.CellPlan`.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If a band that gives shapes has no coadd here, or no cell can be measured.
        """
        first = next(iter(coadds.values()))
        where = f"tract {first.tract} patch {first.patch}"
        try:
            plan = plan_cells(
                dict(sorted(coadds.items())),
                shear_bands=list(self.config.shearBands),
                stars=self._circles(first, stars),
                options=to_options(self.config.cells, CellOptions),
                noise=to_options(self.config.noise, NoiseSpectrumOptions),
            )
        except NoDataError as err:
            raise NoWorkFound(f"{where}: {err}") from err
        used = plan.in_use()
        self.log.info("%s: %d of %d cells in use; %s", where, len(used), len(plan), plan.reasons())
        if not len(used):
            raise NoWorkFound(f"{where}: no cell can be measured ({plan.reasons()})")
        return Struct(cells=plan)

    def _circles(self, coadd: Coadd, shards: Sequence[Table]) -> NDArray[np.float64]:
        """Position and radius [tract pixel] of the bright stars on and around the patch."""
        column = f"{self.config.brightStarField}_flux"
        parts = []
        box = coadd.box
        jacobian = local_jacobian(coadd.wcs, x=0.5 * (box.x0 + box.x1), y=0.5 * (box.y0 + box.y1))
        scale = float(np.sqrt(abs(np.linalg.det(jacobian.reshape(2, 2)))))
        for shard in shards:
            magnitude = magnitude_from_njy(np.asarray(shard[column]))
            bright = magnitude < self.config.brightStarMag
            x, y = coadd.wcs.sky_to_pixel(ra=shard["ra"][bright], dec=shard["dec"][bright])
            radius = star_radius(magnitude[bright], pixel_scale=scale)
            near = (x > box.x0 - radius) & (x < box.x1 + radius)
            near &= (y > box.y0 - radius) & (y < box.y1 + radius)
            parts.append(np.array([x[near], y[near], radius[near]]))
        return np.concatenate(parts, axis=1) if parts else np.zeros((3, 0))

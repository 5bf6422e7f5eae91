"""Detection and measurement on sheared cells (step meta_4b)."""

from __future__ import annotations

from collections.abc import Mapping

from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.coadd.cells import CellPlan, cut_cells
from skymill.data.images import Coadd
from skymill.shear.meta_catalogue import measure_sheared_cells
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["MetaMeasureConfig", "MetaMeasureConnections", "MetaMeasureTask"]


class MetaMeasureConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "coaddName": "deep_noshear_"},
):
    """Datasets of `MetaMeasureTask`."""

    coadds = cT.Input(
        doc="Coadds of all bands.",
        name="{inputCoaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    cells = cT.Input(
        doc="Cells with their PSFs and noise.",
        name="{inputCoaddName}Coadd_metaCells",
        storageClass="SkymillRecord",
        dimensions=("skymap", "tract", "patch"),
    )
    objects = cT.Output(
        doc="Objects of the sheared patch.",
        name="{coaddName}Coadd_obj",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class MetaMeasureConfig(PipelineTaskConfig, pipelineConnections=MetaMeasureConnections):
    """Options of `MetaMeasureTask`."""

    shear = ChoiceField[str](
        dtype=str,
        doc="The applied shear.",
        default="noshear",
        allowed={n: f"{u:+g}, {v:+g} times the step" for n, (u, v) in SHEAR_TYPES.items()},
    )
    seed = Field[int](
        dtype=int, doc="Seed of the added noise, with tract, patch, cell and band.", default=1
    )
    metadetect = options_field(MetadetectOptions, "Shear, search, measurement.")


class MetaMeasureTask(PipelineTask):
    """Shear the cells of a patch with fixed noise; detect and measure anew in every band."""

    ConfigClass = MetaMeasureConfig
    _DefaultName = "metaMeasure"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the coadds of all bands, write the objects."""
        coadds = {str(ref.dataId["band"]): butlerQC.get(ref) for ref in inputRefs.coadds}
        butlerQC.put(self.run(coadds, butlerQC.get(inputRefs.cells)), outputRefs)

    def run(self, coadds: Mapping[str, Coadd], cells: CellPlan) -> Struct:
        """Measure one patch under one shear.

        Parameters
        ----------
        coadds : mapping of str to Coadd
            Coadds by band.
        cells : CellPlan
            Its cells.

        Returns
        -------
        lsst.pipe.base.Struct
            ``objects``: schema ``shearedObjects``.
        """
        first = next(iter(coadds.values()))
        table = measure_sheared_cells(
            cut_cells(coadds, cells, seed=[self.config.seed, first.tract, first.patch]),
            shear=self.config.shear,
            bands=cells.bands,
            wcs=first.wcs,
            tract=first.tract,
            patch=first.patch,
            margin=cells.options.rim,
            options=to_options(self.config.metadetect, MetadetectOptions),
        )
        self.log.info(
            "tract %d patch %d %s: %d objects in %d cells",
            first.tract, first.patch, self.config.shear, len(table), len(cells.in_use()),
        )  # fmt: skip
        return Struct(objects=table)

"""Extinction, zero points and photo-z of the sheared versions (step meta_process)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.extinction import ExtinctionOptions
from skymill.data.errors import ConfigError
from skymill.data.tables import load_schema
from skymill.photoz.estimate import PhotozOptions, estimate_photoz
from skymill.photoz.storage import probability_above
from skymill.shear.meta_catalogue import bands_of, calibrate_sheared
from skymill.tasks._options import options_field, to_options

__all__ = ["MetaProcessConfig", "MetaProcessConnections", "MetaProcessTask"]


class MetaProcessConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `MetaProcessTask`."""

    inputCatalog = cT.Input(
        doc="Objects of all versions.",
        name="metaCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    zeroPoints = cT.Input(
        doc="Zero points of the unsheared catalogue.",
        name="zeroPoints",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="Calibrated objects of all versions with redshifts.",
        name="metaCalibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    photoz = cT.Output(
        doc="Redshifts of the unsheared version with p(z).",
        name="metaPhotoz",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class MetaProcessConfig(PipelineTaskConfig, pipelineConnections=MetaProcessConnections):
    """Options of `MetaProcessTask`."""

    bands = ListField[str](
        dtype=str,
        doc="Bands of the redshifts; empty takes all of u, g, r, i, z, Y in the catalogue.",
        default=[],
    )
    minZ = Field[float](
        dtype=float,
        doc="The column p_behind is the probability of a redshift above it (that of the cluster "
        "plus a margin).",
        default=0.0,
    )
    extinction = options_field(ExtinctionOptions, "Source of E(B-V) and coefficients.")
    photoz = options_field(PhotozOptions, "Templates, prior, grid.")


class MetaProcessTask(PipelineTask):
    """Calibrate the fluxes of every version alike, and estimate redshifts from them anew."""

    ConfigClass = MetaProcessConfig
    _DefaultName = "metaProcess"

    def run(self, inputCatalog: Table, zeroPoints: Table) -> Struct:
        """Calibrate the versions.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``metaCatalog``.
        zeroPoints : astropy.table.Table
            Schema ``zeroPoints``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``metaCalibratedCatalog``; ``photoz``: schema ``photoz``, of
            the unsheared version.
        """
        extinction = to_options(self.config.extinction, ExtinctionOptions)
        table = calibrate_sheared(
            inputCatalog,
            zeroPoints,
            extinction=extinction,
        )
        bands = self._bands(table)
        flux, err = (
            np.stack([np.asarray(table[f"{b}_{n}"]) for b in bands], axis=1)
            for n in ("flux", "fluxerr")
        )
        options = to_options(self.config.photoz, PhotozOptions)
        photoz = estimate_photoz(flux, err, bands=bands, options=options)
        for name in ("z_phot", "odds", "mod_chi2", "photoz_flags"):
            table[name] = np.asarray(photoz[name])
        table["p_behind"] = probability_above(photoz, self.config.minZ)
        plain = np.asarray(table["shear"]).astype(str) == "noshear"
        photoz = photoz[plain]
        photoz.add_column(np.asarray(table["ID"])[plain].astype(str), name="ID", index=0)
        self.log.info(
            "%d objects in five versions, %d without a redshift",
            len(table), int(np.isnan(table["z_phot"]).sum()),
        )  # fmt: skip
        return Struct(
            outputCatalog=load_schema("metaCalibratedCatalog").apply(table),
            photoz=load_schema("photoz").apply(photoz),
        )

    def _bands(self, table: Table) -> list[str]:
        available = bands_of(table)
        bands = list(self.config.bands) or [b for b in "ugrizY" if b in available]
        if len(bands) < 2 or not set(bands) <= set(available):
            raise ConfigError(
                f"photo-z need at least 2 bands of the catalogue ({', '.join(available)}); got "
                f"{', '.join(bands) or 'none'}; set bands"
            )
        return bands

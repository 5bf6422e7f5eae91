"""Photometric redshifts (step photo_z)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    NoWorkFound,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.catalogue_export import bands_of, catalogue_fluxes
from skymill.data.errors import ConfigError
from skymill.data.tables import load_schema
from skymill.photoz.estimate import PhotozOptions, estimate_photoz
from skymill.tasks._options import options_field, to_options

__all__ = ["PhotoZConfig", "PhotoZConnections", "PhotoZTask"]


class PhotoZConnections(PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")):
    """Datasets of `PhotoZTask`."""

    inputCatalog = cT.Input(
        doc="Calibrated catalogue.",
        name="calibratedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="Redshifts with p(z).",
        name="photoz",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class PhotoZConfig(PipelineTaskConfig, pipelineConnections=PhotoZConnections):
    """Options of `PhotoZTask`."""

    bands = ListField(
        dtype=str, doc="Bands; empty takes all of u, g, r, i, z, Y in the catalogue.", default=[]
    )
    galaxiesOnly = Field(dtype=bool, doc="Leave out stars and unclassified objects.", default=True)
    photoz = options_field(PhotozOptions, "Templates, prior, grid.")


class PhotoZTask(PipelineTask):
    """Fit templates to the galaxies' fluxes."""

    ConfigClass = PhotoZConfig
    _DefaultName = "photoZ"

    def run(self, inputCatalog: Table) -> Struct:
        """Estimate the redshifts.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``calibratedCatalog``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``photoz``.
        """
        available = bands_of(inputCatalog)
        bands = list(self.config.bands) or [b for b in "ugrizY" if b in available]
        missing = [b for b in bands if b not in available]
        if missing or len(bands) < 2:
            raise ConfigError(
                f"photo-z need at least 2 bands of the catalogue ({', '.join(available)}); got "
                f"{', '.join(bands) or 'none'}; set bands"
            )
        keep = np.asarray(inputCatalog["is_galaxy"], bool) | (not self.config.galaxiesOnly)
        if not keep.any():
            raise NoWorkFound("the catalogue has no galaxy")
        galaxies = inputCatalog[keep]
        flux, err = catalogue_fluxes(galaxies, bands)
        options = to_options(self.config.photoz, PhotozOptions)
        table = estimate_photoz(flux, err, bands=bands, options=options)
        table.add_column(np.asarray(galaxies["ID"]).astype(str), name="ID", index=0)
        self.log.info(
            "%d galaxies, %d without an estimate", len(table), int(np.isnan(table["z_phot"]).sum())
        )
        return Struct(outputCatalog=load_schema("photoz").apply(table))

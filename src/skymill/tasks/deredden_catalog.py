"""Magnitudes freed from Galactic extinction (step photometric_calibration)."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.catalogue_export import deredden_catalogue
from skymill.calibrate.extinction import ExtinctionOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["DereddenCatalogConfig", "DereddenCatalogConnections", "DereddenCatalogTask"]


class DereddenCatalogConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")
):
    """Datasets of `DereddenCatalogTask`."""

    inputCatalog = cT.Input(
        doc="Classified catalogue.",
        name="classifiedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="The same without extinction.",
        name="dereddenedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class DereddenCatalogConfig(PipelineTaskConfig, pipelineConnections=DereddenCatalogConnections):
    """Options of `DereddenCatalogTask`."""

    extinction = options_field(ExtinctionOptions, "Source of E(B-V) and coefficients.")


class DereddenCatalogTask(PipelineTask):
    """Remove the extinction; objects without E(B-V) are flagged, not dropped."""

    ConfigClass = DereddenCatalogConfig
    _DefaultName = "dereddenCatalog"

    def run(self, inputCatalog: Table) -> Struct:
        """Deredden a catalogue.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``classifiedCatalog``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``dereddenedCatalog``.
        """
        options = to_options(self.config.extinction, ExtinctionOptions)
        catalogue = deredden_catalogue(inputCatalog, options=options)
        ebv = np.asarray(catalogue["ebv"])
        known = np.isfinite(ebv)
        if not known.all():
            self.log.warning("%d objects have no E(B-V) and are flagged", int((~known).sum()))
        if known.any():
            self.log.info("median E(B-V) %.3f mag", float(np.median(ebv[known])))
        return Struct(outputCatalog=catalogue)

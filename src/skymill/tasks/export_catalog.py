"""The public object catalogue of a tract (step export_data)."""

from __future__ import annotations

from astropy.table import Table
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.catalogue_export import ExportOptions, export_catalogue
from skymill.tasks._options import options_field, to_options

__all__ = ["ExportCatalogConfig", "ExportCatalogConnections", "ExportCatalogTask"]


class ExportCatalogConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")
):
    """Datasets of `ExportCatalogTask`."""

    inputCatalog = cT.Input(
        doc="Objects of the tract.",
        name="objectTable_tract",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="Catalogue in the published columns.",
        name="exportCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class ExportCatalogConfig(PipelineTaskConfig, pipelineConnections=ExportCatalogConnections):
    """Options of `ExportCatalogTask`."""

    export = options_field(ExportOptions, "Bands and names.")


class ExportCatalogTask(PipelineTask):
    """Select the primary, measured objects and write the published columns."""

    ConfigClass = ExportCatalogConfig
    _DefaultName = "exportCatalog"

    def run(self, inputCatalog: Table) -> Struct:
        """Export a catalogue.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``objectTable_tract``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``exportCatalog``.
        """
        options = to_options(self.config.export, ExportOptions)
        catalogue = export_catalogue(inputCatalog, options=options)
        self.log.info(
            "%d of %d objects exported; left out: %s",
            len(catalogue), len(inputCatalog), catalogue.meta["left_out"],
        )  # fmt: skip
        return Struct(outputCatalog=catalogue)

"""Stars and galaxies of the exported catalogue (step photometric_calibration)."""

from __future__ import annotations

from astropy.table import Table
from lsst.pex.config import Field
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.catalogue_export import classify_catalogue
from skymill.calibrate.star_galaxy import StarGalaxyOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["SeparateStarsConfig", "SeparateStarsConnections", "SeparateStarsTask"]


class SeparateStarsConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")
):
    """Datasets of `SeparateStarsTask`."""

    inputCatalog = cT.Input(
        doc="Exported catalogue.",
        name="exportCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    outputCatalog = cT.Output(
        doc="The same with classes.",
        name="classifiedCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class SeparateStarsConfig(PipelineTaskConfig, pipelineConnections=SeparateStarsConnections):
    """Options of `SeparateStarsTask`."""

    band = Field(dtype=str, doc="Band of the classification.", default="r")
    separation = options_field(StarGalaxyOptions, "The border between the classes.")


class SeparateStarsTask(PipelineTask):
    """Classify every object; those without a class are flagged, not dropped."""

    ConfigClass = SeparateStarsConfig
    _DefaultName = "separateStars"

    def run(self, inputCatalog: Table) -> Struct:
        """Classify a catalogue.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``exportCatalog``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``: schema ``classifiedCatalog``.
        """
        options = to_options(self.config.separation, StarGalaxyOptions)
        catalogue = classify_catalogue(inputCatalog, band=self.config.band, options=options)
        stars, galaxies = int(catalogue["is_star"].sum()), int(catalogue["is_galaxy"].sum())
        self.log.info(
            "%d stars, %d galaxies, %d without a class",
            stars, galaxies, len(catalogue) - stars - galaxies,
        )  # fmt: skip
        return Struct(outputCatalog=catalogue)

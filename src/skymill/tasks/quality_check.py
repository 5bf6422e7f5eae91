"""Numbers and figures of merit of the catalogue (step quality_check)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astropy.table import Table
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.qa.catalogue_quality import QualityOptions, measure_quality
from skymill.qa.quality_figures import draw_depth, draw_null_tests, draw_psf_quality, draw_sky
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import reference_catalogue

__all__ = ["QualityCheckConfig", "QualityCheckConnections", "QualityCheckTask"]

_TRACT = ("instrument", "skymap", "tract")


def _picture(doc: str, name: str) -> cT.Output:
    return cT.Output(doc=doc, name=name, storageClass="SkymillPicture", dimensions=_TRACT)


class QualityCheckConnections(
    PipelineTaskConnections, dimensions=_TRACT, defaultTemplates={"astromRefCat": "gaia"}
):
    """Datasets of `QualityCheckTask`."""

    inputCatalog = cT.Input(
        doc="Exported catalogue.",
        name="exportCatalog",
        storageClass="SkymillTable",
        dimensions=_TRACT,
    )
    references = reference_catalogue("Astrometric reference.", "{astromRefCat}")
    visitSummaries = cT.Input(
        doc="Summaries of the visits.",
        name="finalVisitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
        minimum=0,
    )
    visitStars = cT.Input(
        doc="Stars of the visits with their PSF.",
        name="finalized_src_table",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
        minimum=0,
    )
    shearCatalog = cT.Input(
        doc="Shears, for the null tests; left out if there are none yet.",
        name="shearCatalog",
        storageClass="SkymillTable",
        dimensions=_TRACT,
        minimum=0,
    )
    qualityTable = cT.Output(
        doc="Numbers of merit.",
        name="qualityTable",
        storageClass="SkymillTable",
        dimensions=_TRACT,
    )
    picture = _picture("Counts, errors, magnitudes at S/N 10 and 20.", "qualityPicture")
    skyPicture = _picture("Objects, exposures, astrometry.", "qualitySkyPicture")
    psfPicture = _picture("PSF, residuals at stars, rho statistics.", "qualityPsfPicture")
    nullPicture = _picture("Null tests of the shears.", "qualityNullPicture")


class QualityCheckConfig(PipelineTaskConfig, pipelineConnections=QualityCheckConnections):
    """Options of `QualityCheckTask`."""

    quality = options_field(QualityOptions, "Ranges of the measurements.")


class QualityCheckTask(PipelineTask):
    """Measure depth, astrometry, PSF and null tests; what cannot be measured says so."""

    ConfigClass = QualityCheckConfig
    _DefaultName = "qualityCheck"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the shards of the reference catalogue, then run."""
        inputs = butlerQC.get(inputRefs)
        inputs["references"] = [handle.get() for handle in inputs.get("references", [])]
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(
        self,
        inputCatalog: Table,
        references: Sequence[Table] = (),
        visitSummaries: Sequence[Table] = (),
        visitStars: Sequence[Table] = (),
        shearCatalog: Table | None = None,
    ) -> Struct:
        """Measure the catalogue.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``exportCatalog``.
        references, visitSummaries, visitStars : sequence of astropy.table.Table
            Shards of the reference; summaries and stars of the visits.
        shearCatalog : astropy.table.Table, optional
            Schema ``shearCatalog``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``qualityTable`` (schema ``qualityTable``), and the pictures ``picture``,
            ``skyPicture``, ``psfPicture``, ``nullPicture`` (PNG).
        """
        options = to_options(self.config.quality, QualityOptions)
        quality = measure_quality(
            inputCatalog, references, visits=visitSummaries, stars=visitStars,
            shears=shearCatalog, options=options,
        )  # fmt: skip
        for message in quality.messages:
            self.log.warning(message)
        return Struct(
            qualityTable=quality.table,
            picture=draw_depth(inputCatalog, quality),
            skyPicture=draw_sky(inputCatalog, quality, visitSummaries, options=options),
            psfPicture=draw_psf_quality(inputCatalog, quality, options=options),
            nullPicture=draw_null_tests(quality),
        )

"""Numbers and figures of merit of the catalogue (step quality_check)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astropy.table import Table
from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.qa.catalogue_quality import QualityOptions, draw_quality, measure_quality
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import reference_catalogue

__all__ = ["QualityCheckConfig", "QualityCheckConnections", "QualityCheckTask"]


class QualityCheckConnections(
    PipelineTaskConnections,
    dimensions=("instrument", "skymap", "tract"),
    defaultTemplates={"astromRefCat": "gaia"},
):
    """Datasets of `QualityCheckTask`."""

    inputCatalog = cT.Input(
        doc="Exported catalogue.",
        name="exportCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
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
    qualityTable = cT.Output(
        doc="Numbers of merit.",
        name="qualityTable",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    picture = cT.Output(
        doc="Figures of merit.",
        name="qualityPicture",
        storageClass="SkymillPicture",
        dimensions=("instrument", "skymap", "tract"),
    )


class QualityCheckConfig(PipelineTaskConfig, pipelineConnections=QualityCheckConnections):
    """Options of `QualityCheckTask`."""

    quality = options_field(QualityOptions, "Ranges of the measurements.")


class QualityCheckTask(PipelineTask):
    """Measure depth, astrometry, PSF and shape correlation; what cannot be measured says so."""

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
    ) -> Struct:
        """Measure the catalogue.

        Parameters
        ----------
        inputCatalog : astropy.table.Table
            Schema ``exportCatalog``.
        references, visitSummaries : sequence of astropy.table.Table
            Shards of the reference; summaries of the visits.

        Returns
        -------
        lsst.pipe.base.Struct
            ``qualityTable`` (schema ``qualityTable``), ``picture`` (PNG).
        """
        options = to_options(self.config.quality, QualityOptions)
        table = measure_quality(inputCatalog, references, visits=visitSummaries, options=options)
        picture = draw_quality(inputCatalog, references, options=options)
        return Struct(qualityTable=table, picture=picture)

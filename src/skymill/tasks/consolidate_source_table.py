"""The sources of all CCDs of a visit by the joint calibration."""

from __future__ import annotations

from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from skymill.tasks._consolidate import ConsolidateTask

__all__ = [
    "ConsolidateSourceTableConfig",
    "ConsolidateSourceTableConnections",
    "ConsolidateSourceTableTask",
]


class ConsolidateSourceTableConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit")
):
    """Datasets of `ConsolidateSourceTableTask`."""

    inputCatalogs = cT.Input(
        doc="Sources of each CCD.",
        name="sourceTable",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
    )
    outputCatalog = cT.Output(
        doc="Sources of the visit.",
        name="sourceTable_visit",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )


class ConsolidateSourceTableConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidateSourceTableConnections
):
    """No options."""


class ConsolidateSourceTableTask(ConsolidateTask):
    """Join the source tables of the CCDs of a visit."""

    ConfigClass = ConsolidateSourceTableConfig
    _DefaultName = "consolidateSourceTable"
    schema = "sourceTable_visit"

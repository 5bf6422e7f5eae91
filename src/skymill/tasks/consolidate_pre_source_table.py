"""The sources of all CCDs of a visit by the single-frame calibration."""

from __future__ import annotations

from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from skymill.tasks._consolidate import ConsolidateTask

__all__ = [
    "ConsolidatePreSourceTableConfig",
    "ConsolidatePreSourceTableConnections",
    "ConsolidatePreSourceTableTask",
]


class ConsolidatePreSourceTableConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit")
):
    """Datasets of `ConsolidatePreSourceTableTask`."""

    inputCatalogs = cT.Input(
        doc="Sources of each CCD.",
        name="preSourceTable",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
    )
    outputCatalog = cT.Output(
        doc="Sources of the visit.",
        name="preSourceTable_visit",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )


class ConsolidatePreSourceTableConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidatePreSourceTableConnections
):
    """No options."""


class ConsolidatePreSourceTableTask(ConsolidateTask):
    """Join the source tables of the CCDs of a visit."""

    ConfigClass = ConsolidatePreSourceTableConfig
    _DefaultName = "consolidatePreSourceTable"
    schema = "preSourceTable_visit"

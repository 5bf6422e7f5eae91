"""The sources of all CCDs of a visit by the single-frame calibration."""

from __future__ import annotations

from typing import Any

from astropy.table import Table
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.visit_table import join_tables

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


class ConsolidatePreSourceTableTask(PipelineTask):
    """Join the source tables of the CCDs of a visit."""

    ConfigClass = ConsolidatePreSourceTableConfig
    _DefaultName = "consolidatePreSourceTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the tables, join them, write the result."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(self, inputCatalogs: list[Table], **_: Any) -> Struct:
        """Join the tables.

        Parameters
        ----------
        inputCatalogs : list of Table
            One for each CCD.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``, sorted by detector.
        """
        if not inputCatalogs:
            raise NoWorkFound("no CCD of this visit has a source table")
        return Struct(outputCatalog=join_tables(inputCatalogs, schema="preSourceTable_visit"))

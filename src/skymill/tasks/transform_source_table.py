"""The sources of one CCD by the joint calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
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

from skymill.calibrate.visit_table import calibrate_sources

__all__ = [
    "TransformSourceTableConfig",
    "TransformSourceTableConnections",
    "TransformSourceTableTask",
]

_CCD = ("instrument", "visit", "detector")


class TransformSourceTableConnections(PipelineTaskConnections, dimensions=_CCD):
    """Datasets of `TransformSourceTableTask`."""

    inputCatalog = cT.Input(
        doc="Sources in electrons.", name="src", storageClass="SkymillTable", dimensions=_CCD
    )
    visitSummary = cT.Input(
        doc="Final calibration.",
        name="finalVisitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )
    outputCatalog = cT.Output(
        doc="Sources in nJy.", name="sourceTable", storageClass="SkymillTable", dimensions=_CCD
    )


class TransformSourceTableConfig(
    PipelineTaskConfig, pipelineConnections=TransformSourceTableConnections
):
    """No options."""


class TransformSourceTableTask(PipelineTask):
    """Give the sources of a CCD their final positions and fluxes."""

    ConfigClass = TransformSourceTableConfig
    _DefaultName = "transformSourceTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the sources and the summary, write the table."""
        detector = int(butlerQC.quantum.dataId["detector"])
        butlerQC.put(self.run(detector=detector, **butlerQC.get(inputRefs)), outputRefs)

    def run(self, inputCatalog: Table, visitSummary: Table, detector: int, **_: Any) -> Struct:
        """Calibrate the sources.

        Parameters
        ----------
        inputCatalog : Table
            Sources in electrons.
        visitSummary : Table
            ``finalVisitSummary``.
        detector : int
            The CCD.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        rows = np.flatnonzero(np.asarray(visitSummary["detector"]) == detector)
        if rows.size == 0:
            raise NoWorkFound(f"detector {detector} has no final calibration")
        return Struct(outputCatalog=calibrate_sources(inputCatalog, visitSummary[rows[0]]))

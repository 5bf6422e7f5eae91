"""One row for each CCD of a visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

from skymill.calibrate.visit_table import make_visit_row, make_visit_summary

__all__ = [
    "ConsolidateVisitSummaryConfig",
    "ConsolidateVisitSummaryConnections",
    "ConsolidateVisitSummaryTask",
]

_PARTS = ("info", "wcs", "photo_calib", "summary", "aperture_correction")


class ConsolidateVisitSummaryConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit")
):
    """Datasets of `ConsolidateVisitSummaryTask`."""

    calexp = cT.Input(
        doc="The calibrated CCDs of the visit; their pixels are not read.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    visitSummary = cT.Output(
        doc="One row for each CCD.",
        name="visitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )


class ConsolidateVisitSummaryConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidateVisitSummaryConnections
):
    """No options."""


class ConsolidateVisitSummaryTask(PipelineTask):
    """Gather geometry, quality and calibration of the CCDs of a visit."""

    ConfigClass = ConsolidateVisitSummaryConfig
    _DefaultName = "consolidateVisitSummary"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read everything of the CCDs but their pixels."""
        handles = butlerQC.get(inputRefs.calexp)
        parts = [{name: h.get(component=name) for name in _PARTS} for h in handles]
        butlerQC.put(self.run(parts), outputRefs)

    def run(self, calexps: Sequence[Mapping[str, Any]]) -> Struct:
        """Make the table.

        Parameters
        ----------
        calexps : sequence of dict
            For each CCD its ``info``, ``wcs``, ``photo_calib``, ``summary`` and
            ``aperture_correction``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``visitSummary``.
        """
        if not calexps:
            raise NoWorkFound("no CCD of this visit was calibrated")
        rows = [
            make_visit_row(
                info=c["info"],
                shape=c["photo_calib"].shape,
                wcs=c["wcs"],
                photo_calib=c["photo_calib"],
                summary=c["summary"],
                aperture_correction=c["aperture_correction"],
            )
            for c in calexps
        ]
        return Struct(visitSummary=make_visit_summary(rows))

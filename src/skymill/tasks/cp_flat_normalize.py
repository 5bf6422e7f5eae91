"""Levels of many exposures and CCDs split into illumination and response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.detrend.combine import solve_flat_scales

__all__ = ["CpFlatNormalizeConfig", "CpFlatNormalizeConnections", "CpFlatNormalizeTask"]


class CpFlatNormalizeConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter")
):
    """Datasets of `CpFlatNormalizeTask`."""

    inputLevels = cT.Input(
        doc="Levels of all exposures and CCDs.",
        name="cpFlatLevel",
        storageClass="SkymillJson",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
    )
    outputScales = cT.Output(
        doc="Illumination of each exposure, response of each CCD.",
        name="cpFlatScales",
        storageClass="SkymillJson",
        dimensions=("instrument", "physical_filter"),
    )


class CpFlatNormalizeConfig(PipelineTaskConfig, pipelineConnections=CpFlatNormalizeConnections):
    """Options of `CpFlatNormalizeTask`: none."""


class CpFlatNormalizeTask(PipelineTask):
    """One scale for each exposure, common to the focal plane."""

    ConfigClass = CpFlatNormalizeConfig
    _DefaultName = "cpFlatNormalize"

    def run(self, inputLevels: Sequence[dict[str, Any]]) -> Struct:
        """Solve for the scales.

        Parameters
        ----------
        inputLevels : sequence of dict
            From `CpFlatMeasureTask`.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputScales`` : dict with ``exposure`` [electron] and ``detector`` by number (as
            strings), and ``rms`` of log(level) about their product.
        """
        levels = {(int(d["exposure"]), int(d["detector"])): float(d["level"]) for d in inputLevels}
        scales = solve_flat_scales(levels)
        self.log.info(
            "%d exposures, %d CCDs, rms of the levels %.4f",
            len(scales.exposure), len(scales.detector), scales.rms,
        )  # fmt: skip
        return Struct(
            outputScales={
                "exposure": {str(k): v for k, v in scales.exposure.items()},
                "detector": {str(k): v for k, v in scales.detector.items()},
                "rms": scales.rms,
            }
        )

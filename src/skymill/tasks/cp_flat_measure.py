"""The level of one CCD of one exposure."""

from __future__ import annotations

from lsst.pipe.base import PipelineTask, PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.pipe.base import connectionTypes as cT

from skymill.data.images import Exposure
from skymill.detrend.combine import robust_level

__all__ = ["CpFlatMeasureConfig", "CpFlatMeasureConnections", "CpFlatMeasureTask"]


class CpFlatMeasureConnections(
    PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")
):
    """Datasets of `CpFlatMeasureTask`."""

    inputExp = cT.Input(
        doc="Detrended frame [electron].",
        name="cpFlatProc",
        storageClass="SkymillExposure",
        dimensions=("instrument", "exposure", "detector"),
    )
    outputLevel = cT.Output(
        doc="Median level [electron].",
        name="cpFlatLevel",
        storageClass="SkymillJson",
        dimensions=("instrument", "exposure", "detector"),
    )


class CpFlatMeasureConfig(PipelineTaskConfig, pipelineConnections=CpFlatMeasureConnections):
    """Options of `CpFlatMeasureTask`: none."""


class CpFlatMeasureTask(PipelineTask):
    """Median of the usable pixels of one CCD of one exposure."""

    ConfigClass = CpFlatMeasureConfig
    _DefaultName = "cpFlatMeasure"

    def run(self, inputExp: Exposure) -> Struct:
        """Measure the level.

        Parameters
        ----------
        inputExp : Exposure
            The frame.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputLevel`` : dict with ``exposure``, ``detector``, ``level`` [electron].
        """
        info = inputExp.info
        level = robust_level(inputExp.planes)
        return Struct(
            outputLevel={"exposure": info.visit, "detector": info.detector, "level": level}
        )

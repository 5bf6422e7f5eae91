"""The level of one CCD of one exposure."""

from __future__ import annotations

from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.images import PixelPlanes
from skymill.detrend.combine import robust_level

__all__ = ["CpFlatMeasureConfig", "CpFlatMeasureConnections", "CpFlatMeasureTask"]


class CpFlatMeasureConnections(
    PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")
):
    """Datasets of `CpFlatMeasureTask`."""

    inputExp = cT.Input(
        doc="Detrended frame [electron].",
        name="cpFlatProc",
        storageClass="SkymillPlanes",
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

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Measure the frame under the numbers of its data ID."""
        data_id = butlerQC.quantum.dataId
        planes = butlerQC.get(inputRefs.inputExp)
        result = self.run(planes, int(data_id["exposure"]), int(data_id["detector"]))
        butlerQC.put(result, outputRefs)

    def run(self, inputExp: PixelPlanes, exposure: int, detector: int) -> Struct:
        """Measure the level.

        Parameters
        ----------
        inputExp : PixelPlanes
            The frame.
        exposure, detector : int
            Its numbers.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputLevel`` : dict with ``exposure``, ``detector``, ``level`` [electron].
        """
        level = robust_level(inputExp)
        return Struct(outputLevel={"exposure": exposure, "detector": detector, "level": level})

"""The fringe pattern of one CCD and filter."""

from __future__ import annotations

from collections.abc import Iterable

from lsst.pex.config import Field
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
from skymill.detrend.combine import CombineOptions, combine_fringe
from skymill.tasks._options import options_field, to_options

__all__ = ["CpFringeCombineConfig", "CpFringeCombineConnections", "CpFringeCombineTask"]


class CpFringeCombineConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """Datasets of `CpFringeCombineTask`."""

    inputExps = cT.Input(
        doc="Flat night frames with their sky and fringes.",
        name="cpFringeProc",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    outputData = cT.Output(
        doc="Fringe pattern as a fraction of the sky.",
        name="fringe",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
    )


class CpFringeCombineConfig(PipelineTaskConfig, pipelineConnections=CpFringeCombineConnections):
    """Options of `CpFringeCombineTask`."""

    width = Field(dtype=int, doc="Structure wider than this is sky [pixel].", default=256)
    combine = options_field(CombineOptions, "Clipping, memory, source mask.")


class CpFringeCombineTask(PipelineTask):
    """Clipped mean of dithered night frames without sources and without their smooth sky."""

    ConfigClass = CpFringeCombineConfig
    _DefaultName = "cpFringeCombine"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read one frame after the other."""
        handles = butlerQC.get(inputRefs)["inputExps"]
        frames = (h.get() for h in handles)
        butlerQC.put(self.run(frames, len(handles)), outputRefs)

    def run(self, inputExps: Iterable[PixelPlanes], nFrames: int) -> Struct:
        """Combine night frames.

        Parameters
        ----------
        inputExps : iterable of PixelPlanes [electron]
            The frames; consumed one by one.
        nFrames : int
            How many.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputData`` : PixelPlanes.
        """
        options = to_options(self.config.combine, CombineOptions)
        self.metadata["n_frames"] = nFrames
        fringe = combine_fringe(inputExps, nFrames, width=self.config.width, options=options)
        return Struct(outputData=fringe)

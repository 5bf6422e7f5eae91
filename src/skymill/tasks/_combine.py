"""What the combination of scaled frames of one CCD and filter has in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    QuantumContext,
    Struct,
)

from skymill.data.images import PixelPlanes
from skymill.detrend.combine import CombineOptions
from skymill.tasks._options import to_options

__all__ = ["ScaledCombineTask"]


class ScaledCombineTask(PipelineTask):
    """Combine frames that are scaled by the level of their exposure."""

    @staticmethod
    @abstractmethod
    def combine(
        frames: Iterable[PixelPlanes], scales: Sequence[float], *, options: CombineOptions
    ) -> PixelPlanes:
        """Combine frames.

        Parameters
        ----------
        frames : iterable of PixelPlanes [electron]
            The frames; consumed one by one.
        scales : sequence of float [electron]
            Level of the exposure of each frame.
        options : CombineOptions
            Clipping, memory, limits.

        Returns
        -------
        PixelPlanes
            The calibration.
        """

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read one frame after the other."""
        inputs = butlerQC.get(inputRefs)
        handles = inputs["inputExps"]
        by_exposure = inputs["inputScales"]["exposure"]
        scales = [by_exposure[str(h.dataId["exposure"])] for h in handles]
        frames = (h.get() for h in handles)
        butlerQC.put(self.run(frames, scales), outputRefs)

    def run(self, inputExps: Iterable[PixelPlanes], scales: Sequence[float]) -> Struct:
        """Combine frames.

        Parameters
        ----------
        inputExps : iterable of PixelPlanes [electron]
            The frames; consumed one by one.
        scales : sequence of float [electron]
            Level of the exposure of each frame.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputData`` : PixelPlanes.
        """
        options = to_options(self.config.combine, CombineOptions)
        self.metadata["n_frames"] = len(scales)
        return Struct(outputData=self.combine(inputExps, scales, options=options))

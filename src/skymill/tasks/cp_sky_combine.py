"""The combined sky frame of one CCD and filter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
from skymill.detrend.combine import CombineOptions, combine_sky
from skymill.tasks._options import options_field, to_options

__all__ = ["CpSkyCombineConfig", "CpSkyCombineConnections", "CpSkyCombineTask"]


class CpSkyCombineConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """Datasets of `CpSkyCombineTask`."""

    inputExps = cT.Input(
        doc="Detrended frames [electron].",
        name="cpSkyProc",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    inputScales = cT.Input(
        doc="Level of each exposure.",
        name="cpSkyScales",
        storageClass="SkymillJson",
        dimensions=("instrument", "physical_filter"),
    )
    outputData = cT.Output(
        doc="Sky relative to its level over the focal plane, in super-pixels.",
        name="sky",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
    )


class CpSkyCombineConfig(PipelineTaskConfig, pipelineConnections=CpSkyCombineConnections):
    """Options of `CpSkyCombineTask`."""

    combine = options_field(CombineOptions, "Clipping, memory, limits.")


class CpSkyCombineTask(PipelineTask):
    """Scaled night skies without their sources, binned, clipped mean."""

    ConfigClass = CpSkyCombineConfig
    _DefaultName = "cpSkyCombine"

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
        return Struct(outputData=combine_sky(inputExps, scales, options=options))

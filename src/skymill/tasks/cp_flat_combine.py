"""The combined flat of one CCD and filter."""

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
from skymill.detrend.combine import CombineOptions, combine_flat
from skymill.tasks._options import options_field, to_options

__all__ = ["CpFlatCombineConfig", "CpFlatCombineConnections", "CpFlatCombineTask"]


class CpFlatCombineConnections(
    PipelineTaskConnections, dimensions=("instrument", "physical_filter", "detector")
):
    """Datasets of `CpFlatCombineTask`."""

    inputExps = cT.Input(
        doc="Detrended frames [electron].",
        name="cpFlatProc",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    inputScales = cT.Input(
        doc="Level of each exposure.",
        name="cpFlatScales",
        storageClass="SkymillJson",
        dimensions=("instrument", "physical_filter"),
    )
    outputData = cT.Output(
        doc="Combined flat.",
        name="flat",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "physical_filter", "detector"),
        isCalibration=True,
    )


class CpFlatCombineConfig(PipelineTaskConfig, pipelineConnections=CpFlatCombineConnections):
    """Options of `CpFlatCombineTask`."""

    combine = options_field(CombineOptions, "Clipping, memory, limits.")


class CpFlatCombineTask(PipelineTask):
    """Scaled flats, clipped mean; the relative response of the CCDs is kept."""

    ConfigClass = CpFlatCombineConfig
    _DefaultName = "cpFlatCombine"

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
        return Struct(outputData=combine_flat(inputExps, scales, options=options))

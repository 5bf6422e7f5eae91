"""The combined bias of one CCD."""

from __future__ import annotations

from collections.abc import Iterable

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
from skymill.detrend.combine import CombineOptions, combine_bias
from skymill.tasks._options import options_field, to_options

__all__ = ["CpBiasCombineConfig", "CpBiasCombineConnections", "CpBiasCombineTask"]


class CpBiasCombineConnections(PipelineTaskConnections, dimensions=("instrument", "detector")):
    """Datasets of `CpBiasCombineTask`."""

    inputExps = cT.Input(
        doc="Overscan-subtracted zero frames.",
        name="cpBiasProc",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    outputData = cT.Output(
        doc="Combined bias [adu].",
        name="bias",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "detector"),
        isCalibration=True,
    )


class CpBiasCombineConfig(PipelineTaskConfig, pipelineConnections=CpBiasCombineConnections):
    """Options of `CpBiasCombineTask`."""

    combine = options_field(CombineOptions, "Clipping and memory.")


class CpBiasCombineTask(PipelineTask):
    """Clipped mean of the overscan-subtracted zero frames of one CCD."""

    ConfigClass = CpBiasCombineConfig
    _DefaultName = "cpBiasCombine"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read one frame after the other."""
        handles = butlerQC.get(inputRefs)["inputExps"]
        butlerQC.put(self.run((h.get() for h in handles), len(handles)), outputRefs)

    def run(self, inputExps: Iterable[PixelPlanes], nFrames: int) -> Struct:
        """Combine zero frames.

        Parameters
        ----------
        inputExps : iterable of PixelPlanes [adu]
            The frames; consumed one by one.
        nFrames : int
            How many.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputData`` : PixelPlanes [adu].
        """
        options = to_options(self.config.combine, CombineOptions)
        bias = combine_bias(inputExps, nFrames, options=options)
        self.metadata["n_frames"] = nFrames
        return Struct(outputData=bias)

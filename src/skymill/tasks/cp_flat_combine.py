"""The combined flat of one CCD and filter."""

from __future__ import annotations

from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from skymill.detrend.combine import CombineOptions, combine_flat
from skymill.tasks._combine import ScaledCombineTask
from skymill.tasks._options import options_field

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


class CpFlatCombineTask(ScaledCombineTask):
    """Scaled flats, clipped mean; the relative response of the CCDs is kept."""

    ConfigClass = CpFlatCombineConfig
    _DefaultName = "cpFlatCombine"
    combine = staticmethod(combine_flat)

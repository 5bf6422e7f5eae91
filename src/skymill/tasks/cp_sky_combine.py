"""The combined sky frame of one CCD and filter."""

from __future__ import annotations

from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections
from lsst.pipe.base import connectionTypes as cT

from skymill.detrend.combine import CombineOptions, combine_sky
from skymill.tasks._combine import ScaledCombineTask
from skymill.tasks._options import options_field

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


class CpSkyCombineTask(ScaledCombineTask):
    """Scaled night skies without their sources, binned, clipped mean."""

    ConfigClass = CpSkyCombineConfig
    _DefaultName = "cpSkyCombine"
    combine = staticmethod(combine_sky)

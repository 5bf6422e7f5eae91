"""Overscan-subtracted CCDs: what the other CCDs of a board see as crosstalk."""

from __future__ import annotations

from lsst.pex.config import ListField
from lsst.pipe.base import (
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantaAdjuster,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.images import PixelPlanes
from skymill.detrend.overscan import OverscanOptions, subtract_overscan, trimmed_planes
from skymill.instruments.raw import RawCcd
from skymill.tasks._observation_types import keep_observation_types
from skymill.tasks._options import options_field, to_options

__all__ = [
    "IsrForCrosstalkSourcesConfig",
    "IsrForCrosstalkSourcesConnections",
    "IsrForCrosstalkSourcesTask",
]


class IsrForCrosstalkSourcesConnections(
    PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")
):
    """Datasets of `IsrForCrosstalkSourcesTask`."""

    ccdExposure = cT.Input(
        doc="Raw frame.",
        name="raw",
        storageClass="SkymillRaw",
        dimensions=("instrument", "exposure", "detector"),
    )
    outputExposure = cT.Output(
        doc="Trimmed, overscan-subtracted pixels in ADU; SAT where saturated.",
        name="overscanRaw",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
    )

    def adjust_all_quanta(self, adjuster: QuantaAdjuster) -> None:
        """Drop exposures of other types."""
        keep_observation_types(adjuster, list(self.config.observationTypes))


class IsrForCrosstalkSourcesConfig(
    PipelineTaskConfig, pipelineConnections=IsrForCrosstalkSourcesConnections
):
    """Options of `IsrForCrosstalkSourcesTask`."""

    observationTypes = ListField(
        dtype=str, doc="Only exposures of these types; empty for all.", default=[]
    )
    overscan = options_field(OverscanOptions, "Level of the overscan.")


class IsrForCrosstalkSourcesTask(PipelineTask):
    """Subtract the overscan and trim, and nothing else."""

    ConfigClass = IsrForCrosstalkSourcesConfig
    _DefaultName = "isrForCrosstalkSources"

    def run(self, ccdExposure: RawCcd) -> Struct:
        """Subtract the overscan of one CCD.

        Parameters
        ----------
        ccdExposure : RawCcd
            The raw frame.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputExposure`` : PixelPlanes [adu].
        """
        options = to_options(self.config.overscan, OverscanOptions)
        frame = subtract_overscan(ccdExposure.image, ccdExposure.amplifiers, options=options)
        planes: PixelPlanes = trimmed_planes(frame, ccdExposure.amplifiers)
        return Struct(outputExposure=planes)

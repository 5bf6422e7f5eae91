"""DECam as an Instrument of the Rubin middleware."""

from __future__ import annotations

from typing import Any

from lsst.daf.butler import Registry
from lsst.pipe.base import Instrument
from lsst.utils.introspection import get_full_type_name

from skymill.instruments.camera import Camera
from skymill.instruments.decam.facts import CAMERA_NAME, FILTERS, get_camera

__all__ = ["DarkEnergyCamera"]

# A visit number and a CCD number fit into one integer that people can read.
_DETECTOR_MAX = 100
_VISIT_MAX = 2**25


class DarkEnergyCamera(Instrument):
    """The Dark Energy Camera: 62 CCDs at the prime focus of the Blanco telescope."""

    @classmethod
    def getName(cls) -> str:
        """Name in data IDs."""
        return CAMERA_NAME

    def getCamera(self) -> Camera:
        """The camera's geometry and amplifiers."""
        return get_camera()

    def getRawFormatter(self, dataId: Any) -> Any:
        """The reader of raw files."""
        from skymill.instruments.decam.formatters import DecamRawFormatter

        return DecamRawFormatter

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Insert the instrument, its CCDs and its filters; what is there already stays."""
        with registry.transaction():
            registry.syncDimensionData(
                "instrument",
                {
                    "name": CAMERA_NAME,
                    "detector_max": _DETECTOR_MAX,
                    "visit_max": _VISIT_MAX,
                    "exposure_max": _VISIT_MAX,
                    "class_name": get_full_type_name(self),
                },
                update=update,
            )
            for ccd in get_camera():
                registry.syncDimensionData(
                    "detector",
                    {
                        "instrument": CAMERA_NAME,
                        "id": ccd.id,
                        "full_name": ccd.name,
                        "name_in_raft": ccd.name[1:],
                        "raft": ccd.name[0],
                        "purpose": "SCIENCE",
                    },
                    update=update,
                )
            for entry in FILTERS:
                registry.syncDimensionData(
                    "physical_filter",
                    {"instrument": CAMERA_NAME, "name": entry.name, "band": entry.band},
                    update=update,
                )

"""The cameras that skymill knows, by the name of their instrument."""

from __future__ import annotations

from skymill.instruments.camera import Camera
from skymill.instruments.decam import facts as decam

__all__ = ["find_camera"]


def find_camera(instrument: str) -> Camera | None:
    """The camera of an instrument.

    Parameters
    ----------
    instrument : str
        Name, as in the Butler.

    Returns
    -------
    Camera or None
        The camera; None if skymill does not know it.
    """
    return decam.get_camera() if instrument == decam.CAMERA_NAME else None

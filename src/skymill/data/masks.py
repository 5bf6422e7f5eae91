"""Mask planes: one bit each, the same for every image of skymill. Append only.

A mask is an (ny, nx) int32 array; bit ``i`` is plane ``i`` of `MaskPlane`.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLANE_DOC", "UNUSABLE", "MaskPlane", "is_set"]


class MaskPlane(enum.IntFlag):
    """Names and bits of the mask planes."""

    BAD = 1 << 0
    SAT = 1 << 1
    INTRP = 1 << 2
    CR = 1 << 3
    EDGE = 1 << 4
    DETECTED = 1 << 5
    DETECTED_NEGATIVE = 1 << 6
    SUSPECT = 1 << 7
    NO_DATA = 1 << 8
    CROSSTALK = 1 << 9
    CLIPPED = 1 << 10
    REJECTED = 1 << 11
    SENSOR_EDGE = 1 << 12
    INEXACT_PSF = 1 << 13
    UNMASKEDNAN = 1 << 14
    STREAK = 1 << 15
    BRIGHT_OBJECT = 1 << 16
    FLAT_LOW = 1 << 17


#: What each plane means; written into the FITS headers and into docs/conventions.md.
PLANE_DOC: dict[str, str] = {
    "BAD": "defect of the detector: hot, dead or trapped pixels and columns",
    "SAT": "saturated, or reached by the bleed trail of a saturated pixel",
    "INTRP": "value replaced by interpolation over masked neighbours",
    "CR": "hit by a cosmic ray",
    "EDGE": "too near to the edge of the image for the detection kernel",
    "DETECTED": "inside the footprint of a detected source",
    "DETECTED_NEGATIVE": "inside the footprint of a negative detection",
    "SUSPECT": "above the linear range, or in the glowing edge of the detector",
    "NO_DATA": "no input image covers the pixel",
    "CROSSTALK": "contaminated by the crosstalk of a bright source by more than its correction",
    "CLIPPED": "an input was rejected as a transient artifact when stacking",
    "REJECTED": "an input was masked when stacking",
    "SENSOR_EDGE": "an input ends within this pixel's PSF",
    "INEXACT_PSF": "the PSF model of the stack is not exact here",
    "UNMASKEDNAN": "not a number before masking",
    "STREAK": "trail of a satellite or an aeroplane",
    "BRIGHT_OBJECT": "inside the halo of a bright star of the reference catalogue",
    "FLAT_LOW": "sensitivity below the limit of the flat field",
}

#: Pixels that no measurement may use.
UNUSABLE = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.CR
    | MaskPlane.NO_DATA
    | MaskPlane.UNMASKEDNAN
    | MaskPlane.STREAK
)


def is_set(mask: NDArray[np.int32], planes: MaskPlane) -> NDArray[np.bool_]:
    """Where any of the planes is set.

    Parameters
    ----------
    mask : (ny, nx) int32
        Mask bits.
    planes : MaskPlane
        One plane or several, joined with ``|``.

    Returns
    -------
    (ny, nx) bool
        True where at least one of the planes is set.
    """
    return (mask & np.int32(int(planes))) != 0

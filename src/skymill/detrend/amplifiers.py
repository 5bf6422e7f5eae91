"""What the detrending asks of an amplifier: sections, gain, noise; any camera can provide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.images import Box

__all__ = ["Amplifier", "AmplifierSections", "corner_sides", "pack_sections", "trimmed_shape"]

_CORNERS = {
    0: (False, False), 1: (True, False), 2: (True, True), 3: (False, True),
    "LL": (False, False), "LR": (True, False), "UR": (True, True), "UL": (False, True),
}  # fmt: skip


class Amplifier(Protocol):
    """One amplifier of a raw CCD frame.

    ``data_box`` and ``overscan_box`` are in raw pixels, ``box`` is the place of the data in the
    trimmed image. ``gain`` is in electron/ADU, ``read_noise`` in electron, ``saturation`` in raw
    ADU. ``readout_corner`` is LL, LR, UR or UL (or 0, 1, 2, 3): where the amplifier sits.
    """

    @property
    def name(self) -> str:
        """Name within the CCD."""
        ...

    @property
    def data_box(self) -> Box:
        """Data section [raw pixel]."""
        ...

    @property
    def overscan_box(self) -> Box:
        """Serial overscan [raw pixel]."""
        ...

    @property
    def box(self) -> Box:
        """Place of the data in the trimmed image [pixel]."""
        ...

    @property
    def gain(self) -> float:
        """Gain [electron/adu]."""
        ...

    @property
    def read_noise(self) -> float:
        """Read noise [electron]."""
        ...

    @property
    def saturation(self) -> float:
        """Raw value from which on a pixel is saturated [adu]."""
        ...

    @property
    def readout_corner(self) -> int | str:
        """Corner of the CCD where it reads out."""
        ...


@dataclass(frozen=True, kw_only=True)
class AmplifierSections:
    """The plainest `Amplifier`: values without behaviour.

    Parameters
    ----------
    name : str
        Name within the CCD.
    data_box, overscan_box : Box
        Sections in raw pixels.
    box : Box
        Where the data section lies in the trimmed image.
    gain : float [electron/adu]
        Gain.
    read_noise : float [electron]
        Read noise.
    saturation : float [adu]
        Raw value from which on a pixel is saturated.
    readout_corner : str
        LL, LR, UR or UL.
    """

    name: str
    data_box: Box
    overscan_box: Box
    box: Box
    gain: float
    read_noise: float
    saturation: float = 65535.0
    readout_corner: int | str = "LL"


def corner_sides(corner: int | str) -> tuple[bool, bool]:
    """Whether an amplifier sits at the right (large x) and at the upper (large y) side.

    Parameters
    ----------
    corner : int or str
        LL, LR, UR, UL or 0, 1, 2, 3.

    Returns
    -------
    right, upper : bool
        The sides.

    Raises
    ------
    DataError
        For any other value.
    """
    value = getattr(corner, "value", corner)
    if isinstance(value, np.integer):
        value = int(value)
    if value not in _CORNERS:
        raise DataError(f"readout corner must be one of LL, LR, UR, UL or 0 to 3; got {corner!r}")
    return _CORNERS[value]


def trimmed_shape(amplifiers: Sequence[Amplifier]) -> tuple[int, int]:
    """Shape of the image without overscan.

    Parameters
    ----------
    amplifiers : sequence of Amplifier
        All amplifiers of one CCD.

    Returns
    -------
    ny, nx : int
        Smallest shape that holds all amplifiers.
    """
    return max(a.box.y1 for a in amplifiers), max(a.box.x1 for a in amplifiers)


def pack_sections(amplifiers: Sequence[Amplifier], raw_shape: tuple[int, int]) -> NDArray[np.int64]:
    """The sections of all amplifiers as one array, checked against the raw frame.

    Parameters
    ----------
    amplifiers : sequence of Amplifier
        All amplifiers of one CCD.
    raw_shape : (ny, nx)
        Shape of the raw frame.

    Returns
    -------
    (n_amplifier, 12) int64
        Data box, overscan box and trimmed box, each x0, y0, x1, y1.

    Raises
    ------
    DataError
        If a section leaves the frame, or the overscan does not span the rows of the data.
    """
    if not amplifiers:
        raise DataError("the CCD has no amplifier; at least one is needed")
    frame = Box(x0=0, y0=0, x1=raw_shape[1], y1=raw_shape[0])
    out = np.empty((len(amplifiers), 12), np.int64)
    for i, amp in enumerate(amplifiers):
        for word, box in (("data", amp.data_box), ("overscan", amp.overscan_box)):
            if box.is_empty or box.intersection(frame) != box:
                raise DataError(
                    f"amplifier {amp.name}: the {word} section x {box.x0}:{box.x1}, "
                    f"y {box.y0}:{box.y1} is not inside of the raw frame of {raw_shape[1]} x "
                    f"{raw_shape[0]} pixels; is the frame truncated or of another camera?"
                )
        if amp.data_box.shape != amp.box.shape:
            raise DataError(
                f"amplifier {amp.name}: data section {amp.data_box.shape} and trimmed section "
                f"{amp.box.shape} differ in shape"
            )
        if (amp.overscan_box.y0, amp.overscan_box.y1) != (amp.data_box.y0, amp.data_box.y1):
            raise DataError(
                f"amplifier {amp.name}: the overscan spans rows {amp.overscan_box.y0}:"
                f"{amp.overscan_box.y1}, the data rows {amp.data_box.y0}:{amp.data_box.y1}; "
                "they must be the same rows"
            )
        for j, box in enumerate((amp.data_box, amp.overscan_box, amp.box)):
            out[i, 4 * j : 4 * j + 4] = box.x0, box.y0, box.x1, box.y1
    return out

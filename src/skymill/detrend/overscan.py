"""Overscan: the level and the noise of each amplifier, row by row, and the trimmed image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.options import check_choice, option
from skymill.detrend._isr_kernels import row_levels, trim_amplifier
from skymill.detrend.amplifiers import Amplifier, pack_sections, trimmed_shape

__all__ = ["OverscanOptions", "TrimmedFrame", "subtract_overscan", "trimmed_planes"]


@dataclass(frozen=True, kw_only=True)
class OverscanOptions:
    """How the overscan level of a row is found."""

    fit_type: str = option("MEDIAN_PER_ROW", "MEDIAN_PER_ROW, MEAN_PER_ROW (3 sigma clipped)")

    def __post_init__(self) -> None:
        check_choice(self, "fit_type", ("MEDIAN_PER_ROW", "MEAN_PER_ROW"))


@dataclass(frozen=True)
class TrimmedFrame:
    """A CCD without overscan, still in ADU.

    Parameters
    ----------
    image : (ny, nx) float32 [adu]
        Overscan-subtracted pixels.
    mask : (ny, nx) int32
        SAT where the raw value reached the saturation of its amplifier.
    levels : (n_amplifier, n_row) float64 [adu]
        Overscan level of each row.
    read_noise : (n_amplifier,) float64 [adu]
        Noise measured in the overscan, digitisation included; 0 if it could not be measured.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.int32]
    levels: NDArray[np.float64]
    read_noise: NDArray[np.float64]


def subtract_overscan(
    pixels: NDArray[np.generic],
    amplifiers: Sequence[Amplifier],
    *,
    options: OverscanOptions | None = None,
) -> TrimmedFrame:
    """Subtract the overscan of each row and cut the data sections out.

    Parameters
    ----------
    pixels : (ny_raw, nx_raw) integer or float [adu]
        The raw frame.
    amplifiers : sequence of Amplifier
        Sections, saturation.
    options : OverscanOptions, optional
        How the level is found.

    Returns
    -------
    TrimmedFrame
        Trimmed image, mask, levels and read noise.

    Raises
    ------
    DataError
        If the frame is not two-dimensional or a section leaves it.

    Notes
    -----
    The median of integers is spread over its unit interval (grouped median), so that the level is
    not itself digitised. The read noise is the deviation from the mean of the row, pixels beyond
    5 sigma left out.
    """
    options = options or OverscanOptions()
    if pixels.ndim != 2:
        raise DataError(f"a raw frame has 2 axes; got {pixels.ndim}")
    sections = pack_sections(amplifiers, (pixels.shape[0], pixels.shape[1]))
    raw = np.ascontiguousarray(pixels)
    is_integer = np.issubdtype(raw.dtype, np.integer)
    if raw.dtype.newbyteorder("=") != np.uint16:
        raw = raw.astype(np.float32)
    elif not raw.dtype.isnative:
        raw = raw.astype(np.uint16)
    shape = trimmed_shape(amplifiers)
    image, mask = np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    n_rows = int((sections[:, 3] - sections[:, 1]).max())
    levels = np.zeros((len(amplifiers), n_rows))
    noise = np.zeros(len(amplifiers))
    use_mean = options.fit_type == "MEAN_PER_ROW"
    for i, amp in enumerate(amplifiers):
        sums = np.zeros(2)
        x0, y0, x1, y1 = sections[i, 4:8]
        row_levels(raw, x0, x1, y0, y1, use_mean, is_integer, levels[i], sums)
        noise[i] = np.sqrt(sums[0] / sums[1]) if sums[1] > 0 else 0.0
        bit = np.int32(int(MaskPlane.SAT))
        trim_amplifier(raw, sections[i], levels[i], np.float64(amp.saturation), bit, image, mask)
    return TrimmedFrame(image=image, mask=mask, levels=levels, read_noise=noise)


def trimmed_planes(frame: TrimmedFrame, amplifiers: Sequence[Amplifier]) -> PixelPlanes:
    """A trimmed frame as planes, with the read noise as variance.

    Parameters
    ----------
    frame : TrimmedFrame
        From `subtract_overscan`.
    amplifiers : sequence of Amplifier
        The same amplifiers.

    Returns
    -------
    PixelPlanes
        Image and mask of the frame; variance is the square of the read noise [adu2].
    """
    variance = np.zeros(frame.image.shape, np.float32)
    for amp, measured in zip(amplifiers, frame.read_noise, strict=True):
        noise = measured if measured > 0 else amp.read_noise / amp.gain
        variance[amp.box.y0 : amp.box.y1, amp.box.x0 : amp.box.x1] = noise**2
    return PixelPlanes(frame.image, variance, frame.mask, unit="adu")

"""Blurring and growing of pixels, for detection and the comparison of exposures."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skymill.release.brick._filter_kernels import blur, grow

__all__ = ["blurred", "grow_mask"]

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: A Gaussian ends at this many sigma.
_TRUNCATE = 4.0

_NO_LEVEL = np.empty((0, 0), np.float32)


def blurred(
    image: Float32Array, good: BoolArray, sigma: float
) -> tuple[Float32Array, Float32Array]:
    """Convolve with a Gaussian; masked pixels and those beyond the edge are nothing.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels.
    good : (ny, nx) bool
        Those that count.
    sigma : float [pixel]
        Width of the Gaussian.

    Returns
    -------
    image, share : (ny, nx) float32
        The blurred image, and the part of the Gaussian on good pixels.
    """
    reach = max(1, int(_TRUNCATE * sigma + 0.5))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    out, share = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    blur(np.ascontiguousarray(image, np.float32), np.ascontiguousarray(good), taps, out, share)
    return out, share


def grow_mask(
    mask: BoolArray, reach: int, level: Float32Array | None = None, threshold: float = -math.inf
) -> None:
    """Grow a mask in place, step by step to the four sides.

    Parameters
    ----------
    mask : (ny, nx) bool
        The mask.
    reach : int [pixel]
        Steps.
    level : (ny, nx) float32, optional
        Only pixels with a level above the threshold are added.
    threshold : float
        See ``level``.
    """
    if mask.any():
        grow(mask, reach, _NO_LEVEL if level is None else level, threshold)

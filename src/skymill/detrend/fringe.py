"""Fringes of the night sky in the red: fit the amplitude of a pattern and subtract it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma

__all__ = ["FringeOptions", "fit_fringe_amplitude", "subtract_fringe"]

_UNUSED = UNUSABLE | MaskPlane.DETECTED | MaskPlane.INTRP | MaskPlane.FLAT_LOW


@dataclass(frozen=True, kw_only=True)
class FringeOptions:
    """The fit of the fringe amplitude."""

    bin_size: int = option(8, "pixels are averaged to bins of this width", unit="pixel")
    filter_size: int = option(256, "structure wider than this is sky, not fringe", unit="pixel")
    clip: float = option(3.0, "bins beyond this many sigma of the fit are left out")
    iterations: int = option(6, "most rounds of clipping")

    def __post_init__(self) -> None:
        check_range(self, "bin_size", low=1, high=64)
        check_range(self, "filter_size", low=16)
        check_range(self, "clip", low=1.0)
        check_range(self, "iterations", low=1, high=100)


def bin_mean(
    image: NDArray[np.float32], usable: NDArray[np.bool_], size: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean of the usable pixels of each square bin.

    The mean, not the median: the median of a pattern with noise is not that of the pattern alone.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels.
    usable : (ny, nx) bool
        Pixels to use.
    size : int [pixel]
        Width of a bin; incomplete bins at the upper edges are dropped.

    Returns
    -------
    values : (ny // size, nx // size) float64
        Means; 0 where not valid.
    valid : (ny // size, nx // size) bool
        Bins with at least half of their pixels.
    """
    ny, nx = image.shape[0] // size, image.shape[1] // size
    filled = np.where(usable, image, np.float32(0.0))[: ny * size, : nx * size]
    good = usable[: ny * size, : nx * size]
    count = good.reshape(ny, size, nx, size).sum(axis=(1, 3))
    total = filled.reshape(ny, size, nx, size).sum(axis=(1, 3), dtype=np.float64)
    valid = 2 * count >= size * size
    return np.where(valid, total / np.maximum(count, 1), 0.0), valid


def remove_smooth(
    values: NDArray[np.float64], valid: NDArray[np.bool_], width: int
) -> NDArray[np.float64]:
    """Subtract the mean over a square window of valid bins.

    Parameters
    ----------
    values : (ny, nx) float64
        Binned image.
    valid : (ny, nx) bool
        Bins that count.
    width : int [bin]
        Width of the window.

    Returns
    -------
    (ny, nx) float64
        High-pass filtered values; 0 where not valid.
    """
    weight = ndimage.uniform_filter(valid.astype(np.float64), width, mode="nearest")
    mean = ndimage.uniform_filter(np.where(valid, values, 0.0), width, mode="nearest")
    return np.where(valid, values - mean / np.maximum(weight, 1e-6), 0.0)


def fit_fringe_amplitude(
    planes: PixelPlanes, fringe: PixelPlanes, *, options: FringeOptions | None = None
) -> tuple[float, float]:
    """Amplitude of a fringe pattern in an image.

    Parameters
    ----------
    planes : PixelPlanes
        Flat electrons with their sky; masked pixels and pixels in DETECTED are left out.
    fringe : PixelPlanes
        Pattern.
    options : FringeOptions, optional
        The fit.

    Returns
    -------
    amplitude, error : float [unit of the image per unit of the pattern]
        Clipped least squares of the two high-passed, binned images; 0 and infinity where the
        pattern has no structure or too few bins are left.
    """
    options = options or FringeOptions()
    usable = (planes.mask & np.int32(int(_UNUSED))) == 0
    usable &= (fringe.mask & np.int32(int(UNUSABLE))) == 0
    data, valid = bin_mean(planes.image, usable, options.bin_size)
    pattern, _ = bin_mean(fringe.image, usable, options.bin_size)
    width = max(options.filter_size // options.bin_size, 3) | 1
    use, amplitude, sigma = valid.copy(), 0.0, np.inf
    for _ in range(options.iterations):
        d, p = remove_smooth(data, use, width), remove_smooth(pattern, use, width)
        power = float(np.sum(p[use] ** 2))
        n = int(np.count_nonzero(use))
        if n < 30 or power <= 1e-12 * n:
            return 0.0, np.inf
        amplitude = float(np.sum(d[use] * p[use])) / power
        residual = d - amplitude * p
        scatter = robust_sigma(residual[use], centre=0.0)
        sigma = scatter / np.sqrt(power)
        keep = use & (np.abs(residual) <= options.clip * max(scatter, 1e-12))
        if np.array_equal(keep, use):
            break
        use = keep
    return amplitude, sigma


def subtract_fringe(
    planes: PixelPlanes, fringe: PixelPlanes, *, options: FringeOptions | None = None
) -> float:
    """Fit the amplitude of a fringe pattern and subtract it in place.

    Parameters
    ----------
    planes : PixelPlanes
        Flat electrons with their sky; the image changes.
    fringe : PixelPlanes
        Pattern per unit of sky; BAD pixels subtract nothing.
    options : FringeOptions, optional
        The fit.

    Returns
    -------
    float
        Amplitude [electron per unit of the pattern], that is the part of the sky that fringes.
    """
    amplitude, error = fit_fringe_amplitude(planes, fringe, options=options)
    if not np.isfinite(error):
        return 0.0
    good = (fringe.mask & np.int32(int(UNUSABLE))) == 0
    planes.image -= np.where(good, np.float32(amplitude) * fringe.image, np.float32(0.0))
    return amplitude

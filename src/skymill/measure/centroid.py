"""Centroids under a Gaussian window of the PSF's width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.options import check_range, option
from skymill.measure._centroid_kernels import windowed_centroids
from skymill.measure.pixels import (
    REPAIRED,
    UNUSABLE_BITS,
    check_planes,
    check_positions,
    clean_image,
)

__all__ = ["CentroidOptions", "Centroids", "centroids"]


@dataclass(frozen=True, kw_only=True)
class CentroidOptions:
    """How the window is moved."""

    max_iterations: int = option(30, "steps after which the iteration is given up")
    tolerance: float = option(1e-4, "step at which it has converged", unit="pixel")
    max_shift: float = option(3.0, "distance from the peak that is believed", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "max_iterations", low=1)
        check_range(self, "tolerance", low=0.0, low_open=True)
        check_range(self, "max_shift", low=0.0, low_open=True)


@dataclass
class Centroids:
    """Centroids of n sources.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Centroid; the starting position where ``flags`` says that it failed.
    x_err, y_err : (n,) float64 [pixel]
        Standard deviations; NaN where it failed.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_err: NDArray[np.float64]
    y_err: NDArray[np.float64]
    flags: NDArray[np.uint32]


def centroids(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: ArrayLike,
    y: ArrayLike,
    sigma: ArrayLike,
    options: CentroidOptions = CentroidOptions(),
) -> Centroids:
    """Centroids of many sources.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits; unusable pixels have no weight.
    x, y : (n,) float64 [pixel]
        Peaks.
    sigma : float or (n,) float64 [pixel]
        Width of the window: that of the PSF is optimal for stars.
    options : CentroidOptions
        Iteration.

    Returns
    -------
    Centroids
        Fixed points of ``x += 2 sum(w I dx)/sum(w I)``.

    References
    ----------
    Bertin, SExtractor manual, XWIN_IMAGE.
    """
    image, variance, mask = check_planes(image, variance, mask)
    clean, mask = clean_image(image, mask)
    x_, y_ = check_positions(x, y)
    sigma_ = np.ascontiguousarray(np.broadcast_to(np.asarray(sigma, np.float64), x_.shape))
    n = x_.size
    out = Centroids(np.empty(n), np.empty(n), np.empty(n), np.empty(n), np.zeros(n, np.uint32))
    known = np.isfinite(variance) & (variance > 0)
    windowed_centroids(
        clean,
        variance if known.all() else np.where(known, variance, np.float32(0.0)),
        mask,
        UNUSABLE_BITS,
        REPAIRED,
        x_,
        y_,
        sigma_,
        options.max_iterations,
        options.tolerance,
        options.max_shift,
        out.x,
        out.y,
        out.x_err,
        out.y_err,
        out.flags,
    )
    return out

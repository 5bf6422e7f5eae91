"""The brighter-fatter effect: charge that is there already pushes later charge away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from skymill.data.errors import DataError, NoDataError
from skymill.data.masks import MaskPlane, is_set
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.detrend._brighter_fatter_kernels import add_divergence, convolve_small, lag_sums

__all__ = [
    "BrighterFatterOptions",
    "correct_brighter_fatter",
    "flat_pair_covariance",
    "kernel_from_covariance",
]

_WINDOW = 513  # Width [pixel] of the mean that is subtracted from the difference of two flats.


@dataclass(frozen=True, kw_only=True)
class BrighterFatterOptions:
    """The iteration of the brighter-fatter correction."""

    max_iterations: int = option(10, "most iterations")
    threshold: float = option(
        0.1, "stop when the largest change of a pixel is below", unit="electron"
    )

    def __post_init__(self) -> None:
        check_range(self, "max_iterations", low=1, high=100)
        check_range(self, "threshold", low=0.0, low_open=True)


def _symmetric(kernel: NDArray[np.floating]) -> NDArray[np.float32]:
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise DataError(f"a brighter-fatter kernel is square and odd; got shape {kernel.shape}")
    if not np.all(np.isfinite(kernel)):
        raise DataError("the brighter-fatter kernel has values that are not finite")
    even = (kernel + kernel[::-1] + kernel[:, ::-1] + kernel[::-1, ::-1]) / 4.0
    return np.ascontiguousarray(even, dtype=np.float32)


def correct_brighter_fatter(
    image: NDArray[np.float32],
    kernel: NDArray[np.floating],
    *,
    mask: NDArray[np.int32] | None = None,
    options: BrighterFatterOptions | None = None,
) -> int:
    """Put the displaced charge back, in place.

    Parameters
    ----------
    image : (ny, nx) float32 [electron]
        Before the division by the flat; with its sky.
    kernel : (n, n) float [1/electron]
        Potential of one electron, negative at its centre (Coulton's sign); odd n. Reflections of
        it are averaged.
    mask : (ny, nx) int32, optional
        BAD, SAT and not-a-number pixels displace nothing: their value is replaced by the median
        for the potential and they do not change.
    options : BrighterFatterOptions, optional
        Iteration.

    Returns
    -------
    int
        Number of iterations.

    Raises
    ------
    DataError
        If the kernel is not square, odd and finite.

    Notes
    -----
    The true image solves ``T = F + div(T grad(K * T)) / 2`` with the measured F. The divergence
    is taken of the flux through the borders of the pixels, so that the sum of the image is
    conserved exactly (up to rounding). Only the change since the last iteration is convolved.

    References
    ----------
    Coulton, Armstrong, Smith, Lupton & Spergel 2018, AJ 155, 258, equation 22.
    """
    options, small = options or BrighterFatterOptions(), _symmetric(kernel)
    bad = ~np.isfinite(image)
    if mask is not None:
        bad |= is_set(mask, MaskPlane.BAD | MaskPlane.SAT | MaskPlane.UNMASKEDNAN)
    measured = image.copy()
    if bad.any():
        measured[bad] = np.median(image[~bad][::17]) if not bad.all() else 0.0
    current, potential = measured.copy(), np.empty_like(measured)
    step, correction = np.empty_like(measured), np.empty_like(measured)
    convolve_small(current, small, potential)
    iterations = 0
    while iterations < options.max_iterations:
        iterations += 1
        add_divergence(current, potential, correction)
        np.add(measured, correction, out=correction)
        np.subtract(correction, current, out=step)
        current[:] = correction
        change = max(float(step.max()), -float(step.min()))
        if change < options.threshold:
            break
        convolve_small(step, small, correction)
        potential += correction
    current[bad] = image[bad]
    image[:] = current
    return iterations


def flat_pair_covariance(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    usable: NDArray[np.bool_],
    max_lag: int = 8,
    clip: float = 5.0,
) -> tuple[float, NDArray[np.float64]]:
    """Covariance of the pixels of a flat, from the difference of two of the same level.

    Parameters
    ----------
    first, second : (ny, nx) float32 [electron]
        Two flats before the division by the flat field; levels may differ by a few per cent.
    usable : (ny, nx) bool
        Pixels to use.
    max_lag : int [pixel]
        Largest separation.
    clip : float [sigma]
        Pixels of the difference beyond this are left out.

    Returns
    -------
    mean : float [electron]
        Mean level of the two.
    covariance : (max_lag + 1, max_lag + 1) float64 [electron2]
        ``[lag_y, lag_x]`` of *one* flat (half of the difference's); the two signs of the lag are
        averaged.

    Raises
    ------
    NoDataError
        If no pixel is usable.
    """
    good = usable & np.isfinite(first) & np.isfinite(second)
    if np.count_nonzero(good) < 1000:
        raise NoDataError("a flat pair has fewer than 1000 usable pixels")
    mean1, mean2 = float(np.mean(first[good])), float(np.mean(second[good]))
    mean = 0.5 * (mean1 + mean2)
    difference = (first * (mean / mean1) - second * (mean / mean2)).astype(np.float64)
    # What is left of the illumination is smooth: the mean of a wide window takes it away.
    difference -= _window_mean(difference, good)
    sigma = robust_sigma(difference[good], centre=0.0)
    # The clipped tail beyond 5 sigma holds 1.5e-5 of the variance of a Gaussian.
    good &= np.abs(difference) <= clip * sigma
    shape = max_lag + 1, max_lag + 1
    products, counts = np.empty(shape), np.empty(shape, np.int64)
    used = good.astype(np.uint8)
    lag_sums(np.where(good, difference, 0.0).astype(np.float32), used, products, counts)
    covariance = products / np.maximum(counts, 1)
    # The mean of a window of n pixels, subtracted, takes var / n from every covariance.
    return mean, 0.5 * (
        covariance + covariance[0, 0] / min(_WINDOW**2, int(np.count_nonzero(good)))
    )


def _window_mean(values: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean of the good pixels in a square window around each pixel."""
    weight = ndimage.uniform_filter(good.astype(np.float64), _WINDOW, mode="constant")
    total = ndimage.uniform_filter(np.where(good, values, 0.0), _WINDOW, mode="constant")
    return np.asarray(total / np.maximum(weight, 1e-6))


def kernel_from_covariance(
    means: Sequence[float], covariances: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """The kernel whose Laplacian gives the covariances of flats.

    Parameters
    ----------
    means : (n,) float [electron]
        Levels of the flats.
    covariances : (n, k + 1, k + 1) float64 [electron2]
        From `flat_pair_covariance`.

    Returns
    -------
    (2 k + 1, 2 k + 1) float64 [1/electron]
        The kernel of `correct_brighter_fatter`: negative at the centre.

    Raises
    ------
    NoDataError
        If there is no pair.

    Notes
    -----
    ``laplacian(K) = -C(lag) / mean**2`` for lag > 0 (averaged with the weights mean**2, that is
    the noise of C). The value at lag 0 follows from charge conservation: the sum of the Laplacian
    over all lags is zero. K vanishes beyond the border of the grid.
    """
    if len(means) == 0:
        raise NoDataError("no flat pair to measure the brighter-fatter kernel from")
    # C / mean^2 has the standard deviation 1 / (mean sqrt(n_pixel)): weights are mean^2.
    total = sum(float(m) ** 2 for m in means)
    quadrant = np.sum([np.asarray(c) for c in covariances], axis=0) / total
    k = quadrant.shape[0] - 1
    lags = np.abs(np.arange(-k, k + 1))
    source = -quadrant[np.ix_(lags, lags)]
    source[k, k] = 0.0
    source[k, k] = -source.sum()
    return solve_poisson(source)


def solve_poisson(source: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve the five-point Laplace equation with zero beyond the border.

    Parameters
    ----------
    source : (n, n) float64
        Laplacian.

    Returns
    -------
    (n, n) float64
        Potential.
    """
    n = source.shape[0]
    one = sparse.diags_array([1.0, -2.0, 1.0], offsets=[-1, 0, 1], shape=(n, n))
    eye = sparse.eye_array(n)
    laplacian = sparse.kron(one, eye) + sparse.kron(eye, one)
    return np.asarray(spsolve(laplacian.tocsc(), source.ravel())).reshape(n, n)

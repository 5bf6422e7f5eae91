"""Adaptive moments: centroid and shape with a Gaussian weight matched to the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.flags import MeasureFlag
from skymill.data.options import check_range, option
from skymill.measure import _moments_kernels as kernels
from skymill.measure.pixels import (
    REPAIRED,
    SATURATED,
    UNUSABLE_BITS,
    check_planes,
    check_positions,
    clean_image,
)

__all__ = ["Moments", "MomentsOptions", "adaptive_moments", "adaptive_moments_stamps"]

Float64Array = NDArray[np.float64]

#: Flags after which the moments have no value.
FAILED = (
    MeasureFlag.NOT_CONVERGED
    | MeasureFlag.BAD_MOMENTS
    | MeasureFlag.NEGATIVE_FLUX
    | MeasureFlag.NO_DATA
    | MeasureFlag.CENTROID_SHIFTED
)


@dataclass(frozen=True, kw_only=True)
class MomentsOptions:
    """How the weight is iterated."""

    max_iterations: int = option(100, "steps after which the iteration is given up")
    tolerance: float = option(1e-6, "relative change at which it has converged")
    radius: float = option(5.0, "extent of the weight", unit="sigma of the weight")
    max_shift: float = option(5.0, "distance of the centroid from its start", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "max_iterations", low=1)
        check_range(self, "tolerance", low=0.0, low_open=True)
        check_range(self, "radius", low=2.0, high=5.0)
        check_range(self, "max_shift", low=0.0, low_open=True)


@dataclass
class Moments:
    """Adaptive moments of n sources; NaN where ``flags`` says that they failed.

    Parameters
    ----------
    x, y, x_err, y_err : (n,) float64 [pixel]
        Centroid and its error; the starting position where the measurement failed.
    ixx, iyy, ixy, ixx_err, iyy_err, ixy_err : (n,) float64 [pixel2]
        Second moments of the elliptical Gaussian that fits best.
    flux, flux_err : (n,) float64 [image unit]
        Flux of that Gaussian.
    rho4 : (n,) float64
        Weighted fourth moment in units of the weight; 2 for a Gaussian.
    iterations : (n,) int32
        Steps made.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    x: Float64Array
    y: Float64Array
    x_err: Float64Array
    y_err: Float64Array
    ixx: Float64Array
    iyy: Float64Array
    ixy: Float64Array
    ixx_err: Float64Array
    iyy_err: Float64Array
    ixy_err: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    rho4: Float64Array
    iterations: NDArray[np.int32]
    flags: NDArray[np.uint32]

    @property
    def failed(self) -> NDArray[np.bool_]:
        """(n,) True where the moments have no value."""
        return (self.flags & np.uint32(int(FAILED))) != 0

    @property
    def sigma(self) -> Float64Array:
        """(n,) float64 [pixel] Determinant radius, det(I)^(1/4)."""
        return np.asarray((self.ixx * self.iyy - self.ixy**2) ** 0.25)

    @property
    def e1(self) -> Float64Array:
        """(n,) float64 First component of the distortion, (ixx - iyy)/(ixx + iyy)."""
        return np.asarray((self.ixx - self.iyy) / (self.ixx + self.iyy))

    @property
    def e2(self) -> Float64Array:
        """(n,) float64 Second component of the distortion, 2 ixy/(ixx + iyy)."""
        return np.asarray(2.0 * self.ixy / (self.ixx + self.iyy))


def adaptive_moments(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: ArrayLike,
    y: ArrayLike,
    sigma: ArrayLike,
    options: MomentsOptions = MomentsOptions(),
) -> Moments:
    """Adaptive moments of many sources of one image.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits; unusable pixels have no weight and set a flag.
    x, y : (n,) float64 [pixel]
        First guess of the centres.
    sigma : float or (n,) float64 [pixel]
        First guess of the width, such as that of the PSF.
    options : MomentsOptions
        Iteration.

    Returns
    -------
    Moments
        Moments and their errors, which are those of the least-squares fit of an elliptical
        Gaussian: var(Ixx) = 8 Ixx2/nu2, var(Ixy) = 4 Ixx Iyy/nu2, var(x) = 2 Ixx/nu2 and
        var(F) = 2 F2/nu2 with the signal to noise nu of the weight.

    References
    ----------
    Bernstein & Jarvis 2002, AJ 123, 583; Hirata & Seljak 2003, MNRAS 343, 459; Condon 1997,
    PASP 109, 166.
    """
    image, variance, mask = check_planes(image, variance, mask)
    x_, y_, sigma_ = _positions(x, y, sigma)
    clean, mask = clean_image(image, mask)
    out = np.empty((x_.size, kernels.COLUMNS))
    flags = np.zeros(x_.size, np.uint32)
    kernels.adapt_all(
        clean,
        variance,
        mask,
        UNUSABLE_BITS,
        REPAIRED,
        SATURATED,
        x_,
        y_,
        sigma_,
        options.max_iterations,
        options.tolerance,
        options.radius**2,
        options.max_shift,
        out,
        flags,
    )
    return _pack(out, flags, x_, y_)


def adaptive_moments_stamps(
    stamps: NDArray[np.floating],
    *,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    sigma: ArrayLike = 2.0,
    options: MomentsOptions = MomentsOptions(),
) -> Moments:
    """Adaptive moments of the source in each stamp, such as PSF models.

    Parameters
    ----------
    stamps : (n, size, size) float
        Noise-free images.
    x, y : (n,) float64 [pixel], optional
        First guess of the centres; the middle of the stamp if omitted.
    sigma : float or (n,) float64 [pixel]
        First guess of the width.
    options : MomentsOptions
        Iteration.

    Returns
    -------
    Moments
        Errors are zero.
    """
    if stamps.ndim != 3:
        raise DataError(f"stamps must have three dimensions (n, size, size); got {stamps.ndim}")
    n, ny, nx = stamps.shape
    middle_x = np.full(n, 0.5 * (nx - 1)) if x is None else x
    middle_y = np.full(n, 0.5 * (ny - 1)) if y is None else y
    x_, y_, sigma_ = _positions(middle_x, middle_y, sigma)
    out, flags = np.empty((n, kernels.COLUMNS)), np.zeros(n, np.uint32)
    kernels.adapt_stamps(
        np.ascontiguousarray(stamps, np.float32),
        x_,
        y_,
        sigma_,
        options.max_iterations,
        options.tolerance,
        options.radius**2,
        options.max_shift,
        out,
        flags,
    )
    out[:, kernels.VARIANCE] = 0.0
    return _pack(out, flags, x_, y_)


def _positions(
    x: ArrayLike, y: ArrayLike, sigma: ArrayLike
) -> tuple[Float64Array, Float64Array, Float64Array]:
    x_, y_ = check_positions(x, y)
    sigma_ = np.ascontiguousarray(np.broadcast_to(np.asarray(sigma, np.float64), x_.shape))
    if not np.all(sigma_ > 0):
        raise DataError("the first guess of sigma must be > 0 pixel for every source")
    return x_, y_, sigma_


def _pack(
    out: Float64Array, flags: NDArray[np.uint32], x: Float64Array, y: Float64Array
) -> Moments:
    """Turn the kernel's columns into moments with errors."""
    failed = (flags & np.uint32(int(FAILED))) != 0
    out[failed, : kernels.ITERATIONS] = np.nan
    ixx, iyy, ixy = out[:, kernels.IXX], out[:, kernels.IYY], out[:, kernels.IXY]
    area = np.sqrt(ixx * iyy - ixy**2)
    flux = 2.0 * out[:, kernels.SUM]
    # Signal to noise of the matched Gaussian.
    inverse_snr = np.sqrt(4.0 * np.pi * area * out[:, kernels.VARIANCE]) / flux
    return Moments(
        x=np.where(failed, x, out[:, kernels.X]),
        y=np.where(failed, y, out[:, kernels.Y]),
        x_err=np.sqrt(2.0 * ixx) * inverse_snr,
        y_err=np.sqrt(2.0 * iyy) * inverse_snr,
        ixx=ixx,
        iyy=iyy,
        ixy=ixy,
        ixx_err=np.sqrt(8.0) * ixx * inverse_snr,
        iyy_err=np.sqrt(8.0) * iyy * inverse_snr,
        ixy_err=2.0 * np.sqrt(ixx * iyy) * inverse_snr,
        flux=flux,
        flux_err=np.sqrt(2.0) * flux * inverse_snr,
        rho4=out[:, kernels.RHO4],
        iterations=out[:, kernels.ITERATIONS].astype(np.int32),
        flags=flags,
    )

"""Fluxes in circles, with the exact overlap of each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError
from skymill.data.options import option
from skymill.measure._aperture_kernels import aperture_all, aperture_each
from skymill.measure.pixels import REPAIRED, SATURATED, UNUSABLE_BITS, check_planes, check_positions

__all__ = ["ApertureFluxes", "ApertureOptions", "aperture_fluxes", "circular_fluxes"]


@dataclass(frozen=True, kw_only=True)
class ApertureOptions:
    """The circles."""

    radii: tuple[float, ...] = option((3.0, 6.0, 9.0, 12.0, 17.0, 25.0), "radii", unit="pixel")

    def __post_init__(self) -> None:
        if not self.radii or min(self.radii) <= 0:
            raise ConfigError(f"radii must be > 0 pixel, at least one; got {self.radii}")


@dataclass
class ApertureFluxes:
    """Fluxes of n sources in m circles.

    Parameters
    ----------
    radii : (m,) float64 [pixel]
        The circles.
    flux, flux_err : (n, m) float64 [image unit]
        Sum of the pixels, edge pixels by their overlap; error from the variance. NaN outside of
        the image.
    flags : (n, m) uint32
        `MeasureFlag`.
    """

    radii: NDArray[np.float64]
    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    flags: NDArray[np.uint32]


def aperture_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: ArrayLike,
    y: ArrayLike,
    options: ApertureOptions = ApertureOptions(),
) -> ApertureFluxes:
    """Sum the image in circles around each position.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits. They set flags; a masked pixel is summed with the value that it has, unless
        that is not finite.
    x, y : (n,) float64 [pixel]
        Centres.
    options : ApertureOptions
        Radii.

    Returns
    -------
    ApertureFluxes
        Fluxes, errors, flags.
    """
    image, variance, mask = check_planes(image, variance, mask)
    x_, y_ = check_positions(x, y)
    radii = np.array(options.radii, np.float64)
    shape = (x_.size, radii.size)
    flux, flux_err, flags = np.empty(shape), np.empty(shape), np.zeros(shape, np.uint32)
    clean, clean_variance = _finite(image), _finite(variance)
    aperture_all(
        clean,
        clean_variance,
        mask,
        UNUSABLE_BITS,
        REPAIRED,
        SATURATED,
        x_,
        y_,
        radii,
        flux,
        flux_err,
        flags,
    )
    return ApertureFluxes(radii=radii, flux=flux, flux_err=flux_err, flags=flags)


def circular_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: ArrayLike,
    y: ArrayLike,
    radius: ArrayLike,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint32]]:
    """Sum the image in one circle of its own for each position.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits.
    x, y, radius : (n,) float64 [pixel]
        Centres and radii; a radius that is not positive sets NO_DATA.

    Returns
    -------
    flux, flux_err : (n,) float64 [image unit]
        Fluxes and errors.
    flags : (n,) uint32
        `MeasureFlag`.
    """
    image, variance, mask = check_planes(image, variance, mask)
    x_, y_ = check_positions(x, y)
    radius_ = np.ascontiguousarray(np.broadcast_to(np.asarray(radius, np.float64), x_.shape))
    flux, flux_err, flags = np.empty(x_.size), np.empty(x_.size), np.zeros(x_.size, np.uint32)
    clean, clean_variance = _finite(image), _finite(variance)
    aperture_each(
        clean,
        clean_variance,
        mask,
        UNUSABLE_BITS,
        REPAIRED,
        SATURATED,
        x_,
        y_,
        radius_,
        flux,
        flux_err,
        flags,
    )
    return flux, flux_err, flags


def _finite(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plane with zeros where it is not finite."""
    finite = np.isfinite(plane)
    return plane if finite.all() else np.where(finite, plane, np.float32(0.0))

"""Fluxes and positions of reference stars on one CCD: by the PSF, or in apertures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, is_set
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf
from skymill.measure.aperture import circular_fluxes
from skymill.measure.detection import DetectionOptions, detect_sources
from skymill.measure.moments import adaptive_moments
from skymill.psf._kernels import cut_stamps, fit_stars

__all__ = ["ApertureStars", "PsfStars", "StarFitOptions", "fit_psf_stars", "measure_aperture_stars"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StarFitOptions:
    """How the stars are measured."""

    radius: int = option(15, "half width of the fitted square", unit="pixel")
    max_turns: int = option(50, "most turns of the fit")
    tolerance: float = option(1e-4, "the fit ends when no star moves further", unit="pixel")
    max_move: float = option(4.0, "a star that moves further has no fit", unit="pixel")
    max_masked: float = option(0.1, "largest fraction of the flux on masked pixels")
    aperture: float = option(3.5, "radius of the aperture", unit="arcsec")
    annulus_inner: float = option(7.0, "inner radius of the sky annulus", unit="arcsec")
    annulus_outer: float = option(10.0, "outer radius of the sky annulus", unit="arcsec")
    threshold: float = option(10.0, "detection of stars in aperture mode", unit="sigma")

    def __post_init__(self) -> None:
        check_range(self, "radius", low=4)
        check_range(self, "max_turns", low=1)
        check_range(self, "tolerance", low=0.0, low_open=True)
        check_range(self, "max_move", low=0.0, low_open=True)
        check_range(self, "max_masked", low=0.0, high=1.0)
        check_range(self, "aperture", low=0.0, low_open=True)
        check_range(self, "annulus_inner", low=self.aperture)
        check_range(self, "annulus_outer", low=self.annulus_inner)
        check_range(self, "threshold", low=3.0)


@dataclass(frozen=True, eq=False)
class PsfStars:
    """Stars fitted with the PSF.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Fitted centres.
    flux, flux_err : (n,) float64 [image unit]
        Fitted flux and its error; NaN without a fit.
    chi2 : (n,) float64
        Reduced.
    masked : (n,) float64
        Fraction of the flux on masked pixels.
    good : (n,) bool
        Fitted, within `StarFitOptions.max_move` and with little of it masked.
    """

    x: Float64Array
    y: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    chi2: Float64Array
    masked: Float64Array
    good: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ApertureStars:
    """Detected objects measured in apertures.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Adaptive centroids.
    flux, flux_err : (n,) float64 [image unit]
        In the aperture, less the median of the annulus.
    good : (n,) bool
        Unblended, complete and unmasked.
    """

    x: Float64Array
    y: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    good: NDArray[np.bool_]


class _Fit:
    """One turn after the other for the stars that still move."""

    def __init__(self, planes: PixelPlanes, x: Float64Array, y: Float64Array, psf: Psf,
                 options: StarFitOptions) -> None:  # fmt: skip
        self.planes, self.psf, self.options = planes, psf, options
        self.x, self.y = x.copy(), y.copy()
        n = x.size
        self.size = min(2 * options.radius + 1, psf.stamp_size)
        self.flux, self.flux_err = np.full(n, np.nan), np.full(n, np.nan)
        self.chi2, self.masked = np.full(n, np.nan), np.ones(n)

    def turn(self, index: NDArray[np.int64]) -> Float64Array:
        """Fit the stars of an index once; how far each moved [pixel]."""
        x, y = self.x[index], self.y[index]
        ix, iy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
        n = index.size
        data = np.empty((n, self.size, self.size), np.float32)
        weight = np.empty_like(data)
        planes = self.planes
        cut_stamps(
            planes.image, planes.variance, planes.mask, np.int32(int(UNUSABLE)),
            ix, iy, data, weight,
        )  # fmt: skip
        model = self.psf.draw(x=x, y=y, size=self.size, offset_x=x - ix, offset_y=y - iy)
        model = np.ascontiguousarray(model, np.float32)
        flux, dx, dy = np.empty(n), np.empty(n), np.empty(n)
        chi2, count = np.empty(n), np.empty(n, np.int64)
        fit_stars(data, weight, model, flux, dx, dy, chi2, count)
        total = np.maximum(np.abs(model).sum(axis=(1, 2), dtype=float), 1e-30)
        masked = np.where(weight > 0, 0, np.abs(model)).sum(axis=(1, 2), dtype=float) / total
        information = (weight * model.astype(float) ** 2).sum(axis=(1, 2))
        self.flux[index], self.masked[index] = flux, masked
        self.flux_err[index] = 1.0 / np.sqrt(np.maximum(information, 1e-300))
        self.chi2[index] = chi2 / np.maximum(count - 3, 1)
        fitted = np.isfinite(flux)
        self.x[index] = x + np.where(fitted, dx, 0.0)
        self.y[index] = y + np.where(fitted, dy, 0.0)
        return np.where(fitted, np.hypot(dx, dy), 0.0)


def fit_psf_stars(
    planes: PixelPlanes,
    *,
    x: Float64Array,
    y: Float64Array,
    psf: Psf,
    options: StarFitOptions = StarFitOptions(),
) -> PsfStars:
    """Fit flux and centre of stars with the PSF.

    Parameters
    ----------
    planes : PixelPlanes
        Sky-subtracted pixels.
    x, y : (n,) float64 [pixel]
        First positions, within about a pixel.
    psf : Psf
        The model.
    options : StarFitOptions
        Limits.

    Returns
    -------
    PsfStars
        One entry a star.
    """
    fit = _Fit(planes, np.asarray(x, float), np.asarray(y, float), psf, options)
    active = np.arange(fit.x.size)
    for _ in range(options.max_turns):
        if active.size == 0:
            break
        moved = fit.turn(active)
        far = np.hypot(fit.x[active] - x[active], fit.y[active] - y[active]) > options.max_move
        active = active[(moved > options.tolerance) & ~far]
    move = np.hypot(fit.x - x, fit.y - y)
    good = np.isfinite(fit.flux) & (fit.flux > 0) & (move <= options.max_move)
    good &= fit.masked <= options.max_masked
    return PsfStars(fit.x, fit.y, fit.flux, fit.flux_err, fit.chi2, fit.masked, good)


def _annulus_levels(
    planes: PixelPlanes, x: Float64Array, y: Float64Array, inner: float, outer: float
) -> Float64Array:
    """Median of the unmasked pixels in a ring about each position; NaN if there are few."""
    ny, nx = planes.shape
    bad = is_set(planes.mask, UNUSABLE)
    half = int(np.ceil(outer))
    out = np.full(x.size, np.nan)
    for k in range(x.size):
        x0, y0 = round(float(x[k])), round(float(y[k]))
        rows = slice(max(0, y0 - half), min(ny, y0 + half + 1))
        columns = slice(max(0, x0 - half), min(nx, x0 + half + 1))
        yy, xx = np.ogrid[rows, columns]
        radius = np.hypot(yy - y[k], xx - x[k])
        use = (radius >= inner) & (radius <= outer) & ~bad[rows, columns]
        if use.sum() >= 20:
            out[k] = np.median(planes.image[rows, columns][use])
    return out


def aperture_fluxes_at(
    planes: PixelPlanes,
    *,
    x: Float64Array,
    y: Float64Array,
    radius_arcsec: float,
    pixel_scale: float,
    options: StarFitOptions = StarFitOptions(),
) -> tuple[Float64Array, Float64Array, NDArray[np.bool_]]:
    """Fluxes in one circle about each position, less the median of the annulus.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels.
    x, y : (n,) float64 [pixel]
        Centres.
    radius_arcsec : float [arcsec]
        Radius of the circle.
    pixel_scale : float [arcsec/pixel]
        Width of a pixel.
    options : StarFitOptions
        The annulus.

    Returns
    -------
    flux, flux_err : (n,) float64 [image unit]
        Fluxes and errors.
    good : (n,) bool
        The circle lies on unmasked pixels and the annulus has enough.
    """
    radius = radius_arcsec / pixel_scale
    flux, error, flags = circular_fluxes(
        planes.image, planes.variance, planes.mask, x=x, y=y, radius=np.full(np.size(x), radius)
    )
    level = _annulus_levels(
        planes, x, y, options.annulus_inner / pixel_scale, options.annulus_outer / pixel_scale
    )
    flux = flux - np.pi * radius**2 * level
    return flux, error, np.isfinite(flux) & (flags == 0)


def measure_aperture_stars(
    planes: PixelPlanes,
    *,
    pixel_scale: float,
    psf_sigma: float,
    options: StarFitOptions = StarFitOptions(),
) -> ApertureStars:
    """Detect objects and measure them in apertures.

    Parameters
    ----------
    planes : PixelPlanes
        Sky-subtracted pixels; the planes of detections are changed.
    pixel_scale : float [arcsec/pixel]
        Width of a pixel.
    psf_sigma : float [pixel]
        Width of the detection filter.
    options : StarFitOptions
        Aperture, annulus, threshold.

    Returns
    -------
    ApertureStars
        One entry an object.
    """
    found = detect_sources(
        planes.image, planes.variance, planes.mask, psf_sigma=psf_sigma,
        options=DetectionOptions(threshold=options.threshold),
    )  # fmt: skip
    moments = adaptive_moments(
        planes.image, planes.variance, planes.mask, x=found.x, y=found.y, sigma=psf_sigma
    )
    centred = moments.flags == 0
    x, y = np.where(centred, moments.x, found.x), np.where(centred, moments.y, found.y)
    flux, error, good = aperture_fluxes_at(
        planes, x=x, y=y, radius_arcsec=options.aperture, pixel_scale=pixel_scale, options=options
    )
    good &= centred & (found.peaks_in_footprint == 1) & (flux > 0)
    return ApertureStars(x, y, flux, error, good)

"""Draw stars and Sersic galaxies through a varying PSF, and say how sharp each one is.

The PSF comes from galsim; the drawing is that of `skymill.sims.draw`, with one table of the
transform for each Sersic index.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.interpolate import CubicSpline
from scipy.special import gamma, gammaincinv, j0

from skymill.data.errors import DataError
from skymill.sims import _draw_kernels as kernels
from skymill.sims.draw import (
    Light,
    PsfField,
    add_sources,
    psf_table,
    shear_matrix,
    stamp_widths,
    to_pixels,
)

__all__ = ["SersicSources", "draw_psf_stamps", "draw_sersic", "profile_edge"]

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class SersicSources:
    """What is drawn on one CCD.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Positions; the first pixel's centre is (0, 0).
    flux : (n,) float64 [electron]
        Total fluxes, out to the edge of the profile.
    sersic : (n,) float64
        Sersic index; 0 for a point source.
    radius : (n,) float64 [arcsec]
        Half-light radius along the major axis (of the profile without its edge).
    g1, g2 : (n,) float64
        Shear-like ellipticity (a - b)/(a + b) in sky axes, x East and y North.
    jacobian : (n, 2, 2) float64 [arcsec/pixel]
        Derivatives of (East, North) by (x, y).
    """

    x: Float64Array
    y: Float64Array
    flux: Float64Array
    sersic: Float64Array
    radius: Float64Array
    g1: Float64Array
    g2: Float64Array
    jacobian: Float64Array


def profile_edge(sersic: float) -> float:
    """Where a profile ends, in half-light radii.

    The surveys fit profiles that fall to zero over the last half-light radius before this edge, by
    the factor (1 - t^2)^2 with t from 0 to 1 (Hogg & Lang 2013, PASP 125, 719), and what they call
    the flux is the light within; so does the truth.

    Parameters
    ----------
    sersic : float
        Sersic index.

    Returns
    -------
    float
        4 for n <= 1, 8 for n >= 4, linear between.
    """
    return float(np.interp(sersic, [1.0, 4.0], [4.0, 8.0]))


def _brightness(radius: Float64Array, sersic: float) -> Float64Array:
    """Surface brightness at radii in half-light radii, with the soft edge, not normalised."""
    edge = profile_edge(sersic)
    half = float(gammaincinv(2.0 * sersic, 0.5))
    fall = np.clip(radius - (edge - 1.0), 0.0, 1.0)
    return np.asarray(np.exp(-half * (radius ** (1.0 / sersic) - 1.0)) * (1.0 - fall**2) ** 2)


@functools.lru_cache(maxsize=64)
def _sersic_table(sersic: float) -> Float64Array:
    """Transform of a profile of unit half-light radius on an even grid of k/(1 + k)."""
    if not 0.3 <= sersic <= 6.2:
        raise DataError(f"the Sersic index must be in [0.3, 6.2]; got {sersic}")
    edge = profile_edge(sersic)
    borders = np.concatenate(
        [[0.0], np.geomspace(1e-6, 0.05, 40), np.linspace(0.05, edge, 240)[1:]]
    )
    node, weight = np.polynomial.legendre.leggauss(8)
    step = 0.5 * np.diff(borders)[:, None]
    radius = (0.5 * (borders[1:] + borders[:-1])[:, None] + step * node).ravel()
    mass = (step * weight).ravel() * radius * _brightness(radius, sersic)
    u = np.linspace(0.0, 0.996, 1200)
    values = np.array([(mass * j0(v / (1.0 - v) * radius)).sum() for v in u]) / mass.sum()
    full = np.linspace(0.0, 1.0, 4096)
    spline = CubicSpline(u, values)
    return np.ascontiguousarray(np.where(full < u[-1], spline(np.minimum(full, u[-1])), values[-1]))


def _stamp_sizes(
    sources: SersicSources, psf: PsfField, noise: float, scale: float
) -> NDArray[np.int64]:
    """Width of each stamp [pixel]: to where the surface brightness is a small part of the noise."""
    threshold = max(0.03 * noise, 1e-3)
    flux = np.maximum(sources.flux, 1e-3)
    core = np.maximum(psf.fwhm / scale, 0.5) * 0.77
    peak = flux * 1.5 / (np.pi * core**2)
    power = psf.beta if psf.profile == "moffat" else 11.0 / 6.0 + 1.0
    radius = core * np.sqrt(np.maximum((peak / threshold) ** (1.0 / power) - 1.0, 0.0))
    n = np.where(sources.sersic > 0.0, sources.sersic, 1.0)
    b = np.maximum(2.0 * n - 1.0 / 3.0 + 0.009876 / n, 0.1)
    half = np.maximum(sources.radius / scale, 0.02)
    at_half = flux / (2.0 * np.pi * n * half**2 * np.exp(b) * b ** (-2.0 * n) * gamma(2.0 * n))
    at_half /= np.sqrt((1.0 - np.hypot(sources.g1, sources.g2)) / 1.0)
    bright = half * np.maximum(1.0 + np.log(at_half / threshold) / b, 0.5) ** n
    edge = half * np.interp(n, [1.0, 4.0], [4.0, 8.0])
    galaxy = np.maximum(radius, np.minimum(bright, edge) + 2.0 * core)
    wanted = 2.0 * np.maximum(np.where(sources.sersic > 0.0, galaxy, radius), 4.0 * core)
    return stamp_widths(wanted)


def _galaxy_maps(sources: SersicSources, inverse: Float64Array) -> Float64Array:
    """(n, 4) matrices that carry the circle of unit half-light radius to the pixels."""
    e = np.hypot(sources.g1, sources.g2)
    # A shear of unit determinant has the major axis sqrt((1 + e)/(1 - e)).
    size = sources.radius * np.sqrt((1.0 - e) / (1.0 + e))
    size = np.where(sources.sersic > 0.0, size, 1e-3)
    return to_pixels(shear_matrix(sources.g1, sources.g2) * size[:, None, None], inverse)


def draw_sersic(
    image: Float32Array, sources: SersicSources, psf: PsfField, *, noise: float = 1.0
) -> Float64Array:
    """Add sources to an image.

    Parameters
    ----------
    image : (ny, nx) float32 [electron]
        Changed in place.
    sources : SersicSources
        What to draw.
    psf : PsfField
        PSF at each source.
    noise : float [electron]
        Noise of a pixel: faint wings far under it are not drawn.

    Returns
    -------
    (n,) float64
        Sum of the squares of each source's pixels for unit flux, whether on the image or not; 0
        for a source of which nothing is on the image. The signal-to-noise ratio of the source is
        ``flux sqrt(sum) / noise``.
    """
    sharpness = np.zeros(sources.x.size)
    if sources.x.size == 0:
        return sharpness
    inverse = np.linalg.inv(sources.jacobian)
    scale = float(np.sqrt(np.abs(np.linalg.det(sources.jacobian)).mean()))
    maps = _galaxy_maps(sources, inverse)
    light = Light(
        x=sources.x,
        y=sources.y,
        flux=sources.flux,
        share=np.where(sources.sersic > 0.0, 1.0, -1.0),
        disk_map=maps,
        bulge_map=maps,
        psf_map=to_pixels(shear_matrix(psf.g1, psf.g2) * psf.fwhm[:, None, None], inverse),
        size=_stamp_sizes(sources, psf, noise, scale),
    )
    inside = light.touches(image.shape)
    table = psf_table(psf.profile, psf.beta)
    for index in np.unique(sources.sersic[inside]):
        profile = _sersic_table(float(index) if index > 0.0 else 1.0)
        chosen = np.flatnonzero(inside & (sources.sersic == index))
        for k, stamps in add_sources(image, light, chosen, table, profile):
            sharpness[k] = np.einsum("kij,kij->k", stamps, stamps) / sources.flux[k] ** 2
    return sharpness


def draw_psf_stamps(psf: PsfField, jacobian: Float64Array, *, size: int = 63) -> Float64Array:
    """The PSF, pixels included, at some places.

    Parameters
    ----------
    psf : PsfField
        PSF at the n places.
    jacobian : (n, 2, 2) float64 [arcsec/pixel]
        Derivatives of (East, North) by (x, y).
    size : int
        Odd width of the stamps [pixel].

    Returns
    -------
    (n, size, size) float64
        A star of unit flux in the centre of the central pixel.
    """
    table, kmax = psf_table(psf.profile, psf.beta)
    width = 256
    n = psf.fwhm.size
    maps = shear_matrix(psf.g1, psf.g2) * psf.fwhm[:, None, None]
    maps = to_pixels(maps, np.linalg.inv(jacobian))
    spectrum = np.empty((n, width, width // 2 + 1), np.complex64)
    centre, ones = np.full(n, float(width // 2)), np.ones(n)
    none = np.zeros((n, 4))
    kernels.transform_sources(
        width, centre, centre, ones, -ones, none, none, maps, table, kmax, _sersic_table(1.0),
        spectrum,
    )  # fmt: skip
    stamps = fft.irfft2(spectrum, s=(width, width))
    low = width // 2 - size // 2
    return np.asarray(stamps[:, low : low + size, low : low + size], np.float64)

"""Images of point sources and galaxies as an exposure sees them.

A model of unit flux is the inverse Fourier transform of the transform of the PSF's stamp, times
that of the truncated Sersic profile (`skymill.model.sersic`), times a phase for the position. A
stamp is as wide as the model reaches, so that what wraps around its edges is negligible.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.model._forward_kernels import add_stamp, fill_spectra
from skymill.model.fit_image import FitImage
from skymill.model.sersic import extent, fixed_table, table
from skymill.model.sources import Sources, SourceType

__all__ = [
    "Placement",
    "draw_patches",
    "place",
    "profile_reach",
    "profile_table",
    "psf_reach",
    "psf_spectrum",
    "render",
    "shape_matrix",
    "stamp_size",
]

Float64Array = NDArray[np.float64]

#: Widths of stamps [pixel]: products of small primes, multiples of 8.
_SIZES = (16, 24, 32, 40, 48, 64, 80, 96, 120, 128, 160, 192, 240, 256, 320, 384, 480, 512, 640,
          768, 1024)  # fmt: skip


def stamp_size(width: float) -> int:
    """The smallest width of a stamp that is at least so wide; 1024 at most [pixel].

    Parameters
    ----------
    width : float [pixel]
        What must fit.

    Returns
    -------
    int [pixel]
        Width of the stamp.
    """
    for size in _SIZES:
        if size >= width:
            return size
    return _SIZES[-1]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where sources fall on an exposure.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Positions; the first pixel's centre is (0, 0).
    to_pixel : (n, 2, 2) float64 [pixel / arcsec]
        ``[[dx/d(east), dx/d(north)], [dy/d(east), dy/d(north)]]``.
    """

    x: Float64Array
    y: Float64Array
    to_pixel: Float64Array


def place(wcs: FitsWcs, ra: ArrayLike, dec: ArrayLike) -> Placement:
    """Positions and local affine maps of sources.

    Parameters
    ----------
    wcs : FitsWcs
        Of the exposure.
    ra, dec : (n,) float [deg]
        Positions.

    Returns
    -------
    Placement
        NaN where the projection is not defined.
    """
    ra_, dec_ = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    n, step = ra_.size, 1.0 / 3600.0
    wide = step / np.cos(np.radians(dec_))
    x, y = wcs.sky_to_pixel(
        ra=np.concatenate([ra_, ra_ + wide, ra_ - wide, ra_, ra_]),
        dec=np.concatenate([dec_, dec_, dec_, dec_ + step, dec_ - step]),
    )
    x, y = x.reshape(5, n), y.reshape(5, n)
    jacobian = np.empty((n, 2, 2))
    jacobian[:, 0, 0], jacobian[:, 0, 1] = (x[1] - x[2]) / 2.0, (x[3] - x[4]) / 2.0
    jacobian[:, 1, 0], jacobian[:, 1, 1] = (y[1] - y[2]) / 2.0, (y[3] - y[4]) / 2.0
    return Placement(x=x[0], y=y[0], to_pixel=jacobian)


def shape_matrix(radius: float, e1: float, e2: float) -> Float64Array:
    """The matrix Q of K^2 = k Q k for an ellipse in sky axes.

    Parameters
    ----------
    radius : float [arcsec]
        Half-light radius of the major axis.
    e1, e2 : float
        Ellipticity, see `skymill.model.sources.Sources`.

    Returns
    -------
    (2, 2) float64 [arcsec2]
        In axes to the East and to the North.
    """
    e = np.hypot(e1, e2)
    size = (radius / (1.0 + e)) ** 2
    return np.asarray(size * np.array([[1 + e * e - 2 * e1, 2 * e2], [2 * e2, 1 + e * e + 2 * e1]]))


def profile_table(kind: int, sersic: float) -> Float64Array:
    """Transform of a type's profile.

    Parameters
    ----------
    kind : int
        `SourceType`.
    sersic : float
        Index; used for SER only.

    Returns
    -------
    (n_knot, 4) float64
        See `skymill.model.sersic.SersicTable.at`.
    """
    if kind == SourceType.DEV:
        return fixed_table(4.0)
    return table().at(sersic) if kind == SourceType.SER else fixed_table(1.0)


def profile_reach(
    kind: int, sersic: float, size: ArrayLike, e: float, *, faintest: ArrayLike
) -> Float64Array:
    """How far a profile reaches before it is negligible.

    Parameters
    ----------
    kind : int
        `SourceType`.
    sersic : float
        Index; used for SER only.
    size : (m,) float [pixel]
        Half-light radius of the major axis, along the largest scale of each image.
    e : float
        Ellipticity.
    faintest : (m,) float
        Part of the flux that a pixel must hold to matter.

    Returns
    -------
    (m,) float64 [pixel]
        0 for points.
    """
    pixels = np.asarray(size, np.float64)
    if kind == SourceType.PSF:
        return np.zeros_like(pixels)
    n = {SourceType.DEV: 4.0, SourceType.SER: sersic}.get(SourceType(kind), 1.0)
    squeezed = (1.0 - e) / (1.0 + e)
    return pixels * extent(n, np.asarray(faintest, np.float64) * pixels**2 * squeezed)


def psf_reach(stamp: NDArray[np.float32]) -> Float64Array:
    """Largest value of a PSF outside of each radius.

    Parameters
    ----------
    stamp : (n, n) float32
        PSF with its star in the middle.

    Returns
    -------
    (m,) float64
        Entry r: the largest absolute value at a distance (the larger of x and y) of r pixels or
        more; the last entry is 0.
    """
    half = stamp.shape[0] // 2
    order, first = _rings(stamp.shape[0])
    largest = np.zeros(half + 2)
    largest[: first.size] = np.maximum.reduceat(np.abs(stamp).ravel()[order], first)
    return np.asarray(np.maximum.accumulate(largest[::-1])[::-1])


@functools.cache
def _rings(size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of a stamp sorted by their square ring, and where each ring begins."""
    axis = np.abs(np.arange(size) - size // 2)
    ring = np.maximum(axis[:, None], axis[None, :]).ravel()
    order = np.argsort(ring, kind="stable")
    return order, np.searchsorted(ring[order], np.arange(ring.max() + 1))


def psf_spectrum(stamp: NDArray[np.float32], size: int) -> NDArray[np.complex128]:
    """Fourier transform of a PSF with its star at pixel (0, 0).

    Parameters
    ----------
    stamp : (n, n) float32
        PSF, n odd.
    size : int [pixel]
        Width of the transform; a wider stamp is cropped.

    Returns
    -------
    (size, size // 2 + 1) complex128
        The transform.
    """
    half = stamp.shape[0] // 2
    keep = min(half, (size - 1) // 2)
    part = stamp[half - keep : half + keep + 1, half - keep : half + keep + 1]
    padded = np.zeros((size, size))
    padded[: keep + 1, : keep + 1] = part[keep:, keep:]
    padded[: keep + 1, -keep:] = part[keep:, :keep]
    padded[-keep:, : keep + 1] = part[:keep, keep:]
    padded[-keep:, -keep:] = part[:keep, :keep]
    return np.asarray(scipy.fft.rfft2(padded, workers=1))


def render(
    sources: Sources, image: FitImage, *, bands: Sequence[str], precision: float = 0.003
) -> NDArray[np.float32]:
    """The image that sources make on an exposure.

    Parameters
    ----------
    sources : Sources
        What to draw.
    image : FitImage
        Exposure; its pixels are not used.
    bands : sequence of str
        Names of the columns of ``sources.flux``.
    precision : float [sigma1]
        Wings of the PSF fainter than this are left out.

    Returns
    -------
    (ny, nx) float32 [nanomaggy]
        The model.

    Raises
    ------
    DataError
        If the band of the image is not among ``bands``.
    """
    out = np.zeros(image.shape)
    for i, flux, stamp, where in _drawable(sources, image, bands):
        found = _plane(image.shape, stamp, sources, i, flux, where, precision * image.sigma1)
        if found is not None:
            add_stamp(out, found[2], found[0], found[1], flux)
    return out.astype(np.float32)


def draw_patches(
    sources: Sources, image: FitImage, *, bands: Sequence[str], precision: float = 0.003
) -> Iterator[tuple[int, int, int, Float64Array]]:
    """The part of an exposure that each source covers, one after the other.

    Parameters
    ----------
    sources, image, bands, precision
        As in `render`.

    Yields
    ------
    index, x0, y0 : int
        Which source; first pixel of its patch on the exposure.
    patch : (h, w) float64 [nanomaggy]
        Its model there. Sources without flux, or off the exposure, are left out.
    """
    for i, flux, stamp, where in _drawable(sources, image, bands):
        found = _plane(image.shape, stamp, sources, i, flux, where, precision * image.sigma1)
        if found is None:
            continue
        x0, y0, plane = found
        ny, nx = image.shape
        left, low = max(0, -x0), max(0, -y0)
        part = plane[low : max(low, ny - y0), left : max(left, nx - x0)]
        if part.size:
            yield i, x0 + left, y0 + low, part * flux


def _drawable(
    sources: Sources, image: FitImage, bands: Sequence[str]
) -> Iterator[tuple[int, float, NDArray[np.float32], Placement]]:
    """Sources with a flux in the band of an exposure, with the PSF at their places."""
    if image.band not in bands:
        raise DataError(f"the band {image.band} is not among those of the sources: {list(bands)}")
    if len(sources) == 0:
        return
    flux = sources.flux[:, list(bands).index(image.band)]
    where = place(image.wcs, *sources.position_at(image.mjd))
    ny, nx = image.shape
    chosen = np.flatnonzero(np.isfinite(where.x) & np.isfinite(flux) & (flux != 0.0))
    for start in range(0, chosen.size, 256):
        some = chosen[start : start + 256]
        stamps = image.psf.draw(
            x=np.clip(where.x[some], 0.0, nx - 1.0), y=np.clip(where.y[some], 0.0, ny - 1.0)
        )
        for stamp, i in zip(stamps, some, strict=True):
            if np.isfinite(stamp).all():
                yield int(i), float(flux[i]), stamp, where


def _plane(
    shape: tuple[int, int],
    stamp: NDArray[np.float32],
    sources: Sources,
    i: int,
    flux: float,
    where: Placement,
    limit: float,
) -> tuple[int, int, Float64Array] | None:
    """The model of one source with unit flux, and its first pixel; None if it is elsewhere."""
    ny, nx = shape
    kind = int(sources.kind[i])
    profile = profile_table(kind, float(sources.sersic[i]))
    wings = np.flatnonzero(abs(flux) * psf_reach(stamp) > limit)
    core = 2.0 + (float(wings[-1]) if wings.size else 1.0)
    to_pixel = where.to_pixel[i]
    scale = float(np.linalg.norm(to_pixel, 2))
    outskirts = profile_reach(
        kind,
        float(sources.sersic[i]),
        scale * float(sources.radius[i]),
        float(np.hypot(sources.e1[i], sources.e2[i])),
        faintest=limit / abs(flux),
    )
    reach = core + float(outskirts)
    x, y = float(where.x[i]), float(where.y[i])
    if x < -reach or y < -reach or x > nx - 1 + reach or y > ny - 1 + reach:
        return None
    far = max(x, y, nx - 1 - x, ny - 1 - y) + 2.0
    size = stamp_size(min(2.0 * reach, far + reach) + 2.0)
    x0, y0 = round(x) - size // 2, round(y) - size // 2
    if kind == SourceType.PSF:
        quadratic = np.zeros(3)
    else:
        sky = shape_matrix(float(sources.radius[i]), float(sources.e1[i]), float(sources.e2[i]))
        turned = to_pixel @ sky @ to_pixel.T
        quadratic = np.array([turned[0, 0], turned[1, 1], turned[0, 1]])
    spectrum = np.empty((1, 1, size, size // 2 + 1), np.complex128)
    fill_spectra(
        psf_spectrum(stamp, size)[None],
        np.array([[x - x0, y - y0]]),
        quadratic[None],
        np.zeros((1, 0, 3)),
        profile,
        kind != SourceType.PSF,
        False,
        spectrum,
    )
    plane = scipy.fft.irfft2(spectrum[0, 0], s=(size, size), overwrite_x=True, workers=1)
    return x0, y0, plane

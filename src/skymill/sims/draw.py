"""Draw many stars and galaxies through a varying PSF, exactly, in Fourier space.

Each source is the product of the transforms of its profile (exponential disk plus r^1/4 bulge, or
a point), of the PSF and of the pixel, sampled with its aliases and transformed back on a stamp
that is as large as the source is bright. Profiles and PSF come from galsim.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from skymill.data.errors import DataError
from skymill.sims import _draw_kernels as kernels

__all__ = [
    "Light",
    "PsfField",
    "Sources",
    "add_sources",
    "draw_sources",
    "psf_profile",
    "psf_table",
    "shear_matrix",
    "stamp_widths",
    "to_pixels",
]

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]

_SIZES = np.array([24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024])
#: Half-light radius of an exponential disk in units of its scale length.
DISK_HLR = 1.6783469900166605
_CHUNK_PIXELS = 1 << 19


@dataclass(frozen=True)
class PsfField:
    """A PSF of one radial profile whose size and ellipticity vary over a CCD.

    ``fwhm``, ``g1`` and ``g2`` are polynomials of the focal-plane position, see
    `skymill.sims.optics.PsfModel`; this class holds their values at the sources.

    Parameters
    ----------
    profile : str
        ``moffat`` or ``kolmogorov``.
    beta : float
        Exponent of the Moffat profile.
    fwhm : (n,) float64 [arcsec]
        Full width at half maximum (of the circular profile before its shear).
    g1, g2 : (n,) float64
        Reduced shear of the PSF in sky axes (x East, y North).
    """

    profile: str
    beta: float
    fwhm: Float64Array
    g1: Float64Array
    g2: Float64Array


@dataclass(frozen=True)
class Sources:
    """What is drawn on one CCD, point sources and galaxies alike.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Positions; the first pixel's centre is (0, 0).
    flux : (n,) float64 [electron]
        Total fluxes.
    bulge_fraction : (n,) float64
        Share of the r^1/4 bulge; -1 for a point source.
    disk_map, bulge_map : (n, 2, 2) float64 [arcsec]
        Matrices that carry the unit-half-light-radius circle to the sky (x East, y North), with
        intrinsic shape, size and lensing.
    jacobian : (n, 2, 2) float64 [arcsec/pixel]
        Derivatives of (East, North) by (x, y).
    """

    x: Float64Array
    y: Float64Array
    flux: Float64Array
    bulge_fraction: Float64Array
    disk_map: Float64Array
    bulge_map: Float64Array
    jacobian: Float64Array


def psf_profile(profile: str, beta: float) -> galsim.GSObject:
    """The circular PSF of unit FWHM.

    Parameters
    ----------
    profile : str
        ``moffat`` or ``kolmogorov``.
    beta : float
        Exponent of the Moffat profile.

    Returns
    -------
    galsim.GSObject
        The profile.

    Raises
    ------
    DataError
        If the profile is unknown.
    """
    if profile == "moffat":
        return galsim.Moffat(beta=beta, fwhm=1.0)
    if profile == "kolmogorov":
        return galsim.Kolmogorov(fwhm=1.0)
    raise DataError(f"the PSF profile must be moffat or kolmogorov; got {profile!r}")


@functools.lru_cache(maxsize=8)
def psf_table(profile: str, beta: float) -> tuple[Float64Array, float]:
    """Transform of the PSF of unit FWHM on an even grid of k, and where it ends.

    Parameters
    ----------
    profile, beta
        As in `psf_profile`.

    Returns
    -------
    values : (m,) float64
        The transform.
    kmax : float
        Wave number of the last of them.
    """
    model = psf_profile(profile, beta)
    k = np.linspace(0.0, 40.0, 8001)
    values = np.array([model.kValue(v, 0.0).real for v in k])
    last = int(np.flatnonzero(np.abs(values) > 2e-5)[-1]) + 2
    return np.ascontiguousarray(values[:last]), float(k[last - 1])


@functools.lru_cache(maxsize=1)
def _bulge_table() -> Float64Array:
    """Transform of the r^1/4 profile of unit half-light radius on an even grid of k/(1 + k)."""
    model = galsim.DeVaucouleurs(half_light_radius=1.0)
    u = np.linspace(0.0, 0.999, 4096)
    values = np.array([model.kValue(v / (1.0 - v), 0.0).real for v in u])
    full = np.linspace(0.0, 1.0, 4096)
    return np.ascontiguousarray(np.interp(full, u, values, right=values[-1]))


def _stamp_sizes(sources: Sources, psf: PsfField, noise: float, scale: float) -> NDArray[np.int64]:
    """Width of each stamp [pixel]: to where the surface brightness is a small part of the noise."""
    threshold = max(0.03 * noise, 1e-3)
    flux = np.maximum(sources.flux, 1e-3)
    psf_rd = np.maximum(psf.fwhm / scale, 0.5) * 0.77
    star_i0 = flux * 1.5 / (np.pi * psf_rd**2)
    power = psf.beta if psf.profile == "moffat" else 11.0 / 6.0 + 1.0
    radius = psf_rd * np.sqrt(np.maximum((star_i0 / threshold) ** (1.0 / power) - 1.0, 0.0))
    extended = sources.bulge_fraction >= 0.0
    major = [
        np.linalg.norm(m, ord=2, axis=(1, 2)) / scale for m in (sources.disk_map, sources.bulge_map)
    ]
    disk = np.maximum(major[0] / DISK_HLR, 0.05)
    disk_flux = flux * np.clip(1.0 - sources.bulge_fraction, 0.0, 1.0)
    inner = np.maximum(np.hypot(disk, psf_rd), 0.1)
    disk_radius = disk * np.maximum(
        np.log(np.maximum(disk_flux / (2 * np.pi * inner**2 * threshold), 1.0)), 2.0
    )
    bulge = np.maximum(major[1], 0.05)
    bulge_i = np.maximum(flux * np.clip(sources.bulge_fraction, 0.0, 1.0), 1e-9) / (
        22.67 * bulge**2
    )
    bulge_radius = bulge * np.maximum(1.0 + np.log(bulge_i / threshold) / 7.67, 1.0) ** 4
    bulge_radius = np.where(sources.bulge_fraction > 0.0, bulge_radius, 0.0)
    radius = np.where(
        extended, np.maximum(radius, np.maximum(disk_radius, bulge_radius) + 2 * psf_rd), radius
    )
    wanted = 2.0 * np.maximum(radius, 4.0 * psf_rd)
    return stamp_widths(wanted)


def stamp_widths(wanted: Float64Array) -> NDArray[np.int64]:
    """Widths of stamps, products of small primes.

    Parameters
    ----------
    wanted : (n,) float64 [pixel]
        What must fit.

    Returns
    -------
    (n,) int64 [pixel]
        At least so wide, but 1024 at most.
    """
    return np.asarray(_SIZES[np.clip(np.searchsorted(_SIZES, wanted), 0, _SIZES.size - 1)])


def to_pixels(maps: Float64Array, inverse: Float64Array) -> Float64Array:
    """Matrices on the sky as they act on pixels.

    Parameters
    ----------
    maps : (n, 2, 2) float64 [arcsec]
        Matrices.
    inverse : (n, 2, 2) float64 [pixel/arcsec]
        Derivatives of (x, y) by (East, North).

    Returns
    -------
    (n, 4) float64 [pixel]
        For the kernels.
    """
    return np.ascontiguousarray((inverse @ maps).reshape(-1, 4))


@dataclass(frozen=True)
class Light:
    """Sources in pixels, as the kernels take them.

    Parameters
    ----------
    x, y, flux : (n,) float64
        As in `Sources`.
    share : (n,) float64
        Share of the tabulated profile, the rest being a disk; -1 for a point source.
    disk_map, bulge_map, psf_map : (n, 4) float64 [pixel]
        See `to_pixels`.
    size : (n,) int64 [pixel]
        Widths of the stamps.
    """

    x: Float64Array
    y: Float64Array
    flux: Float64Array
    share: Float64Array
    disk_map: Float64Array
    bulge_map: Float64Array
    psf_map: Float64Array
    size: NDArray[np.int64]

    def touches(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Whether each stamp has a pixel on an image.

        Parameters
        ----------
        shape : (ny, nx)
            Shape of the image.

        Returns
        -------
        (n,) bool
            True where it may have.
        """
        ny, nx = shape
        reach = self.size / 2
        inside = (self.x > -reach - 1) & (self.x < nx + reach)
        return np.asarray(inside & (self.y > -reach - 1) & (self.y < ny + reach))


def add_sources(
    image: Float32Array,
    light: Light,
    chosen: NDArray[np.int64],
    psf: tuple[Float64Array, float],
    profile: Float64Array,
) -> Iterator[tuple[NDArray[np.int64], Float32Array]]:
    """Add some of the sources to an image, stamp by stamp.

    Parameters
    ----------
    image : (ny, nx) float32 [electron]
        Changed in place, while the result is iterated over.
    light : Light
        Sources.
    chosen : (m,) int64
        Which.
    psf : tuple
        From `psf_table`.
    profile : (p,) float64
        Transform of the tabulated profile on an even grid of k/(1 + k).

    Yields
    ------
    index : (k,) int64
        Sources that were added.
    stamps : (k, size, size) float32 [electron]
        Their light.
    """
    for size in np.unique(light.size[chosen]):
        members = chosen[light.size[chosen] == size]
        chunk = max(1, _CHUNK_PIXELS // int(size) ** 2)
        for start in range(0, members.size, chunk):
            k = members[start : start + chunk]
            spectrum = np.empty((k.size, size, size // 2 + 1), np.complex64)
            kernels.transform_sources(
                int(size), light.x[k], light.y[k], light.flux[k], light.share[k],
                light.disk_map[k], light.bulge_map[k], light.psf_map[k], *psf, profile, spectrum,
            )  # fmt: skip
            stamps = fft.irfft2(spectrum, s=(size, size), overwrite_x=True)
            kernels.add_stamps(stamps, light.x[k], light.y[k], image)
            yield k, stamps


def draw_sources(
    image: Float32Array, sources: Sources, psf: PsfField, *, noise: float = 1.0
) -> None:
    """Add sources to an image.

    Parameters
    ----------
    image : (ny, nx) float32 [electron]
        Changed in place.
    sources : Sources
        What to draw.
    psf : PsfField
        PSF at each source.
    noise : float [electron]
        Noise of a pixel: faint wings far under it are not drawn.
    """
    if sources.x.size == 0:
        return
    inverse = np.linalg.inv(sources.jacobian)
    scale = float(np.sqrt(np.abs(np.linalg.det(sources.jacobian)).mean()))
    light = Light(
        x=sources.x,
        y=sources.y,
        flux=sources.flux,
        share=sources.bulge_fraction,
        disk_map=to_pixels(sources.disk_map / DISK_HLR, inverse),
        bulge_map=to_pixels(sources.bulge_map, inverse),
        psf_map=to_pixels(shear_matrix(psf.g1, psf.g2) * psf.fwhm[:, None, None], inverse),
        size=_stamp_sizes(sources, psf, noise, scale),
    )
    chosen = np.flatnonzero(light.touches(image.shape))
    for _ in add_sources(image, light, chosen, psf_table(psf.profile, psf.beta), _bulge_table()):
        pass


def shear_matrix(g1: Float64Array, g2: Float64Array) -> Float64Array:
    """Matrices of unit determinant that shear a circle.

    Parameters
    ----------
    g1, g2 : (n,) float64
        Reduced shear.

    Returns
    -------
    (n, 2, 2) float64
        The matrices.
    """
    norm = 1.0 / np.sqrt(1.0 - g1**2 - g2**2)
    out = np.empty((g1.size, 2, 2))
    out[:, 0, 0], out[:, 1, 1] = (1.0 + g1) * norm, (1.0 - g1) * norm
    out[:, 0, 1] = out[:, 1, 0] = g2 * norm
    return out

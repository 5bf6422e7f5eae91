"""Halos of bright stars: the light that DECam scatters far beyond the model of the PSF."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.geometry import local_jacobian
from skymill.model.fit_image import FitImage

__all__ = ["epoch_mjd", "halo_image", "position_at", "subtract_halos"]

#: CCDs whose coating scatters less in z.
_COMPACT = ("N20", "S8", "S10", "S18", "S21", "S27")
#: Surface brightness [1/arcsec2] at one arcsec of a star of unit flux, falling with r^-2.
_POWER_LAW = {"g": 0.00045, "r": 0.00033, "i": 0.00033}
#: Extent in units of the mask radius, and its limit [arcsec].
_EXTENT, _LIMIT = 4.0, 400.0
#: Where the halo begins, and has its full strength [arcsec].
_BEGIN, _FULL = 7.0, 8.0


def epoch_mjd(year: NDArray[np.float64]) -> NDArray[np.float64]:
    """MJD of Julian years; 0 where the epoch is unknown (0).

    Parameters
    ----------
    year : (n,) float64 [year]
        Epochs.

    Returns
    -------
    (n,) float64 [day]
        MJD.
    """
    return np.asarray(np.where(year > 0, 51544.5 + (year - 2000.0) * 365.25, 0.0))


def position_at(references: Table, mjd: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of reference sources at a time by their proper motions.

    Parameters
    ----------
    references : Table
        With ``ra``, ``dec``, ``pmra``, ``pmdec`` and ``ref_epoch``.
    mjd : float [day]
        The time.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions; those of galaxies and of stars without proper motion do not change.
    """
    epoch = np.asarray(references["ref_epoch"], np.float64)
    year = 2000.0 + (mjd - 51544.5) / 365.25
    years = np.where(epoch > 0, year - epoch, 0.0)
    dec = np.asarray(references["dec"], np.float64)
    ra = np.asarray(references["ra"], np.float64)
    cos = np.cos(np.radians(dec))
    return (
        ra + years * np.asarray(references["pmra"], np.float64) / 3.6e6 / cos,
        dec + years * np.asarray(references["pmdec"], np.float64) / 3.6e6,
    )


def _profile(
    radius: NDArray[np.float64], band: str, ccd: str, off_chip: bool
) -> NDArray[np.float64]:
    """Surface brightness [1/arcsec2] of a star of unit flux at a radius [arcsec]."""
    if band in _POWER_LAW:
        return _POWER_LAW[band] * np.maximum(radius, 1.0) ** -2
    alpha, beta, weight = (16.0, 2.3, 0.0095) if ccd in _COMPACT else (17.65, 1.7, 0.0145)
    if off_chip:
        weight *= 0.5
    moffat = (beta - 1) / (math.pi * alpha**2) * (1 + (radius / alpha) ** 2) ** -beta
    return np.asarray(weight * moffat)


def halo_image(image: FitImage, references: Table) -> NDArray[np.float32]:
    """Sum of the halos of all stars on an exposure of DECam.

    Parameters
    ----------
    image : FitImage
        The exposure.
    references : Table
        Reference sources; only Gaia stars have halos.

    Returns
    -------
    (ny, nx) float32 [nanomaggy]
        The halos.
    """
    ny, nx = image.image.shape
    out = np.zeros((ny, nx))
    stars = references[np.asarray(references["is_gaia"], bool)]
    known = image.band in _POWER_LAW or image.band == "z"
    if image.camera != "decam" or not known or not len(stars):
        return out.astype(np.float32)
    ra, dec = position_at(stars, image.mjd)
    xs, ys = image.wcs.sky_to_pixel(ra=ra, dec=dec)
    centre = np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])
    jacobian = local_jacobian(image.wcs, x=centre[0], y=centre[1])[0]
    scale = math.sqrt(abs(float(np.linalg.det(jacobian))))
    fluxes = 10.0 ** (0.4 * (22.5 - np.asarray(stars[f"mag_{image.band}"], np.float64)))
    for x, y, flux, radius in zip(xs, ys, fluxes, np.asarray(stars["radius"]), strict=True):
        reach = min(_LIMIT, _EXTENT * radius * 3600.0)
        if reach <= _FULL or not (np.isfinite(x) and np.isfinite(y)):
            continue
        edge = math.ceil(reach / scale)
        x0, x1 = max(0, math.floor(x - edge)), min(nx, math.ceil(x + edge) + 1)
        y0, y1 = max(0, math.floor(y - edge)), min(ny, math.ceil(y + edge) + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        r = scale * np.hypot(np.arange(y0, y1)[:, None] - y, np.arange(x0, x1)[None, :] - x)
        fade = np.clip((reach - r) / (0.5 * reach), 0.0, 1.0)
        fade *= np.clip((r - _BEGIN) / (_FULL - _BEGIN), 0.0, 1.0)
        off = x < 0 or y < 0 or x > nx - 1 or y > ny - 1
        out[y0:y1, x0:x1] += flux * scale**2 * fade * _profile(r, image.band, image.ccd, off)
    return out.astype(np.float32)


def subtract_halos(images: Sequence[FitImage], references: Table) -> None:
    """Take the halos of bright stars off the exposures, in place.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures.
    references : Table
        Reference sources.
    """
    if not len(references):
        return
    for image in images:
        image.image -= halo_image(image, references)

"""Fluxes in apertures of the coadds, and in fibres of a spectrograph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

from skymill.data.protocols import Psf
from skymill.model.fit_image import FitImage
from skymill.model.forward import draw_patches
from skymill.model.sources import Sources
from skymill.psf.models import ConstantPsf
from skymill.release.brick.coadds import BandCoadd
from skymill.release.brick.grid import BrickGrid

__all__ = ["APERTURES", "ApertureFluxes", "aperture_fluxes", "fibre_fluxes"]

Float64Array = NDArray[np.float64]

#: Radii of the apertures [arcsec].
APERTURES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.5, 5.0, 7.0)
#: Radius of a fibre, and the seeing that it is exposed in [arcsec].
_FIBRE_RADIUS, _FIBRE_SEEING = 0.75, 1.0


@dataclass
class ApertureFluxes:
    """Fluxes (n, 8) in apertures of one band.

    Parameters
    ----------
    flux, residual, blob_residual : float64 [nanomaggy]
        Of the coadd, and of it without the model and the model of blobs.
    weight : float64 [1/nanomaggy2]
        Inverse variance; 0 where no pixel is usable.
    masked : float64
        Part of the area without usable pixels.
    """

    flux: Float64Array
    residual: Float64Array
    blob_residual: Float64Array
    weight: Float64Array
    masked: Float64Array


def _sums(plane: Float64Array, x: Float64Array, y: Float64Array, radius: float) -> Float64Array:
    total, _, _ = sep.sum_circle(np.ascontiguousarray(plane), x, y, radius, subpix=0)
    return np.asarray(total)


def aperture_fluxes(
    coadd: BandCoadd, x: Float64Array, y: Float64Array, pixel_scale: float
) -> ApertureFluxes:
    """Sum the usable pixels of a coadd around positions.

    Parameters
    ----------
    coadd : BandCoadd
        The band.
    x, y : (n,) float64 [pixel]
        Positions.
    pixel_scale : float [arcsec]
        Width of a pixel.

    Returns
    -------
    ApertureFluxes
        The fluxes.
    """
    good = coadd.weight > 0
    variance = np.where(good, 1.0 / np.where(good, coadd.weight, 1.0), 0.0).astype(np.float64)
    ones = np.ones(good.shape)
    planes = [
        np.where(good, p, 0.0).astype(np.float64)
        for p in (
            coadd.image,
            coadd.image.astype(float) - coadd.model,
            coadd.image.astype(float) - coadd.blob_model,
        )
    ]
    planes += [variance, (~good).astype(np.float64), ones]
    out = np.zeros((6, x.size, len(APERTURES)))
    if x.size:
        for k, radius in enumerate(APERTURES):
            for p, plane in enumerate(planes):
                out[p, :, k] = _sums(plane, x, y, radius / pixel_scale)
    weight = np.divide(1.0, out[3], out=np.zeros_like(out[3]), where=out[3] > 0)
    masked = np.divide(out[4], out[5], out=np.zeros_like(out[4]), where=out[5] > 0)
    return ApertureFluxes(out[0], out[1], out[2], weight, masked)


def _seeing_psf(pixel_scale: float) -> Psf:
    """Values of a Gaussian: the aperture's pixels smooth it once, as those of an image would."""
    sigma = _FIBRE_SEEING / 2.35482 / pixel_scale
    half = math.ceil(6 * sigma)
    r2 = np.arange(-half, half + 1)[:, None] ** 2 + np.arange(-half, half + 1)[None, :] ** 2
    stamp = np.exp(-0.5 * r2 / sigma**2)
    return ConstantPsf((stamp / stamp.sum()).astype(np.float32))


def fibre_fluxes(
    grid: BrickGrid,
    sources: Sources,
    x: Float64Array,
    y: Float64Array,
    bands: Sequence[str],
    at_x: Float64Array,
    at_y: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Model fluxes in a fibre of 1.5 arcsec under 1 arcsec seeing.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    sources : Sources
        Fitted sources (n).
    x, y : (n,) float64 [pixel]
        Their places.
    bands : sequence of str
        Columns of their fluxes.
    at_x, at_y : (m,) float64 [pixel]
        Places of the fibres for the total.

    Returns
    -------
    own : (n, n_band) float64 [nanomaggy]
        Of each source alone.
    total : (m, n_band) float64 [nanomaggy]
        Of all sources, at the given places.
    """
    n = len(sources)
    unit = sources.at(np.arange(n))
    unit.flux[:] = 1.0
    radius = _FIBRE_RADIUS / grid.pixel_scale
    blank = np.zeros(grid.shape, np.float32)
    image = FitImage(
        image=blank, inverse_error=blank, quality=blank.astype(np.int32), band=bands[0],
        wcs=grid.wcs, psf=_seeing_psf(grid.pixel_scale), sigma1=1e-6, fwhm=1.0,
    )  # fmt: skip
    share = np.zeros(n)
    totals = np.zeros((len(bands), *grid.shape))
    for source, x0, y0, patch in draw_patches(unit, image, bands=bands):
        share[source] = _sums(
            patch, np.array([x[source] - x0]), np.array([y[source] - y0]), radius
        )[0]
        h, w = patch.shape
        for band in range(len(bands)):
            flux = float(sources.flux[source, band])
            if flux != 0.0:
                totals[band, y0 : y0 + h, x0 : x0 + w] += flux * patch
    total = np.zeros((at_x.size, len(bands)))
    for band in range(len(bands)):
        if at_x.size:
            total[:, band] = _sums(totals[band], at_x, at_y, radius)
    return share[:, None] * sources.flux, total

"""Coadds of a brick: image, weight, models, depth, PSF size and masks of each band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.geometry import local_jacobian
from skymill.model.fit_image import FitImage
from skymill.release.brick._brick_kernels import add_exposure, add_image
from skymill.release.brick._filter_kernels import fill_masked
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.mapping import STEP, PixelMap, map_pixels

__all__ = ["BandCoadd", "coadd_band", "coadd_bands", "filled_image", "mean_image", "psf_areas"]

Float32Array = NDArray[np.float32]

#: FWHM over the square root of the effective area of a Gaussian: 2.35482 / (2 sqrt(pi)).
_WIDTH = 2.0 * math.sqrt(2.0 * math.log(2.0)) / (2.0 * math.sqrt(math.pi))


@dataclass
class BandCoadd:
    """Coadds of one band, all (ny, nx) in pixels of the brick.

    Parameters
    ----------
    band : str
        Filter.
    image, model, blob_model : float32 [nanomaggy]
        Weighted means; where all exposures are masked, the mean of their filled pixels.
    weight : float32 [1/nanomaggy2]
        Inverse variance; 0 where all exposures are masked.
    chi2 : float32
        Sum over the exposures of squared residuals over their variance.
    depth, galaxy_depth : float32 [1/nanomaggy2]
        Inverse variance of the flux of a point source, and of a round exponential galaxy of 0.45".
    psf_size : float32 [arcsec]
        FWHM of the PSF of the weighted mean.
    n_exposures : int16
        Exposures with a usable pixel.
    all_mask, any_mask : int32
        Quality bits that all, or any, of the exposures have.
    n_covering : int16
        Exposures, usable or not.
    """

    band: str
    image: Float32Array
    weight: Float32Array
    model: Float32Array
    blob_model: Float32Array
    chi2: Float32Array
    depth: Float32Array
    galaxy_depth: Float32Array
    psf_size: Float32Array
    n_exposures: NDArray[np.int16]
    n_covering: NDArray[np.int16]
    all_mask: NDArray[np.int32]
    any_mask: NDArray[np.int32]


def filled_image(image: FitImage) -> Float32Array:
    """Pixels with the masked ones filled from their neighbours.

    Parameters
    ----------
    image : FitImage
        An exposure.

    Returns
    -------
    (ny, nx) float32
        A copy without holes.
    """
    out = image.image.astype(np.float32, copy=True)
    good = image.inverse_error > 0
    if not good.all():
        fill_masked(out, good.copy(), max(out.shape))
    return out


def psf_areas(image: FitImage) -> tuple[float, float]:
    """Root of the summed squares of the PSF, and of a galaxy of 0.45 arcsec.

    Parameters
    ----------
    image : FitImage
        The exposure.

    Returns
    -------
    psf_norm, galaxy_norm : float [1/pixel]
        ``sqrt(sum p^2)`` of unit-flux images at the middle of the cut-out.
    """
    ny, nx = image.image.shape
    x, y = np.array([float(nx // 2)]), np.array([float(ny // 2)])
    stamp = np.asarray(image.psf.draw(x=x, y=y)[0], np.float64)
    scale = math.sqrt(abs(np.linalg.det(local_jacobian(image.wcs, x=x, y=y)[0])))
    n = stamp.shape[0]
    # A round exponential galaxy in Fourier space: (1 + (2 pi k h)^2)^(-3/2), h the scale length.
    length = 0.45 / 1.67834699 / scale
    padded = 2 * n
    k = np.fft.fftfreq(padded)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    galaxy = (1.0 + (2 * np.pi * length) ** 2 * k2) ** -1.5
    spectrum = np.fft.fft2(stamp, (padded, padded)) * galaxy
    blurred = np.fft.ifft2(spectrum).real
    return float(np.sqrt((stamp**2).sum())), float(np.sqrt((blurred**2).sum()))


def coadd_band(
    images: Sequence[FitImage],
    grid: BrickGrid,
    *,
    models: Sequence[Float32Array] | None = None,
    blob_models: Sequence[Float32Array] | None = None,
    maps: Sequence[PixelMap] | None = None,
    norms: Sequence[tuple[float, float]] | None = None,
) -> BandCoadd:
    """Coadd the exposures of one band.

    Parameters
    ----------
    images : sequence of FitImage
        At least one.
    grid : BrickGrid
        The brick.
    models, blob_models : sequence of (ny, nx) float32 [nanomaggy], optional
        Models of each exposure; zero if omitted.
    maps : sequence of PixelMap, optional
        As `map_pixels` gives them, if they are known.
    norms : sequence of (float, float), optional
        As `psf_areas` gives them, if they are known.

    Returns
    -------
    BandCoadd
        The coadds.
    """
    ny, nx = grid.shape
    sums = np.zeros((10, ny, nx), np.float32)
    counts = np.zeros((2, ny, nx), np.int16)
    masks = np.zeros((2, ny, nx), np.int32)
    for k, image in enumerate(images):
        mapping = map_pixels(image, grid) if maps is None else maps[k]
        if not mapping:
            continue
        planes = np.zeros((3, *image.image.shape), np.float32)
        planes[0] = filled_image(image)
        if models is not None:
            planes[1] = models[k]
        if blob_models is not None:
            planes[2] = blob_models[k]
        norm = psf_areas(image) if norms is None else norms[k]
        own_scale = grid.pixel_scale / math.sqrt(mapping.scale)
        depths = np.array(
            [
                (norm[0] / image.sigma1) ** 2,
                (norm[1] / image.sigma1) ** 2,
                (norm[0] / own_scale) ** 2,
            ]
        )
        add_exposure(
            planes, image.inverse_error, image.quality, mapping.nodes, STEP, mapping.x0,
            mapping.y0, mapping.width, mapping.height, mapping.scale, depths, sums, counts, masks,
        )  # fmt: skip
    return _finish(images[0].band, sums, counts, masks)


def mean_image(
    images: Sequence[FitImage], grid: BrickGrid, maps: Sequence[PixelMap]
) -> tuple[Float32Array, Float32Array]:
    """Weighted mean of exposures, nothing else.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures of one band.
    grid : BrickGrid
        The brick.
    maps : sequence of PixelMap
        Of each exposure.

    Returns
    -------
    image, weight : (ny, nx) float32 [nanomaggy, 1/nanomaggy2]
        Both 0 where no exposure is usable.
    """
    sums = np.zeros((2, *grid.shape), np.float32)
    for image, mapping in zip(images, maps, strict=True):
        if mapping:
            add_image(
                filled_image(image), image.inverse_error, mapping.nodes, STEP, mapping.x0,
                mapping.y0, mapping.width, mapping.height, mapping.scale, sums,
            )  # fmt: skip
    mean = np.divide(sums[1], sums[0], out=np.zeros(grid.shape, np.float32), where=sums[0] > 0)
    return mean, sums[0]


def _finish(
    band: str, sums: Float32Array, counts: NDArray[np.int16], masks: NDArray[np.int32]
) -> BandCoadd:
    weight = sums[0]
    used = weight > 0
    safe = np.where(used, weight, np.float32(1.0))
    plain = np.maximum(counts[0], 1)

    def mean(total: Float32Array, unweighted: Float32Array) -> Float32Array:
        return np.where(used, total / safe, unweighted / plain).astype(np.float32)

    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(used, np.float32(_WIDTH) / np.sqrt(sums[8] / safe), np.float32(0.0))
    return BandCoadd(
        band=band,
        image=mean(sums[1], sums[4]),
        weight=weight.astype(np.float32),
        model=mean(sums[2], sums[9]),
        blob_model=mean(sums[3], np.zeros_like(sums[9])),
        chi2=sums[5].astype(np.float32),
        depth=sums[6].astype(np.float32),
        galaxy_depth=sums[7].astype(np.float32),
        psf_size=size.astype(np.float32),
        n_exposures=counts[1],
        n_covering=counts[0],
        all_mask=masks[0],
        any_mask=masks[1],
    )


def coadd_bands(
    images: Sequence[FitImage],
    grid: BrickGrid,
    *,
    models: Sequence[Float32Array] | None = None,
    blob_models: Sequence[Float32Array] | None = None,
    maps: Sequence[PixelMap] | None = None,
) -> Mapping[str, BandCoadd]:
    """Coadd every band that has exposures.

    Parameters
    ----------
    images : sequence of FitImage
        All exposures.
    grid : BrickGrid
        The brick.
    models, blob_models, maps
        As in `coadd_band`, for all exposures.

    Returns
    -------
    dict of str to BandCoadd
        By band, in the order of the exposures.
    """
    out: dict[str, BandCoadd] = {}
    for band in dict.fromkeys(image.band for image in images):
        own = [k for k, image in enumerate(images) if image.band == band]
        out[band] = coadd_band(
            [images[k] for k in own],
            grid,
            models=None if models is None else [models[k] for k in own],
            blob_models=None if blob_models is None else [blob_models[k] for k in own],
            maps=None if maps is None else [maps[k] for k in own],
        )
    return out

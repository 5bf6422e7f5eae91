"""The exposures of one blob: residual pixels, weights, and maps to and from the brick's pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from skymill.data.geometry import FitsWcs
from skymill.model.fit_image import FitImage

__all__ = ["BlobImage", "MovedPsf", "cut_images", "detection_snr"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: Terms of the polynomial that stands for the map between two images, less one.
_ORDER = 3


@dataclass(eq=False)
class BlobImage:
    """The part of one exposure under a blob.

    Parameters
    ----------
    source : FitImage
        The exposure.
    index : int
        Its place in the list that was given.
    band : int
        Place of its band.
    x0, y0 : int [pixel]
        First pixel of the part.
    residual : (ny, nx) float64 [nanomaggy]
        Pixels less the models of all sources.
    weight : (ny, nx) float64
        Inverse variance; 0 outside of the blob and at masked pixels.
    brick_pixel : (ny, nx) int64
        Flat index of the nearest pixel of the blob's box; -1 outside.
    nearest : (h, w) int64
        Flat index of the nearest pixel of this part for each pixel of the blob's box; -1 outside.
    covered : (ny, nx) float64
        Usable pixels, smoothed with the PSF.
    """

    source: FitImage
    index: int
    band: int
    x0: int
    y0: int
    residual: Float64Array
    weight: Float64Array
    brick_pixel: NDArray[np.int64]
    nearest: NDArray[np.int64]
    covered: Float64Array

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian that stands for the PSF [pixel]."""
        return max(self.source.fwhm, 1.0) / 2.3548

    def keep(self, mask: BoolArray) -> BoolArray:
        """Which pixels lie in a mask of the blob's box.

        Parameters
        ----------
        mask : (h, w) bool
            On the pixels of the brick.

        Returns
        -------
        (ny, nx) bool
            On those of the exposure.
        """
        flat = np.append(mask.ravel(), False)
        return np.asarray(flat[self.brick_pixel])


class _PixelMap:
    """A cubic polynomial for the map from pixels of one image to those of another."""

    def __init__(self, start: FitsWcs, end: FitsWcs, box: tuple[float, float, float, float]):
        x0, x1, y0, y1 = box
        self.centre = (0.5 * (x0 + x1), 0.5 * (y0 + y1))
        self.half = (max(0.5 * (x1 - x0), 1.0), max(0.5 * (y1 - y0), 1.0))
        t = np.cos(np.pi * (np.arange(6) + 0.5) / 6)
        u, v = (a.ravel() for a in np.meshgrid(t, t))
        ra, dec = start.pixel_to_sky(
            x=self.centre[0] + u * self.half[0], y=self.centre[1] + v * self.half[1]
        )
        x, y = end.sky_to_pixel(ra=ra, dec=dec)
        good = np.isfinite(x) & np.isfinite(y)
        self.usable = bool(good.sum() >= 20)
        basis = np.stack([u**i * v**j for i in range(_ORDER + 1) for j in range(_ORDER + 1)], 1)
        if self.usable:
            both = np.stack([x[good], y[good]], 1)
            terms = np.linalg.lstsq(basis[good], both, rcond=None)[0]
            self.terms = terms.reshape(_ORDER + 1, _ORDER + 1, 2)

    def on_grid(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Positions (len(y), len(x)) of a grid of pixels."""
        u = ((x - self.centre[0]) / self.half[0])[:, None] ** np.arange(_ORDER + 1)
        v = ((y - self.centre[1]) / self.half[1])[:, None] ** np.arange(_ORDER + 1)
        return (
            np.asarray(v @ self.terms[:, :, 0].T @ u.T),
            np.asarray(v @ self.terms[:, :, 1].T @ u.T),
        )


def cut_images(
    images: Sequence[FitImage],
    *,
    bands: Sequence[str],
    wcs: FitsWcs,
    x0: int,
    y0: int,
    mask: BoolArray,
) -> list[BlobImage]:
    """The parts of exposures under a blob.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures of the brick.
    bands : sequence of str
        Names of the bands.
    wcs : FitsWcs
        Of the brick.
    x0, y0 : int [pixel]
        First pixel of the blob's box on the brick.
    mask : (h, w) bool
        The blob.

    Returns
    -------
    list of BlobImage
        Those that have a usable pixel in the blob.
    """
    h, w = mask.shape
    out = []
    for index, image in enumerate(images):
        if image.band not in bands:
            continue
        box = (x0 - 0.5, x0 + w - 0.5, y0 - 0.5, y0 + h - 0.5)
        to_image = _PixelMap(wcs, image.wcs, box)
        if not to_image.usable:
            continue
        px, py = to_image.on_grid(
            np.arange(x0, x0 + w, dtype=np.float64), np.arange(y0, y0 + h, dtype=np.float64)
        )
        ny, nx = image.shape
        left, right = max(0, math.floor(px.min()) - 1), min(nx, math.ceil(px.max()) + 2)
        low, high = max(0, math.floor(py.min()) - 1), min(ny, math.ceil(py.max()) + 2)
        if right - left < 1 or high - low < 1:
            continue
        to_brick = _PixelMap(image.wcs, wcs, (left - 0.5, right - 0.5, low - 0.5, high - 0.5))
        if not to_brick.usable:
            continue
        part = _cut(image, index, list(bands).index(image.band), (left, right, low, high))
        qx, qy = to_brick.on_grid(
            np.arange(left, right, dtype=np.float64), np.arange(low, high, dtype=np.float64)
        )
        part.brick_pixel = _flat(qx - x0, qy - y0, w, h)
        part.nearest = _flat(px - left, py - low, right - left, high - low)
        part.weight[~part.keep(mask)] = 0.0
        if not (part.weight > 0).any():
            continue
        part.covered = gaussian_filter((part.weight > 0).astype(np.float64), part.sigma,
                                       mode="constant", truncate=4.0)  # fmt: skip
        out.append(part)
    return out


def _flat(x: Float64Array, y: Float64Array, width: int, height: int) -> NDArray[np.int64]:
    column, row = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return np.where(inside, row * width + column, -1)


def _cut(image: FitImage, index: int, band: int, box: tuple[int, int, int, int]) -> BlobImage:
    left, right, low, high = box
    pixels = image.image[low:high, left:right].astype(np.float64)
    weight = image.inverse_error[low:high, left:right].astype(np.float64) ** 2
    bad = ~(np.isfinite(pixels) & np.isfinite(weight))
    pixels[bad] = 0.0
    weight[bad] = 0.0
    empty = np.empty((0, 0), np.int64)
    return BlobImage(
        source=image,
        index=index,
        band=band,
        x0=left,
        y0=low,
        residual=pixels,
        weight=weight,
        brick_pixel=empty,
        nearest=empty,
        covered=np.empty((0, 0)),
    )


def detection_snr(
    images: Sequence[BlobImage],
    pixels: Sequence[Float64Array],
    n_band: int,
    box: tuple[int, int, int, int],
) -> Float64Array:
    """Signal-to-noise ratio of a point source at each pixel of a part of the blob, in each band.

    Parameters
    ----------
    images : sequence of BlobImage
        Exposures.
    pixels : sequence of (ny, nx) float64 [nanomaggy]
        What to detect on.
    n_band : int
        Number of bands.
    box : (x0, x1, y0, y1)
        Part of the blob's box.

    Returns
    -------
    (n_band, h, w) float64
        0 where a band has no data.
    """
    left, right, low, high = box
    signal = np.zeros((n_band, high - low, right - left))
    weight = np.zeros_like(signal)
    for image, values in zip(images, pixels, strict=True):
        flat = image.nearest[low:high, left:right]
        found = flat >= 0
        if not found.any():
            continue
        ny, nx = image.residual.shape
        rows, columns = flat[found] // nx, flat[found] % nx
        pad = math.ceil(4.0 * image.sigma)
        top, bottom = max(0, int(rows.min()) - pad), min(ny, int(rows.max()) + pad + 1)
        first, last = max(0, int(columns.min()) - pad), min(nx, int(columns.max()) + pad + 1)
        part = np.where(image.weight[top:bottom, first:last] > 0,
                        values[top:bottom, first:last], 0.0)  # fmt: skip
        smooth = gaussian_filter(part, image.sigma, mode="constant", truncate=4.0)
        noise = image.source.sigma1**2
        area = 4.0 * math.pi * image.sigma**2
        signal[image.band][found] += smooth[rows - top, columns - first] / noise
        weight[image.band][found] += image.covered[rows, columns] / (noise * area)
    return np.asarray(
        np.where(weight > 0, signal / np.sqrt(np.where(weight > 0, weight, 1.0)), 0.0)
    )


@dataclass(frozen=True, eq=False)
class MovedPsf:
    """The PSF of an image in pixels of its cut-out."""

    psf: object
    x0: float
    y0: float

    @property
    def stamp_size(self) -> int:
        """Natural width of a stamp [pixel]."""
        return int(self.psf.stamp_size)  # type: ignore[attr-defined]

    def draw(
        self,
        *,
        x: Float64Array,
        y: Float64Array,
        size: int | None = None,
        offset_x: Float64Array | None = None,
        offset_y: Float64Array | None = None,
    ) -> NDArray[np.float32]:
        """Draw the PSF at many positions; see `skymill.data.protocols.Psf.draw`."""
        drawn: NDArray[np.float32] = self.psf.draw(  # type: ignore[attr-defined]
            x=np.asarray(x) + self.x0,
            y=np.asarray(y) + self.y0,
            size=size,
            offset_x=offset_x,
            offset_y=offset_y,
        )
        return drawn

"""Pixels that differ between the exposures of a band: cosmic rays, trails, ghosts, asteroids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from skymill.model.fit_image import FitImage
from skymill.release.brick._coadd_kernels import resample_planes
from skymill.release.brick.bits import Quality
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.mapping import PixelMap

__all__ = ["OUTLIER_NEGATIVE", "OUTLIER_POSITIVE", "find_outliers", "mask_outliers"]

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Bits of the outlier-mask files.
OUTLIER_POSITIVE, OUTLIER_NEGATIVE = 1, 2

#: Significance and relative difference of the seeds of an outlier.
_SEED_SIGMA, _SEED_RATIO = 5.0, 2.0
#: Gaia stars are not outliers within this radius [arcsec].
_STAR_RADIUS = 1.0
#: Uncertainty of the light of the other exposures because of their seeing.
_WING_ERROR = 0.5
#: Pixels with a smaller part of usable surroundings have no blurred value.
_LEAST_SHARE = 0.05


def _star_veto(references: Table, grid: BrickGrid) -> BoolArray:
    veto = np.zeros(grid.shape, bool)
    radius = _STAR_RADIUS / grid.pixel_scale
    for row in references[np.asarray(references["is_gaia"], bool)]:
        x, y = float(row["x"]), float(row["y"])
        x0, x1 = max(0, math.floor(x - radius)), min(grid.width, math.ceil(x + radius) + 1)
        y0, y1 = max(0, math.floor(y - radius)), min(grid.height, math.ceil(y + radius) + 1)
        if x0 < x1 and y0 < y1:
            dx, dy = np.arange(x0, x1)[None, :] - x, np.arange(y0, y1)[:, None] - y
            veto[y0:y1, x0:x1] |= dx**2 + dy**2 < radius**2
    return veto


def _blurred(image: FitImage, sigma: float, mapping: PixelMap) -> tuple[Float32Array, Float32Array]:
    """Blurred pixels and their weight at the brick's pixels that the exposure covers."""
    good = (image.inverse_error > 0).astype(np.float32)
    # Masked pixels hold anything: their light must not leak onto their neighbours.
    share = gaussian_filter(good, sigma)
    blurred = gaussian_filter(image.image * good, sigma)
    blurred = np.divide(blurred, share, out=np.zeros_like(blurred), where=share > _LEAST_SHARE)
    values = np.empty((1, mapping.x.size), np.float32)
    resample_planes(blurred[None], mapping.x, mapping.y, values)
    norm = 1.0 / (2.0 * math.sqrt(math.pi) * sigma)
    row, column = mapping.nearest
    weight = (image.inverse_error[row, column] / np.float32(norm)) ** 2
    return values[0], weight.astype(np.float32)


def _grow(seed: BoolArray, significance: Float32Array) -> BoolArray:
    """Add the connected surroundings that differ less, for one sign."""
    out = binary_dilation(seed, iterations=1)
    out |= binary_dilation(out, iterations=5) & (significance > 3.0)
    out = binary_dilation(out, iterations=1)
    out |= binary_dilation(out, iterations=5) & (significance > 2.0)
    return np.asarray(binary_dilation(out, iterations=3))


def _compare(
    value: Float32Array, weight: Float32Array, other: Float32Array, other_weight: Float32Array
) -> tuple[Float32Array, Float32Array]:
    """Significance, and difference relative to the other exposures."""
    used = weight > 0
    noise = 1.0 / math.sqrt(float(np.median(weight[used]))) if used.any() else math.inf
    difference = value - other
    with np.errstate(divide="ignore", invalid="ignore"):
        # Blurring with a Gaussian does not make the wings of two seeings alike: they differ by a
        # part of the light.
        wings = _WING_ERROR * np.maximum(other, 0.0)
        significance = difference / np.sqrt(1.0 / weight + 1.0 / other_weight + wings**2)
        ratio = difference / np.maximum(other, noise)
    usable = used & (other_weight > 1e-16)
    return (
        np.where(usable, significance, 0.0).astype(np.float32),
        np.where(usable, ratio, 0.0).astype(np.float32),
    )


def find_outliers(
    images: Sequence[FitImage],
    grid: BrickGrid,
    maps: Sequence[PixelMap],
    references: Table,
) -> list[NDArray[np.uint8]]:
    """Find outliers among the exposures of one band.

    Each exposure, blurred to one PSF, is compared with the weighted mean of the others (without
    their largest and smallest values where there are five or more).

    Parameters
    ----------
    images : sequence of FitImage
        Exposures of one band.
    grid : BrickGrid
        The brick.
    maps : sequence of PixelMap
        Where the brick's pixels lie on each exposure.
    references : Table
        Reference sources: pixels at Gaia stars are kept.

    Returns
    -------
    list of (ny, nx) uint8
        For each exposure: `OUTLIER_POSITIVE`, `OUTLIER_NEGATIVE` or 0.
    """
    masks = [np.zeros(image.image.shape, np.uint8) for image in images]
    if len(images) < 2:
        return masks
    sigmas = np.array([image.fwhm / 2.35 for image in images])
    blur = np.sqrt((sigmas.max() + 0.5) ** 2 - sigmas**2)
    sums = np.zeros((2, *grid.shape), np.float64)
    bits = np.zeros(grid.shape, np.int32)
    extreme = _Extremes(grid.shape) if len(images) >= 5 else None
    seen = []
    for image, sigma, mapping in zip(images, blur, maps, strict=True):
        value, weight = _blurred(image, float(sigma), mapping)
        at = mapping.row, mapping.column
        sums[0][at] += weight
        sums[1][at] += value.astype(np.float64) * weight
        row, column = mapping.nearest
        bits[at] |= image.quality[row, column]
        if extreme is not None:
            extreme.add(at, value, weight)
        seen.append((value, weight))
    veto = _star_veto(references, grid)
    veto |= binary_dilation((bits & Quality.SATUR) != 0, iterations=10)
    veto |= binary_dilation((bits & Quality.BLEED) != 0, iterations=3)
    for k, (image, mapping) in enumerate(zip(images, maps, strict=True)):
        value, weight = seen[k]
        at = mapping.row, mapping.column
        other_weight, other_sum = sums[0][at] - weight, sums[1][at] - value.astype(float) * weight
        if extreme is not None:
            other_weight, other_sum = extreme.without(at, value, weight, other_weight, other_sum)
        positive = other_weight > 1e-16
        other = np.where(positive, other_sum / np.where(positive, other_weight, 1.0), 0.0)
        significance, ratio = _compare(
            value, weight, other.astype(np.float32), np.where(positive, other_weight, 0.0)
        )
        masks[k] = _mask_one(image, grid, mapping, significance, ratio, veto)
    return masks


class _Extremes:
    """The largest and smallest value of each pixel, with their weights."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.value = np.stack([np.full(shape, np.inf), np.full(shape, -np.inf)])
        self.weight = np.zeros((2, *shape))
        self.count = np.zeros(shape, np.int16)

    def add(
        self, at: tuple[NDArray[np.int64], NDArray[np.int64]], value: Float32Array,
        weight: Float32Array,
    ) -> None:  # fmt: skip
        used = weight > 0
        place = at[0][used], at[1][used]
        v, w = value[used].astype(np.float64), weight[used]
        self.count[place] += 1
        for k, better in ((0, v < self.value[0][place]), (1, v > self.value[1][place])):
            here = place[0][better], place[1][better]
            self.value[k][here], self.weight[k][here] = v[better], w[better]

    def without(
        self,
        at: tuple[NDArray[np.int64], NDArray[np.int64]],
        value: Float32Array,
        weight: Float32Array,
        other_weight: NDArray[np.float64],
        other_sum: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight and sum of the others without the extremes, where five or more were added."""
        enough = self.count[at] >= 5
        out_weight, out_sum = other_weight.copy(), other_sum.copy()
        for k in (0, 1):
            extreme, own_weight = self.value[k][at], self.weight[k][at]
            # The exposure itself is out already.
            take = enough & np.isfinite(extreme) & (extreme != value.astype(np.float64))
            out_weight[take] -= own_weight[take]
            out_sum[take] -= own_weight[take] * extreme[take]
        return out_weight, out_sum


def _mask_one(
    image: FitImage,
    grid: BrickGrid,
    mapping: PixelMap,
    significance: Float32Array,
    ratio: Float32Array,
    veto: BoolArray,
) -> NDArray[np.uint8]:
    """Outliers of one exposure, in its own pixels."""
    out = np.zeros(image.image.shape, np.uint8)
    at = mapping.row, mapping.column
    for bit, sign in ((OUTLIER_POSITIVE, 1.0), (OUTLIER_NEGATIVE, -1.0)):
        hot = (sign * significance > _SEED_SIGMA) & (sign * ratio > _SEED_RATIO) & ~veto[at]
        if not hot.any():
            continue
        seed = np.zeros(grid.shape, bool)
        seed[at] = hot
        levels = np.zeros(grid.shape, np.float32)
        levels[at] = sign * significance
        out[_on_exposure(image, grid, _grow(seed, levels))] = bit
    return out


def _on_exposure(image: FitImage, grid: BrickGrid, mask: BoolArray) -> BoolArray:
    """A mask of the brick's pixels at the nearest pixels of the exposure."""
    rows, columns = np.nonzero(mask)
    box = np.zeros(image.image.shape, bool)
    if not rows.size:
        return box
    ny, nx = image.image.shape
    ra, dec = grid.wcs.pixel_to_sky(
        x=np.array([columns.min() - 1, columns.max() + 1, columns.max() + 1, columns.min() - 1.0]),
        y=np.array([rows.min() - 1, rows.min() - 1, rows.max() + 1, rows.max() + 1.0]),
    )
    x, y = image.wcs.sky_to_pixel(ra=ra, dec=dec)
    x0, x1 = max(0, math.floor(x.min())), min(nx, math.ceil(x.max()) + 1)
    y0, y1 = max(0, math.floor(y.min())), min(ny, math.ceil(y.max()) + 1)
    if x0 >= x1 or y0 >= y1:
        return box
    gx, gy = np.meshgrid(np.arange(x0, x1, dtype=float), np.arange(y0, y1, dtype=float))
    ra, dec = image.wcs.pixel_to_sky(x=gx.ravel(), y=gy.ravel())
    u, v = grid.wcs.sky_to_pixel(ra=ra, dec=dec)
    column, row = np.floor(u + 0.5).astype(int), np.floor(v + 0.5).astype(int)
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    hit = np.zeros(inside.shape, bool)
    hit[inside] = mask[row[inside], column[inside]]
    box[y0:y1, x0:x1] = hit.reshape(gx.shape)
    return box


def mask_outliers(image: FitImage, mask: NDArray[np.uint8]) -> None:
    """Give the outliers of an exposure no weight, in place.

    Parameters
    ----------
    image : FitImage
        The exposure.
    mask : (ny, nx) uint8
        Of `find_outliers`.
    """
    hit = mask != 0
    image.inverse_error[hit] = 0.0
    image.quality[hit] |= np.int32(Quality.OUTLIER)

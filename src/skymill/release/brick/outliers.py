"""Pixels that differ between the exposures of a band: cosmic rays, trails, ghosts, asteroids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.model.fit_image import FitImage
from skymill.release.brick._brick_kernels import collect, compare, mark, resample
from skymill.release.brick.bits import Quality
from skymill.release.brick.filters import blurred, grow_mask
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.mapping import STEP, PixelMap

__all__ = ["OUTLIER_NEGATIVE", "OUTLIER_POSITIVE", "find_outliers", "mask_outliers"]

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Bits of the outlier-mask files.
OUTLIER_POSITIVE, OUTLIER_NEGATIVE = 1, 2

#: Significance and relative difference of the seeds of an outlier.
_SEED_SIGMA, _SEED_RATIO = 5.0, 2.0
#: From this number of exposures on, the largest and the smallest of the others do not count.
_FEWEST = 5
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


def _blurred_values(image: FitImage, sigma: float, mapping: PixelMap) -> Float32Array:
    """Blurred pixels at the pixels of the brick's box that the exposure covers."""
    # Masked pixels hold anything: their light must not leak onto their neighbours.
    total, share = blurred(image.image, image.inverse_error > 0, sigma)
    np.divide(total, share, out=total, where=share > _LEAST_SHARE)
    total[share <= _LEAST_SHARE] = 0.0
    values = np.empty(mapping.shape, np.float32)
    resample(total, mapping.nodes, STEP, values)
    return values


def _grow(seed: BoolArray, significance: Float32Array) -> None:
    """Add the connected surroundings that differ less, for one sign."""
    grow_mask(seed, 1)
    grow_mask(seed, 5, significance, 3.0)
    grow_mask(seed, 1)
    grow_mask(seed, 5, significance, 2.0)
    grow_mask(seed, 3)


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
    band = _Band(grid.shape, extremes=len(images) >= _FEWEST)
    values = []
    for image, sigma, mapping in zip(images, blur, maps, strict=True):
        values.append(_blurred_values(image, float(sigma), mapping))
        if mapping:
            collect(
                values[-1], image.inverse_error, image.quality, _norm(sigma), mapping.nodes, STEP,
                mapping.x0, mapping.y0, band.sums, band.extremes, band.count, band.bits,
            )  # fmt: skip
    veto = _star_veto(references, grid)
    for bit, reach in ((Quality.SATUR, 10), (Quality.BLEED, 3)):
        near = (band.bits & int(bit)) != 0
        grow_mask(near, reach)
        veto |= near
    for image, sigma, mapping, value, mask in zip(images, blur, maps, values, masks, strict=True):
        if mapping:
            _mask_one(image, mapping, value, float(sigma), band, veto, mask)
    return masks


def _norm(sigma: float) -> float:
    """Root of the summed squares of a Gaussian [1/pixel]."""
    return 1.0 / (2.0 * math.sqrt(math.pi) * float(sigma))


class _Band:
    """Sums over the exposures of a band, and the extremes of each pixel with their weights."""

    def __init__(self, shape: tuple[int, int], *, extremes: bool) -> None:
        self.sums = np.zeros((2, *shape), np.float32)
        self.bits = np.zeros(shape, np.int32)
        wanted = shape if extremes else (0, 0)
        self.extremes = np.zeros((4, *wanted), np.float32)
        self.count = np.zeros(wanted, np.int16)


def _mask_one(
    image: FitImage,
    mapping: PixelMap,
    values: Float32Array,
    sigma: float,
    band: _Band,
    veto: BoolArray,
    out: NDArray[np.uint8],
) -> None:
    """Outliers of one exposure into out, its own pixels."""
    good = image.inverse_error > 0
    if not good.any():
        return
    norm = _norm(sigma)
    noise = norm / float(np.median(image.inverse_error[good]))
    seeds = np.empty(mapping.shape, np.uint8)
    significance = np.empty(mapping.shape, np.float32)
    limits = np.array([_SEED_SIGMA, _SEED_RATIO, _FEWEST])
    seen = compare(
        values, image.inverse_error, norm, noise, _WING_ERROR, limits, veto, mapping.nodes, STEP,
        mapping.x0, mapping.y0, band.sums, band.extremes, band.count, seeds, significance,
    )  # fmt: skip
    for bit in (OUTLIER_POSITIVE, OUTLIER_NEGATIVE):
        if seen & bit:
            mask = seeds == bit
            _grow(mask, significance if bit == OUTLIER_POSITIVE else -significance)
            mark(mask, mapping.x0, mapping.y0, mapping.inverse, STEP, np.uint8(bit), out)


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

"""Sky correction: one sky for the whole focal plane instead of one for each CCD.

The background of a single CCD follows the faint outskirts of large galaxies and of stars and so
removes their light. Here the sky of all CCDs of a visit is modelled at once on a grid in the focal
plane, with objects and their outskirts left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.coadd._sky_kernels import sum_bins
from skymill.data.errors import NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.measure.background import Background, BackgroundList

__all__ = [
    "FocalPlaneModel",
    "MaskObjectsOptions",
    "ModelOptions",
    "SkySample",
    "correct_sky",
    "sample_sky",
]

Float64Array = NDArray[np.float64]

#: Pixels that are not sky.
_NOT_SKY = UNUSABLE | MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE | MaskPlane.SUSPECT


@dataclass(frozen=True, kw_only=True)
class MaskObjectsOptions:
    """How objects and their outskirts are left out of the sky."""

    binning: int = option(64, "width of the superpixels of which the sky is made", unit="pixel")
    block: int = option(8, "width of the blocks that are searched for outskirts", unit="pixel")
    threshold: float = option(2.5, "height of a block above its surroundings", unit="sigma")
    grow: int = option(1, "growth of the outskirts", unit="block")
    nIter: int = option(3, "rounds of the search")
    surroundings: int = option(1024, "width of the surroundings", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "binning", low=8)
        check_range(self, "block", low=1, high=self.binning)
        check_range(self, "threshold", low=1.0)
        check_range(self, "grow", low=0, high=16)
        check_range(self, "nIter", low=1, high=20)
        check_range(self, "surroundings", low=self.binning)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A grid of sky levels in the focal plane."""

    size: float = option(61.44, "width of a bin", unit="mm")
    minFrac: float = option(0.1, "share of good pixels below which a bin is filled from others")
    smoothScale: float = option(0.0, "width of the Gaussian smoothing of the bins", unit="bin")

    def __post_init__(self) -> None:
        check_range(self, "size", low=0.0, low_open=True)
        check_range(self, "minFrac", low=0.0, high=1.0)
        check_range(self, "smoothScale", low=0.0)


@dataclass(frozen=True, kw_only=True)
class SkySample:
    """The sky of one CCD in superpixels.

    Parameters
    ----------
    level : (my, mx) float64
        Mean sky of each superpixel in the image's unit; NaN without sky.
    fraction : (my, mx) float64
        Share of its pixels that are sky.
    shape : (ny, nx)
        Shape of the CCD.
    binning : int [pixel]
        Nominal width of a superpixel.
    """

    level: Float64Array
    fraction: Float64Array
    shape: tuple[int, int]
    binning: int

    def centres(self) -> tuple[Float64Array, Float64Array]:
        """Pixel positions x, y (my, mx) of the superpixels' centres."""
        ny, nx = self.shape
        my, mx = self.level.shape
        x = (np.arange(mx) + 0.5) * nx / mx - 0.5
        y = (np.arange(my) + 0.5) * ny / my - 0.5
        return tuple(np.meshgrid(x, y))  # type: ignore[return-value]


def _edges(n: int, width: int) -> NDArray[np.int64]:
    """Lower edges of boxes of nearly equal width, as `skymill.measure.background` cuts them."""
    count = max(1, round(n / width))
    return np.round(np.linspace(0, n, count + 1)).astype(np.int64)[:-1]


def _bins(n: int, width: int) -> NDArray[np.int64]:
    """Number of the box of each of n pixels."""
    return np.asarray(np.searchsorted(_edges(n, width), np.arange(n), side="right") - 1, np.int64)


def sample_sky(
    planes: PixelPlanes,
    background: NDArray[np.float32] | None = None,
    *,
    options: MaskObjectsOptions = MaskObjectsOptions(),
) -> SkySample:
    """Average the sky of a CCD in superpixels.

    Parameters
    ----------
    planes : PixelPlanes
        The CCD with its sources marked by DETECTED.
    background : (ny, nx) float32, optional
        What was subtracted from it before; it is put back.
    options : MaskObjectsOptions
        Superpixels, and the search for outskirts.

    Returns
    -------
    SkySample
        Blocks that stand out of the median of their surroundings by more than ``threshold`` robust
        widths are left out with their neighbours, ``nIter`` times, together with the masked
        pixels.
    """
    shape = planes.shape
    blocks = _bins(shape[0], options.block), _bins(shape[1], options.block)
    boxes = _bins(shape[0], options.binning), _bins(shape[1], options.binning)
    nothing = np.zeros((0, 0), bool)

    def sums(rows: Any, columns: Any, skip: NDArray[np.bool_]) -> tuple[Float64Array, Float64Array]:
        total = np.zeros((rows[-1] + 1, columns[-1] + 1))
        number = np.zeros_like(total)
        sum_bins(
            planes.image,
            np.zeros((0, 0), np.float32) if background is None else background,
            planes.mask,
            np.int32(int(_NOT_SKY)),
            rows,
            columns,
            skip,
            *blocks,
            total,
            number,
        )
        return total, number

    total, number = sums(*blocks, nothing)
    with np.errstate(invalid="ignore", divide="ignore"):
        level = total / number
    level[number < 0.25 * options.block**2] = np.nan
    total, number = sums(*boxes, _outskirts(level, options))
    area = np.outer(np.bincount(boxes[0]), np.bincount(boxes[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        sky = total / number
    sky[number == 0] = np.nan
    return SkySample(level=sky, fraction=number / area, shape=shape, binning=options.binning)


def _outskirts(level: Float64Array, options: MaskObjectsOptions) -> NDArray[np.bool_]:
    """Blocks that belong to objects."""
    width = max(1, options.surroundings // options.block)
    objects = np.zeros(level.shape, bool)
    for _ in range(options.nIter):
        sky = np.where(objects, np.nan, level)
        residual = level - _local_median(sky, width)
        quiet = residual[np.isfinite(residual) & ~objects]
        if quiet.size < 16:
            break
        sigma = 1.4826 * np.median(np.abs(quiet - np.median(quiet)))
        found = np.isfinite(residual) & (residual > options.threshold * sigma)
        # One block alone is noise: outskirts have neighbours.
        found &= ndimage.uniform_filter(found.astype(np.float32), 3, mode="nearest") > 2.5 / 9
        if options.grow:
            found = ndimage.binary_dilation(found, iterations=options.grow)
        if (found == objects).all():
            break
        objects = found
    return objects


def _local_median(values: Float64Array, width: int) -> Float64Array:
    """Median in a coarse grid of windows, interpolated linearly."""
    rows, columns = _edges(values.shape[0], width), _edges(values.shape[1], width)
    grid = np.empty((rows.size, columns.size))
    for j, y0 in enumerate(rows):
        y1 = rows[j + 1] if j + 1 < rows.size else values.shape[0]
        for i, x0 in enumerate(columns):
            x1 = columns[i + 1] if i + 1 < columns.size else values.shape[1]
            window = values[y0:y1, x0:x1]
            window = window[np.isfinite(window)]
            grid[j, i] = np.median(window) if window.size else np.nan
    grid = _fill(grid)
    y = (np.arange(values.shape[0]) + 0.5) / values.shape[0] * grid.shape[0] - 0.5
    x = (np.arange(values.shape[1]) + 0.5) / values.shape[1] * grid.shape[1] - 0.5
    where = np.meshgrid(y, x, indexing="ij")
    return np.asarray(ndimage.map_coordinates(grid, where, order=1, mode="nearest"))


def _fill(grid: Float64Array) -> Float64Array:
    """Replace NaN by the mean of the known bins, weighted by the distance to the power -4."""
    bad = ~np.isfinite(grid)
    if not bad.any():
        return grid
    if bad.all():
        return np.zeros_like(grid)
    y, x = np.nonzero(~bad)
    out = grid.copy()
    for j, i in zip(*np.nonzero(bad), strict=True):
        weight = ((y - j) ** 2.0 + (x - i) ** 2.0) ** -2.0
        out[j, i] = np.sum(weight * grid[y, x]) / np.sum(weight)
    return out


@dataclass(frozen=True, kw_only=True)
class FocalPlaneModel:
    """Sky levels on a grid of bins in the focal plane.

    Parameters
    ----------
    grid : (n_y, n_x) float64
        Level of each bin, filled.
    x0, y0 : float [mm]
        Centre of the first bin.
    size : float [mm]
        Width of a bin.
    """

    grid: Float64Array
    x0: float
    y0: float
    size: float

    def evaluate(self, *, x: Float64Array, y: Float64Array) -> Float64Array:
        """Sky level at focal-plane positions.

        Parameters
        ----------
        x, y : (...) float64 [mm]
            Positions.

        Returns
        -------
        (...) float64
            Cubic spline through the bins (of lower order for fewer than four of them), constant
            beyond the outermost.
        """
        where = [(y - self.y0) / self.size, (x - self.x0) / self.size]
        order = 3 if min(self.grid.shape) > 3 else 1
        return np.asarray(ndimage.map_coordinates(self.grid, where, order=order, mode="nearest"))

    @classmethod
    def fit(
        cls,
        samples: Mapping[int, SkySample],
        positions: Mapping[int, tuple[Float64Array, Float64Array]],
        options: ModelOptions,
    ) -> FocalPlaneModel:
        """Average the superpixels of all CCDs in bins.

        Parameters
        ----------
        samples : mapping of int to SkySample
            The CCDs.
        positions : mapping of int to (x, y) [mm]
            Focal-plane positions (my, mx) of their superpixels.
        options : ModelOptions
            The grid.

        Returns
        -------
        FocalPlaneModel
            Means of the superpixels within 3 robust widths of the median of their bin's row of
            the model, weighted with their share of sky.

        Raises
        ------
        NoDataError
            If no bin has enough sky.
        """
        x = np.concatenate([positions[d][0].ravel() for d in samples])
        y = np.concatenate([positions[d][1].ravel() for d in samples])
        level = np.concatenate([s.level.ravel() for s in samples.values()])
        weight = np.concatenate([s.fraction.ravel() for s in samples.values()])
        x0, y0 = float(x.min()), float(y.min())
        n_x = max(1, int(np.ceil((x.max() - x0) / options.size)))
        n_y = max(1, int(np.ceil((y.max() - y0) / options.size)))
        # The grid is centred on the CCDs, so that no bin is thinner than the others.
        x0 -= 0.5 * (n_x * options.size - (x.max() - x0))
        y0 -= 0.5 * (n_y * options.size - (y.max() - y0))
        column = np.clip(np.floor((x - x0) / options.size), 0, n_x - 1).astype(np.int64)
        row = np.clip(np.floor((y - y0) / options.size), 0, n_y - 1).astype(np.int64)
        index = row * n_x + column
        known = np.isfinite(level) & (weight > 0)
        if not known.any():
            raise NoDataError("no CCD of the visit has sky: all pixels are masked")
        middle = np.median(level[known])
        width = 1.4826 * np.median(np.abs(level[known] - middle))
        known &= np.abs(level - middle) <= max(10 * width, 1e-12 + 0.5 * abs(middle))
        count = np.bincount(index, minlength=n_x * n_y)
        total = np.bincount(index[known], weight[known], n_x * n_y)
        summed = np.bincount(index[known], weight[known] * level[known], n_x * n_y)
        with np.errstate(invalid="ignore", divide="ignore"):
            grid = summed / total
            grid[total < options.minFrac * np.maximum(count, 1)] = np.nan
        grid = grid.reshape(n_y, n_x)
        if not np.isfinite(grid).any():
            raise NoDataError(
                f"no bin of {options.size} mm has a share of sky of {options.minFrac} or more"
            )
        grid = _fill(grid)
        if options.smoothScale > 0:
            grid = ndimage.gaussian_filter(grid, options.smoothScale, mode="nearest")
        half = 0.5 * options.size
        return cls(grid=grid, x0=x0 + half, y0=y0 + half, size=options.size)


def correct_sky(
    samples: Mapping[int, SkySample],
    positions: Mapping[int, tuple[Float64Array, Float64Array]],
    *,
    models: tuple[ModelOptions, ...],
    before: Mapping[int, BackgroundList] | None = None,
) -> dict[int, BackgroundList]:
    """Model the sky of a visit on grids in the focal plane, one after the other.

    Parameters
    ----------
    samples : mapping of int to SkySample
        The CCDs, with the sky of single CCDs put back.
    positions : mapping of int to (x, y) [mm]
        Focal-plane positions (my, mx) of their superpixels.
    models : tuple of ModelOptions
        Grids, coarse ones first; each is fitted to what the ones before left.
    before : mapping of int to BackgroundList, optional
        The sky that was subtracted from each CCD.

    Returns
    -------
    dict of int to BackgroundList
        What to subtract from each CCD: the earlier sky with the opposite sign, then the models.
    """
    out: dict[int, BackgroundList] = {}
    for detector in samples:
        earlier = [] if before is None else list(before[detector])
        out[detector] = BackgroundList([_negative(part) for part in earlier])
    left = dict(samples)
    for options in models:
        model = FocalPlaneModel.fit(left, positions, options)
        for detector, sample in left.items():
            x, y = positions[detector]
            level = model.evaluate(x=x, y=y)
            out[detector].append(
                Background(
                    mesh=level.astype(np.float32),
                    rms=np.zeros(level.shape, np.float32),
                    shape=sample.shape,
                    box=sample.binning,
                )
            )
            left[detector] = SkySample(
                level=sample.level - level,
                fraction=sample.fraction,
                shape=sample.shape,
                binning=sample.binning,
            )
    return out


def _negative(part: Background) -> Background:
    return Background(mesh=-part.mesh, rms=part.rms, shape=part.shape, box=part.box)

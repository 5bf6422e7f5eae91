"""The sky of one CCD as a spline through medians of boxes, in the file format of the releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import uniform_filter

from skymill.data.errors import NoDataError
from skymill.data.options import check_range, option

__all__ = ["SkyModel", "SplineSkyOptions", "clipped_median", "fit_spline_sky"]

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Turns of mask and fit; the first knows a parabola over the CCD only.
_TURNS = 2

#: So many values give levels and scatters of a whole CCD.
_SAMPLE = 500_000

_PERCENTILES = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


@dataclass(frozen=True, kw_only=True)
class SplineSkyOptions:
    """How the sky is fitted."""

    box: int = option(512, "width of a box; nodes stand half a box apart", unit="pixel")
    min_boxes: int = option(3, "the box is halved until so many fit along the shorter side")
    min_box: int = option(16, "the box is never halved below this", unit="pixel")
    threshold: float = option(3.0, "sources stand out of a 5 pixel mean by more", unit="sigma")
    grow: int = option(3, "turns by which the mask of sources grows", unit="pixel")
    min_fraction: float = option(0.25, "boxes with less unmasked pixels take the global level")

    def __post_init__(self) -> None:
        check_range(self, "box", low=8)
        check_range(self, "min_boxes", low=1)
        check_range(self, "min_box", low=8)
        check_range(self, "threshold", low=0.0, low_open=True)
        check_range(self, "grow", low=0)
        check_range(self, "min_fraction", low=0.0, high=1.0)


@dataclass(frozen=True, eq=False)
class SkyModel:
    """The sky of one CCD.

    Parameters
    ----------
    x, y : (nx,), (ny,) int32 [pixel]
        Nodes.
    values : (ny, nx) float32 [unit of the image]
        Sky at the nodes.
    order : int
        Order of the spline.
    sigma : float
        Noise of a pixel.
    statistics : dict of str to float
        ``sky_mode``, ``sky_med``, ``sky_cmed``, ``sky_john``, ``sky_fmasked``, ``sky_p0`` to
        ``sky_p100``: the levels by several definitions and the residuals of unmasked pixels.
    """

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    values: Float32Array
    order: int
    sigma: float
    statistics: dict[str, float]

    def evaluate(self, shape: tuple[int, int]) -> Float32Array:
        """The level at each pixel (ny, nx)."""
        ny, nx = shape
        spline = RectBivariateSpline(
            self.x.astype(float), self.y.astype(float), self.values.T.astype(float),
            kx=self.order, ky=self.order,
        )  # fmt: skip
        return np.asarray(spline(np.arange(nx), np.arange(ny)).T, np.float32)

    def columns(self) -> dict[str, Any]:
        """Columns of the row that the files of the releases hold."""
        ny, nx = self.values.shape
        return {
            "gridw": np.int64(nx),
            "gridh": np.int64(ny),
            "gridvals": self.values.astype(np.float32),
            "xgrid": self.x.astype(np.int32),
            "ygrid": self.y.astype(np.int32),
            "skyclass": "tractor.splinesky.SplineSky",
            "x0": np.int32(0),
            "y0": np.int32(0),
            "order": np.uint8(self.order),
            "sig1": np.float32(self.sigma),
            **{name: np.float32(value) for name, value in self.statistics.items()},
        }


def clipped_median(values: Float32Array, n_sigma: float = 3.0) -> tuple[float, float]:
    """Median and scatter after clipping; of a part of the values if they are very many.

    Parameters
    ----------
    values : (n,) float32
        Values.
    n_sigma : float
        Limit.

    Returns
    -------
    median, sigma : float
        Of the values kept; sigma from the median absolute deviation.
    """
    kept = values[:: max(1, values.size // _SAMPLE)]
    for _ in range(10):
        middle = float(np.median(kept))
        sigma = 1.4826 * float(np.median(np.abs(kept - middle)))
        inside = np.abs(kept - middle) <= n_sigma * sigma if sigma > 0 else np.ones(kept.size, bool)
        if inside.all():
            break
        kept = kept[inside]
    return middle, sigma


def _sampled(values: Float32Array) -> Float32Array:
    return values[:: max(1, values.size // _SAMPLE)]


def _mode(values: Float32Array, sigma: float, middle: float) -> float:
    """Centre of the parabola through the histogram's top."""
    if not sigma > 0:
        return middle
    counts, edges = np.histogram(values, bins=61, range=(middle - 3 * sigma, middle + 3 * sigma))
    top = int(np.argmax(counts))
    part = slice(max(0, top - 6), top + 7)
    centres = 0.5 * (edges[1:] + edges[:-1])[part] - middle
    a, b, _ = np.polyfit(centres / sigma, counts[part], 2)
    peak = -b / (2 * a) if a < 0 else 0.0
    return middle + sigma * float(np.clip(peak, -3, 3))


def _mask_sources(
    residual: Float32Array, good: BoolArray, sigma: float, options: SplineSkyOptions
) -> BoolArray:
    """Where a 5 pixel mean stands off the sky, grown."""
    smooth = uniform_filter(np.where(good, residual, np.float32(0)), 5, mode="constant")
    hit = np.abs(smooth) > options.threshold * sigma / 5
    for _ in range(options.grow):
        grown = hit.copy()
        grown[1:] |= hit[:-1]
        grown[:-1] |= hit[1:]
        grown[:, 1:] |= hit[:, :-1]
        grown[:, :-1] |= hit[:, 1:]
        hit = grown
    return np.asarray(hit)


def _nodes(n: int, step: int, order: int) -> NDArray[np.int32]:
    """Nodes at most ``step`` apart that reach over both edges, enough for the spline."""
    count = max(order + 1, int(np.ceil((n + 1) / step)) + 1)
    first, last = -1, n
    if count == int(np.ceil((n + 1) / step)) + 1:
        width = (count - 1) * step
        first = -1 - (width - (n + 1)) // 2
        last = first + width
    return np.unique(np.round(np.linspace(first, last, count)).astype(np.int32))


def _box_width(shape: tuple[int, int], options: SplineSkyOptions) -> int:
    box = options.box
    while min(shape) / box < options.min_boxes and box // 2 >= options.min_box:
        box //= 2
    return box


def fit_spline_sky(
    image: Float32Array,
    weight: Float32Array,
    *,
    options: SplineSkyOptions = SplineSkyOptions(),
) -> SkyModel:
    """Fit the sky of one CCD, or of a cut-out.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels in any unit.
    weight : (ny, nx) float32
        1 / variance; 0 where unusable.
    options : SplineSkyOptions
        Boxes and mask.

    Returns
    -------
    SkyModel
        Nodes, values and statistics.

    Raises
    ------
    NoDataError
        If no pixel is usable.
    """
    good = (weight > 0) & np.isfinite(image)
    if not good.any():
        raise NoDataError("all pixels are masked or have no weight: there is no sky to fit")
    box = _box_width(image.shape, options)  # type: ignore[arg-type]
    ny, nx = image.shape
    order = 3
    x, y = _nodes(nx, box // 2, order), _nodes(ny, box // 2, order)
    middle, _ = clipped_median(image[good])
    nodes = _box_medians(image, good, x, y, box // 2, middle, options.min_fraction, 4)
    model = SkyModel(x, y, _smooth_surface(nodes), order, 0.0, {})
    free = good
    for turn in range(_TURNS):
        # Sources stand out of the sky as known so far, so that a gradient is no source.
        residual = image - model.evaluate((ny, nx))
        _, sigma = clipped_median(residual[free])
        masked = good & ~_mask_sources(residual, good, sigma, options)
        if masked.sum() >= max(100, 0.02 * good.sum()):
            free = masked
        level = float(np.median(_sampled(image[free])))
        step = 2 if turn == _TURNS - 1 else 4
        values = _box_medians(image, free, x, y, box // 2, level, options.min_fraction, step)
        model = SkyModel(x, y, values, order, sigma, {})
    residual = (image - model.evaluate((ny, nx)))[free]
    cmed, _ = clipped_median(image[good])
    statistics = {
        "sky_mode": _mode(_sampled(image[good]), sigma, cmed),
        "sky_med": float(np.median(_sampled(image[good]))),
        "sky_cmed": cmed,
        "sky_john": level,
        "sky_fmasked": float((good & ~free).sum() / good.sum()),
    }
    marks = np.percentile(_sampled(residual), _PERCENTILES)
    statistics.update({f"sky_p{p}": float(v) for p, v in zip(_PERCENTILES, marks, strict=True)})
    return SkyModel(x, y, values, order, sigma, statistics)


def _smooth_surface(nodes: Float32Array) -> Float32Array:
    """The parabola through the nodes; those that a large object lifts are clipped."""
    ny, nx = nodes.shape
    v, u = (g.ravel() for g in np.mgrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j])
    design = np.stack([np.ones(u.size), u, v, u * u, u * v, v * v], axis=1)
    data = nodes.ravel().astype(float)
    keep = np.ones(data.size, bool)
    for _ in range(8):
        solution = np.linalg.lstsq(design[keep], data[keep], rcond=None)[0]
        residual = data - design @ solution
        spread = 1.4826 * float(np.median(np.abs(residual[keep])))
        new = (residual < 2.5 * spread) & (residual > -4.0 * spread)
        if spread == 0 or new.sum() < design.shape[1] + 2 or np.array_equal(new, keep):
            break
        keep = new
    return np.asarray((design @ solution).reshape(ny, nx), np.float32)


def _box_medians(
    image: Float32Array,
    free: BoolArray,
    x: NDArray[np.int32],
    y: NDArray[np.int32],
    half: int,
    level: float,
    min_fraction: float,
    step: int,
) -> Float32Array:
    """Median of the unmasked pixels about each node; the global level where they are few.

    In large boxes every ``step``-th row and column is enough: the error of the median stays
    below a hundredth of the noise.
    """
    ny, nx = image.shape
    step = step if half * half > 64 * 64 else 1
    out = np.full((y.size, x.size), level, np.float32)
    for j, yy in enumerate(y):
        rows = slice(max(0, int(yy) - half), min(ny, int(yy) + half), step)
        for i, xx in enumerate(x):
            columns = slice(max(0, int(xx) - half), min(nx, int(xx) + half), step)
            mask = free[rows, columns]
            if mask.size and mask.sum() > min_fraction * mask.size and mask.sum() >= 10:
                out[j, i] = np.median(image[rows, columns][mask])
    return _to_nodes(_to_nodes(out, x, nx, half).T, y, ny, half).T


def _to_nodes(values: Float32Array, x: NDArray[np.int32], n: int, half: int) -> Float32Array:
    """Carry the medians of the boxes that the edge cuts on to their nodes, along the last axis.

    The median of a cut box belongs to its middle, which lies inside of the node.
    """
    middle = 0.5 * (np.maximum(x - half, 0) + np.minimum(x + half, n))
    out = values.copy()
    for edge, inner in ((0, 1), (-1, -2)):
        step = middle[inner] - middle[edge]
        if abs(step) >= 0.25 * half:
            slope = (values[:, inner] - values[:, edge]) / step
            out[:, edge] += slope * (x[edge] - middle[edge])
    return out

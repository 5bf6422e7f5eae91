"""Pairing of positions: two lists on the sky or in a plane, and one list over many visits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.calibrate import _match_kernels as kernels
from skymill.data.errors import DataError

__all__ = ["SkyMatch", "associate", "count_neighbours", "match_plane", "match_sky"]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class SkyMatch:
    """Pairs of two lists, each object at most once.

    Parameters
    ----------
    first, second : (n,) int64
        Indices of the pairs in the first and second list, ordered by ``first``.
    separation : (n,) float64
        Separation [arcsec on the sky, the input's unit in a plane].
    """

    first: Int64Array
    second: Int64Array
    separation: Float64Array

    def __len__(self) -> int:
        return int(self.first.size)


def _empty() -> SkyMatch:
    return SkyMatch(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def _positions(u: ArrayLike, v: ArrayLike, what: str) -> tuple[Float64Array, Float64Array]:
    a = np.atleast_1d(np.asarray(u, dtype=np.float64))
    b = np.atleast_1d(np.asarray(v, dtype=np.float64))
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"{what} must be two vectors of one length; got {a.shape} and {b.shape}")
    return a, b


def _radius(radius: float, unit: str, high: float = np.inf) -> None:
    if not 0 < radius <= high:
        raise DataError(f"the match radius must be > 0 and <= {high} {unit}; got {radius}")


def _start_of_ra(*angles: Float64Array) -> tuple[float, float]:
    """Start and width [rad] of the range of right ascension without its widest gap."""
    bins = 3600
    used = np.zeros(bins, bool)
    for ra in angles:
        used[np.minimum((ra * (bins / (2 * np.pi))).astype(np.int64), bins - 1)] = True
    index = np.flatnonzero(used)
    gaps = np.diff(np.append(index, index[0] + bins))
    widest = int(np.argmax(gaps))
    start = int(index[(widest + 1) % index.size])
    step = 2 * np.pi / bins
    margin = 1e-9
    return start * step - margin, (bins - int(gaps[widest]) + 1) * step + 2 * margin


def match_sky(
    ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike, *, radius_arcsec: float
) -> SkyMatch:
    """Pair objects that are each other's nearest on the sky.

    Right ascension may wrap and the poles are no exception. Positions that are not finite have
    no partner.

    Parameters
    ----------
    ra1, dec1 : (n,) float64 [deg]
        First list.
    ra2, dec2 : (m,) float64 [deg]
        Second list.
    radius_arcsec : float [arcsec]
        Largest separation of a pair.

    Returns
    -------
    SkyMatch
        The pairs, with separations in arcsec.
    """
    _radius(radius_arcsec, "arcsec", 180 * 3600.0)
    a_ra, a_dec = _positions(ra1, dec1, "ra1, dec1")
    b_ra, b_dec = _positions(ra2, dec2, "ra2, dec2")
    good_a = np.flatnonzero(np.isfinite(a_ra) & np.isfinite(a_dec))
    good_b = np.flatnonzero(np.isfinite(b_ra) & np.isfinite(b_dec))
    if good_a.size == 0 or good_b.size == 0:
        return _empty()
    a_ra, a_dec = np.radians(a_ra[good_a] % 360.0), np.radians(a_dec[good_a])
    b_ra, b_dec = np.radians(b_ra[good_b] % 360.0), np.radians(b_dec[good_b])
    radius = np.radians(radius_arcsec / 3600.0)
    ra0, width = _start_of_ra(a_ra, b_ra)
    dec0, dec1_ = min(a_dec.min(), b_dec.min()), max(a_dec.max(), b_dec.max())
    middle = np.cos(0.5 * (dec0 + dec1_))
    area = max(width * middle, radius) * max(dec1_ - dec0, radius)
    height = max(np.sqrt(area / max(b_ra.size, 1)), radius)
    bands = int((dec1_ - dec0) / height) + 1
    edges = dec0 + height * np.arange(bands + 1)
    cosine = np.cos(np.clip(0.5 * (edges[:-1] + edges[1:]), -np.pi / 2, np.pi / 2))
    columns = np.maximum((width * cosine / height).astype(np.int64), 1)
    scale = columns / width
    offset = np.concatenate([[0], np.cumsum(columns)])
    grid = (dec0, height, columns, offset[:-1], scale)

    def sort(ra: Float64Array, dec: Float64Array) -> tuple[Int64Array, Int64Array, Float64Array]:
        start = np.zeros(offset[-1] + 1, np.int64)
        order = np.empty(ra.size, np.int64)
        packed = np.empty((ra.size, 3))
        kernels.sort_sphere(ra, dec, ra0, *grid, start, order, packed)
        return start, order, packed

    _, a_order, a = sort(a_ra, a_dec)
    start, b_order, b = sort(b_ra, b_dec)
    best = np.empty(a_ra.size, np.int64)
    separation = np.empty(a_ra.size)
    kernels.match_sphere(a, a_order, b, b_order, start, *grid, radius, best, separation)
    found = np.flatnonzero(best >= 0)
    return SkyMatch(good_a[found], good_b[best[found]], np.degrees(separation[found]) * 3600.0)


def _plane_grid(x: Float64Array, y: Float64Array, radius: float) -> tuple[float, ...]:
    x0, y0 = float(x.min()), float(y.min())
    span_x, span_y = float(x.max()) - x0, float(y.max()) - y0
    size = max(radius, np.sqrt(max(span_x, radius) * max(span_y, radius) / x.size))
    return x0, y0, 1.0 / size, int(span_x / size) + 1, int(span_y / size) + 1


def _sort_plane(
    x: Float64Array, y: Float64Array, grid: tuple[float, ...]
) -> tuple[Int64Array, Int64Array, Float64Array, Float64Array]:
    start = np.zeros(int(grid[3] * grid[4]) + 1, np.int64)
    order = np.empty(x.size, np.int64)
    sorted_x, sorted_y = np.empty(x.size), np.empty(x.size)
    kernels.sort_plane(x, y, *grid, start, order, sorted_x, sorted_y)
    return start, order, sorted_x, sorted_y


def match_plane(
    x1: ArrayLike, y1: ArrayLike, x2: ArrayLike, y2: ArrayLike, *, radius: float
) -> SkyMatch:
    """Pair points of a plane that are each other's nearest.

    Parameters
    ----------
    x1, y1 : (n,) float64
        First list, in any unit.
    x2, y2 : (m,) float64
        Second list, in the same unit.
    radius : float
        Largest separation of a pair, in the same unit.

    Returns
    -------
    SkyMatch
        The pairs, with separations in the unit of the input.
    """
    _radius(radius, "of the input's unit")
    ax, ay = _positions(x1, y1, "x1, y1")
    bx, by = _positions(x2, y2, "x2, y2")
    good_a = np.flatnonzero(np.isfinite(ax) & np.isfinite(ay))
    good_b = np.flatnonzero(np.isfinite(bx) & np.isfinite(by))
    if good_a.size == 0 or good_b.size == 0:
        return _empty()
    ax, ay, bx, by = ax[good_a], ay[good_a], bx[good_b], by[good_b]
    grid = _plane_grid(bx, by, radius)
    start, b_order, b_x, b_y = _sort_plane(bx, by, grid)
    _, a_order, a_x, a_y = _sort_plane(ax, ay, grid)
    best, back = np.empty(ax.size, np.int64), np.full(bx.size, -1, np.int64)
    kernels.match_plane(
        a_x, a_y, a_order, b_x, b_y, b_order, start, *grid, float(radius) ** 2, best, back
    )
    found = np.flatnonzero(best >= 0)
    second = best[found]
    distance = np.hypot(ax[found] - bx[second], ay[found] - by[second])
    return SkyMatch(good_a[found], good_b[second], distance)


def count_neighbours(x: ArrayLike, y: ArrayLike, *, radius: float) -> Int64Array:
    """Number of other points within a radius of each point of a plane.

    Parameters
    ----------
    x, y : (n,) float64
        Points, finite, in any unit.
    radius : float
        Radius in the same unit.

    Returns
    -------
    (n,) int64
        Neighbours of each point.
    """
    _radius(radius, "of the input's unit")
    x_, y_ = _positions(x, y, "x, y")
    count = np.zeros(x_.size, np.int64)
    if x_.size:
        grid = _plane_grid(x_, y_, radius)
        start, order, sx, sy = _sort_plane(x_, y_, grid)
        kernels.count_neighbours(sx, sy, order, start, *grid, float(radius) ** 2, count)
    return count


def associate(
    ra: ArrayLike, dec: ArrayLike, group: ArrayLike, *, radius_arcsec: float
) -> Int64Array:
    """Give sources of many exposures that lie at one position the number of one object.

    The exposures are added one after the other: each source joins the object that is mutually
    nearest to it, or starts a new one; an object's position is the mean of its sources. Two
    sources of one exposure never share an object.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    group : (n,) int
        Exposure (visit) of each source.
    radius_arcsec : float [arcsec]
        Largest separation of a source from its object.

    Returns
    -------
    (n,) int64
        Number of the object of each source, from 0, without gaps.
    """
    ra_, dec_ = _positions(ra, dec, "ra, dec")
    groups = np.asarray(group)
    out = np.full(ra_.size, -1, np.int64)
    sums = np.empty((ra_.size, 3))
    count = 0
    a, d = np.radians(ra_), np.radians(dec_)
    xyz = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    for value in np.unique(groups):
        rows = np.flatnonzero(groups == value)
        new = np.ones(rows.size, bool)
        if count:
            mean = sums[:count]
            mean_ra = np.degrees(np.arctan2(mean[:, 1], mean[:, 0]))
            mean_dec = np.degrees(np.arctan2(mean[:, 2], np.hypot(mean[:, 0], mean[:, 1])))
            pairs = match_sky(ra_[rows], dec_[rows], mean_ra, mean_dec, radius_arcsec=radius_arcsec)
            out[rows[pairs.first]] = pairs.second
            sums[pairs.second] += xyz[rows[pairs.first]]
            new[pairs.first] = False
        fresh = rows[new]
        out[fresh] = count + np.arange(fresh.size)
        sums[count : count + fresh.size] = xyz[fresh]
        count += fresh.size
    return out

"""Enough exposures for the depth of the survey: which CCDs a brick needs.

CCDs are taken one after the other, the most useful first, until the map of galaxy depth meets the
target at every percentile of the area and almost every pixel has three exposures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.coadd.bricks import Brick
from skymill.data.errors import DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.release.survey.bricks import BRICK_SIZE, PIXEL_SCALE, brick_wcs
from skymill.release.survey.ccd_table import as_survey_ccds, read_fits_table
from skymill.release.survey.cuts import CUT_BITS
from skymill.release.survey.overlap import ccd_corners
from skymill.release.survey.survey_dir import SurveyDir

__all__ = ["DepthCutOptions", "collect_depth_cuts", "depth_cut_brick", "depth_percentiles"]

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: Percentiles of the area at which the depth is asked for.
PERCENTILES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100)

#: The target is lower below these percentiles by so much [mag].
_RELAXED = ((5, 0.6), (10, 0.3))


@dataclass(frozen=True, kw_only=True)
class DepthCutOptions:
    """Targets of the depth."""

    targets: Mapping[str, float] = field(
        default_factory=lambda: {"g": 24.0, "r": 23.4, "i": 23.0, "z": 22.5}
    )
    margin: float = option(1.0, "depth wanted beyond the targets", unit="mag")
    min_exposures: int = option(3, "exposures that almost every pixel must have")
    covered: float = option(0.95, "fraction of the pixels that must have them")
    step: int = option(10, "width of a pixel of the map in pixels of the brick", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "margin", low=-10.0, high=10.0)
        check_range(self, "min_exposures", low=1)
        check_range(self, "covered", low=0.0, high=1.0)
        check_range(self, "step", low=1, high=360)


def _target(percentile: int, base: float) -> float:
    for limit, lower in _RELAXED:
        if percentile < limit:
            return base - lower
    return base


def _magnitude(ivar: Float64Array) -> Float64Array:
    """5 sigma depth of an inverse variance [1/nanomaggy^2]; 0 where there is none."""
    safe = np.where(ivar > 0, ivar, 1.0)
    return np.where(ivar > 0, -2.5 * (np.log10(5.0 / np.sqrt(safe)) - 9.0), 0.0)


def depth_percentiles(ivar: Float64Array) -> Float64Array:
    """Depth that all but so many percent of the pixels reach.

    Parameters
    ----------
    ivar : (n,) float64 [1/nanomaggy2]
        Galaxy-depth map, its pixels in any order.

    Returns
    -------
    (20,) float64 [mag]
        At `PERCENTILES`; 0 where nothing is observed.
    """
    return np.asarray(np.percentile(_magnitude(ivar), PERCENTILES, method="lower"), float)


class _Map:
    """Depth of one band over a brick."""

    def __init__(self, covers: BoolArray, ivar: Float64Array, base: float,
                 options: DepthCutOptions) -> None:  # fmt: skip
        self.covers, self.ivar, self.options = covers, ivar, options
        self.area = covers.any(axis=0)
        n = int(self.area.sum())
        self.total, self.count = np.zeros(n), np.zeros(n, int)
        self.targets = np.array([_target(p, base) for p in PERCENTILES])
        self.wanted = (5.0 / 10.0 ** (-0.4 * (base - 22.5))) ** 2
        self.depths = np.zeros(len(PERCENTILES))

    def done(self) -> bool:
        enough = (self.count >= self.options.min_exposures).mean() if self.count.size else 1.0
        return bool((self.depths >= self.targets).all() and enough >= self.options.covered)

    def deficit(self, k: int) -> float:
        """Mean part of the wanted inverse variance that the CCD's pixels lack."""
        pixels = self.covers[k][self.area]
        lacking = np.maximum(0.0, 1.0 - self.total[pixels] / self.wanted)
        return float(lacking.sum() / max(1, self.total.size))

    def offer(self, k: int) -> bool:
        """Take a CCD if it helps."""
        pixels = self.covers[k][self.area]
        total = self.total + np.where(pixels, self.ivar[k], 0.0)
        depths = depth_percentiles(total)
        helps = ((self.depths < self.targets) & (depths > self.depths)).any()
        few = (self.count[pixels] < self.options.min_exposures).any()
        if not (helps or few):
            return False
        self.total, self.depths = total, depths
        self.count[pixels] += 1
        return True


def _choose(ccds: Table, covers: BoolArray, base: float, options: DepthCutOptions) -> BoolArray:
    """The CCDs of one band that a brick needs."""
    sig1 = np.asarray(ccds["sig1"], float)
    norm = np.asarray(ccds["galnorm"], float)
    good = np.isfinite(sig1) & (sig1 > 0) & np.isfinite(norm) & (norm > 0) & covers.any(axis=1)
    ivar = np.where(good, (norm / np.where(good, sig1, 1.0)) ** 2, 0.0)
    scale = 3600 * np.sqrt(np.abs(np.asarray(ccds["cd1_1"], float) * ccds["cd2_2"]
                                  - np.asarray(ccds["cd1_2"], float) * ccds["cd2_1"]))  # fmt: skip
    seeing = np.asarray(ccds["fwhm"], float) * scale
    quality = np.where(good & (seeing > 0), 1.0 / (np.where(good, sig1, 1.0) * np.where(
        seeing > 0, seeing, 1.0) ** 2), 0.0)  # fmt: skip
    exposure = np.asarray(ccds["expnum"])
    state = _Map(covers & good[:, None], ivar, base, options)
    left, chosen = set(np.flatnonzero(good).tolist()), np.zeros(len(ccds), bool)
    while left and not state.done():
        candidates = sorted(left)
        value = [quality[k] * state.deficit(k) for k in candidates]
        best = candidates[int(np.argmax(value))]
        together = [k for k in candidates if exposure[k] == exposure[best]]
        for k in [best, *(k for k in together if k != best)]:
            left.discard(k)
            chosen[k] = state.offer(k)
    return chosen


def _coverage(ccds: Table, brick: Brick, step: int) -> BoolArray:
    """Which pixels (n, ny * nx) of a coarse map of the brick lie on each CCD."""
    size = BRICK_SIZE // step
    wcs = brick_wcs(brick, size=size, scale=PIXEL_SCALE * step)
    yy, xx = (v.ravel() for v in np.mgrid[0:size, 0:size])
    ra, dec = ccd_corners(ccds)
    x, y = wcs.sky_to_pixel(ra=ra.ravel(), dec=dec.ravel())
    x, y = x.reshape(-1, 4), y.reshape(-1, 4)
    out = np.ones((len(ccds), size * size), bool)
    turn = np.sign(_area(x, y))
    for k in range(4):
        x0, y0, x1, y1 = x[:, k], y[:, k], x[:, (k + 1) % 4], y[:, (k + 1) % 4]
        side = (x1 - x0)[:, None] * (yy - y0[:, None]) - (y1 - y0)[:, None] * (xx - x0[:, None])
        out &= side * turn[:, None] >= 0
    return out


def _area(x: Float64Array, y: Float64Array) -> Float64Array:
    return np.asarray(0.5 * (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1)).sum(axis=1))


def depth_cut_brick(
    survey: SurveyDir, brick: Brick, *, options: DepthCutOptions = DepthCutOptions()
) -> Table:
    """Which CCDs one brick needs for its depth.

    Parameters
    ----------
    survey : SurveyDir
        The survey; its cuts are applied.
    brick : Brick
        The brick.
    options : DepthCutOptions
        Targets.

    Returns
    -------
    Table
        Rows of the CCDs near the brick with ``overlapping`` and ``passed_depth_cut``; bands
        without a target pass.

    Raises
    ------
    NoDataError
        If no CCD overlaps the brick.
    """
    ccds = survey.ccds_touching(brick)
    if len(ccds) == 0:
        raise NoDataError(f"no CCD overlaps the brick {brick.name}")
    covers = _coverage(ccds, brick, options.step)
    overlapping = covers.any(axis=1)
    passed = np.zeros(len(ccds), bool)
    bands = np.asarray(ccds["filter"]).astype(str)
    for band in np.unique(bands):
        rows = np.flatnonzero(bands == band)
        target = options.targets.get(str(band))
        if target is None:
            passed[rows] = overlapping[rows]
            continue
        base = target + options.margin
        passed[rows] = _choose(ccds[rows], covers[rows], base, options)
    out = ccds.copy()
    out["overlapping"], out["passed_depth_cut"] = overlapping, passed
    return out


def collect_depth_cuts(
    ccds: Table, files: Iterable[str | Path], *, keep_others: bool = False
) -> tuple[Table, list[str]]:
    """Join the answers of all bricks.

    Parameters
    ----------
    ccds : Table
        Every CCD of the survey.
    files : iterable of path
        Tables ``ccds-BRICK.fits`` of `depth_cut_brick`.
    keep_others : bool
        CCDs that overlap none of these bricks stay as they are; otherwise they are cut too.

    Returns
    -------
    table : Table
        The CCDs with the bit ``depth_cut`` where no brick needs them.
    bricks : list of str
        Names of the bricks.

    Raises
    ------
    NoDataError, DataError
        If there is no file; if one lacks a column.
    """
    needed: set[tuple[int, str]] = set()
    seen: set[tuple[int, str]] = set()
    names = []
    for path in sorted(Path(f) for f in files):
        table = read_fits_table(path)
        if "passed_depth_cut" not in table.colnames:
            raise DataError(f"{path} has no column passed_depth_cut: it is no depth cut of a brick")
        names.append(path.name.removeprefix("ccds-").split(".")[0])
        keys = _keys(table)
        needed |= {k for k, good in zip(keys, table["passed_depth_cut"], strict=True) if good}
        seen |= {k for k, hit in zip(keys, table["overlapping"], strict=True) if hit}
    if not names:
        raise NoDataError("there are no tables ccds-BRICK.fits to collect")
    out = as_survey_ccds(ccds)
    bits = np.asarray(out["ccd_cuts"], np.int64) & ~np.int64(CUT_BITS["depth_cut"])
    cut = [k not in needed and (k in seen or not keep_others) for k in _keys(out)]
    out["ccd_cuts"] = bits | np.where(cut, CUT_BITS["depth_cut"], 0)
    return out, names


def _keys(table: Table) -> list[tuple[int, str]]:
    pairs = zip(table["expnum"], table["ccdname"], strict=True)
    return [(int(n), str(c).strip()) for n, c in pairs]

"""Trails of satellites and aeroplanes in a single exposure: straight lines that cross a CCD."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.detrend._streak_kernels import (
    bin_significance,
    block_peaks,
    line_profiles,
    line_significance,
    mark_band,
    sum_lines,
)

__all__ = ["Streak", "StreakOptions", "find_streaks", "mask_streaks"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

#: Bins are clipped here [sigma], so that a line of sources is no line.
_CLIP = 3.0
#: Widths of the trails that are looked for [bin].
_BOXES = (2, 6)
#: Length of a segment of a line, and how far its profile reaches to both sides [pixel].
_SEGMENT = 64
_REACH = 112
_PROFILE_CLIP = (2.5, 50.0)
#: A line may be off the one that was summed by so much at both ends [pixel].
_WANDER = 10
#: Share of the segments that a line must do without: the highest.
_DROPPED = 1.0 / 3.0


@dataclass(frozen=True, kw_only=True)
class StreakOptions:
    """What counts as a trail."""

    bin_width: int = option(4, "width of the squares of pixels that are summed", unit="pixel")
    smooth_width: int = option(33, "wider structure than this is no trail", unit="bin")
    threshold: float = option(6.5, "significance of the sum along a line", unit="sigma")
    confirm: float = option(4.5, "significance without its highest third", unit="sigma")
    min_length: int = option(300, "shortest line from edge to edge", unit="pixel")
    min_partial: int = option(900, "shortest line that ends inside the CCD", unit="pixel")
    min_angle: float = option(0.3, "least angle with rows and columns", unit="degree")
    residual: float = option(0.05, "light outside of the mask per pixel", unit="sigma")
    max_candidates: int = option(30, "most lines that are looked at")
    max_streaks: int = option(6, "most trails of a CCD")

    def __post_init__(self) -> None:
        check_range(self, "bin_width", low=1, high=32)
        check_range(self, "smooth_width", low=9)
        check_range(self, "threshold", low=5.0)
        check_range(self, "confirm", low=3.0)
        check_range(self, "min_length", low=64)
        check_range(self, "min_partial", low=64)
        check_range(self, "min_angle", low=0.0, high=10.0)
        check_range(self, "residual", low=0.001, high=1.0)
        check_range(self, "max_candidates", low=1)
        check_range(self, "max_streaks", low=1)


@dataclass(frozen=True, kw_only=True)
class Streak:
    """A trail.

    Parameters
    ----------
    x0, y0, x1, y1 : float [pixel]
        Its ends; beyond the edge where it leaves the CCD.
    half_width : float [pixel]
        Distance from its middle within which it is masked.
    peak : float [sigma]
        Its height over the noise of a pixel.
    significance : float [sigma]
        Of its sum, without the highest third of its segments.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    half_width: float
    peak: float
    significance: float


def mask_streaks(planes: PixelPlanes, *, options: StreakOptions = StreakOptions()) -> list[Streak]:
    """Find trails and set STREAK in their pixels, in place.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels without their sky; only the mask is changed.
    options : StreakOptions
        Limits.

    Returns
    -------
    list of Streak
        The trails.
    """
    found = find_streaks(planes, options=options)
    for streak in found:
        _mark(planes.mask, MaskPlane.STREAK, streak)
    return found


def find_streaks(planes: PixelPlanes, *, options: StreakOptions = StreakOptions()) -> list[Streak]:
    """Find the trails of a CCD.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels without their sky. Not changed.
    options : StreakOptions
        Limits.

    Returns
    -------
    list of Streak
        Trails, the most significant first.

    Notes
    -----
    The clipped significance of small squares of pixels, less its local mean, is summed along all
    lines (fast discrete Radon transform, Brady 1998). The lines of the highest sums are measured
    on the pixels: the profile across the line in segments of 64 pixels, both sides as its
    background. A trail remains significant without the highest third of its segments, which no
    galaxy, diffraction spike or row of stars does, and it crosses the CCD or is long. Lines along
    rows and columns are left out: there the detector has its own faults.
    """
    ny, nx = planes.shape
    if min(ny, nx) < 8 * options.bin_width:
        return []
    binned, known = _binned(planes, options)
    work = _Work(planes, planes.mask, options)
    while len(work.found) < options.max_streaks:
        streak = work.next_streak(_candidates(binned, known, options))
        if streak is None:
            break
        # Lines that cross a trail at a small angle see parts of it: it is taken out.
        work.leave_out(streak)
        binned, known = _without(streak, binned, known, options.bin_width)
    return sorted(work.found, key=lambda s: -s.significance)


class _Work:
    """The search while trails are found one after the other."""

    def __init__(
        self, planes: PixelPlanes, mask: NDArray[np.int32], options: StreakOptions
    ) -> None:
        self.planes, self.mask, self.options = planes, mask, options
        self.found: list[Streak] = []
        self.seen: list[Float64Array] = []

    def next_streak(self, lines: Iterator[Float64Array]) -> Streak | None:
        """The first trail among some lines; none is measured twice."""
        for line in lines:
            ends = _clip_line((line + 0.5) * self.options.bin_width - 0.5, self.planes.shape)
            if ends is None or any(_is_near(ends, other) for other in self.seen):
                continue
            self.seen.append(ends)
            if len(self.seen) > self.options.max_candidates:
                break
            streak = _measure(self.planes, self.mask, ends, self.options)
            if streak is not None:
                return streak
        return None

    def leave_out(self, streak: Streak) -> None:
        """No later line may use the pixels of a trail."""
        if not self.found:
            self.mask = self.mask.copy()
        self.found.append(streak)
        _mark(self.mask, MaskPlane.BAD, streak)


def _mark(mask: NDArray[np.int32], plane: MaskPlane, streak: Streak) -> None:
    ends = streak.x0, streak.y0, streak.x1, streak.y1
    mark_band(mask, np.int32(int(plane)), *ends, streak.half_width)


def _without(
    streak: Streak, values: Float32Array, known: Float32Array, width: int
) -> tuple[Float32Array, Float32Array]:
    """The binned pixels without those of a trail."""
    band = np.zeros(values.shape, np.int32)
    ends = ((np.array([streak.x0, streak.y0, streak.x1, streak.y1]) + 0.5) / width - 0.5).tolist()
    mark_band(band, np.int32(1), *ends, streak.half_width / width + 1.0)
    outside = (1 - band).astype(np.float32)
    return values * outside, known * outside


def _binned(planes: PixelPlanes, options: StreakOptions) -> tuple[Float32Array, Float32Array]:
    """Clipped significance of squares of pixels less its local mean, and 1 where it is known."""
    width = options.bin_width
    ny, nx = planes.shape
    values = np.empty((ny // width, nx // width), np.float32)
    known = np.empty_like(values)
    bits = np.int32(int(UNUSABLE))
    bin_significance(planes.image, planes.variance, planes.mask, bits, width, values, known)
    if known.any():
        some = values[known > 0][:: max(1, values.size // 50_000)]
        middle = np.median(some)
        # Sources are on one side: the other tells the noise.
        noise = 1.4826 * np.median(middle - some[some < middle])
        values = np.clip((values - middle) / max(noise, 0.1), -_CLIP, _CLIP) * known
    share = uniform_filter(known, options.smooth_width, mode="constant")
    level = uniform_filter(values, options.smooth_width, mode="constant")
    values -= known * level / np.maximum(share, np.float32(1e-6))
    return values, known


def _candidates(
    values: Float32Array, known: Float32Array, options: StreakOptions
) -> Iterator[Float64Array]:
    """Ends (2, 2) [bin] of the lines x, y of the highest sums, the highest first."""
    least = np.float32(options.min_length / options.bin_width / 1.5)
    lines: list[tuple[float, Float64Array]] = []
    for turned in (False, True):
        a, b = (values.T, known.T) if turned else (values, known)
        rows = 1 << max(1, (a.shape[0] - 1).bit_length())
        padded = np.zeros((2, rows, a.shape[1]), np.float32)
        padded[0, : a.shape[0]], padded[1, : a.shape[0]] = a, b
        work = np.empty((4, rows, rows + a.shape[1]), np.float32)
        for flip in (False, True):
            sums = sum_lines(padded[0], flip, work[0], work[1])
            counts = sum_lines(padded[1], flip, work[2], work[3])
            for peak, shift, column, box in _peaks(sums, counts, least, options):
                x = np.array([column, column + shift]) - rows + 0.5 * (box - 1)
                y = np.array([0.0, rows - 1.0])
                if flip:
                    x = a.shape[1] - 1 - x
                lines.append((peak, np.stack([y, x] if turned else [x, y])))
    lines.sort(key=lambda item: -item[0])
    for _, line in lines:
        yield line


def _peaks(
    sums: Float32Array, counts: Float32Array, least: np.float32, options: StreakOptions
) -> Iterator[tuple[float, float, float, int]]:
    """Significance, shift, first column and width of the highest sums."""
    out = np.empty((4000, 3), np.float32)
    z = np.empty_like(sums)
    for box in _BOXES:
        line_significance(sums, counts, box, least, z)
        some = z[::7, ::11]
        some = some[some != 0]
        if some.size < 100:
            continue
        # Rows of sources make the sums wider than the noise does.
        scale = max(1.0, robust_sigma(some))
        n = block_peaks(z, 8, options.threshold * scale, out)
        for value, shift, column in out[:n]:
            yield float(value) / scale, float(shift), float(column), box


def _clip_line(ends: Float64Array, shape: tuple[int, int]) -> Float64Array | None:
    """The part (2, 2) of a line that lies in the image; none if it misses it."""
    start, step = ends[:, 0], ends[:, 1] - ends[:, 0]
    low, high = -np.inf, np.inf
    for axis, n in ((0, shape[1]), (1, shape[0])):
        if abs(step[axis]) < 1e-9:
            if not 0 <= start[axis] <= n - 1:
                return None
            continue
        at = np.sort((np.array([0.0, n - 1.0]) - start[axis]) / step[axis])
        low, high = max(low, at[0]), min(high, at[1])
    if high <= low:
        return None
    return start[:, None] + step[:, None] * np.array([low, high])


def _is_near(line: Float64Array, other: Float64Array, distance: float = 24.0) -> bool:
    """Whether both ends of a line lie near to another one."""
    step = other[:, 1] - other[:, 0]
    length = float(np.hypot(*step))
    if length < 1:
        return False
    off = (line - other[:, :1]).T @ np.array([-step[1], step[0]]) / length
    return bool((np.abs(off) < distance).all())


@dataclass(frozen=True, eq=False)
class _Profiles:
    """Profiles across a line: (segments, distances) clipped low and high, and their use."""

    low: Float64Array
    high: Float64Array
    usable: NDArray[np.bool_]
    saturated: NDArray[np.int64]

    @classmethod
    def of(cls, planes: PixelPlanes, mask: NDArray[np.int32], ends: Float64Array) -> _Profiles:
        n = max(1, round(float(np.hypot(*(ends[:, 1] - ends[:, 0]))) / _SEGMENT))
        shape = n, 2 * _REACH + 1
        low, high, number = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
        saturated = np.empty(n, np.int64)
        (x0, x1), (y0, y1) = ends
        line_profiles(
            planes.image, planes.variance, mask, np.int32(int(UNUSABLE)),
            np.int32(int(MaskPlane.SAT)), x0, y0, x1, y1, _SEGMENT, _REACH, *_PROFILE_CLIP,
            low, high, number, saturated,
        )  # fmt: skip
        known = number > 0.3 * _SEGMENT
        low[~known], high[~known] = np.nan, np.nan
        middle = known[:, _REACH - _WANDER : _REACH + _WANDER + 1]
        return cls(low, high, middle.mean(axis=1) > 0.7, saturated)


def _shifted(profiles: Float64Array, offset: float, tilt: float) -> Float64Array:
    """Profiles about a line that is off by ``offset`` with a difference ``tilt`` of its ends."""
    n = len(profiles)
    along = (np.arange(n) + 0.5) / n - 0.5
    move = np.rint(offset + tilt * along).astype(int)
    index = np.arange(2 * _WANDER, profiles.shape[1] - 2 * _WANDER)
    return profiles[np.arange(n)[:, None], index[None, :] + move[:, None]]


def _align(high: Float64Array) -> tuple[float, float]:
    """Offset and tilt of the line with the highest mean [pixel]."""
    kernel = np.ones(5) / 5
    smooth = np.apply_along_axis(np.convolve, 1, np.nan_to_num(high), kernel, mode="same")
    # Sources are brighter than a faint trail; a bright one must keep its peak.
    reach = 2 * _WANDER
    peaks = smooth[:, _REACH - reach : _REACH + reach + 1].max(axis=1)
    smooth = np.minimum(smooth, np.median(peaks))
    best = (-np.inf, 0.0, 0.0)
    n = len(high)
    along = (np.arange(n) + 0.5) / n - 0.5
    rows = np.arange(n)
    for offset in range(-_WANDER, _WANDER + 1):
        for tilt in range(-_WANDER, _WANDER + 1):
            at = np.rint(offset + tilt * along).astype(int) + _REACH
            value = float(smooth[rows, at].sum())
            if value > best[0]:
                best = (value, float(offset), float(tilt))
    return best[1], best[2]


def _half_width(profile: Float64Array, residual: float) -> tuple[float, float]:
    """Half width of the mask and the height of a mean profile whose level is zero."""
    middle = len(profile) // 2
    smooth = np.convolve(np.nan_to_num(profile), np.ones(3) / 3, mode="same")
    peak = float(smooth[middle - 2 : middle + 3].max())
    n = len(profile) // 6
    noise = float(np.median(np.abs(np.concatenate([smooth[1:n], smooth[-n:-1]]))))
    limit = max(residual, 3.0 * noise)
    widths = []
    for side in (smooth[middle:-1], smooth[middle:0:-1]):
        below = np.flatnonzero(side < limit)
        widths.append(int(below[0]) if below.size else len(side))
    # Below the limit it falls on like a Gaussian.
    return max(float(max(widths)) + 2.0, 5.0), peak


def _measure(
    planes: PixelPlanes, mask: NDArray[np.int32], ends: Float64Array, options: StreakOptions
) -> Streak | None:
    """The trail along a line; none if there is none."""
    length = float(np.hypot(*(ends[:, 1] - ends[:, 0])))
    if length < options.min_length:
        return None
    profiles = _Profiles.of(planes, mask, ends)
    if profiles.usable.sum() < 4:
        return None
    offset, tilt = _align(profiles.high)
    normal = np.array([ends[1, 0] - ends[1, 1], ends[0, 1] - ends[0, 0]]) / length
    ends = ends + normal[:, None] * (offset + tilt * np.array([-0.5, 0.5]))
    angle = np.degrees(np.arctan2(*(ends[:, 1] - ends[:, 0])[::-1]))
    if abs((angle + 45.0) % 90.0 - 45.0) < options.min_angle:
        return None
    low, high = (_shifted(p, offset, tilt) for p in (profiles.low, profiles.high))
    with np.errstate(all="ignore"):
        contrast = _contrast(low, _half_width(_typical(high), options.residual)[0])
    usable = profiles.usable & np.isfinite(contrast)
    run = _extent(contrast, usable, profiles.saturated, options)
    if run is None:
        return None
    first, last, significance = run
    half_width, peak = _half_width(_typical(high[first:last]), options.residual)
    if _fades(high[first:last], usable[first:last], bool(profiles.saturated[first:last].any())):
        return None
    step = (ends[:, 1] - ends[:, 0]) / len(contrast)
    # What crosses an edge goes on: the mask shall reach the edge with its full width.
    beyond = sum(planes.shape) / _SEGMENT
    start = ends[:, 0] + step * (first if first > 0 else -beyond)
    stop = ends[:, 0] + step * (last if last < len(contrast) else len(contrast) + beyond)
    return Streak(
        x0=float(start[0]), y0=float(start[1]), x1=float(stop[0]), y1=float(stop[1]),
        half_width=half_width, peak=peak, significance=significance,
    )  # fmt: skip


def _typical(profiles: Float64Array) -> Float64Array:
    """Median profile of the segments, less its level far from the line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        profile = np.nanmedian(profiles, axis=0)
        n = len(profile) // 6
        return np.asarray(profile - np.nanmedian(np.concatenate([profile[:n], profile[-n:]])))


def _contrast(low: Float64Array, half_width: float) -> Float64Array:
    """Significance of each segment: the middle over the mean of its two sides; 0 for a step."""
    n_distance = low.shape[1]
    middle = n_distance // 2
    core = max(1, round(0.35 * half_width))
    box = 2 * core + 1
    gap = min(int(np.ceil(half_width)) + 1, middle - box - 12)
    # Means over the width of the trail beside it tell the noise, sources with it.
    sums = np.cumsum(np.nan_to_num(low), axis=1)
    boxes = (sums[:, box:] - sums[:, :-box]) / box
    centre = boxes[:, middle - core - 1]
    left, right = boxes[:, : middle - gap - box], boxes[:, middle + gap :]
    sides = np.concatenate([left, right], axis=1)
    spread = sides - np.median(sides, axis=1, keepdims=True)
    noise = robust_sigma(spread, centre=0.0)
    noise = max(noise, 1.0 / np.sqrt(_SEGMENT * box))
    left, right = np.median(left, axis=1), np.median(right, axis=1)
    rise = float(np.median(centre - 0.5 * (left + right)))
    if abs(float(np.median(left - right))) > rise:
        return np.zeros(len(low))
    return np.asarray((centre - 0.5 * (left + right)) / noise)


def _fades(high: Float64Array, usable: NDArray[np.bool_], is_star: bool) -> bool:
    """Whether the brightness falls along a line, as that of a diffraction spike does."""
    middle = high.shape[1] // 2
    n = high.shape[1] // 4
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        sides = np.concatenate([high[:, :n], high[:, -n:]], axis=1)
        noise = 1.4826 * np.nanmedian(np.abs(sides - np.nanmedian(sides))) / np.sqrt(5.0)
        height = np.nanmean(high[:, middle - 2 : middle + 3], axis=1) - np.nanmedian(sides, axis=1)
    height = height[usable & np.isfinite(height)]
    if height.size < 4:
        return False
    faint, typical = np.quantile(height, [0.2, 0.5])
    return bool(faint + noise < (0.5 if is_star else 0.3) * typical)


def _trimmed(contrast: Float64Array) -> float:
    """Significance of some segments without the highest third of them, by their own scatter."""
    if not contrast.size:
        return 0.0
    # The noise of pixels is one; large galaxies beside the line make it more.
    low, middle = np.quantile(contrast, [0.16, 0.5])
    contrast = contrast / max(1.0, float(middle - low))
    keep = np.sort(contrast)[: max(1, len(contrast) - int(len(contrast) * _DROPPED))]
    return float(np.minimum(keep, 10.0).sum() / np.sqrt(len(keep)))


def _seen_part(seen: NDArray[np.bool_], absent: NDArray[np.bool_], few: int = 4) -> tuple[int, int]:
    """First and last segment of a trail; it ends where it is absent from more than a few."""
    at = np.flatnonzero(seen)
    first, last = int(at[0]), int(at[-1]) + 1
    if absent[:first].sum() < few:
        first = 0
    if absent[last:].sum() < few:
        last = len(seen)
    return max(0, first - 1), min(len(seen), last + 1)


def _extent(
    contrast: Float64Array,
    usable: NDArray[np.bool_],
    saturated: NDArray[np.int64],
    options: StreakOptions,
) -> tuple[int, int, float] | None:
    """First and last segment of a trail and its significance; none if it is no trail."""
    n = len(contrast)
    whole = _trimmed(contrast[usable])
    if whole >= options.confirm:
        typical = float(np.median(contrast[usable]))
        if typical < 4.0:
            return 0, n, whole
        seen = usable & (contrast > 0.4 * typical)
        return *_seen_part(seen, usable & ~seen), whole
    # The run of segments with the largest sum above one sigma each.
    score = np.where(usable, np.clip(contrast, -4.0, 4.0) - 1.5, 0.0)
    total = np.concatenate([[0.0], np.cumsum(score)])
    lowest = np.minimum.accumulate(total)
    last = int(np.argmax(total - lowest))
    first = int(np.argmin(total[: last + 1]))
    inside = np.zeros(n, bool)
    inside[first:last] = True
    if (last - first) * _SEGMENT < options.min_partial or saturated[inside].any():
        return None
    part = _trimmed(contrast[inside & usable]) if (inside & usable).any() else 0.0
    if part < 2.0 * options.confirm:
        return None
    return first, last, part

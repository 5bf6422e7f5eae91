"""Transient artifacts: what one epoch of a field shows and the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skymill.coadd._stack_kernels import judge_footprints, noise_scale, static_sky
from skymill.coadd.warp import Warp
from skymill.data.errors import DataError
from skymill.data.images import Box
from skymill.data.masks import UNUSABLE, is_set
from skymill.data.options import check_range, option

__all__ = ["ArtifactOptions", "Artifacts", "find_artifacts", "sorting_network"]

Float32Array = NDArray[np.float32]

_STRIP_PIXELS = 1 << 19


@dataclass(frozen=True, kw_only=True)
class ArtifactOptions:
    """What counts as a transient artifact."""

    clip_sigma: float = option(2.5, "clipping of the static sky about the median", unit="sigma")
    threshold: float = option(5.0, "deviation from the static sky of an outlier", unit="sigma")
    source_error: float = option(0.05, "allowed deviation relative to the static sky")
    min_pixels: int = option(4, "pixels of the smallest footprint", unit="pixel")
    grow: int = option(2, "growth of an artifact's footprint", unit="pixel")
    spatialThreshold: float = option(0.5, "share of transient pixels in an artifact")
    maxNumEpochs: int = option(3, "epochs that may deviate at a transient pixel")
    maxFractionEpochsLow: float = option(0.4, "largest share of deviating epochs, few epochs")
    maxFractionEpochsHigh: float = option(0.03, "share of the epochs added to maxNumEpochs")

    def __post_init__(self) -> None:
        check_range(self, "clip_sigma", low=1.0)
        check_range(self, "threshold", low=1.0)
        check_range(self, "source_error", low=0.0, high=1.0)
        check_range(self, "min_pixels", low=1)
        check_range(self, "grow", low=0, high=50)
        check_range(self, "spatialThreshold", low=0.0, high=1.0)
        check_range(self, "maxNumEpochs", low=0)
        check_range(self, "maxFractionEpochsLow", low=0.0, high=1.0)
        check_range(self, "maxFractionEpochsHigh", low=0.0, high=1.0)


@dataclass
class Artifacts:
    """Pixels of each visit that must not go into a stack.

    Parameters
    ----------
    box : Box
        Pixels of the tract that the masks cover.
    masks : dict of int to (ny, nx / 8) uint8
        For each visit with an artifact the packed bits of the clipped pixels.
    number : dict of int to int
        Artifacts in each visit.
    static : (ny, nx) float32, optional
        The static sky in the common PSF [nJy], NaN without epochs.
    noise_scale : dict of int to float
        Measured over predicted noise of each visit's PSF-matched warp.
    """

    box: Box
    masks: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    number: dict[int, int] = field(default_factory=dict)
    static: Float32Array | None = None
    noise_scale: dict[int, float] = field(default_factory=dict)

    def mask(self, visit: int, part: Box) -> NDArray[np.uint8]:
        """Clipped pixels of a visit.

        Parameters
        ----------
        visit : int
            The visit.
        part : Box
            The wanted pixels of the tract, within the box.

        Returns
        -------
        (ny, nx) uint8
            1 where the visit is clipped; an empty array if it has no artifact.
        """
        packed = self.masks.get(visit)
        if packed is None:
            return np.zeros((0, 0), np.uint8)
        rows, columns = part.slices(within=self.box)
        width = self.box.shape[1]
        return np.ascontiguousarray(np.unpackbits(packed[rows], axis=1, count=width)[:, columns])


def sorting_network(n: int) -> NDArray[np.int64]:
    """Comparators that sort n values: Batcher's odd-even merge sort.

    Parameters
    ----------
    n : int
        Number of values.

    Returns
    -------
    (m, 2) int64
        Pairs (low, high) in the order of application.
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                pairs += [
                    (i + j, i + j + k)
                    for i in range(min(k, n - j - k))
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p)
                ]
            k //= 2
        p *= 2
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


class _Strips:
    """Rows of all warps side by side, NaN where a warp has no usable pixel."""

    def __init__(self, warps: Sequence[Warp], box: Box) -> None:
        self.warps, self.box = warps, box
        self.height = max(1, _STRIP_PIXELS // (len(warps) * box.shape[1]))
        self.scale = np.ones(len(warps))

    def read(self, y0: int, y1: int) -> tuple[Float32Array, Float32Array]:
        """Values and variances (n, rows, columns) of rows y0 <= y < y1 of the box."""
        shape = len(self.warps), y1 - y0, self.box.shape[1]
        values, variance = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
        rows = Box(x0=self.box.x0, x1=self.box.x1, y0=self.box.y0 + y0, y1=self.box.y0 + y1)
        for k, warp in enumerate(self.warps):
            part = warp.box.intersection(rows)
            if part.is_empty:
                continue
            source, target = part.slices(within=warp.box), part.slices(within=rows)
            planes = warp.planes
            v = planes.variance[source]
            bad = is_set(planes.mask[source], UNUSABLE) | ~(v > 0)
            values[k][target] = np.where(bad, np.float32(np.nan), planes.image[source])
            factor = np.float32(self.scale[k] ** 2)
            variance[k][target] = np.where(bad, np.float32(1.0), v * factor)
        return values, variance


def find_artifacts(
    warps: Sequence[Warp],
    *,
    box: Box,
    options: ArtifactOptions = ArtifactOptions(),
) -> Artifacts:
    """Find the transient artifacts of PSF-matched warps.

    Parameters
    ----------
    warps : sequence of Warp
        One for each visit, all of the common PSF.
    box : Box
        Pixels of the patch in the tract.
    options : ArtifactOptions
        Thresholds.

    Returns
    -------
    Artifacts
        Footprints that deviate from the static sky in few epochs: at each pixel the number of
        deviating epochs may be at most ``min(maxFractionEpochsLow N, maxNumEpochs +
        maxFractionEpochsHigh N)`` of N, and one of two. With a single epoch nothing can be
        decided and the result is empty.

    Notes
    -----
    The static sky is the weighted mean of the epochs within ``clip_sigma`` of their median, with
    the variances of the warps scaled to the measured noise. Unlike a mean clipped by the scatter
    of the epochs, it withstands an artifact already with three epochs. Where only two epochs see a
    pixel and differ, the brighter one is the artifact, since satellites, cosmic rays and ghosts
    add light; only if the fainter one lies below the sky by more than ``threshold`` it is that
    one.
    """
    out = Artifacts(box=box)
    visits = [w.visit for w in warps]
    if len(set(visits)) != len(visits):
        raise DataError(f"one warp for each visit is wanted; got the visits {visits}")
    if len(warps) < 2:
        return out
    strips = _Strips(warps, box)
    pairs = sorting_network(len(warps))
    _measure_noise(strips, pairs, options)
    out.noise_scale = dict(zip(visits, strips.scale.tolist(), strict=True))
    ny, nx = box.shape
    static, count = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.uint16)
    outlier = np.zeros((len(warps), ny, nx), np.uint8)
    n_outlier = np.zeros((ny, nx), np.uint16)
    for y0 in range(0, ny, strips.height):
        y1 = min(ny, y0 + strips.height)
        values, variance = strips.read(y0, y1)
        flags = np.empty((len(warps), (y1 - y0) * nx), np.uint8)
        _static(values, variance, pairs, options, static[y0:y1], count[y0:y1], flags)
        outlier[:, y0:y1] = flags.reshape(len(warps), y1 - y0, nx)
        n_outlier[y0:y1] = outlier[:, y0:y1].sum(axis=0, dtype=np.uint16)
    out.static = static
    for k, visit in enumerate(visits):
        number = judge_footprints(
            outlier[k],
            n_outlier,
            count,
            options.min_pixels,
            options.spatialThreshold,
            float(options.maxNumEpochs),
            options.maxFractionEpochsLow,
            options.maxFractionEpochsHigh,
            options.grow,
        )
        if number:
            out.masks[visit] = np.packbits(outlier[k], axis=1)
            out.number[visit] = int(number)
    return out


def _static(
    values: Float32Array,
    variance: Float32Array,
    pairs: NDArray[np.int64],
    options: ArtifactOptions,
    static: Float32Array,
    count: NDArray[np.uint16],
    flags: NDArray[np.uint8],
) -> None:
    n = len(values)
    static_sky(
        values.reshape(n, -1),
        variance.reshape(n, -1),
        pairs,
        np.float32(options.clip_sigma),
        np.float32(options.threshold),
        np.float32(options.source_error),
        static.reshape(-1),
        count.reshape(-1),
        flags,
    )


def _measure_noise(strips: _Strips, pairs: NDArray[np.int64], options: ArtifactOptions) -> None:
    """Scale the predicted noise to the measured one, from some rows of the whole patch."""
    ny = strips.box.shape[0]
    step = max(1, ny // 24)
    read = [strips.read(y, y + 1) for y in range(step // 2, ny, step)]
    values = np.ascontiguousarray(np.concatenate([r[0][:, 0] for r in read], axis=1))
    variance = np.ascontiguousarray(np.concatenate([r[1][:, 0] for r in read], axis=1))
    n, m = values.shape
    static, count = np.empty(m, np.float32), np.empty(m, np.uint16)
    flags = np.empty((n, m), np.uint8)
    _static(values, variance, pairs, options, static, count, flags)
    # A source is not noise: only the pixels below the upper quartile of the static sky tell it.
    known = np.isfinite(static) & (count >= 2)
    if not known.any():
        return
    faint = known & (static < np.quantile(static[known], 0.75))
    values[:, ~faint] = np.nan
    # Each epoch is part of the mean that it is compared with.
    weight = np.where(np.isfinite(values), 1.0 / variance, 0.0)
    used = weight > 0
    share = np.sum(weight / np.maximum(weight.sum(axis=0), 1e-30), axis=1)
    share /= np.maximum(used.sum(axis=1), 1)
    measured = noise_scale(values, variance, static)
    strips.scale = np.maximum(1.0, measured / np.sqrt(np.clip(1.0 - share, 0.1, 1.0)))

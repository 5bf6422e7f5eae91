"""Calibration frames from many exposures: bias, flat, fringe, sky, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.errors import DataError, NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.detrend._combine_kernels import add_frame, clipped_mean

__all__ = [
    "CombineOptions",
    "FlatScales",
    "combine_bias",
    "combine_flat",
    "combine_frames",
    "combine_fringe",
    "combine_sky",
    "robust_level",
    "solve_flat_scales",
]


@dataclass(frozen=True, kw_only=True)
class CombineOptions:
    """How frames are combined."""

    clip: float = option(4.0, "values beyond this are left out", unit="sigma")
    rounds: int = option(2, "rounds of clipping: about the median, then about the mean")
    min_frames: int = option(1, "fewer frames than this are an error")
    memory_limit: float = option(
        1.5, "larger stacks lie in a temporary file and are combined in bands of rows", unit="GB"
    )
    flat_low: float = option(0.2, "flat below this is BAD and FLAT_LOW")
    flat_high: float = option(3.0, "flat above this is BAD")
    source_clip: float = option(3.0, "pixels above this are sources", unit="sigma")
    source_grow: int = option(6, "growth of the sources", unit="pixel")
    sky_bin: int = option(32, "width of a super-pixel of a sky frame", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "clip", low=1.0)
        check_range(self, "rounds", low=1, high=20)
        check_range(self, "min_frames", low=1)
        check_range(self, "memory_limit", low=0.0, low_open=True)
        check_range(self, "flat_low", low=0.0, high=1.0)
        check_range(self, "flat_high", low=1.0)
        check_range(self, "source_clip", low=1.0)
        check_range(self, "source_grow", low=0, high=200)
        check_range(self, "sky_bin", low=1, high=1024)


def combine_frames(
    frames: Iterable[PixelPlanes],
    n_frames: int,
    *,
    scales: Sequence[float] | None = None,
    unusable: MaskPlane = UNUSABLE,
    options: CombineOptions | None = None,
    unit: str = "",
) -> PixelPlanes:
    """Clipped mean of frames of one CCD.

    Parameters
    ----------
    frames : iterable of PixelPlanes
        The frames, one after the other: each is dropped before the next is asked for.
    n_frames : int
        How many there are.
    scales : (n_frames,) float, optional
        Each frame is divided by its scale first.
    unusable : MaskPlane
        Pixels with these planes are left out.
    options : CombineOptions, optional
        Clipping and memory.
    unit : str
        Unit of the result; that of the frames if empty and without scales.

    Returns
    -------
    PixelPlanes
        Mean; variance of the mean (mean variance of the frames over the number used); mask BAD
        where no frame was usable (image 0, variance 1e30).

    Raises
    ------
    NoDataError
        If there are too few frames.
    DataError
        If shapes differ or a scale is not positive.
    """
    options = options or CombineOptions()
    if n_frames < options.min_frames:
        raise NoDataError(
            f"{n_frames} frames to combine; at least {options.min_frames} are needed (min_frames)"
        )
    bits = np.int32(int(unusable))
    stack: NDArray[np.float32] | None = None
    with tempfile.TemporaryDirectory(prefix="skymill-combine-") as folder:
        total = np.empty(0, np.float64)
        count = np.empty(0, np.int32)
        for k, frame in enumerate(frames):
            scale = 1.0 if scales is None else float(scales[k])
            if not (np.isfinite(scale) and scale > 0):
                raise DataError(f"the scale of frame {k} must be > 0; got {scale}")
            if stack is None:
                unit = unit or ("" if scales is not None else frame.unit)
                stack = _make_stack((n_frames, *frame.shape), options, Path(folder))
                total, count = np.zeros(frame.shape), np.zeros(frame.shape, np.int32)
            if k >= n_frames or frame.shape != stack.shape[1:]:
                raise DataError(
                    f"frame {k} has shape {frame.shape}; {n_frames} frames of shape "
                    f"{stack.shape[1:]} were announced"
                )
            add_frame(frame.image, frame.variance, frame.mask, bits, scale, stack[k], total, count)
        if stack is None:
            raise NoDataError("no frames to combine")
        expected = (total / np.maximum(count, 1)).astype(np.float32)
        mean, used = _mean_in_bands(stack, expected, options)
        del stack
    empty = used == 0
    variance = (expected / np.maximum(used, 1)).astype(np.float32)
    mask = np.where(empty, np.int32(int(MaskPlane.BAD)), np.int32(0)).astype(np.int32)
    mean[empty], variance[empty] = 0.0, 1e30
    return PixelPlanes(mean, variance, mask, unit=unit)


def _make_stack(
    shape: tuple[int, ...], options: CombineOptions, folder: Path
) -> NDArray[np.float32]:
    if 4.0 * np.prod(shape, dtype=float) <= options.memory_limit * 1e9:
        return np.full(shape, np.nan, np.float32)
    return np.lib.format.open_memmap(folder / "stack.npy", mode="w+", dtype=np.float32, shape=shape)


def _mean_in_bands(
    stack: NDArray[np.float32], expected: NDArray[np.float32], options: CombineOptions
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    n, ny, nx = stack.shape
    mean, used = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.int32)
    rows = max(1, int(0.25 * options.memory_limit * 1e9 / (4.0 * n * nx)))
    for y0 in range(0, ny, rows):
        band = np.s_[y0 : min(y0 + rows, ny)]
        part = np.ascontiguousarray(stack[:, band])
        clipped_mean(part, expected[band], options.clip, options.rounds, mean[band], used[band])
    return mean, used


def combine_bias(
    frames: Iterable[PixelPlanes], n_frames: int, *, options: CombineOptions | None = None
) -> PixelPlanes:
    """The bias: clipped mean of overscan-subtracted zero frames.

    Parameters
    ----------
    frames : iterable of PixelPlanes
        Zero frames [adu].
    n_frames : int
        How many.
    options : CombineOptions, optional
        Clipping and memory.

    Returns
    -------
    PixelPlanes
        Bias [adu] with variance and mask.
    """
    return combine_frames(frames, n_frames, options=options, unit="adu")


def robust_level(planes: PixelPlanes, *, unusable: MaskPlane = UNUSABLE) -> float:
    """Median of the usable pixels, from every third pixel of every third row.

    Parameters
    ----------
    planes : PixelPlanes
        A frame.
    unusable : MaskPlane
        Pixels with these planes are left out.

    Returns
    -------
    float
        Median in the frame's unit.

    Raises
    ------
    NoDataError
        If no pixel is usable.
    """
    step = max(1, min(planes.shape) // 300)
    image, mask = planes.image[::step, ::step], planes.mask[::step, ::step]
    good = ((mask & np.int32(int(unusable))) == 0) & np.isfinite(image)
    if not good.any():
        raise NoDataError("no usable pixel to take the level of a frame from")
    return float(np.median(image[good]))


@dataclass(frozen=True)
class FlatScales:
    """Levels of flats split into a number of the exposure and a number of the CCD.

    Parameters
    ----------
    exposure : dict of int to float [electron]
        Illumination of each exposure: divide its frames by it.
    detector : dict of int to float
        Relative response of each CCD, 1 in the mean over the CCDs.
    rms : float
        Scatter of log(level) about the product.
    """

    exposure: dict[int, float]
    detector: dict[int, float]
    rms: float


def solve_flat_scales(levels: Mapping[tuple[int, int], float]) -> FlatScales:
    """Split the level of each exposure and CCD into a product.

    Parameters
    ----------
    levels : dict of (exposure, detector) to float [electron]
        Robust levels; not every CCD has to be in every exposure.

    Returns
    -------
    FlatScales
        Least squares in the logarithm.

    Raises
    ------
    DataError
        If a level is not positive.
    NoDataError
        If there is none.
    """
    if not levels:
        raise NoDataError("no flat levels to scale")
    for (exposure, detector), level in levels.items():
        if not (np.isfinite(level) and level > 0):
            raise DataError(
                f"the level of flat exposure {exposure} detector {detector} must be > 0 electron; "
                f"got {level}: is it a flat?"
            )
    exposures = sorted({e for e, _ in levels})
    detectors = sorted({d for _, d in levels})
    rows = np.zeros((len(levels) + 1, len(exposures) + len(detectors)))
    target = np.zeros(len(levels) + 1)
    for i, ((exposure, detector), level) in enumerate(levels.items()):
        rows[i, exposures.index(exposure)] = 1.0
        rows[i, len(exposures) + detectors.index(detector)] = 1.0
        target[i] = np.log(level)
    rows[-1, len(exposures) :] = 1.0  # The mean of log(response) is zero.
    solution = np.linalg.lstsq(rows, target, rcond=None)[0]
    residual = target[:-1] - rows[:-1] @ solution
    response = np.exp(solution[len(exposures) :])
    norm = float(response.mean())
    return FlatScales(
        exposure={e: float(np.exp(s) * norm) for e, s in zip(exposures, solution, strict=False)},
        detector={d: float(r / norm) for d, r in zip(detectors, response, strict=True)},
        rms=float(np.sqrt(np.mean(residual**2))),
    )


def combine_flat(
    frames: Iterable[PixelPlanes],
    scales: Sequence[float],
    *,
    options: CombineOptions | None = None,
) -> PixelPlanes:
    """The flat of one CCD: scaled frames, clipped mean, response relative to the focal plane.

    Parameters
    ----------
    frames : iterable of PixelPlanes
        Bias-subtracted, linear flats [electron].
    scales : (n,) float [electron]
        Illumination of each exposure (`FlatScales.exposure`), common to all CCDs, so that the
        relative gains of the CCDs stay in the flat.
    options : CombineOptions, optional
        Clipping, memory, limits.

    Returns
    -------
    PixelPlanes
        Flat with variance; BAD and FLAT_LOW where it is too low, BAD where it is too high.
    """
    options = options or CombineOptions()
    flat = combine_frames(frames, len(scales), scales=scales, options=options)
    flat.unit = ""
    low = ~(flat.image > options.flat_low)
    flat.mask[low] |= np.int32(int(MaskPlane.BAD | MaskPlane.FLAT_LOW))
    flat.mask[flat.image > options.flat_high] |= np.int32(int(MaskPlane.BAD))
    return flat


def mask_sources(
    image: NDArray[np.float32], usable: NDArray[np.bool_], options: CombineOptions
) -> NDArray[np.bool_]:
    """Pixels of sources: above the clip in the image smoothed by 5 pixels, grown.

    Parameters
    ----------
    image : (ny, nx) float32
        Sky-subtracted image.
    usable : (ny, nx) bool
        Pixels with a value.
    options : CombineOptions
        Threshold and growth.

    Returns
    -------
    (ny, nx) bool
        True on sources.
    """
    filled = np.where(usable, image, np.float32(0.0))
    smooth = ndimage.uniform_filter(filled, 5, mode="nearest")
    sample = smooth[::3, ::3][usable[::3, ::3]]
    if sample.size == 0:
        return np.zeros(image.shape, bool)
    median = np.median(sample)
    sigma = robust_sigma(sample)
    hot = smooth - median > options.source_clip * sigma
    size = 2 * options.source_grow + 1
    return np.asarray(ndimage.maximum_filter(hot, size)) if options.source_grow else hot


def smooth_sky(
    image: NDArray[np.float32], usable: NDArray[np.bool_], width: int
) -> NDArray[np.float32]:
    """Medians of square boxes, interpolated linearly back to the pixels.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels.
    usable : (ny, nx) bool
        Pixels to use.
    width : int [pixel]
        Width of a box.

    Returns
    -------
    (ny, nx) float32
        Smooth sky.

    Raises
    ------
    NoDataError
        If no pixel is usable.
    """
    ny, nx = image.shape
    n_y, n_x = max(1, round(ny / width)), max(1, round(nx / width))
    edges_y = np.linspace(0, ny, n_y + 1).astype(int)
    edges_x = np.linspace(0, nx, n_x + 1).astype(int)
    mesh = np.full((n_y, n_x), np.nan)
    for j in range(n_y):
        for i in range(n_x):
            box = np.s_[edges_y[j] : edges_y[j + 1] : 2, edges_x[i] : edges_x[i + 1] : 2]
            values = image[box][usable[box]]
            if values.size >= 20:
                mesh[j, i] = np.median(values)
    if np.isnan(mesh).all():
        raise NoDataError("no usable pixels to estimate the sky from")
    mesh[np.isnan(mesh)] = np.nanmedian(mesh)
    at_y = (np.arange(ny) + 0.5) / ny * n_y - 0.5
    at_x = (np.arange(nx) + 0.5) / nx * n_x - 0.5
    rows = _interpolate_axis(mesh, np.clip(at_y, 0, n_y - 1))
    return np.ascontiguousarray(_interpolate_axis(rows.T, np.clip(at_x, 0, n_x - 1)).T, np.float32)


def _interpolate_axis(mesh: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.minimum(np.floor(at).astype(int), max(mesh.shape[0] - 2, 0))
    high = np.minimum(low + 1, mesh.shape[0] - 1)
    f = (at - low)[:, None]
    return mesh[low] * (1 - f) + mesh[high] * f


def combine_fringe(
    frames: Iterable[PixelPlanes],
    n_frames: int,
    *,
    width: int = 256,
    options: CombineOptions | None = None,
) -> PixelPlanes:
    """The fringe pattern: what is left of dithered night frames without their smooth sky.

    Parameters
    ----------
    frames : iterable of PixelPlanes
        Flat night frames with their sky [electron].
    n_frames : int
        How many.
    width : int [pixel]
        Structure wider than this is sky.
    options : CombineOptions, optional
        Clipping, memory, source mask.

    Returns
    -------
    PixelPlanes
        Pattern as a fraction of the sky, with variance and mask.
    """
    options = options or CombineOptions()
    return combine_frames(
        (_relative_sky(f, width, options) for f in frames), n_frames, options=options,
        unusable=UNUSABLE | MaskPlane.DETECTED,
    )  # fmt: skip


def _relative_sky(frame: PixelPlanes, width: int, options: CombineOptions) -> PixelPlanes:
    """A frame without its smooth sky, over its sky; sources in DETECTED."""
    bits = np.int32(int(UNUSABLE | MaskPlane.INTRP | MaskPlane.FLAT_LOW))
    usable = ((frame.mask & bits) == 0) & np.isfinite(frame.image)
    sky = smooth_sky(frame.image, usable, width)
    sources = mask_sources(frame.image - sky, usable, options)
    sky = smooth_sky(frame.image, usable & ~sources, width)
    level = float(np.median(sky))
    if not level > 0:
        raise DataError(f"the sky of a night frame must be > 0 electron; got {level}")
    mask = frame.mask.copy()
    mask[sources] |= np.int32(int(MaskPlane.DETECTED))
    mask[~usable] |= np.int32(int(MaskPlane.NO_DATA))
    return PixelPlanes(
        ((frame.image - sky) / level).astype(np.float32),
        (frame.variance / level**2).astype(np.float32), mask, unit="",
    )  # fmt: skip


def combine_sky(
    frames: Iterable[PixelPlanes],
    scales: Sequence[float],
    *,
    options: CombineOptions | None = None,
) -> PixelPlanes:
    """The sky frame of one CCD: the shape of the sky over the focal plane, in super-pixels.

    Parameters
    ----------
    frames : iterable of PixelPlanes
        Flat night frames with their sky [electron].
    scales : (n,) float [electron]
        Level of the sky of each exposure, common to all CCDs.
    options : CombineOptions, optional
        Clipping, source mask, width of the super-pixels.

    Returns
    -------
    PixelPlanes
        (ny // bin, nx // bin) sky relative to the exposure's level, variance, mask.
    """
    options = options or CombineOptions()
    return combine_frames(
        (_bin_sky(f, options) for f in frames), len(scales), scales=scales, options=options
    )


def _bin_sky(frame: PixelPlanes, options: CombineOptions) -> PixelPlanes:
    bits = np.int32(int(UNUSABLE | MaskPlane.INTRP | MaskPlane.FLAT_LOW))
    usable = ((frame.mask & bits) == 0) & np.isfinite(frame.image)
    sky = smooth_sky(frame.image, usable, 256)
    usable &= ~mask_sources(frame.image - sky, usable, options)
    size = options.sky_bin
    ny, nx = frame.shape[0] // size, frame.shape[1] // size

    def bins(values: NDArray[Any]) -> NDArray[np.float64]:
        cut = values[: ny * size, : nx * size].reshape(ny, size, nx, size)
        return np.asarray(cut.sum(axis=(1, 3), dtype=np.float64))

    count = bins(usable)
    safe = np.maximum(count, 1.0)
    image = bins(np.where(usable, frame.image, 0.0)) / safe
    variance = bins(np.where(usable, frame.variance, 0.0)) / safe**2
    few = count < 0.25 * size * size
    mask = np.where(few, np.int32(int(MaskPlane.NO_DATA)), np.int32(0)).astype(np.int32)
    return PixelPlanes(image.astype(np.float32), variance.astype(np.float32), mask)

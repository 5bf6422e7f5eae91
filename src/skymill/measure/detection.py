"""Detection: matched filter, threshold, footprints and the peaks in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from skymill.data.errors import ConfigError, DataError
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_choice, check_range, option
from skymill.measure._detection_kernels import (
    find_peaks,
    footprint_boxes,
    grow_disk,
    matched_filter,
    refine_peaks,
)
from skymill.measure.background import BackgroundOptions, estimate_background
from skymill.measure.saturation import fill_saturated

__all__ = ["DetectionOptions", "Detections", "detect_sources", "free_positions", "sky_positions"]

#: Pixels without a value; saturated ones have one and keep the bright stars in one piece.
NO_VALUE = UNUSABLE & ~MaskPlane.SAT
_EIGHT = np.ones((3, 3), np.int32)
#: Pixels from which the noise between the sources is measured.
_SAMPLE = 200_000


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """What counts as a source."""

    threshold: float = option(5.0, "threshold on the smoothed image", unit="sigma")
    polarity: str = option("positive", "positive, negative or both")
    kernel_width: float = option(3.5, "half width of the matched filter", unit="sigma of the PSF")
    grow: float = option(2.4, "radius by which footprints grow", unit="sigma of the PSF")
    min_pixels: int = option(1, "least pixels above the threshold", unit="pixel")
    min_prominence: float = option(3.0, "rise of a peak above its saddle", unit="sigma")
    min_contrast: float = option(0.01, "rise of a peak above its saddle relative to the peak")
    dynamic: bool = option(False, "scale the threshold by the noise found between the sources")
    fill_saturated: bool = option(
        False, "raise the cores of saturated stars, so that each star is one peak"
    )
    local_background_box: int = option(
        0, "box of a background subtracted for the detection alone (0: none)", unit="pixel"
    )

    def __post_init__(self) -> None:
        check_range(self, "threshold", low=0.0, low_open=True)
        check_choice(self, "polarity", ("positive", "negative", "both"))
        check_range(self, "kernel_width", low=1.0, high=10.0)
        check_range(self, "grow", low=0.0, high=20.0)
        check_range(self, "min_pixels", low=1)
        check_range(self, "min_prominence", low=0.0)
        check_range(self, "min_contrast", low=0.0, high=1.0)
        check_range(self, "local_background_box", low=0)


@dataclass
class Detections:
    """Footprints and peaks found in one image.

    Parameters
    ----------
    labels : (ny, nx) int32
        Number of the footprint that holds each pixel, from 1; 0 outside.
    x, y : (n,) float64 [pixel]
        Peaks, refined below the pixel; brightest first.
    footprint : (n,) int32
        Label of the footprint of each peak.
    peak_value : (n,) float64 [image unit]
        Smoothed image at the peak (the flux of a point source over its effective area).
    significance : (n,) float64 [sigma]
        ``peak_value`` over its noise.
    psf_sigma : float [pixel]
        Width of the filter.
    threshold : float [sigma]
        Threshold that was applied, dynamic scaling included.
    noise_factor : float
        Noise found between the sources over the noise expected from the variance; 1 unless
        measured (``dynamic``).
    offset : float [image unit]
        Median of the smoothed image between the sources, subtracted for detection (``dynamic``).
    negative_labels : (ny, nx) int32, optional
        Footprints of negative detections.
    boxes : (m, 4) int32 [pixel]
        Bounding box x0, y0, x1, y1 (half open) of each footprint.
    area : (m,) int64 [pixel]
        Pixels of each footprint.
    """

    labels: NDArray[np.int32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    footprint: NDArray[np.int32]
    peak_value: NDArray[np.float64]
    significance: NDArray[np.float64]
    psf_sigma: float
    threshold: float
    noise_factor: float = 1.0
    offset: float = 0.0
    negative_labels: NDArray[np.int32] | None = None
    boxes: NDArray[np.int32] = field(default_factory=lambda: np.empty((0, 4), np.int32))
    area: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.x.size

    @property
    def peaks_in_footprint(self) -> NDArray[np.int64]:
        """(n,) Number of peaks in the footprint of each peak."""
        counts = np.bincount(self.footprint, minlength=self.area.size + 1)
        return counts[self.footprint]

    def mark(self, mask: NDArray[np.int32]) -> None:
        """Set the DETECTED and DETECTED_NEGATIVE planes, clearing old ones first.

        Parameters
        ----------
        mask : (ny, nx) int32
            Changed in place.
        """
        planes = int(MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE)
        mask &= np.int32(~planes)
        mask[self.labels > 0] |= np.int32(int(MaskPlane.DETECTED))
        if self.negative_labels is not None:
            mask[self.negative_labels > 0] |= np.int32(int(MaskPlane.DETECTED_NEGATIVE))


def detect_sources(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    psf_sigma: float,
    options: DetectionOptions = DetectionOptions(),
    peaks: bool = True,
) -> Detections:
    """Find sources as peaks of the image smoothed with a Gaussian of the PSF's width.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits; pixels without a value (bad, not interpolated) have no weight.
    psf_sigma : float [pixel]
        Gaussian width of the PSF.
    options : DetectionOptions
        Threshold, growth, peaks.
    peaks : bool
        Without, only footprints are found, in half of the time.

    Returns
    -------
    Detections
        Footprints (pixels above the threshold, grown) and peaks. Without any source it is empty.

    Raises
    ------
    DataError
        If the shapes differ.
    ConfigError
        If the width is not positive.
    """
    if not image.shape == variance.shape == mask.shape:
        raise DataError(
            "image, variance and mask must have one shape; got "
            f"{image.shape}, {variance.shape}, {mask.shape}"
        )
    if not (np.isfinite(psf_sigma) and psf_sigma > 0):
        raise ConfigError(f"psf_sigma must be > 0 pixel; got {psf_sigma}")
    if options.local_background_box:
        local = estimate_background(
            image, mask, options=BackgroundOptions(box=options.local_background_box)
        )
        image = image - local.evaluate()
    if options.fill_saturated and peaks:
        image = fill_saturated(image, mask)
    smooth, noise, cover = _smooth(image, variance, mask, psf_sigma, options.kernel_width)
    factor, offset = 1.0, 0.0
    if options.dynamic:
        factor, offset = _measure_noise(smooth, noise, psf_sigma, options)
        smooth -= np.float32(offset) * cover
    threshold = options.threshold * factor
    out = _empty(image.shape, psf_sigma, threshold, factor, offset)
    radius = options.grow * psf_sigma
    if options.polarity in ("positive", "both"):
        _detect_positive(out, smooth, noise, radius, options, peaks=peaks)
    if options.polarity in ("negative", "both"):
        seed = _seeds(-smooth, noise, threshold, options.min_pixels)
        out.negative_labels = _label(_grow(seed, radius))[0]
    return out


def sky_positions(
    detections: Detections,
    mask: NDArray[np.int32],
    *,
    count: int,
    radius: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random places without any source, where fluxes should be zero.

    Parameters
    ----------
    detections : Detections
        Sources to stay away from.
    mask : (ny, nx) int32
        Mask bits; unusable pixels are avoided too.
    count : int
        Wanted positions; fewer come back where the sky is crowded.
    radius : float [pixel]
        Circle that has to be free.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    x, y : (n,) float64 [pixel]
        Positions at the centres of pixels.
    """
    taken = (detections.labels > 0) | ((mask & np.int32(int(UNUSABLE))) != 0)
    if detections.negative_labels is not None:
        taken |= detections.negative_labels > 0
    return free_positions(taken, count=count, radius=radius, rng=rng)


def free_positions(
    taken: NDArray[np.bool_], *, count: int, radius: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random pixels that lie farther than a radius from every taken one and from the edge.

    Parameters
    ----------
    taken : (ny, nx) bool
        Pixels to stay away from.
    count : int
        Wanted positions; fewer come back where there is no room.
    radius : float [pixel]
        Distance.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    x, y : (n,) float64 [pixel]
        Centres of pixels.
    """
    free = _grow(taken.astype(np.uint8), radius) == 0
    edge = int(np.ceil(radius))
    free[:edge] = free[-edge:] = False
    free[:, :edge] = free[:, -edge:] = False
    places = np.flatnonzero(free)
    chosen = rng.choice(places, size=min(count, places.size), replace=False)
    return (chosen % taken.shape[1]).astype(float), (chosen // taken.shape[1]).astype(float)


def _smooth(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    psf_sigma: float,
    kernel_width: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Smoothed image, its standard deviation (zero where too little is known), and its cover."""
    half = max(1, int(np.ceil(kernel_width * psf_sigma)))
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / psf_sigma) ** 2)
    taps /= taps.sum()
    smooth, noise, cover = (np.empty(image.shape, np.float32) for _ in range(3))
    matched_filter(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(mask, np.int32),
        np.int32(int(NO_VALUE)),
        np.int32(int(MaskPlane.INTRP)),
        taps.astype(np.float32),
        smooth,
        noise,
        cover,
    )
    return smooth, noise, cover


def _measure_noise(
    smooth: NDArray[np.float32],
    noise: NDArray[np.float32],
    psf_sigma: float,
    options: DetectionOptions,
) -> tuple[float, float]:
    """Width of the significance and median of the smoothed image between the sources."""
    # Some hundred thousand pixels know these quantiles to half a per cent.
    step = max(2, int(np.sqrt(smooth.size / _SAMPLE)))
    known = noise[::step, ::step] > 0
    if np.count_nonzero(known) < 100:
        return 1.0, 0.0
    scaled = smooth[::step, ::step][known] / noise[::step, ::step][known]
    # Sources lift the upper half of the distribution only: the lower half starts the search.
    low, middle = np.percentile(scaled, [15.865, 50.0])
    away = np.abs(smooth - np.float32(middle) * noise)
    seed = _seeds(away, noise, 0.5 * options.threshold * float(middle - low), 1)
    # Half the threshold also catches noise peaks; only groups as large as a PSF are sources.
    labels, count = _label(seed)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    source = area >= max(4.0, 4.0 * psf_sigma**2)
    source[0] = False
    free = (_grow(source[labels].astype(np.uint8), options.grow * psf_sigma) == 0) & (noise > 0)
    if np.count_nonzero(free) < 100:
        return 1.0, 0.0
    step = max(1, round(psf_sigma), int(np.sqrt(smooth.size / (4 * _SAMPLE))))
    thin = np.zeros_like(free)
    thin[::step, ::step] = free[::step, ::step]
    chosen = thin if np.count_nonzero(thin) > 100 else free
    offset = float(np.median(smooth[chosen]))
    width = _curvature_width(smooth, noise, free, psf_sigma)
    if not np.isfinite(width):
        scaled = (smooth[chosen] - offset) / noise[chosen]
        low, high = np.percentile(scaled, [15.865, 84.135])
        width = 0.5 * (high - low)
    return float(max(width, 1e-3)), offset


def _curvature_width(
    smooth: NDArray[np.float32],
    noise: NDArray[np.float32],
    free: NDArray[np.bool_],
    psf_sigma: float,
) -> float:
    """Width of the significance from second differences over some widths of the filter.

    They know nothing of the level and the slope of the wings of a bright star, between which faint
    sources are still seen. NaN where too few pixels are free.
    """
    reach = max(3, round(4.0 * psf_sigma))
    ny, nx = smooth.shape
    step = max(1, int(np.sqrt(smooth.size / _SAMPLE)))
    values = []
    for axis in (0, 1):
        if smooth.shape[axis] <= 2 * reach:
            continue
        cuts = []
        for shift in (0, reach, 2 * reach):
            rows = slice(shift, ny - 2 * reach + shift, step) if axis == 0 else slice(0, ny, step)
            columns = slice(shift, nx - 2 * reach + shift, step) if axis else slice(0, nx, step)
            cuts.append((rows, columns))
        all_free = free[cuts[0]] & free[cuts[1]] & free[cuts[2]]
        left, middle, right = (smooth[cut][all_free] for cut in cuts)
        # The variance of left - 2 middle + right where the three are independent.
        error2 = sum(w * noise[cut][all_free] ** 2 for w, cut in zip((1, 4, 1), cuts, strict=True))
        values.append((left - 2.0 * middle + right) / np.sqrt(error2))
    joined = np.concatenate(values) if values else np.empty(0)
    if joined.size < 100:
        return float("nan")
    low, high = np.percentile(joined, [15.865, 84.135])
    return float(0.5 * (high - low))


def _seeds(
    smooth: NDArray[np.float32], noise: NDArray[np.float32], threshold: float, min_pixels: int
) -> NDArray[np.uint8]:
    """Pixels above the threshold, in groups of at least ``min_pixels``."""
    seed = ((smooth > np.float32(threshold) * noise) & (noise > 0)).astype(np.uint8)
    if min_pixels > 1:
        labels, count = _label(seed)
        keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
        keep[0] = False
        seed = keep[labels].astype(np.uint8)
    return seed


def _grow(seed: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Pixels within ``radius`` of a set one."""
    if radius < 1.0:
        return seed
    out = np.empty_like(seed)
    grow_disk(seed, float(radius), out)
    return out


def _label(seed: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Number the eight-connected groups of set pixels."""
    labels, count = label(seed, structure=_EIGHT)
    return labels.astype(np.int32, copy=False), int(count)


def _detect_positive(
    out: Detections,
    smooth: NDArray[np.float32],
    noise: NDArray[np.float32],
    radius: float,
    options: DetectionOptions,
    *,
    peaks: bool,
) -> None:
    """Footprints and peaks above the threshold, written into ``out``."""
    seed = _seeds(smooth, noise, out.threshold, options.min_pixels)
    out.labels, count = _label(_grow(seed, radius))
    out.boxes, out.area = np.empty((count, 4), np.int32), np.empty(count, np.int64)
    footprint_boxes(out.labels, count, out.boxes, out.area)
    if not peaks:
        return
    above = np.flatnonzero(seed).astype(np.int32)
    order = above[np.argsort(-smooth.ravel()[above])]
    pixel = np.empty(order.size, np.int32)
    found = find_peaks(
        smooth,
        noise,
        out.threshold,
        order,
        options.min_prominence * out.noise_factor,
        options.min_contrast,
        pixel,
        np.full(smooth.size, -1, np.int32),
    )
    pixel = pixel[:found]
    out.x, out.y = np.empty(found), np.empty(found)
    refine_peaks(smooth, pixel, out.x, out.y)
    out.footprint = out.labels.ravel()[pixel]
    out.peak_value = smooth.ravel()[pixel].astype(np.float64)
    out.significance = out.peak_value / noise.ravel()[pixel]


def _empty(
    shape: tuple[int, ...], psf_sigma: float, threshold: float, factor: float, offset: float
) -> Detections:
    """A result without sources."""
    return Detections(
        labels=np.zeros(shape, np.int32),
        x=np.empty(0),
        y=np.empty(0),
        footprint=np.empty(0, np.int32),
        peak_value=np.empty(0),
        significance=np.empty(0),
        psf_sigma=psf_sigma,
        threshold=threshold,
        noise_factor=factor,
        offset=offset,
    )

"""Instrument-signature removal of one CCD: raw ADU to flat electrons, variance and mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.options import check_range, option
from skymill.detrend._isr_kernels import (
    correct_rows,
    count_planes,
    divide_flat,
    merge_planes,
)
from skymill.detrend.amplifiers import Amplifier, corner_sides
from skymill.detrend.brighter_fatter import BrighterFatterOptions, correct_brighter_fatter
from skymill.detrend.crosstalk import CrosstalkSource, CrosstalkTerm, crosstalk_signal
from skymill.detrend.defects import mask_defects, mask_edges, mask_saturation
from skymill.detrend.fringe import FringeOptions, subtract_fringe
from skymill.detrend.interpolate import interpolate_masked
from skymill.detrend.linearity import LINEARITY_STEP, Linearity, dense_tables
from skymill.detrend.overscan import OverscanOptions, TrimmedFrame, subtract_overscan

__all__ = ["IsrCalibrations", "IsrOptions", "IsrResult", "detrend_ccd"]

_EMPTY = np.empty((0, 0), np.float32)


@dataclass(frozen=True, kw_only=True)
class IsrOptions:
    """Limits and methods of the instrument-signature removal."""

    overscan_fit_type: str = option("MEDIAN_PER_ROW", "MEDIAN_PER_ROW or MEAN_PER_ROW")
    empirical_read_noise: bool = option(True, "take the read noise from the overscan")
    min_pixel_to_mask: float = option(45000.0, "crosstalk source level to mask", unit="adu")
    grow_saturation: int = option(1, "growth of saturated pixels", unit="pixel")
    widen_saturation_trails: bool = option(True, "widen long saturated runs")
    num_edge_suspect: int = option(35, "width of the SUSPECT frame of the CCD", unit="pixel")
    flat_low: float = option(0.1, "flat below which a pixel is FLAT_LOW and BAD")
    mask_suspect_above_linear: bool = option(True, "SUSPECT above the measured linear range")
    interpolation_psf_sigma: float = option(1.6, "PSF width for interpolation", unit="pixel")
    variance_of_calibrations: bool = option(True, "add the variance of bias and flat")

    def __post_init__(self) -> None:
        OverscanOptions(fit_type=self.overscan_fit_type)
        check_range(self, "min_pixel_to_mask", low=0.0)
        check_range(self, "grow_saturation", low=0, high=100)
        check_range(self, "num_edge_suspect", low=0, high=1000)
        check_range(self, "flat_low", low=0.0, high=1.0)
        check_range(self, "interpolation_psf_sigma", low=0.0, low_open=True)


@dataclass(frozen=True, kw_only=True)
class IsrCalibrations:
    """What is known of the CCD; what is None is not corrected.

    Parameters
    ----------
    bias : PixelPlanes, optional
        Combined bias [adu].
    flat : PixelPlanes, optional
        Combined flat, 1 in the mean over the focal plane.
    fringe : PixelPlanes, optional
        Fringe pattern per unit of sky.
    bf_kernel : (n, n) float, optional
        Brighter-fatter kernel [1/electron].
    linearity : dict of str to Linearity, optional
        By the name of the amplifier.
    defects : astropy.table.Table, optional
        Boxes ``x0, y0, width, height`` [pixel].
    crosstalk : sequence of CrosstalkTerm
        Coefficients with a victim in this CCD; the key of this CCD itself is ``detector``.
    crosstalk_sources : mapping or callable
        `CrosstalkSource` of other CCDs by their key.
    gain, read_noise : dict of str to float [electron/adu, electron]
        By the name of the amplifier, in place of the amplifier's own.
    """

    bias: PixelPlanes | None = None
    flat: PixelPlanes | None = None
    fringe: PixelPlanes | None = None
    bf_kernel: NDArray[np.floating] | None = None
    linearity: Mapping[str, Linearity] | None = None
    defects: Table | None = None
    crosstalk: Sequence[CrosstalkTerm] = ()
    crosstalk_sources: (
        Mapping[str | int, CrosstalkSource] | Callable[[str | int], CrosstalkSource | None]
    ) = field(default_factory=dict)
    gain: Mapping[str, float] = field(default_factory=dict)
    read_noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class IsrResult:
    """A detrended CCD.

    Parameters
    ----------
    planes : PixelPlanes
        Electrons (ADU times gain), variance, mask.
    read_noise : dict of str to float [electron]
        Read noise used, by amplifier.
    overscan_level : dict of str to float [adu]
        Median overscan level, by amplifier.
    missing_sources : list
        Crosstalk source CCDs that were not there.
    fringe_amplitude : float [electron]
        Amplitude of the subtracted pattern; 0 if none.
    bf_iterations : int
        Iterations of the brighter-fatter correction; 0 if not done.
    n_saturated, n_interpolated : int
        Pixels with SAT, and pixels replaced.
    """

    planes: PixelPlanes
    read_noise: dict[str, float]
    overscan_level: dict[str, float]
    missing_sources: list[str | int]
    fringe_amplitude: float
    bf_iterations: int
    n_saturated: int
    n_interpolated: int


def _check_planes(name: str, planes: PixelPlanes | None, shape: tuple[int, int]) -> None:
    if planes is not None and planes.shape != shape:
        raise DataError(
            f"the {name} has shape {planes.shape}, the trimmed CCD {shape}; is it of this detector?"
        )


def _gain_and_noise(
    amp: Amplifier, measured_adu: float, calibrations: IsrCalibrations, options: IsrOptions
) -> tuple[float, float]:
    gain = float(calibrations.gain.get(amp.name, amp.gain))
    if not (np.isfinite(gain) and gain > 0):
        raise DataError(f"gain of amplifier {amp.name} must be > 0 electron/adu; got {gain}")
    nominal = float(calibrations.read_noise.get(amp.name, amp.read_noise))
    noise = measured_adu * gain if options.empirical_read_noise and measured_adu > 0 else nominal
    if not (np.isfinite(noise) and noise > 0):
        raise DataError(
            f"read noise of amplifier {amp.name} must be > 0 electron; got {noise} (overscan "
            f"{measured_adu} adu, nominal {nominal} electron)"
        )
    return gain, noise


def _own_terms(
    terms: Sequence[CrosstalkTerm], amplifiers: Sequence[Amplifier], detector: str | int
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[CrosstalkTerm]]:
    """Split the terms: those between amplifiers that read the same row together, and the others."""
    index = {a.name: i for i, a in enumerate(amplifiers)}
    rows, coefficients, others = [], [], []
    for term in terms:
        source = index.get(term.source_amp) if term.source_detector == detector else None
        victim = index.get(term.victim_amp)
        if source is None or victim is None:
            others.append(term)
            continue
        to, of = amplifiers[victim], amplifiers[source]
        to_sides, of_sides = corner_sides(to.readout_corner), corner_sides(of.readout_corner)
        same = (to.box.y0, to.box.shape, to_sides[1]) == (of.box.y0, of.box.shape, of_sides[1])
        if not same:
            others.append(term)
            continue
        rows.append((victim, source, int(to_sides[0] != of_sides[0])))
        coefficients.append((term.coefficient, term.onset))
    return (
        np.array(rows, np.int64).reshape(-1, 3),
        np.array(coefficients, np.float64).reshape(-1, 2),
        others,
    )


def _correct_amplifiers(
    trimmed: TrimmedFrame,
    amplifiers: Sequence[Amplifier],
    calibrations: IsrCalibrations,
    options: IsrOptions,
    detector: str | int,
    *,
    with_flat: bool,
) -> tuple[PixelPlanes, dict[str, float], list[str | int]]:
    """ADU to electrons in place of the trimmed image; read noise by amplifier; missing sources."""
    terms, coefficients, others = _own_terms(calibrations.crosstalk, amplifiers, detector)
    signal, missing = _outer_crosstalk(trimmed, amplifiers, others, calibrations, options, detector)
    bias, flat = calibrations.bias, calibrations.flat if with_flat else None
    n = len(amplifiers)
    numbers, noises = np.empty((n, 5)), {}
    linearities = [(calibrations.linearity or {}).get(a.name) for a in amplifiers]
    table = dense_tables(linearities)
    for i, (amp, linearity) in enumerate(zip(amplifiers, linearities, strict=True)):
        gain, noise = _gain_and_noise(amp, trimmed.read_noise[i], calibrations, options)
        noises[amp.name] = noise
        limit = np.inf if linearity is None else linearity.max_valid
        numbers[i] = gain, noise**2, limit, 1.0 / LINEARITY_STEP, options.flat_low
    planes = PixelPlanes(trimmed.image, np.empty_like(trimmed.image), trimmed.mask, unit="electron")
    with_variance = options.variance_of_calibrations
    correct_rows(
        planes.image, planes.variance, planes.mask,
        np.array([(a.box.x0, a.box.y0, a.box.x1, a.box.y1) for a in amplifiers], np.int64),
        numbers, terms, coefficients, options.min_pixel_to_mask,
        np.int32(int(MaskPlane.CROSSTALK)), signal,
        _EMPTY if bias is None else bias.image,
        bias.variance if bias is not None and with_variance else _EMPTY,
        table,
        _EMPTY if flat is None else flat.image,
        flat.variance if flat is not None and with_variance else _EMPTY,
        np.int32(int(MaskPlane.SUSPECT) if options.mask_suspect_above_linear else 0),
        np.int32(int(MaskPlane.FLAT_LOW | MaskPlane.BAD)), np.int32(int(MaskPlane.UNMASKEDNAN)),
    )  # fmt: skip
    return planes, noises, missing


def _outer_crosstalk(
    trimmed: TrimmedFrame,
    amplifiers: Sequence[Amplifier],
    terms: Sequence[CrosstalkTerm],
    calibrations: IsrCalibrations,
    options: IsrOptions,
    detector: str | int,
) -> tuple[NDArray[np.float32], list[str | int]]:
    if not terms:
        return _EMPTY, []
    own = CrosstalkSource(trimmed.image, amplifiers)
    other = calibrations.crosstalk_sources

    def find(name: str | int) -> CrosstalkSource | None:
        if name == detector:
            return own
        return other(name) if callable(other) else other.get(name)

    return crosstalk_signal(
        terms, find, victim=own, mask=trimmed.mask, min_pixel_to_mask=options.min_pixel_to_mask
    )


def detrend_ccd(
    pixels: NDArray[np.generic],
    amplifiers: Sequence[Amplifier],
    *,
    calibrations: IsrCalibrations | None = None,
    options: IsrOptions | None = None,
    brighter_fatter: BrighterFatterOptions | None = None,
    fringe: FringeOptions | None = None,
    detector: str | int = "",
    mask_saturated: bool = True,
    interpolate: bool = True,
) -> IsrResult:
    """Raw ADU to flat electrons, in the order in which light became numbers, backwards.

    Overscan, crosstalk, bias, linearity, gain, variance, brighter-fatter, flat, fringe; masks of
    saturation, the linear range, defects and edges; interpolation over BAD and SAT.

    Parameters
    ----------
    pixels : (ny_raw, nx_raw) integer or float [adu]
        The raw frame with its overscan.
    amplifiers : sequence of Amplifier
        Sections, gain, read noise, saturation.
    calibrations : IsrCalibrations, optional
        What to correct with; None corrects overscan and gain only.
    options : IsrOptions, optional
        Limits and methods.
    brighter_fatter : BrighterFatterOptions, optional
        Its iteration.
    fringe : FringeOptions, optional
        The fit of the fringe amplitude.
    detector : str or int
        Key of this CCD in the crosstalk terms.
    mask_saturated : bool
        Keep, grow and widen the SAT plane; False clears it.
    interpolate : bool
        Fill BAD and SAT pixels.

    Returns
    -------
    IsrResult
        Planes in electrons and what was measured on the way.

    Raises
    ------
    DataError
        If a section or a calibration does not fit to the frame, or a gain is not positive.

    Notes
    -----
    The variance is ``max(e, 0) + read_noise**2 (+ gain**2 var(bias))``, divided by the square of
    the flat, plus ``(e / flat)**2 var(flat) / flat**2``.
    """
    calibrations, options = calibrations or IsrCalibrations(), options or IsrOptions()
    trimmed = subtract_overscan(
        pixels, amplifiers, options=OverscanOptions(fit_type=options.overscan_fit_type)
    )
    if not mask_saturated:
        trimmed.mask[:] = 0
    shape = (trimmed.image.shape[0], trimmed.image.shape[1])
    for name in ("bias", "flat", "fringe"):
        _check_planes(name, getattr(calibrations, name), shape)
    planes, noises, missing = _correct_amplifiers(
        trimmed, amplifiers, calibrations, options, detector,
        with_flat=calibrations.bf_kernel is None,
    )  # fmt: skip
    if mask_saturated:
        mask_saturation(
            planes.mask,
            radius=options.grow_saturation,
            widen_trails=options.widen_saturation_trails,
        )
    if calibrations.defects is not None:
        mask_defects(planes.mask, calibrations.defects)
    iterations = 0
    if calibrations.bf_kernel is not None:
        iterations = correct_brighter_fatter(
            planes.image, calibrations.bf_kernel, mask=planes.mask, options=brighter_fatter
        )
        if calibrations.flat is not None:
            _divide(planes, calibrations.flat, options)
    for extra in (calibrations.bias, calibrations.flat):
        if extra is not None:
            merge_planes(planes.mask, extra.mask, np.int32(int(MaskPlane.BAD | MaskPlane.FLAT_LOW)))
    mask_edges(planes.mask, options.num_edge_suspect)
    amplitude = 0.0
    if calibrations.fringe is not None:
        amplitude = subtract_fringe(planes, calibrations.fringe, options=fringe)
    n_filled = 0
    if interpolate:
        bad = MaskPlane.BAD | MaskPlane.SAT | MaskPlane.UNMASKEDNAN
        n_filled = interpolate_masked(planes, bad, psf_sigma=options.interpolation_psf_sigma)
    n_saturated = int(count_planes(planes.mask, np.int32(int(MaskPlane.SAT))))
    levels = {a.name: float(np.median(trimmed.levels[i])) for i, a in enumerate(amplifiers)}
    return IsrResult(planes, noises, levels, missing, amplitude, iterations, n_saturated, n_filled)


def _divide(planes: PixelPlanes, flat: PixelPlanes, options: IsrOptions) -> None:
    divide_flat(
        planes.image, planes.variance, planes.mask, flat.image,
        flat.variance if options.variance_of_calibrations else _EMPTY, options.flat_low,
        np.int32(int(MaskPlane.FLAT_LOW | MaskPlane.BAD)),
    )  # fmt: skip

"""Metadetection: shear from catalogues that were detected and measured on sheared images.

Each cell of sky is sheared by +-0.01 in both directions (`skymill.shear.metacal`); sources are
detected and measured anew on every version. The response of the mean shape to shear,

    R_ij = (<e_i>_{j+} - <e_i>_{j-}) / (2 step),

then contains the response of shapes, of detection and of every cut, since the cuts are made in
each version of the catalogue by the same code (Sheldon et al. 2020). The shear is R^-1 <e>.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import fft

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.shear._metadetect_kernels import (
    find_peaks,
    weigh_fluxes,
    weigh_moments,
)
from skymill.shear.metacal import (
    SHEAR_TYPES,
    MetacalOptions,
    Spectrum,
    metacal,
    shear_matrix,
)
from skymill.shear.plugin import check_algorithm, load_algorithm
from skymill.shear.targets import Targets, choose_targets

__all__ = [
    "MetadetectOptions",
    "Spectrum",
    "metadetect_cell",
    "ramp",
    "shear_weights",
]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# Peaks with a smaller chance to be a source are left out.
_LEAST = 1e-3


@dataclass(frozen=True, kw_only=True)
class MetadetectOptions:
    """How sheared images are searched, measured and cut."""

    metacal: MetacalOptions = field(default_factory=MetacalOptions)
    threshold: float = option(5.0, "signal to noise at which peaks begin to count")
    full_threshold: float = option(7.0, "signal to noise from which they count in full")
    saddle: float = option(
        3.0, "signal to noise over their saddle at which two peaks begin to be two sources"
    )
    full_saddle: float = option(
        6.0, "signal to noise over their saddle from which they are two sources"
    )
    weight_scale: float = option(1.0, "width of the weight over that of the target PSF")
    shapes: str = option(
        "moments",
        "moments (under a round Gaussian weight), or the dotted path of your own function or class "
        "(skymill.shear.plugin)",
    )
    iterations: int = option(20, "most steps of the centre")
    max_shift: float = option(
        3.0, "how far a centre may move from its peak; from half of it weights fall", unit="pixel"
    )
    min_snr: float = option(10.0, "signal to noise under the weight at which weights are zero")
    full_snr: float = option(15.0, "signal to noise from which the ramp of the weights is one")
    min_size_ratio: float = option(1.1, "size T over that of the PSF at which weights are zero")
    full_size_ratio: float = option(1.3, "size over that of the PSF from which the ramp is one")
    large_size_ratio: float = option(1.7, "size over that of the PSF from which weights fall")
    max_size_ratio: float = option(1.9, "size at which they are zero; 2 is a flat patch of light")
    shape_noise: float = option(0.2, "scatter of e of galaxies without noise; 0: no weighting")
    error_scale: float = option(1.0, "error of e times signal to noise")

    def __post_init__(self) -> None:
        check_range(self, "threshold", low=0.0, low_open=True)
        check_range(self, "full_threshold", low=self.threshold)
        check_range(self, "saddle", low=0.0)
        check_range(self, "full_saddle", low=self.saddle)
        check_range(self, "weight_scale", low=0.5, high=4.0)
        check_algorithm("shapes", self.shapes, ("moments",))
        check_range(self, "iterations", low=0, high=50)
        check_range(self, "max_shift", low=0.5)
        check_range(self, "min_snr", low=0.0)
        check_range(self, "full_snr", low=self.min_snr)
        check_range(self, "min_size_ratio", low=0.0)
        check_range(self, "full_size_ratio", low=self.min_size_ratio)
        check_range(self, "large_size_ratio", low=self.full_size_ratio)
        check_range(self, "max_size_ratio", low=self.large_size_ratio)
        check_range(self, "shape_noise", low=0.0)
        check_range(self, "error_scale", low=0.0)


def metadetect_cell(
    images: Float32Array,
    variances: Float32Array,
    noises: Float32Array,
    psfs: Float32Array,
    *,
    bands: tuple[str, ...],
    shear_bands: tuple[str, ...] | None = None,
    margin: int,
    types: tuple[str, ...] = tuple(SHEAR_TYPES),
    spectra: tuple[Spectrum | None, ...] | None = None,
    options: MetadetectOptions | None = None,
) -> dict[str, Table]:
    """Catalogues of one cell for each applied shear.

    Parameters
    ----------
    images : (b, n, n) float32 [nJy]
        The cell with its margin, one image a band, on one grid; masked pixels filled.
    variances : (b,) float32 [nJy2]
        Typical variance of a pixel of each band.
    noises : (b, n, n) float32 [nJy]
        A realisation of the noise of each image, independent of it.
    psfs : (b, s, s) float32
        PSF of the cell in each band.
    bands : tuple of str
        Names of the bands.
    shear_bands : tuple of str, optional
        Bands whose sum is searched and gives shapes; all if omitted.
    margin : int [pixel]
        Width of the rim whose sources belong to the neighbour's cell.
    types : tuple of str
        Which of `SHEAR_TYPES`. A catalogue does not depend on which others are made with it.
    spectra : tuple of callable, optional
        For each band the power of its noise at wave vectors (kx, ky) [radian / pixel] over that of
        white noise of its variance, or None for white noise.
    options : MetadetectOptions, optional
        Search, measurement and cuts.

    Returns
    -------
    dict of str to Table
        For each of the types: ``x``, ``y`` [pixel of the cell, with the shear undone],
        ``e1``, ``e2``, ``size_ratio``, ``snr``, ``detection`` (0 to 1: how far the peak
        counts as a source of its own), ``flags`` and ``{band}_flux``,
        ``{band}_flux_err`` [nJy]: of a point source; the light of a larger one beyond the weight
        is missing, in all bands alike.

    Raises
    ------
    DataError
        If the shapes do not fit, a band is not there, or a variance is not positive.
    """
    options = options or MetadetectOptions()
    _check_bands(variances, bands, shear_bands)
    used = np.array([b in (shear_bands or bands) for b in bands])
    size = images.shape[1]
    spectra = spectra or (None,) * len(bands)
    plan = choose_targets(
        psfs, np.asarray(variances, np.float64), used, spectra,
        weight_scale=options.weight_scale, options=options.metacal,
    )  # fmt: skip
    if size < 2 * np.ceil(4 * plan.widths.max()) + 5:
        raise DataError(
            f"a cell of {size} pixels is too small for a weight of {plan.widths.max():.1f} pixels"
        )
    versions: dict[str, list[Float32Array]] = {name: [] for name in types}
    for k, spectrum in enumerate(spectra):
        sheared = metacal(
            images[k], noises[k], psfs[k], sigma=plan.sigmas[k], spectrum=spectrum, types=types,
            options=options.metacal,
        )  # fmt: skip
        for name, image in sheared.items():
            versions[name].append(image)
    return {
        name: _measure(name, versions[name], plan, bands=bands, margin=margin, options=options)
        for name in types
    }


def _check_bands(
    variances: Float32Array, bands: tuple[str, ...], shear_bands: tuple[str, ...] | None
) -> None:
    if shear_bands is not None and not set(shear_bands) <= set(bands):
        raise DataError(f"shear_bands {shear_bands} are not all among the bands {bands}")
    if not (np.asarray(variances) > 0).all():
        raise DataError("metadetection needs a positive variance in every band of the cell")


def _search(
    total: Float32Array, plan: Targets, options: MetadetectOptions
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Positions of peaks, and how surely each is a source of its own (0 to 1).

    They are searched for in the image smoothed by the weight, whose values are what a source's
    signal to noise is before its centre is refined.
    """
    smooth = _smooth(total, plan.width) / np.float32(plan.flux_noise[0])
    capacity = total.size // 9 + 1
    px, py = np.empty(capacity, np.int64), np.empty(capacity, np.int64)
    weight = np.empty(capacity)
    n = find_peaks(
        smooth, 0.6 * options.threshold, options.threshold, options.full_threshold,
        options.saddle, options.full_saddle, px, py, weight,
    )  # fmt: skip
    keep = np.flatnonzero(weight[:n] > _LEAST)
    return px[keep].astype(np.float64), py[keep].astype(np.float64), weight[keep]


@functools.lru_cache(maxsize=8)
def _smoother(n: int, width: float) -> Float32Array:
    ky, kx = 2 * np.pi * fft.fftfreq(n)[:, None], 2 * np.pi * fft.rfftfreq(n)[None, :]
    # Sum of w over sum of w^2 is 2.
    return np.asarray(2.0 * np.exp(-0.5 * width**2 * (kx**2 + ky**2)), np.float32)


def _smooth(image: Float32Array, width: float) -> Float32Array:
    """Flux under a Gaussian weight at every pixel: sum of w times image over that of w^2."""
    n = image.shape[0]
    smooth: Float32Array = fft.irfft2(fft.rfft2(image) * _smoother(n, width), (n, n))
    return smooth


def _shapes(
    total: Float32Array,
    x: Float64Array,
    y: Float64Array,
    plan: Targets,
    options: MetadetectOptions,
) -> dict[str, Any]:
    """Centres, shapes, sizes and signal to noise at the peaks."""
    if options.shapes != "moments":
        return _call_shapes(total, x, y, plan, options)
    moments = np.empty((x.size, 7))
    weigh_moments(total, x, y, plan.width, options.iterations, options.max_shift, moments)
    flux, mxx, myy, mxy = (moments[:, c] for c in (0, 3, 4, 5))
    size = mxx + myy
    # A round Gaussian of the target's width under this weight: 1/T = 1/T_w + 1/T_psf.
    psf_size = 2.0 / (1.0 / plan.sigma**2 + 1.0 / plan.width**2)
    good = (moments[:, 6] > 0) & (size > 0)
    safe = np.where(good, size, 1.0)
    return {
        "x": moments[:, 1],
        "y": moments[:, 2],
        "e1": np.where(good, (mxx - myy) / safe, 0.0),
        "e2": np.where(good, 2 * mxy / safe, 0.0),
        "size_ratio": np.where(good, size / psf_size, 0.0),
        "snr": flux / plan.flux_noise[0],
        "flags": np.where(good, 0, 1).astype(np.int32),
    }


def _call_shapes(
    total: Float32Array,
    x: Float64Array,
    y: Float64Array,
    plan: Targets,
    options: MetadetectOptions,
) -> dict[str, Any]:
    """Shapes of a user's algorithm."""
    measure = load_algorithm("shapes", options.shapes)
    found = measure(total, x, y, plan.sigma, float(plan.flux_noise[0]))
    names = ("x", "y", "e1", "e2", "size_ratio", "snr")
    try:
        out: dict[str, Any] = {n: np.asarray(found[n], np.float64).reshape(x.size) for n in names}
        flags = np.asarray(found["flags"]).reshape(x.size) != 0
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the shapes of {options.shapes!r} must be a dict of {', '.join(names)}, flags with "
            f"{x.size} values each: {error}"
        ) from error
    flags |= ~np.isfinite([out[n] for n in names]).all(axis=0)
    out["x"], out["y"] = np.where(flags, [x, y], [out["x"], out["y"]])
    for n in names[2:]:
        out[n] = np.where(flags, 0.0, out[n])
    return {**out, "flags": flags.astype(np.int32)}


def _measure(
    name: str,
    planes: list[Float32Array],
    plan: Targets,
    *,
    bands: tuple[str, ...],
    margin: int,
    options: MetadetectOptions,
) -> Table:
    total = np.zeros_like(planes[0])
    for weight, plane in zip(plan.weight, planes, strict=True):
        if weight > 0:
            total += weight * plane
    px, py, detection = _search(total, plan, options)
    shapes = _shapes(total, px, py, plan, options)
    moved = np.hypot(shapes["x"] - px, shapes["y"] - py) / options.max_shift
    detection *= 1.0 - ramp(moved, 0.5, 1.0)
    half = total.shape[0] // 2
    step = options.metacal.step
    back = np.linalg.inv(shear_matrix(*(step * d for d in SHEAR_TYPES[name])))
    place = back @ np.array([shapes["x"] - half, shapes["y"] - half]) + half
    inside = ((place >= margin - 0.5) & (place < total.shape[0] - margin - 0.5)).all(axis=0)
    columns = {key: value[inside] for key, value in shapes.items()}
    x, y = columns["x"], columns["y"]
    columns["x"], columns["y"] = place[:, inside]
    columns["detection"] = detection[inside]
    # From the amplitude of the weight to the flux of a point source with it.
    scale = np.pi * (plan.widths**2 + plan.sigmas**2)
    for k, band in enumerate(bands):
        value = np.empty(x.size)
        weigh_fluxes(planes[k], x, y, plan.widths[k], value)
        columns[f"{band}_flux"] = scale[k] * value
        columns[f"{band}_flux_err"] = np.full(x.size, scale[k] * plan.flux_noise[1 + k])
    return Table(columns, meta={"sigma": plan.sigma, "width": plan.width}, copy=False)


def ramp(value: Float64Array, low: float, high: float) -> Float64Array:
    """A step without jumps: weights must not change by much when a value changes by little.

    Parameters
    ----------
    value : (n,) float64
        What decides.
    low, high : float
        Ends of the rise; a plain step if they are equal.

    Returns
    -------
    (n,) float64
        0 below ``low``, 1 above ``high``, smooth between.
    """
    if high <= low:
        return np.asarray(value > low, np.float64)
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def shear_weights(table: Table, options: MetadetectOptions | None = None) -> Float64Array:
    """Weight of each source in the mean shape; the same rule for every version of the catalogue.

    A galaxy that crosses a cut between two versions counts with its whole shape, over an applied
    shear of 0.02: hard cuts make most of the noise of the response. Here weights rise smoothly
    from zero. Their response to shear is part of that of the mean shape, as that of a cut would be.

    Parameters
    ----------
    table : Table
        One of the catalogues of `metadetect_cell`.
    options : MetadetectOptions, optional
        Ends of the ramps, shape noise.

    Returns
    -------
    (n,) float64
        ``detection ramp(snr) ramp(size_ratio) / (1 + (error_scale / snr / shape_noise)^2)``; zero
        for sources that do not count.
    """
    options = options or MetadetectOptions()
    snr, size = (np.asarray(table[name], np.float64) for name in ("snr", "size_ratio"))
    weight = ramp(snr, options.min_snr, options.full_snr) * np.asarray(table["detection"])
    weight *= ramp(size, options.min_size_ratio, options.full_size_ratio)
    weight *= 1.0 - ramp(size, options.large_size_ratio, options.max_size_ratio)
    if options.shape_noise > 0:
        error = options.error_scale / np.maximum(snr, 1e-3)
        weight /= 1.0 + (error / options.shape_noise) ** 2
    return np.where(np.asarray(table["flags"]) == 0, weight, 0.0)

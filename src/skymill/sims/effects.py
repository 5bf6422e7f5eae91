"""What the CCD and its electronics do to the light, one function for each effect."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.sims import _detector_kernels as kernels
from skymill.sims.detector import (
    CCD_SHAPE,
    RAW_SHAPE,
    CcdFacts,
    ccd_facts,
    crosstalk_terms,
    defect_boxes,
    linearity_correction,
)
from skymill.sims.exposure import InstrumentOptions, Pointing

__all__ = [
    "add_fringes",
    "add_satellites",
    "add_sky",
    "amplifier_signals",
    "assemble_raw",
    "bias_structure",
    "brighter_fatter_kernel",
    "detect_charge",
    "response",
    "with_crosstalk",
]

Float32Array = NDArray[np.float32]

_FRINGE_AMPLITUDE = {"z": 0.006, "Y": 0.02}
_BIAS_LEVEL = 2000.0
#: Full well over the saturation of the header: every amplifier then reads above SATURAT when full.
_FULL_WELL = 1.06


def _focal_axes(ccd: CcdFacts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Focal-plane x of the columns and y of the rows, in units of 225 mm."""
    x, y = ccd.focal_position(x=np.arange(float(CCD_SHAPE[1])), y=np.arange(float(CCD_SHAPE[0])))
    return x / 225.0, y / 225.0


def add_sky(
    image: Float32Array, ccd: CcdFacts, *, level: float, slope: tuple[float, float]
) -> None:
    """Add the sky with its gradient.

    Parameters
    ----------
    image : (4096, 2048) float32 [electron]
        Changed in place.
    ccd : CcdFacts
        The CCD.
    level : float [electron]
        Sky at the optical axis.
    slope : (float, float)
        Relative change over 225 mm in x and y.
    """
    x, y = _focal_axes(ccd)
    image += (level * (1.0 + slope[0] * x)).astype(np.float32)[None, :]
    image += (level * slope[1] * y).astype(np.float32)[:, None]


@functools.lru_cache(maxsize=8)
def _fringe_pattern(number: int) -> Float32Array:
    """Interference of light in a CCD of smoothly varying thickness, mean 0, in [-1, 1]."""
    rng = np.random.default_rng([77, number])
    u = np.linspace(-1.0, 1.0, CCD_SHAPE[1])[None, :]
    v = np.linspace(-2.0, 2.0, CCD_SHAPE[0])[:, None]
    thickness = np.zeros(CCD_SHAPE)
    for order in range(1, 5):
        for i in range(order + 1):
            thickness += rng.normal(0.0, 6.0 / order**1.5) * u**i * v ** (order - i)
    pattern = np.cos(2.0 * np.pi * thickness) + 0.5 * np.cos(2.0 * np.pi * 1.31 * thickness)
    pattern -= pattern.mean()
    return (pattern / 1.5).astype(np.float32)


def add_fringes(image: Float32Array, ccd: CcdFacts, *, band: str, level: float) -> None:
    """Add the fringes that the lines of the night sky make in z and Y.

    Parameters
    ----------
    image : (4096, 2048) float32 [electron]
        Changed in place.
    ccd : CcdFacts
        The CCD.
    band : str
        Band; other bands have none.
    level : float [electron]
        Sky.
    """
    amplitude = _FRINGE_AMPLITUDE.get(band, 0.0)
    if amplitude:
        image += np.float32(amplitude * level) * _fringe_pattern(ccd.number)


def add_satellites(image: Float32Array, ccd: CcdFacts, pointing: Pointing, *, rate: float) -> int:
    """Add straight trails that cross the focal plane.

    Parameters
    ----------
    image : (4096, 2048) float32 [electron]
        Changed in place.
    ccd : CcdFacts
        The CCD.
    pointing : Pointing
        The exposure; the trails are the same on all its CCDs.
    rate : float
        Trails per exposure of 600 s over the whole focal plane.

    Returns
    -------
    int
        Number of trails that touch this CCD.
    """
    rng = np.random.default_rng([pointing.seed, 4242])
    number = rng.poisson(rate * pointing.head.exposure_time / 600.0)
    touched = 0
    for _ in range(number):
        x, y = rng.uniform(-120.0, 120.0, 2) - np.array([ccd.x_min, ccd.y_min])
        direction = rng.uniform(0.0, np.pi)
        peak = 2.0 * np.sqrt(pointing.sky_electrons + 100.0) * 10 ** rng.uniform(0.0, 1.0)
        before = float(image.sum(dtype=np.float64))
        kernels.add_line(image, x / 0.015, y / 0.015, direction, peak, 1.7)
        touched += int(float(image.sum(dtype=np.float64)) > before + peak)
    return touched


@functools.lru_cache(maxsize=12)
def response(number: int, band: str, seed: int) -> Float32Array:
    """Relative response of each pixel of a CCD: vignetting, quantum efficiency, pixel size.

    Parameters
    ----------
    number : int
        CCDNUM.
    band : str
        Band.
    seed : int
        Seed of the camera.

    Returns
    -------
    (4096, 2048) float32
        About 1 at the optical axis.
    """
    ccd = ccd_facts(number)
    x, y = _focal_axes(ccd)
    radius2 = x[None, :] ** 2 + y[:, None] ** 2
    rng = np.random.default_rng([seed, number])
    pixels = rng.standard_normal(CCD_SHAPE, dtype=np.float32)
    level = 1.0 + 0.04 * rng.standard_normal()
    colour = np.random.default_rng([seed, number, ord(band[0])])
    tilt = 0.006 * colour.standard_normal(3)
    level *= 1.0 + 0.01 * colour.standard_normal()
    u = np.linspace(-1.0, 1.0, CCD_SHAPE[1])[None, :]
    v = np.linspace(-1.0, 1.0, CCD_SHAPE[0])[:, None]
    smooth = level * (1.0 - 0.06 * radius2 - 0.05 * radius2**2)
    smooth = smooth * (1.0 + tilt[0] * u + tilt[1] * v + tilt[2] * u * v)
    out = smooth.astype(np.float32)
    out *= np.float32(1.0) + np.float32(0.004) * pixels
    return out


@functools.cache
def brighter_fatter_kernel() -> NDArray[np.float32]:
    """The camera's repulsion kernel, (9, 9) [1/electron].

    Charge moves down the gradient of K * Q; the usual correction of Coulton et al. (2018) takes
    its negative.
    """
    j, i = np.mgrid[-4:5, -4:5]
    kernel = (1.0 + i**2 + j**2) ** -1.5
    return np.asarray(kernel * (1.8e-6 / kernel.sum()), np.float32)


def detect_charge(
    image: Float32Array,
    ccd: CcdFacts,
    options: InstrumentOptions,
    rng: np.random.Generator,
    *,
    exposure_time: float,
) -> tuple[Float32Array, dict[str, Any]]:
    """From mean light to the charge in the wells.

    Parameters
    ----------
    image : (4096, 2048) float32 [electron]
        Expected light; changed.
    ccd : CcdFacts
        The CCD.
    options : InstrumentOptions
        Photon noise, cosmic rays, brighter-fatter effect, full wells.
    rng : numpy.random.Generator
        Random numbers.
    exposure_time : float [s]
        Exposure time, for the cosmic rays.

    Returns
    -------
    image : (4096, 2048) float32 [electron]
        Charge.
    record : dict
        Numbers of cosmic rays and saturated pixels.
    """
    record = {"n_cosmic_rays": 0, "n_saturated": 0}
    if options.noise:
        kernels.add_shot_noise(image, rng.standard_normal(CCD_SHAPE, dtype=np.float32))
    if options.brighter_fatter:
        out = np.empty_like(image)
        kernels.brighter_fatter(image, brighter_fatter_kernel(), out)
        image = out
    if options.cosmic_rays:
        record["n_cosmic_rays"] = _add_cosmic_rays(
            image, rng, rate=options.cosmic_ray_rate, exposure_time=exposure_time
        )
    if options.saturation:
        well = np.empty(CCD_SHAPE[1])
        for amp in ccd.amps:
            gain = amp.gain if options.gain else 1.0
            well[amp.box[0] : amp.box[0] + amp.box[2]] = amp.saturation * gain * _FULL_WELL
        record["n_saturated"] = int(kernels.bleed(image, well))
    return image, record


def _add_cosmic_rays(
    image: Float32Array, rng: np.random.Generator, *, rate: float, exposure_time: float
) -> int:
    area = CCD_SHAPE[0] * CCD_SHAPE[1] * 0.0015**2
    number = int(rng.poisson(rate * area * exposure_time / 60.0))
    muon = rng.random(number) < 0.6
    # Muons: straight, cos^2 of the zenith angle through 250 micron of silicon, 80 e per micron.
    slant = np.tan(np.arccos(np.clip(rng.random(number), 0.06, 1.0) ** (1.0 / 3.0)))
    length = np.where(muon, 0.5 + 250.0 / 15.0 * slant, rng.exponential(8.0, number) + 1.0)
    path = np.hypot(length * 15.0, np.where(muon, 250.0, 0.0))
    charge = np.where(muon, 80.0 * path / length, rng.lognormal(6.3, 0.7, number)) * rng.lognormal(
        0.0, 0.3, number
    )
    kernels.cosmic_rays(
        image,
        rng.uniform(0, CCD_SHAPE[1], number),
        rng.uniform(0, CCD_SHAPE[0], number),
        rng.uniform(0, 2 * np.pi, number),
        length,
        charge,
        np.where(muon, 0.0, 0.35),
        rng.standard_normal(100_003),
    )
    return number


@functools.lru_cache(maxsize=130)
def _inverse_linearity(number: int, amp: int) -> Float32Array:
    measured = np.arange(65536.0)
    linear = measured + linearity_correction(number, amp)
    return np.interp(np.arange(65536.0), np.maximum.accumulate(linear), measured).astype(np.float32)


def amplifier_signals(
    electrons: Float32Array, ccd: CcdFacts, options: InstrumentOptions
) -> tuple[Float32Array, Float32Array]:
    """Signal of both amplifiers above the bias.

    Parameters
    ----------
    electrons : (4096, 2048) float32 [electron]
        Charge.
    ccd : CcdFacts
        The CCD.
    options : InstrumentOptions
        Gain, non-linearity, bad pixels.

    Returns
    -------
    tuple of (4096, 1024) float32 [ADU]
        Amplifiers A and B in trimmed order.
    """
    out = []
    for k, amp in enumerate(ccd.amps):
        x0, y0, nx, ny = amp.box
        part = np.ascontiguousarray(electrons[y0 : y0 + ny, x0 : x0 + nx])
        gain = amp.gain if options.gain else 1.0
        if options.nonlinearity:
            signal = np.empty_like(part)
            kernels.to_adu(part, gain, _inverse_linearity(ccd.number, k), signal)
        else:
            signal = part / np.float32(gain)
        out.append(signal)
    if options.bad_columns:
        _break_pixels(out, ccd)
    return out[0], out[1]


def _break_pixels(signals: list[Float32Array], ccd: CcdFacts) -> None:
    """Dead (odd boxes) or hot (even ones) pixels where the real CCD has its defects.

    Boxes wider than 3 pixels (tape bumps, glowing edges) keep working: there the real pixels are
    suspect, not dead.
    """
    for k, (x0, y0, nx, ny) in enumerate(defect_boxes(ccd.number)):
        if min(nx, ny) > 3:
            continue
        for amp, signal in zip(ccd.amps, signals, strict=True):
            a = max(int(x0), amp.box[0]) - amp.box[0]
            b = min(int(x0 + nx), amp.box[0] + amp.box[2]) - amp.box[0]
            if a >= b:
                continue
            part = signal[int(y0) : int(y0 + ny), a:b]
            if k % 2:
                part *= np.float32(0.3)
            else:
                part += np.float32(800.0)


def with_crosstalk(
    number: int, signals: dict[int, tuple[Float32Array, Float32Array]]
) -> tuple[Float32Array, Float32Array]:
    """Add what leaks from the other amplifiers of the exposure.

    Parameters
    ----------
    number : int
        CCDNUM of the victim.
    signals : dict
        Signals of every simulated CCD by CCDNUM [ADU], before crosstalk.

    Returns
    -------
    tuple of (4096, 1024) float32 [ADU]
        Both amplifiers of the victim.
    """
    victim = ccd_facts(number)
    out = []
    for amp, signal in zip(victim.amps, signals[number], strict=True):
        total = signal.copy()
        for term in crosstalk_terms().get((number, amp.name), ()):
            if term.source not in signals:
                continue
            source = ccd_facts(term.source)
            k = "AB".index(term.source_amp)
            other = source.amps[k]
            kernels.add_crosstalk(
                total, signals[term.source][k], amp.flip_x != other.flip_x,
                amp.parallel_y0 != other.parallel_y0, term.coefficient, term.onset,
                *term.polynomial,
            )  # fmt: skip
        out.append(total)
    return out[0], out[1]


@functools.lru_cache(maxsize=12)
def bias_structure(number: int, seed: int) -> Float32Array:
    """Fixed bias pattern of the data pixels of a CCD.

    Parameters
    ----------
    number : int
        CCDNUM.
    seed : int
        Seed of the camera.

    Returns
    -------
    (4096, 2048) float32 [ADU]
        Columns and a glow towards the read-out, relative to the overscan.
    """
    rng = np.random.default_rng([seed, number, 7])
    columns = rng.normal(0.0, 0.6, CCD_SHAPE[1])
    glow = 4.0 * np.exp(-np.arange(CCD_SHAPE[0]) / 200.0)
    slope = rng.normal(0.0, 1.0) * np.linspace(-1.0, 1.0, CCD_SHAPE[0])
    return (columns[None, :] + (glow + slope)[:, None]).astype(np.float32)


def assemble_raw(
    ccd: CcdFacts,
    signals: tuple[Float32Array, Float32Array],
    options: InstrumentOptions,
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """The raw pixels of a CCD with pre- and overscan.

    Parameters
    ----------
    ccd : CcdFacts
        The CCD.
    signals : tuple of (4096, 1024) float32 [ADU]
        Signals of both amplifiers.
    options : InstrumentOptions
        Bias structure and read noise.
    rng : numpy.random.Generator
        Random numbers.

    Returns
    -------
    (4146, 2160) uint16 [ADU]
        Raw pixels.
    """
    raw = np.empty(RAW_SHAPE, np.uint16)
    pattern = bias_structure(ccd.number, options.camera_seed) if options.bias else None
    for k, amp in enumerate(ccd.amps):
        half = slice(1080, 2160) if amp.raw_box[0] >= 1080 else slice(0, 1080)
        values = np.full((RAW_SHAPE[0], 1080), _BIAS_LEVEL + 150.0 * k, np.float32)
        if options.bias:
            values += np.float32(rng.normal(0.0, 5.0))
            drift = np.cumsum(rng.normal(0.0, 0.05, RAW_SHAPE[0]))
            values += (drift - drift.mean()).astype(np.float32)[:, None]
        x0, y0, nx, ny = amp.raw_box
        x0 -= half.start
        values[y0 : y0 + ny, x0 : x0 + nx] += signals[k]
        if pattern is not None:
            bx = amp.box[0]
            values[y0 : y0 + ny, x0 : x0 + nx] += pattern[:, bx : bx + nx]
        gain = amp.gain if options.gain else 1.0
        noise = amp.read_noise / gain if options.read_noise else 0.0
        target = np.empty(values.shape, np.uint16)
        kernels.quantise(values, rng.standard_normal(values.shape, dtype=np.float32), noise, target)
        raw[:, half] = target
    return raw

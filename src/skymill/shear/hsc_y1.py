"""The shear calibration of the HSC first-year catalogue (Mandelbaum et al. 2018).

It was determined for re-Gaussianised shapes in the i band of HSC. The published cluster pipeline
applies it to the r band of DECam; whether it holds there has to be shown on simulations.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

__all__ = ["RESOLUTION_RANGE", "SNR_RANGE", "HscCalibration", "evaluate_hsc_y1"]

Float64Array = NDArray[np.float64]

#: Signal to noise over which every table has values; above it they are flat.
SNR_RANGE = (15.0, 181.0)
#: Resolution R2 over which every table has values.
RESOLUTION_RANGE = (0.3774, 0.8543)


@dataclass(frozen=True, kw_only=True)
class HscCalibration:
    """Calibration of each object.

    Parameters
    ----------
    sigma_e, e_rms : (n,) float64
        Measurement error and intrinsic dispersion of one component of the distortion.
    weight : (n,) float64
        1 / (sigma_e^2 + e_rms^2).
    m, a : (n,) float64
        Multiplicative bias, and additive bias per ellipticity of the PSF; with selection.
    outside : (n,) bool
        Outside of the calibrated range in resolution, or below it in signal to noise.
    """

    sigma_e: Float64Array
    e_rms: Float64Array
    weight: Float64Array
    m: Float64Array
    a: Float64Array
    outside: NDArray[np.bool_]


@functools.cache
def _tables() -> dict[str, Float64Array]:
    with (
        resources.as_file(resources.files("skymill.shear.hsc_tables") / "hsc_y1.npz") as path,
        np.load(path) as data,
    ):
        return {name: data[name] for name in data.files}


@functools.cache
def _interpolators(name: str, column: int) -> tuple[LinearNDInterpolator, NearestNDInterpolator]:
    table = _tables()[name]
    points = np.stack([np.log10(table[:, 0]), table[:, 1]], axis=1)
    values = table[:, column]
    return LinearNDInterpolator(points, values), NearestNDInterpolator(points, values)


def _lookup(
    name: str, column: int, log_snr: Float64Array, resolution: Float64Array
) -> Float64Array:
    linear, nearest = _interpolators(name, column)
    value = linear(log_snr, resolution)
    hole = ~np.isfinite(value)
    if hole.any():
        value[hole] = nearest(log_snr[hole], resolution[hole])
    return np.asarray(value)


def evaluate_hsc_y1(
    snr: ArrayLike, resolution: ArrayLike, *, extrapolate: bool = False
) -> HscCalibration:
    """Weights and biases at a signal to noise and resolution.

    Parameters
    ----------
    snr : (n,) float64
        Signal to noise of the model flux.
    resolution : (n,) float64
        Resolution R2 = 1 - T_PSF / T_observed.
    extrapolate : bool
        Evaluate the power laws outside of the tables too, as the published script does; otherwise
        they are evaluated at the nearest end of the range.

    Returns
    -------
    HscCalibration
        Calibration of each object.

    References
    ----------
    Mandelbaum et al. 2018, MNRAS 481, 3170, section 4.
    """
    s, r = (
        np.atleast_1d(np.asarray(snr, np.float64)),
        np.atleast_1d(np.asarray(resolution, np.float64)),
    )
    inside = (s >= SNR_RANGE[0]) & (r >= RESOLUTION_RANGE[0]) & (r <= RESOLUTION_RANGE[1])
    if not extrapolate:
        s, r = np.clip(s, *SNR_RANGE), np.clip(r, *RESOLUTION_RANGE)
    finite = np.isfinite(s) & np.isfinite(r)
    s, r = np.where(finite, s, SNR_RANGE[0]), np.where(finite, r, 0.5)
    log_s, u = np.log10(s), s / 20.0
    sigma_e = 0.264 * u**-0.891 * (r / 0.5) ** -1.015 * _lookup("sigmae", 2, log_s, r)
    e_rms = _lookup("erms", 2, log_s, r)
    m = -0.1408 * u**-1.23 * (r / 0.5) ** 1.76 - 0.0214 + _lookup("model", 2, log_s, r)
    m += -1.31 + (27.26 + u**-1.22) / (r + 20.8) + _lookup("selection", 2, log_s, r)
    a = 0.175 * u**-1.07 * (r - 0.508) + _lookup("model", 4, log_s, r)
    a += -0.089 * (r - 0.71) * u**-2.2 + _lookup("selection", 4, log_s, r)
    return HscCalibration(
        sigma_e=sigma_e,
        e_rms=e_rms,
        weight=1.0 / (sigma_e**2 + e_rms**2),
        m=m,
        a=a,
        outside=~inside,
    )

"""Target PSFs, weights and noise levels of a cell of metadetection."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.shear.metacal import MetacalOptions, Spectrum, target_sigma

__all__ = ["Targets", "choose_targets"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# Grid of wave vectors on which noise levels are summed; its powers are smooth.
_GRID = 128


@dataclass(frozen=True)
class Targets:
    """What is the same for every version of a cell.

    Parameters
    ----------
    sigmas, widths : (b,) float64 [pixel]
        Target PSF and flux weight of each band.
    weight : (b,) float32
        Share of each band in the sum that is searched.
    sigma, width : float [pixel]
        Target PSF and flux weight of that sum.
    flux_noise : (1 + b,) float64 [nJy / pixel]
        Scatter of the flux under the weight, of the sum and of each band.
    """

    sigmas: Float64Array
    widths: Float64Array
    weight: Float32Array
    sigma: float
    width: float
    flux_noise: Float64Array


def choose_targets(
    psfs: Float32Array,
    variances: Float64Array,
    used: NDArray[np.bool_],
    spectra: tuple[Spectrum | None, ...],
    *,
    weight_scale: float = 1.0,
    options: MetacalOptions | None = None,
) -> Targets:
    """Choose target PSFs and weights, and find the noise levels under them.

    The bands that are searched share one target. A band of worse seeing among the others has its
    own, and a narrower weight, so that weight and PSF together are as wide in every band: then all
    see the same part of a galaxy.

    Parameters
    ----------
    psfs : (b, s, s) float32
        PSF of each band.
    variances : (b,) float64 [nJy2]
        Variance of a pixel.
    used : (b,) bool
        Bands that are searched and give shapes.
    spectra : tuple of callable or None
        Power of each band's noise; None for white noise.
    weight_scale : float
        Width of the weight over that of the target PSF.
    options : MetacalOptions, optional
        Step and dilation.

    Returns
    -------
    Targets
        Widths, weights, noise levels.
    """
    sigma = target_sigma(psfs[used], options)
    width = weight_scale * sigma
    sigmas, widths = np.full(len(psfs), sigma), np.full(len(psfs), width)
    for k in np.flatnonzero(~used):
        sigmas[k] = max(sigma, target_sigma(psfs[k : k + 1], options))
        widths[k] = np.sqrt(max(sigma**2 + width**2 - sigmas[k] ** 2, (0.5 * width) ** 2))
    weight = np.where(used, 1.0 / variances, 0.0)
    weight /= weight.sum()
    power = [
        variances[k] * _noise_power(psfs[k], float(sigmas[k]), spectra[k]) for k in range(len(psfs))
    ]
    total = sum(w * w * p for w, p in zip(weight, power, strict=True) if w > 0)
    flux_noise = [_flux_noise(np.asarray(total), width)]
    flux_noise += [_flux_noise(p, float(w)) for p, w in zip(power, widths, strict=True)]
    return Targets(
        sigmas, widths, weight.astype(np.float32), sigma, width,
        np.array(flux_noise),
    )  # fmt: skip


@functools.lru_cache(maxsize=32)
def _spectrum_grid(spectrum: Spectrum) -> Float64Array:
    return np.asarray(spectrum(*_wave_vectors()), np.float64)


@functools.cache
def _wave_vectors() -> tuple[Float64Array, Float64Array]:
    k = 2 * np.pi * np.fft.fftfreq(_GRID)
    return tuple(np.meshgrid(k, k))  # type: ignore[return-value]


def _noise_power(psf: Float32Array, sigma: float, spectrum: Spectrum | None) -> Float64Array:
    """Power of noise of unit variance in the unsheared image, turned noise added."""
    kx, ky = _wave_vectors()
    size = psf.shape[0]
    if size > _GRID:
        cut = (size - _GRID) // 2 + 1
        psf = psf[cut:-cut, cut:-cut]
    transform = np.abs(np.fft.fft2(psf, (_GRID, _GRID))) ** 2
    target = np.exp(-(sigma**2) * (kx**2 + ky**2))
    power = target / np.maximum(transform, 1e-12 * transform[0, 0])
    if spectrum is not None:
        power = power * _spectrum_grid(spectrum)
    # A quarter turn takes [ky, kx] to [kx, -ky].
    turned = np.roll(power.T[::-1, :], 1, axis=0)
    return np.asarray(power + turned, np.float64)


def _flux_noise(power: Float64Array, width: float) -> float:
    """Scatter of the weighted flux of noise."""
    kx, ky = _wave_vectors()
    # Of sum(w noise) / sum(w^2), with the transform 2 pi width^2 exp(-width^2 k^2 / 2) of w.
    return float(np.sqrt(4.0 * (power * np.exp(-(width**2) * (kx**2 + ky**2))).mean()))

"""Metacalibration of images: the same cell of sky under a little shear, with a round PSF.

An image I with PSF P becomes, for a shear matrix A (determinant 1) and a round Gaussian G,

    I_A(k) = I(A^T k) / P(A^T k) G(k),

that is: deconvolved, sheared, convolved again. The transforms are read between their grid points
by a Kaiser-Bessel kernel on images padded twice. Noise becomes anisotropic under this, with the
power G^2(k) / P^2(A^T k) if it was white. Noise of that power turned by 90 degrees is added, so
that the sum has no direction left (the 'fixed noise' of Sheldon & Huff 2017). Its phases move with
the galaxies under every shear: noise that was turned as an image would pass over them, and make
the response of each a few times noisier. That power at k is the one of the PSF turned by 90
degrees under the opposite shear, 1 / P_90(A^-T k)^2: the transform of the PSF is read at two wave
vectors for each of the image and the noise. It is smooth, and lies on a small grid of its own.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.shear._metacal_kernels import TAPS, shear_transform, tabulate_kernel

__all__ = [
    "SHEAR_TYPES",
    "MetacalOptions",
    "Spectrum",
    "metacal",
    "shear_matrix",
    "target_sigma",
]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

#: Power of noise at wave vectors (kx, ky) [radian / pixel], of white noise of its variance 1.
type Spectrum = Callable[[Float64Array, Float64Array], Float64Array]

# Names of the published pipeline -> direction of the shear.
SHEAR_TYPES: dict[str, tuple[float, float]] = {
    "noshear": (0.0, 0.0),
    "1p": (1.0, 0.0),
    "1m": (-1.0, 0.0),
    "2p": (0.0, 1.0),
    "2m": (0.0, -1.0),
}
_TABLE = 1025
_OVERSAMPLING = 2
# Where the target has fallen to 1e-5 it ends: the circle has no direction, and it saves time.
_FAINTEST = math.sqrt(2 * math.log(1e5))
_QUARTER_TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class MetacalOptions:
    """How images are sheared."""

    step: float = option(0.01, "applied shear")
    dilation: float = option(1.02, "size of the target PSF over the smallest possible")

    def __post_init__(self) -> None:
        check_range(self, "step", low=0.0, high=0.1, low_open=True)
        check_range(self, "dilation", low=1.0, high=2.0)


def shear_matrix(g1: float, g2: float) -> Float64Array:
    """Matrix of a reduced shear with determinant 1.

    Parameters
    ----------
    g1, g2 : float
        Reduced shear in pixel axes.

    Returns
    -------
    (2, 2) float64
        Takes unsheared to sheared positions.
    """
    matrix = np.array([[1.0 + g1, g2], [g2, 1.0 - g1]])
    return matrix / math.sqrt(1.0 - g1 * g1 - g2 * g2)


def target_sigma(psfs: Float32Array, options: MetacalOptions | None = None) -> float:
    """Width of the round Gaussian that every image can be brought to.

    The Gaussian has fallen to 1 % where the first of the PSFs has, in its narrowest direction
    of wave vectors; it is dilated by twice the applied shear and by the option's factor.

    Parameters
    ----------
    psfs : (m, s, s) float32
        PSFs of all images that share the target.
    options : MetacalOptions, optional
        Step and dilation.

    Returns
    -------
    float [pixel]
        Standard deviation.
    """
    options = options or MetacalOptions()
    radius = _wave_numbers(256)
    smallest = math.inf
    for psf in psfs:
        power = np.abs(fft.rfft2(psf, (256, 256)))
        faint = power < 0.01 * power[0, 0]
        if faint.any():
            smallest = min(smallest, float(radius[faint].min()))
    if not math.isfinite(smallest):
        smallest = math.pi
    sigma = math.sqrt(2 * math.log(100.0)) / smallest
    return sigma * (1 + 2 * options.step) * options.dilation


@functools.cache
def _wave_numbers(n: int) -> Float64Array:
    """Moduli of the wave vectors of a half transform [radian / pixel]."""
    return np.hypot(2 * math.pi * fft.fftfreq(n)[:, None], 2 * math.pi * fft.rfftfreq(n)[None, :])


@functools.cache
def _kernel(n_fine: int) -> tuple[Float32Array, Float32Array]:
    """Table of the kernel and the inverse (n_fine,) of its image along an axis, origin at [0]."""
    beta = math.pi * math.sqrt((TAPS / _OVERSAMPLING) ** 2 * (_OVERSAMPLING - 0.5) ** 2 - 0.8)
    table = np.empty((_TABLE, 8), np.float32)
    tabulate_kernel(beta, table)
    # The image that belongs to the kernel, by direct summation of what will be used.
    part = np.linspace(0.0, 1.0, 64, endpoint=False)
    rows = np.arange(_TABLE) / (_TABLE - 1.0)
    t = np.array([a - (TAPS // 2 - 1) - part for a in range(TAPS)]).ravel()
    value = np.array([np.interp(part, rows, table[:, a]) for a in range(TAPS)]).ravel()
    x = fft.fftfreq(n_fine, 1 / n_fine)
    image = (value[None, :] * np.cos(2 * math.pi * t[None, :] * x[:, None] / n_fine)).sum(1) / 64
    return table, np.asarray(1.0 / image, np.float32)


@functools.lru_cache(maxsize=8)
def _target(n_out: int, sigma: float) -> Float32Array:
    """Transform of the target PSF, zero where it is fainter than matters."""
    ky = 2 * math.pi * fft.fftfreq(n_out)[:, None]
    kx = 2 * math.pi * fft.rfftfreq(n_out)[None, :]
    k2 = sigma**2 * (kx**2 + ky**2)
    return np.where(k2 <= _FAINTEST**2, np.exp(-0.5 * k2), 0.0).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _amplitude(spectrum: Spectrum, direction: tuple[float, float], n_out: int) -> Float32Array:
    """Amplitude of the noise's own power under a shear, turned by 90 degrees."""
    ky = 2 * math.pi * fft.fftfreq(n_out)[:, None]
    kx = 2 * math.pi * fft.rfftfreq(n_out)[None, :]
    m = _QUARTER_TURN @ shear_matrix(*direction)
    power = spectrum(m[0, 0] * kx + m[1, 0] * ky, m[0, 1] * kx + m[1, 1] * ky)
    return np.asarray(np.sqrt(np.maximum(power, 0.0)), np.float32)


class _Arrays(threading.local):
    """Arrays of a thread that every cell uses again."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], tuple[Float32Array, NDArray[np.complex64]]] = {}


_ARRAYS = _Arrays()


def _scratch(k: int, size: int, n: int, columns: int) -> tuple[Float32Array, NDArray[np.complex64]]:
    """Padded rows (k, size, n), zero where never written, and transforms (n, columns, k).

    Taken from the system anew for every cell they cost more than the transforms themselves.
    """
    key = (k, size, n, columns)
    if key not in _ARRAYS.known:
        if len(_ARRAYS.known) >= 8:
            _ARRAYS.known.clear()
        rows = np.zeros((k, size, n), np.float32)
        _ARRAYS.known[key] = rows, np.empty((n, columns, k), np.complex64)
    return _ARRAYS.known[key]


def _transform_planes(
    planes: list[Float32Array], n: int, weight: Float32Array, columns: int
) -> Float32Array:
    """First columns of the half transforms (n, columns, 4), central pixels moved to [0, 0].

    Rows of zeros and columns that nobody reads are left out.
    """
    size = len(planes[0])
    half = size // 2
    rows, fine = _scratch(len(planes), size, n, columns)
    for plane, out in zip(planes, rows, strict=True):
        weighted = plane * weight[np.arange(size) - half][:, None]
        np.multiply(weighted[:, half:], weight[: size - half], out=out[:, : size - half])
        np.multiply(weighted[:, :half], weight[n - half :], out=out[:, n - half :])
    part = fft.rfft(rows, axis=2)[:, :, :columns].transpose(1, 2, 0)
    fine[: size - half] = part[half:]
    fine[size - half : n - half] = 0.0
    fine[n - half :] = part[:half]
    both: NDArray[np.complex64] = fft.fft(fine, axis=0, overwrite_x=True)
    return both.view(np.float32)


def _transform_psf(psf: Float32Array) -> tuple[Float32Array, int]:
    """Transform of a PSF (m, m, 2) with a rim beyond its period, and the period."""
    size = len(psf)
    half = size // 2
    n = _OVERSAMPLING * fft.next_fast_len(size + 1, real=True)
    _, weight = _kernel(n)
    index = np.arange(size) - half
    centred = np.zeros((n, n), np.float32)
    centred[index[:, None], index] = psf * weight[index][:, None] * weight[index]
    # Twice the largest step that is allowed moves a corner by a tenth of the width.
    reach = n // 2 + math.ceil(0.11 * n) + TAPS
    wrapped = np.arange(-reach, reach + 1) % n
    transform: NDArray[np.complex64] = fft.fft2(centred)[wrapped[:, None], wrapped]
    return transform.view(np.float32).reshape(*transform.shape, 2), n


def _check(image: Float32Array, noise: Float32Array, psf: Float32Array) -> None:
    n = image.shape[0]
    if image.shape != (n, n) or noise.shape != (n, n) or n % 2:
        raise DataError(
            f"metacal needs square images of even width with a noise image of the same shape; "
            f"found {image.shape} and {noise.shape}"
        )
    if psf.ndim != 2 or psf.shape[0] != psf.shape[1] or not psf.shape[0] % 2:
        raise DataError(f"metacal needs a square PSF of odd width; found {psf.shape}")
    if not (np.isfinite(image).all() and np.isfinite(noise).all() and np.isfinite(psf).all()):
        raise DataError("metacal needs finite pixels: fill masked ones first")


def metacal(
    image: Float32Array,
    noise: Float32Array,
    psf: Float32Array,
    *,
    sigma: float,
    spectrum: Spectrum | None = None,
    types: tuple[str, ...] = tuple(SHEAR_TYPES),
    options: MetacalOptions | None = None,
) -> dict[str, Float32Array]:
    """Shear one image.

    Parameters
    ----------
    image : (n, n) float32
        A cell of sky with a constant PSF; n even, with a margin of a few PSF widths that is not
        used afterwards.
    noise : (n, n) float32
        White noise of the variance of the image's noise, independent of it.
    psf : (s, s) float32
        PSF, s odd, centred on its central pixel.
    sigma : float [pixel]
        Width of the target PSF (`target_sigma`).
    spectrum : callable, optional
        Power of the image's noise at wave vectors (kx, ky) [radian / pixel] over that of white
        noise of its variance, for noise that is not white (`skymill.coadd.noise_spectrum`). It is
        read once for each shear and size of image, and kept.
    types : tuple of str
        Which of `SHEAR_TYPES`.
    options : MetacalOptions, optional
        Step and dilation.

    Returns
    -------
    dict of str to (n, n) float32
        The images, noise added.

    Raises
    ------
    DataError
        If a value is not finite, or the shapes do not fit.
    """
    options = options or MetacalOptions()
    _check(image, noise, psf)
    n = image.shape[0]
    n_out = fft.next_fast_len(max(n, psf.shape[0] + 1), real=True)
    n_out += n_out % 2
    n_fine = _OVERSAMPLING * n_out
    table, weight = _kernel(n_fine)
    target = _target(n_out, sigma)
    # Shears move wave vectors by less than twice the step.
    last = _FAINTEST / sigma * n_fine / (2 * math.pi) * (1 + 2 * options.step) + TAPS
    columns = min(n_fine // 2 + 1, 32 * math.ceil(last / 32))
    fine = _transform_planes([image, noise], n_fine, weight, columns)
    star, period = _transform_psf(psf)
    index = (np.arange(n) - n // 2) % n_out
    transform = np.empty(target.shape, np.complex64)
    out: dict[str, Float32Array] = {}
    for name in types:
        u, v = (options.step * d for d in SHEAR_TYPES[name])
        amplitude = np.empty((0, 0), np.float32)
        if spectrum is not None:
            amplitude = _amplitude(spectrum, (u, v), n_out)
        shear_transform(
            fine, star, period / n_out, shear_matrix(u, v), table, target, amplitude, transform
        )
        out[name] = fft.irfft2(transform, (n_out, n_out))[index[:, None], index[None, :]]
    return out

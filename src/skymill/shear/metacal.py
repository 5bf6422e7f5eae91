"""Metacalibration of images: the same cell of sky under a little shear, with a round PSF.

An image I with PSF P becomes, for a shear matrix A (determinant 1) and a round Gaussian G,

    I_A(k) = I(A^T k) / P(A^T k) G(k),

that is: deconvolved, sheared, convolved again. The transforms are read between their grid points
by a Kaiser-Bessel kernel on images padded twice. Noise becomes anisotropic under this, with the
power G^2(k) / P^2(A^T k) if it was white. Noise of that power turned by 90 degrees is added, so
that the sum has no direction left (the 'fixed noise' of Sheldon & Huff 2017). Its phases move with
the galaxies under every shear: noise that was turned as an image would pass over them, and make
the response of each a few times noisier. That power at k is the one of the PSF turned by 90
degrees under the opposite shear, 1 / P_90(A^-T k)^2, so that four transforms (image, noise, PSF,
turned PSF) read at the wave vectors of +-shear give everything.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.shear._metacal_kernels import TAPS, read_sheared, reconvolve, tabulate_kernel

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
_OPPOSITE = {"noshear": "noshear", "1p": "1m", "1m": "1p", "2p": "2m", "2m": "2p"}
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
    size = 256
    k = fft.fftfreq(size) * 2 * math.pi
    radius = np.hypot(*np.meshgrid(k, k))
    smallest = math.inf
    for psf in psfs:
        power = np.abs(fft.fft2(psf, (size, size)))
        faint = power < 0.01 * power[0, 0]
        if faint.any():
            smallest = min(smallest, float(radius[faint].min()))
    if not math.isfinite(smallest):
        smallest = math.pi
    sigma = math.sqrt(2 * math.log(100.0)) / smallest
    return sigma * (1 + 2 * options.step) * options.dilation


@functools.cache
def _kernel(n_fine: int) -> tuple[Float32Array, Float32Array]:
    """Table of the kernel and what an image is divided by, (n_fine, n_fine), origin at [0, 0]."""
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
    return table, np.asarray(1.0 / (image[:, None] * image[None, :]), np.float32)


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


def _transform(planes: list[Float32Array], n: int, weight: Float32Array) -> Float32Array:
    """Half transforms (n, n // 2 + 1, 8) of four images, their central pixels moved to [0, 0]."""
    out = np.zeros((n, n, 4), np.float32)
    for k, plane in enumerate(planes):
        size = len(plane)
        half = size // 2
        for to, rows in (
            (slice(0, size - half), slice(half, size)),
            (slice(n - half, n), slice(0, half)),
        ):
            for cols, along in (
                (slice(0, size - half), slice(half, size)),
                (slice(n - half, n), slice(0, half)),
            ):
                np.multiply(plane[rows, along], weight[to, cols], out=out[to, cols, k])
    fine: NDArray[np.complex64] = fft.rfft2(out, axes=(0, 1), overwrite_x=True)
    return fine.view(np.float32)


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
        noise of its variance, for noise that is not white (`skymill.shear.noise`). It is read once
        for each shear and size of image, and kept.
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
    table, weight = _kernel(_OVERSAMPLING * n_out)
    fine = _transform([image, noise, psf, np.rot90(psf)], _OVERSAMPLING * n_out, weight)
    limit = min(_FAINTEST / sigma * n_out / (2 * math.pi), float(n_out))
    target = _target(n_out, sigma)
    read: dict[str, NDArray[np.complex64]] = {}
    for name in {*types, *(_OPPOSITE[t] for t in types)}:
        values = np.empty((n_out, n_out // 2 + 1, 8), np.float32)
        matrix = shear_matrix(*(options.step * d for d in SHEAR_TYPES[name]))
        read_sheared(fine, matrix, table, limit, n_out, values)
        read[name] = values.view(np.complex64)
    index = (np.arange(n) - n // 2) % n_out
    transform = np.empty(target.shape, np.complex64)
    out: dict[str, Float32Array] = {}
    for name in types:
        u, v = SHEAR_TYPES[name]
        amplitude = np.empty((0, 0), np.float32)
        if spectrum is not None:
            amplitude = _amplitude(spectrum, (options.step * u, options.step * v), n_out)
        reconvolve(read[name], read[_OPPOSITE[name]], target, amplitude, transform)
        out[name] = fft.irfft2(transform, (n_out, n_out))[index[:, None], index[None, :]]
    return out

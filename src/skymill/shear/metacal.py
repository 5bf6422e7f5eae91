"""Metacalibration of images: the same cell of sky under a little shear, with a round PSF.

An image I with PSF P becomes, for a shear matrix A (determinant 1) and a round Gaussian G,

    I_A(k) = I(A^T k) / P(A^T k) G(k),

that is: deconvolved, sheared, convolved again. The transforms are read between their grid points
by a Kaiser-Bessel kernel on images padded twice. Noise becomes anisotropic under this, with the
power G^2(k) / P^2(A^T k) if it was white. Noise of that power turned by 90 degrees is added, so
that the sum has no direction left (the 'fixed noise' of Sheldon & Huff 2017). Its phases move with
the galaxies under every shear: noise that was turned as an image would pass over them, and make
the response of each a few times noisier.
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
from skymill.shear._metacal_kernels import TAPS, read_sheared, tabulate_kernel

__all__ = ["SHEAR_TYPES", "MetacalOptions", "metacal", "shear_matrix", "target_sigma"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

# Names of the published pipeline -> direction of the shear.
SHEAR_TYPES: dict[str, tuple[float, float]] = {
    "noshear": (0.0, 0.0),
    "1p": (1.0, 0.0),
    "1m": (-1.0, 0.0),
    "2p": (0.0, 1.0),
    "2m": (0.0, -1.0),
}
_TABLE = 8193
_OVERSAMPLING = 2
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
def _kernel(n_fine: int) -> tuple[Float32Array, Float64Array]:
    """Table of the kernel and what an image is divided by, (n_fine,), origin at 0."""
    beta = math.pi * math.sqrt((TAPS / _OVERSAMPLING) ** 2 * (_OVERSAMPLING - 0.5) ** 2 - 0.8)
    table = np.empty(_TABLE, np.float32)
    tabulate_kernel(beta, table)
    # The image that belongs to the kernel, by direct summation of what will be used.
    t = np.arange(-TAPS // 2, TAPS // 2, 1 / 64)
    value = np.interp(np.abs(t), np.linspace(0, TAPS / 2, _TABLE), table)
    x = fft.fftfreq(n_fine, 1 / n_fine)
    image = (value[None, :] * np.cos(2 * math.pi * t[None, :] * x[:, None] / n_fine)).sum(1) / 64
    return table, image


def _pad(images: Float32Array, n: int, correction: Float64Array) -> Float32Array:
    """Images with their central pixel moved to [0, 0] of an (n, n) grid, made ready to be read."""
    size = images.shape[1]
    half = size // 2
    out = np.zeros((len(images), n, n), np.float32)
    index = (np.arange(size) - half) % n
    out[:, index[:, None], index[None, :]] = images
    out /= (correction[:, None] * correction[None, :]).astype(np.float32)
    return out


def metacal(
    image: Float32Array,
    noise: Float32Array,
    psf: Float32Array,
    *,
    sigma: float,
    spectrum: Callable[[Float64Array, Float64Array], Float64Array] | None = None,
    types: tuple[str, ...] = tuple(SHEAR_TYPES),
    options: MetacalOptions | None = None,
) -> tuple[dict[str, Float32Array], Float32Array]:
    """Shear one image.

    Parameters
    ----------
    image : (n, n) float32
        A cell of sky with a constant PSF; n even, with a margin of a few PSF widths that is not
        used afterwards.
    noise : (n, n) float32
        A realisation of the image's noise, independent of it.
    psf : (s, s) float32
        PSF, s odd, centred on its central pixel.
    sigma : float [pixel]
        Width of the target PSF (`target_sigma`).
    spectrum : callable, optional
        Power of the noise at wave vectors (kx, ky) [radian / pixel], for noise that is not white.
    types : tuple of str
        Which of `SHEAR_TYPES`.
    options : MetacalOptions, optional
        Step and dilation.

    Returns
    -------
    dict of str to (n, n) float32
        The images, noise added.
    (n, n) float32
        The part of the unsheared image that is added noise.

    Raises
    ------
    DataError
        If a value is not finite, or the shapes do not fit.
    """
    options = options or MetacalOptions()
    n = image.shape[0]
    if image.shape != (n, n) or noise.shape != (n, n) or n % 2:
        raise DataError(
            f"metacal needs square images of even width with a noise image of the same shape; "
            f"found {image.shape} and {noise.shape}"
        )
    if not (np.isfinite(image).all() and np.isfinite(noise).all() and np.isfinite(psf).all()):
        raise DataError("metacal needs finite pixels: fill masked ones first")
    n_out = fft.next_fast_len(n, real=True)
    n_out += n_out % 2
    n_fine = _OVERSAMPLING * n_out
    table, correction = _kernel(n_fine)
    side = max(n, psf.shape[0])
    stack = np.zeros((3, side, side), np.float32)
    for plane, values in zip(stack, (image, noise, psf), strict=True):
        low = side // 2 - values.shape[0] // 2
        plane[low : low + values.shape[0], low : low + values.shape[0]] = values
    fine = fft.fft2(_pad(stack, n_fine, correction))
    read = np.empty((3, n_out, n_out // 2 + 1), np.complex64)
    turned = np.empty((1, n_out, n_out // 2 + 1), np.complex64)
    ky = 2 * math.pi * fft.fftfreq(n_out)[:, None]
    kx = 2 * math.pi * fft.rfftfreq(n_out)[None, :]
    target = np.exp(-0.5 * sigma**2 * (kx**2 + ky**2)).astype(np.float32)
    index = (np.arange(n) - n // 2) % n_out
    back = (index[:, None], index[None, :])
    out: dict[str, Float32Array] = {}
    added = np.zeros_like(image)
    for name in types:
        matrix = shear_matrix(*(options.step * d for d in SHEAR_TYPES[name]))
        read_sheared(fine, matrix, table, n_out, read)
        read_sheared(fine[2:], _QUARTER_TURN @ matrix, table, n_out, turned)
        read[0] *= target * _inverse(read[2])
        read[1] *= target * np.abs(_inverse(turned[0]))
        if spectrum is not None:
            read[1] *= _colour_change(spectrum, matrix, kx, ky)
        sheared, plane = fft.irfft2(read[:2], (n_out, n_out))[:, back[0], back[1]]
        out[name] = sheared + plane
        if name == "noshear":
            added = plane
    return out, added


def _inverse(transform: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """One over a PSF's transform, bounded where there is nothing left of it."""
    power = transform.real**2 + transform.imag**2
    return transform.conj() / np.maximum(power, 1e-12 * power[0, 0])


def _colour_change(
    spectrum: Callable[[Float64Array, Float64Array], Float64Array],
    matrix: Float64Array,
    kx: Float64Array,
    ky: Float64Array,
) -> Float32Array:
    """Amplitude that the noise should have (turned) over the one that it has after the shear."""

    def at(m: Float64Array) -> Float64Array:
        return spectrum(m[0, 0] * kx + m[1, 0] * ky, m[0, 1] * kx + m[1, 1] * ky)

    ratio = at(_QUARTER_TURN @ matrix) / at(matrix)
    return np.asarray(np.sqrt(np.clip(ratio, 0.0, 100.0)), np.float32)

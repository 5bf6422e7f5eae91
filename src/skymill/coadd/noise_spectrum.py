"""The power spectrum of a coadd's noise, measured on pixels without sources.

Resampling correlates the noise of neighbouring pixels. The covariance at short lags, relative to
the variance plane, gives the spectrum

    S(k) = sum_d C(d) cos(k d),

which is one for white noise of that variance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

from skymill.data.errors import DataError, NoDataError
from skymill.data.options import check_range, option

__all__ = ["NoiseSpectrum", "NoiseSpectrumOptions", "measure_noise_spectrum"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
_GRID = 64
#: Power below which noise is not believed to fall, relative to white noise.
_FLOOR = 0.01


@dataclass(frozen=True, kw_only=True)
class NoiseSpectrumOptions:
    """Where the noise is measured."""

    max_lag: int = option(6, "longest lag of the covariance", unit="pixel")
    block: int = option(250, "side of the blocks in which it is measured", unit="pixel")
    max_blocks: int = option(48, "blocks used, spread over the image")
    min_pixels: int = option(10_000, "pixels without sources that the measurement needs")

    def __post_init__(self) -> None:
        check_range(self, "max_lag", low=0, high=_GRID // 2 - 1)
        check_range(self, "block", low=32)
        check_range(self, "max_blocks", low=1)
        check_range(self, "min_pixels", low=100)


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseSpectrum:
    """Power of noise relative to white noise of the same variance plane.

    Parameters
    ----------
    covariance : (2 m + 1, 2 m + 1) float64
        Covariance at lags -m .. m in y and x, over the variance.
    """

    covariance: Float64Array
    _known: dict[tuple[float, ...], Float64Array] = field(
        default_factory=dict, init=False, repr=False
    )
    _amplitudes: dict[int, Float32Array] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def white(cls) -> NoiseSpectrum:
        """Noise without correlation."""
        return cls(covariance=np.ones((1, 1)))

    def _power(self, n: int) -> Float64Array:
        """Power on an (n, n) grid of wave vectors, the origin at [0, 0]."""
        m = len(self.covariance) // 2
        index = np.arange(-m, m + 1) % n
        plane = np.zeros((n, n))
        plane[index[:, None], index[None, :]] = self.covariance
        return np.maximum(fft.fft2(plane).real, _FLOOR)

    def __call__(self, kx: Float64Array, ky: Float64Array) -> Float64Array:
        """Power at wave vectors (...) [radian / pixel]; remembered for the next cell."""
        corners = ((0, 0), (0, -1), (-1, 0), (-1, -1), (1, 1))
        key = (*kx.shape, *(float(a[c]) for a in (kx, ky) for c in corners))
        if key not in self._known:
            if len(self._known) >= 32:
                self._known.clear()
            scale = _GRID / (2 * np.pi)
            place = np.array([np.ravel(ky), np.ravel(kx)]) * scale
            power = map_coordinates(self._power(_GRID), place, order=1, mode="grid-wrap")
            self._known[key] = power.reshape(kx.shape)
        return self._known[key]

    def draw(self, n: int, *, rng: np.random.Generator) -> Float32Array:
        """A realisation.

        Parameters
        ----------
        n : int [pixel]
            Its side.
        rng : numpy.random.Generator
            Random numbers.

        Returns
        -------
        (n, n) float32
            Noise with this power, for a variance plane of one.
        """
        white = rng.standard_normal((n, n), dtype=np.float32)
        if len(self.covariance) == 1:
            return white * np.float32(np.sqrt(max(self.covariance[0, 0], _FLOOR)))
        if n not in self._amplitudes:
            power = self._power(n)[:, : n // 2 + 1]
            self._amplitudes[n] = np.sqrt(power).astype(np.float32)
        colored = fft.irfft2(fft.rfft2(white) * self._amplitudes[n], (n, n))
        return np.asarray(colored, np.float32)


def measure_noise_spectrum(
    image: Float32Array,
    variance: Float32Array,
    empty: NDArray[np.bool_],
    *,
    options: NoiseSpectrumOptions = NoiseSpectrumOptions(),
) -> NoiseSpectrum:
    """Measure the covariance of noise on pixels without sources.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels and their variance.
    empty : (ny, nx) bool
        Usable pixels without light of detected sources.
    options : NoiseSpectrumOptions
        Blocks and lags.

    Returns
    -------
    NoiseSpectrum
        Covariance over variance; symmetric under a half turn.

    Raises
    ------
    NoDataError
        If too few pixels are empty.
    """
    if not image.shape == variance.shape == empty.shape:
        raise DataError(
            f"image, variance and mask must have one shape; got {image.shape}, {variance.shape}, "
            f"{empty.shape}"
        )
    m, side = options.max_lag, options.block
    blocks = [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, max(image.shape[0] - side // 2, 1), side)
        for x in range(0, max(image.shape[1] - side // 2, 1), side)
    ]
    chosen = blocks[:: max(1, -(-len(blocks) // options.max_blocks))]
    n = fft.next_fast_len(side + m, real=True)
    pixels = 0
    index = np.arange(-m, m + 1) % n
    lags = (index[:, None], index[None, :])
    pairs = np.zeros((2 * m + 1, 2 * m + 1))
    total = np.zeros((2 * m + 1, 2 * m + 1))
    for cut in chosen:
        good = empty[cut] & (variance[cut] > 0)
        if good.sum() < 0.05 * good.size:
            continue
        value = np.where(good, image[cut] / np.sqrt(np.where(good, variance[cut], 1.0)), 0.0)
        # What is left of the sky's level is no noise.
        value[good] -= np.median(value[good])
        total += fft.irfft2(np.abs(fft.rfft2(value, (n, n))) ** 2, (n, n))[lags]
        pairs += fft.irfft2(np.abs(fft.rfft2(good.astype(np.float64), (n, n))) ** 2, (n, n))[lags]
        pixels += int(good.sum())
    if pixels < options.min_pixels:
        raise NoDataError(
            f"{pixels} pixels without sources are too few to measure the noise; at least "
            f"{options.min_pixels} are needed"
        )
    covariance = total / np.maximum(pairs, 1.0)
    return NoiseSpectrum(covariance=0.5 * (covariance + covariance[::-1, ::-1]))

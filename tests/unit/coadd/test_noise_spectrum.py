"""The noise spectrum of noise whose covariance is known, and what drawn noise looks like."""

import numpy as np
import pytest
from scipy import ndimage

from skymill.coadd.noise_spectrum import (
    NoiseSpectrum,
    NoiseSpectrumOptions,
    measure_noise_spectrum,
)
from skymill.data.errors import DataError, NoDataError

KERNEL = np.array([[0.0, 0.1, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.0]])


def correlated(n, rng):
    return ndimage.convolve(rng.normal(size=(n, n)), KERNEL, mode="wrap").astype(np.float32)


def true_power(kx, ky):
    return (0.6 + 0.2 * np.cos(kx) + 0.2 * np.cos(ky)) ** 2


def test_spectrum_of_correlated_noise_under_a_mask_and_a_varying_variance():
    rng = np.random.default_rng(1)
    level = np.linspace(1.0, 3.0, 600, dtype=np.float32)[:, None] * np.ones((600, 600), np.float32)
    image = correlated(600, rng) * np.sqrt(level) + 0.3
    empty = rng.uniform(size=image.shape) > 0.2
    image[~empty] = 1e4
    options = NoiseSpectrumOptions(max_lag=3, block=200)
    spectrum = measure_noise_spectrum(image, level, empty, options=options)
    kx, ky = np.meshgrid(np.linspace(-3, 3, 9), np.linspace(0, 3, 7))
    # 250,000 pixels tell a lag to 2e-3; 49 lags add up.
    assert np.abs(spectrum(kx, ky) - true_power(kx, ky)).max() < 4 * 2e-3 * 7
    assert spectrum(kx, ky) is spectrum(kx, ky)  # remembered for the next cell


def test_drawn_noise_has_the_spectrum():
    covariance = ndimage.convolve(np.pad(KERNEL, 1), KERNEL[::-1, ::-1], mode="constant")
    spectrum = NoiseSpectrum(covariance=covariance)
    drawn = spectrum.draw(512, rng=np.random.default_rng(2))
    found = measure_noise_spectrum(drawn, np.ones_like(drawn), np.ones(drawn.shape, bool))
    m = len(found.covariance) // 2
    np.testing.assert_allclose(
        found.covariance[m - 2 : m + 3, m - 2 : m + 3], covariance, atol=4 / 512
    )
    white = NoiseSpectrum.white()
    assert white.draw(64, rng=np.random.default_rng(2)).std() == pytest.approx(1, abs=0.05)
    assert white(np.zeros((2, 2)), np.zeros((2, 2))) == pytest.approx(1.0)


def test_too_few_pixels_and_other_shapes_are_refused():
    image = np.zeros((64, 64), np.float32)
    with pytest.raises(NoDataError, match="0 pixels without sources are too few"):
        measure_noise_spectrum(image, image + 1, np.zeros(image.shape, bool))
    with pytest.raises(DataError, match="one shape"):
        measure_noise_spectrum(image, image[:3], image > 0)

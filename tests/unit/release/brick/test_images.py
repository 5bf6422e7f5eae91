"""Weights of exposures: without the noise of their own pixel, and whole in the cores of stars."""

from __future__ import annotations

import numpy as np
import pytest
from brick_scenes import gaussian

from skymill.release.brick.images import _unbiased_weights

GAIN, SKY, READ = 4.0, 100.0, 1.75


def _exposure(seed: int, star: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts without the sky, the pipeline's weights, and the true ones."""
    rng = np.random.default_rng(seed)
    true = SKY + star * gaussian(200, 2.0, 100, 100)
    counts = rng.poisson(true * GAIN) / GAIN + rng.normal(0, READ, true.shape)
    variance = np.maximum(counts, 1) / GAIN + READ**2
    return (
        (counts - SKY).astype(np.float32),
        (1 / variance).astype(np.float32),
        1 / (true / GAIN + READ**2),
    )


def test_the_weighted_mean_of_a_blank_sky_is_zero() -> None:
    biased, unbiased = [], []
    for seed in range(5):
        image, weight, _ = _exposure(seed)
        biased.append(np.average(image, weights=weight))
        unbiased.append(np.average(image, weights=_unbiased_weights(image, weight)))
    # Weights 1 / (counts / gain + ...) lower the mean by 1 / gain; 200000 pixels of noise 5.3 tell
    # it to 0.012.
    assert np.mean(biased) == pytest.approx(-1 / GAIN, abs=0.04)
    assert abs(np.mean(unbiased)) < 0.04


def test_the_new_weights_are_the_true_ones() -> None:
    image, weight, true = _exposure(1, star=2e5)
    new = _unbiased_weights(image, weight)
    core = gaussian(200, 2.0, 100, 100) > 0.004
    assert np.median(new / true) == pytest.approx(1.0, abs=0.01)
    # The photons of a bright star stay in its variance.
    assert np.median(new[core] / true[core]) == pytest.approx(1.0, abs=0.05)
    assert np.std(new / true) < 0.5 * np.std(weight / true)


def test_masked_pixels_stay_masked_and_few_pixels_are_left_alone() -> None:
    image, weight, _ = _exposure(2)
    weight[50:60, 50:60] = 0
    new = _unbiased_weights(image, weight)
    assert (new[50:60, 50:60] == 0).all()
    assert (new[weight > 0] > 0).all()
    small = _unbiased_weights(image[:5, :5], weight[:5, :5])
    np.testing.assert_array_equal(small, weight[:5, :5])

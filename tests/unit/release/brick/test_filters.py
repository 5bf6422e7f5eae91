"""Blurring without holes and growing of masks, against plain definitions."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from skymill.release.brick.filters import blurred, grow_mask


def test_blurring_leaves_masked_pixels_out() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(37, 52)).astype(np.float32)
    good = rng.random(image.shape) > 0.2
    image[~good] = 1e9
    found, share = blurred(image, good, 1.7)
    clean = np.where(good, image, 0.0).astype(np.float64)
    # float32 sums of 15 x 15 terms of order one.
    np.testing.assert_allclose(found, gaussian_filter(clean, 1.7, mode="constant"), atol=1e-6)
    expected = gaussian_filter(good.astype(float), 1.7, mode="constant")
    np.testing.assert_allclose(share, expected, atol=1e-6)


def test_a_mask_grows_to_its_sides_where_the_level_allows_it() -> None:
    rng = np.random.default_rng(2)
    seed = rng.random((40, 50)) > 0.99
    seed[:5, :6] = True
    mask = seed.copy()
    grow_mask(mask, 4)
    np.testing.assert_array_equal(mask, binary_dilation(seed, iterations=4))
    level = rng.normal(size=seed.shape).astype(np.float32)
    mask = seed.copy()
    grow_mask(mask, 4, level, 0.5)
    expected = seed | (binary_dilation(seed, iterations=4) & (level > 0.5))
    np.testing.assert_array_equal(mask, expected)
    empty = np.zeros((3, 4), bool)
    grow_mask(empty, 2)
    assert not empty.any()

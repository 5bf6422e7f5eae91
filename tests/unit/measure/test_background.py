import numpy as np
import pytest
import sep
from scipy.stats import norm

from skymill.data.errors import ConfigError, NoDataError
from skymill.data.masks import MaskPlane
from skymill.measure.background import (
    Background,
    BackgroundList,
    BackgroundOptions,
    estimate_background,
)


def sky(rng, shape=(400, 520), level=100.0, sigma=5.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = level + 0.02 * x - 0.01 * y + 3.0 * np.sin(x / 150.0)
    return truth, (truth + rng.normal(0.0, sigma, shape)).astype(np.float32)


def test_recovers_a_gradient_to_the_noise_of_a_box():
    truth, image = sky(np.random.default_rng(1))
    bg = estimate_background(
        image, np.zeros(image.shape, np.int32), options=BackgroundOptions(box=64)
    )
    # A box of 64**2 pixels knows its mean to 5/64 = 0.08 and its mode, 2.5 median - 1.5 mean, to
    # 0.16; at a corner the line through the last two boxes triples that: 5 sigma of 0.5.
    assert np.abs(bg.evaluate() - truth).max() < 2.5
    assert np.abs(bg.evaluate() - truth)[40:-40, 40:-40].mean() < 0.16
    # Clipping a Gaussian at 3 sigma takes 1.35 % off its width.
    shrink = np.sqrt(1 - 2 * 3 * norm.pdf(3) / (1 - 2 * norm.sf(3)))
    assert bg.rms.mean() == pytest.approx(5.0 * shrink, rel=0.01)


def test_stars_do_not_bias_it_more_than_sep():
    rng = np.random.default_rng(2)
    truth, image = sky(rng)
    y, x = np.mgrid[-8:9, -8:9]
    star = np.exp(-(x**2 + y**2) / 8.0)
    for _ in range(150):
        cy, cx = rng.integers(8, 392), rng.integers(8, 512)
        image[cy - 8 : cy + 9, cx - 8 : cx + 9] += (rng.pareto(1.0) * 50 * star).astype(np.float32)
    ours = estimate_background(
        image, np.zeros(image.shape, np.int32), options=BackgroundOptions(box=64)
    ).evaluate()
    peer = sep.Background(image, bw=64, bh=64, fw=3, fh=3).back()
    assert np.abs((ours - truth).mean()) < np.abs((peer - truth).mean()) + 0.1
    assert np.abs(ours - peer).mean() < 0.5


def test_masked_pixels_and_nan_are_left_out():
    rng = np.random.default_rng(3)
    image = rng.normal(10.0, 1.0, (256, 256)).astype(np.float32)
    mask = np.zeros(image.shape, np.int32)
    image[:130, :130] = 1e6
    mask[:130, :130] = MaskPlane.DETECTED
    image[200, 200] = np.nan
    bg = estimate_background(image, mask, options=BackgroundOptions(box=64))
    assert np.abs(bg.evaluate() - 10.0).max() < 0.15
    assert bg.mesh.dtype == np.float32


def test_all_masked_says_so():
    image = np.zeros((64, 64), np.float32)
    with pytest.raises(NoDataError, match="background cannot be estimated"):
        estimate_background(image, np.full(image.shape, int(MaskPlane.NO_DATA), np.int32))


def test_constant_image_is_exact():
    image = np.full((100, 90), 7.25, np.float32)
    bg = estimate_background(
        image, np.zeros(image.shape, np.int32), options=BackgroundOptions(box=30)
    )
    np.testing.assert_allclose(bg.evaluate(), 7.25, rtol=1e-6)
    assert (bg.rms == 0).all()


def test_small_image_has_one_box():
    image = np.full((10, 12), 3.0, np.float32)
    bg = estimate_background(image, np.zeros(image.shape, np.int32))
    assert bg.mesh.shape == (1, 1)
    assert (bg.evaluate() == 3.0).all()


def test_list_adds_and_refuses_other_shapes():
    a = Background(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), (10, 10), 5)
    b = Background(np.full((1, 1), 2.0, np.float32), np.ones((1, 1), np.float32), (10, 10), 10)
    both = BackgroundList([a])
    both.append(b)
    np.testing.assert_allclose(both.evaluate(), 3.0)
    with pytest.raises(ValueError, match="cannot be added"):
        both.append(Background(a.mesh, a.rms, (5, 5), 5))


def test_options_are_checked():
    with pytest.raises(ConfigError, match="box must be >= 4 pixel; got 1"):
        BackgroundOptions(box=1)

"""Combined calibration frames: oracle, noise, outliers, memory, scales."""

import numpy as np
import pytest

from skymill.data.errors import DataError, NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.detrend.combine import (
    CombineOptions,
    combine_bias,
    combine_flat,
    combine_frames,
    combine_fringe,
    combine_sky,
    robust_level,
    solve_flat_scales,
)

SHAPE = (64, 48)


def frame(image, variance=1.0, unit="adu"):
    image = np.asarray(image, np.float32)
    return PixelPlanes(
        image.copy(), np.full(image.shape, variance, np.float32),
        np.zeros(image.shape, np.int32), unit=unit,
    )  # fmt: skip


def test_mean_against_numpy_and_its_variance():
    rng = np.random.default_rng(1)
    images = rng.normal(10, 2, (7, *SHAPE)).astype(np.float32)
    frames = [frame(i, 4.0) for i in images]
    frames[2].mask[5, 5] |= int(MaskPlane.SAT)
    out = combine_bias(iter(frames), 7, options=CombineOptions(clip=50.0))
    expected = images.astype(float).mean(axis=0)
    expected[5, 5] = np.delete(images[:, 5, 5], 2).astype(float).mean()
    np.testing.assert_allclose(out.image, expected, rtol=1e-6)
    np.testing.assert_allclose(out.variance[0], 4.0 / 7, rtol=1e-6)
    np.testing.assert_allclose(out.variance[5, 5], 4.0 / 6, rtol=1e-6)
    assert out.unit == "adu"


def test_outliers_and_integers_do_not_matter():
    rng = np.random.default_rng(2)
    # Digitised frames: the robust scatter alone would be zero for many pixels.
    images = np.rint(rng.normal(0, 0.6, (9, *SHAPE)))
    frames = [frame(i, 0.6**2 + 1 / 12) for i in images]
    clean = combine_frames(frames, 9)
    frames[4].image[10:20, 10:20] += 5000
    dirty = combine_frames(frames, 9)
    np.testing.assert_allclose(
        dirty.image[10:20, 10:20].mean(), clean.image[10:20, 10:20].mean(), atol=0.1
    )
    # Every value of a Gaussian within 4 sigma stays: the variance is that of the mean of nine.
    assert abs(clean.image.std() / np.sqrt((0.36 + 1 / 12) / 9) - 1) < 0.05
    assert (dirty.variance[10:20, 10:20] > clean.variance[0, 0] * 0.999).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_frames(n):
    frames = [frame(np.full(SHAPE, float(k))) for k in range(n)]
    out = combine_frames(frames, n)
    np.testing.assert_allclose(out.image, (n - 1) / 2)


def test_pixel_without_a_frame_is_bad():
    frames = [frame(np.ones(SHAPE)) for _ in range(3)]
    for f in frames:
        f.mask[3, 4] |= int(MaskPlane.BAD)
        f.image[7, 7] = np.nan
    out = combine_frames(frames, 3)
    assert out.mask[3, 4] == out.mask[7, 7] == int(MaskPlane.BAD)
    assert np.isfinite(out.image).all()
    assert np.count_nonzero(out.mask) == 2


def test_small_memory_gives_the_same():
    rng = np.random.default_rng(3)
    frames = [frame(rng.normal(0, 1, SHAPE)) for _ in range(6)]
    a = combine_frames(frames, 6)
    b = combine_frames(frames, 6, options=CombineOptions(memory_limit=2e-5))
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.variance, b.variance)


def test_bad_input_has_a_sentence():
    with pytest.raises(NoDataError, match="at least 3"):
        combine_frames([], 0, options=CombineOptions(min_frames=3))
    with pytest.raises(DataError, match="scale of frame 0"):
        combine_frames([frame(np.ones(SHAPE))], 1, scales=[0.0])
    with pytest.raises(DataError, match="announced"):
        combine_frames([frame(np.ones(SHAPE)), frame(np.ones((3, 3)))], 2)
    with pytest.raises(DataError, match="is it a flat"):
        solve_flat_scales({(1, 1): -3.0})


def test_scales_split_into_exposure_and_detector():
    truth_e, truth_d = {10: 2e4, 11: 1.5e4, 12: 3e4}, {1: 1.2, 2: 0.9, 5: 0.9}
    levels = {(e, d): a * b for e, a in truth_e.items() for d, b in truth_d.items()}
    del levels[11, 2]  # A CCD may be absent.
    scales = solve_flat_scales(levels)
    for e, a in truth_e.items():
        assert scales.exposure[e] == pytest.approx(a, rel=1e-10)
    for d, b in truth_d.items():
        assert scales.detector[d] == pytest.approx(b, rel=1e-10)
    assert scales.rms < 1e-10


def test_flat_keeps_the_relative_response_and_has_the_right_noise():
    rng = np.random.default_rng(4)
    response = {1: 1.1, 2: 0.9}
    field = 1 + 0.2 * np.sin(np.arange(SHAPE[1]) / 9)
    lamps = [20000.0, 24000.0, 18000.0, 21000.0, 26000.0]
    frames, levels = {}, {}
    for d, r in response.items():
        frames[d] = []
        for k, lamp in enumerate(lamps):
            image = rng.poisson(lamp * r * field, SHAPE).astype(np.float32)
            frames[d].append(frame(image, unit="electron"))
            frames[d][-1].variance[:] = image
            levels[k, d] = robust_level(frames[d][-1])
    scales = solve_flat_scales(levels)
    for d, r in response.items():
        frames[d][0].image[5, 5] = 0  # a dead pixel in all frames
        for f in frames[d]:
            f.image[5, 5] = 10.0
            f.image[6, 6] = 1e6
        flat = combine_flat(iter(frames[d]), list(scales.exposure.values()))
        median = np.median(field)
        good = flat.mask == 0
        pulls = ((flat.image - r * field / median) / np.sqrt(flat.variance))[good]
        # Level from every pixel: 0.1 % of 1/sqrt(3072 * 2e4); clipping at 4 sigma takes nothing.
        assert abs(pulls.mean()) < 0.35
        assert abs(pulls.std() - 1) < 0.06
        assert flat.mask[5, 5] & int(MaskPlane.FLAT_LOW)
        assert flat.mask[6, 6] & int(MaskPlane.BAD)
        assert flat.unit == ""


def test_fringe_pattern_comes_back():
    rng = np.random.default_rng(5)
    ny, nx = 256, 256
    y, x = np.mgrid[:ny, :nx]
    pattern = 0.02 * np.sin(x / 5.0 + y / 9.0)
    frames = []
    for k in range(9):
        sky = 3000.0 * (1 + 0.1 * k) * (1 + 0.05 * x / nx)
        truth = sky * (1 + pattern)
        for _ in range(20):
            xc, yc = rng.uniform(0, nx), rng.uniform(0, ny)
            truth = truth + 2e3 * np.exp(-0.5 * ((x - xc) ** 2 + (y - yc) ** 2) / 4)
        image = rng.poisson(truth).astype(np.float32)
        frames.append(frame(image, unit="electron"))
        frames[-1].variance[:] = image
    fringe = combine_fringe(iter(frames), 9, width=128)
    slope = np.sum(fringe.image * pattern) / np.sum(pattern**2)
    # The boxes of the smooth sky take a little of the pattern away.
    assert abs(slope - 1) < 0.03
    residual = fringe.image - pattern
    # Photon noise of nine frames is 0.0056.
    assert residual.std() < 0.008


def test_sky_frame_is_the_shape_of_the_sky():
    rng = np.random.default_rng(6)
    ny, nx = 256, 128
    shape = 1 + 0.1 * np.linspace(-1, 1, nx)
    frames, scales = [], []
    for level in (1000.0, 1500.0, 1200.0):
        image = rng.poisson(level * shape, (ny, nx)).astype(np.float32)
        frames.append(frame(image, unit="electron"))
        frames[-1].variance[:] = image
        scales.append(level)
    sky = combine_sky(iter(frames), scales)
    assert sky.shape == (8, 4)
    expected = shape.reshape(4, 32).mean(axis=1)
    # 1024 pixels x 3 frames: 0.05 %
    np.testing.assert_allclose(sky.image, np.broadcast_to(expected, (8, 4)), rtol=0.003)

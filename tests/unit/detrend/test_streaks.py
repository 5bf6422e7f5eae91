"""Trails of satellites on single frames: found, masked, and nothing else taken for one."""

import numpy as np
import pytest

from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane, is_set
from skymill.detrend._streak_kernels import mark_band, sum_lines
from skymill.detrend.streaks import find_streaks, mask_streaks

SHAPE = (1024, 2048)
NOISE = 10.0
PSF = 1.7


def add_spot(image, x, y, flux, sigma=PSF):
    """A Gaussian of a flux over the noise of a pixel."""
    half = int(6 * sigma)
    x0, y0 = max(0, int(x) - half), max(0, int(y) - half)
    part = image[y0 : int(y) + half + 1, x0 : int(x) + half + 1]
    yy, xx = np.indices(part.shape)
    d2 = (xx + x0 - x) ** 2 + (yy + y0 - y) ** 2
    part += flux * NOISE * np.exp(-0.5 * d2 / sigma**2) / (2 * np.pi * sigma**2)


def make_frame(seed, n_source=1500):
    """Noise with a field of sources: (planes, x, y) with the counts of a cluster field."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0.0, NOISE, SHAPE)
    x, y = rng.uniform(0, SHAPE[1], n_source), rng.uniform(0, SHAPE[0], n_source)
    for one in zip(x, y, np.minimum(30.0 * rng.random(n_source) ** (-1 / 1.1), 3e5), strict=True):
        add_spot(image, *one)
    return PixelPlanes(
        image.astype(np.float32),
        np.full(SHAPE, NOISE**2, np.float32),
        np.zeros(SHAPE, np.int32),
        unit="electron",
    )


def distances(x, y, angle):
    yy, xx = np.indices(SHAPE)
    return (xx - x) * np.sin(np.radians(angle)) - (yy - y) * np.cos(np.radians(angle))


def add_trail(planes, x, y, angle, peak, sigma):
    d = distances(x, y, angle)
    planes.image += (peak * NOISE * np.exp(-0.5 * (d / sigma) ** 2)).astype(np.float32)


def test_sums_along_lines_are_those_of_a_loop():
    """Zero to three steps to the side over four rows, with Brady's halves rounded down first."""
    pixels = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    work = np.empty((2, 4, 10), np.float32)
    for flip in (False, True):
        sums = sum_lines(pixels, flip, work[0], work[1])
        seen = pixels[:, ::-1] if flip else pixels
        wide = np.concatenate([np.zeros((4, 4)), seen, np.zeros((4, 4))], axis=1)
        for shift, steps in enumerate([(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 2), (0, 1, 2, 3)]):
            loop = [sum(wide[y, i + steps[y]] for y in range(4)) for i in range(10)]
            np.testing.assert_allclose(sums[shift], loop, atol=1e-5)


def test_a_band_holds_the_pixels_near_a_line():
    rng = np.random.default_rng(2)
    yy, xx = np.indices((60, 80))
    for _ in range(20):
        x0, y0, x1, y1 = rng.uniform(-20, 90, 4)
        length = np.hypot(x1 - x0, y1 - y0)
        along = ((xx - x0) * (x1 - x0) + (yy - y0) * (y1 - y0)) / length
        off = ((xx - x0) * (y1 - y0) - (yy - y0) * (x1 - x0)) / length
        inside = (np.abs(off) <= 4.0) & (along >= -0.5) & (along <= length + 0.5)
        mask = np.zeros((60, 80), np.int32)
        assert mark_band(mask, np.int32(4), x0, y0, x1, y1, 4.0) == inside.sum()
        np.testing.assert_array_equal(mask == 4, inside)


@pytest.mark.parametrize(
    ("peak", "sigma", "angle"),
    [
        (0.35, PSF, 25.0),
        (0.6, PSF, 100.0),
        (3.0, PSF, 152.0),
        (30.0, PSF, 7.0),
        (0.3, 6.0, 64.0),
        (30.0, 10.0, 165.6),
    ],
)
def test_a_trail_is_masked_as_far_as_it_is_seen(peak, sigma, angle):
    planes = make_frame(3)
    add_trail(planes, 1000.0, 480.0, angle, peak, sigma)
    before = planes.image.copy()
    found = mask_streaks(planes)
    assert len(found) == 1
    masked = is_set(planes.mask, MaskPlane.STREAK)
    light = peak * np.exp(-0.5 * (distances(1000.0, 480.0, angle) / sigma) ** 2)
    # The limit is 0.05 sigma and the end of the profile is known to the noise of the mean.
    assert light[~masked].max() < max(0.12, 0.4 * peak if peak < 0.4 else 0.0)
    # The trail is covered, and not much more than 3.5 of its sigmas and some pixels.
    assert masked[light > 0.5 * peak].mean() > 0.995
    wide = np.abs(distances(1000.0, 480.0, angle)) > 4.5 * sigma + 6.0
    assert masked[wide].sum() == 0
    assert found[0].peak == pytest.approx(peak, rel=0.2)
    np.testing.assert_array_equal(planes.image, before)


def test_two_trails_that_cross_are_two():
    planes = make_frame(4)
    add_trail(planes, 900.0, 300.0, 20.0, 5.0, PSF)
    add_trail(planes, 900.0, 500.0, 33.0, 0.8, PSF)
    assert len(mask_streaks(planes)) == 2


def test_a_trail_that_ends_in_the_frame_is_masked_to_its_end():
    planes = make_frame(5)
    before = planes.image.copy()
    add_trail(planes, 900.0, 500.0, 10.0, 3.0, PSF)
    planes.image[:, 1400:] = before[:, 1400:]
    (one,) = mask_streaks(planes)
    masked = is_set(planes.mask, MaskPlane.STREAK)
    assert masked[:, 1560:].sum() == 0
    assert max(one.x0, one.x1) == pytest.approx(1400, abs=130)


@pytest.mark.parametrize("seed", range(6, 12))
def test_a_field_of_sources_has_no_trail(seed):
    planes = make_frame(seed, n_source=3000)
    assert find_streaks(planes) == []


def test_what_looks_like_a_trail_is_none():
    """Spikes of bright stars, edge-on galaxies, chains of galaxies, bleed trails, bad columns."""
    planes = make_frame(12)
    rng = np.random.default_rng(13)
    yy, xx = np.indices(SHAPE)
    for x, y, reach in ((500, 500, 60.0), (1500, 300, 120.0), (1100, 800, 90.0)):
        add_spot(planes.image, x, y, 3e6, sigma=3.0)
        for angle in (41.0, 131.0):
            d = distances(x, y, angle)
            along = (xx - x) * np.cos(np.radians(angle)) + (yy - y) * np.sin(np.radians(angle))
            light = 60.0 * np.exp(-np.abs(along) / reach - 0.5 * (d / 2.0) ** 2)
            planes.image += (NOISE * light).astype(np.float32)
        planes.mask[:, x - 2 : x + 3][np.abs(yy[:, :5] - y) < 300] |= int(MaskPlane.SAT)
        planes.image[:, x - 4 : x + 5][np.abs(yy[:, :9] - y) < 320] += 200.0 * NOISE
    for _ in range(12):
        x, y, angle = rng.uniform(100, 1900), rng.uniform(100, 900), rng.uniform(0, 180)
        d = distances(x, y, angle)
        along = (xx - x) * np.cos(np.radians(angle)) + (yy - y) * np.sin(np.radians(angle))
        planes.image += (
            NOISE * 15.0 * np.exp(-np.abs(along) / 25.0 - 0.5 * (d / 2.5) ** 2)
        ).astype(np.float32)
    for k in range(14):  # seven galaxies in a row, twice
        add_spot(planes.image, 300 + 70 * (k % 7), 200 + 45 * k + 9 * (k % 3), 2000.0, sigma=3.0)
    planes.image[:, 1700] += 3.0 * NOISE
    planes.image[:, 1024:] += 0.3 * NOISE
    planes.image[640, :] -= 4.0 * NOISE
    assert find_streaks(planes) == []


def test_small_empty_and_masked_images_have_none():
    for shape in ((10, 10), (64, 64), (40, 700)):
        planes = make_frame(14, n_source=0)
        planes = PixelPlanes(
            np.ascontiguousarray(planes.image[: shape[0], : shape[1]]),
            np.ascontiguousarray(planes.variance[: shape[0], : shape[1]]),
            np.full(shape, int(MaskPlane.NO_DATA), np.int32),
            unit="electron",
        )
        assert find_streaks(planes) == []
        planes.mask[:] = 0
        assert find_streaks(planes) == []


def test_pixels_that_are_no_numbers_do_no_harm():
    planes = make_frame(15, n_source=0)
    add_trail(planes, 900.0, 500.0, 10.0, 3.0, PSF)
    planes.image[200:230, 300:900] = np.nan
    planes.variance[600:630] = np.inf
    planes.mask[200:230, 300:900] = int(MaskPlane.UNMASKEDNAN)
    assert len(find_streaks(planes)) == 1

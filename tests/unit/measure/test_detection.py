import numpy as np
import pytest
from scipy.ndimage import correlate1d

from skymill.data.errors import ConfigError, DataError
from skymill.data.masks import MaskPlane
from skymill.measure.detection import DetectionOptions, _smooth, detect_sources, sky_positions


def add_gaussian(image, x, y, flux, sigma):
    v, u = np.mgrid[: image.shape[0], : image.shape[1]]
    image += flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 2 / sigma**2)


def noisy(rng, shape=(200, 220), sigma=1.0):
    image = rng.normal(0, sigma, shape)
    return image, np.full(shape, sigma**2, np.float32), np.zeros(shape, np.int32)


def test_smoothing_equals_scipy_and_leaves_out_bad_pixels():
    rng = np.random.default_rng(4)
    image, variance, mask = noisy(rng, (60, 71))
    image = image.astype(np.float32)
    variance *= rng.uniform(0.5, 2, variance.shape).astype(np.float32)
    mask[10:12, 20:30] = MaskPlane.BAD
    mask[30, 30] = MaskPlane.CR | MaskPlane.INTRP
    image[40, 40] = np.nan
    smooth, noise, cover = _smooth(image, variance, mask, 1.8, 3.5)
    half = 7
    k = np.exp(-0.5 * (np.arange(-half, half + 1) / 1.8) ** 2)
    k /= k.sum()
    good = np.isfinite(image)
    good[10:12, 20:30] = False

    def both(a, taps):
        a = np.where(good, a, 0.0).astype(float)
        return correlate1d(correlate1d(a, taps, 0, mode="constant"), taps, 1, mode="constant")

    # float32 sums of 15 x 15 terms.
    np.testing.assert_allclose(smooth, both(image, k), atol=2e-6)
    np.testing.assert_allclose(noise, np.sqrt(both(variance, k**2)), rtol=1e-5)
    np.testing.assert_allclose(cover, both(np.ones_like(image), k), atol=1e-6)


def test_noise_alone_gives_the_rate_of_a_gaussian():
    rng = np.random.default_rng(5)
    image, variance, mask = noisy(rng, (600, 600))
    found = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=2.0)
    # About 600**2/(4 pi 2**2) = 7e3 independent patches, 3e-7 each (times ~10 for peaks).
    assert len(found) <= 1


def test_finds_faint_sources_at_their_place_and_significance():
    rng = np.random.default_rng(6)
    image, variance, mask = noisy(rng, (300, 300))
    positions = [(40.3 + 50 * i, 40.7 + 50 * j) for i in range(5) for j in range(5)]
    sigma = 2.0
    # S/N = F / sqrt(4 pi sigma**2 V) for a matched filter.
    flux = 12.0 * np.sqrt(4 * np.pi * sigma**2)
    for x, y in positions:
        add_gaussian(image, x, y, flux, sigma)
    found = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=sigma)
    assert len(found) == 25
    distance = [min(np.hypot(found.x - x, found.y - y)) for x, y in positions]
    assert max(distance) < 1.2
    assert found.significance.mean() == pytest.approx(12.0, abs=0.7)  # sem 0.2, peak bias 0.3
    assert (found.peaks_in_footprint == 1).all()
    assert found.labels.max() == 25
    assert (
        found.labels[np.round(found.y).astype(int), np.round(found.x).astype(int)]
        == found.footprint
    ).all()


def test_two_stars_are_one_footprint_with_two_peaks():
    image, variance, mask = np.zeros((80, 80)), np.ones((80, 80), np.float32), None
    mask = np.zeros((80, 80), np.int32)
    add_gaussian(image, 35.0, 40.0, 2000.0, 2.0)
    add_gaussian(image, 44.0, 40.0, 1000.0, 2.0)
    found = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=2.0)
    assert found.labels.max() == 1
    # The slope of the other star, 2 exp(-9**2/16) 9/8 per pixel, over the curvature
    # 1/8 moves the fainter vertex by 0.11 pixel; smoothing and sampling add as much again.
    np.testing.assert_allclose(found.x, [35.0, 44.0], atol=0.2)
    np.testing.assert_allclose(found.y, 40.0, atol=0.02)
    assert found.peak_value[0] > found.peak_value[1]
    assert found.boxes.tolist()[0][0] < 35 - 4
    assert found.area[0] == np.count_nonzero(found.labels)


def test_noise_on_a_bright_galaxy_makes_no_peaks():
    rng = np.random.default_rng(7)
    image, variance, mask = noisy(rng, (200, 200))
    add_gaussian(image, 100.0, 100.0, 4e5, 15.0)
    found = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=2.0)
    assert len(found) == 1


def test_negative_sources_and_marks():
    image = np.zeros((80, 90))
    add_gaussian(image, 20.0, 30.0, 500.0, 2.0)
    add_gaussian(image, 60.0, 40.0, -500.0, 2.0)
    variance, mask = np.ones(image.shape, np.float32), np.zeros(image.shape, np.int32)
    mask[:] = MaskPlane.DETECTED
    found = detect_sources(
        image.astype(np.float32),
        variance,
        mask,
        psf_sigma=2.0,
        options=DetectionOptions(polarity="both"),
    )
    found.mark(mask)
    assert mask[30, 20] == MaskPlane.DETECTED
    assert mask[40, 60] == MaskPlane.DETECTED_NEGATIVE
    assert mask[5, 5] == 0
    assert len(found) == 1


def test_footprint_grows_by_a_disk():
    image = np.zeros((61, 61), np.float32)
    image[30, 30] = 1000.0
    ones, mask = np.ones_like(image), np.zeros(image.shape, np.int32)
    options = DetectionOptions(threshold=5.0, grow=3.0)
    small = detect_sources(image, ones, mask, psf_sigma=2.0, options=DetectionOptions(grow=0.0))
    grown = detect_sources(image, ones, mask, psf_sigma=2.0, options=options)
    v, u = np.mgrid[:61, :61]
    seeds = np.argwhere(small.labels > 0)
    distance = np.min([(v - a) ** 2 + (u - b) ** 2 for a, b in seeds], axis=0)
    np.testing.assert_array_equal(grown.labels > 0, distance <= 36)


def test_dynamic_threshold_follows_the_real_noise():
    rng = np.random.default_rng(8)
    image, variance, mask = noisy(rng, (300, 300), sigma=2.0)
    image += 0.5
    add_gaussian(image, 100.0, 100.0, 5000.0, 2.0)
    variance /= 4.0  # the plane claims half of the noise
    found = detect_sources(
        image.astype(np.float32),
        variance,
        mask,
        psf_sigma=2.0,
        options=DetectionOptions(dynamic=True),
    )
    assert found.noise_factor == pytest.approx(2.0, rel=0.06)
    assert found.offset == pytest.approx(0.5, abs=0.05)
    assert len(found) == 1
    fooled = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=2.0)
    assert len(fooled) > 5


def test_a_saturated_star_is_one_source_and_blank_pixels_are_none():
    image = np.zeros((120, 120))
    add_gaussian(image, 60.0, 60.0, 1e6, 3.0)
    image = np.minimum(image, 5000.0).astype(np.float32)
    mask = np.where(image >= 5000, int(MaskPlane.SAT), 0).astype(np.int32)
    variance = np.ones_like(image)
    found = detect_sources(image, variance, mask, psf_sigma=2.0)
    assert len(found) == 1
    mask[:] = MaskPlane.NO_DATA
    assert len(detect_sources(image, variance, mask, psf_sigma=2.0)) == 0


def test_nothing_is_found_beyond_the_edge_of_the_data():
    rng = np.random.default_rng(13)
    image, variance, mask = noisy(rng, (300, 300))
    image -= 0.3
    mask[:, :60] = mask[:, 250:] = mask[:50] = mask[260:] = MaskPlane.NO_DATA
    image[mask > 0], variance[mask > 0] = 0.0, 0.0
    for x, y in ((61.0, 150.0), (248.0, 52.0), (150.0, 150.0)):
        add_gaussian(image, x, y, 400.0, 2.0)
    image[mask > 0] = 0.0
    found = detect_sources(
        image.astype(np.float32),
        variance,
        mask,
        psf_sigma=2.0,
        options=DetectionOptions(dynamic=True),
    )
    assert found.offset == pytest.approx(-0.3, abs=0.05)
    assert len(found) == 3
    ix, iy = np.rint(found.x).astype(int), np.rint(found.y).astype(int)
    assert (mask[iy, ix] == 0).all()


def test_sky_positions_are_free():
    rng = np.random.default_rng(9)
    image, variance, mask = noisy(rng, (200, 200))
    add_gaussian(image, 100.0, 100.0, 5000.0, 4.0)
    found = detect_sources(image.astype(np.float32), variance, mask, psf_sigma=2.0)
    x, y = sky_positions(found, mask, count=300, radius=8.0, rng=rng)
    assert x.size == 300
    v, u = np.nonzero(found.labels)
    for a, b in zip(x, y, strict=True):
        assert np.min((u - a) ** 2 + (v - b) ** 2) > 64
    assert x.min() >= 8
    assert y.max() < 192


def test_bad_input():
    image = np.zeros((5, 5), np.float32)
    with pytest.raises(DataError, match="one shape"):
        detect_sources(image, image, np.zeros((4, 5), np.int32), psf_sigma=1.0)
    with pytest.raises(ConfigError, match=r"psf_sigma must be > 0 pixel; got -1\.0"):
        detect_sources(image, image, np.zeros((5, 5), np.int32), psf_sigma=-1.0)
    with pytest.raises(ConfigError, match="polarity"):
        DetectionOptions(polarity="up")


def test_faint_star_in_the_wings_of_a_bright_one():
    rng = np.random.default_rng(4)
    v, u = np.mgrid[:140, :140]
    wings = 4e5 * (1 + ((u - 60) ** 2 + (v - 70) ** 2) / 3.0**2) ** -1.7
    star = 60.0 * np.exp(-0.5 * ((u - 118.0) ** 2 + (v - 30.0) ** 2) / 1.6**2)
    image = (wings + star + rng.normal(0, 5.0, u.shape)).astype(np.float32)
    found = detect_sources(
        image,
        np.full(image.shape, 25.0, np.float32),
        np.zeros(image.shape, np.int32),
        psf_sigma=1.6,
        options=DetectionOptions(dynamic=True),
    )
    # The wings' own unevenness is not noise: that would hide a star of 70 sigma.
    assert found.noise_factor < 2.0
    assert (np.hypot(found.x - 118.0, found.y - 30.0) < 1.0).any()

"""Brighter-fatter, fringes and interpolation against oracles and closed forms."""

import numpy as np
import pytest
from scipy import ndimage

from skymill.data.errors import DataError, NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.detrend._brighter_fatter_kernels import convolve_small, lag_sums
from skymill.detrend.brighter_fatter import (
    BrighterFatterOptions,
    correct_brighter_fatter,
    flat_pair_covariance,
    kernel_from_covariance,
    solve_poisson,
)
from skymill.detrend.fringe import FringeOptions, fit_fringe_amplitude, subtract_fringe
from skymill.detrend.interpolate import interpolate_masked, prediction_weights


def make_kernel(half=4, strength=2e-7):
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return -strength / (1.0 + (x**2 + y**2)) ** 1.5


def displaced(truth, kernel):
    """The forward effect, written independently: charge flux through each pixel border."""
    potential = ndimage.convolve(truth, kernel, mode="nearest")
    out = truth.copy()
    flux = 0.25 * (truth[:, 1:] + truth[:, :-1]) * (potential[:, 1:] - potential[:, :-1])
    out[:, :-1] -= flux
    out[:, 1:] += flux
    flux = 0.25 * (truth[1:] + truth[:-1]) * (potential[1:] - potential[:-1])
    out[:-1] -= flux
    out[1:] += flux
    return out


def test_small_convolution_against_scipy():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (40, 33)).astype(np.float32)
    for half in (1, 4, 8):
        kernel = make_kernel(half, 1.0).astype(np.float32)
        out = np.empty_like(image)
        convolve_small(image, kernel, out)
        expected = ndimage.convolve(image.astype(float), kernel.astype(float), mode="nearest")
        np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)


def test_brighter_fatter_is_undone_and_flux_is_kept():
    y, x = np.mgrid[:61, :61]
    kernel = make_kernel()
    truth = 1e5 * np.exp(-0.5 * ((x - 30.3) ** 2 + (y - 29.8) ** 2) / 2.0**2) + 500.0
    measured = displaced(truth, kernel)
    image = measured.astype(np.float32)
    n = correct_brighter_fatter(image, kernel, options=BrighterFatterOptions(threshold=0.01))
    assert 2 <= n <= 10

    def width(a):
        a = a - 500.0
        return np.sum(a * ((x - 30.3) ** 2 + (y - 29.8) ** 2)) / np.sum(a)

    broadened = width(measured) - width(truth)
    assert broadened > 0.005  # The effect is there ...
    # ... and less than 1 % of it is left: the correction uses K * T to first order only.
    assert abs(width(image) - width(truth)) < 0.01 * broadened
    # Conserved by construction; float32 of 3721 pixels up to 1e5.
    assert abs(image.sum(dtype=float) - measured.sum()) < 1.0


def test_brighter_fatter_leaves_bad_pixels_alone():
    rng = np.random.default_rng(2)
    image = rng.normal(1000, 30, (40, 40)).astype(np.float32)
    mask = np.zeros((40, 40), np.int32)
    image[10, 10], mask[10, 10] = 1e7, int(MaskPlane.SAT)
    image[20, 20], mask[20, 20] = np.nan, int(MaskPlane.UNMASKEDNAN)
    before = image.copy()
    correct_brighter_fatter(image, make_kernel(), mask=mask)
    assert image[10, 10] == before[10, 10]
    assert np.isnan(image[20, 20])
    assert np.nanmax(np.abs(image - before)[mask == 0]) < 5.0
    with pytest.raises(DataError, match="square and odd"):
        correct_brighter_fatter(image, np.zeros((4, 4)))


def test_sums_at_lags_are_those_of_a_loop():
    rng = np.random.default_rng(2)
    used = (rng.random((13, 17)) > 0.2).astype(np.uint8)
    values = (rng.normal(size=used.shape) * used).astype(np.float32)
    products, counts = np.empty((4, 4)), np.empty((4, 4), np.int64)
    lag_sums(values, used, products, counts)
    for j in range(4):
        for i in range(4):
            for found, plane in ((products, values.astype(float)), (counts, used.astype(int))):
                low, high = plane[: 13 - j], plane[j:]
                both = (low[:, : 17 - i] * high[:, i:]).sum()
                both += (low[:, i:] * high[:, : 17 - i]).sum()
                assert found[j, i] == pytest.approx(both, abs=1e-4)


def test_kernel_from_flats_of_known_covariance():
    y, x = np.mgrid[-4:5, -4:5]
    kernel = -7e-7 * np.exp(-np.hypot(x, y) / 0.7)
    rng = np.random.default_rng(3)
    means, covariances = [], []
    for _ in range(6):
        level = 60000.0
        pair = [
            displaced(rng.poisson(level, (600, 600)).astype(float), kernel).astype(np.float32)
            for _ in range(2)
        ]
        usable = np.ones((600, 600), bool)
        usable[100:110] = False
        mean, covariance = flat_pair_covariance(*pair, usable=usable, max_lag=4)
        means.append(mean)
        covariances.append(covariance)
    laplacian = ndimage.laplace(np.pad(kernel, 1), mode="constant")[1:-1, 1:-1]
    expected = -laplacian[4:, 4:] * 60000.0**2
    stacked = np.mean(covariances, axis=0)
    # Covariance noise: level / sqrt(6 x 3.5e5 pixels) = 41; four or two signs average.
    assert abs(stacked[0, 1] - expected[0, 1]) < 150
    assert abs(stacked[1, 0] - expected[1, 0]) < 150
    assert expected[0, 1] > 300
    assert stacked[0, 0] < means[0]  # Variance deficit.
    found = kernel_from_covariance(means, covariances)
    # The noise of the covariances above, 41 / 6e4^2 = 1.1e-8 each, times the Green's function.
    assert abs(found[4, 4] - kernel[4, 4]) < 0.15 * 7e-7
    assert abs(found[4, 5] - kernel[4, 5]) < 0.1 * 7e-7
    with pytest.raises(NoDataError):
        kernel_from_covariance([], [])


def test_poisson_solution_has_the_laplacian():
    rng = np.random.default_rng(4)
    source = rng.normal(0, 1, (9, 9))
    potential = solve_poisson(source)
    laplacian = ndimage.laplace(np.pad(potential, 1), mode="constant")[1:-1, 1:-1]
    np.testing.assert_allclose(laplacian, source, atol=1e-12)


def test_fringe_amplitude_under_stars_and_gradient():
    rng = np.random.default_rng(5)
    ny, nx = 512, 512
    y, x = np.mgrid[:ny, :nx]
    pattern = np.sin(x / 6.0 + 3 * np.sin(y / 60.0)) * 0.02
    zeros = np.zeros((ny, nx), np.int32)
    fringe = PixelPlanes(
        pattern.astype(np.float32), np.ones((ny, nx), np.float32), zeros.copy(), unit=""
    )
    image = 2000.0 + 0.3 * x + 1800.0 * pattern + rng.normal(0, 45, (ny, nx))
    for _ in range(100):
        xc, yc = rng.uniform(0, nx), rng.uniform(0, ny)
        image = image + 10 ** rng.uniform(2, 4.5) * np.exp(
            -0.5 * ((x - xc) ** 2 + (y - yc) ** 2) / 5
        )
    planes = PixelPlanes(image.astype(np.float32), np.full((ny, nx), 2000, np.float32), zeros)
    planes.image[3, 3], planes.mask[3, 3] = np.nan, int(MaskPlane.BAD)
    amplitude, error = fit_fringe_amplitude(planes, fringe)
    assert abs(amplitude - 1800) < 5 * error + 10  # Stars bias it by less than 0.5 %.
    assert error < 30
    before = planes.image.copy()
    assert subtract_fringe(planes, fringe) == amplitude
    np.testing.assert_allclose(
        before[4:] - planes.image[4:], amplitude * pattern[4:], rtol=0, atol=1e-2
    )
    flat = PixelPlanes(np.ones((ny, nx), np.float32), fringe.variance, zeros.copy(), unit="")
    assert fit_fringe_amplitude(planes, flat)[0] == 0.0
    assert subtract_fringe(planes, flat, options=FringeOptions(bin_size=16)) == 0.0


def planes_of(image):
    image = np.asarray(image, np.float32)
    return PixelPlanes(image.copy(), np.full_like(image, 4.0), np.zeros(image.shape, np.int32))


def test_interpolation_weights_are_symmetric_and_sum_to_one():
    weights = prediction_weights(1.6)
    for gap in range(1, 6):
        for place in range(gap):
            w = weights[gap - 1, place]
            assert w.sum() == pytest.approx(1.0, abs=1e-6)
            np.testing.assert_allclose(w, weights[gap - 1, gap - 1 - place][::-1], atol=1e-6)


def test_interpolation_of_a_constant_and_of_a_star():
    planes = planes_of(np.full((30, 30), 7.0))
    planes.mask[:, 10:12] = int(MaskPlane.BAD)
    planes.mask[20, :] |= int(MaskPlane.SAT)
    planes.image[planes.mask != 0] = 1e6
    n = interpolate_masked(planes, MaskPlane.BAD | MaskPlane.SAT)
    assert n == np.count_nonzero(planes.mask & int(MaskPlane.INTRP))
    crossing = (planes.mask & int(MaskPlane.INTRP)) == 0
    crossing &= planes.mask != 0
    # Where a full row and a full column cross nothing is near; all else is restored.
    assert not crossing[:20].any()
    np.testing.assert_allclose(planes.image[planes.mask & int(MaskPlane.INTRP) != 0], 7.0)
    np.testing.assert_allclose(planes.variance, 4.0)

    y, x = np.mgrid[:31, :31]
    star = 1000 * np.exp(-0.5 * ((x - 15.2) ** 2 + (y - 14.7) ** 2) / 1.6**2)
    planes = planes_of(star)
    planes.mask[:, 15] = int(MaskPlane.BAD)
    planes.image[:, 15] = 0
    interpolate_masked(planes, MaskPlane.BAD, psf_sigma=1.6)
    # A bad column through the core of a star comes back within 3 % of the peak.
    assert np.abs(planes.image - star).max() < 30


def test_interpolation_at_edges_and_of_nothing():
    planes = planes_of(np.arange(25.0).reshape(5, 5))
    planes.mask[:, 0] = int(MaskPlane.BAD)
    planes.image[:, 0] = -999
    interpolate_masked(planes, MaskPlane.BAD)
    np.testing.assert_allclose(planes.image[:, 0], planes.image[:, 1])
    planes = planes_of(np.ones((4, 4)))
    planes.mask[:] = int(MaskPlane.BAD)
    assert interpolate_masked(planes, MaskPlane.BAD) == 0

import galsim
import numpy as np
import pytest

from skymill.data.errors import DataError
from skymill.data.flags import MeasureFlag
from skymill.data.masks import MaskPlane
from skymill.measure.moments import MomentsOptions, adaptive_moments, adaptive_moments_stamps


def gaussian(shape, x, y, ixx, iyy, ixy, flux):
    v, u = np.mgrid[: shape[0], : shape[1]]
    det = ixx * iyy - ixy**2
    rho2 = (iyy * (u - x) ** 2 - 2 * ixy * (u - x) * (v - y) + ixx * (v - y) ** 2) / det
    return flux / (2 * np.pi * np.sqrt(det)) * np.exp(-0.5 * rho2)


def planes(image, sigma=1.0):
    return (
        image.astype(np.float32),
        np.full(image.shape, sigma**2, np.float32),
        np.zeros(image.shape, np.int32),
    )


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.31, -0.47)])
@pytest.mark.parametrize("shape", [(4.0, 4.0, 0.0), (9.0, 4.0, 2.0), (3.0, 6.0, -1.5)])
def test_gaussian_is_exact(shift, shape):
    x, y = 40.0 + shift[0], 42.0 + shift[1]
    image = gaussian((81, 85), x, y, *shape, 1000.0)
    m = adaptive_moments(*planes(image), x=[40.4], y=[41.7], sigma=2.0)
    # float32 pixels and the cut at 5 sigma (exp(-25)).
    np.testing.assert_allclose([m.x[0], m.y[0]], [x, y], atol=2e-5)
    np.testing.assert_allclose([m.ixx[0], m.iyy[0], m.ixy[0]], shape, rtol=3e-5, atol=1e-4)
    assert m.flux[0] == pytest.approx(1000.0, rel=3e-5)
    assert m.rho4[0] == pytest.approx(2.0, rel=2e-4)
    assert m.flags[0] == 0


def test_agrees_with_galsim_hsm():
    rng = np.random.default_rng(11)
    stamps, truth = [], []
    for _ in range(40):
        profile = galsim.Sersic(n=rng.uniform(0.6, 3.5), half_light_radius=rng.uniform(1.5, 4.0))
        profile = profile.shear(g=rng.uniform(0, 0.5), beta=rng.uniform(0, 180) * galsim.degrees)
        profile = galsim.Convolve(profile, galsim.Moffat(beta=3.0, fwhm=4.0))
        image = profile.shift(*rng.uniform(-0.5, 0.5, 2)).drawImage(nx=61, ny=61, scale=1.0)
        hsm = image.FindAdaptiveMom()
        stamps.append(image.array.copy())
        truth.append(
            (
                hsm.moments_centroid.x - 1,
                hsm.moments_centroid.y - 1,
                hsm.observed_e1,
                hsm.observed_e2,
                hsm.moments_sigma,
                hsm.moments_rho4,
            )
        )
    m = adaptive_moments_stamps(np.array(stamps), sigma=2.0)
    ours = np.stack([m.x, m.y, m.e1, m.e2, m.sigma, m.rho4], axis=1)
    assert (m.flags == 0).all()
    # Both stop at a relative change of 1e-6; the edge of the weight falls on other pixels.
    np.testing.assert_allclose(ours, truth, atol=1e-4)


def test_errors_have_unit_pulls():
    rng = np.random.default_rng(12)
    shape, n = (5.0, 4.0, 1.0), 900
    stamp = gaussian((41, 41), 20.2, 19.9, *shape, 100.0 * np.sqrt(4 * np.pi * 4.36))
    big = np.zeros((30 * 41, 30 * 41))
    x, y = [], []
    for j in range(30):
        for i in range(30):
            big[41 * j : 41 * j + 41, 41 * i : 41 * i + 41] += stamp
            x.append(41 * i + 20.2)
            y.append(41 * j + 19.9)
    x, y = np.array(x), np.array(y)
    big += rng.normal(0, 2.0, big.shape)
    m = adaptive_moments(*planes(big, 2.0), x=x, y=y, sigma=2.0)
    assert (m.flags == 0).all()
    truth = 100.0 * np.sqrt(4 * np.pi * 4.36)
    pulls = {
        "x": (m.x - x) / m.x_err,
        "y": (m.y - y) / m.y_err,
        "ixx": (m.ixx - 5.0) / m.ixx_err,
        "iyy": (m.iyy - 4.0) / m.iyy_err,
        "ixy": (m.ixy - 1.0) / m.ixy_err,
        "flux": (m.flux - truth) / m.flux_err,
    }
    for name, pull in pulls.items():
        # 900 pulls: the width is known to 2.4 %, the mean to 0.033.
        assert 0.9 < pull.std() < 1.1, name
        assert abs(pull.mean()) < 0.15, name
    assert n == x.size


def test_flags():
    image = gaussian((60, 60), 30.0, 30.0, 4.0, 4.0, 0.0, 1000.0)
    image += gaussian((60, 60), 2.0, 50.0, 4.0, 4.0, 0.0, 1000.0)
    image -= gaussian((60, 60), 50.0, 10.0, 4.0, 4.0, 0.0, 1000.0)
    image, variance, mask = planes(image)
    mask[30, 33] = MaskPlane.SAT
    m = adaptive_moments(
        image,
        variance,
        mask,
        x=[30.0, 2.0, 50.0, -20.0, 30.0],
        y=[30.0, 50.0, 10.0, 5.0, 44.0],
        sigma=2.0,
        options=MomentsOptions(max_shift=3.0),
    )
    assert m.flags[0] & MeasureFlag.SATURATED
    assert m.flags[0] & MeasureFlag.UNUSABLE_PIXELS
    assert not m.failed[0]
    assert m.flags[1] & MeasureFlag.EDGE
    assert m.flags[2] & MeasureFlag.NEGATIVE_FLUX
    assert m.flags[3] & MeasureFlag.NO_DATA
    assert m.failed.tolist() == [False, False, True, True, True]
    assert np.isnan(m.ixx[2:]).all()
    assert np.isfinite(m.x).all()


def test_nan_pixels_all_masked_empty():
    image, variance, mask = planes(gaussian((40, 40), 20.0, 20.0, 4.0, 4.0, 0.0, 1000.0))
    image[25, 20] = np.nan
    m = adaptive_moments(image, variance, mask, x=[20.0], y=[20.0], sigma=2.0)
    assert m.flags[0] == MeasureFlag.UNUSABLE_PIXELS
    assert m.ixx[0] == pytest.approx(4.0, rel=0.05)
    mask[:] = MaskPlane.NO_DATA
    assert adaptive_moments(image, variance, mask, x=[20.0], y=[20.0], sigma=2.0).failed.all()
    assert adaptive_moments(image, variance, mask, x=[], y=[], sigma=2.0).x.size == 0
    with pytest.raises(DataError, match="sigma must be > 0"):
        adaptive_moments(image, variance, mask, x=[1.0], y=[1.0], sigma=0.0)


def test_a_galaxy_much_larger_than_the_start_does_not_become_a_needle():
    v, u = np.mgrid[:121, :121] - 60.0
    # An exponential of 14 pixel half-light radius, axis ratio 0.5, along the diagonal.
    along, across = (u + v) / np.sqrt(2), (u - v) / np.sqrt(2)
    image = 40.0 * np.exp(-1.678 * np.hypot(along, 2.0 * across) / 14.0)
    image += np.random.default_rng(3).normal(0, 1, image.shape)
    shape = adaptive_moments(*planes(image), x=[60.0], y=[60.0], sigma=1.6)
    assert not shape.flags[0] & int(MeasureFlag.NOT_CONVERGED | MeasureFlag.BAD_MOMENTS)
    assert shape.sigma[0] > 5.0
    # (1 - q2)/(1 + q2) = 0.6 for the ellipses of the profile.
    assert shape.e2[0] == pytest.approx(0.6, abs=0.05)
    assert shape.e1[0] == pytest.approx(0.0, abs=0.05)

"""Re-Gaussianization against GalSim's on the same pixels."""

import galsim
import numpy as np
import pytest

from skymill.data.flags import MeasureFlag
from skymill.measure.moments import adaptive_moments_stamps
from skymill.measure.shear_shape import regauss_shapes

SIZE, PSF_SIZE = 61, 41


@pytest.fixture(scope="module")
def sources():
    """Sheets of exponential and Sersic galaxies under a Moffat PSF, one stamp above the other."""
    rng = np.random.default_rng(3)
    psf = galsim.Moffat(beta=3.0, fwhm=3.2).shear(e1=0.05, e2=-0.03)
    star = psf.drawImage(nx=PSF_SIZE, ny=PSF_SIZE, scale=1).array.astype(np.float32)
    stamps, x, y = [], [], []
    for k in range(40):
        radius = rng.uniform(1.0, 4.0)
        profile = (
            galsim.Exponential(half_light_radius=radius)
            if k % 2
            else galsim.Sersic(n=3, half_light_radius=radius)
        )
        e1, e2 = rng.uniform(-0.4, 0.4, 2)
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        model = galsim.Convolve(profile.shear(e1=e1, e2=e2), psf) * 1000
        stamps.append(
            model.drawImage(nx=SIZE, ny=SIZE, scale=1, offset=(dx, dy), method="no_pixel").array
        )
        x.append(SIZE // 2 + dx)
        y.append(SIZE // 2 + dy)
    return np.array(stamps, np.float32), np.array(x), np.array(y), star


def ours(stamps, x, y, star, good=None, noise=0.1):
    n = len(stamps)
    shape = adaptive_moments_stamps(stamps, x=x, y=y, sigma=1.5)
    point = adaptive_moments_stamps(star[None], sigma=1.5)
    return shape, regauss_shapes(
        stamps.reshape(-1, SIZE),
        np.full((n * SIZE, SIZE), noise**2, np.float32),
        np.ones((n * SIZE, SIZE), bool) if good is None else good.reshape(-1, SIZE),
        x=x,
        y=y + SIZE * np.arange(n),
        half=np.full(n, SIZE // 2),
        moments=np.stack([shape.ixx, shape.iyy, shape.ixy], axis=1),
        psf_stamps=np.repeat(star[None], n, axis=0),
        psf_moments=np.repeat(np.stack([point.ixx, point.iyy, point.ixy], axis=1), n, axis=0),
    )


def theirs(stamp, x, y, sigma, star, good=None, noise=0.1):
    reach = int(min(SIZE // 2, max(12, np.ceil(6 * sigma))))
    ix, iy = round(x), round(y)
    rows = slice(max(0, iy - reach), iy + reach + 1)
    columns = slice(max(0, ix - reach), ix + reach + 1)
    corner = {"xmin": columns.start, "ymin": rows.start}
    weight = None
    if good is not None:
        used = np.ascontiguousarray(good[rows, columns], np.int32)
        weight = galsim.Image(used, **corner)
    return galsim.hsm.EstimateShear(
        galsim.Image(np.ascontiguousarray(stamp[rows, columns]), **corner),
        galsim.Image(star, xmin=-(PSF_SIZE // 2), ymin=-(PSF_SIZE // 2)),
        weight=weight,
        sky_var=noise**2,
        shear_est="REGAUSS",
        guess_centroid=galsim.PositionD(x, y),
        guess_sig_gal=float(sigma),
        guess_sig_PSF=1.5,
    )


@pytest.mark.parametrize("kind", ["clean", "noisy", "masked"])
def test_equals_galsim(sources, kind):
    stamps, x, y, star = sources
    rng = np.random.default_rng(1)
    good = None
    if kind == "noisy":
        stamps = stamps + rng.normal(0, 0.1, stamps.shape).astype(np.float32)
    if kind == "masked":
        good = rng.random(stamps.shape) > 0.01
    shape, out = ours(stamps, x, y, star, good)
    assert not out.flags.any()
    for k in range(len(stamps)):
        mask = None if good is None else good[k]
        peer = theirs(stamps[k], x[k], y[k], shape.sigma[k], star, mask)
        # Both stop when nothing moves by more than 1e-6.
        assert abs(out.e1[k] - peer.corrected_e1) < 1e-4
        assert abs(out.e2[k] - peer.corrected_e2) < 1e-4
        np.testing.assert_allclose(out.sigma_e[k], 2 * peer.corrected_shape_err, rtol=1e-3)
        np.testing.assert_allclose(out.resolution[k], peer.resolution_factor, atol=1e-4)


def test_true_distortion():
    shear = galsim.Shear(g1=0.2, g2=-0.1)
    star = galsim.Gaussian(sigma=1.5).drawImage(nx=PSF_SIZE, ny=PSF_SIZE, scale=1).array
    galaxy = galsim.Convolve(
        galsim.Exponential(half_light_radius=3.0).shear(shear), galsim.Gaussian(sigma=1.5)
    )
    stamp = galaxy.drawImage(nx=SIZE, ny=SIZE, scale=1, method="no_pixel").array
    _, out = ours(stamp[None], np.array([30.0]), np.array([30.0]), star)
    assert out.flags[0] == 0
    # Re-Gaussianization of an exponential: 1 % of the distortion (Hirata & Seljak 2003).
    np.testing.assert_allclose([out.e1[0], out.e2[0]], [shear.e1, shear.e2], atol=0.01)


def test_failures_have_flags(sources):
    stamps, x, y, star = sources
    stamps, x, y = stamps[:4].copy(), x[:4], y[:4]
    stamps[1] = 0.0
    stamps[1, 10:51, 10:51] = star * 1000
    shape, _ = ours(stamps, x, y, star)
    n = len(stamps)
    moments = np.stack([shape.ixx, shape.iyy, shape.ixy], axis=1)
    moments[0] = np.nan
    psf_stamps = np.repeat(star[None], n, axis=0)
    psf_stamps[2] = np.nan
    good = np.ones(stamps.shape, bool)
    good[3] = False
    out = regauss_shapes(
        stamps.reshape(-1, SIZE),
        np.ones((n * SIZE, SIZE), np.float32),
        good.reshape(-1, SIZE),
        x=x,
        y=y + SIZE * np.arange(n),
        half=np.full(n, SIZE // 2),
        moments=moments,
        psf_stamps=psf_stamps,
        psf_moments=np.repeat([[2.5, 2.5, 0.0]], n, axis=0),
    )
    wanted = [
        MeasureFlag.BAD_MOMENTS,
        MeasureFlag.NOT_CONVERGED,
        MeasureFlag.NO_PSF,
        MeasureFlag.NO_DATA,
    ]
    assert out.flags[[0, 2, 3]].tolist() == [int(wanted[k]) for k in (0, 2, 3)]
    for k in (0, 2, 3):
        assert np.isnan([out.e1[k], out.e2[k], out.sigma_e[k], out.resolution[k]]).all()
    # A point has no shape before the PSF: it fails, or its resolution is nothing.
    assert out.flags[1] == int(wanted[1]) or abs(out.resolution[1]) < 1e-3


def test_no_source():
    out = regauss_shapes(
        np.zeros((9, 9), np.float32),
        np.ones((9, 9), np.float32),
        np.ones((9, 9), bool),
        x=np.empty(0),
        y=np.empty(0),
        half=np.empty(0, np.int64),
        moments=np.empty((0, 3)),
        psf_stamps=np.empty((0, 5, 5), np.float32),
        psf_moments=np.empty((0, 3)),
    )
    assert out.e1.size == 0

import galsim
import numpy as np
import pytest

from skymill.data.flags import MeasureFlag
from skymill.model.galaxy import (
    Windows,
    composite_fluxes,
    fit_composite_galaxies,
    fit_profile,
    psf_mixtures,
)
from skymill.model.profiles import DEV, EXP


class MoffatPsf:
    stamp_size = 41
    profile = galsim.Moffat(beta=3.0, fwhm=3.5, trunc=25).shear(g1=0.04, g2=-0.03)

    def draw(self, *, x, y, size=None, offset_x=None, offset_y=None):
        size = size or self.stamp_size
        one = self.profile.drawImage(nx=size, ny=size, scale=1.0).array
        return np.repeat(one[None], len(x), axis=0)


def sheet(profiles, size=81, noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    psf = MoffatPsf()
    stamps, xs, ys = [], [], []
    for k, profile in enumerate(profiles):
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        total = profile if profile is psf.profile else galsim.Convolve(profile, psf.profile)
        stamps.append(total.shift(dx, dy).drawImage(nx=size, ny=size, scale=1.0).array)
        xs.append(size // 2 + dx)
        ys.append(k * size + size // 2 + dy)
    image = np.concatenate(stamps).astype(np.float64)
    image += rng.normal(0, noise, image.shape) if noise else 0.0
    variance = np.full(image.shape, max(noise, 1e-3) ** 2, np.float32)
    return image.astype(np.float32), variance, np.array(xs), np.array(ys), psf


def run(image, variance, x, y, psf, profile, half=38):
    good = np.isfinite(image)
    mix = psf_mixtures(psf, x=np.zeros(x.size), y=np.zeros(x.size))
    start = np.tile([4.0, 4.0, 0.0], (x.size, 1))
    halves = np.full(x.size, half)
    windows = Windows(image, variance, good, x, y, halves, mix)
    return fit_profile(windows, start=start, profile=profile), windows


@pytest.mark.parametrize(
    ("profile", "n", "reach", "tolerance"), [(EXP, 1.0, 3.0, 0.005), (DEV, 4.0, 6.0, 0.03)]
)
def test_mixtures_hold_the_light_of_the_sersic_law(profile, n, reach, tolerance):
    assert profile.amplitudes.sum() == pytest.approx(1.0)
    law = galsim.Sersic(
        n=n, half_light_radius=1.0, trunc={1.0: 3.5, 4.0: 7.0}[n], flux_untruncated=False
    )
    # Half of the light within one half-light radius of the untruncated law, up to the tail that
    # the truncation cuts (exp 2 %, dev 9 %).
    radii = np.linspace(0.3, reach, 10)
    ours = [
        (profile.amplitudes * (1 - np.exp(-r * r / 2 / profile.variances))).sum() for r in radii
    ]
    k = {1.0: 1.67834699, 4.0: 7.66924944}[n]
    t = np.linspace(1e-5, {1.0: 3.5, 4.0: 7.0}[n], 200000)
    enclosed = np.cumsum(t * np.exp(-k * t ** (1 / n)))
    truth = np.interp(radii, t, enclosed / enclosed[-1])
    np.testing.assert_allclose(ours, truth, atol=tolerance)
    assert law.flux == 1.0


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
def test_exponential_galaxies_without_noise(radius):
    shapes = [(0.0, 0.0), (0.3, 0.0), (-0.1, 0.25)]
    profiles = [
        galsim.Exponential(half_light_radius=radius, flux=1000.0).shear(g1=a, g2=b)
        for a, b in shapes
    ]
    image, variance, x, y, psf = sheet(profiles)
    fit, _ = run(image, variance, x, y, psf, EXP)
    assert (fit.flags == 0).all()
    # The truncated mixture holds 1 - 1.9 % of the light of the infinite law; the PSF's mixture
    # adds half a per cent.
    np.testing.assert_allclose(fit.flux, 1000.0, rtol=0.025)
    np.testing.assert_allclose(fit.radius, radius, rtol=0.03)
    e1 = (fit.shape[:, 0] - fit.shape[:, 1]) / (fit.shape[:, 0] + fit.shape[:, 1])
    e2 = 2 * fit.shape[:, 2] / (fit.shape[:, 0] + fit.shape[:, 1])
    for k, (a, b) in enumerate(shapes):
        shear = galsim.Shear(g1=a, g2=b)
        assert e1[k] == pytest.approx(shear.e1, abs=0.015)
        assert e2[k] == pytest.approx(shear.e2, abs=0.015)


def test_stars_have_the_same_model_and_psf_flux():
    psf = MoffatPsf()
    image, variance, x, y, _ = sheet([psf.profile] * 5)
    fit, windows = run(image, variance, x, y, psf, EXP)
    np.testing.assert_allclose(fit.flux, 1.0, rtol=0.01)
    assert (fit.radius < 0.5).all()
    both = composite_fluxes(
        windows,
        exp_shape=fit.shape,
        dev_shape=fit.shape,
    )
    np.testing.assert_allclose(both.flux, 1.0, rtol=0.01)


def test_composite_takes_the_right_profile():
    profiles = [
        galsim.Exponential(half_light_radius=3.0, flux=1000.0),
        galsim.DeVaucouleurs(half_light_radius=3.0, flux=1000.0),
    ]
    image, variance, x, y, psf = sheet(profiles)
    exp, windows = run(image, variance, x, y, psf, EXP)
    dev, _ = run(image, variance, x, y, psf, DEV)
    both = composite_fluxes(
        windows,
        exp_shape=exp.shape,
        dev_shape=dev.shape,
    )
    assert both.fraction[0] < 0.2
    assert both.fraction[1] > 0.8
    # 8 % of a de Vaucouleurs law lies beyond its truncation at 7 half-light radii.
    np.testing.assert_allclose(both.flux, [1000.0, 930.0], rtol=0.03)
    forced = composite_fluxes(
        windows,
        exp_shape=exp.shape,
        dev_shape=dev.shape,
        fraction=both.fraction,
    )
    np.testing.assert_allclose(forced.flux, both.flux, rtol=1e-5)


def test_errors_have_unit_pulls():
    galaxy = galsim.Exponential(half_light_radius=2.5, flux=3000.0).shear(g1=0.2, g2=0.1)
    image, variance, x, y, psf = sheet([galaxy] * 200, size=61, noise=3.0)
    fit, windows = run(image, variance, x, y, psf, EXP, half=28)
    forced = composite_fluxes(
        windows,
        exp_shape=np.tile(np.median(fit.shape, axis=0), (200, 1)),
        dev_shape=np.tile(np.median(fit.shape, axis=0), (200, 1)),
        fraction=np.zeros(200),
    )
    pull = (forced.flux - np.median(forced.flux)) / forced.flux_err
    assert 0.85 < pull.std() < 1.15  # 200 pulls: 5 %
    assert np.median(fit.flux) == pytest.approx(3000.0, rel=0.03)
    assert (fit.flags & MeasureFlag.NOT_CONVERGED == 0).all()


@pytest.mark.parametrize(("profile", "noise"), [(EXP, 3.0), (EXP, 10.0), (DEV, 3.0)])
def test_errors_of_free_fits_have_unit_pulls(profile, noise):
    kind = galsim.Exponential if profile is EXP else galsim.DeVaucouleurs
    galaxy = kind(half_light_radius=2.5, flux=3000.0).shear(g1=0.2, g2=0.1)
    image, variance, x, y, psf = sheet([galaxy] * 1000, size=61, noise=noise)
    fit, _ = run(image, variance, x, y, psf, profile, half=28)
    pull = (fit.flux - np.median(fit.flux)) / fit.flux_err
    # 1000 pulls: 2.3 %. 1600 others: 0.98 and 0.99 (exponential), 1.06 (de Vaucouleurs, whose core
    # the pixels do not resolve).
    assert 0.91 < pull.std() < 1.13
    assert (fit.flux_err > 1.2 * fit.fixed_err).mean() > 0.9


def test_nothing_to_fit():
    image, variance, x, y, psf = sheet([galsim.Exponential(half_light_radius=2.0)])
    mix = psf_mixtures(psf, x=x, y=y)
    windows = Windows(image, variance, np.zeros(image.shape, bool), x, y, np.array([20]), mix)
    fit = fit_profile(windows, start=np.ones((1, 3)), profile=EXP)
    assert fit.flags[0] & MeasureFlag.NO_DATA
    assert np.isnan(fit.flux[0])
    none = psf_mixtures(psf, x=np.empty(0), y=np.empty(0))
    assert none.node.size == 0


def test_the_window_of_a_large_elliptical_grows():
    psf = MoffatPsf()
    size = 321
    variance, good = np.full((size, 2 * size), 1.0, np.float32), np.ones((size, 2 * size), bool)
    image = np.zeros((size, 2 * size), np.float32)
    for k, profile in enumerate((galsim.DeVaucouleurs, galsim.Exponential)):
        model = galsim.Convolve(profile(half_light_radius=20.0, flux=1e5), psf.profile)
        image[:, k * size : (k + 1) * size] = model.drawImage(nx=size, ny=size, scale=1.0).array
    x, y = np.array([160.0, 160.0 + size]), np.array([160.0, 160.0])
    half, widest = np.array([27, 72]), np.array([150, 150])
    windows = Windows(image, variance, good, x, y, half, psf_mixtures(psf, x=x, y=y))
    start = np.array([[80.0, 80.0, 0.0], [400.0, 400.0, 0.0]])
    fit = fit_composite_galaxies(windows, widest=widest, start=start)
    # The truncated profiles hold 92.3 and 98 % of the light; 78 % was found in 27 pixels.
    np.testing.assert_allclose(fit.total.flux, [92300.0, 98000.0], rtol=0.01)
    assert fit.total.fraction[0] > 0.95
    assert fit.dev.radius[0] == pytest.approx(20.0, rel=0.02)
    # A disc stays in its own, however wide a cuspy profile would like to be.
    np.testing.assert_array_equal(fit.half, [54, 72])

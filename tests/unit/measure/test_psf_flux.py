import galsim
import numpy as np
import pytest

from skymill.data.flags import MeasureFlag
from skymill.data.masks import MaskPlane
from skymill.data.protocols import Psf
from skymill.measure.psf_flux import GaussianPsf, PsfFluxOptions, psf_fluxes


def scene(psf, flux, x, y, shape=(400, 400)):
    image = galsim.Image(shape[1], shape[0], xmin=0, ymin=0)
    for f, a, b in zip(flux, x, y, strict=True):
        ix, iy = round(a), round(b)
        bounds = galsim.BoundsI(ix - 30, ix + 30, iy - 30, iy + 30) & image.bounds
        star = psf.profile.withFlux(f).drawImage(
            image[bounds].copy() * 0, scale=1.0, center=galsim.PositionD(a, b)
        )
        image[bounds] += star
    return image.array


def grid(n, step=40, start=40):
    v, u = np.mgrid[:n, :n]
    rng = np.random.default_rng(5)
    return (
        start + step * u.ravel() + rng.uniform(-0.5, 0.5, n * n),
        start + step * v.ravel() + rng.uniform(-0.5, 0.5, n * n),
    )


def test_noise_free_stars_are_exact(galsim_psf):
    x, y = grid(8)
    flux = np.geomspace(10, 1e5, 64)
    psf = galsim_psf
    image = scene(psf, flux, x, y)
    out = psf_fluxes(image, np.ones_like(image), np.zeros(image.shape, np.int32), x=x, y=y, psf=psf)
    # The wings of the neighbours: Moffat beta 3 at 40 pixel.
    np.testing.assert_allclose(out.flux, flux, rtol=3e-4, atol=3.0)
    assert (out.flags == 0).all()


def test_errors_have_unit_pulls(galsim_psf):
    rng = np.random.default_rng(6)
    x, y = grid(17, step=35, start=20)
    flux = np.full(x.size, 1000.0)
    psf = galsim_psf
    image = scene(psf, flux, x, y, (620, 620))
    variance = 4.0 + image
    image = image + rng.normal(0, np.sqrt(variance))
    out = psf_fluxes(
        image.astype(np.float32),
        variance.astype(np.float32),
        np.zeros(image.shape, np.int32),
        x=x,
        y=y,
        psf=psf,
    )
    pull = (out.flux - flux) / out.flux_err
    # 289 stars: width known to 4 %, mean to 0.06.
    assert 0.88 < pull.std() < 1.12
    assert abs(pull.mean()) < 0.25
    assert out.chi2.mean() / out.n_pixel.mean() == pytest.approx(1.0, abs=0.02)


def test_gaussian_psf_is_a_psf_of_unit_flux():
    psf = GaussianPsf(2.0)
    assert isinstance(psf, Psf)
    stamp = psf.draw(x=np.zeros(1), y=np.zeros(1), offset_x=np.array([0.3]))
    assert stamp.shape == (1, 21, 21)
    assert stamp.sum() == pytest.approx(1.0, abs=2e-6)
    assert (stamp[0].sum(axis=0) * (np.arange(21) - 10)).sum() == pytest.approx(0.3, abs=1e-4)


def test_masked_pixels_are_left_out_with_flags(galsim_psf):
    x, y = np.array([50.2]), np.array([49.7])
    psf = galsim_psf
    image = scene(psf, [1e4], x, y, (100, 100))
    mask = np.zeros(image.shape, np.int32)
    image[50, 52] = 1e7
    mask[50, 52] = MaskPlane.CR
    image[52, 50] = np.nan
    out = psf_fluxes(image, np.ones_like(image), mask, x=x, y=y, psf=psf)
    assert out.flux[0] == pytest.approx(1e4, rel=1e-3)
    assert out.flags[0] == MeasureFlag.UNUSABLE_PIXELS
    edge = psf_fluxes(
        image,
        np.ones_like(image),
        mask,
        x=[5.0, 500.0],
        y=[50.0, 50.0],
        psf=psf,
        options=PsfFluxOptions(size=21),
    )
    assert edge.flags[0] & MeasureFlag.EDGE
    assert edge.flags[1] & MeasureFlag.NO_DATA
    assert np.isnan(edge.flux[1])
    assert psf_fluxes(image, np.ones_like(image), mask, x=[], y=[], psf=psf).flux.size == 0

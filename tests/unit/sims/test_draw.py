"""Drawing against galsim, and what galsim.hsm measures on the drawn stamps."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from skymill.data.errors import DataError
from skymill.sims.draw import PsfField, Sources, draw_sources, psf_profile

# Axes as on the CCD: x to the South, y to the East.
JACOBIAN = np.array([[0.001, 0.262], [-0.264, 0.002]])


def shear(g1, g2):
    return np.array([[1 + g1, g2], [g2, 1 - g1]]) / np.sqrt(1 - g1**2 - g2**2)


def draw_one(*, bulge, hlr, g, psf_g=(0.0, 0.0), fwhm=0.8, jacobian=JACOBIAN, size=128, flux=1e4,
             x=63.3, y=60.71, profile="moffat"):  # fmt: skip
    maps = shear(*g)[None] * hlr
    sources = Sources(
        np.array([x]), np.array([y]), np.array([flux]), np.array([bulge]), maps, 0.6 * maps,
        jacobian[None],
    )  # fmt: skip
    psf = PsfField(profile, 3.0, np.array([fwhm]), np.array([psf_g[0]]), np.array([psf_g[1]]))
    image = np.zeros((size, size), np.float32)
    draw_sources(image, sources, psf, noise=0.03)
    return image


@pytest.mark.parametrize("profile", ["moffat", "kolmogorov"])
@pytest.mark.parametrize(
    ("bulge", "hlr"), [(-1.0, 0.4), (0.0, 0.4), (0.3, 0.3), (1.0, 0.5), (0.1, 0.1)]
)
def test_same_pixels_as_galsim(bulge, hlr, profile):
    psf_g, g, x, y = (0.03, 0.05), (0.2, -0.3), 63.3, 60.71
    image = draw_one(bulge=bulge, hlr=hlr, g=g, psf_g=psf_g, x=x, y=y, profile=profile)
    params = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5)
    psf = psf_profile(profile, 3.0).dilate(0.8).shear(g1=psf_g[0], g2=psf_g[1])
    model = psf
    if bulge >= 0:
        parts = []
        if bulge < 1:
            parts.append(galsim.Exponential(half_light_radius=hlr) * (1 - bulge))
        if bulge > 0:
            parts.append(galsim.DeVaucouleurs(half_light_radius=0.6 * hlr) * bulge)
        galaxy = galsim.Sum(parts).shear(g1=g[0], g2=g[1])
        model = galsim.Convolve(galaxy, psf, gsparams=params)
    centre = galsim.PositionD(x + 1, y + 1)
    wcs = galsim.AffineTransform(*JACOBIAN.ravel(), origin=centre)
    oracle = galsim.ImageF(128, 128)
    (model.withGSParams(params) * 1e4).drawImage(oracle, wcs=wcs, center=centre)
    # Both fold the far wings onto their stamps at the level of a few 1e-5 of the peak.
    assert np.abs(image - oracle.array).max() < 5e-5 * oracle.array.max()


def test_flux_and_centre_are_exact_at_every_offset():
    for x, y in ((63.0, 64.0), (63.49, 64.51), (63.999, 64.001)):
        image = draw_one(bulge=0.0, hlr=0.3, g=(0.1, 0.0), x=x, y=y)
        j, i = np.mgrid[:128, :128]
        # The stamp holds all the flux (folded), so the sum is exact to float32.
        assert image.sum() == pytest.approx(1e4, rel=1e-5)
        assert (image * i).sum() / image.sum() == pytest.approx(x, abs=2e-3)
        assert (image * j).sum() / image.sum() == pytest.approx(y, abs=2e-3)


def test_shear_of_a_galaxy_is_recovered_in_sky_axes():
    """Adaptive moments of a galaxy much larger than the PSF have its shear, once rotated."""
    g = (0.10, -0.05)
    image = draw_one(bulge=0.0, hlr=4.0, g=g, fwhm=0.3, size=512, x=255.4, y=256.2, flux=1e5)
    wcs = galsim.AffineTransform(*JACOBIAN.ravel())
    stamp = galsim.Image(image, wcs=wcs)
    moments = galsim.hsm.FindAdaptiveMom(stamp, use_sky_coords=True, guess_sig=3.0)
    # u, v of galsim are here East, North. PSF and pixel round the galaxy by their share of the
    # second moments: about 0.05 arcsec2 of 9 arcsec2.
    assert moments.observed_shape.g1 == pytest.approx(g[0], rel=0.01)
    assert moments.observed_shape.g2 == pytest.approx(g[1], rel=0.01)


def test_sources_partly_or_wholly_outside():
    image = draw_one(bulge=0.0, hlr=0.4, g=(0, 0), x=-3.2, y=64.0)
    assert 0 < image.sum() < 5e3
    assert draw_one(bulge=0.0, hlr=0.4, g=(0, 0), x=-900.0, y=64.0).sum() == 0
    empty = np.zeros((0, 2, 2))
    none = np.zeros(0)
    image = np.zeros((8, 8), np.float32)
    draw_sources(
        image, Sources(none, none, none, none, empty, empty, empty),
        PsfField("moffat", 3.0, none, none, none),
    )  # fmt: skip
    assert image.sum() == 0


def test_unknown_psf():
    with pytest.raises(DataError, match="moffat or kolmogorov; got 'airy'"):
        psf_profile("airy", 3.0)

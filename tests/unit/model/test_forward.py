"""Drawn models against GalSim, and properties that any rendering must have."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from release_scenes import DEC, RA, galaxy

from skymill.data.errors import DataError
from skymill.data.geometry import make_tan_wcs
from skymill.model import forward, sersic
from skymill.model.fit_image import FitImage
from skymill.model.forward import draw_patches, place, render, shape_matrix
from skymill.model.sources import Sources, SourceType
from skymill.psf.models import ConstantPsf

SCALE, SIZE, PSF_SIZE = 0.262, 151, 127
MOFFAT = galsim.Moffat(beta=3.5, fwhm=1.2, trunc=12)
ACCURATE = galsim.GSParams(
    maximum_fft_size=16384,
    folding_threshold=1e-4,
    kvalue_accuracy=1e-7,
    maxk_threshold=1e-4,
)


@pytest.fixture(scope="module")
def psf():
    image = galsim.Convolve(MOFFAT, galsim.Pixel(SCALE), gsparams=ACCURATE).drawImage(
        nx=PSF_SIZE, ny=PSF_SIZE, scale=SCALE, method="no_pixel"
    )
    return ConstantPsf(image.array.astype(np.float32))


def make_image(psf, *, size=SIZE, rotation=0.0, scale=SCALE, sigma1=1e-9, mjd=60000.0):
    wcs = make_tan_wcs(
        ra=RA, dec=DEC, scale=scale, x=size // 2 + 0.3, y=size // 2 - 0.4, rotation=rotation
    )
    blank = np.zeros((size, size), np.float32)
    return FitImage(
        image=blank,
        inverse_error=blank + 1,
        quality=np.zeros((size, size), np.int32),
        band="r",
        wcs=wcs,
        psf=psf,
        sigma1=sigma1,
        fwhm=4.6,
        mjd=mjd,
    )


def one(kind, radius=0.0, e1=0.0, e2=0.0, n=1.0, flux=1.0, **more):
    return Sources.create(
        ra=[RA],
        dec=[DEC],
        flux=[[flux]],
        kind=[int(kind)],
        radius=[radius],
        e1=[e1],
        e2=[e2],
        sersic=[n],
        **more,
    )


def truth(profile):
    seen = galsim.Convolve(profile, MOFFAT, galsim.Pixel(SCALE), gsparams=ACCURATE)
    seen = seen.shift(0.3 * SCALE, -0.4 * SCALE)
    return seen.drawImage(nx=SIZE, ny=SIZE, scale=SCALE, method="no_pixel").array


# GalSim warns of profiles with sharp edges: the sum of them is smooth.
@pytest.mark.filterwarnings("ignore:.*hard edges.*")
@pytest.mark.parametrize(
    ("n", "radius"),
    [
        (0.5, 0.5),
        (1.0, 0.01),
        (1.0, 1.5),
        pytest.param(2.0, 0.5, marks=pytest.mark.slow),
        pytest.param(4.0, 0.1, marks=pytest.mark.slow),
        (4.0, 1.5),
        pytest.param(4.0, 5.0, marks=pytest.mark.slow),
        pytest.param(5.0, 0.5, marks=pytest.mark.slow),
        pytest.param(5.0, 5.0, marks=pytest.mark.slow),
    ],
)
def test_truncated_sersic_as_galsim_draws_it(psf, monkeypatch, n, radius):
    # GalSim has no softened cores: take the softening out of the profile that is transformed.
    table = sersic.transform(n, soften=False)
    monkeypatch.setattr(forward, "profile_table", lambda kind, index: table)
    drawn = render(one(SourceType.SER, radius, 0.2, -0.1, n), make_image(psf), bands=["r"])
    expected = truth(galaxy(n, radius, 0.2, -0.1))
    # Required: 1e-4 of the flux. Found: below 1e-5, from the sum over 12 edges and the
    # interpolation of the table.
    assert np.abs(drawn - expected).max() < 2e-5


def test_softening_of_the_core_is_small(psf):
    for n, limit in ((2.0, 5e-5), (4.0, 4e-4)):
        soft = sersic.transform(n)
        sharp = sersic.transform(n, soften=False)
        wave = np.sqrt(sersic.knots())
        near = wave < np.pi / SCALE  # what an image with 0.262" pixels sees at 1"
        assert 0 < np.abs(soft - sharp)[near, 0].max() < 100 * limit


@pytest.mark.parametrize("rotation", [0.0, 90.0, 37.0])
def test_point_source_is_the_psf_where_the_wcs_says(psf, rotation):
    image = make_image(psf, rotation=rotation, size=61)
    source = one(SourceType.PSF, flux=3.0)
    source.ra += 1.3 / 3600 / np.cos(np.radians(DEC))
    drawn = render(source, image, bands=["r"])
    x, y = image.wcs.sky_to_pixel(ra=source.ra, dec=source.dec)
    yy, xx = np.mgrid[:61, :61]
    core = np.hypot(xx - x, yy - y) < 12
    assert (drawn * xx)[core].sum() / drawn[core].sum() == pytest.approx(x[0], abs=0.02)
    assert (drawn * yy)[core].sum() / drawn[core].sum() == pytest.approx(y[0], abs=0.02)
    assert drawn.sum() == pytest.approx(3.0 * psf.stamp.sum(), rel=3e-3)


def test_tiny_galaxy_is_a_point(psf):
    image = make_image(psf, size=61)
    point = render(one(SourceType.PSF), image, bands=["r"])
    for kind, n in ((SourceType.REX, 1.0), (SourceType.DEV, 4.0), (SourceType.SER, 6.0)):
        # 0.01" of a pixel of 0.262": second moments differ by 1e-3 pixel^2.
        np.testing.assert_allclose(
            render(one(kind, 0.01, n=n), image, bands=["r"]), point, atol=1e-4
        )


def test_ser_becomes_exp_and_dev(psf):
    image = make_image(psf, size=91)
    for kind, n in ((SourceType.EXP, 1.0), (SourceType.DEV, 4.0)):
        np.testing.assert_array_equal(
            render(one(kind, 1.0, 0.3, 0.1), image, bands=["r"]),
            render(one(SourceType.SER, 1.0, 0.3, 0.1, n), image, bands=["r"]),
        )


def test_ellipse_points_north_through_east():
    # Position angle 30 degrees: the major axis runs to the North, a little to the East.
    angle = np.radians(30.0)
    matrix = shape_matrix(2.0, 0.4 * np.cos(2 * angle), 0.4 * np.sin(2 * angle))
    size, axes = np.linalg.eigh(matrix)
    major = axes[:, 1] * np.sign(axes[1, 1])
    assert np.degrees(np.arctan2(major[0], major[1])) == pytest.approx(30.0)
    assert np.sqrt(size[1]) == pytest.approx(2.0)
    assert np.sqrt(size[0] / size[1]) == pytest.approx(0.6 / 1.4)


def test_moving_star_is_drawn_at_its_time(psf):
    source = one(SourceType.PSF, flux=5.0, pm_ra=[200.0], pm_dec=[-100.0], epoch=[60000.0 - 3652.5])
    image = make_image(psf, size=61)
    where = place(image.wcs, *source.position_at(image.mjd))
    drawn = render(source, image, bands=["r"])
    rest = render(one(SourceType.PSF, flux=5.0), image, bands=["r"])
    yy, xx = np.mgrid[:61, :61]
    moved = [(drawn * a).sum() / drawn.sum() - (rest * a).sum() / rest.sum() for a in (xx, yy)]
    # 10 years of 200 mas to the East (x runs to the West), 100 mas to the South.
    np.testing.assert_allclose(moved, [-2.0 / SCALE, -1.0 / SCALE], atol=0.02)
    assert where.x[0] == pytest.approx(30.3 - 2.0 / SCALE, abs=1e-3)


def test_patches_add_up_to_the_image(psf):
    image = make_image(psf, size=61)
    several = Sources.create(
        ra=[RA, RA + 0.0008, RA - 1.0, RA - 0.001],
        dec=[DEC, DEC - 0.0005, DEC, DEC + 0.001],
        flux=[[1.0], [4.0], [5.0], [0.0]],
        kind=[0, 2, 0, 1],
        radius=[0, 1.1, 0, 2.0],
        e1=[0, 0.3, 0, 0],
    )
    total, seen = np.zeros((61, 61)), []
    for i, x0, y0, patch in draw_patches(several, image, bands=["r"]):
        total[y0 : y0 + patch.shape[0], x0 : x0 + patch.shape[1]] += patch
        seen.append(i)
    assert seen == [0, 1]  # one is far away, one has no flux
    np.testing.assert_allclose(total, render(several, image, bands=["r"]), atol=1e-6)


def test_unknown_band_is_an_error(psf):
    with pytest.raises(DataError, match="band r is not among"):
        render(one(SourceType.PSF), make_image(psf, size=31), bands=["g"])


def test_no_sources_give_a_blank_image(psf):
    none = Sources.create(ra=[], dec=[], flux=np.zeros((0, 1)))
    assert not render(none, make_image(psf, size=31), bands=["r"]).any()

"""One simulated CCD through sky, cosmic rays, PSF and catalogue, against what was put in."""

import galsim
import numpy as np
import pytest
from scipy.spatial import cKDTree

from skymill.calibrate.characterize import characterize
from skymill.calibrate.final_psf import FinalPsfOptions, fit_final_psf, psf_from_row, psf_row
from skymill.data.errors import NoDataError
from skymill.data.images import Exposure, ExposureInfo, PixelPlanes
from skymill.data.masks import MaskPlane

NY, NX = 1200, 1100
SKY = 800.0


def true_psf(x, y):
    fwhm = 3.8 * (1 + 0.03 * (x / NX - 0.5))
    return galsim.Moffat(beta=3, fwhm=fwhm).shear(g1=0.02, g2=0.01 * y / NY)


def draw(image, profile, x, y, half):
    bounds = galsim.BoundsI(int(x) - half, int(x) + half, int(y) - half, int(y) + half)
    profile.drawImage(
        image[bounds & image.bounds], center=galsim.PositionD(x, y), scale=1, add_to_image=True
    )


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(3)
    image = galsim.ImageF(NX, NY, xmin=0, ymin=0)
    n_stars, n_galaxies = 80, 50
    x, y = rng.uniform(30, NX - 30, n_stars), rng.uniform(30, NY - 30, n_stars)
    flux = 10 ** rng.uniform(3.3, 5.5, n_stars)
    for xi, yi, f in zip(x, y, flux, strict=True):
        draw(image, true_psf(xi, yi).withFlux(f), xi, yi, 45)
    for _ in range(n_galaxies):
        galaxy = galsim.Exponential(half_light_radius=rng.lognormal(0.6, 0.4))
        galaxy = galaxy.shear(g1=rng.normal(0, 0.2), g2=rng.normal(0, 0.2))
        xi, yi = rng.uniform(20, NX - 20), rng.uniform(20, NY - 20)
        seen = galsim.Convolve(galaxy, true_psf(xi, yi)).withFlux(10 ** rng.uniform(2.9, 4.2))
        draw(image, seen, xi, yi, 22)
    gradient = SKY * (1 + 0.05 * np.arange(NX) / NX)
    variance = (image.array + gradient[None, :] + 49.0).astype(np.float32)
    data = image.array + gradient[None, :] + rng.normal(size=(NY, NX)) * np.sqrt(variance)
    hit = np.zeros((NY, NX), bool)
    for _ in range(60):
        row, column = rng.integers(10, NY - 10), rng.integers(10, NX - 20)
        hit[row, column : column + rng.integers(1, 8)] = True
    data[hit] += rng.uniform(800, 5000, int(hit.sum()))
    planes = PixelPlanes(data.astype(np.float32), variance, np.zeros((NY, NX), np.int32))
    info = ExposureInfo(
        instrument="DECam",
        visit=700,
        detector=5,
        physical_filter="r DECam SDSS c0002 6415.0 1480.0",
        band="r",
        exposure_time=90.0,
        mjd_mid=57000.0,
    )
    return Exposure(planes=planes, info=info), x, y, flux, hit, gradient


@pytest.fixture(scope="module")
def result(field):
    exposure = field[0]
    fresh = exposure.replace(planes=exposure.planes.copy())
    return characterize(fresh, rng=np.random.default_rng(1))


def test_sky_is_found(field, result):
    error = result.background.evaluate() - field[5][None, :]
    # Undetected galaxies and wings lift the sky a little: a tenth of its noise (29 e) at most.
    assert abs(np.median(error)) < 3.0
    assert np.abs(error).max() < 12.0


def test_cosmic_rays_are_masked(field, result):
    hit = field[4]
    masked = (result.exposure.planes.mask & int(MaskPlane.CR)) != 0
    assert (masked & hit).sum() > 0.93 * hit.sum()
    # Neighbours of hits may be masked too, stars may not.
    assert (masked & ~hit).sum() < 1.5 * hit.sum()


def test_stars_have_their_fluxes_and_errors(field, result):
    _, x, y, flux, _, _ = field
    table = result.catalogue
    distance, match = cKDTree(np.c_[table["x"], table["y"]]).query(np.c_[x, y])
    good = (distance < 0.5) & ~np.asarray(table["blended"])[match] & (flux > 2e3)
    good &= np.asarray(table["psfFlux_flags"])[match] == 0
    assert good.sum() > 30
    measured, error = (np.asarray(table[c])[match][good] for c in ("psfFlux", "psfFluxErr"))
    ratio = measured / flux[good]
    # The PSF is normalised within its stamp of 25 pixels: 0.4 % of a Moffat 3 lies outside.
    # The sky's error of up to 1 e over 45 pixels' effective area is 0.2 % at 2e4 e, a neighbour's
    # wing as much again; the scatter of 0.01 leaves 0.002 for the median.
    bright = flux[good] > 2e4
    assert bright.sum() > 15
    assert abs(np.median(ratio[bright]) - 0.996) < 0.006
    # Brighter stars feel the noise of the PSF model too, which is not in their own error.
    faint = measured / error < 100
    assert faint.sum() > 15
    pull = ((measured - flux[good] * np.median(ratio)) / error)[faint]
    # 20 stars give the width of the pulls to 20 %.
    assert 0.6 < 1.4826 * np.median(np.abs(pull)) < 1.4


def test_psf_residuals_are_small(result):
    summary = result.exposure.summary
    assert abs(summary["psfStarDeltaSizeMedian"]) < 0.01
    assert abs(summary["psfStarDeltaE1Median"]) < 0.006
    assert summary["nPsfStar"] > 15
    truth = true_psf(NX / 2, NY / 2).drawImage(nx=51, ny=51, scale=1)
    sigma = galsim.hsm.FindAdaptiveMom(truth).moments_sigma
    assert abs(summary["psfSigma"] / sigma - 1) < 0.01


def test_the_same_seed_gives_the_same_result(field, result):
    exposure = field[0]
    again = characterize(
        exposure.replace(planes=exposure.planes.copy()), rng=np.random.default_rng(1)
    )
    np.testing.assert_array_equal(again.exposure.planes.image, result.exposure.planes.image)
    assert again.exposure.summary == result.exposure.summary


def test_an_empty_sky_is_a_sentence(field):
    rng = np.random.default_rng(4)
    data = rng.normal(500.0, 20.0, (512, 512)).astype(np.float32)
    planes = PixelPlanes(data, np.full_like(data, 400.0), np.zeros(data.shape, np.int32))
    with pytest.raises(NoDataError, match="fewer than 5 stars"):
        characterize(Exposure(planes=planes, info=field[0].info), rng=rng)


def test_final_psf_survives_its_table(result):
    table = result.catalogue
    star = np.asarray(table["calib_psf_candidate"])
    sources = table[star]["id", "x", "y", "ra", "dec"]
    sources.rename_column("id", "sourceId")
    final = fit_final_psf(result.exposure, sources, rng=np.random.default_rng(2))
    assert final.refitted
    assert 0.98 < final.aperture_correction["ap12Flux"] < 1.02
    again = psf_from_row(psf_row(1, 2, final, max_order=2))
    at = {"x": np.array([100.0]), "y": np.array([900.0])}
    np.testing.assert_allclose(again.draw(**at), final.psf.draw(**at), atol=1e-7)
    few = fit_final_psf(
        result.exposure, sources[:3], rng=np.random.default_rng(2), options=FinalPsfOptions()
    )
    assert not few.refitted
    np.testing.assert_array_equal(few.psf.coefficients, result.exposure.psf.coefficients)

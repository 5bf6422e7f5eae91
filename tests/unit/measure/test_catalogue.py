import galsim
import numpy as np
import pytest

from skymill.data.flags import MeasureFlag
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import PixelPlanes
from skymill.data.tables import load_schema
from skymill.measure.catalogue import measure_sources
from skymill.measure.centroid import centroids
from skymill.measure.detection import detect_sources


def field(psf, noise=3.0, n=10, step=45):
    rng = np.random.default_rng(21)
    size = step * n + 40
    image = galsim.Image(size, size, xmin=0, ymin=0)
    x, y = (40 + step * a.ravel() + rng.uniform(-0.5, 0.5, n * n) for a in np.mgrid[:n, :n])
    flux = rng.permutation(np.geomspace(800, 1e5, n * n))
    star = np.arange(n * n) % 2 == 0
    for a, b, f, is_star in zip(x, y, flux, star, strict=True):
        profile = psf.profile
        if not is_star:
            profile = galsim.Convolve(profile, galsim.Exponential(half_light_radius=2.5))
        profile.withFlux(f).drawImage(
            image, add_to_image=True, scale=1.0, center=galsim.PositionD(a, b)
        )
    variance = (noise**2 + image.array).astype(np.float32)
    pixels = (image.array + rng.normal(0, np.sqrt(variance))).astype(np.float32)
    return PixelPlanes(pixels, variance, np.zeros(pixels.shape, np.int32)), x, y, flux, star


def match(table, x, y):
    return np.array(
        [np.argmin(np.hypot(table["x"] - a, table["y"] - b)) for a, b in zip(x, y, strict=True)]
    )


def test_stars_and_galaxies(galsim_psf):
    planes, x, y, flux, star = field(galsim_psf)
    found = detect_sources(planes.image, planes.variance, planes.mask, psf_sigma=1.6)
    table = measure_sources(
        planes,
        psf=galsim_psf,
        psf_sigma=1.6,
        detections=found,
        visit=7,
        detector=3,
        wcs=make_tan_wcs(ra=10.0, dec=-5.0, scale=0.26, x=200, y=200),
    )
    load_schema("src").apply(table)
    assert len(table) == 100
    row = table[match(table, x, y)]
    pull = (row["psfFlux"][star] - flux[star]) / row["psfFluxErr"][star]
    assert 0.75 < pull.std() < 1.25  # 50 stars: 10 %
    assert np.mean(row["extendedness"][star] == 0) > 0.95
    assert np.mean(row["extendedness"][~star] == 1) > 0.95
    pull = (row["x"] - x)[star] / row["x_err"][star]
    assert 0.75 < pull.std() < 1.25
    bright = star & (flux > 2e4)
    np.testing.assert_allclose(row["ixx"][bright], row["ixxPsf"][bright], rtol=0.05)
    # Moffat beta 3, fwhm 3.5: 99 % of the light within 17 pixels.
    np.testing.assert_allclose(row["ap17Flux"][bright], flux[bright], rtol=0.05)
    assert (row["centroid_flags"] == 0).all()
    assert not row["blended"].any()
    assert set(table["visit"]) == {7}
    assert np.isfinite(table["ra"]).all()


def test_without_a_psf_a_gaussian_serves(galsim_psf):
    planes, _, _, _, _ = field(galsim_psf, n=3)
    found = detect_sources(planes.image, planes.variance, planes.mask, psf_sigma=1.6)
    table = measure_sources(planes, psf=None, psf_sigma=1.6, detections=found)
    np.testing.assert_allclose(table["ixxPsf"], 1.6**2, rtol=1e-3)
    assert np.isnan(table["ra"]).all()


def test_no_source_gives_an_empty_valid_table(galsim_psf):
    planes = PixelPlanes(
        np.zeros((50, 50), np.float32), np.ones((50, 50), np.float32), np.zeros((50, 50), np.int32)
    )
    found = detect_sources(planes.image, planes.variance, planes.mask, psf_sigma=1.6)
    table = measure_sources(planes, psf=galsim_psf, psf_sigma=1.6, detections=found)
    assert len(table) == 0
    load_schema("src").apply(table)


def test_centroid_of_an_exact_gaussian_and_its_failures():
    v, u = np.mgrid[:60, :60]
    image = 1000 * np.exp(-((u - 30.3) ** 2 + (v - 29.6) ** 2) / 2 / 2.0**2)
    image = image.astype(np.float32)
    ones, mask = np.ones_like(image), np.zeros(image.shape, np.int32)
    out = centroids(
        image, ones, mask, x=[31.0, 50.0, 34.5, 99.0], y=[30.0, 50.0, 30.0, 1.0], sigma=2.0
    )
    np.testing.assert_allclose([out.x[0], out.y[0]], [30.3, 29.6], atol=1e-3)
    # var(x) = sigma**2 * 4 pi sigma**2 V * 2 / (2 F**2) ... = 2 sigma**2/nu**2
    flux = 1000 * 2 * np.pi * 4
    assert out.x_err[0] == pytest.approx(2.0 * np.sqrt(2 * 4 * np.pi * 4) / flux / 1.0, rel=0.01)
    assert out.flags[1] != 0
    assert out.x[1] == 50.0
    assert out.flags[2] & MeasureFlag.CENTROID_SHIFTED
    assert out.flags[3] & MeasureFlag.NO_DATA

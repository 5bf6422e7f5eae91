"""Measures of the catalogue against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from brick_scenes import exposure, gaussian, grid

from skymill.model.sources import Sources
from skymill.release.brick.coadds import coadd_band
from skymill.release.brick.mapping import map_pixels
from skymill.release.brick.measures import SourceMeasures, model_images
from skymill.release.brick.photometry import APERTURES, aperture_fluxes, fibre_fluxes


def _sources(stars: list[tuple[float, float, float]]) -> Sources:
    x, y, flux = (np.array(c) for c in zip(*stars, strict=True))
    ra, dec = grid().wcs.pixel_to_sky(x=x, y=y)
    return Sources.create(ra=ra, dec=dec, flux=flux[:, None])


def _measure(
    stars: list[tuple[float, float, float]], **words: object
) -> tuple[np.ndarray, np.ndarray, SourceMeasures]:
    image = exposure(stars, **words)  # type: ignore[arg-type]
    own = grid()
    blobs = np.zeros((80, 80), np.int32)
    models, limited, found = model_images(
        [image], [map_pixels(image, own)], blobs, _sources(stars),
        np.zeros(len(stars), np.int64), ("r",),
    )  # fmt: skip
    return models[0] - image.image, limited[0] - models[0], found


def test_models_are_the_truth_and_the_measures_those_of_a_clean_star() -> None:
    residual, outside, found = _measure([(40.0, 40.0, 10.0)])
    # Interpolation of the stamp, and its end at 7.5 sigma.
    assert np.abs(residual).max() < 1e-3
    assert (outside == 0).all()
    assert found.fracin[0, 0] == pytest.approx(1.0, abs=2e-3)
    assert found.fracmasked[0, 0] == 0
    assert found.fracflux[0, 0] == pytest.approx(0.0, abs=1e-6)
    # 4 pi sigma^2 for a Gaussian of 2 pixels of 0.262 arcsec.
    assert found.nea[0, 0] == pytest.approx(4 * np.pi * (2 * 0.262) ** 2, rel=1e-2)


def test_chi_squared_a_pixel_is_one_for_pure_noise() -> None:
    values = [_measure([(40.0, 40.0, 10.0)], seed=k)[2].rchisq[0, 0] for k in range(60)]
    # sum p chi^2 / sum p has the variance 2 sum p^2 / (sum p)^2 = 2 / (16 pi): 0.2 each.
    assert np.mean(values) == pytest.approx(1.0, abs=0.08)


def test_a_twin_twice_as_bright_at_the_same_place_has_fracflux_two() -> None:
    _, _, found = _measure([(40.0, 40.0, 5.0), (40.0, 40.0, 10.0)])
    assert found.fracflux[0, 0] == pytest.approx(2.0, rel=1e-3)
    assert found.fracflux[1, 0] == pytest.approx(0.5, rel=1e-3)


def test_half_of_a_star_on_the_image_is_half_in() -> None:
    _, _, found = _measure([(-0.5, 40.0, 10.0)])
    assert found.fracin[0, 0] == pytest.approx(0.5, abs=5e-3)


def test_fluxes_of_apertures_are_those_of_a_gaussian() -> None:
    sigma, flux = 2.0, 30.0
    coadd = coadd_band([exposure([(40.0, 41.0, flux)], sigma=sigma)], grid())
    found = aperture_fluxes(coadd, np.array([40.0]), np.array([41.0]), 0.262)
    radius = np.array(APERTURES) / 0.262
    # The aperture sees pixels as flat squares: the image is smoothed by one pixel more.
    expected = flux * (1 - np.exp(-0.5 * radius**2 / (sigma**2 + 1 / 12)))
    np.testing.assert_allclose(found.flux[0], expected, rtol=4e-3)
    np.testing.assert_allclose(found.weight[0] * np.pi * radius**2 * 0.02**2, 1, rtol=1e-3)
    assert (found.masked == 0).all()


def test_masked_pixels_are_counted_and_left_out() -> None:
    image = exposure([(40.0, 41.0, 30.0)])
    image.inverse_error[:, 40:] = 0
    coadd = coadd_band([image], grid())
    found = aperture_fluxes(coadd, np.array([39.5]), np.array([41.0]), 0.262)
    np.testing.assert_allclose(found.masked[0], 0.5, atol=1e-6)


def test_fibre_flux_of_a_star_is_its_part_of_the_seeing() -> None:
    stars = [(40.0, 40.0, 10.0), (42.0, 40.0, 10.0)]
    x, y = np.array([40.0, 42.0]), np.array([40.0, 40.0])
    own, total = fibre_fluxes(grid(), _sources(stars), x, y, ("r",), x, y)
    sigma = 1.0 / 2.35482
    # The published ratio of such stars is 0.7787 (DR9 cut-outs).
    alone = 1 - np.exp(-0.5 * 0.75**2 / (sigma**2 + 0.262**2 / 12))
    np.testing.assert_allclose(own[:, 0], 10 * alone, rtol=3e-3)
    assert (total[:, 0] > own[:, 0] * 1.2).all()
    size = 81
    both = gaussian(size, sigma / 0.262, 40, 40) + gaussian(size, sigma / 0.262, 42, 40)
    v, u = np.mgrid[:size, :size]
    fine = np.hypot(u - 40, v - 40) < 0.75 / 0.262
    # A crude aperture of whole pixels, for the order of magnitude only.
    assert total[0, 0] == pytest.approx(10 * both[fine].sum(), rel=0.1)

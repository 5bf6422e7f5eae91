"""Coadds keep fluxes, weights and masks."""

from __future__ import annotations

import numpy as np
import pytest
from brick_scenes import exposure, gaussian, grid

from skymill.release.brick._brick_kernels import resample
from skymill.release.brick._filter_kernels import fill_masked
from skymill.release.brick.bits import Quality
from skymill.release.brick.coadds import coadd_band, filled_image, psf_areas
from skymill.release.brick.mapping import map_pixels


def _lanczos(plane: np.ndarray, x: float, y: float) -> float:
    """The definition, with weights that sum to one."""

    def weights(at: float) -> tuple[np.ndarray, np.ndarray]:
        taps = np.arange(np.floor(at) - 2, np.floor(at) + 4)
        w = np.sinc(at - taps) * np.sinc((at - taps) / 3)
        return taps.astype(int), w / w.sum()

    ix, wx = weights(x)
    iy, wy = weights(y)
    ny, nx = plane.shape
    return float(wy @ plane[np.clip(iy, 0, ny - 1)][:, np.clip(ix, 0, nx - 1)] @ wx)


def test_resampling_is_the_definition_of_lanczos_3() -> None:
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(20, 25)).astype(np.float32)
    # A map that turns and stretches, with its nodes far apart: it is bilinear.
    columns, rows = np.meshgrid(16.0 * np.arange(3), 16.0 * np.arange(2))
    nodes = np.stack([7.0 + 1.2 * columns - 0.2 * rows, 5.0 + 0.1 * columns + 0.8 * rows])
    out = np.empty((14, 24), np.float32)
    resample(plane, nodes, 16, out)
    x = 7.0 + 1.2 * np.arange(24) - 0.2 * np.arange(14)[:, None]
    y = 5.0 + 0.1 * np.arange(24) + 0.8 * np.arange(14)[:, None]
    on = (x >= -0.5) & (x < 24.5) & (y >= -0.5) & (y < 19.5)
    expected = [_lanczos(plane.astype(float), a, b) for a, b in zip(x[on], y[on], strict=True)]
    # Sums of 36 float32 terms of order one.
    np.testing.assert_allclose(out[on], expected, atol=3e-6)
    assert out[0, 0] == plane[5, 7]
    assert not out[~on].any()
    assert 50 < on.sum() < on.size


def test_masked_pixels_are_filled_from_their_neighbours() -> None:
    image = np.full((9, 9), 3.0, np.float32)
    image[3:6, 3:6] = 1e6
    good = image < 10
    fill_masked(image, good, 9)
    np.testing.assert_array_equal(image, np.float32(3.0))
    image = np.full((4, 4), 7.0, np.float32)
    fill_masked(image, np.zeros((4, 4), bool), 4)
    assert (image == 0).all()


@pytest.mark.parametrize("scale", [0.2, 0.262, 0.455])
@pytest.mark.parametrize("rotation", [0.0, 37.0])
def test_the_flux_of_a_star_does_not_depend_on_the_pixels(scale: float, rotation: float) -> None:
    star = (41.3, 38.6, 100.0)
    seen = exposure(
        [star], scale=scale, rotation=rotation, sigma=0.7 / scale, noise=0.01, shift=(0.3, -0.2)
    )
    found = coadd_band([seen], grid())
    # A Lanczos-3 kernel that is cut off keeps 1e-3 of a Gaussian of sigma 1.5 pixels.
    assert found.image.sum() == pytest.approx(100.0, rel=2e-3)
    peak = np.unravel_index(np.argmax(found.image), found.image.shape)
    assert peak == (39, 41)


def test_weights_of_exposures_add_and_scatter_is_as_they_say() -> None:
    seen = [exposure([], noise=n, seed=k) for k, n in enumerate((0.02, 0.05, 0.03))]
    found = coadd_band(seen, grid())
    total = sum(1 / n**2 for n in (0.02, 0.05, 0.03))
    np.testing.assert_allclose(found.weight, total, rtol=1e-5)
    assert (found.n_exposures == 3).all()
    pull = found.image * np.sqrt(found.weight)
    # 6400 pixels: the standard deviation is known to 0.9 %; pixels of one grid stay apart.
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert found.chi2.mean() == pytest.approx(3.0, abs=0.1)


def test_masks_say_which_bits_all_and_any_exposure_has() -> None:
    seen = [exposure([(40, 40, 5.0)]) for _ in range(2)]
    seen[0].quality[10, 12] = int(Quality.CR)
    seen[0].inverse_error[10, 12] = 0
    for image in seen:
        image.quality[20, 20] = int(Quality.SATUR)
        image.inverse_error[20, 20] = 0
    seen[1].quality[20, 20] |= int(Quality.BLEED)
    found = coadd_band(seen, grid())
    assert found.all_mask[10, 12] == 0
    assert found.any_mask[10, 12] == Quality.CR
    assert found.all_mask[20, 20] == Quality.SATUR
    assert found.any_mask[20, 20] == Quality.SATUR | Quality.BLEED
    assert found.n_exposures[10, 12] == 1
    assert found.n_exposures[20, 20] == 0
    assert found.n_covering[20, 20] == 2
    assert found.weight[20, 20] == 0
    assert np.isfinite(found.image).all()


def test_psf_size_and_depth_are_those_of_a_gaussian() -> None:
    sigma, noise = 2.0, 0.02
    seen = exposure([], sigma=sigma, noise=noise)
    norm, galaxy = psf_areas(seen)
    # Values of a Gaussian: sum p^2 = 1 / (4 pi sigma^2) up to 1e-6 for sigma = 2.
    assert norm == pytest.approx(1 / (2 * np.sqrt(np.pi) * sigma), rel=1e-5)
    assert galaxy < norm
    found = coadd_band([seen], grid())
    np.testing.assert_allclose(found.psf_size, 2.35482 * sigma * 0.262, rtol=1e-4)
    np.testing.assert_allclose(found.depth, (norm / noise) ** 2, rtol=1e-5)
    np.testing.assert_allclose(found.galaxy_depth, (galaxy / noise) ** 2, rtol=1e-5)


def test_a_galaxy_of_0p45_arcsec_has_the_norm_of_galsim() -> None:
    galsim = pytest.importorskip("galsim")
    seen = exposure([], sigma=2.0)
    profile = galsim.Convolve(
        galsim.Exponential(half_light_radius=0.45), galsim.Gaussian(sigma=2.0 * 0.262)
    )
    drawn = profile.drawImage(nx=63, ny=63, scale=0.262, method="no_pixel").array
    # The stamp of the PSF ends at 7.5 sigma.
    assert psf_areas(seen)[1] == pytest.approx(np.sqrt((drawn**2).sum()), rel=2e-4)


def test_the_map_of_a_large_image_is_exact_to_a_thousandth_of_a_pixel() -> None:
    seen = exposure([], size=400, rotation=12.0)
    own = grid(300)
    found = map_pixels(seen, own)
    assert found.shape == (300, 300)
    x, y = found.positions()
    columns, rows = np.meshgrid(np.arange(300.0), np.arange(300.0))
    ra, dec = own.wcs.pixel_to_sky(x=columns.ravel(), y=rows.ravel())
    true_x, true_y = seen.wcs.sky_to_pixel(ra=ra, dec=dec)
    np.testing.assert_allclose(x.ravel(), true_x, atol=1e-3)
    np.testing.assert_allclose(y.ravel(), true_y, atol=1e-3)
    # The way back: nodes of the exposure on the brick.
    ra, dec = seen.wcs.pixel_to_sky(x=np.array([16.0 * 3]), y=np.array([16.0 * 5]))
    np.testing.assert_allclose(
        found.inverse[:, 5, 3], np.ravel(own.wcs.sky_to_pixel(ra=ra, dec=dec)), atol=1e-9
    )


def test_an_exposure_off_the_brick_has_an_empty_map() -> None:
    far = exposure([], shift=(4000.0, 0.0))
    assert not map_pixels(far, grid())


def test_filled_pixels_leave_the_exposure_as_it_is() -> None:
    seen = exposure([(40, 40, 100.0)])
    seen.inverse_error[40, 40] = 0
    before = seen.image.copy()
    filled = filled_image(seen)
    np.testing.assert_array_equal(seen.image, before)
    assert filled[40, 40] != before[40, 40]
    assert gaussian(3, 1.0, 1, 1).shape == (3, 3)

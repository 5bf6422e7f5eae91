"""Sheared images against galsim, noise without direction, response of a population."""

import galsim
import numpy as np
import pytest

from skymill.data.errors import DataError
from skymill.shear.metacal import SHEAR_TYPES, metacal, shear_matrix, target_sigma
from skymill.shear.metadetect import (
    MetadetectOptions,
    estimate_shear,
    metadetect_cell,
    select_for_shear,
)

N, OFFSET = 128, (3.3, -4.2)


def stamp(profile, n, shift=(0.0, 0.0)):
    # galsim's centre of an even image lies between pixels; ours is pixel n // 2.
    dx, dy = (0.5 + s if n % 2 == 0 else s for s in shift)
    return profile.shift(dx, dy).drawImage(nx=n, ny=n, scale=1.0, dtype=float).array


PSF = galsim.Moffat(beta=3, fwhm=3.6).shear(g1=0.03, g2=-0.02)
GALAXY = galsim.Exponential(half_light_radius=2.0).shear(g1=0.2, g2=0.1)
STAR = stamp(PSF, 63).astype(np.float32)


def test_images_are_those_that_galsim_draws_sheared():
    image = stamp(galsim.Convolve(GALAXY, PSF), N, OFFSET).astype(np.float32)
    sigma = target_sigma(STAR[None])
    found = metacal(image, np.zeros_like(image), STAR, sigma=sigma)
    for name, (u, v) in SHEAR_TYPES.items():
        place = shear_matrix(0.01 * u, 0.01 * v) @ OFFSET + 0.5
        seen = galsim.Convolve(
            GALAXY.shear(g1=0.01 * u, g2=0.01 * v).shift(*place), galsim.Gaussian(sigma=sigma)
        )
        truth = seen.drawImage(nx=N, ny=N, scale=1.0, method="no_pixel", dtype=float).array
        # Stamp of the PSF cut at 63 pixels: its wings hold 1e-4 of the flux.
        assert np.abs(found[name] - truth).max() < 3e-5 * truth.max()


def test_noise_has_no_direction_after_any_shear():
    rng = np.random.default_rng(4)
    sigma = target_sigma(STAR[None])
    moments = {name: np.zeros(2) for name in SHEAR_TYPES}
    alone = np.zeros(2)
    n_image = 40
    k = 2 * np.pi * np.fft.fftfreq(N)
    kx, ky = np.meshgrid(k, k)
    for _ in range(n_image):
        first, second = rng.normal(size=(2, N, N)).astype(np.float32)
        for noise, store in ((second, moments), (np.zeros_like(second), None)):
            found = metacal(first, noise, STAR, sigma=sigma)
            for name, plane in found.items():
                power = np.abs(np.fft.fft2(plane)) ** 2
                q = np.array(
                    [(power * (kx**2 - ky**2)).sum(), (2 * power * kx * ky).sum()]
                ) / (power * (kx**2 + ky**2)).sum()  # fmt: skip
                if store is not None:
                    store[name] += q / n_image
                elif name == "1p":
                    alone += q / n_image
    # About n^2 / 10 independent modes an image carry the power.
    error = 1 / np.sqrt(n_image * N**2 / 10)
    assert np.hypot(*alone) > 10 * error  # without the added noise there is a direction
    for name, q in moments.items():
        assert np.abs(q).max() < 4 * error, name


def cells(g, n_cell=6):
    out = []
    for k in range(n_cell):
        rng = np.random.default_rng(k // 2)
        image = np.zeros((N, N))
        shear = galsim.Shear(g1=g)
        angle = rng.uniform(0, np.pi, 4) + (k % 2) * np.pi / 2
        for (u, v), a in zip([(-20, -20), (20, -20), (-20, 20), (20, 20)], angle, strict=True):
            shape = galsim.Shear(g=0.3, beta=a * galsim.radians)
            profile = galsim.Exponential(half_light_radius=2.2, flux=100.0).shear(shape)
            image += stamp(galsim.Convolve(profile.shear(shear), PSF), N, (u, v))
        noise = rng.normal(0, 0.01, (2, N, N)).astype(np.float32)
        out.append(
            metadetect_cell(
                (image + noise[0]).astype(np.float32)[None], np.array([1e-4], np.float32),
                noise[1][None], STAR[None], bands=("r",), margin=20,
            )
        )  # fmt: skip
    return out


def test_shear_of_ring_pairs_is_recovered():
    plus, minus = (estimate_shear(cells(g)) for g in (0.02, -0.02))
    assert plus.n == minus.n == 24
    assert (plus.g1 - minus.g1) / 0.04 == pytest.approx(1.0, abs=0.02)  # 24 galaxies of S/N 100
    assert plus.response[0, 0] == pytest.approx(plus.response[1, 1], rel=0.1)
    assert abs(plus.response[0, 1]) < 0.1 * plus.response[0, 0]


def test_fluxes_and_positions_do_not_depend_on_the_applied_shear():
    one = cells(0.0, 2)[0]
    for table in one.values():
        order = np.lexsort((np.round(table["x"] / 30), np.round(table["y"] / 30)))
        table = table[order]
        assert select_for_shear(table).all()
        np.testing.assert_allclose(table["x"], [44, 84, 44, 84], atol=0.1)
        np.testing.assert_allclose(table["y"], [44, 44, 84, 84], atol=0.1)
        assert np.ptp(table["r_flux"]) < 0.1 * table["r_flux"].mean()
        assert (table["r_flux_err"] > 0).all()


def test_bad_cells_are_refused_in_a_sentence():
    good = np.zeros((1, N, N), np.float32)
    bad = good.copy()
    bad[0, 5, 5] = np.nan
    with pytest.raises(DataError, match="finite"):
        metadetect_cell(bad, np.ones(1), good, STAR[None], bands=("r",), margin=20)
    with pytest.raises(DataError, match="positive variance"):
        metadetect_cell(good, np.zeros(1), good, STAR[None], bands=("r",), margin=20)
    with pytest.raises(DataError, match="not all among"):
        metadetect_cell(
            good, np.ones(1), good, STAR[None], bands=("r",), shear_bands=("i",), margin=20
        )
    with pytest.raises(DataError, match="at least two cells"):
        estimate_shear(cells(0.0, 1), options=MetadetectOptions())

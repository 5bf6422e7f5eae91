"""Null tests find what was put in, in the right sky axes, with errors of the right size."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.shear.null_tests import (
    NullTestOptions,
    measure_b_mode,
    measure_psf_leakage,
    measure_shear_around_points,
    measure_star_galaxy_correlation,
    random_points,
    run_null_tests,
    summarize_null_test,
)

RA, DEC, SIDE = 359.95, -40.0, 30.0  # the field straddles RA 0; arcmin
FEW = NullTestOptions(n_patches=9, n_bins=4, max_radius_arcmin=15.0)


def sky(east, north):
    return (RA + east / 60 / np.cos(np.radians(DEC))) % 360, DEC + north / 60


def make_shears(n=6000, *, sigma=0.25, seed=1, side=SIDE):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    ra, dec = sky(east, north)
    g1, g2 = rng.normal(0, sigma, (2, n))
    table = Table({"ra": ra, "dec": dec, "g1": g1, "g2": g2, "weight": rng.uniform(0.5, 1, n)})
    return table, east, north


def test_leakage_that_was_put_in():
    table, east, north = make_shears(sigma=0.05)
    psf = 0.03 * np.sin(east / 5), 0.03 * np.cos(north / 4)
    table["g1"] += 0.2 * psf[0] + 0.004
    table["g2"] += -0.1 * psf[1]
    found = measure_psf_leakage(table, psf_g1=psf[0], psf_g2=psf[1], options=FEW)
    # 0.05 / sqrt(6000) / 0.021 = 0.031; a jackknife of nine knows that to a quarter.
    assert found["alpha_err"][:2] == pytest.approx(0.031, rel=0.8)
    truth = [0.2, -0.1, 0.05]
    assert (np.abs(found["alpha"] - truth) < 4 * 0.031).all()
    assert found["c"][0] == pytest.approx(0.004, abs=4 * 0.05 / np.sqrt(6000))


def test_tangential_shear_has_the_sign_of_a_mass():
    table, east, north = make_shears(sigma=1e-4)
    east, north = east - 3.0, north + 2.0
    radius2 = east**2 + north**2
    amplitude = 0.02
    table["g1"] -= amplitude * (east**2 - north**2) / radius2
    table["g2"] -= amplitude * 2 * east * north / radius2
    ra, dec = sky(3.0, -2.0)
    found = measure_shear_around_points(table, ra=[ra], dec=[dec], options=FEW)
    # Flat against gnomonic offsets over 15 arcmin.
    np.testing.assert_allclose(found["g_t"], amplitude, rtol=5e-3)
    np.testing.assert_allclose(found["g_x"], 0.0, atol=3e-4)


def test_errors_of_noise_alone():
    p_values = []
    for seed in range(12):
        table, _, _ = make_shears(3000, seed=seed)
        rng = np.random.default_rng([seed, 1])
        points = sky(*rng.uniform(-SIDE / 2, SIDE / 2, (2, 50)))
        found = measure_shear_around_points(
            table, ra=points[0], dec=points[1],
            options=NullTestOptions(n_bins=3, max_radius_arcmin=10.0),
        )  # fmt: skip
        for name, key in (("g_t", "covariance"), ("g_x", "covariance_x")):
            p_values.append(summarize_null_test(found[name], found.meta[key], 25)[-1])
    # 24 chances: the smallest is below 0.0005 in 1 % of the cases, the mean within 4 / sqrt(12 24).
    assert min(p_values) > 5e-4
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.24)


def test_a_cluster_in_the_field_is_no_signal_of_stars():
    p_values, side = [], 18.0
    for seed in range(24):
        table, east, north = make_shears(5000, sigma=0.3, seed=seed, side=side)
        radius = np.hypot(east, north)
        g_t = np.minimum(0.21 / radius, 0.2)  # an Einstein radius of 25 arcsec
        table["g1"] -= g_t * (east**2 - north**2) / radius**2
        table["g2"] -= g_t * 2 * east * north / radius**2
        rng = np.random.default_rng([seed, 2])
        ra, dec = sky(*rng.uniform(-side / 2, side / 2, (2, 100)))
        random = random_points(table, n=1000, rng=rng)
        found = measure_shear_around_points(table, ra=ra, dec=dec, random=random)
        n_groups = found.meta["n_patches"]
        p_values.append(summarize_null_test(found["g_t"], found.meta["covariance"], n_groups)[-1])
    # Of 24 chances more than four are below 0.05 in 0.6 % of the cases; with errors from patches
    # of galaxies, which know nothing of the stars' places, seven are.
    assert np.count_nonzero(np.array(p_values) < 0.05) <= 4


def test_a_b_mode_is_seen_as_one():
    table, east, north = make_shears(6000, sigma=0.01)
    # Potential cos(k x) cos(k y) with k of a wave of 8 arcmin: an E mode; turned by 45 degrees: B.
    k = 2 * np.pi / 8
    g1 = np.zeros_like(east)
    g2 = np.sin(k * east) * np.sin(k * north)
    options = NullTestOptions(n_patches=9, n_bins=4, max_radius_arcmin=15.0)
    for a, b, high, low in ((g1, g2, "map2_e", "map2_b"), (-g2, g1, "map2_b", "map2_e")):
        turned = table.copy()
        turned["g1"] += 0.1 * a
        turned["g2"] += 0.1 * b
        found = measure_b_mode(turned, options=options)
        assert found[high].max() > 1e-4
        assert np.abs(found[low]).max() < 0.05 * found[high].max()


def test_star_galaxy_correlation_of_a_leakage():
    table, east, north = make_shears(6000, sigma=0.01)
    rng = np.random.default_rng(5)
    s_east, s_north = rng.uniform(-SIDE / 2, SIDE / 2, (2, 400))

    def psf(x, y):
        return 0.05 * np.sin(x / 6), 0.05 * np.cos(y / 7)

    ra, dec = sky(s_east, s_north)
    p = psf(s_east, s_north)
    table["g1"] += 0.1 * psf(east, north)[0]
    table["g2"] += 0.1 * psf(east, north)[1]
    found = measure_star_galaxy_correlation(
        table, ra=ra, dec=dec, psf_g1=p[0], psf_g2=p[1], options=FEW
    )
    star = measure_star_galaxy_correlation(
        Table({"ra": ra, "dec": dec, "g1": p[0], "g2": p[1]}),
        ra=ra, dec=dec, psf_g1=p[0], psf_g2=p[1], options=FEW,
    )  # fmt: skip
    near = slice(0, 3)  # at large separations the PSF's own correlation passes through zero
    np.testing.assert_allclose(found["xi_plus"][near] / star["xi_plus"][near], 0.1, rtol=0.15)


def test_all_of_them_in_one_table():
    table, _, _ = make_shears(3000)
    rng = np.random.default_rng(3)
    ra, dec = sky(*rng.uniform(-SIDE / 2, SIDE / 2, (2, 200)))
    p = rng.normal(0, 0.01, (2, 200))
    psf = rng.normal(0, 0.01, (2, 3000))
    summary, parts = run_null_tests(
        table, psf_g1=psf[0], psf_g2=psf[1], star_ra=ra, star_dec=dec, star_psf_g1=p[0],
        star_psf_g2=p[1], rng=rng, options=FEW,
    )  # fmt: skip
    assert len(summary) == 8
    assert set(parts) == {"psf_leakage", "stars", "random", "b_mode", "star_galaxy"}
    assert (np.abs(summary["value"]) < 6 * summary["error"]).all()
    assert (summary["p_value"] > 1e-4).all()


def test_random_points_stay_in_the_field():
    table, _, _ = make_shears(500)
    ra, dec = random_points(table, n=300, rng=np.random.default_rng(2), options=FEW)
    assert np.abs(dec - DEC).max() < (SIDE / 2 + 5) / 60
    assert np.abs((ra - RA + 180) % 360 - 180).max() < (SIDE / 2 + 5) / 60 / np.cos(np.radians(DEC))


def test_sentences():
    table, _, _ = make_shears(30)
    with pytest.raises(NoDataError, match="25 patches need at least 100 galaxies"):
        measure_b_mode(table)
    table, _, _ = make_shears(300)
    with pytest.raises(DataError, match="has to vary"):
        measure_psf_leakage(table, psf_g1=np.zeros(300), psf_g2=np.zeros(300))
    with pytest.raises(NoDataError, match="at least one point"):
        measure_shear_around_points(table, ra=[], dec=[])
    with pytest.raises(NoDataError, match="at least two of each"):
        measure_shear_around_points(table, ra=[RA], dec=[DEC], random=([RA, RA], [DEC, DEC]))
    with pytest.raises(NoDataError, match="10 stars"):
        measure_star_galaxy_correlation(table, ra=[1.0], dec=[1.0], psf_g1=[0.0], psf_g2=[0.0])
    with pytest.raises(ConfigError, match="must be > min_radius"):
        NullTestOptions(min_radius_arcmin=5.0, max_radius_arcmin=2.0)
    with pytest.raises(DataError, match="no column 'g1'"):
        measure_b_mode(Table({"ra": [1.0], "dec": [1.0]}))

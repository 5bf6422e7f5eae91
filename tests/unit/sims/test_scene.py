"""The sky: counts, colours, lensing, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError
from skymill.sims.halo import NfwHalo
from skymill.sims.populations import draw_field_galaxies, draw_stars, galaxy_counts
from skymill.sims.scene import (
    SceneOptions,
    lens_galaxies,
    make_scene,
    sky_offsets,
    sky_positions,
)
from skymill.sims.sky_tables import BANDS, galaxy_colours, star_facts


@pytest.fixture(scope="module")
def scene():
    return make_scene(SceneOptions(half_width=0.25, half_height=0.25), np.random.default_rng(3))


def test_counts_are_those_of_the_real_sky():
    table = draw_field_galaxies(
        np.random.default_rng(1), width=0.5, height=0.5, density=1.0, depth=25.0
    )
    for limit in (21.0, 23.0, 25.0):
        n = (table["mag_i"] < limit).sum() / 900.0
        # Poisson: 3 sigma.
        assert n == pytest.approx(galaxy_counts(limit), abs=3 * np.sqrt(galaxy_counts(limit) / 900))


def test_redshifts_and_types_follow_the_prior():
    """Mean redshift of spirals at i = 24 from the closed form of Benitez (2000)."""
    from scipy.special import gamma

    table = draw_field_galaxies(
        np.random.default_rng(2), width=1.0, height=1.0, density=1.0, depth=24.1
    )
    near = (np.abs(table["mag_i"] - 24.0) < 0.05) & (table["template"] >= 0.5)
    near &= table["template"] < 2.5
    alpha, zm = 1.81, 0.390 + 0.0636 * 4.0
    expected = zm * gamma(2 / alpha + 1) / gamma(1 / alpha + 1)
    z = np.asarray(table["z"])[near]
    sem = z.std() / np.sqrt(z.size)
    assert sem < 0.02
    # The 1 % that the table of colours cannot reach (z > 2.95) are drawn again.
    assert abs(z.mean() - expected) < 3 * sem + 0.01


def test_shapes_and_sizes():
    table = draw_field_galaxies(
        np.random.default_rng(5), width=0.5, height=0.5, density=1.0, depth=25.0
    )
    g = np.asarray(table["g1_int"])
    assert 0.22 < g.std() < 0.30
    assert abs(g.mean()) < 4 * g.std() / np.sqrt(g.size)
    assert np.hypot(table["g1_int"], table["g2_int"]).max() < 1
    disks = np.abs(np.asarray(table["mag_i"]) - 23.0) < 0.1
    disks &= np.asarray(table["bulge_fraction"]) < 1
    scale = np.asarray(table["hlr_disk"])[disks] / 1.678347
    # Miller et al. (2013): median 0.318 arcsec at i = 23.
    assert np.median(scale) == pytest.approx(np.exp(-1.145), rel=0.08)


def test_colours_of_templates():
    """An elliptical at z = 0 and 0.5, computed with speclite from the El template."""
    colours = galaxy_colours().colours(np.array([0.0, 0.0]), np.array([0.0, 0.5]))
    np.testing.assert_allclose(colours[:, 1], [1.0894, 2.4422], atol=2e-4)
    np.testing.assert_allclose(colours[:, 3], 0.0, atol=1e-12)
    middle = galaxy_colours().colours(np.array([0.5]), np.array([0.3]))[0, 1]
    ends = galaxy_colours().colours(np.array([0.0, 1.0]), np.array([0.3, 0.3]))[:, 1]
    assert ends.min() < middle < ends.max()


def test_stars_lie_on_the_locus():
    stars = draw_stars(np.random.default_rng(1), width=1.0, height=1.0, density=1.0, brightest=14)
    blue = np.asarray(stars["ps1_g"]) - np.asarray(stars["ps1_i"]) > 0.4
    blue &= np.asarray(stars["ps1_g"]) - np.asarray(stars["ps1_i"]) < 0.6
    colour = np.asarray(stars["ps1_g"] - stars["ps1_r"])[blue]
    locus = star_facts().locus
    assert np.median(colour) == pytest.approx(np.interp(0.5, locus["g_i"], locus["g_r"]), abs=0.01)
    for band in BANDS:
        assert np.isfinite(stars[f"mag_{band}"]).all()
    assert np.isfinite(stars["gaia_g"]).all()
    bright = (np.asarray(stars["ps1_i"]) > 15) & (np.asarray(stars["ps1_i"]) < 18)
    # Counts in COSMOS: 870 per deg2 between i = 15 and 18 (Poisson 3 sigma; area 1 deg2).
    facts = star_facts()
    inside = (facts.i_edges[:-1] >= 15) & (facts.i_edges[1:] <= 18)
    expected = facts.per_deg2[inside].sum()
    assert bright.sum() == pytest.approx(expected, abs=3.5 * np.sqrt(expected))


def test_lensing_shears_magnifies_and_dilutes():
    n = 40000
    rng = np.random.default_rng(1)
    halo = NfwHalo(180.0, 30.0, 0.3, 1e15, 4.0)
    east, north = rng.uniform(-200, 200, (2, n))
    ra, dec = sky_positions(east, north, ra0=180.0, dec0=30.0)
    table = Table({"ra": ra, "dec": dec, "z": np.full(n, 1.0), "row": np.arange(n)})
    for band in BANDS:
        table[f"mag_{band}"] = np.full(n, 22.0)
    kappa, g1, g2 = halo.kappa_gamma(east=east, north=north, source_redshift=1.0)
    mu = 1 / ((1 - kappa) ** 2 - g1**2 - g2**2)
    lensed = lens_galaxies(table, (halo,), rng)
    row = np.asarray(lensed["row"])
    np.testing.assert_allclose(lensed["g1"], (g1 / (1 - kappa))[row], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(lensed["mag_r"], 22 - 2.5 * np.log10(np.abs(mu[row])), rtol=1e-9)
    expected = np.minimum(1 / np.abs(mu), 1)[(np.abs(mu) < 20) & (kappa < 1)].sum()
    assert len(lensed) == pytest.approx(expected, abs=4 * np.sqrt(0.25 * n))


def test_members_are_on_the_red_sequence(scene):
    members = scene.galaxies[np.asarray(scene.galaxies["is_member"])]
    assert 100 < len(members) < 800
    red = np.asarray(members["template"]) == 0.0
    colour = np.asarray(members["mag_g"] - members["mag_r"])[red]
    assert colour.std() < 0.1
    brightest = members[np.argmin(members["mag_r"])]
    east, north = sky_offsets(
        np.array([brightest["ra"]]), np.array([brightest["dec"]]),
        ra0=scene.options.ra, dec0=scene.options.dec,
    )  # fmt: skip
    assert np.hypot(east, north)[0] < 1e-6
    assert (np.asarray(members["mu"]) == 1).all()


def test_same_seed_same_sky(scene):
    again = make_scene(scene.options, np.random.default_rng(3))
    for name in scene.galaxies.colnames:
        assert np.array_equal(scene.galaxies[name], again.galaxies[name])
    other = make_scene(scene.options, np.random.default_rng(4))
    assert len(other.galaxies) != len(scene.galaxies)


def test_sky_offsets_round_trip_across_the_wrap_and_near_the_pole():
    for ra0, dec0 in ((359.99, 0.0), (10.0, 84.0), (0.001, -60.0)):
        east, north = np.array([-1500.0, 900.0, 0.0]), np.array([800.0, -1200.0, 0.0])
        ra, dec = sky_positions(east, north, ra0=ra0, dec0=dec0)
        assert ((ra >= 0) & (ra < 360)).all()
        back = sky_offsets(ra, dec, ra0=ra0, dec0=dec0)
        np.testing.assert_allclose(back[0], east, atol=1e-7)
        np.testing.assert_allclose(back[1], north, atol=1e-7)


def test_options_say_what_is_wrong():
    with pytest.raises(ConfigError, match=r"redshift must be >= 0.01 and <= 2.0; got -0.1"):
        SceneOptions(redshift=-0.1)
    with pytest.raises(ConfigError, match="mass must be"):
        SceneOptions(mass=-1.0)
    empty = make_scene(
        SceneOptions(mass=0.0, half_width=0.05, half_height=0.05, star_density=0.0),
        np.random.default_rng(1),
    )
    assert empty.halos == ()
    assert len(empty.halo_table()) == 0
    assert len(empty.stars) == 0
    assert (empty.galaxies["g1"] == 0).all()

"""Reference catalogues: schema, noise, gaps, motions."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.data.tables import load_schema
from skymill.data.units import njy_from_magnitude
from skymill.sims.catalogs import gaia_catalogue, ps1_catalogue
from skymill.sims.scene import SceneOptions, make_scene


@pytest.fixture(scope="module")
def scene():
    options = SceneOptions(half_width=0.3, half_height=0.3, depth=22.0, ra=359.95)
    return make_scene(options, np.random.default_rng(1))


def matched(catalogue, stars):
    index = np.searchsorted(np.asarray(stars["id"]), np.asarray(catalogue["id"]))
    return stars[index]


def test_gaia(scene):
    catalogue = gaia_catalogue(scene, np.random.default_rng(2))
    load_schema("refcat").validate(catalogue)
    assert ((catalogue["ra"] >= 0) & (catalogue["ra"] < 360)).all()
    stars = matched(catalogue, scene.stars)
    assert (np.asarray(stars["id"]) == np.asarray(catalogue["id"])).all()
    total = (np.asarray(scene.stars["gaia_g"]) < 20.7).sum()
    assert 0.9 * total < len(catalogue) < total
    assert 100 < len(catalogue) / 0.36 < 5000
    # The epoch is that of the scene: positions differ by their errors only.
    pull = (np.asarray(catalogue["dec"]) - np.asarray(stars["dec"])) * 3.6e6
    pull /= np.asarray(catalogue["dec_err"])
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pull.size))
    flux = njy_from_magnitude(np.asarray(stars["gaia_g"]))
    pull = (np.asarray(catalogue["phot_g_mean_flux"]) - flux) / catalogue["phot_g_mean_flux_err"]
    assert np.std(pull) == pytest.approx(1.0, abs=4 / np.sqrt(2 * pull.size))
    moving = np.isfinite(np.asarray(catalogue["pm_ra"]))
    assert 0.5 < moving.mean() < 1
    pull = (np.asarray(catalogue["pm_ra"]) - np.asarray(stars["pm_ra"]))[moving]
    pull /= np.asarray(catalogue["pm_ra_err"])[moving]
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pull.size))


def test_ps1(scene):
    catalogue = ps1_catalogue(scene, np.random.default_rng(2))
    load_schema("refcat").validate(catalogue)
    stars = catalogue[np.asarray(catalogue["is_star"])]
    assert 0 < len(stars) < len(catalogue)
    truth = matched(stars, scene.stars)
    for band in "grizy":
        flux = njy_from_magnitude(np.asarray(truth[f"ps1_{band}"]))
        pull = (np.asarray(stars[f"{band}_flux"]) - flux) / np.asarray(stars[f"{band}_flux_err"])
        known = np.isfinite(pull)
        assert 0.97 < known.mean() < 1.0
        assert pull[known].std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * known.sum()))
    # Four years before the epoch of the scene: the stars have moved by their proper motion.
    moved = (np.asarray(stars["dec"]) - np.asarray(truth["dec"])) * 3.6e6
    predicted = np.asarray(truth["pm_dec"]) * (55927.0 - scene.epoch) / 365.25
    pull = (moved - predicted) / np.asarray(stars["dec_err"])
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2 * pull.size))


def test_catalogues_of_an_empty_sky():
    options = SceneOptions(
        half_width=0.02, half_height=0.02, star_density=0.0, galaxy_density=0.0, mass=0.0
    )
    empty = make_scene(options, np.random.default_rng(1))
    assert len(gaia_catalogue(empty, np.random.default_rng(1))) == 0
    assert len(ps1_catalogue(empty, np.random.default_rng(1))) == 0

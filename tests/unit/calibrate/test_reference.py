import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.reference import (
    ReferenceOptions,
    load_references,
    move_to_epoch,
    resolve_flux_column,
)
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.tables import load_schema


def shard(n=4, **changes):
    columns = {
        "id": np.arange(n),
        "ra": np.full(n, 10.0),
        "dec": np.linspace(0, 1, n),
        "ra_err": np.full(n, 3.0),
        "dec_err": np.full(n, 3.0),
        "pm_ra": np.full(n, 100.0),
        "pm_dec": np.full(n, -200.0),
        "pm_ra_err": np.full(n, 1.0),
        "pm_dec_err": np.full(n, 1.0),
        "parallax": np.zeros(n),
        "epoch": np.full(n, 57000.0),
        "i_flux": np.full(n, 1e5) * np.arange(1, n + 1),
        "i_flux_err": np.full(n, 1e3),
    }
    columns.update(changes)
    return load_schema("refcat").apply(Table({k: v for k, v in columns.items() if v is not None}))


def test_proper_motion_to_the_epoch_with_its_error():
    stars = load_references([shard()], band="i", epoch_mjd=57000.0 + 3652.5)
    np.testing.assert_allclose(stars.dec - np.linspace(0, 1, 4), -2.0 / 3600, atol=1e-11)
    east = (stars.ra - 10.0) * np.cos(np.radians(stars.dec)) * 3600
    np.testing.assert_allclose(east, 1.0, atol=1e-6)
    np.testing.assert_allclose(stars.error, np.hypot(3.0, 10.0))


def test_motion_is_a_great_circle_at_the_pole():
    ra, dec = move_to_epoch(
        np.array([0.0]), np.array([90 - 1 / 3600]), np.zeros(1), np.array([1000.0]), years=2.0
    )
    assert ra[0] == pytest.approx(180.0)
    assert (90 - dec[0]) * 3600 == pytest.approx(1.0, abs=1e-6)


def test_stars_without_motion_stay_and_may_be_left_out():
    table = shard(pm_ra=np.array([np.nan, 0, 0, 0]), pm_dec=np.array([np.nan, 0, 0, 0]))
    stars = load_references([table], band="i", epoch_mjd=60000.0)
    assert stars.ra[0] == pytest.approx(10.0)
    assert len(stars) == 4
    options = ReferenceOptions(require_proper_motion=True)
    assert len(load_references([table], band="i", epoch_mjd=60000.0, options=options)) == 3


def test_a_star_in_two_shards_counts_once():
    assert len(load_references([shard(), shard(6)], band="i", epoch_mjd=57000.0)) == 6


def test_magnitude_limits_and_colour():
    from skymill.data.units import magnitude_from_njy

    faint = float(magnitude_from_njy(2.5e5))
    options = ReferenceOptions(mag_max=faint)
    assert len(load_references([shard()], band="i", epoch_mjd=57000.0, options=options)) == 2
    table = shard(g_flux=np.array([1e5, 1e5, 0.0, np.nan]), g_flux_err=np.full(4, 1.0))
    stars = load_references([table], band="i", epoch_mjd=57000.0, colour=("g", "i"))
    np.testing.assert_allclose(stars.colour[:2], [0.0, 2.5 * np.log10(2.0)], atol=1e-12)
    assert np.isnan(stars.colour[2:]).all()


def test_what_is_missing_is_said():
    with pytest.raises(DataError, match=r"no flux column for 'z' .*its flux columns: i_flux"):
        load_references([shard()], band="z", epoch_mjd=57000.0)
    bad = shard()
    bad.remove_column("epoch")
    with pytest.raises(DataError, match="no column 'epoch'"):
        load_references([bad], band="i", epoch_mjd=57000.0)
    with pytest.raises(NoDataError, match="ingest one that covers"):
        load_references([], band="i", epoch_mjd=57000.0)
    options = ReferenceOptions(mag_max=5.0)
    with pytest.raises(NoDataError, match="none of the 4 reference objects"):
        load_references([shard()], band="i", epoch_mjd=57000.0, options=options)
    with pytest.raises(ConfigError, match="mag_min must be < mag_max"):
        ReferenceOptions(mag_min=20.0, mag_max=10.0)
    stars = load_references([shard()], band="z", epoch_mjd=57000.0, flux_needed=False)
    assert np.isnan(stars.flux).all()


@pytest.mark.parametrize("field", ["i", "i_flux", "imag", "i_psf", "i_mag"])
def test_names_of_the_published_configuration(field):
    assert resolve_flux_column(["id", "i_flux", "g_flux"], field) == "i_flux"


def test_gaia_name():
    assert resolve_flux_column(["phot_g_mean_flux"], "phot_g_mean_mag") == "phot_g_mean_flux"

import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.residual_map import map_residuals
from skymill.data.errors import DataError


def make_stars(n=4000, step=0.0):
    rng = np.random.default_rng(3)
    ra, dec = (359.5 + rng.uniform(0, 1, n)) % 360, rng.uniform(-0.5, 0.5, n)
    value = rng.normal(0, 0.02, n) + np.where(dec > 0, step, 0.0)
    return Table(
        {
            "band": np.where(np.arange(n) % 2, "g", "r"), "ra": ra, "dec": dec,
            "reference_mag": np.full(n, 18.0), "residual": value,
            "residual_err": np.full(n, 0.02), "used": np.ones(n, bool),
        }
    )  # fmt: skip


def test_uniform_calibration_has_pulls_of_one():
    cells = map_residuals(make_stars(), cell_arcmin=10.0)
    assert set(cells["band"]) == {"g", "r"}
    # Cells of fewer than three stars at the edge are left out.
    assert 3900 < cells["n_star"].sum() <= 4000
    pulls = cells["residual"] / cells["residual_err"]
    # 72 or more cells.
    assert np.std(pulls) == pytest.approx(1.0, abs=0.25)
    offset = (np.asarray(cells["ra"]) + 180) % 360 - 180
    assert np.abs(offset).max() < 0.7


def test_a_step_in_the_field_is_seen():
    cells = map_residuals(make_stars(step=0.05), cell_arcmin=10.0)
    north = np.asarray(cells["dec"]) > 0
    assert np.median(cells["residual"][north]) == pytest.approx(0.05, abs=0.005)
    assert abs(np.median(cells["residual"][~north])) < 0.005


def test_empty_and_wrong_input():
    stars = make_stars(10)
    stars["used"] = False
    assert len(map_residuals(stars)) == 0
    assert len(map_residuals(make_stars(2))) == 0
    with pytest.raises(DataError, match="cell_arcmin must be > 0"):
        map_residuals(stars, cell_arcmin=0.0)

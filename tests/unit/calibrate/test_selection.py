import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.selection import (
    SelectOptions,
    count_reasons,
    published_cuts,
    select_detectors,
)
from skymill.data.errors import ConfigError, NoDataError


def make_visit(visit, n=20, **changes):
    columns = {
        "visit": np.full(n, visit), "detector": np.arange(1, n + 1), "band": np.full(n, "r"),
        "ra": np.full(n, 359.9), "dec": np.full(n, 10.0), "n_star": np.full(n, 100),
        "fwhm": np.full(n, 3.8), "ellipticity": np.full(n, 0.05),
    }  # fmt: skip
    columns.update(changes)
    return Table(columns)


OPTIONS = SelectOptions(fwhm=4.4, ellipticity=0.13, drop_detectors=(2,))


def reasons(table, visit):
    mine = table[table["visit"] == visit]
    return {int(r["detector"]): str(r["reason"]) for r in mine}


def test_every_cut_names_its_value_and_its_limit():
    fwhm, shape, stars, ra = np.full(20, 3.8), np.full(20, 0.05), np.full(20, 100), np.full(20, 0.1)
    fwhm[4], fwhm[5], shape[6], stars[7], ra[8] = 4.5, np.nan, 0.2, 20, 5.0
    visits = [make_visit(1), make_visit(2), make_visit(3, fwhm=fwhm, ellipticity=shape,
                                                       n_star=stars, ra=ra)]  # fmt: skip
    table = select_detectors(visits, centre=(0.0, 10.0), options=OPTIONS)
    got = reasons(table, 3)
    assert got[1] == ""
    assert got[2] == "detector: 2 is never used"
    assert got[5] == "fwhm: 4.50 > 4.4 pixel"
    assert got[6].startswith("fwhm: nan")
    assert got[7] == "ellipticity: 0.200 > 0.13"
    assert got[8] == "stars: 20 < 70.0"
    assert got[9].startswith("distance: 4.92 > 1.5 deg")
    assert count_reasons(table) == {
        "detector": 3, "distance": 1, "ellipticity": 1, "fwhm": 2, "selected": 52, "stars": 1,
    }  # fmt: skip
    assert table["selected"].sum() == 52


def test_visits_of_few_stars_or_few_detectors_go():
    cloudy = make_visit(9, n_star=np.full(20, 40))
    poor = make_visit(8, fwhm=np.where(np.arange(20) < 12, 9.0, 3.8))
    table = select_detectors(
        [make_visit(1), make_visit(2), make_visit(3), poor, cloudy],
        centre=(0.0, 10.0),
        options=OPTIONS,
    )
    assert all(r.startswith(("visit: 40.0", "detector:")) for r in reasons(table, 9).values())
    assert reasons(table, 8)[20] == "detectors: 8 good ones in the visit < 11"


def test_a_small_field_of_equal_visits_keeps_all():
    options = SelectOptions(min_detectors=2, drop_detectors=())
    table = select_detectors(
        [make_visit(v, n=4, n_star=np.array([50, 52, 48, 50])) for v in range(3)],
        centre=(0.0, 10.0),
        options=options,
    )
    assert table["selected"].all()


def test_nothing_to_select_and_bad_cuts():
    with pytest.raises(NoDataError, match="run check_visit first"):
        select_detectors([], centre=(0.0, 0.0))
    with pytest.raises(ConfigError, match="fwhm must be > 0"):
        SelectOptions(fwhm=0.0)
    assert published_cuts("r") == (4.4, 0.13)
    assert published_cuts("u") == (6.4, 0.33)

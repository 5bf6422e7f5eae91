"""Bricks of a region by the exact tiling, and those that CCDs touch."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.coadd.bricks import brick_at, brick_from_name
from skymill.data.errors import ConfigError, DataError
from skymill.release.survey.bricks import (
    BRICK_SIZE,
    brick_table,
    brick_wcs,
    bricks_in,
    is_primary,
    write_brick_table,
)
from skymill.release.survey.ccd_table import read_fits_table, read_survey_ccds
from skymill.release.survey.touching import bricks_near_ccds, bricks_touching


def test_the_worked_example_has_fifteen_bricks():
    names = [b.name for b in bricks_in(180, 181, 32, 33)]
    rows = ("p320", "p322", "p325", "p327", "p330")
    assert names == [f"{column}{row}" for column in (1801, 1804, 1807) for row in rows]


def test_a_region_may_span_the_origin_of_right_ascension():
    names = [b.name for b in bricks_in(359.5, 0.5, 0, 0.1)]
    assert names == ["3596p000", "3598p000", "0001p000", "0003p000"]


@pytest.mark.parametrize("limits", [(0, 1, 5, 4), (0, 1, -100, 0), (np.nan, 1, 0, 1)])
def test_a_region_that_is_none_is_told(limits):
    with pytest.raises(ConfigError, match=r"declinations|finite"):
        bricks_in(*limits)


@pytest.mark.parametrize("name", ["1804p3250", "1804x325", "9999p325", "brick"])
def test_a_bad_name_is_told(name):
    with pytest.raises(DataError, match="brick"):
        brick_from_name(name)


def test_the_centre_of_a_brick_is_the_centre_of_its_image():
    brick = brick_from_name("1867p255")
    middle = (BRICK_SIZE - 1) / 2
    ra, dec = brick_wcs(brick).pixel_to_sky(x=[middle, middle + 1], y=[middle, middle])
    assert (ra[0], dec[0]) == pytest.approx((brick.ra, brick.dec), abs=1e-10)
    assert (ra[0] - ra[1]) * np.cos(np.radians(dec[0])) * 3600 == pytest.approx(0.262, rel=1e-6)


def test_every_position_is_primary_in_exactly_one_brick():
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(-1, 1, 300) % 360, rng.uniform(-0.5, 0.5, 300)
    count = np.zeros(300, int)
    for brick in bricks_in(358, 2, -1, 1):
        count += is_primary(brick, ra=ra, dec=dec)
    np.testing.assert_array_equal(count, 1)


def test_the_table_equals_those_of_the_survey(shared_data, tmp_path):
    for path in sorted(shared_data.glob("cutouts/*/survey-bricks.fits.gz")):
        theirs = read_fits_table(path)
        own = brick_table([brick_from_name(str(theirs["brickname"][0]))])
        assert own.colnames == theirs.colnames
        for name in own.colnames:
            assert own[name].dtype.kind == theirs[name].dtype.kind
            if own[name].dtype.kind == "f":
                assert own[name][0] == pytest.approx(theirs[name][0], abs=1e-9)
            else:
                assert own[name][0] == theirs[name][0]
    write_brick_table(tmp_path / "survey-bricks.fits.gz", bricks_in(180, 181, 32, 33))
    assert len(read_fits_table(tmp_path / "survey-bricks.fits.gz")) == 15


def test_touching_bricks_of_real_ccds(shared_data):
    for path in sorted(shared_data.glob("cutouts/*/survey-bricks.fits.gz")):
        ccds = read_survey_ccds(path.parent)
        brick = brick_from_name(str(read_fits_table(path)["brickname"][0]))
        around = bricks_in(brick.ra - 0.6, brick.ra + 0.6, brick.dec - 0.5, brick.dec + 0.5)
        touched = [b.name for b in bricks_touching(around, ccds)]
        # The cut-outs are smaller than 1 arcmin; no edge of a brick crosses them.
        homes = {brick_at(ra=float(r["ra"]), dec=float(r["dec"])).name for r in ccds}
        assert homes == set(touched) == {brick.name}
        assert set(touched) <= {b.name for b in bricks_near_ccds(around, ccds)}


def test_no_ccd_touches_no_brick():
    ccds = Table(names=("ra", "dec"))
    assert bricks_touching(bricks_in(180, 181, 32, 33), ccds) == []
    assert bricks_near_ccds(bricks_in(180, 181, 32, 33), ccds) == []

"""The depth cut keeps what a brick needs, and the bit marks the rest."""

import numpy as np
import pytest
from test_cuts import make_ccds

from skymill.coadd.bricks import brick_from_name
from skymill.data.errors import DataError, NoDataError
from skymill.release.survey.cuts import CUT_BITS
from skymill.release.survey.depth_cut import (
    PERCENTILES,
    DepthCutOptions,
    collect_depth_cuts,
    depth_cut_brick,
    depth_percentiles,
)
from skymill.release.survey.rows import write_table
from skymill.release.survey.survey_dir import SurveyDir

BRICK = brick_from_name("1804p325")


def _survey(tmp_path, rows):
    # A CCD of one degree on a side covers the whole brick.
    large = {"ra": BRICK.ra, "dec": BRICK.dec, "crval1": BRICK.ra, "crval2": BRICK.dec,
             "width": 14000, "height": 14000}  # fmt: skip
    table = make_ccds(*({**large, **row} for row in rows))
    write_table(tmp_path / "survey-ccds-x.fits", table)
    return SurveyDir(tmp_path)


def _sig1(depth: float, galnorm: float = 0.12) -> float:
    """Noise with which one exposure has a galaxy depth."""
    return galnorm * 10 ** (-0.4 * (depth - 22.5)) / 5


def test_few_exposures_are_all_kept(tmp_path):
    survey = _survey(tmp_path, [{"expnum": k, "sig1": _sig1(22.0)} for k in range(1, 4)])
    out = depth_cut_brick(survey, BRICK, options=DepthCutOptions(step=60))
    assert out["overlapping"].all()
    assert out["passed_depth_cut"].all()


def test_as_many_are_kept_as_the_target_needs(tmp_path):
    # n equal exposures of depth d reach d + 1.25 log10 n: the target of r is 23.4 + 1.
    survey = _survey(tmp_path, [{"expnum": k, "sig1": _sig1(23.5)} for k in range(1, 21)])
    out = depth_cut_brick(survey, BRICK, options=DepthCutOptions(step=60))
    wanted = int(np.ceil(10 ** ((24.4 - 23.5) / 1.25)))
    assert out["passed_depth_cut"].sum() == wanted


def test_three_exposures_are_wanted_where_one_is_deep_enough(tmp_path):
    survey = _survey(tmp_path, [{"expnum": k, "sig1": _sig1(26.0)} for k in range(1, 11)])
    out = depth_cut_brick(survey, BRICK, options=DepthCutOptions(step=60))
    assert out["passed_depth_cut"].sum() == 3


def test_the_best_exposures_are_taken_first(tmp_path):
    rows = [{"expnum": k, "sig1": _sig1(26.0), "fwhm": 3.0 + 0.2 * k} for k in range(1, 11)]
    out = depth_cut_brick(_survey(tmp_path, rows), BRICK, options=DepthCutOptions(step=60))
    assert set(out["expnum"][out["passed_depth_cut"]]) == {1, 2, 3}


def test_bands_have_their_own_depth_and_unknown_bands_pass(tmp_path):
    rows = [{"expnum": k, "sig1": _sig1(26.0)} for k in range(1, 6)]
    rows += [{"expnum": 10 + k, "sig1": _sig1(26.0), "filter": "g"} for k in range(5)]
    rows += [{"expnum": 20, "filter": "Y"}]
    out = depth_cut_brick(_survey(tmp_path, rows), BRICK, options=DepthCutOptions(step=60))
    for band, count in (("r", 3), ("g", 3), ("Y", 1)):
        assert out["passed_depth_cut"][np.asarray(out["filter"]) == band].sum() == count


def test_percentiles_of_the_depth():
    depth = np.repeat([22.0, 24.0], 50)
    ivar = (5 / 10 ** (-0.4 * (depth - 22.5))) ** 2
    found = depth_percentiles(ivar)
    assert found[PERCENTILES.index(40)] == pytest.approx(22.0)
    assert found[PERCENTILES.index(60)] == pytest.approx(24.0)
    assert depth_percentiles(np.zeros(10)).max() == 0


def test_the_answers_of_bricks_are_joined(tmp_path):
    rows = [{"expnum": k, "sig1": _sig1(26.0)} for k in range(1, 6)]
    rows += [{"expnum": 9, "ra": 10.0, "crval1": 10.0, "dec": 0.0, "crval2": 0.0}]
    survey = _survey(tmp_path, rows)
    table = depth_cut_brick(survey, BRICK, options=DepthCutOptions(step=60))
    write_table(tmp_path / "dc" / f"ccds-{BRICK.name}.fits", table)
    files = list((tmp_path / "dc").glob("ccds-*.fits"))
    out, names = collect_depth_cuts(survey.ccds(), files)
    assert names == [BRICK.name]
    bit = CUT_BITS["depth_cut"]
    cut = (np.asarray(out["ccd_cuts"]) & bit) != 0
    assert cut.sum() == 3  # two of the brick, and the one elsewhere
    kept, _ = collect_depth_cuts(survey.ccds(), files, keep_others=True)
    assert kept["ccd_cuts"][np.asarray(kept["expnum"]) == 9][0] == 0
    again, _ = collect_depth_cuts(out, files)
    np.testing.assert_array_equal(again["ccd_cuts"], out["ccd_cuts"])


def test_what_cannot_be_done_is_told(tmp_path):
    survey = _survey(tmp_path, [{"expnum": 1}])
    with pytest.raises(NoDataError, match="no CCD overlaps the brick 0001p000"):
        depth_cut_brick(survey, brick_from_name("0001p000"))
    with pytest.raises(NoDataError, match="no tables"):
        collect_depth_cuts(survey.ccds(), [])
    write_table(tmp_path / "ccds-1804p325.fits", survey.ccds())
    with pytest.raises(DataError, match="no column passed_depth_cut"):
        collect_depth_cuts(survey.ccds(), [tmp_path / "ccds-1804p325.fits"])

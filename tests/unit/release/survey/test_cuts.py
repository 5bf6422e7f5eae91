"""Each reason not to use a CCD sets its bit, and only that; each can be switched off."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.tables import load_schema
from skymill.release.survey.ccd_table import as_survey_ccds, read_survey_ccds
from skymill.release.survey.cuts import (
    CUT_BITS,
    CUT_DOC,
    CutOptions,
    apply_cuts,
    count_cuts,
    read_bad_exposures,
)

GOOD = {
    "decam": {"filter": "r", "ccdzpt": 25.2, "zpt": 25.2, "ccdskycounts": 10.0},
    "mosaic": {"filter": "z", "ccdzpt": 26.2, "zpt": 26.2, "ccdskycounts": 50.0},
    "90prime": {"filter": "g", "ccdzpt": 25.6, "zpt": 25.6, "ccdskycounts": 5.0},
}
COMMON = {
    "image_filename": "x.fits", "image_hdu": 1, "expnum": 1, "ccdname": "N10", "exptime": 90.0,
    "mjd_obs": 57000.0, "airmass": 1.0, "fwhm": 4.0, "width": 2046, "height": 4094, "ra": 10.0,
    "dec": 5.0, "cd1_1": 0.0, "cd1_2": 7.28e-5, "cd2_1": -7.28e-5, "cd2_2": 0.0, "ccdrarms": 0.03,
    "ccddecrms": 0.03, "ccdphrms": 0.02, "ccdnphotom": 200, "ccdnastrom": 200, "yshift": True,
    "ccd_cuts": 0, "plver": "V4.8.2a", "sig1": 0.01, "galnorm": 0.12, "psfnorm": 0.15,
}  # fmt: skip


def make_ccds(*rows: dict) -> Table:
    """Good CCDs with some words changed."""
    full = [
        {**COMMON, **GOOD[row.get("camera", "decam")], "camera": "decam", **row} for row in rows
    ]
    return as_survey_ccds(Table(rows=full, names=list(full[0])))


def cut(row: dict, **options) -> set[str]:
    bits = int(
        apply_cuts(make_ccds(row), options=CutOptions(good_fraction=0.0, **options))["ccd_cuts"][0]
    )
    return {name for name, bit in CUT_BITS.items() if bits & bit}


@pytest.mark.parametrize("camera", GOOD)
def test_a_good_ccd_has_no_bit(camera):
    assert cut({"camera": camera}) == set()


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"ccd_cuts": 1}, "err"),
        ({"filter": "VR"}, "not_grz"),
        ({"camera": "mosaic", "yshift": False}, "not_third_pix"),
        ({"exptime": 29.0}, "exptime"),
        ({"ccdnphotom": 19}, "ccdnmatch"),
        ({"zpt": 24.9}, "zpt_diff_avg"),
        ({"ccdzpt": 24.7, "zpt": 24.7}, "zpt_small"),
        ({"ccdzpt": 25.6, "zpt": 25.6}, "zpt_large"),
        ({"ccdskycounts": 151.0}, "sky_bright"),
        ({"ccdskycounts": 100.0, "exptime": 400.0}, "sky_bright"),
        ({"ccdskycounts": np.nan}, "sky_bright"),
        ({"ccdphrms": 0.11}, "phrms"),
        ({"ccdrarms": 0.3, "ccddecrms": 0.3}, "radecrms"),
        ({"camera": "mosaic", "ccdrarms": 0.08, "ccddecrms": 0.08}, "radecrms"),
        ({"fwhm": 11.6}, "seeing_bad"),
        ({"fwhm": 0.0}, "seeing_bad"),
        ({"mjd_obs": 56500.0}, "early_decam"),
        ({"ccdname": "S7", "ccdphrms": 0.06}, "phrms_s7"),
    ],
)
def test_every_cut_sets_its_bit_and_can_be_omitted(row, name):
    assert cut(row) == {name}
    assert cut(row, skip=(name,)) == set()


def test_limits_can_be_set():
    assert cut({"exptime": 29.0}, exptime=20.0) == set()
    assert cut({}, max_seeing=1.0) == {"seeing_bad"}
    assert cut({}, n_match=201) == {"ccdnmatch"}
    assert cut({}, plver="V4.9") == {"plver"}
    assert cut({}, plver="V4.8.2") == set()
    assert cut({}, bands=("g",)) == {"not_grz"}
    assert cut({}, flagged_in_des=frozenset({1})) == {"flagged_in_des"}
    assert cut({}, bad_exposures={1: "clouds"}) == {"badexp"}


def test_the_zero_point_is_that_of_airmass_one_for_decam():
    assert cut({"ccdzpt": 25.5, "zpt": 25.5}) == set()
    assert cut({"ccdzpt": 25.5, "zpt": 25.5, "airmass": 2.0}) == {"zpt_large"}


def test_an_exposure_of_bad_ccds_is_bad_as_a_whole():
    rows = [{"ccdname": f"N{k}", "ccdphrms": 0.5 if k < 4 else 0.01} for k in range(10)]
    rows += [{"expnum": 2, "ccdname": "N1"}]
    out = apply_cuts(make_ccds(*rows))
    hit = (np.asarray(out["ccd_cuts"]) & CUT_BITS["too_many_bad_ccds"]) != 0
    assert list(hit) == [True] * 10 + [False]
    assert count_cuts(out) == {"phrms": 4, "too_many_bad_ccds": 10}
    kept = apply_cuts(make_ccds(*rows), options=CutOptions(skip=("too_many_bad_ccds",)))
    assert (np.asarray(kept["ccd_cuts"]) == 0).sum() == 7


def test_bits_of_other_steps_stay_and_cuts_can_be_repeated():
    table = make_ccds({"ccd_cuts": CUT_BITS["depth_cut"] | CUT_BITS["phrms"]})
    once = apply_cuts(table)
    assert once["ccd_cuts"][0] == CUT_BITS["depth_cut"] | CUT_BITS["too_many_bad_ccds"]
    assert apply_cuts(once)["ccd_cuts"][0] == once["ccd_cuts"][0]
    assert table["ccd_cuts"][0] == CUT_BITS["depth_cut"] | CUT_BITS["phrms"]


def test_real_ccds_pass_as_the_survey_let_them_pass(shared_data):
    for case in ("testcase3", "testcase6", "testcase9", "mzlsbass2"):
        ccds = read_survey_ccds(shared_data / "cutouts" / case)
        out = apply_cuts(ccds, options=CutOptions(good_fraction=0.0))
        assert np.all(out["ccd_cuts"] == 0), count_cuts(out)


def test_bits_are_documented_and_distinct():
    assert set(CUT_DOC) == set(CUT_BITS)
    assert sorted(CUT_BITS.values()) == [1 << k for k in range(len(CUT_BITS))]
    load_schema("survey-ccds").validate(make_ccds({}))


def test_wrong_words_are_told(tmp_path):
    with pytest.raises(ConfigError, match="no cut nonsense"):
        CutOptions(skip=("nonsense",))
    table = make_ccds({})
    table["camera"] = ["hsc"]
    with pytest.raises(DataError, match="camera hsc"):
        apply_cuts(table)
    with pytest.raises(MissingInputError, match="no list of bad exposures"):
        read_bad_exposures(tmp_path / "none")


def test_a_list_of_bad_exposures(tmp_path):
    path = tmp_path / "bad_expid.txt"
    path.write_text("# comment\n12 clouds\n\n20-22 moon # near\n7\n")
    assert read_bad_exposures(path) == {12: "clouds", 20: "moon", 21: "moon", 22: "moon", 7: ""}
    path.write_text("clouds 12\n")
    with pytest.raises(DataError, match="line 1"):
        read_bad_exposures(path)

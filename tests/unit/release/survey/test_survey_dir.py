"""An existing survey directory is read as it is."""

import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.files import atomic_path
from skymill.data.tables import load_schema
from skymill.instruments.community_ccd import read_ccd
from skymill.release.survey.ccd_table import as_survey_ccds, read_fits_table
from skymill.release.survey.layout import FILE_KINDS, release_path
from skymill.release.survey.psf_model import psf_norms
from skymill.release.survey.survey_dir import SurveyDir, open_survey

CASES = {"testcase3": 8, "testcase6": 6, "testcase9": 3, "mzlsbass2": 3, "decals_grz": 3}


@pytest.mark.parametrize("case", CASES)
def test_every_ccd_of_the_cutouts_is_read(shared_data, case):
    survey = SurveyDir(shared_data / "cutouts" / case)
    ccds = survey.ccds()
    load_schema("survey-ccds").validate(ccds)
    assert len(ccds) == CASES[case]
    assert len(survey.ccds_touching(str(survey.bricks()["brickname"][0]))) == CASES[case]
    for row in ccds:
        psf, sky = survey.psf(row), survey.sky(row)
        ccd = read_ccd(survey.image_path(row), hdu=int(row["image_hdu"]), ccd=row["ccdname"])
        assert ccd.image.shape == sky.shape == (row["height"], row["width"])
        info = ccd.info
        assert (info.expnum, info.band) == (row["expnum"], row["filter"])
        assert info.exptime == pytest.approx(row["exptime"], rel=1e-5)
        assert info.mjd_obs == pytest.approx(row["mjd_obs"], abs=1e-7)
        assert (ccd.weight > 0).any()
        stamp = psf.draw(x=[row["width"] / 2], y=[row["height"] / 2])[0]
        assert stamp.sum() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("case", ["testcase3", "testcase6", "testcase9", "mzlsbass2"])
def test_norms_of_the_psf_equal_those_of_the_table(shared_data, case):
    survey = SurveyDir(shared_data / "cutouts" / case)
    for row in survey.ccds():
        area = abs(float(row["cd1_1"]) * row["cd2_2"] - float(row["cd1_2"]) * row["cd2_1"])
        psfnorm, galnorm = psf_norms(
            survey.psf(row), x=[row["width"] / 2], y=[row["height"] / 2],
            pixel_scale=3600 * np.sqrt(area),
        )  # fmt: skip
        # The table holds them for the same model; its galaxy is another mixture of Gaussians for
        # the same profile.
        assert psfnorm[0] == pytest.approx(row["psfnorm"], rel=1e-3)
        assert galnorm[0] == pytest.approx(row["galnorm"], rel=4e-3)


def test_the_columns_are_those_of_the_survey_in_their_order(shared_data):
    theirs = read_fits_table(shared_data / "cutouts" / "testcase3" / "survey-ccds-1.fits.gz")
    schema = load_schema("survey-ccds")
    assert [c.name for c in schema.columns] == theirs.colnames
    for entry in schema.columns:
        if entry.dtype != "U":
            assert theirs[entry.name].dtype == np.dtype(entry.dtype), entry.name


def test_older_columns_are_translated_and_absent_ones_named(shared_data):
    survey = SurveyDir(shared_data / "cutouts" / "decals_grz")
    ccds = survey.ccds()
    assert set(ccds["ccdnphotom"]) == {38, 35, 46}
    assert "airmass" in ccds.meta["absent"]
    table = read_fits_table(survey.root / "survey-ccds-1.fits.gz")
    table.remove_column("camera")
    with pytest.raises(DataError, match="lacks the column camera"):
        as_survey_ccds(table)


def test_a_region_that_no_ccd_overlaps(shared_data):
    survey = SurveyDir(shared_data / "cutouts" / "testcase3")
    assert len(survey.ccds_touching("1804p325")) == 0
    with pytest.raises(ConfigError, match="needs a brick"):
        survey.ccds_touching()


def test_cuts_are_applied(shared_data, tmp_path):
    table = read_fits_table(shared_data / "cutouts" / "testcase3" / "survey-ccds-1.fits.gz")
    table["ccd_cuts"][:3] = 0x40
    table.write(tmp_path / "survey-ccds-x.fits")
    survey = SurveyDir(tmp_path)
    assert (len(survey.ccds()), len(survey.ccds(apply_cuts=False))) == (5, 8)


def test_missing_and_corrupt_things_are_told(shared_data, tmp_path, monkeypatch):
    with pytest.raises(MissingInputError, match="no survey directory"):
        SurveyDir(tmp_path / "nowhere")
    monkeypatch.delenv("LEGACY_SURVEY_DIR", raising=False)
    with pytest.raises(ConfigError, match="LEGACY_SURVEY_DIR"):
        open_survey()
    with pytest.raises(MissingInputError, match="no CCDs"):
        SurveyDir(tmp_path).ccds()
    with pytest.raises(MissingInputError, match=r"survey-bricks\.fits\.gz"):
        SurveyDir(tmp_path).bricks()
    row = SurveyDir(shared_data / "cutouts" / "testcase3").ccds()[0]
    with pytest.raises(MissingInputError, match="does not exist"):
        SurveyDir(tmp_path).image_path(row)
    (tmp_path / "survey-ccds-broken.fits").write_bytes(b"SIMPLE  = nonsense")
    with pytest.raises(DataError, match="truncated or no FITS"):
        SurveyDir(tmp_path).ccds()


def test_paths_of_products(tmp_path):
    survey = SurveyDir(tmp_path, output=tmp_path / "out")
    brick = "1804p325"
    assert (
        survey.find_file("tractor", brick=brick)
        == tmp_path / "out/tractor/180/tractor-1804p325.fits"
    )
    found = survey.find_file("image", brick=brick, band="g")
    assert found.name == "legacysurvey-1804p325-image-g.fits.fz"
    assert found.parent == survey.find_file("coadd-folder", brick=brick)
    with pytest.raises(ConfigError, match="needs the band"):
        survey.find_file("image", brick=brick)
    with pytest.raises(ConfigError, match="needs the brick"):
        survey.find_file("tractor")
    with pytest.raises(ConfigError, match="no kind of release file"):
        survey.find_file("nonsense")
    paths = {release_path(tmp_path, k, brick=brick, band="g", name="x") for k in FILE_KINDS}
    assert len(paths) == len(FILE_KINDS)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "table.fits"
    with atomic_path(path) as draft:
        draft.write_text("first")
    with pytest.raises(OSError), atomic_path(path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise OSError
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["table.fits"]


@pytest.mark.parametrize("name", ["fwhm", "mjd_obs", "crval1", "ccdzpt", "cd1_2"])
def test_a_table_without_a_needed_column_is_told(shared_data, tmp_path, name):
    source = next((shared_data / "cutouts" / "testcase3").rglob("survey-ccds*.fits*"))
    table = read_fits_table(source)
    table.remove_column(name)
    table.write(tmp_path / "survey-ccds-x.fits")
    with pytest.raises(DataError, match=f"lacks the column {name}; make the table again"):
        SurveyDir(tmp_path).ccds()

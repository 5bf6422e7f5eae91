"""Lists of images: dates, versions of one exposure, missing companions."""

import datetime

import pytest
from astropy.io import fits

from skymill.data.errors import ConfigError, MissingInputError
from skymill.release.survey.images import list_images, parse_date


def _write(root, name, *, plver="V4.8.2a", date="2019-01-01T00:00:00", kinds="iwd"):
    for kind in kinds:
        path = root / name.replace("_ooi_", f"_oo{kind}_")
        path.parent.mkdir(parents=True, exist_ok=True)
        primary = fits.PrimaryHDU()
        primary.header["PLVER"], primary.header["DATE"] = plver, date
        primary.writeto(path)


@pytest.fixture
def folder(tmp_path):
    """Images of two cameras, one of them in three versions, and other files."""
    root = tmp_path / "images"
    _write(root, "decam/A/c4d_150329_083320_ooi_r_v1.fits", plver="V3.5", date="2015-01-01")
    _write(root, "decam/B/c4d_150329_083320_ooi_r_ls9.fits", plver="V4.8.2a", date="2019-01-01")
    _write(root, "decam/C/c4d_150329_083320_ooi_r_ls10.fits", plver="V4.8.2a", date="2018-01-01")
    _write(root, "decam/B/c4d_150329_083320_ooi_g_ls9.fits")
    _write(root, "decam/B/c4d_180101_000000_ooi_g_ls9.fits")
    _write(root, "decam/B/c4d_180101_000001_ooi_g_ls9.fits", kinds="iw")
    _write(root, "90prime/c/ksb_160505_010203_ooi_g_v1.fits")
    (root / "decam/B/notes.txt").write_text("c4d")
    _write(root, "decam/B/c4d_180101_000000_opi_g_ls9.fits", kinds="i")
    return root


def test_the_newest_version_is_kept_and_the_others_are_named(folder):
    found = list_images(folder)
    assert found["decam"].images == [
        "decam/B/c4d_150329_083320_ooi_g_ls9.fits",
        "decam/B/c4d_150329_083320_ooi_r_ls9.fits",
        "decam/B/c4d_180101_000000_ooi_g_ls9.fits",
    ]
    kept = "decam/B/c4d_150329_083320_ooi_r_ls9.fits"
    assert found["decam"].duplicates == {
        "decam/A/c4d_150329_083320_ooi_r_v1.fits": kept,
        "decam/C/c4d_150329_083320_ooi_r_ls10.fits": kept,
    }
    assert list(found["decam"].incomplete) == ["decam/B/c4d_180101_000001_ooi_g_ls9.fits"]
    assert "no data quality" in next(iter(found["decam"].incomplete.values()))
    assert found["90prime"].images == ["90prime/c/ksb_160505_010203_ooi_g_v1.fits"]
    assert found["mosaic"].images == []


def test_dates_are_included_at_both_ends(folder):
    day = datetime.date(2018, 1, 1)
    assert list_images(folder, min_date=day)["decam"].images == [
        "decam/B/c4d_180101_000000_ooi_g_ls9.fits"
    ]
    assert len(list_images(folder, max_date=day)["decam"].images) == 3
    assert len(list_images(folder, max_date=datetime.date(2017, 12, 31))["decam"].images) == 2
    assert len(list_images(folder, cameras=["90prime"])) == 1
    assert len(list_images(folder, companions=False)["decam"].images) == 4


def test_paths_begin_with_the_camera_wherever_the_search_begins(folder):
    for start in (folder.parent, folder / "90prime"):
        found = list_images(start, cameras=["90prime"])["90prime"].images
        assert found == ["90prime/c/ksb_160505_010203_ooi_g_v1.fits"]


def test_a_link_in_a_circle_ends(folder):
    (folder / "decam" / "loop").symlink_to(folder)
    assert len(list_images(folder)["decam"].images) == 3


def test_real_cutouts(shared_data):
    found = list_images(shared_data / "cutouts" / "mzlsbass2")
    assert (len(found["90prime"].images), len(found["mosaic"].images)) == (2, 1)
    assert found["90prime"].incomplete == {}


def test_wrong_words_are_told(folder):
    with pytest.raises(MissingInputError, match="no folder"):
        list_images(folder / "none")
    with pytest.raises(ConfigError, match="camera must be one of"):
        list_images(folder, cameras=["hsc"])
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        parse_date("29.3.2015")
    with pytest.raises(ConfigError, match="must not be after"):
        list_images(folder, min_date=datetime.date(2018, 1, 2), max_date=datetime.date(2018, 1, 1))

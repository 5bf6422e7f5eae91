"""Merging tables and calibrations; the spatial index is complete."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from test_cuts import make_ccds

from skymill.data.errors import DataError, MissingInputError, NoDataError
from skymill.instruments.survey_folder import SurveyFolder
from skymill.release.survey.calibrations import merge_calibrations
from skymill.release.survey.ccd_table import read_fits_table, read_survey_ccds
from skymill.release.survey.kd_tree import search_kd_tree
from skymill.release.survey.merge import (
    INDEX_NSIDE,
    merge_tables,
    read_file_list,
    write_survey_ccds,
)
from skymill.release.survey.overlap import unit_vectors
from skymill.release.survey.survey_dir import SurveyDir


def _tables(tmp_path):
    first = make_ccds({"expnum": 1}, {"expnum": 0, "ccd_cuts": 1})
    second = make_ccds({"expnum": 2, "ccd_cuts": 64})
    second.remove_column("galnorm")
    first.write(tmp_path / "a.fits")
    second.write(tmp_path / "b.fits")
    (tmp_path / "list.txt").write_text(
        f"{tmp_path}/a.fits\n\n# {tmp_path}/x.fits\n{tmp_path}/b.fits\n"
    )
    return read_file_list(tmp_path / "list.txt")


def test_rows_are_stacked_and_missing_columns_are_zero(tmp_path):
    paths = _tables(tmp_path)
    merged = merge_tables(paths)
    assert list(merged["expnum"]) == [1, 0, 2]
    assert merged["galnorm"][0] > 0
    assert merged["galnorm"][2] == 0
    assert list(merge_tables(paths, cut=True)["expnum"]) == [1]
    assert list(merge_tables(paths, cut_expnum=True)["expnum"]) == [1, 2]
    assert list(merge_tables(paths, nproc=2)["expnum"]) == [1, 0, 2]


def test_what_cannot_be_merged_is_told(tmp_path):
    paths = _tables(tmp_path)
    with pytest.raises(NoDataError, match="no row is left"):
        merge_tables(paths[1:], cut=True)
    with pytest.raises(MissingInputError, match="no table"):
        merge_tables([tmp_path / "none.fits"])
    (tmp_path / "broken.fits").write_bytes((tmp_path / "a.fits").read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        merge_tables([tmp_path / "broken.fits"])
    with pytest.raises(MissingInputError, match="no file list"):
        read_file_list(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match="names no file"):
        read_file_list(tmp_path / "empty.txt")


def _sky(n=700, seed=2):
    rng = np.random.default_rng(seed)
    table = make_ccds(*({"expnum": k, "ccdname": "N1"} for k in range(n)))
    table["ra"] = rng.uniform(0, 360, n)
    table["dec"] = np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    table["ccd_cuts"][::7] = 64
    return table


@pytest.mark.parametrize(
    ("ra", "dec", "radius"), [(10, 20, 12), (359.9, 0, 20), (0, 90, 15), (9, -90, 3)]
)
def test_the_tree_finds_what_a_search_of_all_finds(tmp_path, ra, dec, radius):
    table, path = _sky(), tmp_path / "survey-ccds-x.kd.fits"
    assert write_survey_ccds(path, table) == 600
    with fits.open(path) as hdus:
        rows = Table.read(hdus[1])
        found = search_kd_tree(hdus, ra=ra, dec=dec, radius_deg=radius)
    step = unit_vectors(rows["ra"], rows["dec"]) - unit_vectors(ra, dec)
    inside = (step**2).sum(axis=1) <= (2 * np.sin(np.radians(radius) / 2)) ** 2
    np.testing.assert_array_equal(found, np.flatnonzero(inside))


def test_the_tree_has_the_extensions_of_the_survey(tmp_path, shared_data):
    theirs = shared_data / "cutouts/testcase9/survey-ccds-1.kd.fits"
    own = tmp_path / "survey-ccds-x.kd.fits"
    write_survey_ccds(own, read_survey_ccds(theirs.parent))
    with fits.open(theirs) as a, fits.open(own) as b:
        assert len(a) == len(b)
        for old, new in zip(a[2:], b[2:], strict=True):
            assert old.columns[0].name == new.columns[0].name
            assert old.columns[0].format == new.columns[0].format
            assert old.header["NAXIS1"] == new.header["NAXIS1"]
            assert old.header["NAXIS2"] == new.header["NAXIS2"]
            for key in ("KDT_NDAT", "KDT_NDIM", "KDT_NNOD", "KDT_VER", "KDT_INT", "KDT_DATA"):
                assert old.header.get(key) == new.header.get(key)
        np.testing.assert_array_equal(
            search_kd_tree(a, ra=9.123, dec=3.3985, radius_deg=2e-4), [0, 1]
        )
        for k in (5, 6):  # limits and points, to the last bit of the rounding
            mine = np.frombuffer(b[k].data.tobytes(), "<u4").astype(float)
            other = np.frombuffer(a[k].data.tobytes(), "<u4").astype(float)
            assert np.abs(mine - other).max() <= 2
    assert len(SurveyDir(tmp_path).ccds()) == 3


def test_the_other_format_has_rows_by_healpix(tmp_path):
    hpgeom = pytest.importorskip("hpgeom")
    path = tmp_path / "survey-ccds-x.fits.gz"
    assert write_survey_ccds(path, _sky()) == 700
    with fits.open(path) as hdus:
        rows, index = Table.read(hdus["CCDS"]), Table.read(hdus["HEALPIX"])
        assert hdus["HEALPIX"].header["NSIDE"] == INDEX_NSIDE
    pixel = hpgeom.angle_to_pixel(INDEX_NSIDE, rows["ra"].data, rows["dec"].data, nest=True)
    for number, start, count in index:
        assert np.all(pixel[start : start + count] == number)
    assert index["count"].sum() == len(rows)
    assert len(SurveyDir(tmp_path).ccds()) == 600


def test_no_good_ccd_makes_no_tree(tmp_path):
    with pytest.raises(NoDataError, match="no CCD is left"):
        write_survey_ccds(tmp_path / "survey-ccds-x.kd.fits", make_ccds({"ccd_cuts": 1}))


def _rows(path, n, size, expnum, ccd):
    """A PSF and a sky of one CCD, the PSF of some size."""
    folder = SurveyFolder(path, "decam")
    image = path / f"images/decam/CP/c4d_150101_{expnum:06d}_ooi_r_ls9.fits.fz"
    stamp = np.zeros((3, size, size), np.float32)
    stamp[:, size // 2, size // 2] = n
    psf = {"psf_mask": [stamp], "psf_samp": [1.0], "poldeg1": [1], "polzero1": [1.0],
           "polzero2": [1.0], "polscal1": [100.0], "polscal2": [100.0], "psfaxis1": [size],
           "expnum": [expnum], "ccdname": [ccd]}  # fmt: skip
    grid = np.full((4, 3 + n), float(n), np.float32)
    sky = {"gridvals": [grid], "xgrid": [np.arange(3 + n) * 100], "ygrid": [np.arange(4) * 100],
           "gridw": [3 + n], "gridh": [4], "order": [3], "x0": [0], "y0": [0], "expnum": [expnum],
           "ccdname": [ccd]}  # fmt: skip
    for kind, columns in (("psfex", psf), ("splinesky", sky)):
        file = folder.calibration_path(kind, image, expnum, ccd)
        file.parent.mkdir(parents=True, exist_ok=True)
        Table(columns).write(file)
    return image


def _ccds(*pairs):
    return make_ccds(*(
        {"expnum": e, "ccdname": c,
         "image_filename": f"decam/CP/c4d_150101_{e:06d}_ooi_r_ls9.fits.fz"} for e, c in pairs
    ))  # fmt: skip


@pytest.mark.parametrize("layout", ["dr9", "dr7"])
def test_calibrations_of_an_exposure_become_one_file(tmp_path, layout):
    image = _rows(tmp_path, 1, 31, 7, "N1")
    _rows(tmp_path, 2, 25, 7, "N2")
    report = merge_calibrations(_ccds((7, "N1"), (7, "N2")), tmp_path, output=tmp_path / "out",
                                layout=layout)  # fmt: skip
    assert len(report.merged) == 2
    assert len(report.merged[0].parts) > 3
    merged = SurveyFolder(tmp_path, "decam", calib=tmp_path / "out")
    for n, (ccd, size) in enumerate((("N1", 31), ("N2", 25)), 1):
        assert merged.psf(image, 7, ccd).stamp_size == size
        sky = merged.sky(image, 7, ccd, shape=(50, 50))
        np.testing.assert_allclose(sky, n, rtol=1e-6)
    again = merge_calibrations(_ccds((7, "N1"), (7, "N2")), tmp_path, output=tmp_path / "out",
                               layout=layout)  # fmt: skip
    assert (len(again.merged), len(again.kept)) == (0, 2)
    # Merged files serve as a source too.
    third = merge_calibrations(_ccds((7, "N1"), (7, "N2")), tmp_path, calib=tmp_path / "out",
                               output=tmp_path / "again", layout=layout)  # fmt: skip
    assert len(third.merged) == 2


def test_a_missing_ccd_fails_the_exposure_and_with_continue_only_that(tmp_path):
    _rows(tmp_path, 1, 31, 7, "N1")
    _rows(tmp_path, 1, 31, 8, "N1")
    ccds = _ccds((7, "N1"), (7, "N2"), (8, "N1"))
    with pytest.raises(MissingInputError, match="exposure 7 CCD N2 has no psfex calibration"):
        merge_calibrations(ccds, tmp_path)
    report = merge_calibrations(
        ccds, tmp_path, keep_going=True, output=tmp_path / "out", layout="dr7"
    )
    assert len(report.merged) == 2
    assert set(report.failed) == {"decam-7 psfex", "decam-7 splinesky"}
    assert str(report) == "2 merged, 0 kept, 2 failed"
    path = next((tmp_path / "calib").rglob("*N1-psfex.fits"))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(DataError, match="truncated"):
        merge_calibrations(_ccds((8, "N1")), tmp_path, force=True)


def test_the_table_of_ccds_keeps_its_columns(tmp_path):
    write_survey_ccds(tmp_path / "survey-ccds-x.fits", _sky(30))
    assert len(read_fits_table(tmp_path / "survey-ccds-x.fits").colnames) == 46

"""Small tables of calibrations: the same as astropy reads, faults are told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import DataError
from skymill.instruments.first_table import read_first_table

RNG = np.random.default_rng(3)


def write(path, **more):
    columns = [
        fits.Column("CCDNAME", "3A", array=np.array(["N4", "S29"])),
        fits.Column("expnum", "K", array=np.array([2**40, 3])),
        fits.Column("psf_mask", "24E", dim="(4,3,2)", array=RNG.normal(size=(2, 2, 3, 4))),
        fits.Column("grid", "5D", array=RNG.normal(size=(2, 5))),
        fits.Column("order", "I", array=np.array([3, -1])),
        *more.get("columns", ()),
    ]
    hdu = fits.BinTableHDU.from_columns(columns)
    hdu.header["POLNAME"] = ("X'IMAGE", "a / slash")
    hdu.header["SEEING"] = (1.5e-3, "width")
    hdu.header["LOADED"] = True
    hdu.header["COMMENT"] = "END"
    for key, value in more.get("header", {}).items():
        hdu.header[key] = value
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def check(path):
    rows, header = read_first_table(path)
    with fits.open(path, memmap=False) as hdus:
        data, theirs = hdus[1].data, hdus[1].header
        assert list(rows.dtype.names) == data.names
        for name in data.names:
            np.testing.assert_array_equal(rows[name].astype(data[name].dtype), data[name])
        for key in ("POLNAME", "SEEING", "LOADED", "NAXIS2", "TTYPE3"):
            assert header[key] == theirs[key]


def test_tables_are_those_of_astropy(tmp_path):
    check(write(tmp_path / "a.fits"))


@pytest.mark.parametrize(
    "more",
    [
        {"columns": [fits.Column("good", "L", array=np.array([True, False]))]},
        {"columns": [fits.Column("n", "I", bzero=32768, array=np.array([1, 40000], np.uint16))]},
        {"columns": [fits.Column("v", "PJ()", array=np.array([[1, 2], [3]], object))]},
        {"header": {"LONG": "x" * 100}},
    ],
)
def test_other_kinds_of_columns_too(tmp_path, more):
    path = write(tmp_path / "a.fits", **more)
    rows, header = read_first_table(path)
    with fits.open(path) as hdus:
        for name in set(hdus[1].data.names) - {"v"}:
            column = rows[name]
            np.testing.assert_array_equal(
                column.astype(hdus[1].data[name].dtype), hdus[1].data[name]
            )
    assert header["LOADED"] is True


def test_calibrations_of_the_cut_outs(shared_data):
    paths = sorted((shared_data / "cutouts").glob("*/calib/**/*.fits"))
    assert len(paths) > 20
    for path in paths:
        rows, header = read_first_table(path)
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("ignore")
            data = hdus[1].data
            for name in data.names:
                np.testing.assert_array_equal(rows[name].astype(data[name].dtype), data[name])
            for key, value in hdus[1].header.items():
                assert key in ("COMMENT", "HISTORY", "") or header[key] == value


@pytest.mark.parametrize("size", [0, 100, 2880, 2900, 5760, 5900])
def test_a_truncated_file_is_told(tmp_path, size):
    path = write(tmp_path / "a.fits")
    path.write_bytes(path.read_bytes()[:size])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"a\.fits is truncated"):
            read_first_table(path)

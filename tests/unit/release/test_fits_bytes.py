"""FITS files written as bytes: astropy reads what it would have written itself."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import DataError
from skymill.release import fits_bytes
from skymill.release.fits_bytes import (
    Compression,
    cards_of,
    compressed_image,
    empty_primary,
    image_primary,
    table,
)

RNG = np.random.default_rng(5)
NOISE = RNG.normal(size=(213, 104)).astype(np.float32)
ZEROS = np.where(RNG.random(NOISE.shape) < 0.3, np.float32(0), NOISE)
COUNTS = RNG.integers(0, 900, NOISE.shape)


def read(*parts):
    file = io.BytesIO(b"".join(parts))
    with fits.open(file) as hdus:
        hdus.verify("exception")
        return [(hdu.header.copy(), None if hdu.data is None else hdu.data.copy()) for hdu in hdus]


@pytest.mark.parametrize(
    ("data", "compression"),
    [
        (ZEROS, Compression(algorithm="RICE_1", step=-1e-4, dither=2)),
        (ZEROS, Compression(algorithm="RICE_1", step=16.0)),
        (NOISE, Compression(algorithm="RICE_1", step=-0.1)),
        (COUNTS.astype(np.int16), Compression(algorithm="HCOMPRESS_1")),
        (COUNTS.astype(np.int32), Compression(algorithm="HCOMPRESS_1")),
        (COUNTS.astype(np.uint8), Compression(algorithm="HCOMPRESS_1")),
        (NOISE, Compression(algorithm="GZIP_1", step=0.0)),
        (np.zeros((60, 50), np.float32), Compression(algorithm="RICE_1", step=16.0)),
        (NOISE[:50, :40], Compression(algorithm="RICE_1", step=-1e-4, dither=2)),
    ],
)
def test_images_are_those_of_astropy(data, compression, monkeypatch):
    cards = [("OBSTYPE", "object", "a word"), ("CRVAL1", 110.07587253414265, "")]
    fast = compressed_image(data, compression, name="IMAGE_G", cards=cards)
    assert len(fast) % 2880 == 0
    monkeypatch.setattr(fits_bytes, "compress_image_data", None)
    slow = compressed_image(data, compression, name="IMAGE_G", cards=cards)
    (_, _), (header, pixels) = read(empty_primary(), fast)
    (_, _), (their_header, their_pixels) = read(empty_primary(), slow)
    np.testing.assert_array_equal(pixels, their_pixels)
    assert pixels.dtype == their_pixels.dtype
    if compression.step:
        # A step is at most a sixteenth of the noise, or what was asked for.
        limit = 0.51 * abs(compression.step) if compression.step < 0 else 0.08
        np.testing.assert_allclose(pixels, data, atol=max(limit, 1e-4))
    else:
        np.testing.assert_array_equal(pixels, data)
    assert dict(header) == dict(their_header)
    assert header.comments["OBSTYPE"] == "a word"


def test_dither_keeps_zeros():
    compression = Compression(algorithm="RICE_1", step=-1e-4, dither=2)
    pixels = read(empty_primary(), compressed_image(ZEROS, compression, name="A"))[1][1]
    assert (pixels[ZEROS == 0] == 0).all()


def test_pixels_that_are_unknown_stay_so():
    data = NOISE.copy()
    data[3, 4] = np.nan
    compression = Compression(algorithm="GZIP_1", step=0.0)
    pixels = read(empty_primary(), compressed_image(data, compression, name="A"))[1][1]
    np.testing.assert_array_equal(pixels, data)


def test_tables_come_back():
    columns = {
        "id": np.arange(3, dtype=np.int64) + 2**40,
        "good": np.array([True, False, True]),
        "bits": np.array([1, 2, 255], np.uint8),
        "flux": RNG.normal(size=(3, 8)).astype(np.float32),
        "ra": np.array([1.5, np.nan, -1e300]),
        "type": np.array(["PSF", "REX", "S"]),
        "n": np.array([1, -2, 3], np.int16),
    }
    cards = [("BRICK", "1102p240", "it's")]
    parts = read(
        empty_primary([("NIGHT", "o'clock", "")]),
        table(columns, name="CATALOG", units={"flux": "nanomaggy"}, cards=cards),
    )
    assert parts[0][0]["NIGHT"] == "o'clock"
    header, data = parts[1]
    assert header["EXTNAME"] == "CATALOG"
    assert (header["BRICK"], header.comments["BRICK"]) == ("1102p240", "it's")
    assert header["TUNIT4"] == "nanomaggy"
    for name, values in columns.items():
        np.testing.assert_array_equal(data[name], values)
        assert name == "type" or data[name].dtype.newbyteorder("=") == values.dtype
    empty = read(empty_primary(), table({k: v[:0] for k, v in columns.items()}, name="CATALOG"))
    assert len(empty[1][1]) == 0


@pytest.mark.parametrize("number", [0.0, -0.1, 1e-300, 1.7976931348623157e308, np.pi * 1e-10,
                                    110.30801894232366, -123456789.12345679])  # fmt: skip
def test_numbers_of_headers(number):
    header = read(empty_primary([("X", number, "a comment of some length")]))[0][0]
    # Twenty characters hold at least 13 digits.
    assert header["X"] == pytest.approx(number, rel=1e-13)


def test_plain_images_come_back():
    data = COUNTS.astype(np.int32)
    header, pixels = read(image_primary(data, [("IMTYPE", "blobmap", "")]))[0]
    np.testing.assert_array_equal(pixels, data)
    assert header["IMTYPE"] == "blobmap"


def test_cards_of_a_header_leave_out_what_describes_the_data():
    header = fits.ImageHDU(NOISE, name="A").header
    header["CRPIX1"] = (3.0, "here")
    header["COMMENT"] = "something"
    assert cards_of(header) == [("CRPIX1", 3.0, "here")]


@pytest.mark.parametrize("value", [np.nan, np.inf, "x" * 69, "\N{DEGREE SIGN}"])
def test_what_a_header_cannot_hold_is_told(value):
    with pytest.raises(DataError):
        empty_primary([("X", value, "")])


def test_what_a_file_cannot_hold_is_told():
    with pytest.raises(DataError, match="complex"):
        table({"a": np.zeros(2, np.complex128)}, name="A")
    with pytest.raises(DataError, match="uint16"):
        image_primary(np.zeros((2, 2), np.uint16))

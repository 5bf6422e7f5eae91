"""Raw files: what they say, what is wrong with them."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from astropy.io import fits

from raw_decam import ccd_header, primary_header, write_raw
from skymill.data.errors import DataError, MissingInputError
from skymill.data.geometry import local_jacobian
from skymill.instruments.decam.headers import (
    describe,
    make_wcs,
    merge_headers,
    parse_section,
    read_raw_headers,
    translate,
)
from skymill.instruments.decam.reader import read_raw_ccd


@pytest.mark.parametrize("compressed", [True, False])
def test_read_back(tmp_path, compressed):
    path = tmp_path / ("a.fits.fz" if compressed else "a.fits")
    pixels = write_raw(path, 783028, (25, 61), compressed=compressed)
    raw = read_raw_ccd(path, 25)
    assert raw.image.dtype == np.uint16
    np.testing.assert_array_equal(raw.image, pixels)
    assert (raw.info.visit, raw.info.detector, raw.info.band) == (783028, 25, "r")
    assert raw.info.exposure_time == 90.0
    # 2018-10-12 03:28 UTC plus half of 90 s; TAI is 37 s ahead of UTC.
    assert raw.info.mjd_mid == pytest.approx(58403 + (3 * 3600 + 28 * 60 + 45 + 37) / 86400)
    assert raw.info.boresight_ra == pytest.approx(10.4583, abs=1e-3)
    assert raw.trimmed_shape == (4096, 2048)
    assert read_raw_ccd(path, 61).info.detector == 61


def test_wcs_counts_trimmed_pixels(tmp_path):
    path = tmp_path / "a.fits"
    write_raw(path, 783028, (25,), compressed=False)
    raw = read_raw_ccd(path, 25)
    header = ccd_header(25)
    # Trap of real raws: CRPIX counts trimmed pixels although the extension has pre- and overscan.
    # PV1_0 and PV2_0 shift the reference point, so that the closed form is of the middle terms.
    ra, _ = raw.wcs.pixel_to_sky(x=[header["CRPIX1"] - 1], y=[header["CRPIX2"] - 1])
    assert abs(ra[0] - header["CRVAL1"]) < 0.02
    jacobian = local_jacobian(raw.wcs, x=1024.0, y=2048.0)[0]
    assert np.sqrt(abs(np.linalg.det(jacobian))) == pytest.approx(0.263, abs=0.003)


def test_old_tan_with_pv_is_tpv():
    new, old = ccd_header(25), ccd_header(25)
    old["CTYPE1"], old["CTYPE2"] = "RA---TAN", "DEC--TAN"
    for a, b in zip(
        make_wcs(old).pixel_to_sky(x=[0.0, 2000.0], y=[0.0, 4000.0]),
        make_wcs(new).pixel_to_sky(x=[0.0, 2000.0], y=[0.0, 4000.0]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_real_headers(shared_data):
    text = (shared_data / "decam/headers/fitsheader-decam-raw_dec050441_25.yaml").read_text()
    header = fits.Header()
    for key, value in yaml.safe_load(text).items():
        header[f"HIERARCH {key}" if len(key) > 8 else key] = (
            "" if isinstance(value, float) and np.isnan(value) else value
        )
    raw = describe(translate(header, "real"), "real", [25])
    assert (raw.exposure, raw.filter.band, raw.day_obs) == (177764, "g", 20130212)
    assert raw.on_sky
    assert raw.end - raw.begin == pytest.approx(30 / 86400)
    wcs = make_wcs(header)
    ra, dec = wcs.pixel_to_sky(x=[1023.5], y=[2047.5])
    # S1 is centred 16.8 and 191 mm from the axis: 0.93 deg; the camera may point 0.01 deg aside.
    step = (ra[0] - header["CRVAL1"]) * np.cos(np.radians(raw.dec)), dec[0] - header["CRVAL2"]
    assert np.hypot(*step) == pytest.approx(0.93, abs=0.015)


def test_zero_and_flat_frames(tmp_path):
    write_raw(tmp_path / "zero.fits.fz", 1, (25,), kind="zero")
    write_raw(tmp_path / "flat.fits.fz", 2, (25,), kind="dome flat")
    zero = read_raw_headers(tmp_path / "zero.fits.fz")
    assert (zero.observation_type, zero.filter.band, zero.on_sky) == ("zero", "opaque", False)
    flat = read_raw_headers(tmp_path / "flat.fits.fz")
    assert (flat.observation_type, flat.filter.band, flat.on_sky) == ("dome flat", "r", False)
    assert read_raw_ccd(tmp_path / "flat.fits.fz", 25).wcs is None


def test_truncated_file(tmp_path):
    path = tmp_path / "a.fits.fz"
    write_raw(path, 783028, (25, 26))
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(DataError, match=r"a\.fits\.fz is truncated"):
        read_raw_headers(path)
    with pytest.raises(DataError, match=r"a\.fits\.fz is truncated"):
        read_raw_ccd(path, 26)
    assert read_raw_ccd(path, 25).info.detector == 25
    path.write_bytes(b"")
    with pytest.raises(DataError, match="truncated or no FITS"):
        read_raw_headers(path)
    with pytest.raises(MissingInputError, match="no file"):
        read_raw_headers(tmp_path / "nothing.fits")


def test_other_camera(tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,), camera="90prime")
    with pytest.raises(DataError, match="frame of 90prime, not of DECam"):
        read_raw_headers(tmp_path / "a.fits.fz")


def test_unknown_filter(tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25,), filter_name="q DECam c0099 1.0 1.0")
    with pytest.raises(DataError, match=r"a\.fits\.fz: DECam has no filter 'q DECam"):
        read_raw_headers(tmp_path / "a.fits.fz")


def test_missing_ccd(tmp_path):
    write_raw(tmp_path / "a.fits.fz", 783028, (25, 26))
    with pytest.raises(DataError, match="has no CCD 31; it has 25, 26"):
        read_raw_ccd(tmp_path / "a.fits.fz", 31)


def test_header_without_date():
    header = merge_headers(primary_header(5), ccd_header(25))
    del header["EXPNUM"]
    with pytest.raises(DataError, match=r"cannot be translated|does not tell"):
        describe(translate(header, "x.fits"), "x.fits", [25])


def test_sections():
    box = parse_section("[1081:2104,51:4146]")
    assert (box.x0, box.x1, box.y0, box.y1) == (1080, 2104, 50, 4146)
    assert parse_section("[2048:1025,4096:1]") == parse_section("[1025:2048,1:4096]")
    with pytest.raises(DataError, match="not a FITS section"):
        parse_section("1:2")

"""Headers against real ones, the translator, and the WCS against that of a real exposure."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
import yaml
from astro_metadata_translator import ObservationInfo, fix_header
from astropy.io import fits

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs, local_jacobian
from skymill.sims.detector import ccd_facts, ccd_number
from skymill.sims.headers import (
    FILTER_NAMES,
    ExposureHead,
    best_time,
    extension_header,
    primary_header,
    zenith_distance,
)
from skymill.sims.optics import Optics, aim_at, wcs_header


def head(kind="object", band="r", **changes):
    values = {
        "number": 830001, "kind": kind, "band": band, "exposure_time": 600.0,
        "mjd": 58534.197152, "ra": 150.0, "dec": 2.2, "target": "A1", "airmass": 1.2,
    }  # fmt: skip
    return ExposureHead(**{**values, **changes})


def merged(kind="object", band="r", ccd=25, **changes):
    out = primary_header(head(kind, band, **changes), 1)
    out.update(extension_header(ccd_facts(ccd), Optics(150.0, 2.2)))
    return out


# Cards of a compressed real file that astropy writes itself, and environment cards of the
# telescope that no pipeline reads.
_STRUCTURE = {
    "SIMPLE", "EXTEND", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT",
    "TFIELDS", "TTYPE1", "TFORM1", "BZERO", "BSCALE", "CHECKSUM", "DATASUM", "CHECKVER", "COMMENT",
}  # fmt: skip
_PREFIXES = ("Z", "DONUT", "G-", "FA", "DO", "BCAM", "UT", "PM", "SB_", "DT", "SLOT", "DHE", "LSKY",
             "GSKY", "LTM", "PV")  # fmt: skip
_TELEMETRY = {
    "TIME_RECORDED", "MAIRTEMP", "MSURTEMP", "UPTRTEMP", "LWTRTEMP", "LST", "SKYUPDAT", "RMCOUNT",
    "RECNO", "CCDBIN2", "WINDDIR",
}  # fmt: skip


def test_has_the_cards_of_a_real_raw_header(shared_data):
    path = shared_data / "decam" / "headers" / "fitsheader-decam-raw_dec050441_25.yaml"
    real = yaml.safe_load(path.read_text())
    mine = merged()
    missing = [
        key for key in real
        if key not in mine and key not in _STRUCTURE and key not in _TELEMETRY
        and not key.startswith(_PREFIXES)
    ]  # fmt: skip
    assert missing == []
    # Sections of the same CCD (S1) are the same strings.
    for key, value in real.items():
        if "SEC" in key and key != "DETSEC" and isinstance(value, str):
            assert mine[key] == value, key
    for key in ("DETSEC", "DETSIZE", "CCDNUM", "DETPOS", "EXTNAME", "LTV1", "LTV2", "PROCTYPE",
                "TELESCOP", "INSTRUME", "OBS-LONG", "CTYPE1", "RADESYS"):  # fmt: skip
        assert mine[key] == real[key], key


def test_wcs_looks_like_the_real_one(shared_data):
    """Same orientation, scale and distortion as the TPV header of a real S1."""
    path = shared_data / "decam" / "headers" / "fitsheader-decam-raw_dec050441_25.yaml"
    real = yaml.safe_load(path.read_text())
    keys = [k for k in real if k.startswith(("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CD", "PV"))]
    header = fits.Header([(k, real[k]) for k in keys])
    theirs = FitsWcs(header)
    mine = FitsWcs(wcs_header(ccd_facts(25), Optics(real["CRVAL1"], real["CRVAL2"])))
    x, y = np.array([10.0, 2000.0, 1000.0]), np.array([20.0, 100.0, 4000.0])
    # Ours has the cubic term only: the real polynomial differs by 0.3 % at the corner of S1.
    np.testing.assert_allclose(
        local_jacobian(mine, x=x, y=y), local_jacobian(theirs, x=x, y=y), atol=0.263 * 4e-3
    )
    ra, dec = mine.pixel_to_sky(x=x, y=y)
    ra2, dec2 = theirs.pixel_to_sky(x=x, y=y)
    # Their axis is off their pointing by the offset of every real exposure (< 15 arcsec).
    assert np.abs((ra - ra2) * np.cos(np.radians(dec))).max() < 15 / 3600
    assert np.abs(dec - dec2).max() < 15 / 3600


def test_translates_without_a_warning(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        info = ObservationInfo(merged(), pedantic=True)
    assert not caplog.records
    assert info.observation_type == "science"
    assert info.physical_filter == FILTER_NAMES["r"]
    assert (info.exposure_id, info.detector_num, info.detector_name) == (830001, 25, "1")
    assert info.exposure_time.to_value("s") == 600
    assert info.tracking_radec.ra.deg == pytest.approx(150.0, abs=1e-5)
    assert info.boresight_airmass == 1.2
    assert info.altaz_begin is not None


@pytest.mark.parametrize(("kind", "seen"), [("zero", "zero"), ("dome flat", "dome flat")])
def test_calibration_frames_translate(kind, seen):
    header = merged(kind, airmass=None, exposure_time=0.0 if kind == "zero" else 10.0)
    info = ObservationInfo(header, pedantic=True)
    assert info.observation_type == seen
    fixed = dict(header)
    fix_header(fixed)
    expected = "solid plate 0.0 0.0" if kind == "zero" else FILTER_NAMES["r"]
    assert fixed["FILTER"] == expected


@pytest.mark.parametrize("number", [1, 28, 35, 60, 62])
def test_every_side_of_the_camera_has_its_sections(number):
    header = extension_header(ccd_facts(number), Optics(10.0, -30.0))
    north = number >= 32
    assert header["TRIMSEC"] == ("[57:2104,1:4096]" if north else "[57:2104,51:4146]")
    assert header["LTV2"] == (0.0 if north else 50.0)
    assert header["POSTSECA"].endswith("4097:4146]" if north else "1:50]")
    assert header["EXTNAME"] == ccd_facts(number).name
    assert ccd_number(header["DETPOS"]) == number


def test_x_points_south_and_y_points_east():
    jac = local_jacobian(FitsWcs(wcs_header(ccd_facts(28), Optics(200.0, -40.0))), x=1000, y=2000)
    np.testing.assert_allclose(jac[0], [[0, 0.2634], [-0.2634, 0]], atol=2e-3)


def test_aiming_puts_a_place_of_the_focal_plane_on_the_target():
    ra, dec = aim_at(ra=359.99, dec=-52.0, focal_x=-100.0, focal_y=60.0)
    ccd = ccd_facts(14)
    wcs = FitsWcs(wcs_header(ccd, Optics(ra, dec, chip_rotation=False, distortion=False)))
    x, y = (-100.0 - ccd.x_min) / 0.015 - 0.5, (60.0 - ccd.y_min) / 0.015 - 0.5
    got = wcs.pixel_to_sky(x=[x], y=[y])
    # Half a pixel between the edge and the centre of the first pixel of the mosaic.
    assert abs((got[0][0] - 359.99 + 180) % 360 - 180) * np.cos(np.radians(52)) < 0.3 / 3600
    assert abs(got[1][0] + 52.0) < 0.3 / 3600


def test_time_and_airmass():
    mjd = best_time(150.0, 58533)
    assert 58534.0 < mjd < 58534.4
    zd, _, angle = zenith_distance(150.0, -30.16606, mjd)
    assert abs(angle) < 5
    assert zd < 5


def test_unknown_ccds():
    with pytest.raises(DataError, match="got CCDNUM 63"):
        ccd_facts(63)
    with pytest.raises(DataError, match="no CCD named 'S99'"):
        ccd_number("S99")

"""Small raw DECam files for tests, written from the camera's facts and nothing else of skymill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from skymill.instruments.decam.facts import RAW_SHAPE, get_camera

#: Real distortion coefficients (exposure 177764).
PV = {
    "PV1_0": 0.0107262491558, "PV1_1": 1.03899426784, "PV1_2": -0.00253295758814, "PV1_3": 0.0,
    "PV1_4": 0.0440579429998, "PV1_5": -0.00480948264558, "PV1_6": 0.00735227852542,
    "PV1_7": 0.01641672826, "PV1_8": -0.00253592468977, "PV1_9": 0.00562233785525,
    "PV1_10": -0.00235436587955, "PV2_0": -0.000677378816994, "PV2_1": 1.01170064187,
    "PV2_2": -0.00154844123095, "PV2_3": 0.0, "PV2_4": -0.000974573910792,
    "PV2_5": 0.015516347937, "PV2_6": -0.00176930825331, "PV2_7": -0.00664988058298,
    "PV2_8": -0.00246200658752, "PV2_9": 0.00641298947322, "PV2_10": -0.000605534691727,
}  # fmt: skip


def _section(box: object) -> str:
    return f"[{box.x0 + 1}:{box.x1},{box.y0 + 1}:{box.y1}]"


def primary_header(
    number: int, *, kind: str = "object", filter_name: str = "r DECam SDSS c0002 6415.0 1480.0",
    ra: str = "00:41:50.0", dec: str = "-09:18:11.0", camera: str = "DECam",
) -> fits.Header:  # fmt: skip
    header = fits.Header()
    minute = number % 60
    header.update({
        "PROCTYPE": "RAW", "PRODTYPE": "image", "FILENAME": f"DECam_{number:08d}.fits",
        "OBS-LONG": 70.81489, "TELESCOP": "CTIO 4.0-m telescope", "OBSERVAT": "CTIO",
        "OBS-LAT": -30.16606, "OBS-ELEV": 2215.0, "INSTRUME": camera, "EXPREQ": 90.0,
        "EXPTIME": 0.0 if kind == "zero" else 90.0, "DARKTIME": 91.1,
        "OBSID": f"ct4m20181012t03{minute:02d}00",
        "DATE-OBS": f"2018-10-12T03:{minute:02d}:00.000000", "TIME-OBS": f"03:{minute:02d}:00.0",
        "MJD-OBS": 58403.125 + minute / 1440, "TIMESYS": "UTC", "EXPNUM": number,
        "OBJECT": "A85", "OBSTYPE": kind, "PROPID": "2018A-0001", "FILTER": filter_name,
        "TELEQUIN": 2000.0, "RA": ra, "DEC": dec, "TELRA": ra, "TELDEC": dec,
        "TELFOCUS": "-2407.60,-1843.69,2387.06,28.26,-241.27,-0.00", "AZ": 20.0, "ZD": 22.0,
        "AIRMASS": 1.08, "HUMIDITY": 32.0, "PRESSURE": 780.0, "OUTTEMP": 14.2,
        "DTUTC": "2018-10-13T18:10:06",
    })  # fmt: skip
    return header


def ccd_header(detector: int, *, ra_deg: float = 10.458, dec_deg: float = -9.303) -> fits.Header:
    ccd = get_camera()[detector]
    header = fits.Header()
    header["EXTNAME"], header["CCDNUM"], header["DETPOS"] = ccd.name, detector, ccd.name
    header["DETECTOR"] = f"S3-{detector:03d}"
    for amp in ccd.amplifiers:
        header["CCDSEC" + amp.name] = _section(amp.box)
        header["DATASEC" + amp.name] = _section(amp.data_box)
        header["BIASSEC" + amp.name] = _section(amp.overscan_box)
        header["PRESEC" + amp.name] = _section(amp.prescan_box)
        header["POSTSEC" + amp.name] = _section(amp.parallel_overscan_box)
        header["GAIN" + amp.name], header["RDNOISE" + amp.name] = amp.gain, amp.read_noise
        header["SATURAT" + amp.name] = amp.saturation
    x, y = ccd.focal_plane_to_pixel(x=0.0, y=0.0)
    header.update({
        "CRPIX1": float(x) + 1, "CRPIX2": float(y) + 1, "CRVAL1": ra_deg, "CRVAL2": dec_deg,
        "CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CUNIT1": "deg", "CUNIT2": "deg",
        "CD1_1": -1.8249413473e-07, "CD1_2": 7.28535892432e-05, "CD2_1": -7.2849900453899e-05,
        "CD2_2": -1.82181666096e-07, "RADESYS": "FK5", "EQUINOX": 2000.0, "LTV1": 56.0,
        "LTV2": 50.0, **PV,
    })  # fmt: skip
    return header


def write_raw(
    path: Path, number: int, detectors: tuple[int, ...] = (25, 26), *, compressed: bool = True,
    seed: int = 1, **primary: object,
) -> np.ndarray:  # fmt: skip
    """Write a file; returns the pixels of its first CCD."""
    rng = np.random.default_rng(seed)
    hdus = fits.HDUList([fits.PrimaryHDU(header=primary_header(number, **primary))])
    first = None
    # Random in columns alone: it compresses in no time.
    for detector in detectors:
        line = rng.integers(1500, 2500, size=RAW_SHAPE[1]).astype(np.uint16)
        data = np.repeat(line[np.newaxis], RAW_SHAPE[0], axis=0)
        data[7, 11] = 60000
        first = data if first is None else first
        header = ccd_header(detector)
        if compressed:
            hdu = fits.CompImageHDU(data, header, compression_type="RICE_1")
        else:
            hdu = fits.ImageHDU(data, header)
        hdus.append(hdu)
    hdus.writeto(path, overwrite=True)
    return first

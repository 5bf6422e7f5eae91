"""Header cards of raw DECam files, as the camera's control system (SISPI) writes them.

Cards, their order and comments follow real raw headers (exposures 160496, 177764, 229388).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.time import Time

from skymill.sims.detector import CcdFacts
from skymill.sims.optics import Optics, wcs_header

__all__ = ["FILTER_NAMES", "ExposureHead", "extension_header", "primary_header"]

#: The long strings of the card FILTER.
FILTER_NAMES = {
    "u": "u DECam c0006 3500.0 1000.0",
    "g": "g DECam SDSS c0001 4720.0 1520.0",
    "r": "r DECam SDSS c0002 6415.0 1480.0",
    "i": "i DECam SDSS c0003 7835.0 1470.0",
    "z": "z DECam SDSS c0004 9260.0 1520.0",
    "Y": "Y DECam c0005 10095.0 1130.0",
}
_SLOT = {"u": 1, "g": 2, "r": 4, "i": 7, "z": 3, "Y": 6}

_CTIO = {"longitude": 70.81489, "latitude": -30.16606, "elevation": 2215.0}


@dataclass(frozen=True)
class ExposureHead:
    """What the header of one exposure says.

    Parameters
    ----------
    number : int
        EXPNUM.
    kind : str
        OBSTYPE: ``object``, ``zero`` or ``dome flat``.
    band : str
        One of u g r i z Y.
    exposure_time : float [s]
        EXPTIME.
    mjd : float [MJD UTC]
        Start.
    ra, dec : float [deg]
        Where the telescope believes to point.
    target : str
        OBJECT.
    sequence, sequence_length : int
        SEQNUM, SEQTOT.
    airmass : float, optional
        AIRMASS; not written for calibration frames.
    seeing : float [arcsec]
        DIMM seeing.
    """

    number: int
    kind: str
    band: str
    exposure_time: float
    mjd: float
    ra: float
    dec: float
    target: str
    sequence: int = 1
    sequence_length: int = 1
    airmass: float | None = None
    seeing: float = 0.8


def _sexagesimal(ra: float, dec: float) -> tuple[str, str]:
    hours = Angle(ra, "deg").to_string(unit="hour", sep=":", precision=3, pad=True)
    degrees = Angle(dec, "deg").to_string(unit="deg", sep=":", precision=3, pad=True)
    return hours, degrees


def zenith_distance(ra: float, dec: float, mjd: float) -> tuple[float, float, float]:
    """Zenith distance, azimuth and hour angle of a position at Cerro Tololo.

    Computed with the mean sidereal time (no tables from the network).

    Parameters
    ----------
    ra, dec : float [deg]
        Position.
    mjd : float [MJD UTC]
        Time.

    Returns
    -------
    zenith_distance, azimuth, hour_angle : float [deg]
        Angles, the azimuth from North through East.
    """
    days = mjd - 51544.5
    sidereal = (280.46061837 + 360.98564736629 * days - _CTIO["longitude"]) % 360.0
    hour_angle = (sidereal - ra + 180.0) % 360.0 - 180.0
    h, d, lat = np.radians([hour_angle, dec, _CTIO["latitude"]])
    sin_alt = np.sin(lat) * np.sin(d) + np.cos(lat) * np.cos(d) * np.cos(h)
    azimuth = np.degrees(
        np.arctan2(
            -np.cos(d) * np.sin(h), np.sin(d) * np.cos(lat) - np.cos(d) * np.sin(lat) * np.cos(h)
        )
    )
    return float(np.degrees(np.arccos(sin_alt))), float(azimuth % 360.0), float(hour_angle)


def best_time(ra: float, night_mjd: int) -> float:
    """When in a night a position is nearest to the meridian.

    Parameters
    ----------
    ra : float [deg]
        Right ascension.
    night_mjd : int [MJD]
        Day on which the night begins in Chile.

    Returns
    -------
    float [MJD UTC]
        Between 00:30 and 08:30 UTC of the following day.
    """
    best, best_angle = night_mjd + 1.02, 360.0
    for step in range(49):
        mjd = night_mjd + 1.02 + step * (0.335 / 48)
        angle = abs(zenith_distance(ra, 0.0, mjd)[2])
        if angle < best_angle:
            best, best_angle = mjd, angle
    return best


_Card = tuple[str, object, str]


def _set(header: fits.Header, cards: list[_Card]) -> None:
    for key, value, comment in cards:
        header[key] = (value, comment)


def _identity_cards(head: ExposureHead, n_extensions: int) -> list[_Card]:
    """File, place, time and kind of the exposure."""
    time = Time(head.mjd, format="mjd", scale="utc", precision=6)
    stamp = time.isot.replace("-", "").replace(":", "")[:15].lower()
    name = f"DECam_{head.number:08d}.fits"
    return [
        ("NEXTEND", n_extensions, "Number of extensions"),
        ("PROCTYPE", "RAW", "Data processing level"),
        ("PRODTYPE", "image", "Data product type"),
        ("PIXSCAL1", 0.27, "[arcsec/pixel] Pixel scale, axis 1"),
        ("PIXSCAL2", 0.27, "[arcsec/pixel] Pixel scale, axis 2"),
        ("FILENAME", name, "Filename"),
        ("OBS-LONG", _CTIO["longitude"], "[deg] Observatory east longitude"),
        ("TELESCOP", "CTIO 4.0-m telescope", "Telescope name"),
        ("OBSERVAT", "CTIO", "Observatory name"),
        ("OBS-LAT", _CTIO["latitude"], "[deg] Observatory latitude"),
        ("OBS-ELEV", _CTIO["elevation"], "[m] Observatory elevation"),
        ("INSTRUME", "DECam", "Instrument used to obtain these data"),
        ("EXPREQ", head.exposure_time, "[s] Requested exposure duration"),
        ("EXPTIME", head.exposure_time, "[s] Exposure duration"),
        ("DARKTIME", head.exposure_time + 1.13 if head.exposure_time else 0.04, "[s] Dark time"),
        ("OBSID", f"ct4m{stamp}", "Unique Observation ID"),
        ("DATE-OBS", time.isot, "UTC epoch"),
        ("TIME-OBS", time.isot[11:], "Time of observation start (UTC)"),
        ("MJD-OBS", round(head.mjd, 8), "MJD of observation start"),
        ("OPENSHUT", time.isot, "Time when shutter opened (UTC)"),
        ("TIMESYS", "UTC", "Time system"),
        ("EXPNUM", head.number, "DECam exposure number"),
        ("OBJECT", head.target, "Object name"),
        ("OBSTYPE", head.kind, "Observation type"),
        ("CAMSHUT", "Closed" if head.kind == "zero" else "Open", "Camera shutter status"),
        ("PROGRAM", "simulation", "Current observing program"),
        ("OBSERVER", "skymill", "Observer name(s)"),
        ("PROPOSER", "skymill", "Proposal Principle Investigator"),
        ("DTPI", "skymill", "Principal Investigator"),
        ("PROPID", "2019A-0000", "Proposal ID"),
    ]  # fmt: skip


def _sequence_cards(head: ExposureHead) -> list[_Card]:
    """Sequence, devices in use, filter."""
    science = head.kind == "object"
    night = Time(np.floor(head.mjd - 0.6), format="mjd").isot[:10]
    return [
        ("EXCLUDED", "", "DECam components not used for this frame"),
        ("SEQID", f"{head.sequence_length} exposures", "Sequence name"),
        ("SEQNUM", head.sequence, "Number of image in sequence"),
        ("SEQTOT", head.sequence_length, "Total number of images in sequence"),
        ("AOS", science, "AOS data available if true"),
        ("BCAM", science, "BCAM data available if true"),
        ("GUIDER", 1 if science else 0, "Guider (0-absent,1-ok,2-lost star,3-los"),
        ("SKYSTAT", True, "Cloud camera (RASICAM) available if true"),
        ("FILTER", FILTER_NAMES[head.band], "Unique filter identifier"),
        ("FILTPOS", f"cassette_{_SLOT[head.band]}", "Filter position in FCM"),
        ("INSTANCE", f"DECam_{night.replace('-', '')}", "SISPI instance name"),
        ("ERRORS", "None", "SISPI readout errors"),
    ]  # fmt: skip


def _telescope_cards(head: ExposureHead) -> list[_Card]:
    """Pointing, focus, weather."""
    science = head.kind == "object"
    ra, dec = _sexagesimal(head.ra % 360.0, head.dec)
    return [
        ("TELEQUIN", 2000.0, "Equinox of telescope coordinates"),
        ("TELSTAT", "Track" if science else "Stop", "Telescope tracking status"),
        ("RA", ra, "[HH:MM:SS] Target RA"),
        ("DEC", dec, "[DD:MM:SS] Target DEC"),
        ("TELRA", ra, "[HH:MM:SS] Telescope RA"),
        ("TELDEC", dec, "[DD:MM:SS] Telescope DEC"),
        ("TELFOCUS", "-2439.52,-3332.57,2497.32,100.13,-210.58, 0.00", "DECam hexapod setti"),
        ("VSUB", True, "True if CCD substrate voltage is on"),
        ("WINDSPD", 10.1, "[m/s] Wind speed"),
        ("WINDDIR", 36.0, "[deg] Wind direction (from North)"),
        ("HUMIDITY", 23.0, "[%] Ambient relative humidity (outside)"),
        ("PRESSURE", 779.0, "[Torr] Barometric pressure (outside)"),
        ("DIMMSEE", round(head.seeing, 3), "[arcsec] DIMM Seeing"),
        ("OUTTEMP", 11.9, "[deg C] Outside temperature"),
    ]  # fmt: skip


def _archive_cards(head: ExposureHead) -> list[_Card]:
    """Versions of the software, and the place in the archive."""
    time = Time(head.mjd, format="mjd", scale="utc", precision=6)
    stamp = time.isot.replace("-", "").replace(":", "")[:15].lower()
    night = Time(np.floor(head.mjd - 0.6), format="mjd").isot[:10]
    end = Time(head.mjd + (head.exposure_time + 31.0) / 86400.0, format="mjd", precision=0)
    return [
        ("MULTIEXP", False, "Frame contains multiple exposures if true"),
        ("LUTVER", "working-trunk", "Hexapod Lookup Table version"),
        ("SISPIVER", "trunk", "SISPI software version"),
        ("CONSTVER", "DECAM:19", "SISPI constants version"),
        ("HDRVER", "13", "DECam fits header version"),
        ("DTSITE", "ct", "observatory location"),
        ("DTTELESC", "ct4m", "telescope identifier"),
        ("DTINSTRU", "decam", "instrument identifier"),
        ("DTCALDAT", night, "calendar date from observing schedule"),
        ("ODATEOBS", "", "previous DATE-OBS"),
        ("DTUTC", end.isot, "post exposure UTC epoch from DTS"),
        ("DTOBSERV", "NOAO", "scheduling institution"),
        ("DTPROPID", "2019A-0000", "observing proposal ID"),
        ("DTCOPYRI", "AURA", "copyright holder of data"),
        ("DTNSANAM", f"c4d_{stamp[2:8]}_{stamp[9:]}_ori.fits", "file name in NOAO Science Archive"),
    ]  # fmt: skip


def _pointing_cards(head: ExposureHead) -> list[_Card]:
    """Where the telescope looked, seen from the ground."""
    zd, azimuth, hour_angle = zenith_distance(head.ra, head.dec, head.mjd)
    sign = "-" if hour_angle < 0 else ""
    text = Angle(abs(hour_angle), "deg").to_string(unit="hour", sep=":", precision=3, pad=True)
    return [
        ("HA", f"{sign}{text}", "[HH:MM:SS] Telescope hour angle"),
        ("ZD", round(zd, 2), "[deg] Telescope zenith distance"),
        ("AZ", round(azimuth, 2), "[deg] Telescope azimuth angle"),
        ("AIRMASS", round(head.airmass or 1.0, 2), "Airmass"),
    ]


def primary_header(head: ExposureHead, n_extensions: int) -> fits.Header:
    """The primary header of a raw file.

    Parameters
    ----------
    head : ExposureHead
        The exposure.
    n_extensions : int
        Number of CCDs in the file.

    Returns
    -------
    astropy.io.fits.Header
        Cards of the primary HDU.
    """
    header = fits.Header()
    _set(header, [
        *_identity_cards(head, n_extensions), *_sequence_cards(head), *_telescope_cards(head),
        *_archive_cards(head),
    ])  # fmt: skip
    if head.airmass is not None:
        _set(header, _pointing_cards(head))
    return header


def _section(x0: int, y0: int, nx: int, ny: int) -> str:
    return f"[{x0 + 1}:{x0 + nx},{y0 + 1}:{y0 + ny}]"


def _detector_corner(ccd: CcdFacts) -> tuple[int, int]:
    """First pixel of the CCD in DETSEC (0-based), a mosaic without gaps."""
    column = round((ccd.x_min + 32.2) / 33.77) + 6
    row = round((ccd.y_min + 221.95) / 63.72 * 2.0)
    return column * 2048, row * 2048


def extension_header(ccd: CcdFacts, pointing: Optics) -> fits.Header:
    """The header of one CCD of a raw file.

    Parameters
    ----------
    ccd : CcdFacts
        The CCD.
    pointing : Optics
        What the telescope believes; its WCS goes into the header.

    Returns
    -------
    astropy.io.fits.Header
        Cards of the extension; CRPIX counts trimmed pixels although the HDU has overscan.
    """
    header = fits.Header()
    x_first = min(a.raw_box[0] for a in ccd.amps)
    y_first = ccd.amps[0].raw_box[1]
    det_x, det_y = _detector_corner(ccd)
    whole = _section(x_first, y_first, 2048, 4096)
    _set(header, [
        ("BUNIT", "adu", "Brightness units for pixel array"),
        ("WCSAXES", 2, "WCS Dimensionality"),
        ("DETSIZE", "[1:29400,1:29050]", "Detector size"),
        ("TRIMSEC", whole, "Good section"),
        ("DATASEC", whole, "Data section to display"),
        ("DETSEC", _section(det_x, det_y, 2048, 4096), "Location of this CCD on Focal Plane"),
        ("CCDSEC", "[1:2048,1:4096]", "CCD section to display"),
    ])  # fmt: skip
    for amp in ccd.amps:
        n, (x0, y0, nx, ny) = amp.name, amp.raw_box
        bx, by, bnx, bny = amp.overscan_box
        first, last = amp.box[0] + 1, amp.box[0] + amp.box[2]
        x_order = f"{last}:{first}" if amp.flip_x else f"{first}:{last}"
        y_order = "4096:1" if amp.parallel_y0 == 0 else "1:4096"
        _set(header, [
            (f"TRIMSEC{n}", _section(x0, y0, nx, ny), f"Good section from amp {n}"),
            (f"DETSEC{n}", _section(det_x + amp.box[0], det_y, nx, ny), "Detector display tile"),
            (f"CCDSEC{n}", _section(*amp.box), f"CCD section from amp {n}"),
            (f"AMPSEC{n}", f"[{x_order},{y_order}]", "CCD section in read order"),
            (f"DATASEC{n}", _section(x0, y0, nx, ny), f"Data section from amp {n}"),
            (f"BIASSEC{n}", _section(bx, by, bnx, bny), f"Overscan from amp {n}"),
            (f"PRESEC{n}", _section(amp.prescan_x0, by, 6, bny), f"Prescan from amp {n}"),
            (f"POSTSEC{n}", _section(x0, amp.parallel_y0, nx, 50), f"Postscan from amp {n}"),
        ])  # fmt: skip
    _set(header, [
        ("DETECTOR", f"SIM-{ccd.number:03d}", "Detector Identifier"),
        ("CCDNUM", ccd.number, "CCD number"),
        ("DETPOS", ccd.name, "detector position ID"),
        ("EXTNAME", ccd.name, "extension name"),
    ])  # fmt: skip
    for amp in ccd.amps:
        _set(header, [
            (f"GAIN{amp.name}", amp.gain, f"[electrons/adu] Gain for amp {amp.name}"),
            (f"RDNOISE{amp.name}", amp.read_noise, f"[electrons] Read noise for amp {amp.name}"),
            (f"SATURAT{amp.name}", amp.saturation, f"[adu] Saturation for amp {amp.name}"),
        ])  # fmt: skip
    _set(header, [
        ("FPA", "DECAM_BKP1" if ccd.name.startswith("S") else "DECAM_BKP2", "DECam focal plane"),
        ("INHERIT", True, "Inherits PHDU header"),
        ("CCDBIN1", 1, "Pixel binning, axis 1"),
        ("CCDBIN2", 1, "Pixel binning, axis 2"),
        ("LTM1_1", 1.0, "Detector to image transformation"),
        ("LTM2_2", 1.0, "Detector to image transformation"),
        ("LTV1", float(x_first), "Detector to image transformation"),
        ("LTV2", float(y_first), "Detector to image transformation"),
        ("VALIDA", True, "Data from amp A is valid"),
        ("VALIDB", True, "Data from amp B is valid"),
        ("NDONUTS", 0, "AOS number of donuts analyzed for this CCD"),
    ])  # fmt: skip
    header.update(wcs_header(ccd, pointing))
    header["RADESYS"] = "FK5"
    return header

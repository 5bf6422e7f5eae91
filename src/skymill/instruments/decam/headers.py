"""From the headers of a raw DECam file to what skymill and the Butler want to know of it."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astro_metadata_translator import ObservationInfo, fix_header
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning

from skymill.data.errors import DataError, MissingInputError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, ExposureInfo
from skymill.instruments.camera import Amplifier
from skymill.instruments.decam.facts import CAMERA_NAME, Filter, get_camera, get_filter

__all__ = [
    "RawFile",
    "ccd_hdus",
    "describe",
    "exposure_info",
    "find_ccd",
    "make_amplifiers",
    "make_wcs",
    "merge_headers",
    "open_raw",
    "parse_section",
    "read_raw_headers",
    "translate",
]

_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")
_WCS_KEYS = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT)[12]|(CD|PC)[12]_[12]|PV[12]_\d+|RADESYS|EQUINOX"
)
_DIRECTIONS = ("science", "standard", "sky flat")


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """What the headers of a raw file say.

    Parameters
    ----------
    path : str
        The file.
    exposure : int
        EXPNUM.
    observation_id, observation_type, target, program, reason : str
        As the translator of astro_metadata_translator gives them.
    filter : Filter
        The filter.
    day_obs, sequence : int
        Night (YYYYMMDD, counted from noon UTC) and counter.
    begin, end : float [day]
        MJD in TAI.
    exposure_time, dark_time : float [s]
        Times.
    ra, dec : float [deg]
        Where the telescope pointed, ICRS; NaN if it did not track the sky.
    azimuth, zenith_angle : float [deg]
        At the begin; NaN if unknown.
    airmass : float
        Airmass; NaN if unknown.
    detectors : tuple of int
        CCD numbers in the file, focus and guide chips left out.
    """

    path: str
    exposure: int
    observation_id: str
    observation_type: str
    target: str
    program: str
    reason: str
    filter: Filter
    day_obs: int
    sequence: int
    begin: float
    end: float
    exposure_time: float
    dark_time: float
    ra: float = math.nan
    dec: float = math.nan
    azimuth: float = math.nan
    zenith_angle: float = math.nan
    airmass: float = math.nan
    detectors: tuple[int, ...] = ()

    @property
    def on_sky(self) -> bool:
        """Whether the frame shows the sky and can be a visit."""
        return self.observation_type in ("science", "standard") and math.isfinite(self.ra)


def open_raw(path: str | Path, *, walk: bool = True, decompress: bool = True) -> fits.HDUList:
    """Open a raw file and read all of its headers.

    Parameters
    ----------
    path : path
        A file ``.fits`` or ``.fits.fz``.
    walk : bool
        Read all headers now, so that a truncated file is found; otherwise when they are asked for.
    decompress : bool
        Compressed images are images; otherwise the tables that they are in the file.

    Returns
    -------
    astropy.io.fits.HDUList
        The open file; the caller closes it.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file; if it is not FITS or ends too early.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"there is no file {path}")
    hdus = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", message="File may have been truncated")
            hdus = fits.open(
                path, memmap=False, lazy_load_hdus=True, disable_image_compression=not decompress
            )
            if walk:
                len(hdus)  # Goes to the end of the file: a truncated one is found here.
    except (OSError, ValueError, AstropyUserWarning) as err:
        if hdus is not None:
            hdus.close()
        raise DataError(
            f"{path} is truncated or no FITS file ({err}); fetch it again or move it away"
        ) from err
    return hdus


#: Keywords that stay with their own extension.
_NOT_MERGED = frozenset({"", "COMMENT", "HISTORY", "CHECKSUM", "DATASUM"})


def merge_headers(primary: fits.Header, own: fits.Header) -> fits.Header:
    """The primary header with the cards of an extension over it.

    Parameters
    ----------
    primary, own : astropy.io.fits.Header
        The headers.

    Returns
    -------
    astropy.io.fits.Header
        A new header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        left = {c.keyword: c for c in own.cards if c.keyword not in _NOT_MERGED}
        cards = [left.pop(c.keyword, c) for c in primary.cards] + list(left.values())
        header = fits.Header(cards).copy()
    return header


def translate(header: fits.Header, path: str) -> ObservationInfo:
    """The standard words for a header.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Primary header and that of one CCD, merged; known faults of old headers are repaired in it.
    path : str
        Its file, for the message.

    Returns
    -------
    astro_metadata_translator.ObservationInfo
        Its translation.

    Raises
    ------
    DataError
        If the file is not of DECam, or lacks cards that every raw frame has.
    """
    instrument = str(header.get("INSTRUME", "")).strip()
    if instrument.upper() != CAMERA_NAME.upper():
        raise DataError(
            f"{path} is a frame of {instrument or 'an unnamed camera'}, not of {CAMERA_NAME} "
            "(card INSTRUME); ingest it with its own instrument"
        )
    logging.getLogger("astro_metadata_translator").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fix_header(header, filename=path)
            return ObservationInfo(header, filename=path, pedantic=False)
    except (KeyError, ValueError, TypeError) as err:
        raise DataError(f"the header of {path} cannot be translated: {err}") from err


def ccd_hdus(hdus: fits.HDUList, path: str) -> dict[int, Any]:
    """The extensions of science CCDs by their number.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open raw file.
    path : str
        Its name, for the message.

    Returns
    -------
    dict of int to HDU
        CCDNUM to extension.

    Raises
    ------
    DataError
        If there is none.
    """
    camera = get_camera()
    found = {}
    for hdu in hdus[1:]:
        number = hdu.header.get("CCDNUM")
        if number is not None and int(number) in camera:
            found[int(number)] = hdu
    if not found:
        raise DataError(f"{path} has no extension with a CCDNUM of 1 to 62: not a raw DECam frame")
    return found


def find_ccd(hdus: fits.HDUList, detector: int, path: str) -> Any:
    """The extension of one CCD, without reading the headers behind it.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file.
    detector : int
        CCD number.
    path : str
        The file, for the message.

    Returns
    -------
    astropy.io.fits.hdu.base.ExtensionHDU
        The extension.

    Raises
    ------
    DataError
        If the file has no such CCD, or ends before it.
    """
    seen, number = [], 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", message="File may have been truncated")
            while True:
                try:
                    hdu = hdus[number]
                except IndexError:
                    break
                ccd = hdu.header.get("CCDNUM")
                if ccd is not None and int(ccd) == detector:
                    return hdu
                if ccd is not None and int(ccd) in get_camera():
                    seen.append(int(ccd))
                number += 1
    except (OSError, AstropyUserWarning) as err:
        raise DataError(f"{path} is truncated ({err}); fetch it again or move it away") from err
    raise DataError(
        f"{path} has no CCD {detector}; it has {', '.join(str(n) for n in sorted(seen)) or 'none'}"
    )


def _angle(value: Any, name: str) -> float:
    return math.nan if value is None else float(getattr(value, name).deg)


def describe(info: ObservationInfo, path: str, detectors: Iterable[int]) -> RawFile:
    """A `RawFile` from a translated header.

    Parameters
    ----------
    info : ObservationInfo
        The translated header.
    path : str
        Name of the file.
    detectors : iterable of int
        Numbers of its CCDs.

    Returns
    -------
    RawFile
        What ingestion needs.
    """
    missing = [
        name
        for name in ("exposure_id", "datetime_begin", "exposure_time", "physical_filter")
        if getattr(info, name) is None
    ]
    if missing:
        raise DataError(f"the header of {path} does not tell its {', '.join(missing)}")
    words: Any = info  # Checked above; its fields are optional by their types.
    begin = float(words.datetime_begin.tai.mjd)
    exposure_time = float(words.exposure_time.to_value("s"))
    position = info.tracking_radec.icrs if info.tracking_radec is not None else None
    on_sky = info.observation_type in _DIRECTIONS
    altaz = info.altaz_begin if on_sky else None
    airmass = info.boresight_airmass if on_sky else None
    return RawFile(
        path=str(path),
        exposure=int(words.exposure_id),
        observation_id=str(info.observation_id or info.exposure_id),
        observation_type=str(info.observation_type or "unknown"),
        target=str(info.object or ""),
        program=str(info.science_program or ""),
        reason=str(info.observation_reason or ""),
        filter=get_filter(str(info.physical_filter)),
        day_obs=int(info.observing_day or Time(begin, format="mjd").strftime("%Y%m%d")),
        sequence=int(words.observation_counter or words.exposure_id),
        begin=begin,
        # The translator's end is the card DTUTC, when the file was archived.
        end=begin + exposure_time / 86400.0,
        exposure_time=exposure_time,
        dark_time=float(info.dark_time.to_value("s")) if info.dark_time is not None else 0.0,
        ra=_angle(position, "ra") if on_sky else math.nan,
        dec=_angle(position, "dec") if on_sky else math.nan,
        azimuth=_angle(altaz, "az"),
        zenith_angle=90.0 - _angle(altaz, "alt"),
        airmass=float(airmass) if airmass is not None else math.nan,
        detectors=tuple(sorted(detectors)),
    )


def read_raw_headers(path: str | Path) -> RawFile:
    """Read what the headers of a raw file say.

    Parameters
    ----------
    path : path
        A file ``.fits`` or ``.fits.fz``.

    Returns
    -------
    RawFile
        What the Butler records of it.

    Raises
    ------
    MissingInputError, DataError
        With one sentence about what is wrong with the file.
    """
    hdus = open_raw(path)
    try:
        ccds = ccd_hdus(hdus, str(path))
        first = min(ccds)
        header = merge_headers(hdus[0].header, ccds[first].header)
        try:
            return describe(translate(header, str(path)), str(path), ccds)
        except DataError as err:
            if str(path) in str(err):
                raise
            raise DataError(f"{path}: {err}") from err
    finally:
        hdus.close()


def parse_section(text: str) -> Box:
    """A FITS section as a box.

    Parameters
    ----------
    text : str
        Such as ``[1081:2104,51:4146]``: first pixel 1, ends included.

    Returns
    -------
    Box
        The same pixels, 0-based and half open; reversed ranges are put in order.

    Raises
    ------
    DataError
        If the text is no section.
    """
    match = _SECTION.fullmatch(str(text).strip())
    if match is None:
        raise DataError(f"{text!r} is not a FITS section such as [1081:2104,51:4146]")
    x1, x2, y1, y2 = (int(v) for v in match.groups())
    return Box(x0=min(x1, x2) - 1, y0=min(y1, y2) - 1, x1=max(x1, x2), y1=max(y1, y2))


def _number(header: fits.Header, key: str, default: float) -> float:
    value = header.get(key)
    usable = isinstance(value, int | float) and math.isfinite(value) and value > 0
    return float(value) if usable else default


def make_amplifiers(header: fits.Header, detector: int) -> tuple[Amplifier, ...]:
    """The amplifiers of a CCD as its header describes them.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the CCD.
    detector : int
        CCD number.

    Returns
    -------
    tuple of Amplifier
        Sections, gain, noise and saturation of the header; of the facts where a card is missing.
    """
    out = []
    for nominal in get_camera()[detector].amplifiers:
        name = nominal.name

        def section(key: str, default: Box | None, name: str = name) -> Box | None:
            text = header.get(key + name)
            return default if text is None else parse_section(text)

        out.append(
            Amplifier(
                name=name,
                box=section("CCDSEC", nominal.box) or nominal.box,
                data_box=section("DATASEC", nominal.data_box) or nominal.data_box,
                overscan_box=section("BIASSEC", nominal.overscan_box) or nominal.overscan_box,
                prescan_box=section("PRESEC", nominal.prescan_box),
                parallel_overscan_box=section("POSTSEC", nominal.parallel_overscan_box),
                gain=_number(header, "GAIN" + name, nominal.gain),
                read_noise=_number(header, "RDNOISE" + name, nominal.read_noise),
                saturation=_number(header, "SATURAT" + name, nominal.saturation),
                readout_corner=nominal.readout_corner,
            )
        )
    return tuple(out)


def make_wcs(header: fits.Header) -> FitsWcs | None:
    """The first guess of a CCD's mapping to the sky.

    In raw DECam frames CRPIX counts the pixels of the trimmed CCD, although the extension carries
    pre- and overscan (LTV1, LTV2 give the offset of the raw pixels): the mapping is one of trimmed
    pixels as it stands. Frames from before the TPV convention say TAN with PV terms beyond the
    first order, and mean TPV.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of the CCD.

    Returns
    -------
    FitsWcs or None
        Mapping in pixels of the trimmed image; None if the header has none.
    """
    if not str(header.get("CTYPE1", "")).startswith("RA--"):
        return None
    clean = fits.Header()
    for card in header.cards:
        if _WCS_KEYS.fullmatch(card.keyword or ""):
            clean[card.keyword] = card.value
    if any(f"PV1_{k}" in clean for k in range(5, 40)):
        clean["CTYPE1"], clean["CTYPE2"] = "RA---TPV", "DEC--TPV"
    return FitsWcs(clean)


def exposure_info(raw: RawFile, detector: int) -> ExposureInfo:
    """Identity and circumstances of one CCD.

    Parameters
    ----------
    raw : RawFile
        Its file.
    detector : int
        CCD number.

    Returns
    -------
    ExposureInfo
        The same in the words of the science code.
    """
    return ExposureInfo(
        instrument=CAMERA_NAME,
        visit=raw.exposure,
        detector=detector,
        physical_filter=raw.filter.name,
        band=raw.filter.band,
        exposure_time=raw.exposure_time,
        mjd_mid=0.5 * (raw.begin + raw.end),
        airmass=raw.airmass,
        boresight_ra=raw.ra,
        boresight_dec=raw.dec,
    )

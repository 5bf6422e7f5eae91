"""One CCD of a community-processed image of any camera of a survey, whole or a part of it.

The image is ``*_ooi_*``, its weight ``*_oow_*``, its data quality ``*_ood_*``. Pixels stay in the
unit of the file; the data quality becomes the bits of the releases.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from skymill.data.errors import DataError, MissingInputError
from skymill.data.geometry import FitsWcs
from skymill.instruments.decam.headers import make_wcs, merge_headers, open_raw
from skymill.instruments.rice_section import read_rice_section
from skymill.instruments.survey_camera import SurveyCamera, camera_of_file, survey_camera

__all__ = [
    "QUALITY_BITS",
    "CcdHeader",
    "CommunityCcd",
    "companion",
    "is_damage",
    "list_ccds",
    "read_ccd",
    "read_ccd_header",
    "release_quality",
    "shifted_wcs",
    "uses_codes",
]

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

#: Bits of a pixel's quality in the releases.
QUALITY_BITS: dict[str, int] = {
    "badpix": 1, "satur": 2, "interp": 4, "cr": 16, "bleed": 64, "trans": 128, "edge": 256,
    "edge2": 512, "outlier": 2048,
}  # fmt: skip

#: Codes of the Community Pipeline since version 3.5 and what they mean.
_CODES = {
    1: "badpix", 2: "badpix", 3: "satur", 4: "bleed", 5: "cr", 6: "badpix", 7: "trans", 8: "trans",
}  # fmt: skip


#: What reading a damaged file may raise.
_UNREADABLE = (OSError, ValueError, TypeError, IndexError, EOFError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class CcdHeader:
    """What the headers say of one CCD.

    Parameters
    ----------
    path : Path
        The image.
    hdu : int
        Its extension.
    camera : SurveyCamera
        The camera.
    header : astropy.io.fits.Header
        Cards of the primary HDU with those of the CCD over them.
    expnum : int
        Exposure.
    ccdname : str
        Such as ``N10`` or ``CCD4``.
    band : str
        Band.
    exptime : float [s]
        Exposure time.
    shape : (ny, nx)
        Pixels of the CCD.
    procdate : str
        When the Community Pipeline made the file.
    """

    path: Path
    hdu: int
    camera: SurveyCamera
    header: fits.Header
    expnum: int
    ccdname: str
    band: str
    exptime: float
    shape: tuple[int, int]
    procdate: str = ""

    @property
    def plver(self) -> str:
        """Version of the Community Pipeline."""
        return str(self.header.get("PLVER", "")).strip()

    @property
    def gain(self) -> float:
        """Electrons of one count."""
        return self.camera.gain(self.header)

    @property
    def mjd_obs(self) -> float:
        """Start of the exposure, MJD in UTC [day]; NaN if unknown."""
        value = self.header.get("MJD-OBS")
        return float(value) if isinstance(value, int | float) else float("nan")

    @property
    def mjd_tai(self) -> float:
        """Middle of the exposure, MJD in TAI [day]."""
        start = Time(self.mjd_obs, format="mjd", scale="utc").tai.mjd
        return float(start) + self.exptime / 2 / 86400.0

    def wcs(self, *, ra_offset: float = 0.0, dec_offset: float = 0.0) -> FitsWcs:
        """World coordinates of the whole CCD.

        Parameters
        ----------
        ra_offset, dec_offset : float [arcsec]
            ``ccdraoff`` and ``ccddecoff``: added to the position on the sky.

        Returns
        -------
        FitsWcs
            0-based pixels.

        Raises
        ------
        DataError
            If the header has none.
        """
        wcs = shifted_wcs(self.header, ra_offset=ra_offset, dec_offset=dec_offset)
        if wcs is None:
            raise DataError(f"{self.path} CCD {self.ccdname} has no world coordinates")
        return wcs


@dataclass(frozen=True, kw_only=True)
class CommunityCcd:
    """Pixels of one CCD, or of a part of it.

    Parameters
    ----------
    info : CcdHeader
        Its header.
    image : (ny, nx) float32
        In the unit of the file: counts, or electrons a second.
    weight : (ny, nx) float32
        1 / variance in that unit, with the photons of the sources; 0 where unusable.
    quality : (ny, nx) int32
        `QUALITY_BITS`.
    x0, y0 : int [pixel]
        Place of the first pixel in the CCD.
    """

    info: CcdHeader
    image: Float32Array
    weight: Float32Array
    quality: Int32Array
    x0: int = 0
    y0: int = 0


def companion(path: str | Path, kind: str) -> Path:
    """The weight (``w``) or the data quality (``d``) that belongs to an image.

    Parameters
    ----------
    path : path
        The ``ooi`` file.
    kind : str
        ``w`` or ``d``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    MissingInputError
        If it is not there.
    """
    image = Path(path)
    other = image.with_name(image.name.replace("_ooi_", f"_oo{kind}_", 1))
    if other == image or not other.is_file():
        raise MissingInputError(
            f"{path} has no {'weight' if kind == 'w' else 'data quality'} beside it: "
            f"there is no {other.name}"
        )
    return other


def shifted_wcs(
    header: fits.Header, *, ra_offset: float = 0.0, dec_offset: float = 0.0
) -> FitsWcs | None:
    """World coordinates of a header of the Community Pipeline, moved on the sky.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Cards of the primary HDU with those of the CCD over them.
    ra_offset, dec_offset : float [arcsec]
        Added to the position on the sky.

    Returns
    -------
    FitsWcs or None
        0-based pixels; none if the header has no world coordinates.
    """
    own = header.copy()
    # The pipeline fits to catalogues of the ICRS; RADESYS of the header is the telescope's.
    for key in ("EQUINOX", "RADECSYS"):
        own.remove(key, ignore_missing=True)
    own["RADESYS"] = "ICRS"
    if "CRVAL1" not in own or "CRVAL2" not in own:
        return None
    dec = float(own["CRVAL2"])
    own["CRVAL1"] = float(own["CRVAL1"]) + ra_offset / 3600.0 / np.cos(np.radians(dec))
    own["CRVAL2"] = dec + dec_offset / 3600.0
    return make_wcs(own)


def is_damage(err: Exception) -> bool:
    """Whether an error is one that reading the pixels of a damaged file raises.

    Parameters
    ----------
    err : Exception
        The error.

    Returns
    -------
    bool
        False for our own errors and for those that tell of a bug.
    """
    # The error of a damaged tile has no public name.
    damaged = isinstance(err, _UNREADABLE) or type(err).__name__ == "CfitsioException"
    return damaged and not isinstance(err, DataError)


def _name(hdu: Any) -> str:
    """Name of the CCD of an extension; empty if it holds no image."""
    header = hdu.header
    if int(header.get("NAXIS", 0)) < 2 and int(header.get("ZNAXIS", 0)) < 2:
        return ""
    if "ZNAXIS" not in header and header.get("XTENSION", "IMAGE").strip() != "IMAGE":
        return ""
    return str(header.get("EXTNAME", header.get("CCDNAME", ""))).strip().upper()


def list_ccds(path: str | Path) -> list[tuple[int, str]]:
    """The CCDs of an image.

    Parameters
    ----------
    path : path
        The ``ooi`` file.

    Returns
    -------
    list of (int, str)
        Extension and name of each CCD.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file; if it is truncated or holds no CCD.
    """
    hdus = open_raw(path)
    try:
        found = [(k, _name(hdu)) for k, hdu in enumerate(hdus) if k > 0 and _name(hdu)]
    finally:
        hdus.close()
    if not found:
        raise DataError(f"{path} holds no CCD: it is truncated or another kind of file")
    return found


def _header(path: Path, hdus: Any, hdu: int, camera: SurveyCamera) -> CcdHeader:
    try:
        own = hdus[hdu].header
        merged = merge_headers(hdus[0].header, own)
        shape = hdus[hdu].shape
    except (IndexError, OSError) as err:
        raise DataError(f"{path} has no extension {hdu}, or is truncated ({err})") from err
    if len(shape) != 2:
        raise DataError(f"{path} extension {hdu} holds no image of two dimensions; got {shape}")
    exptime = merged.get("EXPTIME", 0.0)
    try:
        expnum = camera.exposure_number(merged)
    except DataError as err:
        raise DataError(f"{path}: {err}") from err
    return CcdHeader(
        path=path,
        hdu=hdu,
        camera=camera,
        header=merged,
        expnum=expnum,
        ccdname=_name(hdus[hdu]),
        band=camera.band(merged),
        exptime=float(exptime) if isinstance(exptime, int | float) else 0.0,
        shape=(int(shape[0]), int(shape[1])),
        procdate=str(hdus[0].header.get("DATE", "")).strip(),
    )


def _find(path: Path, hdus: Any, hdu: int | None, ccd: str | None) -> int:
    """The extension: the given one if its name fits, else the one of that name."""
    if hdu is not None and ccd is None:
        return hdu
    wanted = (ccd or "").strip().upper()
    try:
        if hdu is not None and _name(hdus[hdu]) == wanted:
            return hdu
    except IndexError:
        pass
    names = {_name(h): k for k, h in enumerate(hdus) if k > 0}
    if wanted not in names:
        raise DataError(
            f"{path} has no CCD {ccd}; it has {', '.join(n for n in names if n) or 'none'}"
        )
    return names[wanted]


def read_ccd_header(
    path: str | Path,
    *,
    hdu: int | None = None,
    ccd: str | None = None,
    camera: str | None = None,
) -> CcdHeader:
    """Read what the headers say of one CCD.

    Parameters
    ----------
    path : path
        The ``ooi`` file.
    hdu : int, optional
        Its extension.
    ccd : str, optional
        Its name; either is enough, and the name wins.
    camera : str, optional
        The camera; by the file's name if omitted.

    Returns
    -------
    CcdHeader
        The facts.

    Raises
    ------
    MissingInputError, DataError
        In one sentence.
    """
    facts = camera_of_file(path) if camera is None else survey_camera(camera)
    hdus = open_raw(path, walk=False)
    try:
        return _header(Path(path), hdus, _find(Path(path), hdus, hdu, ccd), facts)
    finally:
        hdus.close()


def _pixels(path: Path, hdu: int, name: str, box: tuple[int, int, int, int] | None) -> NDArray[Any]:
    """Pixels (y0:y1, x0:x1) of a CCD, which is expected in some extension."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            decoded = _decoded(path, hdu, name, box)
            return _undecoded(path, hdu, name, box) if decoded is None else decoded
    except Exception as err:
        if not is_damage(err):
            raise
        raise DataError(
            f"the pixels of {path} CCD {name or hdu} cannot be read (truncated or damaged): {err}"
        ) from err


def _undecoded(
    path: Path, hdu: int, name: str, box: tuple[int, int, int, int] | None
) -> NDArray[Any]:
    """Pixels of a CCD of any other kind."""
    hdus = open_raw(path, walk=False)
    try:
        found = _find(path, hdus, hdu, name or None)
        if box is None:
            return np.array(hdus[found].data)
        x0, x1, y0, y1 = box
        return np.array(hdus[found].section[y0:y1, x0:x1])
    finally:
        hdus.close()


def _decoded(
    path: Path, hdu: int, name: str, box: tuple[int, int, int, int] | None
) -> NDArray[Any] | None:
    """Pixels of a CCD with one Rice-coded tile a row, as the community pipelines write them."""
    if path.suffix not in (".fz", ".fits"):
        return None
    hdus = open_raw(path, walk=False, decompress=False)
    try:
        own = hdus[_find(path, hdus, hdu, name or None)]
        if not isinstance(own, fits.BinTableHDU):
            return None
        ny, nx = int(own.header.get("ZNAXIS2", 0)), int(own.header.get("ZNAXIS1", 0))
        x0, x1, y0, y1 = (0, nx, 0, ny) if box is None else box
        if not (0 <= x0 < x1 <= nx and 0 <= y0 < y1 <= ny):
            return None
        return read_rice_section(path, own, (x0, x1, y0, y1))
    finally:
        hdus.close()


def read_ccd(
    path: str | Path,
    *,
    hdu: int | None = None,
    ccd: str | None = None,
    camera: str | None = None,
    box: tuple[int, int, int, int] | None = None,
    source_photons: bool = True,
    info: CcdHeader | None = None,
) -> CommunityCcd:
    """Read image, weight and data quality of one CCD.

    Parameters
    ----------
    path : path
        The ``ooi`` file.
    hdu : int, optional
        Its extension.
    ccd : str, optional
        Its name; either is enough, and the name wins.
    camera : str, optional
        The camera; by the file's name if omitted.
    box : (x0, x1, y0, y1), optional [pixel]
        Part of the CCD, 0-based and half open, clipped to it.
    source_photons : bool
        Add the noise of the sources to weights that know the sky's only (90prime, Mosaic-3).
    info : CcdHeader, optional
        Of `read_ccd_header`, if it was read before.

    Returns
    -------
    CommunityCcd
        The pixels. Weights are 0 where the image is not finite or the quality is not 0.

    Raises
    ------
    MissingInputError, DataError
        In one sentence: a missing companion, a truncated file, other shapes, an empty part.
    """
    if info is None:
        info = read_ccd_header(path, hdu=hdu, ccd=ccd, camera=camera)
    ny, nx = info.shape
    if box is not None:
        box = max(0, box[0]), min(nx, box[1]), max(0, box[2]), min(ny, box[3])
        if box[0] >= box[1] or box[2] >= box[3]:
            raise DataError(f"the part {box} lies outside of {path} CCD {info.ccdname}")
    image = np.ascontiguousarray(_pixels(info.path, info.hdu, info.ccdname, box), np.float32)
    weight = np.ascontiguousarray(
        _pixels(companion(path, "w"), info.hdu, info.ccdname, box), np.float32
    )
    codes = _pixels(companion(path, "d"), info.hdu, info.ccdname, box)
    for what, pixels in (("weight", weight), ("data quality", codes)):
        if pixels.shape != image.shape:
            raise DataError(
                f"the {what} of {path} CCD {info.ccdname} has the shape {pixels.shape}, "
                f"its image {image.shape}"
            )
    quality = release_quality(np.asarray(codes), camera=info.camera, plver=info.plver)
    good = np.isfinite(image) & np.isfinite(weight) & (weight > 0) & (quality == 0)
    clean = np.where(good, weight, np.float32(0)).astype(np.float32)
    if source_photons and info.camera.unit_is_electrons_per_second:
        clean = _with_source_photons(image, clean, info)
    x0, y0 = (0, 0) if box is None else (box[0], box[2])
    return CommunityCcd(info=info, image=image, weight=clean, quality=quality, x0=x0, y0=y0)


def _with_source_photons(
    image: Float32Array, weight: Float32Array, info: CcdHeader
) -> Float32Array:
    """Weights of 90prime and Mosaic-3 know the sky's noise only: add that of the sources."""
    if not info.exptime > 0:
        return weight
    good = weight > 0
    sky = info.header.get("SKYADU1", info.header.get("SKYADU"))
    level = float(sky) if isinstance(sky, int | float) else float(np.median(image[good]))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = 1.0 / weight + np.abs(image - level) / info.exptime
        return np.where(good, 1.0 / variance, 0.0).astype(np.float32)


def _version(plver: str) -> tuple[int, int]:
    numbers = [int(n) for n in re.findall(r"\d+", plver)[:2]]
    return (*numbers, 0, 0)[0], (*numbers, 0, 0)[1]


def uses_codes(plver: str) -> bool:
    """Whether the data quality of DECam holds one code a pixel, not bits.

    Parameters
    ----------
    plver : str
        Version of the Community Pipeline; without a number codes are assumed.

    Returns
    -------
    bool
        True since version 3.5.
    """
    return not (0, 0) != _version(plver) < (3, 5)


def release_quality(
    codes: NDArray[np.integer[Any]], *, camera: SurveyCamera, plver: str
) -> Int32Array:
    """Bits of the releases from the Community Pipeline's data quality.

    Parameters
    ----------
    codes : (ny, nx) int
        Pixels of the ``ood`` file: a code each; for DECam before version 3.5 bits.
    camera : SurveyCamera
        For the codes that are not to be believed.
    plver : str
        Version of the pipeline, such as ``V4.8.2a``; without a number codes are assumed.

    Returns
    -------
    (ny, nx) int32
        `QUALITY_BITS`. An unknown code or bit makes its pixel bad. Bad pixels that touch
        saturated ones are saturated: the pipeline marks the rim of a saturated core as bad.
    """
    values = np.asarray(codes).astype(np.int64)
    bad, saturated = QUALITY_BITS["badpix"], QUALITY_BITS["satur"]
    if camera.name == "decam" and not uses_codes(plver):
        known = sum(QUALITY_BITS.values())
        out = (values & known).astype(np.int32)
        out[(values & ~known) != 0] |= bad
        both = (out & (bad | saturated)) == (bad | saturated)
        out[both] &= ~saturated
        return out
    ignored = set(camera.ignored_codes)
    if camera.name == "decam" and plver and _version(plver) < (4, 8):
        ignored.add(5)  # Cosmic rays and streaks were confused in these versions.
    out = np.zeros(values.shape, np.int32)
    seen = values == 0
    for code, name in _CODES.items():
        hit = values == code
        seen |= hit
        if code not in ignored:
            out[hit] |= QUALITY_BITS[name]
    out[~seen] |= bad
    if (values == 3).any():
        rim = binary_dilation(values == 3, structure=np.ones((3, 3), bool)) & (values == 1)
        out[rim] |= saturated
    return out

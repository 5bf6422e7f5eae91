"""Header cards of DECam images as the Community Pipeline writes them (InstCal, version 4.8).

Cards and their values follow the headers of real images of the Legacy Surveys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.time import Time

from skymill.sims.camera import Pointing
from skymill.sims.community_images import CcdImage
from skymill.sims.headers import extension_header, primary_header

__all__ = ["PLVER", "Calibration", "ccd_header", "exposure_header", "image_stem", "night_of"]

#: Version of the pipeline whose files are imitated.
PLVER = "V4.8.2a"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is true of the calibration of one CCD.

    Parameters
    ----------
    zero_point : float [mag]
        AB magnitude of one ADU per second.
    ra_offset, dec_offset : float [arcsec]
        To be added to the positions of the header.
    fwhm : float [pixel]
        Of the PSF at the centre.
    """

    zero_point: float
    ra_offset: float
    dec_offset: float
    fwhm: float


def night_of(pointing: Pointing) -> str:
    """The evening's date, ``YYYYMMDD``.

    Parameters
    ----------
    pointing : Pointing
        The exposure.

    Returns
    -------
    str
        The date.
    """
    return str(Time(np.floor(pointing.head.mjd - 0.6), format="mjd").isot[:10]).replace("-", "")


def image_stem(pointing: Pointing, kind: str = "i") -> str:
    """Name of a file of an exposure without ``.fits.fz``.

    Parameters
    ----------
    pointing : Pointing
        The exposure.
    kind : str
        ``i`` image, ``w`` weight, ``d`` data quality.

    Returns
    -------
    str
        Such as ``c4d_180214_053012_ooi_g_ls9``.
    """
    stamp = Time(pointing.head.mjd, format="mjd").isot[2:19].replace("-", "").replace(":", "")
    return f"c4d_{stamp.replace('T', '_')}_oo{kind}_{pointing.head.band}_ls9"


def process_id(pointing: Pointing) -> str:
    """PLPROCID: the same for all exposures of a night."""
    return f"95{int(pointing.head.mjd - 0.6) % 0xFFFFF:05x}"


def process_date(pointing: Pointing) -> str:
    """DATE of the primary header: when the pipeline ran."""
    return str(Time(np.floor(pointing.head.mjd) + 380.0 + 0.25, format="mjd").isot[:19])


def exposure_header(
    pointing: Pointing, n_ccds: int, kind: str, *, magnitude_zero: float
) -> fits.Header:
    """The primary header of an image, weight or data-quality file.

    Parameters
    ----------
    pointing : Pointing
        The exposure.
    n_ccds : int
        Number of CCDs in the file.
    kind : str
        ``i``, ``w`` or ``d``.
    magnitude_zero : float [mag]
        The pipeline's own zero point of one ADU in the exposure.

    Returns
    -------
    astropy.io.fits.Header
        Cards of the primary HDU.
    """
    head = pointing.head
    header = primary_header(head, n_ccds)
    band, night = head.band, night_of(pointing)
    name = f"DECALS_DR9_{process_id(pointing)}-{band}-{image_stem(pointing)[4:17]}"
    product = {"i": "image", "w": "wtmap", "d": "dqmask"}[kind]
    for key, value, comment in (
        ("DATE", process_date(pointing), "Date FITS file was generated"),
        ("PROCTYPE", "InstCal", "Data processing level"),
        ("PRODTYPE", product, "Data product type"),
        ("OBJECT", f"{head.target}_{band}", "Name of the object observed"),
        ("EXPDUR", head.exposure_time, "[s] Exposure duration"),
        ("MJD-END", head.mjd + head.exposure_time / 86400.0, "Exposure end"),
        ("PHOTFLAG", 1, "Night Photometric (1) or not (0)"),
        ("XTALKFIL", "xtalk_20130606.txt", "Crosstalk file"),
        ("BAND", band, ""),
        ("NITE", night, ""),
        ("DTCALDAT", f"{night[:4]}-{night[4:6]}-{night[6:]}", "calendar date"),
        ("DTNSANAM", f"{image_stem(pointing, kind)}.fits.fz", "name in archive"),
        ("RADECSYS", "ICRS", "Astrometric system"),
        ("SCAMPFLG", 0, "WCS successful"),
        ("PHOTREF", "PS1", "Photometric reference catalog"),
        ("MAGZERO", round(magnitude_zero, 3), "[mag] Magnitude of 1 count"),
        ("MAGZPT", round(magnitude_zero - 2.5 * np.log10(head.exposure_time), 3),
         "[mag] Magnitude zero point per second"),
        ("FILENAME", f"{name}_o{kind}", ""),
        ("PLVER", PLVER, ""),
        ("PLDNAME", "DECALS_DR9", ""),
        ("PLQUEUE", "DECALS", ""),
        ("PLQNAME", "DR9", ""),
        ("PLPROCID", process_id(pointing), ""),
        ("PLFNAME", f"{name}_o{kind}", ""),
        ("WCSCAL", "Successful", "Astrometric calibration"),
    ):  # fmt: skip
        header[key] = (value, comment)
    return header


def ccd_header(ccd: CcdImage, pointing: Pointing, truth: Calibration, kind: str) -> fits.Header:
    """The header of one CCD, with the WCS of the pipeline (a little off the truth).

    Parameters
    ----------
    ccd : CcdImage
        The CCD.
    pointing : Pointing
        The exposure.
    truth : Calibration
        What is true of it.
    kind : str
        ``i``, ``w`` or ``d``.

    Returns
    -------
    astropy.io.fits.Header
        Cards of the extension.
    """
    x0, y0, nx, ny = ccd.window
    header = extension_header(ccd.ccd, pointing.optics)
    for key in [k for k in header if k.startswith(("TRIMSEC", "AMPSEC", "DATASEC", "BIASSEC",
                                                   "PRESEC", "POSTSEC", "DETSECA", "DETSECB",
                                                   "CCDSECA", "CCDSECB"))]:  # fmt: skip
        del header[key]
    for key, value, comment in (
        ("DATE", process_date(pointing), "Date FITS file was generated"),
        ("CCDSEC", f"[{x0 + 1}:{x0 + nx},{y0 + 1}:{y0 + ny}]", "CCD section"),
        ("LTV1", float(-x0), "Detector to image transformation"),
        ("LTV2", float(-y0), "Detector to image transformation"),
        ("GAINA", ccd.gain, ""),
        ("GAINB", ccd.gain, ""),
        ("RDNOISEA", ccd.read_noise, "[electrons] Read noise for amp A"),
        ("RDNOISEB", ccd.read_noise, "[electrons] Read noise for amp B"),
        ("SATURATE", min(a.saturation for a in ccd.ccd.amps), ""),
        ("NSATPIX", ccd.record["n_saturated"], "Number of saturated pixels"),
        ("FWHM", round(truth.fwhm, 5), "Median FWHM in pixels"),
        ("ELLIPTIC", 0.05, "Median ELLIPTICITY"),
        ("AVSKY", round(ccd.sky, 4), ""),
        ("AVSIG", round(ccd.sigma, 5), ""),
        ("ARAWGAIN", round(ccd.gain, 2), "[e/adu] Average raw gain"),
        ("RADESYS", "ICRS", ""),
    ):  # fmt: skip
        header[key] = (value, comment)
    if kind == "i":
        header["BUNIT"] = "adu"
    else:
        del header["BUNIT"]
    header["CRPIX1"] -= x0
    header["CRPIX2"] -= y0
    declination = np.radians(float(header["CRVAL2"]))
    header["CRVAL1"] -= truth.ra_offset / 3600.0 / np.cos(declination)
    header["CRVAL2"] -= truth.dec_offset / 3600.0
    return header

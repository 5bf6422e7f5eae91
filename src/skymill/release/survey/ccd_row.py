"""The row of one CCD in the tables of a survey: circumstances, geometry, PSF, sky, depth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import Angle
from numpy.typing import NDArray

from skymill.calibrate.extinction import DustMap
from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.instruments.community_ccd import CcdHeader, CommunityCcd
from skymill.psf.models import PolynomialPsf
from skymill.release.survey.psf_model import FWHM, psf_moments, psf_norms
from skymill.release.survey.spline_sky import clipped_median

__all__ = [
    "BANDS",
    "add_depth",
    "add_extinction",
    "add_geometry",
    "add_good_region",
    "add_psf",
    "add_sky",
    "depth_magnitude",
    "header_values",
    "image_name",
    "pixel_scales",
]

Float64Array = NDArray[np.float64]

#: Bands of ``decam_extinction``, and A/E(B-V) of them and of the four bands of WISE.
BANDS = "ugrizY"
DECAM_EXTINCTION = (3.995, 3.214, 2.165, 1.592, 1.211, 1.064)
WISE_EXTINCTION = (0.184, 0.113, 0.0241, 0.00910)


def _number(header: Any, *keys: str, default: float = 0.0) -> float:
    for key in keys:
        value = header.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                continue
    return default


def _pointing(header: Any) -> tuple[float, float]:
    """Boresight [deg]: cards RA (hours) and DEC, sexagesimal or in degrees."""
    ra, dec = header.get("RA", header.get("TELRA")), header.get("DEC", header.get("TELDEC"))
    out = []
    for value, unit in ((ra, "hourangle"), (dec, "deg")):
        try:
            if isinstance(value, str) and ":" in value:
                out.append(float(Angle(value, unit=unit).deg))
            else:
                out.append(float(value))
        except (TypeError, ValueError):
            out.append(math.nan)
    if not math.isfinite(out[0]):
        out = [_number(header, "CENTRA", default=math.nan), out[1]]
    if not math.isfinite(out[1]):
        out = [out[0], _number(header, "CENTDEC", default=math.nan)]
    return out[0] % 360.0 if math.isfinite(out[0]) else 0.0, out[1] if math.isfinite(
        out[1]
    ) else 0.0


def header_values(info: CcdHeader, image_filename: str) -> dict[str, Any]:
    """What the header tells.

    Parameters
    ----------
    info : CcdHeader
        The CCD.
    image_filename : str
        The image below the folder ``images``.

    Returns
    -------
    dict
        Columns of ``survey-ccds`` and some of ``ccds-annotated``.
    """
    header = info.header
    ra_bore, dec_bore = _pointing(header)
    return {
        "image_filename": image_filename,
        "image_hdu": info.hdu,
        "camera": info.camera.name,
        "expnum": info.expnum,
        "plver": info.plver,
        "procdate": info.procdate,
        "plprocid": str(header.get("PLPROCID", "")).strip(),
        "ccdname": info.ccdname,
        "object": str(header.get("OBJECT", "")).strip()[:35],
        "propid": str(header.get("PROPID", "")).strip()[:16],
        "filter": info.band,
        "exptime": info.exptime,
        "mjd_obs": info.mjd_obs if math.isfinite(info.mjd_obs) else 0.0,
        "airmass": _number(header, "AIRMASS", default=1.0),
        "width": info.shape[1],
        "height": info.shape[0],
        "ra_bore": ra_bore,
        "dec_bore": dec_bore,
        **{k: _number(header, k.upper()) for k in ("crpix1", "crpix2", "crval1", "crval2")},
        **{f"cd{i}_{j}": _number(header, f"CD{i}_{j}") for i in (1, 2) for j in (1, 2)},
        "yshift": "YSHIFT" in header,
        "ut": str(header.get("TIME-OBS", header.get("UT", ""))).strip(),
        "date_obs": str(header.get("DATE-OBS", "")).strip(),
        "ha": str(header.get("HA", "")).strip(),
        "humidity": _number(header, "HUMIDITY", "INH", default=math.nan),
        "outtemp": _number(header, "OUTTEMP", "ENVTEM", default=math.nan),
        "gain": info.gain,
        "fwhm_cp": _number(header, "FWHM", "SEEINGP1", "SEEINGP"),
        "ccdnum": int(_number(header, "CCDNUM")),
    }


def add_geometry(row: dict[str, Any], wcs: FitsWcs, shape: tuple[int, int]) -> None:
    """Centre, corners, extent and pixel scale.

    Parameters
    ----------
    row : dict
        Changed: ``ra dec ra0..3 dec0..3 dra ddec ra_center dec_center pixscale_*``.
    wcs : FitsWcs
        World coordinates of the CCD, without offsets.
    shape : (ny, nx)
        Its pixels.
    """
    ny, nx = shape
    middle_x, middle_y = (nx - 1) / 2, (ny - 1) / 2
    ra, dec = wcs.pixel_to_sky(
        x=[middle_x, 0, 0, nx - 1, nx - 1], y=[middle_y, 0, ny - 1, ny - 1, 0]
    )
    row["ra"], row["dec"] = float(ra[0]), float(dec[0])
    row["ra_center"], row["dec_center"] = float(ra[0]), float(dec[0])
    for k in range(4):
        row[f"ra{k}"], row[f"dec{k}"] = float(ra[k + 1]), float(dec[k + 1])
    away = np.abs((ra[1:] - ra[0] + 180.0) % 360.0 - 180.0) * np.cos(np.radians(dec[0]))
    row["dra"], row["ddec"] = float(away.max()), float(np.abs(dec[1:] - dec[0]).max())
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    scale = pixel_scales(wcs, x, y)
    row["pixscale_mean"], row["pixscale_std"] = float(scale.mean()), float(scale.std())
    row["pixscale_min"], row["pixscale_max"] = float(scale.min()), float(scale.max())


def add_good_region(row: dict[str, Any], weight: NDArray[np.float32]) -> None:
    """The part of the CCD that has any usable pixel.

    Parameters
    ----------
    row : dict
        Changed: ``good_region``.
    weight : (ny, nx) float32
        Weights, at least one above 0.
    """
    good = weight > 0
    columns, rows = np.flatnonzero(good.any(axis=0)), np.flatnonzero(good.any(axis=1))
    row["good_region"] = np.array([columns[0], columns[-1], rows[0], rows[-1]], np.int16)


def pixel_scales(wcs: FitsWcs, x: Float64Array, y: Float64Array) -> Float64Array:
    """Root of the area of pixels.

    Parameters
    ----------
    wcs : FitsWcs
        World coordinates.
    x, y : (n,) float64 [pixel]
        Where.

    Returns
    -------
    (n,) float64 [arcsec]
        Pixel scales.
    """
    n = x.size
    ra, dec = wcs.pixel_to_sky(
        x=np.concatenate([x - 0.5, x + 0.5, x, x]), y=np.concatenate([y, y, y - 0.5, y + 0.5])
    )
    ra, dec = ra.reshape(4, n), dec.reshape(4, n)
    cosine = np.cos(np.radians(dec.mean(axis=0)))
    east = [((ra[k + 1] - ra[k] + 180) % 360 - 180) * cosine for k in (0, 2)]
    north = [dec[k + 1] - dec[k] for k in (0, 2)]
    return np.asarray(3600.0 * np.sqrt(np.abs(east[0] * north[1] - east[1] * north[0])))


def add_psf(row: dict[str, Any], psf: PolynomialPsf, shape: tuple[int, int]) -> None:
    """Norms of the PSF on a grid of 5 x 5 and its moments in the middle.

    Parameters
    ----------
    row : dict
        Changed: ``psfnorm_mean psfnorm_std galnorm_mean galnorm_std psfnorm galnorm psf_mx2 ...``.
        Needs ``pixscale_mean``.
    psf : PolynomialPsf
        The model.
    shape : (ny, nx)
        Pixels of the CCD.
    """
    ny, nx = shape
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    psfnorm, galnorm = psf_norms(psf, x=x, y=y, pixel_scale=row["pixscale_mean"])
    row["psfnorm_mean"], row["psfnorm_std"] = float(psfnorm.mean()), float(psfnorm.std())
    row["galnorm_mean"], row["galnorm_std"] = float(galnorm.mean()), float(galnorm.std())
    row["psfnorm"], row["galnorm"] = row["psfnorm_mean"], row["galnorm_mean"]
    row.update(psf_moments(psf, x=nx / 2, y=ny / 2))


def add_sky(
    row: dict[str, Any], ccd: CommunityCcd, level: NDArray[np.float32], *, zero_point: float | None
) -> None:
    """Sky level and noise in counts a second, and statistics of its model.

    Parameters
    ----------
    row : dict
        Changed: ``ccdskycounts skyrms ccdskysb meansky stdsky minsky maxsky sig1``.
    ccd : CommunityCcd
        Weights without the sources' photons.
    level : (ny, nx) float32 [unit of the image]
        The sky.
    zero_point : float, optional [mag]
        Of one unit of the image a second; for ``sig1`` in nanomaggies and ``ccdskysb``.

    Raises
    ------
    DataError
        If no pixel has a weight.
    """
    good = ccd.weight > 0
    if not good.any():
        raise DataError("All weight-map pixels are zero")
    info = ccd.info
    time = 1.0 if info.camera.unit_is_electrons_per_second else info.exptime
    noise = 1.0 / math.sqrt(float(np.median(ccd.weight[good])))
    sample = level[::10, ::10]
    row["meansky"], row["stdsky"] = float(sample.mean()), float(sample.std())
    row["minsky"], row["maxsky"] = float(sample.min()), float(sample.max())
    median, _ = clipped_median(ccd.image[good])
    row["ccdskycounts"] = median / time
    _, scatter = clipped_median((ccd.image - level)[good])
    row["skyrms"] = scatter / time
    row["sig1_counts"] = noise
    if zero_point is not None:
        row["sig1"] = noise / time / 10.0 ** ((zero_point - 22.5) / 2.5)
    nominal = info.camera.zero_points.get(info.band)
    magnitude = zero_point if zero_point is not None else nominal
    if magnitude is not None and row["ccdskycounts"] > 0:
        area = row.get("pixscale_mean", info.camera.pixel_scale) ** 2
        row["ccdskysb"] = magnitude - 2.5 * math.log10(row["ccdskycounts"] / area)


def depth_magnitude(sig1: float, norm: float) -> float:
    """Magnitude of a 5 sigma detection; 0 if the noise or the norm is not known.

    Parameters
    ----------
    sig1 : float [nanomaggy]
        Noise of a pixel.
    norm : float
        ``psfnorm`` or ``galnorm``.

    Returns
    -------
    float [mag]
        ``-2.5 (log10(5 sig1 / norm) - 9)``.
    """
    if not (sig1 > 0 and norm > 0):
        return 0.0
    return -2.5 * (math.log10(5.0 * sig1 / norm) - 9.0)


def add_depth(row: dict[str, Any]) -> None:
    """Depths of the PSF, the small galaxy and a Gaussian of the PSF's FWHM.

    Parameters
    ----------
    row : dict
        With ``sig1 psfnorm_mean galnorm_mean fwhm pixscale_mean``; changed: ``psfdepth galdepth
        gausspsfdepth gaussgaldepth`` [mag].
    """
    sig1 = float(row.get("sig1", 0.0))
    row["psfdepth"] = depth_magnitude(sig1, float(row.get("psfnorm_mean", 0.0)))
    row["galdepth"] = depth_magnitude(sig1, float(row.get("galnorm_mean", 0.0)))
    sigma = float(row.get("fwhm", 0.0)) / FWHM
    scale = float(row.get("pixscale_mean", 0.0))
    gauss = 1.0 / (2.0 * math.sqrt(math.pi) * sigma) if sigma > 0 else 0.0
    row["gausspsfdepth"] = depth_magnitude(sig1, gauss)
    row["gaussgaldepth"] = 0.0
    if sigma > 0 and scale > 0:
        stamp = PolynomialPsf(_gaussian(sigma)[None], 0, (0.0, 0.0), (1.0, 1.0))
        _, norm = psf_norms(stamp, x=np.zeros(1), y=np.zeros(1), pixel_scale=scale)
        row["gaussgaldepth"] = depth_magnitude(sig1, float(norm[0]))


def _gaussian(sigma: float) -> Float64Array:
    half = max(8, int(np.ceil(6 * sigma)))
    line = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    stamp = np.outer(line, line)
    return np.asarray(stamp / stamp.sum())


def add_extinction(row: dict[str, Any], dust: DustMap | None) -> None:
    """E(B-V) at the centre and the extinction in the bands of DECam and WISE.

    Parameters
    ----------
    row : dict
        With ``ra``, ``dec``; changed: ``ebv decam_extinction wise_extinction``.
    dust : DustMap, optional
        The map; without it all are 0.
    """
    value = 0.0
    if dust is not None:
        value = float(dust.ebv(ra=[row["ra"]], dec=[row["dec"]])[0])
        value = value if math.isfinite(value) else 0.0
    row["ebv"] = value
    row["decam_extinction"] = np.array(DECAM_EXTINCTION, np.float32) * np.float32(value)
    row["wise_extinction"] = np.array(WISE_EXTINCTION, np.float32) * np.float32(value)


def image_name(path: str | Path) -> str:
    """The part of an image's path behind the folder ``images``, or from the camera on.

    Parameters
    ----------
    path : path
        The image.

    Returns
    -------
    str
        Such as ``decam/CP/V4.8.2a/.../c4d_..._ooi_r_ls9.fits.fz``; the bare name otherwise.
    """
    parts = Path(path).absolute().parts
    for names in (("images",), ("decam", "mosaic", "90prime")):
        found = [k for k, part in enumerate(parts[:-1]) if part in names]
        if found:
            start = found[-1] + 1 if names == ("images",) else found[-1]
            return str(Path(*parts[start:]))
    return parts[-1]

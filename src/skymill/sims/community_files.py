"""The files of a survey folder that are not images: PSF, sky, zero points, references, bricks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import hpgeom
import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.geometry import local_jacobian
from skymill.sims.camera import SKY_BRIGHTNESS, Pointing, write_whole
from skymill.sims.catalogs import gaia_catalogue, ps1_catalogue
from skymill.sims.community_draw import draw_psf_stamps
from skymill.sims.community_headers import PLVER, Calibration, process_date, process_id
from skymill.sims.community_images import CcdImage, psf_field, sky_level
from skymill.sims.community_plan import PatchBrick
from skymill.sims.scene import Scene

__all__ = [
    "ccds_row",
    "psfex_row",
    "sky_row",
    "write_bricks",
    "write_gaia",
    "write_ps1",
    "write_table",
    "write_tycho2",
]

Float64Array = NDArray[np.float64]

_NSIDE = 32
_DEGREE = 2
_GALAXY_HLR = 0.45


def write_table(table: Table, path: Path) -> None:
    """Write a FITS table under a temporary name and rename it.

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    path : pathlib.Path
        File; ``.gz`` compresses it.
    """
    hdu = fits.table_to_hdu(table)
    write_whole(fits.HDUList([fits.PrimaryHDU(), hdu]), path)


def _provenance(pointing: Pointing, ccd: CcdImage) -> dict[str, Any]:
    return {
        "legpipev": "skymill-sims", "plver": PLVER, "plprocid": process_id(pointing),
        "imgdsum": 0, "procdate": process_date(pointing), "expnum": pointing.head.number,
        "ccdname": ccd.ccd.name,
    }  # fmt: skip


def psfex_row(ccd: CcdImage, pointing: Pointing) -> tuple[dict[str, Any], float, float]:
    """The true PSF as a PSFEx model of second order.

    Parameters
    ----------
    ccd : CcdImage
        The CCD.
    pointing : Pointing
        The exposure.

    Returns
    -------
    row : dict
        Columns of the surveys' PSFEx tables.
    residual : float
        Largest difference of a pixel of the model from the truth, for unit flux.
    inside : float
        Part of a star's light within the stamp.
    """
    x0, y0, nx, ny = ccd.window
    x, y = (
        a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1.0, 5), np.linspace(0, ny - 1.0, 5))
    )
    stamps = draw_psf_stamps(
        psf_field(ccd.ccd, pointing, x + x0, y + y0), local_jacobian(ccd.wcs, x=x, y=y)
    )
    zero, scale = ((nx + 1) / 2, (ny + 1) / 2), (float(nx), float(ny))
    u, v = (x + 1.0 - zero[0]) / scale[0], (y + 1.0 - zero[1]) / scale[1]
    terms = [(i, j) for j in range(_DEGREE + 1) for i in range(_DEGREE + 1 - j)]
    design = np.stack([u**i * v**j for i, j in terms], axis=1)
    basis, *_ = np.linalg.lstsq(design, stamps.reshape(x.size, -1), rcond=None)
    residual = float(np.abs(design @ basis - stamps.reshape(x.size, -1)).max())
    size = stamps.shape[-1]
    row = {
        "loaded": 200, "accepted": 200, "chi2": 1.0, "polnaxis": 2, "polngrp": 1,
        "psf_fwhm": float(ccd.record["fwhm_pixel"]), "psf_samp": 1.0, "psfnaxis": 3,
        "psfaxis1": size, "psfaxis2": size, "psfaxis3": len(terms), "polgrp1": 1,
        "polname1": "X_IMAGE", "polzero1": zero[0], "polscal1": scale[0], "polgrp2": 1,
        "polname2": "Y_IMAGE", "polzero2": zero[1], "polscal2": scale[1], "poldeg1": _DEGREE,
        "psf_mask": basis.reshape(len(terms), size, size).astype(np.float32),
        **_provenance(pointing, ccd),
    }  # fmt: skip
    return row, residual, float(stamps.sum(axis=(1, 2)).mean())


def sky_row(ccd: CcdImage, pointing: Pointing) -> dict[str, Any]:
    """The true sky as a spline of the surveys' format.

    Parameters
    ----------
    ccd : CcdImage
        The CCD.
    pointing : Pointing
        The exposure.

    Returns
    -------
    dict
        Columns of the surveys' splinesky tables.
    """
    x0, y0, nx, ny = ccd.window
    step = 256 if min(nx, ny) > 1024 else 64
    xgrid, ygrid = (np.arange(-1, n + step, step, dtype=np.int32) for n in (nx, ny))
    grid = sky_level(
        ccd.ccd, pointing, x=x0 + xgrid[None, :].astype(float), y=y0 + ygrid[:, None].astype(float)
    )
    row: dict[str, Any] = {
        "gridw": xgrid.size, "gridh": ygrid.size,
        "gridvals": (grid / ccd.gain).astype(np.float32), "xgrid": xgrid, "ygrid": ygrid,
        "x0": np.int32(0), "y0": np.int32(0), "order": np.uint8(3),
        "skyclass": "tractor.splinesky.SplineSky", "sig1": np.float32(ccd.sigma),
    }  # fmt: skip
    for name in ("sky_mode", "sky_med", "sky_cmed", "sky_john"):
        row[name] = np.float32(ccd.sky)
    row["sky_fmasked"] = np.float32(np.mean(ccd.quality != 0))
    return {**row, **_provenance(pointing, ccd)}


def _norms(ccd: CcdImage, pointing: Pointing) -> tuple[float, float]:
    """Root of the sum of squares of the PSF, and of it with a round exponential of 0.45 arcsec."""
    x0, y0, nx, ny = ccd.window
    x, y = np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])
    jacobian = local_jacobian(ccd.wcs, x=x, y=y)
    stamp = draw_psf_stamps(psf_field(ccd.ccd, pointing, x + x0, y + y0), jacobian)[0]
    scale = float(np.sqrt(abs(np.linalg.det(jacobian[0]))))
    pixels = galsim.Image(stamp, scale=scale)
    psf = galsim.InterpolatedImage(pixels, normalization="flux", flux=1.0)
    galaxy = galsim.Convolve(psf, galsim.Exponential(half_light_radius=_GALAXY_HLR))
    drawn = galaxy.drawImage(nx=63, ny=63, scale=scale, method="no_pixel").array
    return float(np.sqrt((stamp**2).sum())), float(np.sqrt((drawn.astype(float) ** 2).sum()))


def ccds_row(
    ccd: CcdImage, pointing: Pointing, truth: Calibration, header: fits.Header, filename: str,
    hdu: int,
) -> dict[str, Any]:  # fmt: skip
    """The row of survey-ccds with the true calibration.

    Parameters
    ----------
    ccd : CcdImage
        The CCD.
    pointing : Pointing
        The exposure.
    truth : Calibration
        Its calibration.
    header : astropy.io.fits.Header
        Of the CCD.
    filename : str
        Relative to ``images``.
    hdu : int
        Number of the extension.

    Returns
    -------
    dict
        The 46 columns of the surveys' table (the 45 and ``ccdskysb``).
    """
    head = pointing.head
    _, _, nx, ny = ccd.window
    ra, dec = ccd.wcs.pixel_to_sky(x=[(nx - 1) / 2], y=[(ny - 1) / 2])
    psfnorm, galnorm = _norms(ccd, pointing)
    scale = 10.0 ** (0.4 * (truth.zero_point - 22.5)) * head.exposure_time
    weights = ccd.weight[::7, ::7]
    sigma = 1.0 / float(np.sqrt(np.median(weights[weights > 0])))
    offsets = {"ccdraoff": truth.ra_offset, "ccddecoff": truth.dec_offset}
    return {
        "image_filename": filename, "image_hdu": np.int16(hdu), "camera": "decam",
        "expnum": np.int64(head.number), "plver": PLVER, "procdate": process_date(pointing),
        "plprocid": process_id(pointing), "ccdname": ccd.ccd.name,
        "object": f"{head.target}_{head.band}", "propid": "2019A-0000", "filter": head.band,
        "exptime": np.float32(head.exposure_time), "mjd_obs": head.mjd,
        "airmass": np.float32(head.airmass or 1.0), "fwhm": np.float32(truth.fwhm),
        "width": np.int16(nx), "height": np.int16(ny), "ra_bore": head.ra, "dec_bore": head.dec,
        "crpix1": np.float32(header["CRPIX1"]), "crpix2": np.float32(header["CRPIX2"]),
        "crval1": float(header["CRVAL1"]), "crval2": float(header["CRVAL2"]),
        **{f"cd{i}_{j}": np.float32(header[f"CD{i}_{j}"]) for i in (1, 2) for j in (1, 2)},
        "yshift": False, "ra": float(ra[0]), "dec": float(dec[0]),
        "skyrms": np.float32(ccd.sigma / head.exposure_time), "sig1": np.float32(sigma / scale),
        "ccdzpt": np.float32(ccd.record["psf_zero_point"]),
        "zpt": np.float32(ccd.record["zpt_mean"]),
        **{name: np.float32(value) for name, value in offsets.items()},
        "ccdskycounts": np.float32(ccd.sky / head.exposure_time),
        "ccdskysb": np.float32(SKY_BRIGHTNESS[head.band] if pointing.sky is None else pointing.sky),
        "ccdrarms": np.float32(0.02), "ccddecrms": np.float32(0.02),
        "ccdphrms": np.float32(0.02), "ccdnastrom": np.int16(200), "ccdnphotom": np.int16(200),
        "ccd_cuts": np.int64(0), "psfnorm": np.float32(psfnorm), "galnorm": np.float32(galnorm),
    }  # fmt: skip


def _by_pixel(table: Table, folder: Path, pattern: str) -> None:
    """One file for each pixel of a ring-ordered HEALPix map of side 32."""
    ra, dec = (np.asarray(table[_find(table, n)]) for n in ("ra", "dec"))
    pixel = hpgeom.angle_to_pixel(_NSIDE, ra, dec, nest=False)
    for number in np.unique(pixel):
        write_table(table[pixel == number], folder / pattern.format(int(number)))


def _find(table: Table, name: str) -> str:
    return next(c for c in table.colnames if c.lower() == name)


def write_gaia(scene: Scene, folder: Path, rng: np.random.Generator) -> None:
    """Write ``gaia/chunk-NNNNN.fits``: stars to G = 20.7 with errors, gaps and motions.

    Parameters
    ----------
    scene : Scene
        The stars.
    folder : pathlib.Path
        The survey folder.
    rng : numpy.random.Generator
        Random numbers.
    """
    source = gaia_catalogue(scene, rng)
    n = len(source)
    row = {int(i): k for k, i in enumerate(np.asarray(scene.stars["id"]))}
    at = np.array([row[int(i)] for i in np.asarray(source["id"])], int)
    g_i = np.asarray(scene.stars["ps1_g"])[at] - np.asarray(scene.stars["ps1_i"])[at]
    # BP - RP of g - i (Gaia DR2 documentation, table 5.8); magnitudes are of the Vega system.
    bp_rp = np.polynomial.polynomial.polyval(g_i, (0.3971, 0.77729, -0.04164, 0.008237))
    g_vega = 31.4 - 0.105 - 2.5 * np.log10(np.asarray(source["phot_g_mean_flux"]))
    snr = np.asarray(source["phot_g_mean_flux"]) / np.asarray(source["phot_g_mean_flux_err"])
    solved = np.isfinite(np.asarray(source["pm_ra"], float))
    table = Table()
    table["source_id"] = np.asarray(source["id"], np.int64)
    table["ra"], table["dec"] = np.asarray(source["ra"]), np.asarray(source["dec"])
    for name in ("ra", "dec"):
        table[f"{name}_error"] = np.asarray(source[f"{name}_err"], np.float32)
    table["phot_g_mean_mag"] = g_vega.astype(np.float32)
    table["phot_g_mean_flux_over_error"] = snr.astype(np.float32)
    table["phot_g_n_obs"] = np.full(n, 250, np.int16)
    for name, share, factor in (("bp", 0.55, 8.0), ("rp", -0.45, 6.0)):
        mag = g_vega + share * bp_rp + rng.normal(0.0, 1.0, n) * 1.0857 * factor / snr
        table[f"phot_{name}_mean_mag"] = mag.astype(np.float32)
        table[f"phot_{name}_mean_flux_over_error"] = (snr / factor).astype(np.float32)
        table[f"phot_{name}_n_obs"] = np.full(n, 30, np.int16)
    table["astrometric_weight_al"] = np.full(n, 0.2, np.float32)
    table["astrometric_n_obs_al"] = np.full(n, 290, np.int16)
    table["astrometric_n_good_obs_al"] = np.full(n, 289, np.int16)
    noise = np.abs(rng.normal(0.0, 0.2, n)) * (g_vega > 16)
    table["astrometric_excess_noise"] = noise.astype(np.float32)
    table["astrometric_excess_noise_sig"] = (2.0 * noise).astype(np.float32)
    table["duplicated_source"] = np.zeros(n, bool)
    table["ref_epoch"] = np.full(n, 2016.0, np.float32)
    for name, own in (("parallax", "parallax"), ("pmra", "pm_ra"), ("pmdec", "pm_dec")):
        value = np.asarray(source[own], float)
        error = np.asarray(source[f"{own}_err"], float) if f"{own}_err" in source.colnames else (
            np.asarray(source["ra_err"], float) * 1.1
        )  # fmt: skip
        # Stars without a solution of five parameters have zeros there, as in the surveys' files.
        table[name] = np.where(solved, value, 0.0).astype(np.float32)
        table[f"{name}_error"] = np.where(solved, error, 0.0).astype(np.float32)
    table["phot_variable_flag"] = np.zeros(n, bool)
    table["a_g_val"] = np.full(n, np.nan, np.float32)
    table["e_bp_min_rp_val"] = np.full(n, np.nan, np.float32)
    table["phot_bp_rp_excess_factor"] = np.full(n, 1.2, np.float32)
    table["astrometric_sigma5d_max"] = np.asarray(source["ra_err"], np.float32)
    table["astrometric_params_solved"] = np.where(solved, 31.0, 3.0).astype(np.float32)
    _by_pixel(table, folder / "gaia", "chunk-{:05d}.fits")


def write_ps1(scene: Scene, folder: Path, rng: np.random.Generator) -> None:
    """Write ``ps1/ps1-NNNNN.fits``: stars in g r i z y with 8 mas positions without motions.

    Parameters
    ----------
    scene : Scene
        The stars.
    folder : pathlib.Path
        The survey folder.
    rng : numpy.random.Generator
        Random numbers.
    """
    source = ps1_catalogue(scene, rng)
    source = source[np.asarray(source["is_star"], bool)]
    flux = np.stack([np.asarray(source[f"{b}_flux"], float) for b in "grizy"], axis=1)
    error = np.stack([np.asarray(source[f"{b}_flux_err"], float) for b in "grizy"], axis=1)
    good = np.isfinite(flux) & (flux > 0)
    safe = np.where(good, flux, 1.0)
    mag = np.where(good, 31.4 - 2.5 * np.log10(safe), 0.0)
    scatter = np.where(good, 1.0857 * error / safe, 0.0)
    table = Table()
    table["OBJ_ID"] = np.asarray(source["id"], np.int64)
    table["RA"], table["DEC"] = np.asarray(source["ra"]), np.asarray(source["dec"])
    table["NMAG_OK"] = np.where(good, 10, 0).astype(np.int16)
    table["STDEV"] = scatter.astype(np.float32)
    table["MEAN"] = mag.astype(np.float32)
    table["MEDIAN"] = mag.astype(np.float32)
    _by_pixel(table, folder / "ps1", "ps1-{:05d}.fits")


def write_tycho2(scene: Scene, path: Path, rng: np.random.Generator) -> None:
    """Write the bright stars as the surveys' Tycho-2 file has them (the table alone, no tree).

    Parameters
    ----------
    scene : Scene
        The stars.
    path : pathlib.Path
        ``tycho2.fits.gz`` of the survey folder.
    rng : numpy.random.Generator
        Random numbers.
    """
    stars = scene.stars
    v_mag = np.asarray(stars["gaia_g"]) + 0.1
    stars, v_mag = stars[v_mag < 13.0], v_mag[v_mag < 13.0]
    n = len(stars)
    years = 1991.5 - 2016.0
    table = Table()
    table["tyc1"] = np.arange(1, n + 1, dtype=np.int16)
    table["tyc2"], table["tyc3"] = np.ones(n, np.int16), np.ones(n, np.uint8)
    for name in ("ra", "dec"):
        # The positions are those of the catalogue's mean epoch; motions are in arcsec per year.
        shrink = np.cos(np.radians(np.asarray(stars["dec"]))) if name == "ra" else 1.0
        moved = np.asarray(stars[name]) + np.asarray(stars[f"pm_{name}"]) * years / 3.6e6 / shrink
        table[name] = moved + rng.normal(0.0, 0.03 / 3600.0, n)
        table[f"mean_{name}"] = table[name]
        table[f"sigma_{name}"] = np.full(n, 0.03 / 3600.0, np.float32)
        table[f"pm_{name}"] = (np.asarray(stars[f"pm_{name}"]) / 1e3).astype(np.float32)
        table[f"sigma_pm_{name}"] = np.full(n, 0.0025, np.float32)
        table[f"epoch_{name}"] = np.full(n, 1991.5, np.float32)
    table["mag_bt"] = (v_mag + 0.8).astype(np.float32)
    table["mag_vt"] = v_mag.astype(np.float32)
    table["mag_hp"] = np.zeros(n, np.float32)
    table["isgalaxy"] = np.zeros(n, np.uint8)
    table["zguess"] = np.asarray(stars["mag_z"], np.float32)
    write_table(table, path)


def write_bricks(bricks: list[PatchBrick], path: Path) -> None:
    """Write ``survey-bricks.fits.gz``.

    Parameters
    ----------
    bricks : list of PatchBrick
        The bricks of the patch.
    path : pathlib.Path
        The file.
    """
    table = Table()
    table["brickname"] = np.array([b.name for b in bricks], dtype="U8")
    for column, name in (
        ("brickid", "brickid"), ("brickq", "quadrant"), ("brickrow", "row"),
        ("brickcol", "column"),
    ):  # fmt: skip
        dtype = np.int16 if column == "brickq" else np.int32
        table[column] = np.array([getattr(b, name) for b in bricks], dtype)
    for name in ("ra", "dec", "ra1", "ra2", "dec1", "dec2"):
        table[name] = np.array([getattr(b, name) for b in bricks], np.float64)
    write_table(table, path)

"""Zero points of images: calibrations if asked for, one row a CCD, tables of the stars."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.calibrate.extinction import DustMap
from skymill.data.errors import DataError, MissingInputError, SkymillError
from skymill.data.options import option
from skymill.data.tables import load_schema
from skymill.instruments.community_ccd import CommunityCcd, list_ccds, read_ccd, read_ccd_header
from skymill.instruments.survey_camera import survey_camera
from skymill.instruments.survey_folder import SurveyFolder
from skymill.psf.models import PolynomialPsf
from skymill.release.survey.calibrations import CalibrationOptions, calibrate_ccd
from skymill.release.survey.ccd_row import (
    add_depth,
    add_extinction,
    add_geometry,
    add_good_region,
    add_psf,
    add_sky,
    header_values,
    image_name,
)
from skymill.release.survey.ccd_table import read_fits_table
from skymill.release.survey.psf_model import FWHM, ccd_planes, full_width
from skymill.release.survey.reference_stars import ReferenceCatalogue
from skymill.release.survey.rows import blank_row, write_rows, write_table
from skymill.release.survey.spline_sky import fit_spline_sky
from skymill.release.survey.star_fit import StarFitOptions
from skymill.release.survey.tiles import Tiles
from skymill.release.survey.zero_point import References, ZeroPointOptions, measure_zero_point

__all__ = ["PRODUCTS", "ImageOptions", "ImageReport", "process_image", "zeropoint_paths"]

_LOG = logging.getLogger(__name__)

#: Tables of one image and the schemas of them.
PRODUCTS = {
    "zpt": "ccd-zeropoints",
    "legacypipe": "survey-ccds",
    "annotated": "ccds-annotated",
    "star-photom": "star-photom",
    "star-astrom": "star-astrom",
}

#: The bit of ``ccd_cuts`` of a CCD without a zero point.
_ERROR_BIT = 1


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How an image is processed."""

    spline_sky: bool = option(True, "subtract the spline sky; otherwise one level a CCD")
    run_calibs: bool = option(False, "make the calibrations that are missing")
    run_calibs_only: bool = option(False, "stop after the calibrations")
    overwrite: bool = option(False, "make tables anew that are there")
    calibrations: CalibrationOptions = field(default_factory=CalibrationOptions)
    zero_point: ZeroPointOptions = field(default_factory=ZeroPointOptions)
    stars: StarFitOptions = field(default_factory=StarFitOptions)


@dataclass
class ImageReport:
    """What was done for one image.

    Parameters
    ----------
    image : str
        The image.
    paths : dict of str to Path
        Tables that were written, by the words of `PRODUCTS`.
    kept : bool
        The tables were there already.
    calibrations : dict
        For each CCD what became of its calibrations.
    messages : dict of str to str
        CCD to the reason why it has no zero point.
    n_ccds : int
        CCDs of the image.
    """

    image: str
    paths: dict[str, Path] = field(default_factory=dict)
    kept: bool = False
    calibrations: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    n_ccds: int = 0


def zeropoint_paths(image: str | Path, outdir: str | Path) -> dict[str, Path]:
    """Where the tables of an image go.

    Parameters
    ----------
    image : path
        The image.
    outdir : path
        The folder; the path of the image below ``images`` is repeated in it.

    Returns
    -------
    dict of str to Path
        By the words of `PRODUCTS`.
    """
    name = image_name(image)
    for suffix in (".fits.fz", ".fits.gz", ".fits"):
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            break
    return {kind: Path(outdir) / f"{name}-{kind}.fits" for kind in PRODUCTS}


@dataclass
class _Job:
    """What all CCDs of an image share."""

    image: Path
    folder: SurveyFolder
    ps1: ReferenceCatalogue | None
    gaia: ReferenceCatalogue | None
    dust: DustMap | None
    tiles: Tiles | None
    options: ImageOptions

    def references(self, ra: float, dec: float, radius: float) -> References:
        empty = Table(names=("id", "ra", "dec"), dtype=(np.int64, float, float))
        near = {"ra": ra, "dec": dec, "radius_deg": radius}
        return References(
            empty if self.ps1 is None else self.ps1.near(**near),
            empty if self.gaia is None else self.gaia.near(**near),
        )


def process_image(
    image: str | Path,
    *,
    camera: str,
    survey_dir: str | Path,
    outdir: str | Path,
    calibdir: str | Path | None = None,
    ps1: ReferenceCatalogue | None = None,
    gaia: ReferenceCatalogue | None = None,
    dust: DustMap | None = None,
    tiles: Tiles | None = None,
    ccds: Iterable[str] | None = None,
    options: ImageOptions = ImageOptions(),
) -> ImageReport:
    """Zero points of one image.

    Parameters
    ----------
    image : path
        The ``ooi`` file, or its path below ``images`` of the survey directory.
    camera : str
        ``decam``, ``mosaic`` or ``90prime``.
    survey_dir : path
        The survey directory.
    outdir : path
        Folder of the tables.
    calibdir : path, optional
        Folder of the calibrations; ``calib`` of the survey directory if omitted.
    ps1, gaia : ReferenceCatalogue, optional
        Reference stars for fluxes and for positions.
    dust : DustMap, optional
        For E(B-V).
    tiles : Tiles, optional
        Tiles of the survey.
    ccds : iterable of str, optional
        Names of CCDs; all if omitted.
    options : ImageOptions
        What to do.

    Returns
    -------
    ImageReport
        Tables and messages. A CCD that fails keeps its row, with ``err_message``.

    Raises
    ------
    MissingInputError, DataError
        If the image cannot be opened.
    """
    path = _resolve(image, Path(survey_dir))
    report = ImageReport(str(path))
    names = [(h, n) for h, n in list_ccds(path)
             if ccds is None or n in {c.upper() for c in ccds}]  # fmt: skip
    if not names:
        raise DataError(f"{path} has none of the CCDs {', '.join(ccds or ())}")
    report.n_ccds = len(names)
    targets = zeropoint_paths(path, outdir)
    only = options.run_calibs_only
    if not only and not options.overwrite and _is_done(targets, path, camera, len(names)):
        report.kept, report.paths = True, targets
        return report
    folder = SurveyFolder(survey_dir, survey_camera(camera).name, calib=calibdir)
    job = _Job(path, folder, ps1, gaia, dust, tiles, options)
    rows: list[dict[str, Any]] = []
    stars: dict[str, list[Table]] = {"star-photom": [], "star-astrom": []}
    for hdu, name in names:
        row = _process_ccd(job, hdu, name, report, stars)
        if row is not None:
            rows.append(row)
    if not only:
        _finish(rows)
        report.messages = {r["ccdname"]: r["err_message"] for r in rows if r["err_message"]}
        report.paths = _write(rows, stars, targets)
    return report


def _resolve(image: str | Path, root: Path) -> Path:
    for path in (Path(image), root / "images" / image, root / image):
        if path.is_file():
            return path
    raise MissingInputError(f"there is no image {image}, nor {root / 'images' / image}")


def _is_done(targets: dict[str, Path], image: Path, camera: str, n_ccds: int) -> bool:
    """Whether the tables are there and are of this version of the image."""
    if not all(path.is_file() for path in targets.values()):
        return False
    try:
        table = read_fits_table(targets["annotated"])
        info = read_ccd_header(image, hdu=int(table["image_hdu"][0]), camera=camera)
    except (SkymillError, KeyError, IndexError):
        return False
    run = str(info.header.get("PLPROCID", "")).strip()
    row = table[0]
    same = (str(row["plver"]), str(row["plprocid"]), str(row["procdate"])) == (
        info.plver, run, info.procdate,
    )  # fmt: skip
    return same and len(table) >= n_ccds


def _process_ccd(
    job: _Job, hdu: int, name: str, report: ImageReport, stars: dict[str, list[Table]]
) -> dict[str, Any] | None:
    """The row of one CCD; its stars are appended to their lists."""
    camera = job.folder.camera
    info = read_ccd_header(job.image, hdu=hdu, ccd=name, camera=camera)
    row = {
        **blank_row("ccd-zeropoints", "survey-ccds", "ccds-annotated"),
        **header_values(info, image_name(job.image)),
    }
    try:
        ccd = read_ccd(job.image, hdu=hdu, ccd=name, camera=camera, source_photons=False)
        if not (ccd.weight > 0).any():
            raise DataError("All weight-map pixels are zero")
        if job.options.run_calibs or job.options.run_calibs_only:
            made = calibrate_ccd(ccd, job.folder, options=job.options.calibrations)
            report.calibrations[name] = made
        if job.options.run_calibs_only:
            return None
        if not info.exptime > 0:
            raise DataError("Exptime = 0")
        _measure(job, ccd, row, stars)
    except SkymillError as err:
        row["err_message"] = row["err_message"] or str(err)
        if job.options.run_calibs_only:
            report.calibrations[name] = {"read": str(err)}
            return None
    if row["err_message"]:
        row["ccd_cuts"] = _ERROR_BIT
        _LOG.warning("%s CCD %s: %s", job.image.name, name, row["err_message"])
    return row


def _measure(
    job: _Job, ccd: CommunityCcd, row: dict[str, Any], stars: dict[str, list[Table]]
) -> None:
    """Sky, PSF and zero point of one CCD."""
    info, options = ccd.info, job.options
    try:
        wcs = info.wcs()
        add_geometry(row, wcs, info.shape)
    except (SkymillError, ValueError) as err:
        raise DataError(f"WCS Failed: {err}") from err
    add_good_region(row, ccd.weight)
    level = _sky_level(job, ccd)
    add_sky(row, ccd, level, zero_point=None)
    psf = _psf(job, ccd, row)
    planes = ccd_planes(_with_photons(job, ccd), level)
    references = job.references(row["ra"], row["dec"], math.hypot(row["dra"], row["ddec"]) + 0.01)
    if len(references.ps1) == 0 and info.band in info.camera.ps1_colour_terms:
        row["err_message"] = "No photometry available: no reference star of Pan-STARRS1 is near"
    found = measure_zero_point(
        planes, info=info, wcs=wcs, psf=psf, psf_sigma=row["fwhm"] / FWHM, references=references,
        options=options.zero_point, star_options=options.stars,
    )  # fmt: skip
    row.update(found.values)
    row["err_message"] = row["err_message"] or found.message
    for kind, table in (("star-photom", found.photometry), ("star-astrom", found.astrometry)):
        stars[kind].append(_tag(table, row))
    add_sky(row, ccd, level, zero_point=row["zpt"] if row["zpt"] else None)
    add_extinction(row, job.dust)
    if job.tiles is not None:
        row.update(job.tiles.find(row["object"], ra=row["ra_bore"], dec=row["dec_bore"]))
    row["annotated"] = True


def _with_photons(job: _Job, ccd: CommunityCcd) -> CommunityCcd:
    """The CCD with the sources' photons in its weights, for the fits of stars."""
    if not ccd.info.camera.unit_is_electrons_per_second:
        return ccd
    info = ccd.info
    return read_ccd(info.path, hdu=info.hdu, ccd=info.ccdname, camera=info.camera.name)


def _sky_level(job: _Job, ccd: CommunityCcd) -> NDArray[np.float32]:
    info = ccd.info
    if job.options.spline_sky:
        sky = job.folder.sky(info.path, info.expnum, info.ccdname, shape=info.shape)
        if sky is None:
            raise MissingInputError(
                f"CCD {info.ccdname} has no spline sky below {job.folder.calib}; make it with "
                "--run-calibs"
            )
        return sky
    model = fit_spline_sky(ccd.image, ccd.weight)
    return np.full(info.shape, model.statistics["sky_john"], np.float32)


def _psf(job: _Job, ccd: CommunityCcd, row: dict[str, Any]) -> PolynomialPsf | None:
    """The PSF, if there is one or the mode needs one; the FWHM of it or of the header."""
    info = ccd.info
    row["fwhm"] = row["fwhm_cp"] or 4.0
    try:
        psf = job.folder.psf(info.path, info.expnum, info.ccdname)
        words = job.folder.calibration_words("psfex", info.path, info.expnum, info.ccdname) or {}
    except SkymillError as err:
        if job.options.zero_point.mode == "aperture":
            return None
        raise DataError(f"Bad PSF model: {err}") from err
    add_psf(row, psf, info.shape)
    if not row["fwhm_cp"]:
        own = float(words.get("psf_fwhm", 0.0))
        ny, nx = info.shape
        row["fwhm"] = own if own > 0 else full_width(psf, x=(nx - 1) / 2, y=(ny - 1) / 2)
    return psf


def _tag(stars: Table, row: dict[str, Any]) -> Table:
    for name in ("expnum", "ccdname", "camera", "filter", "exptime", "gain", "airmass"):
        stars[name] = [row[name]] * len(stars)
    return stars


def _finish(rows: list[dict[str, Any]]) -> None:
    """The exposure's zero point, and columns that have two names."""
    known = [row["zpt"] for row in rows if row["zpt"]]
    average = float(np.median(known)) if known else 0.0
    for row in rows:
        camera = survey_camera(row["camera"])
        nominal = camera.zero_points.get(row["filter"])
        row["ccdzpt"], row["zptavg"] = row["zpt"], average
        if row["zpt"] and nominal is not None:
            row["phoff"] = row["zpt"] - nominal
            lost = -row["phoff"] - camera.extinction[row["filter"]] * (row["airmass"] - 1.0)
            row["transp"] = 10.0 ** (-0.4 * lost)
        row["ccdraoff"], row["ccddecoff"] = row["raoff"], row["decoff"]
        row["ccdrarms"], row["ccddecrms"] = row["rarms"], row["decrms"]
        row["ccdphrms"] = row["phrms"]
        row["ccdnastrom"], row["ccdnphotom"] = row["nmatch_astrom"], row["nmatch_photom"]
        row["skymag"], row["skycounts"] = row["ccdskysb"], row["ccdskycounts"]
        row["pixscale"] = row["pixscale_mean"]
        row["expid"] = f"{row['expnum']:08d}-{row['ccdname']}"
        add_depth(row)


def _write(
    rows: Sequence[dict[str, Any]], stars: dict[str, list[Table]], targets: dict[str, Path]
) -> dict[str, Path]:
    # The exposure's number of a CCD on which no star was measured is 0 in the survey's table, so
    # that --cut-expnum can leave it out; the other tables keep it.
    write_rows(targets["zpt"], "ccd-zeropoints", rows)
    survey = [
        {**r, "zpt": r["zptavg"], "expnum": 0 if r["nmatch_astrom"] + r["nmatch_photom"] == 0
         else r["expnum"]}
        for r in rows
    ]  # fmt: skip
    write_rows(targets["annotated"], "ccds-annotated", [{**r, "zpt": r["zptavg"]} for r in rows])
    for kind in ("star-photom", "star-astrom"):
        schema = load_schema(PRODUCTS[kind])
        parts = [part for part in stars[kind] if len(part)]
        table = vstack(parts, metadata_conflicts="silent") if parts else schema.empty()
        table = table[[entry.name for entry in schema.columns]]
        write_table(targets[kind], schema.apply(table))
    # Last: this file says that the image is done.
    write_rows(targets["legacypipe"], "survey-ccds", survey)
    return targets

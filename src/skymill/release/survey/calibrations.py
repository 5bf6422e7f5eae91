"""PSF and sky of each CCD as files in the layout of the releases; merging them by exposure."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

import skymill
from skymill.data.errors import DataError, MissingInputError, SkymillError
from skymill.data.files import atomic_path
from skymill.data.options import check_choice, option
from skymill.instruments.community_ccd import CcdHeader, CommunityCcd, list_ccds, read_ccd
from skymill.instruments.survey_folder import SurveyFolder
from skymill.release.survey.psf_model import (
    PSF_ERRORS,
    SurveyPsfOptions,
    ccd_planes,
    fit_survey_psf,
)
from skymill.release.survey.spline_sky import SplineSkyOptions, fit_spline_sky

__all__ = [
    "CalibrationOptions",
    "MergeReport",
    "calibrate_ccd",
    "calibrate_image",
    "is_current",
    "merge_calibrations",
    "merge_exposure",
]

_LOG = logging.getLogger(__name__)

KINDS = ("psfex", "splinesky")


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Which calibrations are made, and where."""

    layout: str = option("dr9", "names of the files: dr9 (after the image) or dr7 (by number)")
    force: bool = option(False, "make files anew that are there")
    psf: bool = option(True, "make the PSF")
    sky: bool = option(True, "make the spline sky")
    psf_options: SurveyPsfOptions = field(default_factory=SurveyPsfOptions)
    sky_options: SplineSkyOptions = field(default_factory=SplineSkyOptions)

    def __post_init__(self) -> None:
        check_choice(self, "layout", ("dr9", "dr7"))


def is_current(words: dict[str, Any] | None, info: CcdHeader) -> bool:
    """Whether a calibration was made from the present version of its image.

    Parameters
    ----------
    words : dict or None
        `SurveyFolder.calibration_words`; None if there is no file.
    info : CcdHeader
        The image.

    Returns
    -------
    bool
        False without a file, or if exposure, pipeline version, its run or its date differ. A
        file that does not tell one of them is trusted in it.
    """
    if words is None:
        return False
    run = str(info.header.get("PLPROCID", "")).strip()
    for name, own in (("plver", info.plver), ("plprocid", run), ("procdate", info.procdate)):
        if name in words and own and str(words[name]).strip() != own:
            return False
    return "expnum" not in words or int(words["expnum"]) == info.expnum


def _origin(info: CcdHeader) -> dict[str, Any]:
    """Columns that say what a calibration was made from."""
    header = info.header
    return {
        "legpipev": f"skymill {skymill.__version__}",
        "plver": info.plver,
        "plprocid": str(header.get("PLPROCID", "")).strip(),
        "imgdsum": str(header.get("DATASUM", "0")).strip(),
        "procdate": info.procdate,
        "expnum": np.int64(info.expnum),
        "ccdname": info.ccdname,
    }


def _write_row(path: Path, columns: dict[str, Any], header: dict[str, Any]) -> None:
    table = Table({name: np.array([value]) for name, value in columns.items()})
    hdu = fits.table_to_hdu(table)
    primary = fits.PrimaryHDU()
    for name, value in header.items():
        primary.header[name] = value
    with atomic_path(path) as draft:
        fits.HDUList([primary, hdu]).writeto(draft)


def calibrate_ccd(
    ccd: CommunityCcd,
    folder: SurveyFolder,
    *,
    options: CalibrationOptions = CalibrationOptions(),
) -> dict[str, str]:
    """Make the missing PSF and sky of one CCD.

    Parameters
    ----------
    ccd : CommunityCcd
        The whole CCD, weights without the sources' photons.
    folder : SurveyFolder
        Where the calibrations are looked for and written.
    options : CalibrationOptions
        What to make.

    Returns
    -------
    dict of str to str
        For ``psfex`` and ``splinesky``: ``made``, ``kept``, or the reason of a failure.
    """
    info, out = ccd.info, {}
    words = {"PLVER": info.plver, "EXPNUM": info.expnum, "CCDNAME": info.ccdname}
    for kind, wanted in (("splinesky", options.sky), ("psfex", options.psf)):
        if not wanted:
            continue
        try:
            old = folder.calibration_words(kind, info.path, info.expnum, info.ccdname)
        except DataError as err:
            _LOG.warning("%s; it is made anew", err)
            old = None
        if not options.force and is_current(old, info):
            out[kind] = "kept"
            continue
        path = folder.calibration_path(
            kind, info.path, info.expnum, info.ccdname, layout=options.layout
        )
        try:
            columns = (
                _sky_row(ccd, options) if kind == "splinesky" else _psf_row(ccd, folder, options)
            )
        except (*PSF_ERRORS, DataError) as err:
            out[kind] = str(err)
            continue
        _write_row(path, {**columns, **_origin(info)}, words)
        out[kind] = "made"
    return out


def _sky_row(ccd: CommunityCcd, options: CalibrationOptions) -> dict[str, Any]:
    return fit_spline_sky(ccd.image, ccd.weight, options=options.sky_options).columns()


def _psf_row(
    ccd: CommunityCcd, folder: SurveyFolder, options: CalibrationOptions
) -> dict[str, Any]:
    info = ccd.info
    try:
        sky = folder.sky(info.path, info.expnum, info.ccdname, shape=info.shape)
    except DataError:
        sky = None
    if sky is None:
        sky = fit_spline_sky(ccd.image, ccd.weight, options=options.sky_options).evaluate(
            info.shape
        )
    planes = ccd_planes(ccd, sky)
    seed = zlib.crc32(f"{info.camera.name}-{info.expnum}-{info.ccdname}".encode())
    return fit_survey_psf(planes, seed=seed, options=options.psf_options).columns()


def calibrate_image(
    path: str | Path,
    folder: SurveyFolder,
    *,
    ccds: Iterable[str] | None = None,
    options: CalibrationOptions = CalibrationOptions(),
) -> dict[str, dict[str, str]]:
    """Make the missing calibrations of an image.

    Parameters
    ----------
    path : path
        The ``ooi`` file.
    folder : SurveyFolder
        Where the calibrations are looked for and written.
    ccds : iterable of str, optional
        Names of the CCDs; all if omitted.
    options : CalibrationOptions
        What to make.

    Returns
    -------
    dict of str to dict
        For each CCD what `calibrate_ccd` did, or ``{"read": reason}``.
    """
    wanted = None if ccds is None else {c.upper() for c in ccds}
    out: dict[str, dict[str, str]] = {}
    for hdu, name in list_ccds(path):
        if wanted is not None and name not in wanted:
            continue
        try:
            ccd = read_ccd(path, hdu=hdu, ccd=name, camera=folder.camera, source_photons=False)
            out[name] = calibrate_ccd(ccd, folder, options=options)
        except SkymillError as err:
            out[name] = {"read": str(err)}
    return out


@dataclass
class MergeReport:
    """What merging calibrations did.

    Parameters
    ----------
    merged : list of Path
        Files that were written.
    kept : list of Path
        Merged files that were there already.
    failed : dict of str to str
        Exposure to the reason why it could not be merged.
    """

    merged: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.merged)} merged, {len(self.kept)} kept, {len(self.failed)} failed"


def _read_row(path: Path, ccd: str | None = None) -> dict[str, Any]:
    """The row of a CCD, or the only one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path, memmap=False) as hdus:
                data, header = hdus[1].data, hdus[1].header
                names = [] if ccd is None else [str(n).strip() for n in data["ccdname"]]
                row = data[0 if ccd is None else names.index(ccd)]
                out = {name.lower(): row[name] for name in hdus[1].data.names}
    except (OSError, IndexError, KeyError, ValueError, TypeError) as err:
        raise DataError(f"{path} is truncated or no calibration ({err})") from err
    if "psf_mask" in out:
        # Older files hold these words in the header.
        words = ("POLZERO1", "POLZERO2", "POLSCAL1", "POLSCAL2", "POLDEG1", "PSF_SAMP", "PSF_FWHM",
                 "POLNAME1", "POLNAME2", "POLGRP1", "POLGRP2", "POLNGRP", "PSFAXIS1", "PSFAXIS2",
                 "PSFAXIS3", "LOADED", "ACCEPTED", "CHI2", "PSFNAXIS", "POLNAXIS")  # fmt: skip
        out.update({n.lower(): header[n] for n in words if n in header and n.lower() not in out})
        size = out["psf_mask"].shape
        for k, n in enumerate((size[2], size[1], size[0])):
            out.setdefault(f"psfaxis{k + 1}", n)
    return out


def _stack(rows: Sequence[dict[str, Any]]) -> Table:
    """One row a CCD; arrays filled up with zeros to the largest."""
    table = Table()
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        values = [row.get(name) for row in rows]
        present = [v for v in values if v is not None]
        if isinstance(present[0], str):
            table[name] = ["" if v is None else str(v) for v in values]
            continue
        arrays = [np.zeros(np.shape(present[0])) if v is None else np.asarray(v) for v in values]
        dims = np.max([a.shape for a in arrays], axis=0).astype(int) if arrays[0].ndim else ()
        out = np.zeros((len(rows), *dims), np.asarray(present[0]).dtype.newbyteorder("="))
        for k, array in enumerate(arrays):
            index: tuple[Any, ...] = (k, *(slice(0, n) for n in array.shape))
            out[index] = array
        table[name] = out
    return table


def merge_exposure(
    image: str | Path,
    kind: str,
    ccds: Sequence[str],
    exposure: int,
    folder: SurveyFolder,
    *,
    layout: str = "dr9",
    output: SurveyFolder | None = None,
    force: bool = False,
) -> tuple[Path, bool]:
    """Merge the calibrations of the CCDs of one exposure into one file.

    Parameters
    ----------
    image : path
        The image, for the names of the files.
    kind : str
        ``psfex`` or ``splinesky``.
    ccds : sequence of str
        Every CCD that must be there.
    exposure : int
        Number of the exposure.
    folder : SurveyFolder
        Where the files of the CCDs are.
    layout : str
        ``dr9`` or ``dr7``.
    output : SurveyFolder, optional
        Where the merged file goes; the same folder if omitted.
    force : bool
        Merge again what is merged.

    Returns
    -------
    path : Path
        The merged file.
    written : bool
        False if it was there already with all CCDs.

    Raises
    ------
    MissingInputError, DataError
        If the calibration of a CCD is missing or corrupt.
    """
    place = output or folder
    target = place.calibration_path(kind, image, exposure, ccds[0], merged=True, layout=layout)
    if target.is_file() and not force and _has_ccds(target, ccds):
        return target, False
    rows = [_row_of_ccd(folder, kind, image, exposure, ccd, layout) for ccd in ccds]
    with atomic_path(target) as draft:
        _stack(rows).write(draft, format="fits")
    return target, True


def _row_of_ccd(
    folder: SurveyFolder, kind: str, image: str | Path, exposure: int, ccd: str, layout: str
) -> dict[str, Any]:
    """The calibration of one CCD from its own file, or else from one of its exposure."""
    for merged in (False, True):
        for style in dict.fromkeys((layout, "dr9", "dr7")):
            path = folder.calibration_path(kind, image, exposure, ccd, merged=merged, layout=style)
            if not path.is_file() or (merged and not _has_ccds(path, [ccd])):
                continue
            row = _read_row(path, ccd if merged else None)
            row.setdefault("expnum", np.int64(exposure))
            row.setdefault("ccdname", ccd)
            return row
    raise MissingInputError(
        f"exposure {exposure} CCD {ccd} has no {kind} calibration below {folder.calib}: "
        "make it with 'skymill release calibs'"
    )


def _has_ccds(path: Path, ccds: Sequence[str]) -> bool:
    try:
        with fits.open(path, memmap=False) as hdus:
            data = hdus[1].data
            names = {str(n).strip() for n in data["ccdname"]}
    except (OSError, IndexError, KeyError, ValueError, TypeError):
        return False
    return set(ccds) <= names


def merge_calibrations(
    ccds: Table,
    root: str | Path,
    *,
    kinds: Sequence[str] = KINDS,
    calib: str | Path | None = None,
    output: str | Path | None = None,
    layout: str = "dr9",
    keep_going: bool = False,
    force: bool = False,
) -> MergeReport:
    """Merge the calibrations of every exposure of a table of CCDs.

    Parameters
    ----------
    ccds : Table
        ``camera``, ``expnum``, ``ccdname``, ``image_filename``: every CCD that must be there.
    root : path
        The survey directory.
    kinds : sequence of str
        ``psfex``, ``splinesky``.
    calib : path, optional
        Folder of the files of the CCDs; ``root/calib`` if omitted.
    output : path, optional
        Folder of the merged files; ``calib`` if omitted.
    layout : str
        ``dr9`` or ``dr7``.
    keep_going : bool
        Go on with the next exposure after one that cannot be merged.
    force : bool
        Merge again what is merged.

    Returns
    -------
    MergeReport
        What was done.

    Raises
    ------
    MissingInputError, DataError
        Without ``keep_going``: of the first exposure that cannot be merged.
    """
    report = MergeReport()
    keys = sorted({(str(r["camera"]), int(r["expnum"])) for r in ccds})
    for camera, exposure in keys:
        folder = SurveyFolder(root, camera, calib=calib)
        place = folder if output is None else SurveyFolder(root, camera, calib=output)
        here = (np.asarray(ccds["camera"]).astype(str) == camera) & (ccds["expnum"] == exposure)
        rows = ccds[here]
        names = sorted({str(n).strip() for n in rows["ccdname"]})
        image = Path(root) / "images" / str(rows["image_filename"][0]).strip()
        for kind in kinds:
            try:
                path, written = merge_exposure(
                    image, kind, names, exposure, folder, layout=layout, output=place, force=force
                )
            except SkymillError as err:
                if not keep_going:
                    raise
                report.failed[f"{camera}-{exposure} {kind}"] = str(err)
                continue
            (report.merged if written else report.kept).append(path)
    return report

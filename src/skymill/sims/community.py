"""A small survey of community-processed images on disk, with its truth.

The folder is a survey directory as the Legacy Surveys have it: images with weights and data
quality, calibrations, zero points, reference catalogues and the list of bricks. The patch lies
where four bricks of the tiling meet, so that a thousand pixels of each are enough.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.files import atomic_path
from skymill.data.tables import load_schema
from skymill.sims import community_files
from skymill.sims.camera import AIRMASS_TERM, ZERO_POINT, Pointing, write_whole
from skymill.sims.community_headers import (
    PLVER,
    Calibration,
    ccd_header,
    exposure_header,
    image_stem,
    night_of,
)
from skymill.sims.community_images import CcdImage, expose_ccd, psf_field
from skymill.sims.community_plan import (
    BRICK_SCALE,
    PATCH_PRESETS,
    PatchBrick,
    ReleasePatchOptions,
    patch_bricks,
    patch_preset,
    plan_patch,
)
from skymill.sims.community_sky import make_patch_sky
from skymill.sims.detector import ccd_facts
from skymill.sims.survey import read_truth_table, write_bytes, write_parquet

__all__ = [
    "PATCH_PRESETS",
    "PatchBrick",
    "ReleasePatch",
    "ReleasePatchOptions",
    "patch_bricks",
    "patch_preset",
    "plan_patch",
    "read_patch_truth",
    "simulate_release_patch",
]

Float64Array = NDArray[np.float64]


def _calibration(ccd: CcdImage, pointing: Pointing) -> Calibration:
    """What is true: the pipeline's astrometry is off by some hundredths of an arcsecond."""
    common = np.random.default_rng([pointing.seed, 77]).normal(0.0, 0.04, 2)
    own = np.random.default_rng([pointing.seed, 78, ccd.ccd.number]).normal(0.0, 0.01, 2)
    head = pointing.head
    per_second = ZERO_POINT[head.band] - AIRMASS_TERM[head.band] * ((head.airmass or 1.0) - 1.0)
    magnitude = per_second + 2.5 * np.log10(pointing.transparency / ccd.gain)
    _, _, nx, ny = ccd.window
    x, y = np.array([ccd.window[0] + nx / 2]), np.array([ccd.window[1] + ny / 2])
    psf = psf_field(ccd.ccd, pointing, x, y)
    fwhm = float(np.hypot(psf.fwhm[0], 0.4 * BRICK_SCALE)) / 0.2634
    return Calibration(
        zero_point=float(magnitude), ra_offset=float(common[0] + own[0]),
        dec_offset=float(common[1] + own[1]), fwhm=fwhm,
    )  # fmt: skip


def _compressed(data: Any, header: fits.Header, kind: str, name: str) -> fits.CompImageHDU:
    noise = {"quantize_level": 4.0, "quantize_method": 1 if kind == "i" else 2, "dither_seed": 1}
    return fits.CompImageHDU(
        data, header, name=name, compression_type="RICE_1", tile_shape=(1, data.shape[1]),
        **({} if kind == "d" else noise),
    )  # fmt: skip


@dataclass(frozen=True)
class _Job:
    """One exposure to make."""

    pointing: Pointing
    options: ReleasePatchOptions
    root: Path

    @property
    def folder(self) -> str:
        """Of the images, relative to ``images``."""
        return f"decam/CP/{PLVER}/CP{night_of(self.pointing)}"

    @property
    def record(self) -> Path:
        """Rows of the exposure; written last."""
        return self.root / "truth" / "frames" / f"{self.pointing.head.number}.npz"


_sky: tuple[ReleasePatchOptions, Table, Any] | None = None


def _get_sky(options: ReleasePatchOptions) -> tuple[Table, Any]:
    global _sky
    if _sky is None or _sky[0] != options:
        _sky = (options, *make_patch_sky(options, np.random.default_rng([options.seed, 1])))
    return _sky[1], _sky[2]


def _make_exposure(job: _Job) -> None:
    """Write the triple of files, the calibrations and the record of one exposure."""
    pointing, options = job.pointing, job.options
    sources, _ = _get_sky(options)
    windows = options.windows()
    ccds = [
        expose_ccd(sources, ccd_facts(number), pointing, options, windows[number])
        for number in options.ccds
    ]
    truths = [_calibration(c, pointing) for c in ccds]
    mean = float(np.mean([t.zero_point for t in truths]))
    for ccd, truth in zip(ccds, truths, strict=True):
        ccd.record.update(fwhm_pixel=truth.fwhm, zpt_mean=mean)
    total = mean + 2.5 * np.log10(pointing.head.exposure_time)
    total += np.random.default_rng([pointing.seed, 79]).normal(0.0, 0.015)
    survey, stem = job.root / "survey", image_stem(pointing)
    for kind in "dwi":
        hdus: list[Any] = [
            fits.PrimaryHDU(
                header=exposure_header(pointing, len(ccds), kind, magnitude_zero=float(total))
            )
        ]
        for ccd, truth in zip(ccds, truths, strict=True):
            data = {"i": ccd.image, "w": ccd.weight, "d": ccd.quality}[kind]
            header = ccd_header(ccd, pointing, truth, kind)
            hdus.append(_compressed(data, header, kind, ccd.ccd.name))
        name = f"{image_stem(pointing, kind)}.fits.fz"
        write_whole(fits.HDUList(hdus), survey / "images" / job.folder / name)
    rows, psfex, skies, truth_rows = [], [], [], []
    for k, (ccd, truth) in enumerate(zip(ccds, truths, strict=True)):
        header = ccd_header(ccd, pointing, truth, "i")
        name = f"{job.folder}/{stem}.fits.fz"
        row, residual, inside = community_files.psfex_row(ccd, pointing)
        # Zero points of PSF fluxes: the model has unit flux within its stamp.
        ccd.record["psf_zero_point"] = truth.zero_point + 2.5 * np.log10(inside)
        rows.append(community_files.ccds_row(ccd, pointing, truth, header, name, k + 1))
        psfex.append(row)
        skies.append(community_files.sky_row(ccd, pointing))
        truth_rows.append(_truth_row(ccd, pointing, truth, residual))
    if options.calibrated:
        calib = survey / "calib"
        community_files.write_table(
            Table(rows=psfex), calib / "psfex" / job.folder / f"{stem}-psfex.fits"
        )
        community_files.write_table(
            Table(rows=skies), calib / "sky" / job.folder / f"{stem}-splinesky.fits"
        )
    _write_record(job, ccds, rows, truth_rows)


def _truth_row(
    ccd: CcdImage, pointing: Pointing, truth: Calibration, residual: float
) -> dict[str, Any]:
    head = pointing.head
    names = ("n_cosmic_rays_found", "n_cosmic_rays_left", "n_saturated", "n_bad", "n_trails",
             "n_sources")  # fmt: skip
    return {
        "expnum": head.number, "ccdname": ccd.ccd.name, "band": head.band, "mjd": head.mjd,
        "exposure_time": head.exposure_time, "zero_point": truth.zero_point,
        "psf_zero_point": ccd.record["psf_zero_point"],
        "ra_offset": truth.ra_offset, "dec_offset": truth.dec_offset, "fwhm": truth.fwhm,
        "seeing": head.seeing, "gain": ccd.gain, "read_noise": ccd.read_noise, "sky": ccd.sky,
        "sigma": ccd.sigma, "psf_residual": residual, "wcs": ccd.wcs.header.tostring(),
        **{name: ccd.record[name] for name in names},
    }  # fmt: skip


def _write_record(
    job: _Job, ccds: list[CcdImage], rows: list[dict[str, Any]], truth: list[dict[str, Any]]
) -> None:
    seen = vstack([_with_noise(c) for c in ccds])
    text = json.dumps({"ccds": rows, "truth": truth}, default=lambda v: v.item())
    arrays: dict[str, Any] = {c: np.asarray(seen[c]) for c in seen.colnames}
    with atomic_path(job.record) as draft:
        np.savez_compressed(draft, text=np.array(text), **arrays)


def _with_noise(ccd: CcdImage) -> Table:
    table = ccd.seen
    table["snr2"] = np.where(
        table["usable"], np.asarray(table["flux"]) ** 2 * table["sharpness"] / ccd.sigma**2, 0.0
    )
    return table["row", "usable", "snr2"]


@dataclass(frozen=True, kw_only=True)
class ReleasePatch:
    """Where everything is.

    Parameters
    ----------
    survey : pathlib.Path
        The survey directory.
    truth : pathlib.Path
        Folder of the truth.
    images : list of pathlib.Path
        The ``ooi`` files.
    bricks : list of PatchBrick
        The bricks.
    """

    survey: Path
    truth: Path
    images: list[Path]
    bricks: list[PatchBrick]


def simulate_release_patch(
    folder: str | Path, options: ReleasePatchOptions | None = None, *, processes: int = 1
) -> ReleasePatch:
    """Make a survey directory of community-processed images and its truth.

    Writes ``survey/images/decam/CP/...`` (triples of image, weight and data quality),
    ``survey/gaia``, ``survey/ps1``, ``survey/tycho2.fits.gz``, ``survey/survey-bricks.fits.gz``
    and, if ``calibrated``, ``survey/survey-ccds-sim.fits.gz`` and ``survey/calib``, all true; in
    folders of their own ``truth/{sources,ccds}.parquet``, ``truth/options.json`` and
    ``bricks.txt``, ``zooms.txt`` (name and x0 x1 y0 y1 of the covered part of each brick). Called
    again with the same options it makes only what is missing; the number of processes changes
    nothing in the files.

    Parameters
    ----------
    folder : path
        Made if needed.
    options : ReleasePatchOptions, optional
        The patch; the size small if omitted.
    processes : int
        Exposures are made by this many processes.

    Returns
    -------
    ReleasePatch
        Where everything is.
    """
    options = options or ReleasePatchOptions()
    root = Path(folder).absolute()
    jobs = [_Job(p, options, root) for p in plan_patch(options)]
    text = json.dumps(asdict(options), indent=1)
    noted = root / "truth" / "options.json"
    if not (noted.is_file() and noted.read_text() == text):
        for job in jobs:
            job.record.unlink(missing_ok=True)
        write_bytes(text.encode(), noted)
    missing = [j for j in jobs if not j.record.is_file()]
    if processes > 1 and len(missing) > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(_make_exposure, missing))
    else:
        for job in missing:
            _make_exposure(job)
    bricks = patch_bricks(options)
    _write_survey(root, options, jobs, bricks)
    images = [root / "survey" / "images" / j.folder / f"{image_stem(j.pointing)}.fits.fz"
              for j in jobs]  # fmt: skip
    return ReleasePatch(survey=root / "survey", truth=root / "truth", images=images, bricks=bricks)


def _write_survey(
    root: Path, options: ReleasePatchOptions, jobs: list[_Job], bricks: list[PatchBrick]
) -> None:
    sources, scene = _get_sky(options)
    survey = root / "survey"
    rng = [np.random.default_rng([options.seed, k]) for k in (4, 5, 6)]
    community_files.write_gaia(scene, survey, rng[0])
    community_files.write_ps1(scene, survey, rng[1])
    community_files.write_tycho2(scene, survey / "tycho2.fits.gz", rng[2])
    community_files.write_bricks(bricks, survey / "survey-bricks.fits.gz")
    write_bytes("".join(f"{b.name}\n" for b in bricks).encode(), root / "bricks.txt")
    zooms = (f"{b.name} {' '.join(map(str, b.zoom))}\n" for b in bricks)
    write_bytes("".join(zooms).encode(), root / "zooms.txt")
    records = []
    for job in jobs:
        with np.load(job.record) as data:
            records.append({name: data[name] for name in data.files})
    notes = [json.loads(str(r["text"])) for r in records]
    if options.calibrated:
        table = Table(rows=[row for n in notes for row in n["ccds"]])
        community_files.write_table(_typed(table), survey / "survey-ccds-sim.fits.gz")
    _set_expected(options, sources, jobs, records)
    _set_bricks(options, sources, bricks)
    for name, table in (
        ("sources", sources.copy()), ("ccds", Table(rows=[r for n in notes for r in n["truth"]])),
    ):  # fmt: skip
        schema = load_schema(f"truth_release_{name}")
        write_parquet(schema.apply(table), root / "truth" / f"{name}.parquet")


def _typed(table: Table) -> Table:
    """Widths of the surveys' columns."""
    double = {"mjd_obs", "ra_bore", "dec_bore", "crval1", "crval2", "ra", "dec"}
    short = {"image_hdu", "width", "height", "ccdnastrom", "ccdnphotom"}
    for name in table.colnames:
        kind = table[name].dtype.kind
        if kind == "f" and name not in double:
            table[name] = table[name].astype(np.float32)
        elif name in short:
            table[name] = table[name].astype(np.int16)
    return table


def _set_expected(
    options: ReleasePatchOptions, sources: Table, jobs: list[_Job], records: list[dict[str, Any]]
) -> None:
    """Exposures and matched-filter signal-to-noise ratio of each source, all exposures together."""
    for band in options.bands:
        number, snr2 = np.zeros(len(sources), np.int16), np.zeros(len(sources))
        for job, record in zip(jobs, records, strict=True):
            if job.pointing.head.band == band:
                np.add.at(number, record["row"], record["usable"].astype(np.int16))
                np.add.at(snr2, record["row"], record["snr2"])
        sources[f"n_exposure_{band}"], sources[f"snr_{band}"] = number, np.sqrt(snr2)


def _set_bricks(options: ReleasePatchOptions, sources: Table, bricks: list[PatchBrick]) -> None:
    """The brick to whose covered part each source belongs; empty outside."""
    names = np.full(len(sources), "", "U8")
    ra, dec = np.asarray(sources["ra"]), np.asarray(sources["dec"])
    for brick in bricks:
        x, y = brick.wcs.sky_to_pixel(ra=ra, dec=dec)
        x0, x1, y0, y1 = brick.zoom
        inside = (x > x0 - 0.5) & (x < x1 - 0.5) & (y > y0 - 0.5) & (y < y1 - 0.5)
        inside &= ((ra - brick.ra1) % 360.0 < brick.ra2 - brick.ra1) & (dec >= brick.dec1)
        names[inside & (dec < brick.dec2)] = brick.name
    sources["brickname"] = names


def read_patch_truth(folder: str | Path, name: str) -> Table:
    """Read one table of the truth.

    Parameters
    ----------
    folder : path
        Folder of the patch.
    name : str
        ``sources`` or ``ccds``.

    Returns
    -------
    astropy.table.Table
        The table, by its schema ``truth_release_<name>``.

    Raises
    ------
    MissingInputError
        If the patch has no such table.
    """
    return read_truth_table(folder, name, schema=f"truth_release_{name}")

"""A small survey of community-processed images on disk, with its truth.

The folder is a survey directory as the Legacy Surveys have it: images with weights and data
quality, calibrations, zero points, reference catalogues and the list of bricks. The patch lies
where four bricks of the tiling meet, so that a thousand pixels of each are enough.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray
from pyarrow import parquet

from skymill.data.errors import ConfigError, MissingInputError
from skymill.data.geometry import make_tan_wcs
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.sims import community_files
from skymill.sims.camera import AIRMASS_TERM, SKY_BRIGHTNESS, ZERO_POINT, Pointing, write_whole
from skymill.sims.community_headers import (
    PLVER,
    Calibration,
    ccd_header,
    exposure_header,
    image_stem,
    night_of,
)
from skymill.sims.community_images import WHOLE_CCD, CcdImage, Window, expose_ccd, psf_field
from skymill.sims.community_sky import make_patch_sky
from skymill.sims.detector import CCD_SHAPE, ccd_facts
from skymill.sims.headers import ExposureHead, best_time, zenith_distance
from skymill.sims.optics import Optics, PsfModel, aim_at
from skymill.sims.scene import sky_positions
from skymill.sims.survey import write_bytes, write_parquet

__all__ = [
    "PATCH_PRESETS",
    "PatchBrick",
    "ReleasePatch",
    "ReleasePatchOptions",
    "patch_preset",
    "plan_patch",
    "read_patch_truth",
    "simulate_release_patch",
]

Float64Array = NDArray[np.float64]

_SCALE = 0.262  # Width of a pixel of the bricks [arcsec].
_BRICK_SIZE = 3600
_OVERLAP = 60
_GAIN = 4.0


@dataclass(frozen=True, kw_only=True)
class ReleasePatchOptions:
    """A patch of a simulated survey of community-processed images."""

    seed: int = option(1, "seed of everything random")
    ra: float = option(150.25, "right ascension of the bricks' common corner", unit="deg")
    dec: float = option(2.125, "declination of it", unit="deg")
    n_bricks: int = option(4, "bricks around the corner: 4, or the 2 to the North of it")
    brick_pixels: int = option(1050, "part of each brick that is covered", unit="pixel")
    bands: tuple[str, ...] = option(("g", "r", "z"), "bands")
    exposures: int = option(6, "exposures in each band")
    exposure_times: tuple[float, ...] = option((120.0, 90.0, 100.0), "seconds in each band")
    seeing: tuple[float, float] = option((0.8, 1.6), "best and worst FWHM", unit="arcsec")
    dither: float = option(80.0, "largest offset between exposures, in x and y", unit="arcsec")
    ccds: tuple[int, ...] = option((28, 35), "CCDNUM of the CCDs, around whose centre the patch is")
    window: tuple[int, int] | None = option(
        None, "width and height of a part of one CCD instead of whole ones", unit="pixel"
    )
    depth: float = option(24.5, "faintest galaxy that is drawn, i band", unit="mag")
    galaxy_density: float = option(1.0, "galaxies relative to the real sky")
    star_density: float = option(2.0, "stars relative to the sky at galactic latitude 42 deg")
    smallest_radius: float = option(0.2, "half-light radius of the smallest galaxy", unit="arcsec")
    blends: float = option(0.04, "share of galaxies of r < 22.7 with a companion within 2.8 arcsec")
    bright_stars: tuple[tuple[float, float, float], ...] = option(
        ((-150.0, 120.0, 11.5), (130.0, -140.0, 13.0), (90.0, 200.0, 14.0)),
        "stars in addition: East and North of the centre [arcsec], Gaia G (AB)",
    )
    cosmic_ray_rate: float = option(1.6, "tracks per cm2 and minute", unit="1/cm2/min")
    found_cosmic_rays: float = option(0.8, "share of the cosmic rays that the pipeline masks")
    trails: float = option(0.25, "share of the exposures that a satellite crosses")
    calibrated: bool = option(True, "write survey-ccds and the PSF and sky files, all true")
    mjd: int = option(58160, "night of the first exposure (a day in Chile)", unit="d")
    first_number: int = option(720001, "EXPNUM of the first exposure")

    def __post_init__(self) -> None:
        check_range(self, "dec", low=-88.0, high=88.0)
        check_range(self, "brick_pixels", low=50, high=3400)
        check_range(self, "exposures", low=1, high=500)
        check_range(self, "blends", low=0.0, high=0.4)
        check_range(self, "smallest_radius", low=0.02, high=4.0)
        for name in ("found_cosmic_rays", "trails"):
            check_range(self, name, low=0.0, high=1.0)
        if self.n_bricks not in (2, 4):
            raise ConfigError(f"n_bricks must be 2 or 4; got {self.n_bricks}")
        unknown = [b for b in self.bands if b not in ("u", "g", "r", "i", "z", "Y")]
        if unknown or not self.bands or len(self.bands) != len(self.exposure_times):
            raise ConfigError(
                "bands must be among u g r i z Y, with one exposure time each; got "
                f"{self.bands} and {self.exposure_times}"
            )
        if self.window is not None and len(self.ccds) != 1:
            raise ConfigError(f"a window is a part of one CCD; got the CCDs {self.ccds}")
        for number in self.ccds:
            ccd_facts(number)

    def corner(self) -> tuple[float, float]:
        """Common corner of the bricks [deg]: the one nearest to (ra, dec)."""
        low_row = round((self.dec + 90.0 - 0.125) / 0.25)
        dec = -90.0 + 0.25 * low_row + 0.125
        n = _columns(low_row + 1)
        return 360.0 * (round((self.ra % 360.0) / 360.0 * n) % n) / n, dec

    def centre(self) -> tuple[float, float]:
        """Middle of the patch [deg]."""
        ra, dec = self.corner()
        up = 0.5 * self.brick_pixels * _SCALE / 3600.0 if self.n_bricks == 2 else 0.0
        return ra, dec + up

    def patch_size(self) -> tuple[float, float]:
        """Width and height of what is covered of the bricks [arcsec]."""
        width = 2.0 * self.brick_pixels * _SCALE
        return width, width if self.n_bricks == 4 else 0.5 * width

    def windows(self) -> dict[int, Window]:
        """Pixels of each CCD that are delivered."""
        if self.window is None:
            return dict.fromkeys(self.ccds, WHOLE_CCD)
        nx, ny = self.window
        x0, y0 = (CCD_SHAPE[1] - nx) // 2, (CCD_SHAPE[0] - ny) // 2
        return {self.ccds[0]: (x0, y0, nx, ny)}

    def focal_centre(self) -> tuple[float, float]:
        """Middle of the CCDs in the focal plane [mm]."""
        ccds = [ccd_facts(n) for n in self.ccds]
        return (
            0.5 * (min(c.x_min for c in ccds) + max(c.x_max for c in ccds)),
            0.5 * (min(c.y_min for c in ccds) + max(c.y_max for c in ccds)),
        )

    def sky_size(self) -> tuple[float, float]:
        """Width and height of the sky that the images see [deg] (x is South, y is East)."""
        ccds, (nx, ny) = [ccd_facts(n) for n in self.ccds], self.window or WHOLE_CCD[2:]
        x = (nx - CCD_SHAPE[1]) * 0.015 + max(c.x_max for c in ccds) - min(c.x_min for c in ccds)
        y = (ny - CCD_SHAPE[0]) * 0.015 + max(c.y_max for c in ccds) - min(c.y_min for c in ccds)
        margin = 2.0 * self.dither + 40.0
        return (y / 0.015 * 0.2634 + margin) / 3600.0, (x / 0.015 * 0.2634 + margin) / 3600.0


#: Sizes: `small` for science (4 bricks of 1050 pixels), `tiny` for tests (2 of 300, seconds).
PATCH_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "tiny": {
        "n_bricks": 2, "brick_pixels": 300, "ccds": (35,), "window": (640, 940), "dither": 10.0,
        "exposures": 5, "star_density": 8.0, "depth": 24.0, "bright_stars": ((35.0, 20.0, 14.5),),
    },
}  # fmt: skip


def patch_preset(size: str, **changes: Any) -> ReleasePatchOptions:
    """Options of one of the sizes small and tiny.

    Parameters
    ----------
    size : str
        Name of the preset.
    **changes : object
        Fields of `ReleasePatchOptions` that differ from it.

    Returns
    -------
    ReleasePatchOptions
        The options.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if size not in PATCH_PRESETS:
        raise ConfigError(f"size must be one of {', '.join(PATCH_PRESETS)}; got {size!r}")
    return replace(ReleasePatchOptions(), **{**PATCH_PRESETS[size], **changes})


def _columns(row: int) -> int:
    """Number of bricks in a row of the Legacy Surveys' tiling."""
    if row in (0, 720):
        return 1
    nearest = max(0.0, abs(-90.0 + row / 4) - 0.125)
    return 2 * int(np.ceil(np.round(1440.0 * np.cos(np.radians(nearest)) / 2.0, 9)))


@dataclass(frozen=True, kw_only=True)
class PatchBrick:
    """One brick and the part of it that the patch covers.

    Parameters
    ----------
    name, brickid, quadrant, row, column, ra, dec, ra1, ra2, dec1, dec2 :
        As in survey-bricks.
    zoom : tuple of int [pixel]
        x0, x1, y0, y1 of the covered part in the brick's image of 3600 pixels.
    """

    name: str
    brickid: int
    quadrant: int
    row: int
    column: int
    ra: float
    dec: float
    ra1: float
    ra2: float
    dec1: float
    dec2: float
    zoom: tuple[int, int, int, int]


def _brick(row: int, column: int, corner: tuple[float, float], pixels: int) -> PatchBrick:
    n = _columns(row)
    column %= n
    ra, dec = 360.0 * (column + 0.5) / n, -90.0 + row / 4
    sign = "p" if dec >= 0 else "m"
    middle = (_BRICK_SIZE - 1) / 2
    wcs = make_tan_wcs(ra=ra, dec=dec, scale=_SCALE, x=middle, y=middle)
    x, y = (float(v[0]) for v in wcs.sky_to_pixel(ra=[corner[0]], dec=[corner[1]]))
    x0, x1 = (x - _OVERLAP, x + pixels) if x < middle else (x - pixels, x + _OVERLAP)
    y0, y1 = (y - _OVERLAP, y + pixels) if y < middle else (y - pixels, y + _OVERLAP)
    zoom = tuple(int(np.clip(round(v), 0, _BRICK_SIZE)) for v in (x0, x1, y0, y1))
    return PatchBrick(
        name=f"{1e4 * ra:07.0f}"[:4] + sign + f"{1e4 * abs(dec):06.0f}"[:3],
        brickid=sum(_columns(r) for r in range(row)) + column + 1,
        quadrant=(column % 2) + 2 * (row % 2), row=row, column=column, ra=ra, dec=dec,
        ra1=360.0 * column / n, ra2=360.0 * (column + 1) / n, dec1=dec - 0.125, dec2=dec + 0.125,
        zoom=zoom,  # type: ignore[arg-type]
    )  # fmt: skip


def patch_bricks(options: ReleasePatchOptions) -> list[PatchBrick]:
    """The bricks of a patch, by declination and right ascension.

    Parameters
    ----------
    options : ReleasePatchOptions
        The patch.

    Returns
    -------
    list of PatchBrick
        Two or four; where the columns of the two rows do not meet, the corner is that of the
        northern row and lies on the edge of one southern brick.
    """
    corner = options.corner()
    north = round((corner[1] + 90.0 + 0.125) * 4)
    out: dict[str, PatchBrick] = {}
    for row in (north,) if options.n_bricks == 2 else (north - 1, north):
        for side in (-1e-4, 1e-4):
            column = int(np.floor((corner[0] + side) % 360.0 / 360.0 * _columns(row)))
            brick = _brick(row, column, corner, options.brick_pixels)
            out[brick.name] = brick
    return list(out.values())


def _dither(k: int, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Offsets evenly spaced in x and in y, in [-1, 1]."""
    if n == 1:
        return 0.0, 0.0
    steps = np.linspace(-0.95, 0.95, n)
    order = np.argsort((np.arange(n) * 2 + 1) % (n + 1 - n % 2), kind="stable")
    jitter = rng.uniform(-0.05, 0.05, 2)
    return float(steps[k] + jitter[0]), float(steps[order[k]] + jitter[1])


def plan_patch(options: ReleasePatchOptions) -> list[Pointing]:
    """The exposures with their weather.

    Parameters
    ----------
    options : ReleasePatchOptions
        The patch.

    Returns
    -------
    list of Pointing
        Bands take turns; nights are 23 days apart.
    """
    rng = np.random.default_rng([options.seed, 2])
    n = options.exposures
    out, number = [], options.first_number
    seeing = {b: rng.permutation(np.linspace(*options.seeing, n)) for b in options.bands}
    for k in range(n):
        night = options.mjd + 23 * k
        clock = best_time(options.ra, night)
        for band, seconds in zip(options.bands, options.exposure_times, strict=True):
            out.append(_plan_one(options, band, seconds, clock, number, k, seeing[band][k], rng))
            number += 1
            clock += (seconds + 31.0) / 86400.0
    return out


def _plan_one(
    options: ReleasePatchOptions, band: str, seconds: float, mjd: float, number: int, k: int,
    seeing: float, rng: np.random.Generator,
) -> Pointing:  # fmt: skip
    east, north = _dither(k, options.exposures, rng)
    ra0, dec0 = options.centre()
    ra, dec = sky_positions(
        np.array([east * options.dither]), np.array([north * options.dither]), ra0=ra0, dec0=dec0
    )
    focal = options.focal_centre()
    ra0, dec0 = aim_at(ra=float(ra[0]), dec=float(dec[0]), focal_x=focal[0], focal_y=focal[1])
    zd = zenith_distance(options.ra, options.dec, mjd)[0]
    airmass = float(min(1.0 / max(np.cos(np.radians(zd)), 0.25), 3.0))
    size = seeing * np.concatenate([[1.0], rng.normal(0.0, [0.02, 0.02, 0.03, 0.02, 0.03])])
    e1, e2 = (rng.normal(0.0, [0.02, 0.02, 0.02, 0.02, 0.02, 0.02]) for _ in range(2))
    head = ExposureHead(
        number=number, kind="object", band=band, exposure_time=seconds, mjd=mjd, ra=ra0, dec=dec0,
        target="PATCH", sequence=k + 1, sequence_length=options.exposures, airmass=airmass,
        seeing=float(seeing),
    )  # fmt: skip
    return Pointing(
        head=head,
        optics=Optics(ra0, dec0, *rng.normal(0.0, (0.01, 2e-5, 3e-5)).tolist()),
        psf=PsfModel("moffat", 3.0, tuple(size.tolist()), tuple(e1.tolist()), tuple(e2.tolist())),
        transparency=float(np.clip(rng.normal(0.96, 0.02), 0.88, 1.0)),
        sky=SKY_BRIGHTNESS[band] + float(rng.normal(0.0, 0.2)),
        sky_slope=(float(rng.normal(0.0, 0.03)), float(rng.normal(0.0, 0.03))),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


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
    fwhm = float(np.hypot(psf.fwhm[0], 0.4 * _SCALE)) / 0.2634
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
        rows.append(community_files.ccds_row(ccd, pointing, truth, header, name, k + 1))
        row, residual = community_files.psfex_row(ccd, pointing)
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
    job.record.parent.mkdir(parents=True, exist_ok=True)
    temporary = job.record.with_name(f".{job.record.stem}.part.npz")
    arrays: dict[str, Any] = {c: np.asarray(seen[c]) for c in seen.colnames}
    np.savez_compressed(temporary, text=np.array(text), **arrays)
    temporary.replace(job.record)


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
        middle = (_BRICK_SIZE - 1) / 2
        wcs = make_tan_wcs(ra=brick.ra, dec=brick.dec, scale=_SCALE, x=middle, y=middle)
        x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
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
    path = Path(folder) / "truth" / f"{name}.parquet"
    if not path.is_file():
        raise MissingInputError(f"there is no table {name!r} of the truth at {path}")
    arrow = parquet.read_table(path)
    columns = {c: np.array(arrow[c].to_pylist()) for c in arrow.column_names}
    return load_schema(f"truth_release_{name}").apply(Table(columns))

"""A whole simulated survey on disk: raw exposures, calibration frames, catalogues, the truth."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from skymill.data.errors import ConfigError
from skymill.data.options import check_range, option
from skymill.sims import camera, catalogs
from skymill.sims.camera import InstrumentOptions, Pointing
from skymill.sims.detector import ccd_facts
from skymill.sims.effects import brighter_fatter_kernel
from skymill.sims.headers import ExposureHead, best_time, zenith_distance
from skymill.sims.optics import Optics, PsfModel, aim_at
from skymill.sims.scene import Scene, SceneOptions, make_scene, sky_positions
from skymill.sims.sky_tables import BANDS

__all__ = ["PRESETS", "SurveyOptions", "plan_pointings", "simulate_survey", "survey_preset"]


@dataclass(frozen=True, kw_only=True)
class SurveyOptions:
    """A simulated observing programme of one cluster."""

    seed: int = option(1, "seed of everything random")
    mass: float = option(1.0e15, "M200 (critical) of the cluster", unit="Msun")
    redshift: float = option(0.2, "redshift of the cluster")
    ra: float = option(150.0, "right ascension of the cluster", unit="deg")
    dec: float = option(2.2, "declination of the cluster", unit="deg")
    name: str = option("SIM", "OBJECT of the exposures")
    bands: tuple[str, ...] = option(("g", "r", "i"), "bands")
    visits: tuple[int, ...] = option((2, 4, 2), "exposures in each band")
    exposure_times: tuple[float, ...] = option((500.0, 600.0, 600.0), "seconds in each band")
    ccds: tuple[int, ...] = option((28, 29, 35, 36), "CCDNUM of the simulated CCDs")
    zeros: int = option(5, "zero frames")
    flats: int = option(3, "dome flats in each band")
    seeing: float = option(0.85, "median FWHM of the PSF in r", unit="arcsec")
    dither: float = option(70.0, "largest offset between exposures, in x and y", unit="arcsec")
    depth: float = option(25.5, "faintest galaxy that is drawn, i band", unit="mag")
    galaxy_density: float = option(1.0, "galaxies relative to the real sky")
    star_density: float = option(1.0, "stars relative to the sky at galactic latitude 42 deg")
    mjd: int = option(58533, "night of the observations (a day in Chile)", unit="d")
    first_number: int = option(830001, "EXPNUM of the first frame")
    compressed: bool = option(True, "write .fits.fz instead of .fits")
    effects: InstrumentOptions = option(InstrumentOptions(), "effects of the instrument")

    def __post_init__(self) -> None:
        check_range(self, "seeing", low=0.3, high=5.0)
        check_range(self, "dither", low=0.0, high=600.0)
        check_range(self, "zeros", low=0)
        check_range(self, "flats", low=0)
        unknown = [b for b in self.bands if b not in BANDS]
        if unknown or not self.bands:
            raise ConfigError(f"bands must be among {', '.join(BANDS)}; got {self.bands}")
        for name in ("visits", "exposure_times"):
            if len(getattr(self, name)) != len(self.bands):
                raise ConfigError(
                    f"{name} must have one value for each of the {len(self.bands)} bands; got "
                    f"{getattr(self, name)}"
                )
        if not self.ccds:
            raise ConfigError("ccds must name at least one CCDNUM from 1 to 62; got none")
        for number in self.ccds:
            ccd_facts(number)
        self.scene_options()

    def focal_centre(self) -> tuple[float, float]:
        """Middle of the simulated CCDs in the focal plane [mm]."""
        ccds = [ccd_facts(n) for n in self.ccds]
        return (
            0.5 * (min(c.x_min for c in ccds) + max(c.x_max for c in ccds)),
            0.5 * (min(c.y_min for c in ccds) + max(c.y_max for c in ccds)),
        )

    def scene_options(self) -> SceneOptions:
        """The sky that covers the CCDs with their dithers (x is South, y is East)."""
        ccds = [ccd_facts(n) for n in self.ccds]
        margin = self.dither / 3600.0 + 0.03
        per_mm = 0.2634 / 0.015 / 3600.0
        south = 0.5 * per_mm * (max(c.x_max for c in ccds) - min(c.x_min for c in ccds))
        east = 0.5 * per_mm * (max(c.y_max for c in ccds) - min(c.y_min for c in ccds))
        return SceneOptions(
            ra=self.ra, dec=self.dec, half_width=east + margin, half_height=south + margin,
            mass=self.mass, redshift=self.redshift, depth=self.depth,
            galaxy_density=self.galaxy_density, star_density=self.star_density,
        )  # fmt: skip


#: Sizes that the demonstration uses.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {
        "ccds": (28, 35), "visits": (1, 3, 1), "exposure_times": (600.0, 600.0, 600.0),
        "zeros": 3, "flats": 2,
    },
    "tiny": {
        "ccds": (35,), "bands": ("r",), "visits": (2,), "exposure_times": (200.0,), "zeros": 1,
        "flats": 1, "depth": 23.0,
    },
}  # fmt: skip


def survey_preset(size: str, **changes: Any) -> SurveyOptions:
    """Options of one of the sizes full, small and tiny.

    Parameters
    ----------
    size : str
        Name of the preset.
    **changes : object
        Fields of `SurveyOptions` that differ from it.

    Returns
    -------
    SurveyOptions
        The options.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if size not in PRESETS:
        raise ConfigError(f"size must be one of {', '.join(PRESETS)}; got {size!r}")
    return replace(SurveyOptions(), **{**PRESETS[size], **changes})


def plan_pointings(options: SurveyOptions) -> list[Pointing]:
    """The exposures of the programme with their weather.

    Parameters
    ----------
    options : SurveyOptions
        The programme.

    Returns
    -------
    list of Pointing
        In the order of observation: bands one after the other.
    """
    rng = np.random.default_rng([options.seed, 2])
    focal = options.focal_centre()
    start = best_time(options.ra, options.mjd)
    total = sum(options.visits)
    number, out, clock = options.first_number, [], start
    for band, visits, seconds in zip(
        options.bands, options.visits, options.exposure_times, strict=True
    ):
        for k in range(visits):
            out.append(
                _plan_one(options, band, seconds, clock, number, (k, visits, total), focal, rng)
            )
            number += 1
            clock += (seconds + 31.0) / 86400.0
    return out


def _plan_one(
    options: SurveyOptions,
    band: str,
    seconds: float,
    mjd: float,
    number: int,
    count: tuple[int, int, int],
    focal: tuple[float, float],
    rng: np.random.Generator,
) -> Pointing:
    k, visits, total = count
    effects = options.effects
    # Dithers on a ring, so that no gap of one exposure is a gap of the next.
    angle = 2 * np.pi * (k + 0.5 * rng.random()) / max(visits, 1) + 0.7
    radius = options.dither * (0.5 + 0.5 * rng.random()) if total > 1 else 0.0
    ra, dec = sky_positions(
        np.array([radius * np.cos(angle)]), np.array([radius * np.sin(angle)]),
        ra0=options.ra, dec0=options.dec,
    )  # fmt: skip
    ra0, dec0 = aim_at(ra=float(ra[0]), dec=float(dec[0]), focal_x=focal[0], focal_y=focal[1])
    error = rng.normal(0.0, 4.0, 2) / 3600.0
    rotation, stretch, shear = rng.normal(0.0, 0.01), rng.normal(0.0, 2e-5), rng.normal(0.0, 3e-5)
    zd = zenith_distance(options.ra, options.dec, mjd)[0]
    airmass = float(min(1.0 / max(np.cos(np.radians(zd)), 0.25), 3.0))
    seeing = options.seeing * {"u": 1.1, "g": 1.06, "r": 1.0, "i": 0.96}.get(band, 0.94)
    seeing *= float(np.clip(rng.lognormal(0.0, 0.06), 0.85, 1.2)) * max(airmass / 1.3, 1.0) ** 0.3
    on = 1.0 if effects.varying_psf else 0.0
    size = seeing * np.concatenate([[1.0], on * rng.normal(0.0, [0.02, 0.02, 0.03, 0.02, 0.03])])
    e1 = on * rng.normal(0.0, [0.015, 0.015, 0.015, 0.02, 0.02, 0.02])
    e2 = on * rng.normal(0.0, [0.015, 0.015, 0.015, 0.02, 0.02, 0.02])
    head = ExposureHead(
        number=number, kind="object", band=band, exposure_time=seconds, mjd=mjd, ra=ra0, dec=dec0,
        target=options.name, sequence=k + 1, sequence_length=visits, airmass=airmass,
        seeing=seeing,
    )  # fmt: skip
    if not effects.pointing_error:
        error, rotation, stretch, shear = np.zeros(2), 0.0, 0.0, 0.0
    return Pointing(
        head=head,
        optics=Optics(
            (ra0 + error[0] / np.cos(np.radians(dec0))) % 360.0, dec0 + error[1], rotation,
            stretch, shear, chip_rotation=effects.distortion, distortion=effects.distortion,
        ),
        psf=PsfModel(
            effects.psf, effects.moffat_beta, tuple(size.tolist()), tuple(e1.tolist()),
            tuple(e2.tolist()),
        ),
        transparency=float(np.clip(rng.normal(0.97, 0.02), 0.9, 1.0)),
        sky=camera.SKY_BRIGHTNESS[band] + float(rng.normal(0.0, 0.08)),
        sky_slope=(float(rng.normal(0.0, 0.02)), float(rng.normal(0.0, 0.02))),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _calibration_heads(options: SurveyOptions) -> list[ExposureHead]:
    number = options.first_number - 1 - options.zeros - options.flats * len(options.bands)
    mjd = options.mjd + 0.9
    out = []
    for k in range(options.zeros):
        out.append(
            ExposureHead(
                number=number, kind="zero", band=options.bands[-1], exposure_time=0.0, mjd=mjd,
                ra=100.0, dec=-30.0, target="ZERO", sequence=k + 1,
                sequence_length=options.zeros,
            )
        )  # fmt: skip
        number, mjd = number + 1, mjd + 35.0 / 86400
    for band in options.bands:
        for k in range(options.flats):
            out.append(
                ExposureHead(
                    number=number, kind="dome flat", band=band, exposure_time=10.0, mjd=mjd,
                    ra=100.0, dec=-30.0, target=f"DOME FLAT {band}", sequence=k + 1,
                    sequence_length=options.flats,
                )
            )  # fmt: skip
            number, mjd = number + 1, mjd + 45.0 / 86400
    return out


_scene: Scene | None = None


def _run_job(job: tuple[Any, ...]) -> list[dict[str, Any]]:
    kind, item, options, path = job
    if path.exists():
        # Made by a run that was interrupted later: only its truth is wanted again.
        pass
    if kind == "object":
        assert _scene is not None
        return camera.simulate_exposure(_scene, item, options.ccds, options.effects, path)
    seed = int(np.random.default_rng([options.seed, 3, item.number]).integers(2**31))
    if kind == "zero":
        camera.simulate_zero(item, options.ccds, options.effects, path, seed=seed)
    else:
        camera.simulate_flat(item, options.ccds, options.effects, path, seed=seed)
    return []


def simulate_survey(
    directory: str | Path,
    options: SurveyOptions,
    *,
    processes: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Make everything that an observer brings home, and the truth.

    Writes ``raws/`` (science exposures), ``calib/`` (raw zeros and dome flats, and
    ``brighter_fatter_kernel.npy``), ``refcats/{gaia,ps1}.parquet`` and, in a folder of their own
    that nothing but a report may read, ``truth/{stars,galaxies,halos,exposures,ccds}.parquet`` and
    ``truth/options.json``. The same options make the same files.

    Parameters
    ----------
    directory : path
        Folder; made if needed.
    options : SurveyOptions
        The programme.
    processes : int
        Exposures are made by this many processes.
    progress : callable, optional
        Called with (done, total, file name) after each file.

    Returns
    -------
    dict
        ``raws`` and ``calibs`` (lists of paths), ``scene``.
    """
    global _scene
    root = Path(directory)
    scene = make_scene(options.scene_options(), np.random.default_rng([options.seed, 1]))
    pointings, heads = plan_pointings(options), _calibration_heads(options)
    suffix = ".fits.fz" if options.compressed else ".fits"
    jobs: list[tuple[Any, ...]] = [
        ("object", p, options, root / "raws" / f"DECam_{p.head.number:08d}{suffix}")
        for p in pointings
    ]
    jobs += [(h.kind, h, options, root / "calib" / f"DECam_{h.number:08d}{suffix}") for h in heads]
    _scene = scene
    records: list[dict[str, Any]] = []
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            for done, (job, part) in enumerate(
                zip(jobs, pool.map(_run_job, jobs), strict=True), start=1
            ):
                records += part
                if progress:
                    progress(done, len(jobs), job[3].name)
    else:
        for done, job in enumerate(jobs, start=1):
            records += _run_job(job)
            if progress:
                progress(done, len(jobs), job[3].name)
    _scene = None
    _write_catalogues(root, scene, options)
    _write_truth(root / "truth", scene, options, pointings, records)
    return {
        "raws": [j[3] for j in jobs if j[0] == "object"],
        "calibs": [j[3] for j in jobs if j[0] != "object"],
        "scene": scene,
    }


def _write_catalogues(root: Path, scene: Scene, options: SurveyOptions) -> None:
    gaia = catalogs.gaia_catalogue(scene, np.random.default_rng([options.seed, 4]))
    ps1 = catalogs.ps1_catalogue(scene, np.random.default_rng([options.seed, 5]))
    write_parquet(gaia, root / "refcats" / "gaia.parquet")
    write_parquet(ps1, root / "refcats" / "ps1.parquet")
    (root / "calib").mkdir(parents=True, exist_ok=True)
    np.save(root / "calib" / "brighter_fatter_kernel.npy", -brighter_fatter_kernel())


def _write_truth(
    folder: Path,
    scene: Scene,
    options: SurveyOptions,
    pointings: list[Pointing],
    records: list[dict[str, Any]],
) -> None:
    write_parquet(scene.stars, folder / "stars.parquet")
    write_parquet(scene.galaxies, folder / "galaxies.parquet")
    write_parquet(scene.halo_table(), folder / "halos.parquet")
    rows = []
    for p in pointings:
        rows.append(
            {
                "visit": p.head.number, "band": p.head.band, "exposure_time": p.head.exposure_time,
                "mjd": p.head.mjd, "airmass": p.head.airmass, "header_ra": p.head.ra,
                "header_dec": p.head.dec, "true_ra": p.optics.ra, "true_dec": p.optics.dec,
                "rotation": p.optics.rotation, "stretch": p.optics.stretch,
                "zero_point": p.zero_point, "njy_per_electron": p.njy_per_electron,
                "transparency": p.transparency, "sky_mag": p.sky, "sky_electrons": p.sky_electrons,
                "psf_profile": p.psf.profile, "psf_beta": p.psf.beta,
                "psf_fwhm": json.dumps(p.psf.fwhm), "psf_g1": json.dumps(p.psf.g1),
                "psf_g2": json.dumps(p.psf.g2),
            }
        )  # fmt: skip
    write_parquet(Table(rows=rows), folder / "exposures.parquet")
    if records:
        write_parquet(Table(rows=records), folder / "ccds.parquet")
    text = json.dumps(asdict(options), indent=1)
    write_bytes(text.encode(), folder / "options.json")


def write_parquet(table: Table, path: Path) -> None:
    """Write a table in one step.

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    path : pathlib.Path
        Final name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        table.write(temporary, format="parquet", overwrite=True)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(content: bytes, path: Path) -> None:
    """Write a small file in one step.

    Parameters
    ----------
    content : bytes
        What to write.
    path : pathlib.Path
        Final name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

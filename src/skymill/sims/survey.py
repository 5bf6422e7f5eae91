"""A whole simulated survey on disk: raw exposures, calibration frames, catalogues, the truth."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from pyarrow import parquet

from skymill.data.errors import ConfigError, MissingInputError
from skymill.data.files import atomic_path
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.sims import camera, catalogs
from skymill.sims.detector import ccd_facts
from skymill.sims.effects import brighter_fatter_kernel
from skymill.sims.exposure import SKY_BRIGHTNESS, InstrumentOptions, Pointing
from skymill.sims.headers import ExposureHead, best_time, zenith_distance
from skymill.sims.optics import Optics, PsfModel, aim_at
from skymill.sims.scene import Scene, SceneOptions, make_scene, sky_positions
from skymill.sims.sky_tables import BANDS

__all__ = [
    "PRESETS",
    "SurveyOptions",
    "plan_pointings",
    "read_truth",
    "read_truth_table",
    "simulate_survey",
    "survey_preset",
]


_EFFECTS = InstrumentOptions()


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
    exposure_times: tuple[float, ...] = option((600.0, 900.0, 900.0), "seconds in each band")
    ccds: tuple[int, ...] = option((28, 29, 35, 36), "CCDNUM of the simulated CCDs")
    zeros: int = option(5, "zero frames")
    flats: int = option(3, "dome flats in each band")
    seeing: float = option(0.80, "median FWHM of the PSF in r at airmass 1.3", unit="arcsec")
    dither: float = option(85.0, "largest offset between exposures, in x and y", unit="arcsec")
    depth: float = option(25.5, "faintest galaxy that is drawn, i band", unit="mag")
    galaxy_density: float = option(1.0, "galaxies relative to the real sky")
    star_density: float = option(1.0, "stars relative to the sky at galactic latitude 42 deg")
    mjd: int = option(58533, "night of the observations (a day in Chile)", unit="d")
    first_number: int = option(830001, "EXPNUM of the first frame")
    compressed: bool = option(True, "write .fits.fz instead of .fits")
    effects: InstrumentOptions = field(
        default=_EFFECTS, metadata={"doc": "effects of the instrument", "unit": ""}
    )

    def __post_init__(self) -> None:
        check_range(self, "seeing", low=0.3, high=5.0)
        check_range(self, "dither", low=0.0, high=600.0)
        check_range(self, "zeros", low=0)
        check_range(self, "flats", low=0)
        object.__setattr__(self, "bands", tuple("Y" if b == "y" else b for b in self.bands))
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


#: Sizes that the demonstration uses; `full` is the default of every field.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    # Few exposures, so long ones: half of the area must show the cluster as well.
    "small": {
        "ccds": (28, 35),
        "visits": (1, 3, 1),
        "exposure_times": (900.0, 1700.0, 1100.0),
        "zeros": 3,
        "flats": 2,
    },
    "tiny": {
        "ccds": (35,),
        "bands": ("r",),
        "visits": (2,),
        "exposure_times": (200.0,),
        "zeros": 1,
        "flats": 1,
        "depth": 23.0,
    },
}


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


def _dither(k: int, visits: int, rng: np.random.Generator) -> tuple[float, float]:
    """Offset of exposure k in units of the largest, in [-1, 1].

    The offsets of a band are evenly spaced in x and in y (a Latin square), so that the gap between
    two CCDs falls on another place in each exposure.
    """
    if visits == 1:
        return 0.6, -0.5
    steps = np.linspace(-0.95, 0.95, visits)
    order = np.argsort((np.arange(visits) * 2 + 1) % (visits + 1 - visits % 2), kind="stable")
    jitter = rng.uniform(-0.05, 0.05, 2)
    return float(steps[k] + jitter[0]), float(steps[order[k]] + jitter[1])


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
    east, north = _dither(k, visits, rng) if total > 1 else (0.0, 0.0)
    ra, dec = sky_positions(
        np.array([east * options.dither]), np.array([north * options.dither]),
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
        sky=SKY_BRIGHTNESS[band] + float(rng.normal(0.0, 0.08)),
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


# The scene of this process; workers make it again from the seed or inherit it by fork.
_scene: Scene | None = None


@dataclass(frozen=True)
class _Job:
    """One raw file to make."""

    head: ExposureHead
    pointing: Pointing | None
    options: SurveyOptions
    path: Path
    record_path: Path


def _set_scene(options: SurveyOptions) -> None:
    global _scene
    if _scene is None or _scene.options != options.scene_options():
        _scene = make_scene(options.scene_options(), np.random.default_rng([options.seed, 1]))


def _run_job(job: _Job) -> None:
    """Make one file, then note its truth: a file with its record is complete."""
    options, head = job.options, job.head
    records: list[dict[str, Any]] = []
    if job.pointing is not None:
        _set_scene(options)
        assert _scene is not None
        records = camera.simulate_exposure(
            _scene, job.pointing, options.ccds, options.effects, job.path
        )
    else:
        seed = int(np.random.default_rng([options.seed, 3, head.number]).integers(2**31))
        make = camera.simulate_zero if head.kind == "zero" else camera.simulate_flat
        make(head, options.ccds, options.effects, job.path, seed=seed)
    write_bytes(json.dumps(records, default=lambda v: v.item()).encode(), job.record_path)


def _plan_jobs(root: Path, options: SurveyOptions, pointings: list[Pointing]) -> list[_Job]:
    suffix = ".fits.fz" if options.compressed else ".fits"
    out = []
    for pointing, head in [(p, p.head) for p in pointings] + [
        (None, h) for h in _calibration_heads(options)
    ]:
        folder = "calib" if pointing is None else "raws"
        name = f"DECam_{head.number:08d}"
        out.append(
            _Job(
                head,
                pointing,
                options,
                root / folder / f"{name}{suffix}",
                root / "truth" / "frames" / f"{name}.json",
            )
        )
    return out


def _run_all(
    jobs: list[_Job], options: SurveyOptions, processes: int, report: Callable[[_Job], None]
) -> None:
    if processes <= 1 or len(jobs) <= 1:
        for job in jobs:
            _run_job(job)
            report(job)
        return
    # Forking a process that has threads can deadlock; without threads it saves the start-up.
    method = "fork" if threading.active_count() == 1 else "spawn"
    with ProcessPoolExecutor(
        min(processes, len(jobs)),
        mp_context=get_context(method),
        initializer=_set_scene,
        initargs=(options,),
    ) as pool:
        futures = {pool.submit(_run_job, job): job for job in jobs}
        for future in as_completed(futures):
            future.result()
            report(futures[future])


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
    ``truth/options.json``. The same options make the same files, whatever the number of processes.
    Called again with the same options it makes only what is missing.

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
    root = Path(directory)
    _set_scene(options)
    scene = _scene
    assert scene is not None
    pointings = plan_pointings(options)
    jobs = _plan_jobs(root, options, pointings)
    text = json.dumps(asdict(options), indent=1)
    noted = root / "truth" / "options.json"
    same = noted.exists() and noted.read_text() == text
    if not same:
        for job in jobs:
            job.record_path.unlink(missing_ok=True)
        write_bytes(text.encode(), noted)
    missing = [j for j in jobs if not (j.path.exists() and j.record_path.exists())]
    done = len(jobs) - len(missing)

    def report(job: _Job) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, len(jobs), job.path.name)

    _run_all(missing, options, processes, report)
    records = [r for j in jobs for r in json.loads(j.record_path.read_text())]
    if missing or not all(p.exists() for p in _catalogue_paths(root)):
        _write_catalogues(root, scene, options)
    _write_truth(root / "truth", scene, pointings, records)
    return {
        "raws": [j.path for j in jobs if j.pointing is not None],
        "calibs": [j.path for j in jobs if j.pointing is None],
        "scene": scene,
    }


def _catalogue_paths(root: Path) -> list[Path]:
    """Catalogues, and the brighter-fatter kernel as the observatory would publish it."""
    kernel = root / "calib" / "brighter_fatter_kernel.npy"
    return [root / "refcats" / "gaia.parquet", root / "refcats" / "ps1.parquet", kernel]


def _write_catalogues(root: Path, scene: Scene, options: SurveyOptions) -> None:
    gaia = catalogs.gaia_catalogue(scene, np.random.default_rng([options.seed, 4]))
    ps1 = catalogs.ps1_catalogue(scene, np.random.default_rng([options.seed, 5]))
    gaia_path, ps1_path, kernel_path = _catalogue_paths(root)
    write_parquet(gaia, gaia_path)
    write_parquet(ps1, ps1_path)
    stream = io.BytesIO()
    np.save(stream, -brighter_fatter_kernel())
    write_bytes(stream.getvalue(), kernel_path)


def _exposure_row(p: Pointing) -> dict[str, Any]:
    return {
        "visit": p.head.number,
        "band": p.head.band,
        "exposure_time": p.head.exposure_time,
        "mjd": p.head.mjd,
        "airmass": p.head.airmass,
        "header_ra": p.head.ra,
        "header_dec": p.head.dec,
        "true_ra": float(p.optics.ra),
        "true_dec": float(p.optics.dec),
        "rotation": p.optics.rotation,
        "stretch": p.optics.stretch,
        "shear": p.optics.shear,
        "zero_point": p.zero_point,
        "njy_per_electron": p.njy_per_electron,
        "transparency": p.transparency,
        "sky_brightness": p.sky,
        "sky_electrons": p.sky_electrons,
        "psf_profile": p.psf.profile,
        "psf_beta": p.psf.beta,
        "psf_fwhm": np.array(p.psf.fwhm),
        "psf_g1": np.array(p.psf.g1),
        "psf_g2": np.array(p.psf.g2),
    }


def _write_truth(
    folder: Path, scene: Scene, pointings: list[Pointing], records: list[dict[str, Any]]
) -> None:
    tables = {
        "stars": scene.stars,
        "galaxies": scene.galaxies,
        "halos": scene.halo_table(),
        "exposures": Table(rows=[_exposure_row(p) for p in pointings]),
        "ccds": Table(rows=records),
    }
    for name, table in tables.items():
        if len(table.colnames):
            write_parquet(
                load_schema(f"truth_{name}").apply(table.copy()), folder / f"{name}.parquet"
            )


def write_parquet(table: Table, path: Path) -> None:
    """Write a table in one step.

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    path : pathlib.Path
        Final name.
    """
    with atomic_path(path) as draft:
        table.write(draft, format="parquet")


def read_truth(directory: str | Path, name: str) -> Table:
    """Read one table of the truth.

    Parameters
    ----------
    directory : path
        Folder of the survey.
    name : str
        ``stars``, ``galaxies``, ``halos``, ``exposures`` or ``ccds``.

    Returns
    -------
    astropy.table.Table
        The table, by its schema ``truth_<name>``.

    Raises
    ------
    MissingInputError
        If the survey has no such table.
    """
    return read_truth_table(directory, name, schema=f"truth_{name}")


def read_truth_table(directory: str | Path, name: str, *, schema: str) -> Table:
    """Read one table of the truth of a simulation.

    Parameters
    ----------
    directory : path
        Folder of the simulation.
    name : str
        Name of the table.
    schema : str
        Name of its schema.

    Returns
    -------
    astropy.table.Table
        The table, by its schema.

    Raises
    ------
    MissingInputError
        If there is no such table.
    """
    path = Path(directory) / "truth" / f"{name}.parquet"
    if not path.is_file():
        raise MissingInputError(f"there is no table {name!r} of the truth at {path}")
    arrow = parquet.read_table(path)
    columns = {c: np.array(arrow[c].to_pylist()) for c in arrow.column_names}
    return load_schema(schema).apply(Table(columns))


def write_bytes(content: bytes, path: Path) -> None:
    """Write a small file in one step.

    Parameters
    ----------
    content : bytes
        What to write.
    path : pathlib.Path
        Final name.
    """
    with atomic_path(path) as draft:
        draft.write_bytes(content)

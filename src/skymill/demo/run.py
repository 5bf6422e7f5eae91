"""Simulate, run, report."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skymill.campaign.campaign import Campaign
from skymill.campaign.cluster import load_cluster
from skymill.campaign.steps import STEPS
from skymill.data.errors import ConfigError
from skymill.data.files import atomic_path
from skymill.data.options import check_choice, check_range, option
from skymill.demo.report import step_times, write_report
from skymill.sims.survey import SurveyOptions, simulate_survey, survey_preset

__all__ = ["DemoOptions", "plan_survey", "run_demo", "write_settings"]

#: Steps that the demonstration leaves out: nothing is to be downloaded or deleted.
_LEFT_OUT = ("download_raw", "gotta_blast")


#: The exposures of every size fill an even number of such patches, and none is nearly empty.
_PATCH_INNER = 2600
#: What is simulated around the field that any exposure sees [deg].
_MARGIN_DEG = 0.028
#: Latitude of the telescope [deg]; airmass that the exposure times are meant for.
_LATITUDE, _PLAIN_AIRMASS = -30.17, 1.3


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What is simulated."""

    size: str = option("full", "full: 10 minutes, small: 3 minutes on two cores")
    seed: int = option(1, "seed of everything random")
    mass: float = option(1.0e15, "M200 (critical) of the cluster", unit="Msun")
    redshift: float = option(0.2, "redshift of the cluster")
    ra: float = option(150.0, "right ascension of the cluster", unit="deg")
    dec: float = option(2.2, "declination of the cluster", unit="deg")
    workers: int = option(0, "worker processes; 0 takes one for each core")

    def __post_init__(self) -> None:
        check_choice(self, "size", ("full", "small"))
        check_range(self, "seed", low=0)
        check_range(self, "mass", low=0.0, high=1e16)
        check_range(self, "redshift", low=0.02, high=1.0)
        check_range(self, "ra", low=0.0, high=360.0)
        check_range(self, "dec", low=-88.0, high=88.0)
        check_range(self, "workers", low=0)

    @property
    def n_workers(self) -> int:
        """Worker processes."""
        return self.workers or max(1, len(os.sched_getaffinity(0)))


def write_settings(folder: Path, options: DemoOptions, survey: SurveyOptions) -> Path:
    """Write the ``cluster.yaml`` of the simulated field.

    Parameters
    ----------
    folder : Path
        Folder of the demonstration.
    options : DemoOptions
        What is simulated.
    survey : skymill.sims.survey.SurveyOptions
        The exposures.

    Returns
    -------
    Path
        The file.
    """
    settings = {
        "name": "SIM",
        "centre": [options.ra, options.dec],
        "redshift": options.redshift,
        "bands": list(survey.bands),
        "lensing_band": "r",
        "photometry": dict.fromkeys(survey.bands, "ps1"),
        "paths": {"raws": "raws", "refcats": "refcats", "zeros": "calib", "flats": "calib"},
        # A few CCDs, not sixty: every visit counts, and the published cut of ten does not apply.
        "cuts": {"min_detectors": 1, "fwhm_pixel": 6.4, "lensing_fwhm_pixel": 5.5},
        "skymap": {
            "radius_deg": _field_radius(survey),
            "tract_overlap_deg": 0.0,
            "patch_inner": _PATCH_INNER,
        },
        "keep_intermediates": False,
        "sites": {"local": {"workers": options.n_workers}},
    }
    path = folder / "cluster.yaml"
    text = "# Written by skymill demo.\n" + yaml.safe_dump(settings, sort_keys=False)
    with atomic_path(path) as draft:
        draft.write_text(text)
    return path


def _field_radius(survey: SurveyOptions) -> float:
    """Half width of what the exposures see [deg]."""
    sky = survey.scene_options()
    return round(max(sky.half_width, sky.half_height) - _MARGIN_DEG, 4)


def plan_survey(options: DemoOptions) -> SurveyOptions:
    """The exposures: longer through more air, as an observer would.

    Parameters
    ----------
    options : DemoOptions
        What is simulated.

    Returns
    -------
    skymill.sims.survey.SurveyOptions
        The programme.
    """
    plain = survey_preset(
        options.size,
        seed=options.seed,
        mass=options.mass,
        redshift=options.redshift,
        ra=options.ra,
        dec=options.dec,
    )
    height = math.cos(math.radians(options.dec - _LATITUDE))
    longer = max(1.0, min(1.0 / max(height, 0.25), 3.0) / _PLAIN_AIRMASS)
    return dataclasses.replace(
        plain,
        exposure_times=tuple(round(longer * t) for t in plain.exposure_times),
    )


def run_demo(
    folder: Path, options: DemoOptions, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Simulate a lensed field, run every step on it, and write the report.

    Parameters
    ----------
    folder : Path
        Folder for everything; made if needed. The same call goes on where it stopped.
    options : DemoOptions
        What is simulated.
    say : callable
        Receives lines for the user.

    Returns
    -------
    dict
        The contents of ``report/summary.json``.

    Raises
    ------
    ConfigError
        If the folder holds something else.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "truth").exists():
        raise ConfigError(f"{folder} is not empty and holds no demo; name an empty or a new folder")
    survey = plan_survey(options)
    start = time.monotonic()
    say(f"simulating {sum(survey.visits)} exposures of {len(survey.ccds)} CCDs in {folder}")
    simulate_survey(folder, survey, processes=options.n_workers, progress=_sparse(say))
    simulated = time.monotonic() - start
    cluster = load_cluster(write_settings(folder, options, survey))
    campaign = Campaign(cluster, say=say)
    steps = [s for s in STEPS if s.name not in _LEFT_OUT and not s.on_request]
    try:
        campaign.run(steps)
    finally:
        campaign.close()
    timing = {"simulate_s": round(simulated, 2), **step_times(cluster)}
    timing["total_s"] = round(time.monotonic() - start, 2)
    return write_report(folder, cluster, timing, say=say)


def _sparse(say: Callable[[str], None]) -> Callable[[int, int, str], None]:
    """Report about every tenth file."""

    def progress(done: int, total: int, name: str) -> None:
        if done == total or done % max(1, total // 10) == 0:
            say(f"  {done}/{total} files: {name}")

    return progress

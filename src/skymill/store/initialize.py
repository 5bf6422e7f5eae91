"""Everything that a repository needs before the first raw frame, in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from skymill.coadd.skymap import SkyMap
from skymill.store.curated import write_curated_calibrations
from skymill.store.pipelines import register_dataset_types
from skymill.store.repository import create_repository, register_instrument
from skymill.store.skymaps import register_sky_map

__all__ = ["initialize_repository"]


def initialize_repository(
    repo: str | Path,
    *,
    registry: str | None = None,
    sky_map: SkyMap | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Create a repository, register DECam, write its curated calibrations, register dataset types.

    What is there already is left as it is, so that a broken call can be repeated.

    Parameters
    ----------
    repo : path
        Folder of the repository.
    registry : str, optional
        Database, such as ``postgresql://user@host/name``; SQLite in the folder if omitted.
    sky_map : SkyMap, optional
        A sky map to register as well.
    say : callable
        Gets one line for each step.

    Returns
    -------
    list of str
        Pipelines that could not be loaded, with the reason.
    """
    new = create_repository(repo, registry=registry)
    say(f"repository {repo} {'created' if new else 'was there already'}")
    register_instrument(repo)
    say("instrument DECam registered: 62 CCDs and every filter")
    written = write_curated_calibrations(repo)
    say(f"{written} curated calibrations written to DECam/calib" if written else
        "curated calibrations were there already")  # fmt: skip
    if sky_map is not None:
        fresh = register_sky_map(repo, sky_map)
        say(f"sky map {sky_map.name} {'registered' if fresh else 'was there already'}")
    problems = register_dataset_types(repo)
    say("dataset types of all pipelines registered")
    return problems

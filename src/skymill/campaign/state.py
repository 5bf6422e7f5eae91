"""What is done: a small record beside the repository, checked against the registry."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from skymill.campaign.actions import input_files, load_record
from skymill.campaign.cluster import Cluster
from skymill.campaign.public_files import PUBLIC_FOLDERS
from skymill.campaign.steps import STEPS, Step, expand_run, find_step, is_wanted, runs_of
from skymill.engine.graph import GraphRequest
from skymill.engine.report import write_json

__all__ = ["Record", "UnitStatus", "bands_of", "output_collections", "unit_name"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitStatus:
    """State of one step (and band).

    ``state`` is ``done``, ``running``, ``failed``, ``missing``, ``outdated`` (its input or its
    settings changed) or ``optional`` (not asked for); ``detail`` is one clause.
    """

    step: str
    band: str
    state: str
    detail: str = ""
    seconds: float | None = None


def unit_name(step: str, band: str) -> str:
    """Key of a step and band in the record.

    Parameters
    ----------
    step, band : str
        Names; the band may be empty.

    Returns
    -------
    str
        ``step`` or ``step/band``.
    """
    return f"{step}/{band}" if band else step


def bands_of(cluster: Cluster, step: Step) -> list[str]:
    """Bands that a step works on one by one.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : Step
        The step.

    Returns
    -------
    list of str
        Bands, or one empty word for a step of all bands together.
    """
    return list(cluster.bands) if step.per_band else [""]


def output_collections(cluster: Cluster, step: Step, band: str) -> list[str]:
    """Output chains of a step.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : Step
        The step.
    band : str
        The band.

    Returns
    -------
    list of str
        One for each of its pipeline runs.
    """
    return [expand_run(cluster, run, band).output for run in runs_of(cluster, step)]


def is_locked(folder: Path) -> bool:
    """Whether a live process works on an output.

    Parameters
    ----------
    folder : Path
        Folder of the output below ``submit``.

    Returns
    -------
    bool
        `True` if its lock is held.
    """
    try:
        with (folder / "lock.json").open("r") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Record:
    """The record of a campaign, ``submit/campaign.json``.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    requests : callable
        Pipeline runs of a step and band, with the overrides of the settings.
    """

    def __init__(
        self, cluster: Cluster, requests: Callable[[Step, str], list[GraphRequest]]
    ) -> None:
        self.cluster = cluster
        self._requests = requests
        self.path = cluster.folder / "submit" / "campaign.json"
        self.units: dict[str, dict[str, Any]] = load_record(self.path).get("units", {})
        self._producers = self._find_producers()

    def _find_producers(self) -> dict[str, str]:
        producers = {}
        for step in STEPS:
            for band in bands_of(self.cluster, step):
                for output in output_collections(self.cluster, step, band):
                    producers[output] = unit_name(step.name, band)
        return producers

    def upstream(self, step: Step, band: str) -> list[str]:
        """Units whose products a unit reads.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.

        Returns
        -------
        list of str
            Keys of the record.
        """
        own = unit_name(step.name, band)
        found: dict[str, None] = {}
        for name in step.after:
            before = find_step(name)
            bands = [band] if before.per_band and band else bands_of(self.cluster, before)
            for other in bands:
                found[unit_name(name, other)] = None
        for run in runs_of(self.cluster, step):
            for collection in expand_run(self.cluster, run, band).inputs:
                producer = self._producers.get(collection)
                if producer and producer != own:
                    found[producer] = None
        return list(found)

    def signature(self, step: Step, band: str) -> str:
        """A hash of everything that decides about the products of a unit.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.

        Returns
        -------
        str
            Hexadecimal digest of settings, upstream products and outside files.
        """
        parts: list[Any] = [step.name, band]
        parts += [dataclasses.asdict(request) for request in self._requests(step, band)]
        if step.action:
            parts.append(self._action_settings(step, band))
        parts += [self.units.get(name, {}).get("stamp", "") for name in self.upstream(step, band)]
        parts += [_file_state(path) for path in input_files(self.cluster, step.name)]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _action_settings(self, step: Step, band: str) -> Any:
        from skymill.campaign.actions import ACTIONS

        return [command.words for command in ACTIONS[step.action](self.cluster, band)]

    def note(self, step: Step, band: str, **values: Any) -> None:
        """Write what happened to a unit.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.
        **values : object
            ``state``, ``signature``, ``stamp``, ``detail``, ``seconds``.
        """
        # Another process may have noted another step meanwhile.
        self.units = load_record(self.path).get("units", self.units)
        self.units[unit_name(step.name, band)] = {"time": time.time(), **values}
        write_json(self.path, {"cluster": self.cluster.name, "units": self.units})

    def status(self, step: Step, band: str, existing: Iterable[str] | None) -> UnitStatus:
        """State of a unit.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.
        existing : iterable of str, optional
            Collections that exist; `None` if there is no repository.

        Returns
        -------
        UnitStatus
            The state.
        """
        outputs = output_collections(self.cluster, step, band)
        entry = self.units.get(unit_name(step.name, band))
        submit = self.cluster.folder / "submit"

        def make(state: str, detail: str = "") -> UnitStatus:
            seconds = entry.get("seconds") if entry else None
            return UnitStatus(
                step=step.name, band=band, state=state, detail=detail, seconds=seconds
            )

        if any(is_locked(submit / output) for output in outputs):
            return make("running")
        there = set(existing or ())
        if entry is None:
            if outputs and there.issuperset(outputs):
                return make("done", "made by other commands")
            if any((submit / output).is_dir() for output in outputs):
                return make("missing", "begun and not finished; the same command goes on")
            if not is_wanted(self.cluster, step):
                return make("optional", step.on_request)
            return make("missing")
        if entry["state"] == "done" and outputs and not there.issuperset(outputs):
            return make("missing", "its collection was removed")
        folder = PUBLIC_FOLDERS.get(step.name)
        if entry["state"] == "done" and folder and not (self.cluster.folder / folder).is_dir():
            return make("missing", f"its folder {folder} was removed")
        if entry["state"] == "done" and entry.get("signature") != self.signature(step, band):
            return make("outdated", "its input or its settings changed")
        return make(entry["state"], entry.get("detail", ""))


def _file_state(path: Path) -> tuple[str, int, int]:
    try:
        info = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), info.st_size, info.st_mtime_ns

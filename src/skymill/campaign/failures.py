"""Failures on record, with the ends of their logs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from skymill.campaign.actions import load_record
from skymill.campaign.cluster import Cluster
from skymill.campaign.state import Record, bands_of, output_collections, unit_name
from skymill.campaign.steps import STEPS, expand_run, runs_of
from skymill.engine.report import QuantumFailure, RunReport

__all__ = ["explain_failures"]


def _last_lines(path: str, count: int) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()[-count:]
    except OSError as exc:
        return [f"(the log cannot be read: {exc})"]


def _matches(step: str, band: str, failure: QuantumFailure, words: Iterable[str]) -> bool:
    text = f"{step} {band} {failure.label} {failure.data_id} {failure.exception}"
    flat = text.replace("=", " ").replace(",", " ").split()
    for word in words:
        parts = word.replace("=", " ").split()
        n = len(parts)
        if not any(flat[i : i + n] == parts for i in range(len(flat) - n + 1)):
            return False
    return True


def explain_failures(
    cluster: Cluster, words: Iterable[str] = (), *, n_lines: int = 15
) -> Iterator[str]:
    """Failed steps and quanta of a cluster.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    words : iterable of str
        Only failures whose step, band, task label, data ID or exception holds all of these.
    n_lines : int
        Last lines of each log.

    Yields
    ------
    str
        One failure in several lines.
    """
    words = list(words)
    record = Record(
        cluster, lambda step, band: [expand_run(cluster, r, band) for r in runs_of(cluster, step)]
    )
    submit = cluster.folder / "submit"
    for step in STEPS:
        for band in bands_of(cluster, step):
            entry = record.units.get(unit_name(step.name, band), {})
            detail = entry.get("detail", "")
            where = f"{step.name} {band}".rstrip()
            # Failed quanta have reports of their own; anything else is told here.
            counted = detail.endswith("quanta failed")
            if entry.get("state") == "failed" and detail and not counted:
                text = f"{where}: {detail}"
                if all(word in text for word in words):
                    yield text
            for output in output_collections(cluster, step, band):
                values = load_record(submit / output / "report.json")
                if not values:
                    continue
                report = RunReport.from_dict(values)
                for failure in report.failures:
                    if _matches(step.name, band, failure, words):
                        tail = "\n    | ".join(_last_lines(failure.log, n_lines))
                        yield f"{step.name} {band}".rstrip() + f": {failure.text()}\n    | {tail}"
                blocked = report.count("blocked")
                if blocked and not words:
                    yield f"{step.name} {band}".rstrip() + (
                        f": {blocked} more quanta wait for those that failed"
                    )

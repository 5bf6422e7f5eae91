"""``skymill report``: write the report of a campaign or of a demonstration again."""

from __future__ import annotations

import json
from pathlib import Path

import click

__all__ = ["report"]


@click.command("report")
@click.argument("place", type=click.Path(path_type=Path), default=Path())
def report(place: Path) -> None:
    """Write the report of PLACE, the folder of a campaign or its cluster.yaml.

    PLACE/report/index.html has figures and numbers of what is finished; in the folder of a
    demonstration also the truth beside them.
    """
    from skymill.campaign import load_cluster
    from skymill.demo.report import step_times, write_report

    cluster = load_cluster(place / "cluster.yaml" if place.is_dir() else place)
    folder = cluster.folder
    timing = step_times(cluster)
    try:
        old = json.loads((folder / "report" / "summary.json").read_text())["timing"]
    except (OSError, ValueError, KeyError):
        old = {}
    # No step knows how long the simulation took.
    timing = {k: old[k] for k in ("simulate_s",) if k in old} | timing
    summary = write_report(folder, cluster, timing, say=click.echo)
    click.echo(summary["verdict"])
    click.echo(f"report: {(folder / 'report' / 'index.html').resolve()}")

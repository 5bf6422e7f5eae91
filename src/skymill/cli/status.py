"""``skymill status``: what is done, running, failed or missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from skymill.campaign import Cluster, UnitStatus

_MARKS = {
    "done": ("done", "green"),
    "running": ("running", "cyan"),
    "failed": ("FAILED", "red"),
    "missing": ("missing", None),
    "outdated": ("outdated", "yellow"),
    "optional": ("not asked for", "bright_black"),
}


def _print_one(cluster: Cluster, units: list[UnitStatus]) -> None:
    ra, dec = cluster.position
    click.echo(f"{cluster.name}  z={cluster.redshift:g}  ra={ra:.4f} dec={dec:.4f}")
    for unit in units:
        word, colour = _MARKS[unit.state]
        name = f"{unit.step} {unit.band}".strip()
        time = f"{unit.seconds:8.1f} s" if unit.seconds is not None else " " * 10
        detail = f"  {unit.detail.splitlines()[0]}" if unit.detail else ""
        click.echo(f"  {name:<26} {click.style(f'{word:<13}', fg=colour)} {time}{detail}")


def _print_many(rows: list[tuple[Cluster, list[UnitStatus]]]) -> None:
    for cluster, units in rows:
        counts = {s: sum(u.state == s for u in units) for s in _MARKS}
        last = next((u for u in reversed(units) if u.state == "done"), None)
        words = ", ".join(f"{n} {s}" for s, n in counts.items() if n and s != "optional")
        after = f"; last done: {last.step} {last.band}".rstrip() if last else ""
        click.echo(f"{cluster.name:<16} {words}{after}")


@click.command("status")
@click.argument("clusters", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(clusters: tuple[Path, ...], as_json: bool) -> None:
    """What is done, running, failed or missing for one or many CLUSTERS (cluster.yaml)."""
    import dataclasses
    import json

    from skymill.campaign import Campaign, load_cluster

    rows = []
    for path in clusters:
        cluster = load_cluster(path)
        rows.append((cluster, Campaign(cluster).status()))
    if as_json:
        values = {c.name: [dataclasses.asdict(u) for u in units] for c, units in rows}
        click.echo(json.dumps(values, indent=1))
    elif len(rows) == 1:
        _print_one(*rows[0])
    else:
        _print_many(rows)

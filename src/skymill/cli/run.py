"""``skymill run``: perform the steps of a cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click


@click.command("run")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.option("--step", "steps", multiple=True, help="Perform this step only (may be repeated).")
@click.option("--from", "first", default=None, help="Begin with this step.")
@click.option("--to", "last", default=None, help="End with this step.")
@click.option("--dry-run", is_flag=True, help="Print the commands of each step; do nothing.")
@click.option("--site", default=None, help="Where to run: a name among the sites of CLUSTER.")
@click.option("-j", "--workers", type=click.IntRange(1), default=None, help="Local workers.")
@click.option("--keep-going", is_flag=True, help="Go on with the next step after failures.")
@click.option("--force", is_flag=True, help="Perform steps even if they are done.")
@click.option("--yes", is_flag=True, help="Do not ask before deleting (gotta_blast).")
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    cluster: Path,
    steps: tuple[str, ...],
    first: str | None,
    last: str | None,
    dry_run: bool,
    site: str | None,
    workers: int | None,
    keep_going: bool,
    force: bool,
    yes: bool,
    quiet: bool,
) -> None:
    """Perform the steps of CLUSTER (a cluster.yaml), or go on where they stopped."""
    from skymill.campaign import Campaign, load_cluster, select_steps
    from skymill.engine import LocalSite

    settings = load_cluster(cluster)
    place = settings.make_site(site)
    if workers is not None and isinstance(place, LocalSite):
        place = dataclasses.replace(place, workers=workers)
    campaign = Campaign(settings, site=place, say=click.echo, show_progress=not quiet)
    chosen = select_steps(steps, first=first, last=last, cluster=settings)
    if dry_run:
        for step in chosen:
            click.echo(campaign.describe(step))
        return
    if any(step.name == "gotta_blast" for step in chosen) and not yes:
        click.confirm(
            f"delete the intermediate products of {settings.name} in {settings.repo_path}?",
            abort=True,
        )
    campaign.run(chosen, keep_going=keep_going, force=force)

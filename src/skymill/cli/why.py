"""``skymill why``: why something failed, with its log."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("why")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1)
@click.option("--lines", default=15, show_default=True, help="Last lines of each log.")
def why(cluster: Path, words: tuple[str, ...], lines: int) -> None:
    """Why quanta of CLUSTER (a cluster.yaml) failed.

    WORDS narrow the answer: a step, a task label, or parts of a data ID such as "detector 12".
    """
    from skymill.campaign import load_cluster
    from skymill.campaign.failures import explain_failures

    found = False
    for text in explain_failures(load_cluster(cluster), words, n_lines=lines):
        found = True
        click.echo(text)
    if not found:
        click.echo("no failure is on record" + (f" for {' '.join(words)}" if words else ""))

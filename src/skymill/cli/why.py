"""``skymill why``: why something failed, with its log; why a dataset does not exist."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("why")
@click.argument("cluster", type=click.Path(path_type=Path))
@click.argument("words", nargs=-1)
@click.option("--lines", default=15, show_default=True, help="Last lines of each log.")
def why(cluster: Path, words: tuple[str, ...], lines: int) -> None:
    """Why quanta of CLUSTER (a cluster.yaml) failed, or why a dataset does not exist.

    WORDS narrow the answer: a step, a task label, or parts of a data ID such as "detector 12".
    A dataset type first, such as "calexp visit=830001 detector=35", asks for a dataset: where it
    is, or which step makes it and what that step lacks.
    """
    from skymill.campaign import load_cluster
    from skymill.campaign.failures import explain_failures
    from skymill.campaign.whereabouts import explain_dataset

    settings = load_cluster(cluster)
    answer = explain_dataset(settings, words)
    if answer is not None:
        click.echo("\n".join(answer))
        return
    found = False
    for text in explain_failures(settings, words, n_lines=lines):
        found = True
        click.echo(text)
    if not found:
        click.echo("no failure is on record" + (f" for {' '.join(words)}" if words else ""))

"""``skymill ingest-calibrated``: images that the Community Pipeline has calibrated."""

from __future__ import annotations

import click

__all__ = ["ingest_calibrated"]


@click.command("ingest-calibrated")
@click.argument("repo")
@click.argument("folder")
@click.option(
    "--output-run", "run", default=None, metavar="RUN",
    help="RUN collection. [default: DECam/processing/community]",
)  # fmt: skip
@click.option("--band", "bands", multiple=True, help="Only this band; may be repeated.")
@click.option("--keep-cut", is_flag=True, help="Take also CCDs that the survey's table rejects.")
def ingest_calibrated(
    repo: str, folder: str, run: str | None, bands: tuple[str, ...], keep_cut: bool
) -> int:
    """Ingest DECam Community-Pipeline images as calibrated exposures.

    REPO is the repository; FOLDER has the layout of the Legacy Surveys: images/ with the files
    c4d_*_ooi_*, *_oow_*, *_ood_*, calib/ with PSFEx models and skies, survey-ccds*.fits with zero
    points. Afterwards step3a and all that follow run with -i DECam/processing/community,skymaps.
    """
    from skymill.store.community import COMMUNITY_RUN
    from skymill.store.community import ingest_calibrated as ingest

    report = ingest(repo, folder, run=run or COMMUNITY_RUN, bands=bands, keep_cut=keep_cut)
    for problem in report.problems:
        click.echo(f"refused: {problem}", err=True)
    click.echo(str(report))
    return 1 if report.problems and not (report.ccds or report.known) else 0

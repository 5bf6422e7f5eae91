"""``skymill init``: a repository that is ready for raw frames."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["init"]


@click.command("init")
@click.argument("repo")
@click.option(
    "--registry", default=None, metavar="URL",
    help="Database, such as postgresql://user@host/name; SQLite in the folder if omitted.",
)  # fmt: skip
@click.option("--name", default=None, help="Register a sky map of this name as well.")
@click.option("--ra", type=float, default=None, help="Its centre, right ascension [deg].")
@click.option("--dec", type=float, default=None, help="Its centre, declination [deg].")
@click.option("--radius", type=float, default=None, help="Radius that it covers [deg].")
@click.option("--bricks", is_flag=True, help="Use the Legacy Surveys' 0.25 degree bricks.")
@click.option("--patch-inner", type=int, default=None, help="Inner width of a patch [pixel].")
@click.option("--patch-border", type=int, default=None, help="Border of a patch [pixel].")
@click.option("--pixel-scale", type=float, default=None, help="Width of a pixel [arcsec].")
@click.option("--tract-overlap", type=float, default=None, help="Added to the radius [deg].")
def init(repo: str, registry: str | None, **words: Any) -> None:
    """Make a repository with DECam, its curated calibrations and all dataset types.

    REPO is the folder. What is there already is left as it is, so that the command can be
    repeated.
    """
    from skymill.store.initialize import initialize_repository
    from skymill.store.skymap_config import make_sky_map

    wanted = any(words[k] is not None for k in ("name", "ra", "dec", "radius"))
    sky_map = make_sky_map(**words) if wanted else None
    problems = initialize_repository(repo, registry=registry, sky_map=sky_map, say=click.echo)
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)

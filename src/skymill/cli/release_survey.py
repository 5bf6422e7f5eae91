"""Verbs of ``skymill release`` before the bricks: from images to zero points, cuts and bricks."""

from __future__ import annotations

import click

__all__ = ["bricks"]


@click.command("bricks")
@click.option("--min-ra", type=float, help="West limit of brick centres [deg].")
@click.option("--max-ra", type=float, help="East limit of brick centres [deg].")
@click.option("--min-dec", type=float, help="South limit of brick centres [deg].")
@click.option("--max-dec", type=float, help="North limit of brick centres [deg].")
def bricks(
    min_ra: float | None, max_ra: float | None, min_dec: float | None, max_dec: float | None
) -> None:
    """Names of the bricks of a region, one a line."""
    from skymill.release.survey.bricks import bricks_in

    limits = (0.0 if min_ra is None else min_ra, 360.0 if max_ra is None else max_ra)
    dec = (-90.0 if min_dec is None else min_dec, 90.0 if max_dec is None else max_dec)
    for brick in bricks_in(*limits, *dec):
        click.echo(brick.name)

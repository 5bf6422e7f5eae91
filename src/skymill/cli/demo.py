"""``skymill demo``: a simulated lensed field from raw frames to a mass, against the truth."""

from __future__ import annotations

from pathlib import Path

import click

from skymill.data.errors import ConfigError

__all__ = ["demo"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("demo"))
@click.option("--size", type=click.Choice(["small", "full"]), default="full", show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Another sky and noise.")
@click.option("--mass", type=float, default=1e15, show_default=True, help="M200 [Msun].")
@click.option("--redshift", type=float, default=0.2, show_default=True)
@click.option("--centre", default="150.0,2.2", show_default=True, help="RA,DEC [deg].")
@click.option("--workers", type=int, default=0, help="Processes; one for each core if 0.")
def demo(
    folder: Path, size: str, seed: int, mass: float, redshift: float, centre: str, workers: int
) -> None:
    """Simulate a lensed field in FOLDER and run it from raw frames to a mass.

    The report is FOLDER/report/index.html, its figures in numbers FOLDER/report/summary.json.
    """
    from skymill.demo.run import DemoOptions, run_demo

    try:
        ra, dec = (float(word) for word in centre.split(","))
    except ValueError:
        raise ConfigError(f"--centre must be RA,DEC in degrees; got {centre!r}") from None
    options = DemoOptions(
        size=size, seed=seed, mass=mass, redshift=redshift, ra=ra, dec=dec, workers=workers
    )
    summary = run_demo(folder, options, say=click.echo)
    click.echo(summary["verdict"])
    click.echo(f"report: {(folder / 'report' / 'index.html').resolve()}")

"""The ``butler`` subcommands; each calls one function of `skymill.store`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
from lsst.daf.butler.cli.utils import ButlerCommand

from skymill.data.errors import SkymillError

__all__ = ["COMMANDS"]

_TRANSFERS = ("auto", "direct", "copy", "symlink", "link", "hardlink", "relsymlink", "move")


def _plain_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Our own errors become one sentence and exit code 1, without a traceback."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except SkymillError as err:
            raise click.ClickException(str(err)) from err

    return call


def _check_decam(instrument: str | None) -> None:
    known = ("DECam", "DarkEnergyCamera", "skymill.instruments.decam.DarkEnergyCamera")
    if instrument is not None and instrument not in known:
        raise click.ClickException(f"there is no instrument {instrument!r}; known: {known[0]}")


def _finish(problems: list[str]) -> None:
    if not problems:
        return
    for problem in problems[5:]:
        click.echo(f"Error: {problem}", err=True)
    shown = "\n".join(f"  {problem}" for problem in problems[:5])
    raise click.ClickException(
        f"{len(problems)} files were refused; all others are in the repository:\n{shown}"
    )


@click.command("ingest-raws", short_help="Ingest raw frames.", cls=ButlerCommand)
@click.argument("repo")
@click.argument("locations", nargs=-1, required=True)
@click.option(
    "-t", "--transfer", type=click.Choice(_TRANSFERS), default="direct", show_default=True,
    help="What happens to the files; direct leaves them where they are.",
)  # fmt: skip
@click.option("--output-run", default="DECam/raw/all", show_default=True, help="RUN collection.")
@click.option("-j", "--processes", default=1, show_default=True, help="Processes to read headers.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first bad file.")
@_plain_errors
def ingest_raws(
    repo: str,
    locations: tuple[str, ...],
    transfer: str,
    output_run: str,
    processes: int,
    fail_fast: bool,
) -> None:
    """Ingest raw frames (.fits, .fits.fz; files or folders) into a repository.

    REPO is the repository, LOCATIONS are files and folders. Files that are in the repository
    already are passed over.
    """
    from skymill.store.raws import ingest_raws as call

    report = call(
        repo, locations, transfer=transfer, run=output_run, processes=processes,
        fail_fast=fail_fast,
    )  # fmt: skip
    click.echo(str(report))
    _finish(report.problems)


@click.command("define-visits", short_help="Define visits from exposures.", cls=ButlerCommand)
@click.argument("repo")
@click.argument("instrument", required=False)
@click.option(
    "--collections", default="DECam/raw/all", show_default=True, help="Where the raw frames are."
)
@click.option("-j", "--processes", default=1, show_default=True, help="Processes to read headers.")
@click.option(
    "--padding", default=250.0, show_default=True,
    help="How much larger each CCD's region is made on each side [pixel].",
)  # fmt: skip
@_plain_errors
def define_visits(
    repo: str, instrument: str | None, collections: str, processes: int, padding: float
) -> None:
    """Define one visit for each exposure on the sky, with the region of each CCD.

    REPO is the repository, INSTRUMENT its name (DECam).
    """
    from skymill.store.visits import define_visits as call

    _check_decam(instrument)
    report = call(repo, collections.split(","), processes=processes, padding=padding)
    click.echo(str(report))
    _finish(report.problems)


@click.command(
    "write-curated-calibrations", short_help="Write the camera's curated calibrations.",
    cls=ButlerCommand,
)  # fmt: skip
@click.argument("repo")
@click.argument("instrument", required=False)
@click.option("--collection", hidden=True, default=None, help="For compatibility; not used.")
@click.option("--label", multiple=True, hidden=True, help="For compatibility; not used.")
@_plain_errors
def write_curated_calibrations(
    repo: str, instrument: str | None, collection: str | None, label: tuple[str, ...]
) -> None:
    """Write camera, crosstalk, linearity, defects by epoch and photon-transfer numbers.

    REPO is the repository, INSTRUMENT its name or class (DECam).
    """
    from skymill.store.curated import write_curated_calibrations as call

    _check_decam(instrument)
    written = call(repo)
    click.echo(
        f"{written} curated calibrations written to DECam/calib"
        if written
        else "the curated calibrations were there already"
    )


@click.command("register-skymap", short_help="Register a sky map.", cls=ButlerCommand)
@click.argument("repo")
@click.option("--name", default=None, help="Name of the map.")
@click.option("--ra", type=float, default=None, help="Centre, right ascension [deg].")
@click.option("--dec", type=float, default=None, help="Centre, declination [deg].")
@click.option("--radius", type=float, default=None, help="Radius that the map covers [deg].")
@click.option("--bricks", is_flag=True, help="Use the Legacy Surveys' 0.25 degree bricks.")
@click.option("--patch-inner", type=int, default=None, help="Inner width of a patch [pixel].")
@click.option("--patch-border", type=int, default=None, help="Border of a patch [pixel].")
@click.option("--pixel-scale", type=float, default=None, help="Width of a pixel [arcsec].")
@click.option("--tract-overlap", type=float, default=None, help="Added to the radius [deg].")
@click.option("-c", "--config", multiple=True, help="Setting as NAME=VALUE, as in Rubin's command.")
@click.option("-C", "--config-file", multiple=True, help="File of such settings.")
@_plain_errors
def register_skymap(
    repo: str, config: tuple[str, ...], config_file: tuple[str, ...], **words: Any
) -> None:
    """Register a sky map: one tract around a position, or the Legacy Surveys' bricks.

    REPO is the repository. Give --name, --ra, --dec and --radius, or the settings of Rubin's
    register-skymap with -c and -C (name, skyMap.name, skyMap['discrete'].raList ...).
    """
    from skymill.store.skymap_config import make_sky_map
    from skymill.store.skymaps import register_sky_map as call

    sky_map = make_sky_map(settings=config, files=config_file, **words)
    fresh = call(repo, sky_map)
    patches = sum(t.n_x * t.n_y for t in sky_map.tracts)
    click.echo(
        f"sky map {sky_map.name}: {len(sky_map.tracts)} tracts, {patches} patches "
        f"{'registered' if fresh else 'were there already'}"
    )


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    out = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise click.ClickException(f"--column takes COLUMN=NAME; got {word!r}")
        out[key] = value
    return out


@click.command("ingest-refcat", short_help="Ingest a reference catalogue.", cls=ButlerCommand)
@click.argument("repo")
@click.argument("name")
@click.argument("locations", nargs=-1, required=True)
@click.option(
    "--columns", "catalogue", default=None, help="Column map: refcat, gaia, ps1, sm_dr4, sdss."
)
@click.option("--column", multiple=True, help="COLUMN=NAME where the map does not know a name.")
@click.option("--bands", default=None, help="Take these bands only; they must be there: g,r,i.")
@click.option("--require", default=None, help="Ingest nothing without the fluxes of these bands.")
@click.option("--epoch", type=float, default=None, help="Epoch of the positions [MJD TAI].")
@click.option("--output-run", default="refcats", show_default=True, help="RUN collection.")
@_plain_errors
def ingest_refcat(
    repo: str,
    name: str,
    locations: tuple[str, ...],
    catalogue: str | None,
    column: tuple[str, ...],
    bands: str | None,
    require: str | None,
    epoch: float | None,
    output_run: str,
) -> None:
    """Ingest a reference catalogue (FITS, parquet, CSV, ECSV), sharded by htm7.

    REPO is the repository, NAME the dataset type (gaia, ps1, sm_dr4, sdss, ...), LOCATIONS are
    files and folders. Rows that are there already are passed over.
    """
    from skymill.store.refcats import ingest_refcat as call

    report = call(
        repo, name, locations, catalogue=catalogue, columns=_pairs(column),
        bands=None if bands is None else bands.split(","), epoch=epoch, run=output_run,
        require=() if require is None else require.split(","),
    )  # fmt: skip
    click.echo(f"{name}: {report}")


@click.command(
    "import-calibrations", short_help="Import calibrations shared by many repositories.",
    cls=ButlerCommand,
)  # fmt: skip
@click.argument("repo")
@click.argument("folder")
@click.option(
    "-t", "--transfer", type=click.Choice([t for t in _TRANSFERS if t != "move"]),
    default="direct", show_default=True, help="What happens to the files.",
)  # fmt: skip
@_plain_errors
def import_calibrations(repo: str, folder: str, transfer: str) -> None:
    """Import an export of calibrations; what is there already is passed over.

    REPO is the repository, FOLDER what 'butler export-calibs' wrote. The calibration collections
    are put into the chain DECam/calib.
    """
    from skymill.store.shared_calibrations import import_calibrations as call

    new = call(repo, folder, transfer=transfer)
    click.echo(f"{new} calibrations imported" if new else "the calibrations were there already")


#: What the entry point offers.
COMMANDS: list[click.Command] = [
    ingest_raws,
    define_visits,
    write_curated_calibrations,
    register_skymap,
    ingest_refcat,
    import_calibrations,
]

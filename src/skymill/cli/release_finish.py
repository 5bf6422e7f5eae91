"""Verbs of ``skymill release`` after the bricks: from catalogues to a published release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from skymill.release.finish.checksums import ChecksumReport
    from skymill.release.finish.folder import Problem

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_SHOWN = 20


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the verbs that go over all bricks."""
    bricks = click.option("--bricks", type=_FILE, help="List of the bricks that must be there.")
    workers = click.option(
        "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes."
    )
    return bricks(workers(function))


def _names(path: Path | None) -> list[str] | None:
    from skymill.release.finish.folder import read_names

    if path is None:
        return None
    if not path.is_file():
        raise click.ClickException(f"there is no list of bricks {path}")
    return read_names(path)


def _tell(problems: Sequence[Problem] | Sequence[str], what: str = "problems") -> int:
    """Print what is wrong; the exit code."""
    for problem in problems[:_SHOWN]:
        click.echo(f"skymill: {problem}", err=True)
    if len(problems) > _SHOWN:
        click.echo(f"skymill: and {len(problems) - _SHOWN} more {what}", err=True)
    return 1 if problems else 0


def _tell_absent(absent: Iterable[str]) -> None:
    names = sorted(absent)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        click.echo(
            f"{len(names)} columns are zero where catalogues lack them ({', '.join(names[:3])}"
            f"{more}); the header (HISTORY) has all"
        )


@click.command("neighbours")
@click.argument("release", type=_FOLDER)
@click.option(
    "--backup", type=_FOLDER, help="Originals of masks and catalogues (default: RELEASE/backup)."
)
@click.option(
    "--brick", multiple=True, help="Only this brick, as a task of a queue; may be repeated."
)
@_options
def neighbours(
    release: Path, backup: Path | None, brick: tuple[str, ...], bricks: Path | None, workers: int
) -> int:
    """Set BRIGHT in blobs that reach into a bright star's mask of a neighbouring brick.

    The originals of masks and catalogues are kept first; repeating the verb changes nothing.
    """
    from skymill.release.finish.folder import ReleaseFolder
    from skymill.release.finish.neighbours import mark_neighbours

    chosen = list(brick) or _names(bricks)
    place = backup if backup is not None else release / "backup"
    results, problems = mark_neighbours(
        ReleaseFolder(release), place, bricks=chosen, workers=workers
    )
    for result in results:
        if result.n_blobs:
            click.echo(
                f"{result.brick}: {result.n_blobs} blobs, {result.n_pixels} pixels, "
                f"{result.n_objects} objects newly BRIGHT"
            )
    touched = sum(r.n_blobs > 0 for r in results)
    click.echo(f"{len(results)} bricks examined, {touched} changed; originals in {place}")
    return _tell(problems)


@click.command("depth-histogram")
@click.argument("release", type=_FOLDER)
@click.option("--name", default="survey", show_default=True, help="Begin of the files' names.")
@click.option("-o", "--out", type=_FOLDER, help="Folder of the files (default: RELEASE/depth).")
@click.option("--plot", is_flag=True, help="Draw it, too.")
@_options
def depth_histogram(
    release: Path, name: str, out: Path | None, plot: bool, bricks: Path | None, workers: int
) -> int:
    """Sum the histograms of depth of all bricks."""
    from skymill.release.finish.depth import depth_histogram as make
    from skymill.release.finish.folder import ReleaseFolder

    place = out if out is not None else release / "depth"
    report = make(
        ReleaseFolder(release), place, release=name, bricks=_names(bricks), workers=workers
    )
    click.echo(f"{report.n_bricks} bricks in {place / f'{name}-depth-summary.fits.gz'}")
    for column, number in sorted(report.absent.items()):
        click.echo(f"{column} is absent in {number} bricks")
    if plot:
        from skymill.qa.release_figures import draw_depth_histogram

        target = place / f"{name}-depth.png"
        target.write_bytes(draw_depth_histogram(report.low, report.high, report.counts))  # type: ignore[arg-type]
        click.echo(str(target))
    return _tell(report.problems)


@click.command("brick-summary")
@click.argument("source", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--out", type=_FILE, help="Table to write (.fits or .fits.gz).")
@click.option(
    "--prefix", default="", help="Only bricks whose names begin so, such as 180: a task of a queue."
)
@click.option("--merge", is_flag=True, help="SOURCE are tables of parts: make one of them.")
@click.option("--plot", is_flag=True, help="Draw the table; SOURCE may be a merged table.")
@click.option(
    "--survey-primary",
    type=click.Choice(["all", "south", "north"]),
    default="all",
    show_default=True,
    help="Bricks that count in a release of two halves.",
)
@_options
def brick_summary(
    source: tuple[Path, ...], out: Path | None, prefix: str, merge: bool, plot: bool,
    survey_primary: str, bricks: Path | None, workers: int,
) -> int:  # fmt: skip
    """One row a brick: exposures, depths, seeing, numbers of objects.

    SOURCE is the folder of the release. Without --prefix the table is complete, with the edges and
    areas of the bricks; tables of parts get them with --merge.
    """
    from skymill.release.finish.folder import ReleaseFolder
    from skymill.release.finish.summary import (
        SummaryReport,
        merge_summaries,
        summarise_bricks,
        write_summary,
    )

    problems: list[Problem] = []
    if merge or all(p.is_file() for p in source):
        report = merge_summaries(source, survey_primary=survey_primary)
        problems += report.problems
    elif len(source) > 1:
        raise click.UsageError("give one folder of a release, or tables with --merge")
    else:
        report = summarise_bricks(
            ReleaseFolder(source[0]), prefix=prefix, bricks=_names(bricks), workers=workers
        )
        problems += report.problems
        if not prefix and len(report.table):
            report = _complete(report, survey_primary)
    assert isinstance(report, SummaryReport)
    if out is None and not plot:
        raise click.UsageError("give the table to write with -o, or --plot")
    if out is not None:
        write_summary(report.table, out)
        click.echo(f"{len(report.table)} bricks in {out}")
    if plot and len(report.table):
        _plot(report.table, out if out is not None else source[0])
    return _tell(problems)


def _complete(report: Any, survey_primary: str) -> Any:
    """Add what `merge_summaries` adds."""
    import tempfile

    from skymill.release.finish.summary import merge_summaries, write_summary

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.fits"
        write_summary(report.table, part)
        return merge_summaries([part], survey_primary=survey_primary)


def _plot(table: Any, beside: Path) -> None:
    from skymill.data.errors import NoDataError
    from skymill.qa.release_figures import draw_brick_histograms, draw_brick_map

    folder = beside if beside.is_dir() else beside.parent
    stem = beside.name.partition(".fits")[0]
    for kind in ("nexp", "psfdepth", "galdepth", "psfsize"):
        try:
            picture = draw_brick_map(table, kind)
        except NoDataError:
            continue
        (folder / f"{stem}-{kind}.png").write_bytes(picture)
        click.echo(str(folder / f"{stem}-{kind}.png"))
    (folder / f"{stem}-histograms.png").write_bytes(draw_brick_histograms(table))
    click.echo(str(folder / f"{stem}-histograms.png"))


@click.command("sweeps")
@click.argument("release", type=_FOLDER)
@click.option(
    "-o",
    "--out",
    type=_FOLDER,
    help="Folder of the sweeps (default: RELEASE/sweep/N.0 with --number N, else RELEASE/sweep).",
)
@click.option("--number", type=int, help="Number of the release.")
@_options
def sweeps(
    release: Path, out: Path | None, number: int | None, bricks: Path | None, workers: int
) -> int:
    """Gather the primary objects of all bricks in boxes of 10 by 5 degrees."""
    from skymill.release.finish.folder import ReleaseFolder
    from skymill.release.finish.sweeps import write_sweeps

    place = out if out is not None else release / "sweep" / (f"{number}.0" if number else "")
    report = write_sweeps(
        ReleaseFolder(release), place, bricks=_names(bricks), workers=workers,
        on_file=lambda name, rows: click.echo(f"{name}: {rows} objects"),
    )  # fmt: skip
    click.echo(f"{sum(report.rows.values())} objects in {len(report.rows)} sweeps in {place}")
    _tell_absent(report.absent)
    return _tell(report.problems)


@click.command("match-external")
@click.argument("external", type=_FILE)
@click.argument("release", type=_FOLDER)
@click.argument("out", type=_FILE)
@click.option(
    "--copycols",
    "--copy-columns",
    "copy",
    multiple=True,
    metavar="NAMES",
    help='Columns of EXTERNAL to append, such as "MJD PLATE FIBERID"; may be repeated.',
)
@click.option("--radius", default=1.5, show_default=True, help="Largest distance [arcsec].")
@_options
def match_external(
    external: Path,
    release: Path,
    out: Path,
    copy: tuple[str, ...],
    radius: float,
    bricks: Path | None,
    workers: int,
) -> int:
    """Write OUT: for each row of the catalogue EXTERNAL the nearest primary object, or OBJID -1."""
    from skymill.release.finish.external import match_external as match
    from skymill.release.finish.folder import ReleaseFolder

    names = [n for text in copy for n in text.replace(",", " ").split()]
    report = match(
        ReleaseFolder(release), external, out, copy_columns=names, radius_arcsec=radius,
        bricks=_names(bricks), workers=workers,
    )  # fmt: skip
    click.echo(f"{report.n_matched} of {report.n_external} rows of {external.name} matched: {out}")
    if report.n_shared:
        click.echo(f"{report.n_shared} objects are the partner of more than one row")
    _tell_absent(report.absent)
    return _tell(report.problems)


@click.command("tar-logs")
@click.argument("release", type=_FOLDER)
@click.option(
    "--logs",
    type=_FOLDER,
    multiple=True,
    help="Folders of logs, such as of two machines: those of a brick are joined "
    "(default: RELEASE/logs).",
)
@click.option("-o", "--out", type=_FOLDER, help="Folder of the tar-balls (default: RELEASE/logs).")
@click.option("--remove", is_flag=True, help="Remove logs once their tar-ball has been verified.")
def tar_logs(release: Path, logs: tuple[Path, ...], out: Path | None, remove: bool) -> int:
    """Pack the logs of the bricks, a tar-ball for each folder BRI."""
    from skymill.release.finish.logs import tar_logs as pack

    place = out if out is not None else release / "logs"
    report = pack(logs or (release / "logs",), place, remove=remove)
    for name, number in report.archives.items():
        click.echo(f"{place / name}: {number} logs")
    if report.joined:
        click.echo(f"joined from several folders: {', '.join(sorted(report.joined))}")
    if not report.archives and not report.problems:
        click.echo("there are no logs to pack")
    return _tell(report.problems)


@click.command("check")
@click.argument("release", type=_FOLDER)
@click.option("-o", "--out", type=_FILE, help="Table of the results to write (.ecsv).")
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Bricks must have their pictures.",
)
@_options
def check(
    release: Path, out: Path | None, pictures: bool, bricks: Path | None, workers: int
) -> int:
    """Check each brick: files, images, rows, columns, bits, checksums.

    Exit code 1 if anything is wrong.
    """
    from skymill.release.finish.folder import Problem, ReleaseFolder
    from skymill.release.finish.quality import check_release

    report = check_release(
        ReleaseFolder(release), bricks=_names(bricks), pictures=pictures, workers=workers
    )
    if out is not None:
        report.table().write(out, format="ascii.ecsv", overwrite=True)
    good = sum(not b.faults for b in report.bricks)
    objects = sum(b.n_primary for b in report.bricks)
    files = sum(b.n_files for b in report.bricks)
    click.echo(
        f"{good} of {len(report.bricks)} bricks without fault, {files} files, "
        f"{objects} primary objects"
    )
    given_up = [b for b in report.bricks if b.n_bailout]
    if given_up:
        click.echo(f"{len(given_up)} bricks have objects that were given up (BAILOUT)")
    faults = [Problem(b.brick, f) for b in report.bricks for f in b.faults]
    return _tell([*report.problems, *faults], "faults")


@click.command("checksums")
@click.argument("release", type=_FOLDER)
@click.option("--name", help="Word of the release in the names of the lists, such as dr9: write.")
@click.option("--verify", is_flag=True, help="Compare every file with the lists of both formats.")
@click.option("--list", "lists", type=_FILE, multiple=True, help="With --verify: only this list.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1))
def checksums(
    release: Path, name: str | None, verify: bool, lists: tuple[Path, ...], workers: int
) -> int:
    """SHA-256 sums: verify the bricks' own lists and write one in each folder, or verify all.

    Exit code 1 if a file has changed, is missing or stands in no list.
    """
    from skymill.release.finish.checksums import verify_checksums, write_checksums
    from skymill.release.finish.folder import ReleaseFolder

    if (name is None) == (not verify):
        raise click.UsageError("give --name WORD to write the lists, or --verify")
    folder = ReleaseFolder(release)
    if name is not None:
        report = write_checksums(folder, release=name, workers=workers)
        click.echo(f"{report.n_files} files in {report.n_lists} lists")
    else:
        report = verify_checksums(folder, paths=lists, workers=workers)
        click.echo(f"{report.n_files} files are as their {report.n_lists} lists say")
    return _tell_sums(report)


def _tell_sums(report: ChecksumReport) -> int:
    texts = [f"{n} differs from its checksum" for n in report.changed]
    texts += [f"{n} is missing" for n in report.missing]
    texts += [f"{n} stands in no list of checksums" for n in report.unlisted]
    texts += [str(p) for p in report.problems]
    return _tell(texts)


@click.command("gallery")
@click.argument("release", type=_FOLDER)
@click.option("-o", "--out", type=_FOLDER, help="Folder of the gallery (default: RELEASE/gallery).")
@click.option("--title", default="Gallery", show_default=True)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1))
def gallery(release: Path, out: Path | None, title: str, workers: int) -> int:
    """Make a picture gallery of the bricks: image, model, residual."""
    from skymill.release.finish.folder import ReleaseFolder
    from skymill.release.finish.gallery import write_gallery

    place = out if out is not None else release / "gallery"
    report = write_gallery(ReleaseFolder(release), place, title=title, workers=workers)
    click.echo(f"{report.n_bricks} bricks in {report.index}")
    return _tell(report.problems)


@click.command("publish")
@click.argument("release", type=_FOLDER)
@click.argument("target", type=_FOLDER)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1))
def publish(release: Path, target: Path, workers: int) -> int:
    """Copy RELEASE to its final place TARGET and verify every byte there; resumable."""
    from skymill.release.finish.folder import ReleaseFolder
    from skymill.release.finish.publish import publish as copy

    report = copy(ReleaseFolder(release), target, workers=workers)
    click.echo(
        f"{report.n_copied} files copied and {report.n_present} there already, all verified "
        f"({report.n_bytes / 1e6:.1f} MB): {target}"
    )
    if report.extra:
        click.echo(
            f"{len(report.extra)} files of {target} are not in the release, such as "
            f"{report.extra[0]}"
        )
    return _tell(report.problems)

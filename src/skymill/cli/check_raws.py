"""``skymill check-raws``: open every extension of raw files, list and move the corrupt ones."""

from __future__ import annotations

import functools
import json
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

__all__ = ["check_directory", "check_raws", "find_problem"]

_DAMAGE = ("truncated", "checksum", "datasum", "error validating")
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz")


def _find_damage(heard: list[warnings.WarningMessage]) -> str:
    """Astropy only warns of truncation and of wrong checksums; here they are the finding."""
    for warning in heard:
        text = " ".join(str(warning.message).split())
        if any(word in text.lower() for word in _DAMAGE):
            return text[:200]
    return ""


def find_problem(path: str | Path) -> str:
    """What is wrong with a raw file.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed.

    Returns
    -------
    str
        One sentence; empty if every extension can be read to its last pixel and every checksum
        that the file carries is right.
    """
    path = Path(path)
    state = path.stat()
    if state.st_size == 0:
        return "the file is empty"
    return _read_all(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _read_all(path: Path, _size: int, _mtime_ns: int) -> str:
    """What is wrong; the same file is read once, though two steps of a campaign ask for it."""
    from astropy.io import fits

    n_images = 0
    heard: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard, path.open("rb") as stream:
            warnings.simplefilter("always")
            with fits.open(stream, memmap=False, checksum=True) as hdus:
                announced = hdus[0].header.get("NEXTEND")
                for hdu in hdus:
                    if hdu.is_image and hdu.header.get("NAXIS", 0) > 0:
                        if hdu.data is None or hdu.data.size == 0:
                            return f"extension {hdu.name or hdu.ver} has no pixels"
                        n_images += 1
                n_extensions = len(hdus) - 1
    except Exception as err:
        # A decompressor may raise anything on garbage; the file is corrupt all the same.
        words = f"cannot be read: {type(err).__name__}: {' '.join(str(err).split())[:200]}"
        return _find_damage(heard) or words
    damage = _find_damage(heard)
    if damage:
        return damage
    if isinstance(announced, int) and n_extensions < announced:
        return f"{n_extensions} of {announced} extensions (NEXTEND) are there"
    return "" if n_images else "no extension has an image"


def check_directory(directory: Path, *, processes: int = 1) -> dict[Path, str]:
    """Check all raw files of a folder and its subfolders.

    Parameters
    ----------
    directory : Path
        Folder; ``corrupt_raws`` below it is left out.
    processes : int
        Size of the one process pool.

    Returns
    -------
    dict of Path to str
        Each file with what is wrong with it; empty if nothing.

    Raises
    ------
    MissingInputError
        If there is no FITS file.
    """
    from skymill.data.errors import MissingInputError

    files = sorted(
        p
        for p in directory.rglob("*")
        if p.is_file() and p.name.endswith(_SUFFIXES) and "corrupt_raws" not in p.parts
    )
    if not files:
        raise MissingInputError(
            f"{directory} has no raw file ({', '.join(_SUFFIXES)}); is it the right folder?"
        )
    if processes <= 1 or len(files) == 1:
        return {p: find_problem(p) for p in files}
    with ProcessPoolExecutor(min(processes, len(files))) as pool:
        return dict(zip(files, pool.map(find_problem, files), strict=True))


@click.command("check-raws")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--move", is_flag=True, help="Move corrupt files to DIRECTORY/corrupt_raws.")
@click.option("-j", "--processes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--table", type=click.Path(dir_okay=False, path_type=Path), help="Write the table (ECSV)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a corrupt file was not moved.")
def check_raws(
    directory: Path, move: bool, processes: int, table: Path | None, as_json: bool, strict: bool
) -> None:
    """Open every extension of the raw files below DIRECTORY and say which are corrupt."""
    found = check_directory(directory, processes=processes)
    corrupt = {p: text for p, text in found.items() if text}
    moved: dict[Path, Path] = {}
    if move:
        for path in corrupt:
            target = directory / "corrupt_raws" / path.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            moved[path] = path.rename(target)
    if table is not None:
        _write_table(table, found, moved)
    if as_json:
        click.echo(json.dumps({str(p): text for p, text in found.items()}, indent=1))
    else:
        for path, text in corrupt.items():
            where = f"  -> {moved[path]}" if path in moved else ""
            click.echo(f"{path}: {text}{where}")
        click.echo(f"{len(found)} raw files, {len(corrupt)} corrupt, {len(moved)} moved")
    if strict and corrupt and not move:
        raise click.exceptions.Exit(1)


def _write_table(path: Path, found: dict[Path, str], moved: dict[Path, Path]) -> None:
    from astropy.table import Table

    rows = Table(
        {
            "path": [str(p) for p in found],
            "size": [moved.get(p, p).stat().st_size for p in found],
            "ok": [not text for text in found.values()],
            "problem": list(found.values()),
            "moved_to": [str(moved.get(p, "")) for p in found],
        }
    )
    rows.write(path, format="ascii.ecsv", overwrite=True)

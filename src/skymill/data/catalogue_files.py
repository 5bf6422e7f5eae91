"""Catalogues of any origin on disk: FITS, parquet, ECSV, CSV, VOTable, text, by the suffix."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError, SkymillError
from skymill.data.files import atomic_path

__all__ = ["find_column", "open_images", "read_catalogue", "write_bytes", "write_catalogue"]

_FITS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz")
_PARQUET = (".parquet", ".parq", ".pq")
_VOTABLE = (".vot", ".votable", ".xml")
_TEXT = (".cat", ".txt", ".dat")
#: How names of right ascensions begin.
_POSITIONS = ("ra", "alpha")
_KINDS = "FITS (.fits, .fits.gz), parquet (.parquet), ECSV (.ecsv) or CSV (.csv)"
#: What can be read too.
_READ = "; or VOTable (.vot, .xml), or columns of text under a line of names (.cat, .txt, .dat)"


def _kind(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_FITS):
        return "fits"
    if name.endswith(_PARQUET):
        return "parquet"
    if name.endswith(".ecsv"):
        return "ecsv"
    if name.endswith((".csv", ".csv.gz")):
        return "csv"
    raise DataError(f"{path}: the suffix must be that of {_KINDS}")


def _kind_read(path: Path) -> str:
    name = path.name.lower()
    if name.endswith(_VOTABLE):
        return "votable"
    if name.endswith(_TEXT):
        return "text"
    try:
        return _kind(path)
    except DataError as err:
        raise DataError(f"{err}{_READ}") from err


def read_catalogue(path: str | os.PathLike[str]) -> Table:
    """Read a table.

    Parameters
    ----------
    path : path
        A FITS, parquet, ECSV, CSV, VOTable or text file; of a FITS file the first table. Text has
        the names of its columns in one line (a comment or not), or one by one as SExtractor writes
        them.

    Returns
    -------
    astropy.table.Table
        The table, in memory.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it cannot be read as a table.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"there is no file {path}")
    kind = _kind_read(path)
    try:
        if kind == "fits":
            return _read_fits(path)
        if kind == "parquet":
            return _read_parquet(path)
        if kind == "votable":
            return Table.read(path, format="votable")
        if kind == "text":
            return _read_text(path)
        return Table.read(path, format=f"ascii.{kind}")
    except SkymillError:
        raise
    except Exception as err:
        # Readers raise a dozen classes for a damaged file; the user needs its name and the reason.
        raise DataError(f"{path} cannot be read as {kind}: {err}") from err


def _read_text(path: Path) -> Table:
    """Columns of text under a line of names; other comments beside the rows are passed over."""
    with path.open(encoding="utf-8") as file:
        head = [line.strip() for line in itertools.islice(file, 500) if line.strip()]
    comments = [line[1:].split() for line in head if line.startswith("#")]
    first = next((line for line in head if not line.startswith("#")), "")
    if comments and comments[0][:1] == ["1"]:
        return Table.read(path, format="ascii.sextractor")
    if not any(_is_number(word) for word in re.split(r"[\s,;|]+", first)):
        return Table.read(path, format="ascii.basic")
    # Names in a comment: as many as the values of a row, with a position if several lines are so.
    fitting = [words for words in comments if len(words) == len(first.split())]
    if not fitting:
        raise DataError(f"{path} has no line with the names of its columns")
    fitting.sort(key=lambda words: not any(w.lower().startswith(_POSITIONS) for w in words))
    return Table.read(path, format="ascii.no_header", names=fitting[0])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_fits(path: Path) -> Table:
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(
                hdu, fits.CompImageHDU
            ):
                return Table(
                    {
                        name: np.asarray(hdu.data[name]).astype(
                            hdu.data[name].dtype.newbyteorder("="), copy=False
                        )
                        for name in hdu.columns.names
                    }
                )
    raise DataError(f"{path} has no table extension")


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pq.read_table(path)
    out = Table()
    for name in arrow.column_names:
        column = arrow[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            flat = column.flatten().to_numpy(zero_copy_only=False)
            out[name] = flat.reshape(len(column), column.type.list_size)
        else:
            out[name] = column.to_numpy(zero_copy_only=False)
    meta = arrow.schema.metadata or {}
    out.meta.update({k.decode(): v.decode() for k, v in meta.items() if k.startswith(b"skymill.")})
    return out


def open_images(path: str | os.PathLike[str]) -> fits.HDUList:
    """Open a FITS file of images.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    astropy.io.fits.HDUList
        Open; a context manager.

    Raises
    ------
    MissingInputError
        If there is no such file.
    DataError
        If it is not FITS.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"there is no file {path}")
    try:
        return fits.open(path, memmap=False)
    except OSError as err:
        raise DataError(f"{path} cannot be read as FITS: {err}") from err


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the target and rename, so that nobody meets half of a file."""
    if not path.parent.is_dir():
        raise MissingInputError(f"the folder {path.parent} does not exist; make it first")
    try:
        with atomic_path(path) as draft:
            write(draft)
    except OSError as err:
        raise DataError(f"{path} cannot be written: {err.strerror or err}") from err


def write_catalogue(table: Table, path: str | os.PathLike[str]) -> None:
    """Write a table; the suffix says how. Nothing is left behind if it fails.

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    path : path
        Where to; an existing file is replaced.

    Raises
    ------
    DataError
        If the suffix is unknown or the disk refuses.
    """
    path = Path(path)
    kind = _kind(path)
    formats = {"fits": "fits", "parquet": "parquet", "ecsv": "ascii.ecsv", "csv": "ascii.csv"}
    _replace(path, lambda part: table.write(part, format=formats[kind], overwrite=True))


def write_bytes(content: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file as a whole or not at all.

    Parameters
    ----------
    content : bytes
        What to write.
    path : path
        Where to; an existing file is replaced.
    """
    _replace(Path(path), lambda part: _write(part, content))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def find_column(
    table: Table, names: Sequence[str], *, meaning: str, option: str
) -> NDArray[np.float64]:
    """A numeric column by the first of several names that exists (then ignoring case).

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    names : sequence of str
        Names to try.
    meaning : str
        What the column is, for the message.
    option : str
        The option that names the column, for the message.

    Returns
    -------
    (n,) float64
        Values; masked ones are NaN.

    Raises
    ------
    DataError
        If there is none, or it is not numeric.
    """
    lower = {c.lower(): c for c in reversed(table.colnames)}
    found = next((n for n in names if n in table.colnames), None) or next(
        (lower[n.lower()] for n in names if n.lower() in lower), None
    )
    if found is None:
        shown = ", ".join(table.colnames[:30]) + (" ..." if len(table.colnames) > 30 else "")
        raise DataError(
            f"the catalogue has no column {' or '.join(repr(n) for n in names)} for the {meaning}; "
            f"it has {shown}; name it with {option}"
        )
    column = table[found]
    if column.dtype.kind not in "fiub":
        raise DataError(f"column {found!r} ({meaning}) is not numeric but {column.dtype}")
    values = np.ma.asarray(column).astype(np.float64)
    return np.asarray(np.ma.filled(values, np.nan))

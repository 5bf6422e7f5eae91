"""A FITS table that is written part by part: a sweep is larger than the memory of a process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

import skymill
from skymill.data.files import atomic_path
from skymill.release.finish.columns import OutputColumn, table_header

__all__ = ["TableFile", "open_table"]

_BLOCK = 2880
_CHUNK = 50_000


class TableFile:
    """A file with one table to which rows are appended.

    Parameters
    ----------
    stream : binary file
        Open for writing, at its begin.
    columns : sequence of OutputColumn
        Columns of the table.
    primary : astropy.io.fits.Header
        Cards of the primary header.
    name : str
        Name of the extension.
    """

    def __init__(
        self, stream: BinaryIO, columns: Sequence[OutputColumn], primary: fits.Header, name: str
    ) -> None:
        self._stream, self._columns = stream, list(columns)
        self.n_rows = 0
        head = fits.PrimaryHDU(header=primary)
        stream.write(head.header.tostring().encode())
        self._place = stream.tell()
        self._header = table_header(self._columns, name=name)
        self._dtype = np.dtype([_field(c) for c in self._columns])
        assert self._dtype.itemsize == self._header["NAXIS1"]
        stream.write(self._header.tostring().encode())

    def append(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Write rows.

        Parameters
        ----------
        values : mapping of str to array
            All columns, of one length.
        """
        number = len(values[self._columns[0].name])
        for start in range(0, number, _CHUNK):
            part = slice(start, min(start + _CHUNK, number))
            rows = np.zeros(part.stop - part.start, self._dtype)
            for column in self._columns:
                own = values[column.name][part]
                rows[column.name] = np.where(own, b"T", b"F") if own.dtype == bool else own
            self._stream.write(rows.tobytes())
        self.n_rows += number

    def finish(self) -> None:
        """Fill the last block, and put the number of rows into the header."""
        rest = -(self.n_rows * self._dtype.itemsize) % _BLOCK
        self._stream.write(b"\0" * rest)
        self._header["NAXIS2"] = self.n_rows
        self._stream.seek(self._place)
        self._stream.write(self._header.tostring().encode())


def _field(column: OutputColumn) -> tuple[str, Any, tuple[int, ...]]:
    base = column.numpy.base
    code = "S1" if base == np.dtype(bool) else base.newbyteorder(">").str
    return column.name, code, column.numpy.shape


@contextmanager
def open_table(
    path: Path,
    columns: Sequence[OutputColumn],
    *,
    name: str,
    cards: fits.Header,
    absent: Iterable[str] = (),
) -> Iterator[TableFile]:
    """A FITS table to be filled; it appears when all is written.

    Parameters
    ----------
    path : Path
        The file.
    columns : sequence of OutputColumn
        Its columns.
    name : str
        Name of the extension.
    cards : astropy.io.fits.Header
        More cards of the primary header.
    absent : iterable of str
        Columns that are zero for some or all rows, noted in the header.

    Yields
    ------
    TableFile
        Append rows to it.
    """
    primary = fits.Header()
    primary["SKYMILL"] = (skymill.__version__, "version of skymill")
    primary.extend(cards)
    for text in absent:
        primary["HISTORY"] = f"{text} is zero where a brick's catalogue lacks it"
    with atomic_path(path) as draft, draft.open("wb") as stream:
        table = TableFile(stream, columns, primary, name)
        yield table
        table.finish()

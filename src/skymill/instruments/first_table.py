"""The first table of a FITS file, for files of calibrations that hold nothing else.

A brick reads two small tables of each exposure; interpreting every card of their headers takes ten
times as long as reading them.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from skymill.data.errors import DataError

__all__ = ["COLUMN_TYPES", "read_first_table"]

_BLOCK, _CARD = 2880, 80
#: Numbers of the columns of tables: letter of the format to type of numpy.
COLUMN_TYPES = {
    "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8",
}  # fmt: skip


class _OtherKindError(Exception):
    """The file is correct, but holds what astropy knows better."""


def read_first_table(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Rows and header of the table in the first extension.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    rows : (n,) structured array
        The table; words are bytes or str.
    header : dict
        Values by keyword.

    Raises
    ------
    DataError
        If the file is truncated or holds no such table.
    """
    try:
        content = path.read_bytes()
        try:
            return _table(content)
        except _OtherKindError:
            return _by_astropy(path)
    except (OSError, IndexError, ValueError, TypeError, KeyError) as err:
        raise DataError(f"{path} is truncated or no FITS table ({err})") from err


def _by_astropy(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(path, memmap=False) as hdus:
            header = dict(hdus[1].header)
            rows = hdus[1].data
            names = rows.dtype.names
            out = np.empty(len(rows), [(n, rows[n].dtype, rows[n].shape[1:]) for n in names])
            for name in names:
                out[name] = rows[name]
    return out, header


def _parse(text: str) -> Any:
    text = text.strip()
    if text.startswith("'"):
        word = re.match(r"'((?:[^']|'')*)'", text)
        if word is None:
            raise ValueError(f"a word has no end: {text}")
        return word[1].replace("''", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text


def _header(content: bytes, start: int) -> tuple[dict[str, Any], int]:
    """Values of a header, and where its data begin."""
    header: dict[str, Any] = {}
    for at in range(start, len(content) - _CARD + 1, _CARD):
        card = content[at : at + _CARD].decode("ascii")
        key = card[:8].rstrip()
        if key == "END":
            return header, start + (at - start) // _BLOCK * _BLOCK + _BLOCK
        if key == "CONTINUE":
            raise _OtherKindError
        if card[8:10] == "= ":
            header[key] = _parse(card[10:])
    raise ValueError("a header has no end")


def _table(content: bytes) -> tuple[NDArray[Any], dict[str, Any]]:
    if not content.startswith(b"SIMPLE  ="):
        # Packed with gzip, or no FITS file: astropy tells.
        raise _OtherKindError
    primary, start = _header(content, 0)
    if primary.get("NAXIS", 0) != 0:
        raise _OtherKindError
    header, start = _header(content, start)
    if header["XTENSION"] != "BINTABLE" or header["PCOUNT"] != 0:
        raise _OtherKindError
    fields = [_field(header, k) for k in range(1, header["TFIELDS"] + 1)]
    dtype = np.dtype(fields)
    if dtype.itemsize != header["NAXIS1"]:
        raise ValueError("the columns do not fill the rows")
    rows = np.frombuffer(content, dtype, header["NAXIS2"], start)
    return rows, header


def _field(header: dict[str, Any], k: int) -> tuple[Any, ...]:
    """Name, type and shape of a column."""
    name, form = header[f"TTYPE{k}"], header[f"TFORM{k}"]
    found = re.fullmatch(r"(\d*)([ABIJKED])", form)
    if found is None or any(f"{word}{k}" in header for word in ("TSCAL", "TZERO")):
        raise _OtherKindError
    count = int(found[1] or 1)
    if found[2] == "A":
        if f"TDIM{k}" in header:
            raise _OtherKindError
        return (name, f"S{count}")
    shape: tuple[int, ...] = () if count == 1 else (count,)
    if f"TDIM{k}" in header:
        shape = tuple(int(n) for n in header[f"TDIM{k}"].strip("() ").split(","))[::-1]
    return (name, COLUMN_TYPES[found[2]], shape)

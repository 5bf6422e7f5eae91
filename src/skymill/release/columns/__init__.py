"""Columns of the tables of a release: names, types, units and meanings, in their order."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError

__all__ = ["ReleaseColumn", "columns_of", "table_hdu", "zero_columns"]

_FORMATS = {
    "bool": "L", "uint8": "B", "int16": "I", "int32": "J", "int64": "K", "float32": "E",
    "float64": "D",
}  # fmt: skip


@dataclass(frozen=True)
class ReleaseColumn:
    """One column of a released table."""

    name: str
    dtype: str
    description: str
    unit: str = ""
    shape: tuple[int, ...] = ()

    @property
    def format(self) -> str:
        """FITS format such as ``8E``; text is sized when it is written."""
        if self.dtype.startswith("S"):
            return f"{self.dtype[1:]}A"
        count = str(self.shape[0]) if self.shape else ""
        return count + _FORMATS[self.dtype]


@functools.cache
def _raw(name: str) -> tuple[dict[str, Any], ...]:
    path = resources.files("skymill.release.columns") / f"{name}.yaml"
    if not path.is_file():
        raise MissingInputError(f"there is no released table named {name!r}")
    return tuple(yaml.safe_load(path.read_text())["columns"])


def columns_of(name: str, bands: Sequence[str] = ("g", "r", "z")) -> list[ReleaseColumn]:
    """The columns of a table.

    Parameters
    ----------
    name : str
        ``tractor``, ``tractor-i`` (its additional columns), ``wise`` or ``sweep``.
    bands : sequence of str
        Bands of the columns that stand once for each band.

    Returns
    -------
    list of ReleaseColumn
        In their order.
    """
    out = []
    for entry in _raw(name):
        per = entry.get("per")
        own = bands if per == "band" else per or ("",)
        for band in own:
            out.append(
                ReleaseColumn(
                    name=entry["name"].replace("{band}", band),
                    dtype=entry["dtype"],
                    description=entry["description"],
                    unit=entry.get("unit", ""),
                    shape=tuple(entry.get("shape", ())),
                )
            )
    return out


def zero_columns(columns: Sequence[ReleaseColumn], n: int) -> dict[str, NDArray[Any]]:
    """Columns of n rows with zeros (and empty words).

    Parameters
    ----------
    columns : sequence of ReleaseColumn
        Which ones.
    n : int
        Rows.

    Returns
    -------
    dict of str to array
        By name, in order.
    """
    return {c.name: np.zeros((n, *c.shape), c.dtype) for c in columns}


def table_hdu(
    columns: Sequence[ReleaseColumn],
    values: Mapping[str, NDArray[Any]],
    *,
    name: str,
    header: fits.Header | None = None,
) -> fits.BinTableHDU:
    """A FITS table of exactly these columns.

    Parameters
    ----------
    columns : sequence of ReleaseColumn
        In their order.
    values : mapping of str to array
        A column each.
    name : str
        ``EXTNAME``.
    header : astropy.io.fits.Header, optional
        More cards.

    Returns
    -------
    astropy.io.fits.BinTableHDU
        The table.

    Raises
    ------
    DataError
        If a column is missing, or its shape or kind is wrong.
    """
    missing = [c.name for c in columns if c.name not in values]
    if missing:
        raise DataError(f"the table {name} lacks the column {', '.join(missing)}")
    out = []
    for column in columns:
        array = np.asarray(values[column.name])
        if array.shape[1:] != column.shape:
            raise DataError(
                f"the column {column.name} of {name} must have the shape {column.shape} in each "
                f"row; got {array.shape[1:]}"
            )
        kind = column.format
        if column.dtype.startswith("S"):
            array = array.astype("S")
            # Text is as long as its longest word, at least as the releases have it.
            kind = f"{max(1, int(column.dtype[1:]), array.dtype.itemsize)}A"
        else:
            array = array.astype(column.dtype)
        out.append(fits.Column(column.name, format=kind, unit=column.unit or None, array=array))
    return fits.BinTableHDU.from_columns(out, header=header, name=name)

"""Columns of the tables of a release: names, types, units and meanings, in their order."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError

__all__ = ["ReleaseColumn", "columns_of", "ordered_columns", "zero_columns"]


@dataclass(frozen=True)
class ReleaseColumn:
    """One column of a released table."""

    name: str
    dtype: str
    description: str
    unit: str = ""
    shape: tuple[int, ...] = ()


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


def ordered_columns(
    columns: Sequence[ReleaseColumn], values: Mapping[str, NDArray[Any]], *, name: str
) -> dict[str, NDArray[Any]]:
    """Exactly these columns in their order and types, ready for a file.

    Parameters
    ----------
    columns : sequence of ReleaseColumn
        In their order.
    values : mapping of str to array
        A column each; others are ignored.
    name : str
        Name of the table, for messages.

    Returns
    -------
    dict of str to array
        By name. Text is as long as its longest word, at least as the releases have it.

    Raises
    ------
    DataError
        If a column is missing, or its shape is wrong.
    """
    missing = [c.name for c in columns if c.name not in values]
    if missing:
        raise DataError(f"the table {name} lacks the column {', '.join(missing)}")
    out = {}
    for column in columns:
        array = np.asarray(values[column.name])
        if array.shape[1:] != column.shape:
            raise DataError(
                f"the column {column.name} of {name} must have the shape {column.shape} in each "
                f"row; got {array.shape[1:]}"
            )
        if column.dtype.startswith("S"):
            words = array.astype("S")
            width = max(1, int(column.dtype[1:]), words.dtype.itemsize)
            out[column.name] = words.astype(f"S{width}")
        else:
            out[column.name] = array.astype(column.dtype)
    return out

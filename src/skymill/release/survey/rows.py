"""Rows as dictionaries, and tables of them that follow a schema."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from skymill.data.files import atomic_path
from skymill.data.tables import Schema, load_schema

__all__ = ["blank_row", "table_of_rows", "write_rows", "write_table"]


def blank_row(*schema_names: str) -> dict[str, Any]:
    """Zeros, empty words and False for every column of some schemas.

    Parameters
    ----------
    *schema_names : str
        Names of schemas.

    Returns
    -------
    dict
        Column to value.
    """
    out: dict[str, Any] = {}
    for name in schema_names:
        for entry in load_schema(name).columns:
            if entry.dtype == "U":
                blank: Any = ""
            elif entry.shape:
                blank = np.zeros(entry.shape, entry.dtype)
            else:
                blank = np.dtype(entry.dtype).type(0)
            out.setdefault(entry.name, blank)
    return out


def table_of_rows(schema: Schema, rows: Sequence[dict[str, Any]]) -> Table:
    """A table of a schema.

    Parameters
    ----------
    schema : Schema
        The columns; entries of the rows that it does not have are left out.
    rows : sequence of dict
        The rows; perhaps none.

    Returns
    -------
    Table
        The table.
    """
    if not rows:
        return schema.empty()
    table = Table()
    for entry in schema.columns:
        values = [row[entry.name] for row in rows]
        table[entry.name] = values if entry.dtype == "U" else np.array(values, entry.dtype)
    return schema.apply(table)


def write_rows(path: str | Path, schema_name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as a table of a schema.

    Parameters
    ----------
    path : path
        The file.
    schema_name : str
        Name of the schema.
    rows : sequence of dict
        The rows.
    """
    write_table(path, table_of_rows(load_schema(schema_name), rows))


def write_table(path: str | Path, table: Table, *, schema: str | None = None) -> None:
    """Write a table, replacing an older one when it is complete.

    Parameters
    ----------
    path : path
        ``.fits`` or ``.fits.gz``.
    table : Table
        The rows.
    schema : str, optional
        Name of its schema, for types, units and descriptions.
    """
    out = table.copy(copy_data=False)
    if schema is not None:
        out = load_schema(schema).apply(out)
    out.meta.clear()
    with atomic_path(path) as draft:
        out.write(draft, format="fits")

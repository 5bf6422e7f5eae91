"""Table schemas: every column of every table, with dtype, unit, UCD and description.

A schema is ``schemas/<table>.yaml``::

    name: preSourceTable
    description: One row for each source detected on a CCD.
    columns:
      - {name: id, dtype: int64, ucd: meta.id;meta.main, description: Identifier.}
      - {name: "{band}_psfFlux", per: band, dtype: float64, unit: nJy, description: PSF flux.}

``per: band`` stands for one column for each band of the table.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml
from astropy import units as u
from astropy.table import Column, Table
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError

__all__ = ["ColumnSpec", "Schema", "float_column", "load_schema", "schema_names"]

_BANDS = ("u", "g", "r", "i", "z", "Y", "y", "VR", "N964", "N708", "N540")


@dataclass(frozen=True)
class ColumnSpec:
    """One column: dtype, unit and meaning."""

    name: str
    dtype: str
    description: str
    unit: str = ""
    ucd: str = ""
    per: str = ""
    optional: bool = False
    shape: tuple[int, ...] = ()

    def matches(self, column: str) -> bool:
        """True if a column of this name is described by this entry."""
        if not self.per:
            return column == self.name
        pattern = re.escape(self.name).replace(r"\{band\}", "(" + "|".join(_BANDS) + ")")
        return re.fullmatch(pattern, column) is not None


@dataclass(frozen=True)
class Schema:
    """A table: its name, its meaning and its columns."""

    name: str
    description: str
    columns: tuple[ColumnSpec, ...]

    def spec(self, column: str) -> ColumnSpec:
        """The entry that describes a column.

        Parameters
        ----------
        column : str
            Name of the column.

        Returns
        -------
        ColumnSpec
            Its description.

        Raises
        ------
        DataError
            If no entry describes it.
        """
        for entry in self.columns:
            if entry.matches(column):
                return entry
        raise DataError(f"column {column!r} is not in the schema of {self.name}")

    def problems(self, table: Table) -> list[str]:
        """Sentences about what in a table differs from its schema.

        Parameters
        ----------
        table : astropy.table.Table
            The table.

        Returns
        -------
        list of str
            Empty if the table is valid.
        """
        out = []
        for name in table.colnames:
            try:
                entry = self.spec(name)
            except DataError as err:
                out.append(str(err))
                continue
            column = table[name]
            kind = np.dtype(entry.dtype).kind
            if column.dtype.kind == "O" and kind == "U":
                pass
            elif kind == "U":
                if column.dtype.kind not in "US":
                    out.append(f"{self.name}.{name}: dtype {column.dtype}, not a string")
            elif column.dtype != np.dtype(entry.dtype):
                out.append(f"{self.name}.{name}: dtype {column.dtype}, not {entry.dtype}")
            if u.Unit(column.unit or "") != u.Unit(entry.unit or ""):
                out.append(f"{self.name}.{name}: unit {column.unit}, not {entry.unit or 'none'}")
        for entry in self.columns:
            if entry.optional or entry.per:
                continue
            if entry.name not in table.colnames:
                out.append(f"{self.name}: column {entry.name} is missing")
        return out

    def validate(self, table: Table) -> None:
        """Raise unless a table follows this schema.

        Parameters
        ----------
        table : astropy.table.Table
            The table.

        Raises
        ------
        DataError
            With every difference.
        """
        problems = self.problems(table)
        if problems:
            raise DataError("; ".join(problems))

    def apply(self, table: Table) -> Table:
        """Cast a table to its schema in place: dtypes, units and descriptions.

        Parameters
        ----------
        table : astropy.table.Table
            The table; extra columns raise, missing ones too.

        Returns
        -------
        astropy.table.Table
            The same table.

        Raises
        ------
        DataError
            If a column is missing or not described.
        """
        for name in table.colnames:
            entry = self.spec(name)
            column = table[name]
            if np.dtype(entry.dtype).kind != "U" and column.dtype != np.dtype(entry.dtype):
                table[name] = Column(np.asarray(column).astype(entry.dtype))
            table[name].unit = entry.unit or None
            table[name].description = entry.description
        table.meta.setdefault("schema", self.name)
        self.validate(table)
        return table

    def empty(self, *, bands: Iterable[str] = ()) -> Table:
        """A table without rows.

        Parameters
        ----------
        bands : iterable of str
            Bands of the columns that stand once for each band.

        Returns
        -------
        astropy.table.Table
            Every column, no row.
        """
        out = Table()
        for entry in self.columns:
            names = [entry.name.replace("{band}", b) for b in bands] if entry.per else [entry.name]
            for name in names:
                out[name] = Column(
                    np.empty((0, *entry.shape), dtype=entry.dtype),
                    unit=entry.unit or None,
                    description=entry.description,
                )
        out.meta["schema"] = self.name
        return out


def float_column(table: Table, name: str) -> NDArray[np.float64]:
    """A column as numbers that may be absent.

    Parameters
    ----------
    table : astropy.table.Table
        The table.
    name : str
        Name of the column.

    Returns
    -------
    (n,) float64
        Its values; NaN where they are masked, and everywhere if there is no such column.
    """
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan))


def schema_names() -> list[str]:
    """Names of all tables that have a schema.

    Returns
    -------
    list of str
        In alphabetical order.
    """
    folder = resources.files("skymill.data") / "schemas"
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


@functools.cache
def load_schema(name: str) -> Schema:
    """Read the schema of a table.

    Parameters
    ----------
    name : str
        Name of the table, as of its dataset type.

    Returns
    -------
    Schema
        The schema.

    Raises
    ------
    MissingInputError
        If there is none of that name.
    """
    path = resources.files("skymill.data") / "schemas" / f"{name}.yaml"
    if not path.is_file():
        raise MissingInputError(
            f"there is no schema named {name!r}; known: {', '.join(schema_names())}"
        )
    raw = yaml.safe_load(path.read_text())
    columns = tuple(ColumnSpec(**{**c, "shape": tuple(c.get("shape", ()))}) for c in raw["columns"])
    return Schema(name=raw["name"], description=raw["description"], columns=columns)

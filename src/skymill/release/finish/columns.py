"""The columns of sweeps and external matches, filled from the catalogues of bricks."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.release.columns import columns_of
from skymill.release.finish.folder import Catalogue

__all__ = [
    "OutputColumn",
    "fill",
    "header_of_bits",
    "is_available",
    "output_columns",
    "source_names",
    "table_header",
]

_WISE = ("W1", "W2", "W3", "W4")

#: Codes of FITS for the types of numpy.
_FORMATS = {"i2": "I", "i4": "J", "i8": "K", "u1": "B", "f4": "E", "f8": "D", "b1": "L"}


#: Shapes of the older releases: the model whose shape it is, or of which it is the fraction.
_OLDER = {"SHAPEDEV_": (b"DEV",), "SHAPEEXP_": (b"EXP", b"REX")}


@dataclass(frozen=True)
class OutputColumn:
    """One column: name in upper case, type of numpy (perhaps with a length), unit, meaning."""

    name: str
    dtype: str
    unit: str = ""
    meaning: str = ""

    @property
    def source(self) -> str:
        """Name in the catalogues of bricks."""
        return self.name.lower()

    @property
    def numpy(self) -> np.dtype[Any]:
        """Type of an element."""
        return np.dtype(self.dtype)

    def empty(self, number: int) -> NDArray[Any]:
        """Zeros, empty words or False.

        Parameters
        ----------
        number : int
            Rows.

        Returns
        -------
        array
            The column.
        """
        base, shape = self.numpy.base, self.numpy.shape
        return np.zeros((number, *shape), base)


@functools.cache
def _entries() -> tuple[tuple[str, str], ...]:
    text = (importlib.resources.files(__package__) / "sweep_columns.yaml").read_text()
    return tuple((str(n), str(t)) for n, t in yaml.safe_load(text))


def output_columns(bands: Sequence[str], *, largest_bits: int = 0) -> list[OutputColumn]:
    """Columns of the sweeps of a release.

    First those of the published sweeps, with their types; then those that came later (Sersic
    models, one shape for all models) and those of further bands.

    Parameters
    ----------
    bands : sequence of str
        Optical bands, such as ``g r z``.
    largest_bits : int
        Largest value of ``maskbits``: those of later bands need 32 bits.

    Returns
    -------
    list of OutputColumn
        In order.
    """
    known = {c.name: c for t in ("tractor", "wise") for c in columns_of(t, list(bands))}
    found = {}
    for entry in columns_of("sweep"):
        length = "".join(f"{n}" for n in entry.shape)
        code = np.dtype(entry.dtype).str.lstrip("<>|=")
        # The published sweeps have no units: the comment has.
        own = known.get(entry.name.lower())
        unit = f" [{own.unit}]" if own is not None and own.unit and not entry.unit else ""
        found[entry.name] = OutputColumn(
            entry.name, f"{length}{code}", entry.unit, f"{entry.description}{unit}"
        )
    if largest_bits > np.iinfo(np.int16).max:
        old = found["MASKBITS"]
        found["MASKBITS"] = OutputColumn(old.name, "i4", old.unit, old.meaning)
    for name, dtype in _entries():
        words = list(bands) if "{b}" in name else list(_WISE) if "{w}" in name else [""]
        for word in words:
            full = name.format(b=word, w=word).upper()
            own = known.get(full.lower())
            unit, meaning = (own.unit, own.description) if own is not None else ("", "")
            found.setdefault(full, OutputColumn(full, dtype, unit, meaning))
    return list(found.values())


def source_names(columns: Iterable[OutputColumn]) -> list[str]:
    """Columns of a brick's catalogue that are needed.

    Parameters
    ----------
    columns : iterable of OutputColumn
        What is written.

    Returns
    -------
    list of str
        Lower-case names, with ``brick_primary``.
    """
    return [*(c.source for c in columns), "brick_primary", "shape_r", "shape_e1", "shape_e2"]


def fill(
    column: OutputColumn, catalogue: Catalogue, rows: NDArray[np.int64]
) -> NDArray[Any] | None:
    """Some rows of a catalogue's column in the type of the output.

    Parameters
    ----------
    column : OutputColumn
        What is written.
    catalogue : Catalogue
        Of a brick.
    rows : (n,) int64
        Which rows.

    Returns
    -------
    array or None
        None if the catalogue lacks the column.

    Raises
    ------
    DataError
        If the values do not fit in the type.
    """
    values = _derive(column.name, catalogue, rows)
    if values is None:
        return None
    wanted = column.numpy
    if values.shape[1:] != wanted.shape:
        raise DataError(
            f"{catalogue.path}: {column.source} has {values.shape[1:]} values in a row; "
            f"{wanted.shape} are expected"
        )
    result = values.astype(wanted.base)
    if wanted.base.kind in "iu" and not np.array_equal(result, values):
        raise DataError(f"{catalogue.path}: {column.source} does not fit into {wanted.base}")
    if wanted.base.kind == "S" and np.any(np.char.str_len(values) > wanted.base.itemsize):
        raise DataError(
            f"{catalogue.path}: {column.source} has words of more than {wanted.base.itemsize} "
            "letters"
        )
    return result


def _derive(name: str, catalogue: Catalogue, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """A column of the catalogue, or what older releases have instead of it."""
    if name.lower() in catalogue:
        return catalogue[name.lower()][rows]
    if name == "PHOTSYS" and "release" in catalogue:
        # The last digit says which telescopes: 8 the South's, 9 the North's.
        digit = np.asarray(catalogue["release"][rows]) % 1000
        return np.where(digit == 9, b"N", np.where(digit == 8, b"S", b""))
    if "type" not in catalogue:
        return None
    kinds = np.char.strip(np.asarray(catalogue["type"][rows], "S"))
    if name == "FRACDEV":
        return np.where(kinds == b"DEV", 1.0, 0.0)
    for start, models in _OLDER.items():
        source = f"shape_{name[len(start) :].lower()}"
        if name.startswith(start) and source in catalogue:
            return np.where(np.isin(kinds, models), catalogue[source][rows], 0.0)
    return None


def is_available(column: OutputColumn, names: Collection[str]) -> bool:
    """Whether `fill` has values of a column.

    Parameters
    ----------
    column : OutputColumn
        What is written.
    names : collection of str
        Columns of a catalogue in lower case.

    Returns
    -------
    bool
        False if it is zero for this catalogue.
    """
    if column.source in names:
        return True
    if column.name == "PHOTSYS":
        return "release" in names
    if column.name == "FRACDEV":
        return "type" in names
    for start in _OLDER:
        if column.name.startswith(start):
            return "type" in names and f"shape_{column.name[len(start) :].lower()}" in names
    return False


def table_header(columns: Sequence[OutputColumn], *, name: str) -> fits.Header:
    """Header of a table without rows.

    Parameters
    ----------
    columns : sequence of OutputColumn
        Its columns.
    name : str
        Name of the extension.

    Returns
    -------
    astropy.io.fits.Header
        The header; ``TCOMMn`` says what a column means.
    """
    out = []
    for column in columns:
        base = column.numpy.base
        length = int(np.prod(column.numpy.shape)) if column.numpy.shape else 1
        code = f"{length if length > 1 else ''}{_FORMATS.get(base.str[1:], '')}"
        if base.kind == "S":
            code = f"{base.itemsize}A"
        array = column.empty(0)
        out.append(fits.Column(column.name, code, unit=column.unit or None, array=array))
    header = fits.BinTableHDU.from_columns(out, name=name).header
    for number, column in enumerate(columns, 1):
        if column.meaning:
            header[f"TCOMM{number}"] = column.meaning
    return header


def header_of_bits(header: fits.Header) -> fits.Header:
    """The cards of a catalogue that say what its bits mean.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of a brick's catalogue.

    Returns
    -------
    astropy.io.fits.Header
        Those cards alone.
    """
    kinds = ("MB_", "MBIT_", "FB_", "FBIT_", "AM_", "ABIT_", "WB_", "WBIT_", "DCHISQ_", "APRAD",
             "LSDR", "SURVEY", "DRVERSIO")  # fmt: skip
    result = fits.Header()
    for card in header.cards:
        if card.keyword.startswith(kinds):
            result.append(card)
    return result

"""The columns of sweeps and external matches, filled from the catalogues of bricks."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.release.finish.folder import Catalogue

__all__ = ["OutputColumn", "fill", "header_of_bits", "output_columns", "source_names", "table_hdu"]

_WISE = ("W1", "W2", "W3", "W4")

#: Codes of FITS for the types of numpy.
_FORMATS = {"i2": "I", "i4": "J", "i8": "K", "u1": "B", "f4": "E", "f8": "D", "b1": "L"}


@dataclass(frozen=True)
class OutputColumn:
    """One column: name in upper case, type of numpy (perhaps with a length), unit."""

    name: str
    dtype: str
    unit: str

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
def _entries() -> tuple[tuple[str, str, str], ...]:
    text = (importlib.resources.files(__package__) / "sweep_columns.yaml").read_text()
    return tuple((str(n), str(t), str(u)) for n, t, u in yaml.safe_load(text))


def output_columns(bands: Sequence[str]) -> list[OutputColumn]:
    """Columns of the sweeps of a release.

    Parameters
    ----------
    bands : sequence of str
        Optical bands, such as ``g r z``.

    Returns
    -------
    list of OutputColumn
        In order.
    """
    found = []
    for name, dtype, unit in _entries():
        words = list(bands) if "{b}" in name else list(_WISE) if "{w}" in name else [""]
        for word in words:
            found.append(OutputColumn(name.format(b=word, w=word).upper(), dtype, unit))
    return found


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
    return [*(c.source for c in columns), "brick_primary"]


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
    if column.source not in catalogue:
        return None
    values = catalogue[column.source][rows]
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


def table_hdu(
    columns: Sequence[tuple[OutputColumn, NDArray[Any]]], *, name: str
) -> fits.BinTableHDU:
    """A FITS table.

    Parameters
    ----------
    columns : sequence of (OutputColumn, array)
        Columns with their values.
    name : str
        Name of the extension.

    Returns
    -------
    astropy.io.fits.BinTableHDU
        The table.
    """
    out = []
    for column, values in columns:
        base = column.numpy.base
        length = int(np.prod(column.numpy.shape)) if column.numpy.shape else 1
        code = (
            f"{base.itemsize}A"
            if base.kind == "S"
            else f"{length if length > 1 else ''}{_FORMATS[base.str[1:]]}"
        )
        out.append(fits.Column(column.name, code, unit=column.unit or None, array=values))
    return fits.BinTableHDU.from_columns(out, name=name)


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

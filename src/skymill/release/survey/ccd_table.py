"""Reading tables of CCDs of any release into one shape: 45 columns with fixed types."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Column, Table, vstack

from skymill.data.errors import DataError
from skymill.data.tables import ColumnSpec, load_schema

__all__ = ["as_survey_ccds", "read_fits_table", "read_survey_ccds"]

#: Column -> names of the same thing in older releases.
_OLDER = {
    "ccdnastrom": ("ccdnmatch", "nmatch_astrom"),
    "ccdnphotom": ("ccdnmatch", "nmatch_photom"),
    "ccdphrms": ("phrms",),
    "ccdrarms": ("rarms",),
    "ccddecrms": ("decrms",),
    "ccdraoff": ("raoff",),
    "ccddecoff": ("decoff",),
}

_NEEDED = (
    "image_filename",
    "camera",
    "expnum",
    "ccdname",
    "filter",
    "ra",
    "dec",
    "width",
    "height",
)


def read_fits_table(path: str | Path) -> Table:
    """The first table of a FITS file with lower-case names and plain strings.

    Parameters
    ----------
    path : path
        A FITS file; further extensions (a kd-tree, an index) are not read.

    Returns
    -------
    Table
        Its rows.

    Raises
    ------
    DataError
        If the file is truncated or holds no table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                tables = [h for h in hdus[1:] if isinstance(h, fits.BinTableHDU)]
                table = Table.read(tables[0]) if tables else None
    except (OSError, ValueError, IndexError, TypeError, EOFError) as err:
        raise DataError(f"{path} is truncated or no FITS table ({err})") from err
    if table is None:
        raise DataError(f"{path} has no table: it is truncated or another kind of file")
    for name in table.colnames:
        if table[name].dtype.kind == "S":
            table[name] = np.char.strip(np.char.decode(np.asarray(table[name]), "ascii", "replace"))
        elif table[name].dtype.kind == "U":
            table[name] = np.char.strip(np.asarray(table[name]))
        elif not table[name].dtype.isnative:
            column = table[name]
            values = np.asarray(column).astype(column.dtype.newbyteorder("="))
            table[name] = Column(values, unit=column.unit)
        if name != name.lower() and name.lower() not in table.colnames:
            table.rename_column(name, name.lower())
    table.meta.clear()
    return table


def _filled(entry: ColumnSpec, n_rows: int) -> np.ndarray:
    """Zero, the empty word or False where a release lacks a column."""
    return np.zeros(n_rows, "U1" if entry.dtype == "U" else entry.dtype)


def as_survey_ccds(table: Table, *, where: str = "the table of CCDs") -> Table:
    """The 45 columns of ``survey-ccds``, with older names translated and absent ones zero.

    Parameters
    ----------
    table : Table
        Rows of any release; lower-case names.
    where : str
        Name of the table, for errors.

    Returns
    -------
    Table
        Schema ``survey-ccds``; the names of columns that were absent are in ``meta['absent']``.

    Raises
    ------
    DataError
        If a column is missing that nothing can stand for.
    """
    missing = [name for name in _NEEDED if name not in table.colnames]
    if missing:
        raise DataError(f"{where} lacks the column {', '.join(missing)}")
    schema, out, absent = load_schema("survey-ccds"), Table(), []
    for entry in schema.columns:
        names = (entry.name, *_OLDER.get(entry.name, ()))
        found = next((name for name in names if name in table.colnames), None)
        if found is None:
            absent.append(entry.name)
            out[entry.name] = Column(_filled(entry, len(table)))
        elif entry.dtype == "U":
            out[entry.name] = np.asarray(table[found]).astype(str)
        else:
            out[entry.name] = np.asarray(table[found]).astype(entry.dtype)
    if "image_hdu" in absent:
        out["image_hdu"] = np.ones(len(table), np.int16)
    schema.apply(out)
    out.meta["absent"] = absent
    return out


def read_survey_ccds(root: str | Path, *, apply_cuts: bool = True) -> Table:
    """The CCDs of a survey directory.

    ``survey-ccds-*.kd.fits`` are read if there are any, else ``survey-ccds*.fits`` and
    ``.fits.gz``.

    Parameters
    ----------
    root : path
        The survey directory.
    apply_cuts : bool
        Leave out the rows with ``ccd_cuts`` other than 0.

    Returns
    -------
    Table
        Schema ``survey-ccds``. Without any file: no rows.

    Raises
    ------
    DataError
        If a file is corrupt or lacks a column.
    """
    folder = Path(root)
    paths = sorted(folder.glob("survey-ccds*.kd.fits"))
    if not paths:
        paths = sorted({*folder.glob("survey-ccds*.fits"), *folder.glob("survey-ccds*.fits.gz")})
    tables = [as_survey_ccds(read_fits_table(path), where=str(path)) for path in paths]
    if not tables:
        return load_schema("survey-ccds").empty()
    absent = [name for table in tables for name in table.meta.pop("absent")]
    out = vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else tables[0]
    out.meta["absent"] = sorted(set(absent))
    return out[out["ccd_cuts"] == 0] if apply_cuts else out

"""Catalogues of other surveys with the nearest object of the release beside each of their rows."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import KDTree

from skymill.data.errors import ConfigError, DataError, MissingInputError, NoDataError
from skymill.release.finish.columns import OutputColumn, fill, output_columns, source_names
from skymill.release.finish.folder import Problem, ReleaseFolder, each, read_catalogue
from skymill.release.finish.table_file import open_table

__all__ = ["ExternalReport", "match_external", "read_external", "unit_vectors"]

#: Names of coordinates in the usual catalogues, in upper case.
_RA = ("RA", "RAJ2000", "RA_ICRS", "PLUG_RA", "TARGET_RA", "ALPHA_J2000", "FIBER_RA", "RAJ")
_DEC = ("DEC", "DEJ2000", "DEC_ICRS", "DE_ICRS", "PLUG_DEC", "TARGET_DEC", "DELTA_J2000",
        "FIBER_DEC", "DECJ")  # fmt: skip

Float64Array = NDArray[np.float64]


@dataclass
class ExternalReport:
    """What was matched.

    Parameters
    ----------
    n_external, n_matched : int
        Rows, and rows with a partner.
    n_shared : int
        Objects of the release that are the partner of more than one row.
    absent : list of str
        Columns that no or not every brick has, zero there.
    problems : list of Problem
        Catalogues that could not be used.
    """

    n_external: int
    n_matched: int = 0
    n_shared: int = 0
    absent: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def unit_vectors(ra: Float64Array, dec: Float64Array) -> Float64Array:
    """Positions as vectors of length one.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.

    Returns
    -------
    (n, 3) float64
        Vectors.
    """
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def read_external(path: Path) -> tuple[Table, Float64Array, Float64Array]:
    """A catalogue of another survey.

    Parameters
    ----------
    path : Path
        FITS (also zipped), CSV, ECSV or Parquet with right ascension and declination in degrees.

    Returns
    -------
    tuple
        The table; right ascension and declination [deg], NaN where it has none.

    Raises
    ------
    MissingInputError, DataError
        If the file is not there, is no table, or has no coordinates.
    """
    if not path.is_file():
        raise MissingInputError(f"there is no catalogue {path}")
    name = path.name.lower()
    kind = None
    if any(name.endswith(e) for e in (".fits", ".fit", ".fits.gz", ".fit.gz")):
        kind = "fits"
    elif name.endswith((".csv", ".ecsv")):
        kind = "ascii.ecsv" if name.endswith(".ecsv") else "ascii.csv"
    elif name.endswith((".parq", ".parquet")):
        kind = "parquet"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = _read_parquet(path) if kind == "parquet" else Table.read(path, format=kind)
    except Exception as exc:
        raise DataError(f"{path} cannot be read as a table ({exc})") from exc
    names = {n.upper(): n for n in table.colnames}
    ra = next((names[n] for n in _RA if n in names), None)
    dec = next((names[n] for n in _DEC if n in names), None)
    if ra is None or dec is None:
        raise DataError(
            f"{path} has no coordinates: none of {', '.join(_RA)} and their declinations"
        )
    return table, _degrees(table, ra, path), _degrees(table, dec, path)


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path)
    return Table({n: table.column(n).to_numpy() for n in table.column_names})


def _degrees(table: Table, name: str, path: Path) -> Float64Array:
    values = table[name]
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(values.astype(float), np.nan)
    try:
        return np.asarray(values, np.float64).reshape(len(table))
    except (TypeError, ValueError) as exc:
        raise DataError(f"{path}: {name} must be in degrees, one value in a row") from exc


@dataclass(frozen=True)
class _Best:
    """Nearest objects of one brick for some rows of the other catalogue."""

    rows: NDArray[np.int64]
    distance: Float64Array
    values: dict[str, NDArray[Any]]
    objects: NDArray[np.int64]
    absent: tuple[str, ...]


def _match_brick(
    path: Path, *, ra: Float64Array, dec: Float64Array, chord: float,
    columns: Sequence[OutputColumn],
) -> _Best | None:  # fmt: skip
    catalogue = read_catalogue(path, source_names(columns))
    mine = np.flatnonzero(catalogue.primary)
    if mine.size == 0:
        return None
    own_ra = np.asarray(catalogue["ra"], np.float64)[mine]
    own_dec = np.asarray(catalogue["dec"], np.float64)[mine]
    if not (np.isfinite(own_ra).all() and np.isfinite(own_dec).all()):
        raise DataError(f"{path}: a primary object has no position")
    own = unit_vectors(own_ra, own_dec)
    # Rows that can have a partner here: within the circle around the brick's objects.
    centre = own.mean(axis=0)
    radius = np.sqrt(((own - centre) ** 2).sum(axis=1).max()) + chord
    near = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    vectors = unit_vectors(ra[near], dec[near])
    close = ((vectors - centre) ** 2).sum(axis=1) <= radius**2
    near, vectors = near[close], vectors[close]
    if near.size == 0:
        return None
    distance, index = KDTree(own).query(vectors, distance_upper_bound=np.nextafter(chord, 1.0))
    hit = np.isfinite(distance)
    rows, objects = near[hit], mine[index[hit]]
    values, absent = {}, []
    for column in columns:
        found = fill(column, catalogue, objects)
        if found is None:
            absent.append(column.name)
        else:
            values[column.name] = found
    return _Best(rows, distance[hit], values, objects, tuple(absent))


def match_external(
    folder: ReleaseFolder,
    external: Path,
    out: Path,
    *,
    copy_columns: Sequence[str] = (),
    radius_arcsec: float = 1.5,
    bricks: Iterable[str] | None = None,
    workers: int = 1,
) -> ExternalReport:
    """Write a table with one row for each row of another catalogue: its nearest primary object.

    A row without an object within the radius has OBJID -1 and zeros. Positions are compared as
    they stand: proper motions are not applied.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    external : Path
        The other catalogue.
    out : Path
        File to write.
    copy_columns : sequence of str
        Columns of the other catalogue that are appended; upper and lower case are the same.
    radius_arcsec : float [arcsec]
        Largest distance of a partner.
    bricks : iterable of str, optional
        Bricks that the release has to have; a missing one is a problem.
    workers : int
        Processes.

    Returns
    -------
    ExternalReport
        Numbers, zero columns, problems.
    """
    if not 0 < radius_arcsec <= 3600:
        raise ConfigError(f"the radius must be > 0 and <= 3600 arcsec; got {radius_arcsec}")
    table, ra, dec = read_external(external)
    copied = _find_columns(table, copy_columns, external)
    paths = folder.catalogues()
    if not paths:
        raise NoDataError(f"{folder.root} has no catalogue of a brick")
    report = ExternalReport(n_external=len(table))
    for brick in sorted(set(bricks or ()) - set(paths)):
        report.problems.append(Problem(brick, "it has no catalogue"))
    # The widest type of the bits: only the rows that are found tell their largest value.
    columns = output_columns(_bands(paths.values(), report), largest_bits=2**16)
    chord = 2 * np.sin(np.radians(radius_arcsec / 3600) / 2)
    best = np.full(len(table), np.inf)
    partner = np.full((len(table), 2), -1, np.int64)
    values = {c.name: c.empty(len(table)) for c in columns}
    absent: set[str] = set()
    work = functools.partial(_match_brick, ra=ra, dec=dec, chord=chord, columns=columns)
    for number, (path, found) in enumerate(each(work, list(paths.values()), workers=workers)):
        if isinstance(found, Problem):
            report.problems.append(Problem(path.name, found.text))
            continue
        if found is None:
            continue
        absent.update(found.absent)
        nearer = found.distance < best[found.rows]
        rows = found.rows[nearer]
        best[rows] = found.distance[nearer]
        partner[rows, 0], partner[rows, 1] = number, found.objects[nearer]
        for name in values:
            # A brick that lacks a column has zeros there, also where another brick was before.
            own = found.values.get(name)
            values[name][rows] = own[nearer] if own is not None else np.zeros(1, values[name].dtype)
    matched = np.isfinite(best)
    values["OBJID"][~matched] = -1
    report.n_matched = int(matched.sum())
    _, repeats = np.unique(partner[matched], axis=0, return_counts=True)
    report.n_shared = int((repeats > 1).sum())
    report.absent = sorted(absent)
    _write(out, columns, values, copied, report, external)
    return report


def _bands(paths: Iterable[Path], report: ExternalReport) -> list[str]:
    found = set("grz")
    for path in paths:
        try:
            with fits.open(path, memmap=True) as hdus:
                names = [n.lower() for n in hdus[1].columns.names]
        except (OSError, IndexError, AttributeError, ValueError, TypeError):
            continue  # The match itself will say what is wrong with it.
        found |= {n[5:] for n in names if len(n) == 6 and n.startswith("flux_")}
    return sorted(found, key="ugrizy".find)


def _find_columns(
    table: Table, names: Sequence[str], path: Path
) -> list[tuple[OutputColumn, NDArray[Any]]]:
    """Columns of the other catalogue in types that FITS has."""
    known = {n.upper(): n for n in table.colnames}
    missing = [n for n in names if n.upper() not in known]
    if missing:
        raise ConfigError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(table.colnames)}"
        )
    found = []
    for name in dict.fromkeys(n.upper() for n in names):
        column = table[known[name]]
        values = np.asarray(column.filled() if hasattr(column, "filled") else column)
        if values.dtype.kind in "UO":
            values = np.char.encode(values.astype(str), "ascii", "replace")
        # Types that FITS lacks go into the next larger ones.
        other = {"u2": "i4", "u4": "i8", "u8": "f8", "i1": "i2", "f2": "f4"}
        code = values.dtype.str.lstrip("<>|=")
        values = values.astype(other.get(code, values.dtype.newbyteorder("=")))
        if values.dtype.kind not in "SbiufB" or values.ndim > 2:
            raise DataError(f"{path}: the column {name} has no type that a FITS table has")
        length = str(values.shape[1]) if values.ndim == 2 else ""
        code = values.dtype.str.lstrip("<>|=")
        if values.dtype.kind == "S" and (length or values.dtype.itemsize == 0):
            raise DataError(f"{path}: the column {name} has no type that a FITS table has")
        found.append((OutputColumn(name, f"{length}{code}", str(column.unit or "")), values))
    return found


def _write(
    out: Path,
    columns: Sequence[OutputColumn],
    values: dict[str, NDArray[Any]],
    copied: Sequence[tuple[OutputColumn, NDArray[Any]]],
    report: ExternalReport,
    external: Path,
) -> None:
    own = {c.name for c in columns}
    cards = fits.Header()
    cards["EXTERNAL"] = (external.name[-60:], "matched catalogue, row by row")
    cards["NEXTERN"] = (report.n_external, "rows of the matched catalogue")
    cards["NMATCHED"] = (report.n_matched, "rows with an object of the release")
    cards["NSHARED"] = (report.n_shared, "objects that several rows share")
    everything = list(columns)
    for column, array in copied:
        name = column.name if column.name not in own else f"EXTERNAL_{column.name}"
        everything.append(replace(column, name=name))
        values[name] = array
    with open_table(out, everything, name="EXTERNAL", cards=cards, absent=report.absent) as table:
        table.append(values)

"""Reference stars of a survey's zero points: Pan-STARRS1 for fluxes, Gaia for positions.

A catalogue is a file (FITS, parquet, CSV, ECSV), a folder of such files, or a folder of
``chunk-NNNNN.fits`` by HEALPix pixel (nside 32, ring) as the Legacy Surveys hold them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import hpgeom
import numpy as np
from astropy.coordinates import get_body_barycentric
from astropy.table import Table, vstack
from astropy.time import Time
from numpy.typing import NDArray

from skymill.calibrate.reference import move_to_epoch
from skymill.data.errors import DataError, MissingInputError
from skymill.data.units import magnitude_from_njy
from skymill.release.survey.overlap import unit_vectors

__all__ = ["ReferenceCatalogue", "apparent_positions", "open_reference"]

Float64Array = NDArray[np.float64]

_CHUNK = re.compile(r"chunk-(\d{5})\.fits(\.gz)?$|ps1-(\d{5})\.fits(\.gz)?$")
_NSIDE = 32

#: Columns that these catalogues call otherwise than the known column maps.
_RENAMED = {"epoch": ("epoch", "epoch_mjd", "ref_epoch")}


@dataclass(frozen=True)
class ReferenceCatalogue:
    """A catalogue of reference stars on disk.

    Parameters
    ----------
    name : str
        ``ps1`` or ``gaia``: which column names are understood.
    path : Path
        File or folder.
    """

    name: str
    path: Path

    def near(self, *, ra: float, dec: float, radius_deg: float) -> Table:
        """Stars within a circle.

        Parameters
        ----------
        ra, dec, radius_deg : float [deg]
            The circle.

        Returns
        -------
        Table
            Schema ``refcat``; perhaps no row.
        """
        parts = []
        for path in self._files(ra, dec, radius_deg):
            table = _read(self.name, str(path))
            chord = 2.0 * np.sin(np.radians(radius_deg) / 2.0)
            step = unit_vectors(table["ra"], table["dec"]) - unit_vectors(ra, dec)
            parts.append(table[(step**2).sum(axis=-1) <= chord**2])
        if not parts:
            return Table(names=("id", "ra", "dec"), dtype=(np.int64, float, float))
        return parts[0] if len(parts) == 1 else vstack(parts, metadata_conflicts="silent")

    def _files(self, ra: float, dec: float, radius_deg: float) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        files = _folder(str(self.path))
        chunks = {int(m.group(1) or m.group(3)): p for p in files if (m := _CHUNK.search(p.name))}
        if not chunks:
            return list(files)
        pixels = hpgeom.query_circle(_NSIDE, ra, dec, radius_deg, inclusive=True, nest=False)
        return [chunks[int(p)] for p in pixels if int(p) in chunks]


@functools.lru_cache(maxsize=8)
def _folder(path: str) -> tuple[Path, ...]:
    known = (".fits", ".fits.gz", ".fit", ".parquet", ".csv", ".ecsv")
    found = sorted(p for p in Path(path).iterdir() if p.name.lower().endswith(known))
    if not found:
        raise MissingInputError(f"the folder {path} holds no reference catalogue")
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _read(name: str, path: str) -> Table:
    # The readers of catalogues live with the Butler; they are slow to import.
    from skymill.store.refcat_columns import convert_refcat
    from skymill.store.refcats import read_catalogue

    table = read_catalogue(path)
    lower = {c.lower(): c for c in table.colnames}
    if name == "ps1" and "median" in lower and "nmag_ok" in lower:
        table = _from_ps1_chunk(table, lower)
    names = {}
    for column, candidates in _RENAMED.items():
        found = next((c for c in candidates if c in table.colnames), None)
        if found is not None:
            names[column] = found
    if not any(c in lower for c in ("id", "source_id", "objid", "obj_id", "object_id", "source")):
        table["id"] = np.arange(len(table), dtype=np.int64)
    try:
        return convert_refcat(table, name, columns=names)
    except DataError as err:
        raise DataError(f"{path}: {err}") from err


def _from_ps1_chunk(table: Table, lower: dict[str, str]) -> Table:
    """Magnitudes of the Legacy Surveys' own Pan-STARRS1 files: arrays over g, r, i, z, y."""
    out = Table()
    out["id"] = np.asarray(table[lower["obj_id"]]) if "obj_id" in lower else np.arange(len(table))
    out["ra"], out["dec"] = (np.asarray(table[lower[n]], float) for n in ("ra", "dec"))
    magnitude = np.asarray(table[lower["median"]], float)
    seen = np.asarray(table[lower["nmag_ok"]]) > 0
    for k, band in enumerate("grizy"):
        # 99 stands for an unknown magnitude in the known column maps.
        out[f"{band}mag"] = np.where(
            seen[:, k] & np.isfinite(magnitude[:, k]), magnitude[:, k], 99.0
        )
        out[f"e_{band}mag"] = 0.01
    return out


def open_reference(name: str, path: str | Path) -> ReferenceCatalogue:
    """A catalogue that a user named.

    Parameters
    ----------
    name : str
        ``ps1`` or ``gaia``.
    path : path
        File or folder.

    Returns
    -------
    ReferenceCatalogue
        The catalogue; its rows are read when they are asked for.

    Raises
    ------
    MissingInputError
        If there is no such file or folder.
    """
    if not Path(path).exists():
        raise MissingInputError(f"there is no reference catalogue {path} ({name})")
    return ReferenceCatalogue(name, Path(path))


def _column(table: Table, name: str) -> Float64Array:
    if name not in table.colnames:
        return np.zeros(len(table))
    return np.nan_to_num(np.asarray(table[name], float))


def apparent_positions(table: Table, mjd: float) -> tuple[Float64Array, Float64Array]:
    """Positions of stars at a time, with proper motion and parallax.

    Parameters
    ----------
    table : Table
        Schema ``refcat``.
    mjd : float [day]
        MJD in TAI.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        ICRS direction from the Earth, without aberration and refraction (the world coordinates of
        an image contain both).
    """
    ra, dec = np.asarray(table["ra"], float), np.asarray(table["dec"], float)
    if len(table) == 0 or not np.isfinite(mjd):
        return ra, dec
    years = (mjd - np.asarray(table["epoch"], float)) / 365.25
    ra, dec = move_to_epoch(ra, dec, _column(table, "pm_ra"), _column(table, "pm_dec"), years=years)
    parallax = _column(table, "parallax")
    if not parallax.any():
        return ra, dec
    x, y, z = get_body_barycentric(
        "earth", Time(mjd, format="mjd", scale="tai"), ephemeris="builtin"
    ).xyz.to_value("au")
    a, d = np.radians(ra), np.radians(dec)
    east = x * np.sin(a) - y * np.cos(a)
    north = (x * np.cos(a) + y * np.sin(a)) * np.sin(d) - z * np.cos(d)
    step = parallax / 3.6e6
    return ra + step * east / np.cos(d), dec + step * north


def ps1_magnitudes(table: Table) -> dict[str, Float64Array]:
    """AB magnitudes of the bands of Pan-STARRS1; NaN where unknown.

    Parameters
    ----------
    table : Table
        Schema ``refcat``.

    Returns
    -------
    dict of str to (n,) float64 [mag]
        Bands g, r, i, z, y as far as the catalogue has them.
    """
    return {
        band: magnitude_from_njy(np.nan_to_num(np.asarray(table[f"{band}_flux"], float)))
        for band in "grizy"
        if f"{band}_flux" in table.colnames
    }

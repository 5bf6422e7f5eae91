"""Ingest reference catalogues in shards of the sky's htm7 triangles."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.utils.exceptions import AstropyWarning
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType
from lsst.daf.butler.formatters.parquet import arrow_to_astropy
from lsst.sphgeom import HtmPixelization, LonLat, UnitVector3d
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.tables import load_schema
from skymill.store.refcat_columns import COLUMN_MAPS, convert_refcat
from skymill.store.repository import open_butler, storage_errors

__all__ = ["REFCAT_RUN", "RefcatReport", "htm7_index", "ingest_refcat", "read_catalogue"]

#: RUN collection of reference catalogues.
REFCAT_RUN = "refcats"

_LEVEL = 7


@dataclass
class RefcatReport:
    """What an ingest did.

    Parameters
    ----------
    rows : int
        Rows in the files.
    shards_new, shards_extended, shards_known : int
        Shards that were written, got further rows, and had them all already.
    """

    rows: int = 0
    shards_new: int = 0
    shards_extended: int = 0
    shards_known: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rows} rows: {self.shards_new} new shards, {self.shards_extended} extended, "
            f"{self.shards_known} were there already"
        )


def htm7_index(*, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """The htm7 triangle of positions.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.

    Returns
    -------
    (n,) int64
        Indices of the Butler's dimension ``htm7``.
    """
    pixelization = HtmPixelization(_LEVEL)
    ra_, dec_ = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    return np.array(
        [
            pixelization.index(UnitVector3d(LonLat.fromDegrees(a, d)))
            for a, d in zip(ra_.tolist(), dec_.tolist(), strict=True)
        ],
        dtype=np.int64,
    )


def read_catalogue(path: str | Path) -> Table:
    """Read a table from FITS, parquet, CSV or ECSV.

    Parameters
    ----------
    path : path
        The file; the suffix tells its format.

    Returns
    -------
    astropy.table.Table
        Its rows.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or it is not readable in its format.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInputError(f"there is no file {path}")
    name = file.name.lower().removesuffix(".gz")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.filterwarnings("error", message="File may have been truncated")
            if name.endswith((".parquet", ".parq", ".pq")):
                return arrow_to_astropy(pq.read_table(file))
            if name.endswith((".fits", ".fit", ".fits.fz")):
                with fits.open(file) as hdus:
                    tables = [h for h in hdus if isinstance(h, fits.BinTableHDU)]
                    if not tables:
                        raise DataError(f"{path} holds no table")
                    return Table.read(tables[0])
            if name.endswith(".ecsv"):
                return Table.read(file, format="ascii.ecsv")
            if name.endswith((".csv", ".txt")):
                return Table.read(file, format="ascii.csv")
    except (OSError, ValueError, TypeError, AstropyWarning) as err:
        if isinstance(err, DataError):
            raise
        raise DataError(f"{path} cannot be read as a table: {err}") from err
    raise DataError(f"{path}: the suffix must be .fits, .parquet, .csv or .ecsv")


def _files(places: Iterable[str | Path]) -> list[Path]:
    out: list[Path] = []
    for place in places:
        path = Path(place)
        if path.is_dir():
            out += sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        else:
            out.append(path)
    if not out:
        raise MissingInputError("no file of a reference catalogue was given")
    return out


class _Shards:
    def __init__(self, butler: Butler, name: str, run: str, place: str) -> None:
        self.butler, self.run, self.name, self.place = butler, run, name, place
        butler.collections.register(run, CollectionType.RUN)
        butler.registry.registerDatasetType(
            DatasetType(name, ("htm7",), "SkymillTable", universe=butler.dimensions)
        )
        self.known: dict[int, DatasetRef] = {
            int(ref.dataId["htm7"]): ref
            for ref in butler.query_datasets(
                name, collections=run, find_first=False, limit=None, explain=False
            )
        }

    def add(self, table: Table, report: RefcatReport) -> None:
        index = htm7_index(ra=table["ra"], dec=table["dec"])
        order = np.argsort(index, kind="stable")
        shards, starts = np.unique(index[order], return_index=True)
        with self.butler.transaction(), storage_errors(self.place):
            for shard, rows in zip(shards, np.split(order, starts[1:]), strict=True):
                self._write(int(shard), table[np.sort(rows)], report)

    def _write(self, shard: int, rows: Table, report: RefcatReport) -> None:
        old = self.known.get(shard)
        if old is None:
            report.shards_new += 1
        else:
            present = self.butler.get(old)
            fresh = rows[~np.isin(rows["id"], present["id"])]
            # A catalogue that lacked a column and was completed takes the place of its first form.
            gains = set(rows.colnames) > set(present.colnames)
            completed = gains and bool(np.isin(present["id"], rows["id"]).all())
            if len(fresh) == 0 and not completed:
                report.shards_known += 1
                return
            if set(fresh.colnames) != set(present.colnames) and not completed:
                raise DataError(
                    f"{self.name} is in the repository with the columns "
                    f"{', '.join(present.colnames)}, but the new rows have "
                    f"{', '.join(fresh.colnames)}; ingest them under another name"
                )
            if not completed:
                rows = vstack([present, fresh], metadata_conflicts="silent")
            self.butler.pruneDatasets([old], disassociate=True, unstore=True, purge=True)
            report.shards_extended += 1
        rows = load_schema("refcat").apply(rows)
        self.known[shard] = self.butler.put(rows, self.name, htm7=shard, run=self.run)


def ingest_refcat(
    repo: str | Path,
    name: str,
    places: Iterable[str | Path],
    *,
    catalogue: str | None = None,
    columns: Mapping[str, str] | None = None,
    bands: Sequence[str] | None = None,
    epoch: float | None = None,
    run: str = REFCAT_RUN,
    require: Sequence[str] = (),
) -> RefcatReport:
    """Ingest a reference catalogue; rows that are there already (by ``id``) are left as they are.

    Parameters
    ----------
    repo : path
        The repository.
    name : str
        Dataset type, such as ``gaia`` or ``ps1``. Catalogues that the published pipeline holds one
        band at a time (``sm_dr4``) become one dataset type for each band, ``sm_dr4_g``, with all
        bands in each, as colours need two.
    places : iterable of path
        Files or folders of files.
    catalogue : str, optional
        Column map, one of `skymill.store.refcat_columns.COLUMN_MAPS`; by the name if omitted.
    columns : mapping of str to str, optional
        Names of columns that the map does not know.
    bands : sequence of str, optional
        Bands that must be there; all that are found if omitted.
    epoch : float [MJD TAI], optional
        Epoch of the positions.
    run : str
        RUN collection.
    require : sequence of str
        Bands without whose flux nothing is ingested; unlike ``bands`` all others are taken too.

    Returns
    -------
    RefcatReport
        What was done.

    Raises
    ------
    ConfigError, DataError, MissingInputError
        With one sentence about what is wrong.
    """
    words = catalogue or (name if name in COLUMN_MAPS else "refcat")
    if words not in COLUMN_MAPS:
        raise ConfigError(f"there is no column map {words!r}; known: {', '.join(COLUMN_MAPS)}")
    tables = []
    for path in _files(places):
        try:
            tables.append(
                convert_refcat(
                    read_catalogue(path), words, columns=columns, bands=bands, epoch=epoch
                )
            )
        except DataError as err:
            raise DataError(f"{path}: {err}" if str(path) not in str(err) else str(err)) from err
    table = vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else tables[0]
    _check_bands(name, table, require)
    report = RefcatReport(rows=len(table))
    with open_butler(repo) as butler:
        for dataset_type, part in _split(name, table, COLUMN_MAPS[words].per_band):
            _Shards(butler, dataset_type, run, str(repo)).add(part, report)
    return report


def _check_bands(name: str, table: Table, require: Sequence[str]) -> None:
    absent = [band for band in require if f"{band}_flux" not in table.colnames]
    if absent:
        fluxes = [c.removesuffix("_flux") for c in table.colnames if c.endswith("_flux")]
        raise DataError(
            f"reference catalogue {name} has no flux {', '.join(absent)} (it has "
            f"{', '.join(fluxes) or 'none'}); give another file, or another catalogue for the band "
            "in photometry"
        )


def _split(name: str, table: Table, per_band: bool) -> list[tuple[str, Table]]:
    if not per_band:
        return [(name, table)]
    fluxes = [c for c in table.colnames if c.endswith("_flux")]
    # Each holds all bands: a colour term needs two.
    return [(f"{name}_{flux.removesuffix('_flux')}", table) for flux in fluxes]

"""Merging the tables of images into those of a survey; the spatial index of ``survey-ccds``."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import hpgeom
import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError, NoDataError
from skymill.data.files import atomic_path
from skymill.release.survey.ccd_table import as_survey_ccds, read_fits_table
from skymill.release.survey.kd_tree import kd_tree_tables

__all__ = ["INDEX_NSIDE", "merge_tables", "read_file_list", "write_survey_ccds"]

#: Resolution of the spatial index: HEALPix, nested.
INDEX_NSIDE = 64


def read_file_list(path: str | Path) -> list[Path]:
    """Files named in a text file, one a line.

    Parameters
    ----------
    path : path
        The text file; blank lines and lines that begin with ``#`` are left out.

    Returns
    -------
    list of Path
        The files in their order, each once.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file; if it names none.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInputError(f"there is no file list {path}")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not names:
        raise DataError(f"the file list {path} names no file")
    return [Path(name) for name in names]


def _read(path: Path) -> Table:
    if not path.is_file():
        raise MissingInputError(f"there is no table {path}")
    return read_fits_table(path)


def merge_tables(
    paths: Sequence[str | Path],
    *,
    cut: bool = False,
    cut_expnum: bool = False,
    nproc: int = 0,
) -> Table:
    """Stack the rows of the tables of many images.

    Parameters
    ----------
    paths : sequence of path
        Tables of one kind. A column that one of them lacks is filled with zeros there.
    cut : bool
        Keep the rows with ``ccd_cuts`` 0 only.
    cut_expnum : bool
        Keep the rows with ``expnum`` above 0 only: CCDs without stars have 0.
    nproc : int
        Processes that read; 0 or 1 reads here.

    Returns
    -------
    Table
        All rows, in the order of the files.

    Raises
    ------
    MissingInputError, DataError, NoDataError
        If a file is missing or corrupt; if no row is left.
    """
    files = [Path(p) for p in paths]
    if nproc > 1:
        with ProcessPoolExecutor(nproc, mp_context=get_context("spawn")) as pool:
            tables = list(pool.map(_read, files, chunksize=max(1, len(files) // (4 * nproc))))
    else:
        tables = [_read(path) for path in files]
    tables = [table for table in tables if len(table)]
    if not tables:
        raise NoDataError(f"the {len(files)} tables have no row")
    names = list(dict.fromkeys(name for table in tables for name in table.colnames))
    for table in tables:
        for name in names:
            if name not in table.colnames:
                model = next(t[name] for t in tables if name in t.colnames)
                table[name] = np.zeros((len(table), *model.shape[1:]), model.dtype)
    out = vstack([table[names] for table in tables], metadata_conflicts="silent")
    for wanted, name, test in (
        (cut, "ccd_cuts", lambda values: values == 0),
        (cut_expnum, "expnum", lambda values: values > 0),
    ):
        if wanted:
            if name not in names:
                raise DataError(f"--cut needs the column {name}, which the tables lack")
            out = out[test(np.asarray(out[name]))]
    if len(out) == 0:
        raise NoDataError("no row is left after the cuts")
    return out


def _index(table: Table) -> tuple[NDArray[np.int64], Table]:
    """Order by HEALPix pixel, and the rows of each pixel."""
    pixels = hpgeom.angle_to_pixel(
        INDEX_NSIDE, np.asarray(table["ra"], float), np.asarray(table["dec"], float), nest=True
    )
    order = np.lexsort((np.asarray(table["expnum"]), pixels))
    found, start, count = np.unique(pixels[order], return_index=True, return_counts=True)
    index = Table({"healpix": found.astype(np.int64), "start": start.astype(np.int64),
                   "count": count.astype(np.int64)})  # fmt: skip
    return order, index


def write_survey_ccds(path: str | Path, table: Table) -> int:
    """Write ``survey-ccds`` with its spatial index: only the rows with ``ccd_cuts`` 0 are in it.

    A file ``*.kd.fits`` holds the table, sorted along a kd-tree of unit vectors, and the tree in
    the extensions ``kdtree_*_ccds`` that readers of the Legacy Surveys look for. Other files hold
    all rows, sorted by HEALPix pixel, and the extension ``HEALPIX`` with the first row and the
    number of rows of each pixel (nside 64, nested).

    Parameters
    ----------
    path : path
        Such as ``survey-ccds-dr9.kd.fits`` or ``survey-ccds-decam-r.fits.gz``.
    table : Table
        CCDs of any release.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    NoDataError
        If no row is without cuts and the file is a kd-tree.
    """
    rows = as_survey_ccds(table)
    rows.meta.clear()
    blocks = b""
    if Path(path).name.endswith(".kd.fits"):
        rows = rows[rows["ccd_cuts"] == 0]
        if len(rows) == 0:
            raise NoDataError(f"no CCD is left after the cuts: {path} was not written")
        order, trees = kd_tree_tables(rows["ra"], rows["dec"], rows["expnum"])
        rows, hdus = rows[order], []
        blocks = b"".join(tree.tobytes() for tree in trees)
    else:
        order, index = _index(rows)
        rows = rows[order]
        extra = fits.table_to_hdu(index)
        extra.name = "HEALPIX"
        extra.header["NSIDE"], extra.header["ORDERING"] = INDEX_NSIDE, "NESTED"
        hdus = [extra]
    main = fits.table_to_hdu(rows)
    main.name = "CCDS"
    with atomic_path(path) as draft:
        fits.HDUList([fits.PrimaryHDU(), main, *hdus]).writeto(draft)
        if blocks:
            with draft.open("ab") as handle:
                handle.write(blocks)
    return len(rows)

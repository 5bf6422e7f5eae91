"""One row a brick: exposures, depths, seeing, numbers of objects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from skymill.coadd.bricks import Brick, brick_from_name
from skymill.data.errors import DataError, NoDataError
from skymill.data.files import atomic_path
from skymill.data.geometry import FitsWcs
from skymill.release.finish.folder import (
    Catalogue,
    Problem,
    ReleaseFolder,
    each,
    is_brick_name,
    open_fits,
    read_catalogue,
)
from skymill.release.survey.bricks import is_primary

__all__ = [
    "SummaryReport",
    "merge_summaries",
    "primary_pixels",
    "summarise_bricks",
    "write_summary",
]

#: Types of objects in the order of the columns.
_TYPES = ("psf", "simp", "rex", "exp", "dev", "comp", "ser", "dup")
_N_HISTOGRAM = 11

BoolArray = NDArray[np.bool_]


@dataclass
class SummaryReport:
    """A table of bricks.

    Parameters
    ----------
    table : Table
        One row a brick.
    problems : list of Problem
        Bricks that are not in it, or of which something is missing.
    """

    table: Table
    problems: list[Problem] = field(default_factory=list)


def primary_pixels(header: fits.Header, shape: tuple[int, int], brick: Brick | None) -> BoolArray:
    """Pixels of a brick's image that belong to the brick and to no neighbour.

    Parameters
    ----------
    header : astropy.io.fits.Header
        With the world coordinates.
    shape : (ny, nx)
        Of the image.
    brick : Brick or None
        The brick; None for a region of its own, of which all belongs to it.

    Returns
    -------
    (ny, nx) bool
        The pixels.
    """
    if brick is None:
        return np.ones(shape, bool)
    wcs = FitsWcs(header)
    y, x = np.mgrid[: shape[0], : shape[1]]
    ra, dec = wcs.pixel_to_sky(x=x.ravel(), y=y.ravel())
    return is_primary(brick, ra=ra, dec=dec).reshape(shape)


def _median(values: NDArray[Any]) -> float:
    good = np.asarray(values, np.float64)
    good = good[np.isfinite(good)]
    return float(np.median(good)) if good.size else 0.0


def _depth(ivar: NDArray[Any]) -> float:
    """5-sigma depth of the median of the inverse variances that are not zero [mag]."""
    good = np.asarray(ivar, np.float64)
    good = good[np.isfinite(good) & (good > 0)]
    return float(-2.5 * (np.log10(5 / np.sqrt(np.median(good))) - 9)) if good.size else 0.0


def _exposures(folder: ReleaseFolder, brick: str, where: Brick | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    region: BoolArray | None = None
    for band in folder.bands(brick):
        path = folder.find("nexp", brick=brick, band=band)
        assert path is not None
        hdu = next(h for h in open_fits(path) if h.data is not None)
        if region is None or region.shape != hdu.data.shape:
            region = primary_pixels(hdu.header, hdu.data.shape, where)
        number = np.clip(np.asarray(hdu.data, np.int64)[region], 0, None)
        row[f"nexp_{band}"] = int(np.median(number)) if number.size else 0
        row[f"nexphist_{band}"] = np.bincount(
            np.minimum(number, _N_HISTOGRAM - 1), minlength=_N_HISTOGRAM
        ).astype(np.int32)
    return row


def _objects(catalogue: Catalogue) -> dict[str, Any]:
    mine = catalogue.primary
    row: dict[str, Any] = {"nobjs": int(mine.sum())}
    kinds = np.char.strip(np.asarray(catalogue["type"], "S"))[mine]
    for kind in _TYPES:
        row[f"n{kind}"] = int((kinds == kind.upper().encode()).sum())
    for band in catalogue.bands():
        row.update(_of_band(catalogue, band, mine))
    row["ebv"] = _median(catalogue["ebv"][mine]) if "ebv" in catalogue else 0.0
    wise = [f"w{i}" for i in (1, 2, 3, 4)]
    for name, source, dtype in (
        ("wise_nobs", "nobs", np.int16),
        ("trans_wise", "mw_transmission", np.float32),
    ):
        columns = [catalogue.columns.get(f"{source}_{w}") for w in wise]
        values = [0.0 if c is None else _median(c[mine]) for c in columns]
        row[name] = np.array(values, dtype)
    return row


def _of_band(catalogue: Catalogue, band: str, mine: BoolArray) -> dict[str, Any]:
    seen = mine & (catalogue[f"nobs_{band}"] > 0) if f"nobs_{band}" in catalogue else mine
    row: dict[str, Any] = {}
    if f"psfsize_{band}" in catalogue:
        row[f"psfsize_{band}"] = _median(catalogue[f"psfsize_{band}"][seen])
    for name in ("psfdepth", "galdepth"):
        if f"{name}_{band}" in catalogue:
            row[f"{name}_{band}"] = _depth(catalogue[f"{name}_{band}"][seen])
    if f"mw_transmission_{band}" in catalogue and mine.any():
        through = _median(catalogue[f"mw_transmission_{band}"][mine])
        row[f"trans_{band}"] = through
        row[f"ext_{band}"] = float(0.0 - 2.5 * np.log10(through)) if through > 0 else 0.0
    sky = catalogue.header.get(f"COSKY_{band.upper()}")
    if sky is not None:
        row[f"cosky_{band}"] = float(sky)
    return row


def _summarise(item: tuple[str, str]) -> dict[str, Any]:
    root, brick = item
    folder = ReleaseFolder(root)
    where = brick_from_name(brick) if is_brick_name(brick) else None
    path = folder.catalogues().get(brick) if where is None else folder.path("tractor", brick=brick)
    if path is None or not path.is_file():
        raise DataError("it has coadds but no catalogue")
    catalogue = read_catalogue(path)
    exposures = _exposures(folder, brick, where)
    if not exposures:
        raise DataError("it has a catalogue but no coadds of the number of exposures (nexp)")
    row: dict[str, Any] = {"brickname": brick, "ra": 0.0, "dec": 0.0}
    if where is not None:
        row.update(ra=where.ra, dec=where.dec)
    elif len(catalogue):
        row.update(ra=_median(catalogue["ra"]), dec=_median(catalogue["dec"]))
    return {**row, **exposures, **_objects(catalogue)}


_OF_BAND = ("nexp", "nexphist", "psfsize", "psfdepth", "galdepth", "trans", "ext", "cosky")
_UNITS = {"ra": "deg", "dec": "deg", "psfsize": "arcsec", "psfdepth": "mag", "galdepth": "mag",
          "ebv": "mag", "ext": "mag", "ra1": "deg", "ra2": "deg",
          "dec1": "deg", "dec2": "deg", "area": "deg2"}  # fmt: skip


def _empty(name: str, n: int) -> NDArray[Any]:
    kind = name.rpartition("_")[0]
    if kind == "nexphist":
        return np.zeros((n, _N_HISTOGRAM), np.int32)
    return np.zeros(n, np.int16 if kind == "nexp" else np.float32)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    bands = sorted({n[5:] for r in rows for n in r if n.startswith("nexp_")}, key="ugrizY".find)
    table = Table()
    table["brickname"] = np.array([r["brickname"] for r in rows], "U")
    for name in ("ra", "dec"):
        table[name] = np.array([r[name] for r in rows], np.float64)
    order = [*_OF_BAND[:2], "objects", *_OF_BAND[2:5], "ebv", *_OF_BAND[5:], "wise"]
    for kind in order:
        if kind == "objects":
            for name in ("nobjs", *(f"n{t}" for t in _TYPES)):
                # ``nexp`` of types (exponentials) and ``nexp_g`` (exposures) are the release's.
                table[name] = np.array([r[name] for r in rows], np.int32)
        elif kind == "ebv":
            table["ebv"] = np.array([r["ebv"] for r in rows], np.float32)
        elif kind == "wise":
            table["wise_nobs"] = np.stack([r["wise_nobs"] for r in rows])
            table["trans_wise"] = np.stack([r["trans_wise"] for r in rows])
        else:
            for band in bands:
                values = _empty(f"{kind}_{band}", len(rows))
                for i, row in enumerate(rows):
                    values[i] = row.get(f"{kind}_{band}", 0)
                table[f"{kind}_{band}"] = values
    _set_units(table)
    return table


def _set_units(table: Table) -> None:
    for name in table.colnames:
        stem = name.rpartition("_")[0]
        unit = _UNITS.get(name) or _UNITS.get(stem)
        if unit:
            table[name].unit = unit


def summarise_bricks(
    folder: ReleaseFolder,
    *,
    prefix: str = "",
    bricks: Iterable[str] | None = None,
    workers: int = 1,
) -> SummaryReport:
    """The table of the bricks of a release, or of those whose names begin with some digits.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    prefix : str
        Begin of the names, such as ``180``: a part of the work.
    bricks : iterable of str, optional
        Bricks that the release has to have; a missing one is a problem.
    workers : int
        Processes.

    Returns
    -------
    SummaryReport
        Perhaps without any row: a folder without bricks is no error.
    """
    wanted = {b for b in bricks or () if b.startswith(prefix)}
    names = sorted({*folder.bricks(prefix), *wanted})
    rows, problems = [], []
    items = [(str(folder.root), b) for b in names]
    for (_, brick), found in each(_summarise, items, workers=workers):
        if isinstance(found, Problem):
            text = (
                found.text
                if brick not in wanted or folder.bricks(brick)
                else "there is nothing of it"
            )
            problems.append(Problem(brick, text))
        else:
            rows.append(found)
    return SummaryReport(_table(rows) if rows else Table(), problems)


def merge_summaries(paths: Sequence[Path], *, survey_primary: str = "all") -> SummaryReport:
    """Tables of parts of a release as one, with the edges and areas of the bricks.

    Parameters
    ----------
    paths : sequence of Path
        Files of `write_summary`; empty ones are left out.
    survey_primary : str
        ``all``, or ``south`` or ``north`` to mark the bricks that this half gives to a release of
        both: those South or North of declination 32.375, and all South of the galactic plane to
        the South.

    Returns
    -------
    SummaryReport
        In the order of ``brickid``.

    Raises
    ------
    NoDataError
        If no file has a row.
    """
    tables, problems = [], []
    for path in paths:
        hdus = open_fits(path)
        if len(hdus) < 2 or hdus[1].data is None or len(hdus[1].data) == 0:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tables.append(Table.read(hdus[1]))
    if not tables:
        raise NoDataError("the tables of bricks have no row")
    table = vstack(tables, metadata_conflicts="silent")
    table.meta.clear()
    for name in table.colnames:
        if hasattr(table[name], "filled"):
            table[name] = table[name].filled(0)
        if table[name].dtype.kind == "S":
            table[name] = np.char.strip(np.char.decode(np.asarray(table[name]), "ascii"))
    _, first = np.unique(np.asarray(table["brickname"]), return_index=True)
    for i in sorted(set(range(len(table))) - set(first.tolist())):
        problems.append(
            Problem(str(table["brickname"][i]), "it is in more than one table; the first is kept")
        )
    table = _with_edges(table[np.sort(first)], survey_primary)
    return SummaryReport(table, problems)


def _with_edges(table: Table, survey_primary: str) -> Table:
    names = [str(n) for n in table["brickname"]]
    found = [brick_from_name(n) if is_brick_name(n) else None for n in names]
    words = (("brickid", "index", np.int32), ("brickq", "quadrant", np.int16),
             ("brickrow", "row", np.int32), ("brickcol", "column", np.int32),
             ("ra1", "ra_low", np.float64), ("ra2", "ra_high", np.float64),
             ("dec1", "dec_low", np.float64), ("dec2", "dec_high", np.float64))  # fmt: skip
    for name, word, kind in words:
        table[name] = np.array([getattr(b, word) if b is not None else 0 for b in found], kind)
    width = np.asarray(table["ra2"]) - np.asarray(table["ra1"])
    sines = np.sin(np.radians([table["dec2"], table["dec1"]]))
    table["area"] = width * (sines[0] - sines[1]) * (180 / np.pi)
    table["survey_primary"] = _survey_primary(table, survey_primary)
    _set_units(table)
    table.sort("brickid")
    return table


def _survey_primary(table: Table, which: str) -> BoolArray:
    if which == "all":
        return np.ones(len(table), bool)
    from astropy.coordinates import SkyCoord

    place = SkyCoord(np.asarray(table["ra"]), np.asarray(table["dec"]), unit="deg")
    north = (np.asarray(table["dec"]) > 32.375) & (place.galactic.b.deg > 0)
    return north if which == "north" else ~north


def write_summary(table: Table, path: Path) -> None:
    """Write a table of bricks, whole or not at all.

    Parameters
    ----------
    table : Table
        The rows; perhaps none.
    path : Path
        ``.fits`` or ``.fits.gz``.
    """
    if len(table) == 0:
        hdu = fits.BinTableHDU.from_columns([fits.Column("brickname", "8A")], nrows=0)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            hdu = fits.table_to_hdu(table)
    hdu.name = "BRICKS"
    with atomic_path(path) as draft:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(draft)

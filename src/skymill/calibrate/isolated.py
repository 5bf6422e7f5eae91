"""Stars without a neighbour, associated over all visits of a tract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.match import associate, count_neighbours
from skymill.calibrate.tpv import to_tangent
from skymill.data.errors import ConfigError
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema

__all__ = ["IsolatedOptions", "find_isolated_stars"]

Float64Array = NDArray[np.float64]

_COLUMNS = ("id", "visit", "detector", "x", "y", "ra", "dec", "psfFlux", "psfFluxErr")


@dataclass(frozen=True, kw_only=True)
class IsolatedOptions:
    """Which stars are isolated."""

    match_radius: float = option(1.0, "Largest separation of a source and its star.", unit="arcsec")
    isolation_radius: float = option(
        2.0, "Stars with another star within this radius are left out.", unit="arcsec"
    )
    min_snr: float = option(10.0, "Faintest source, S/N.")
    band_order: tuple[str, ...] = option(
        ("i", "z", "r", "g", "u", "Y", "VR", "N708", "N540"), "First band of a star is its primary."
    )

    def __post_init__(self) -> None:
        check_range(self, "match_radius", low=0.0, low_open=True)
        check_range(self, "isolation_radius", low=0.0)
        check_range(self, "min_snr", low=1.0)
        if not self.band_order:
            raise ConfigError("band_order must name at least one band; it is empty")


def _choose(table: Table, band: str, options: IsolatedOptions) -> Table:
    good = (np.asarray(table["extendedness"]) < 0.5) & ~np.asarray(table["blended"], bool)
    good &= (np.asarray(table["centroid_flags"]) == 0) & (np.asarray(table["psfFlux_flags"]) == 0)
    good &= np.nan_to_num(np.asarray(table["snr"], np.float64)) >= options.min_snr
    out = Table({n: np.asarray(table[n])[good] for n in _COLUMNS})
    out["band"] = np.full(len(out), band, dtype="U8")
    return out


def find_isolated_stars(
    tables: Sequence[tuple[str, Table]],
    *,
    inside: Callable[[Float64Array, Float64Array], NDArray[np.bool_]],
    tract: int,
    options: IsolatedOptions = IsolatedOptions(),
) -> tuple[Table, Table]:
    """Associate the star-like sources of many visits and keep the isolated stars of a tract.

    Parameters
    ----------
    tables : sequence of (str, Table)
        Band and ``preSourceTable_visit`` of each visit.
    inside : callable
        ``inside(ra, dec) -> bool`` for positions [deg] within the tract.
    tract : int
        Number of the tract, for the identifiers.
    options : IsolatedOptions
        Settings.

    Returns
    -------
    stars : Table
        ``isolated_star_cat``.
    sources : Table
        ``isolated_star_sources``, sorted by star.
    """
    parts = [_choose(table, band, options) for band, table in tables]
    schemas = load_schema("isolated_star_cat"), load_schema("isolated_star_sources")
    joined = {
        n: np.concatenate([np.asarray(p[n]) for p in parts]) if parts else np.empty(0)
        for n in (*_COLUMNS, "band")
    }
    if joined["id"].size == 0:
        return schemas[0].empty(), schemas[1].empty()
    star = associate(
        joined["ra"], joined["dec"], joined["visit"], radius_arcsec=options.match_radius
    )
    ra, dec = _means(joined["ra"], joined["dec"], star)
    keep = np.asarray(inside(ra, dec), bool) & _alone(ra, dec, options.isolation_radius)
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    rows = np.flatnonzero(keep[star])
    rows = rows[np.lexsort((joined["visit"][rows], number[star[rows]]))]
    index = number[star[rows]]
    sources = Table({n: joined[n][rows] for n in joined if n != "id"})
    sources["sourceId"], sources["obj_index"] = joined["id"][rows], index
    count = int(keep.sum())
    first = np.searchsorted(index, np.arange(count))
    stars = Table({"ra": ra[keep], "dec": dec[keep]})
    stars["isolated_star_id"] = tract * 1_000_000_000 + np.arange(count)
    stars["source_cat_index"] = first
    stars["nsource"] = np.bincount(index, minlength=count)
    stars["primary_band"], stars["nsource_band"] = _primary(
        sources["band"], index, count, options.band_order
    )
    order = [c.name for c in schemas[1].columns]
    return (
        schemas[0].apply(stars[[c.name for c in schemas[0].columns]]),
        schemas[1].apply(sources[order]),
    )


def _means(
    ra: Float64Array, dec: Float64Array, star: NDArray[np.int64]
) -> tuple[Float64Array, Float64Array]:
    a, d = np.radians(ra), np.radians(dec)
    x, y, z = (
        np.bincount(star, c) for c in (np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d))
    )
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


def _alone(ra: Float64Array, dec: Float64Array, radius: float) -> NDArray[np.bool_]:
    if radius <= 0:
        return np.ones(ra.size, bool)
    ra0, dec0 = (float(v[0]) for v in _means(ra, dec, np.zeros(ra.size, np.int64)))
    xi, eta = to_tangent(ra, dec, ra0=ra0, dec0=dec0)
    return count_neighbours(3600 * xi, 3600 * eta, radius=radius) == 0


def _primary(
    bands: Table.Column, index: NDArray[np.int64], count: int, order: tuple[str, ...]
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    names = np.asarray(bands)
    listed = [*order, *(b for b in np.unique(names) if b not in order)]
    primary = np.full(count, "", dtype="U8")
    number = np.zeros(count, np.int64)
    for band in listed:
        seen = np.bincount(index[names == band], minlength=count)
        new = (primary == "") & (seen > 0)
        primary[new], number[new] = band, seen[new]
    return primary, number

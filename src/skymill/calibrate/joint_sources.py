"""The measurements that enter the joint calibration, associated into stars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.joint_geometry import CcdGeometry
from skymill.calibrate.match import associate, match_sky
from skymill.calibrate.reference import ReferenceStars
from skymill.calibrate.visit_table import flux_scale_of, wcs_of
from skymill.data.errors import ConfigError, NoDataError
from skymill.data.options import check_range, option

__all__ = [
    "JointOptions",
    "JointSources",
    "StarReferences",
    "gather_sources",
    "geometries",
    "match_references",
]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class JointOptions:
    """How the visits of a tract are calibrated together."""

    astrometry_chip_order: int = option(1, "Order of the polynomial of each CCD, all visits.")
    astrometry_visit_order: int = option(5, "Highest order of the polynomial of each visit.")
    photometry_visit_order: int = option(2, "Highest order of the polynomial of each visit.")
    match_radius: float = option(1.0, "Largest separation of a source and its star.", unit="arcsec")
    min_measurements: int = option(2, "Fewest visits of a star that has no reference.")
    astrometry_min_snr: float = option(15.0, "Faintest source of the astrometric fit, S/N.")
    photometry_min_snr: float = option(30.0, "Faintest source of the photometric fit, S/N.")
    max_sources: int = option(400, "Brightest sources that are used on each CCD of each visit.")
    flux: str = option("psfFlux", "Flux that is calibrated.")
    clip: float = option(5.0, "Clipping limit.", unit="sigma")
    astrometry_reference_floor: float = option(
        1.0, "Added to the position errors of the references.", unit="mas"
    )
    photometry_reference_floor: float = option(
        0.01, "Added to the magnitude errors of the references.", unit="mag"
    )
    bright_snr: float = option(100.0, "Sources whose scatter is reported, S/N.")
    max_iterations: int = option(20, "Most steps.")

    def __post_init__(self) -> None:
        check_range(self, "astrometry_chip_order", low=0, high=4)
        check_range(self, "astrometry_visit_order", low=1, high=7)
        check_range(self, "photometry_visit_order", low=0, high=7)
        check_range(self, "match_radius", low=0.0, low_open=True)
        check_range(self, "min_measurements", low=2)
        check_range(self, "astrometry_min_snr", low=5.0)
        check_range(self, "photometry_min_snr", low=5.0)
        check_range(self, "max_sources", low=10)
        check_range(self, "clip", low=2.0)
        check_range(self, "astrometry_reference_floor", low=0.0)
        check_range(self, "photometry_reference_floor", low=0.0)
        check_range(self, "max_iterations", low=2)
        if not self.flux.endswith("Flux"):
            raise ConfigError(f"flux must be a column like psfFlux or ap12Flux; got {self.flux!r}")


@dataclass(frozen=True)
class JointSources:
    """Measurements of many visits.

    Parameters
    ----------
    id : (n,) int64
        Source identifiers.
    visit, detector : (n,) int64
        Where each was measured.
    x, y, error : (n,) float64
        Centroid and its standard deviation per axis [pixel].
    flux, flux_err : (n,) float64
        Flux [electron].
    snr : (n,) float64
        Signal to noise.
    point : (n,) bool
        Looks like a star and is good for photometry.
    star : (n,) int64
        Number of the star.
    star_ra, star_dec : (n_star,) float64
        Mean single-frame position of each star [deg].
    """

    id: Int64Array
    visit: Int64Array
    detector: Int64Array
    x: Float64Array
    y: Float64Array
    error: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    snr: Float64Array
    point: BoolArray
    star: Int64Array
    star_ra: Float64Array
    star_dec: Float64Array


@dataclass(frozen=True)
class StarReferences:
    """References of the stars.

    Parameters
    ----------
    star : (m,) int64
        Number of the star.
    catalogue : ReferenceStars
        The matched rows, in the same order.
    """

    star: Int64Array
    catalogue: ReferenceStars


def geometries(summaries: Sequence[Table]) -> list[CcdGeometry]:
    """The single-frame coordinates in the visit summaries.

    Parameters
    ----------
    summaries : sequence of Table
        ``visitSummary`` of each visit.

    Returns
    -------
    list of CcdGeometry
        One for each row.
    """
    return [
        CcdGeometry(int(r["visit"]), int(r["detector"]), wcs_of(r), (int(r["ny"]), int(r["nx"])))
        for table in summaries
        for r in table
    ]


def _one_visit(table: Table, rows: dict[int, Table.Row], options: JointOptions) -> list[Table]:
    parts = []
    names = ("id", "visit", "detector", "x", "y", "ra", "dec")
    for detector, row in rows.items():
        mine = table[np.asarray(table["detector"]) == detector]
        snr = np.nan_to_num(np.asarray(mine["snr"], np.float64))
        good = (np.asarray(mine["centroid_flags"]) == 0) & ~np.asarray(mine["blended"], bool)
        good &= snr >= min(options.astrometry_min_snr, options.photometry_min_snr)
        good &= np.isfinite(mine["x"]) & np.isfinite(mine["y"])
        keep = np.flatnonzero(good)
        keep = keep[np.argsort(-snr[keep], kind="stable")][: options.max_sources]
        part = Table({n: np.asarray(mine[n])[keep] for n in names})
        x, y = np.asarray(part["x"]), np.asarray(part["y"])
        scale = flux_scale_of(row, shape=(int(row["ny"]), int(row["nx"]))).scale(x=x, y=y)
        part["flux"] = np.asarray(mine[options.flux], np.float64)[keep] / scale
        part["flux_err"] = np.asarray(mine[f"{options.flux}Err"], np.float64)[keep] / scale
        part["error"] = np.hypot(mine["x_err"][keep], mine["y_err"][keep]) / np.sqrt(2.0)
        part["snr"] = snr[keep]
        point = np.asarray(mine["extendedness"])[keep] < 0.5
        if f"{options.flux}_flags" in mine.colnames:
            point &= np.asarray(mine[f"{options.flux}_flags"])[keep] == 0
        part["point"] = point & (part["flux"] > 0)
        parts.append(part)
    return parts


def gather_sources(
    tables: Sequence[Table], summaries: Sequence[Table], options: JointOptions
) -> JointSources:
    """Choose the good bright sources of all visits and number their stars.

    Parameters
    ----------
    tables : sequence of Table
        ``preSourceTable_visit`` of each visit.
    summaries : sequence of Table
        ``visitSummary`` of each visit.
    options : JointOptions
        Choice.

    Returns
    -------
    JointSources
        Sources of the CCDs that stand in a summary.

    Raises
    ------
    NoDataError
        If no source is left.
    """
    rows: dict[int, dict[int, Table.Row]] = {}
    for summary in summaries:
        for row in summary:
            rows.setdefault(int(row["visit"]), {})[int(row["detector"])] = row
    parts: list[Table] = []
    for table in tables:
        if len(table):
            parts += _one_visit(table, rows.get(int(table["visit"][0]), {}), options)

    def column(name: str) -> NDArray:
        return np.concatenate([np.asarray(p[name]) for p in parts])

    if not parts or not sum(len(p) for p in parts):
        raise NoDataError(
            f"no source with S/N >= {options.astrometry_min_snr:g} on any CCD of the visits; the "
            "joint calibration has nothing to work on"
        )
    ra, dec, visit = column("ra"), column("dec"), column("visit").astype(np.int64)
    star = associate(ra, dec, visit, radius_arcsec=options.match_radius)
    star_ra, star_dec = _mean_positions(ra, dec, star)
    return JointSources(
        column("id").astype(np.int64),
        visit,
        column("detector").astype(np.int64),
        column("x"),
        column("y"),
        column("error"),
        column("flux"),
        column("flux_err"),
        column("snr"),
        column("point").astype(bool),
        star,
        star_ra,
        star_dec,
    )


def _mean_positions(
    ra: Float64Array, dec: Float64Array, star: Int64Array
) -> tuple[Float64Array, Float64Array]:
    a, d = np.radians(ra), np.radians(dec)
    xyz = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    mean = np.stack([np.bincount(star, component) for component in xyz])
    return (
        np.degrees(np.arctan2(mean[1], mean[0])) % 360.0,
        np.degrees(np.arctan2(mean[2], np.hypot(mean[0], mean[1]))),
    )


def match_references(
    sources: JointSources, references: ReferenceStars, *, radius: float
) -> StarReferences:
    """Pair the stars with a reference catalogue.

    Parameters
    ----------
    sources : JointSources
        The stars.
    references : ReferenceStars
        The catalogue at the mean epoch.
    radius : float [arcsec]
        Largest separation.

    Returns
    -------
    StarReferences
        The pairs.
    """
    pairs = match_sky(
        sources.star_ra, sources.star_dec, references.ra, references.dec, radius_arcsec=radius
    )
    return StarReferences(pairs.first, references.select(pairs.second))

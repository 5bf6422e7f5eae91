"""Which CCDs of which visits are good enough for weak lensing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema

__all__ = ["SelectOptions", "count_reasons", "published_cuts", "select_detectors"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """The cuts of the selection."""

    fwhm: float = option(6.4, "Largest median FWHM of a CCD.", unit="pixel")
    ellipticity: float = option(0.33, "Largest median modulus of the distortion of a CCD.")
    max_distance: float = option(
        1.5, "Largest distance of a CCD's centre from the cluster.", unit="deg"
    )
    visit_sigma: float = option(
        2.0, "A visit may have so many sigma fewer PSF stars than the median visit."
    )
    detector_sigma: float = option(
        3.0, "A CCD may have so many sigma fewer PSF stars than the median CCD."
    )
    min_detectors: int = option(11, "A visit with fewer good CCDs is dropped altogether.")
    drop_detectors: tuple[int, ...] = option(
        (2, 31, 61, 62), "CCDs that are never used (DECam's failing and edge ones)."
    )

    def __post_init__(self) -> None:
        check_range(self, "fwhm", low=0.0, low_open=True)
        check_range(self, "ellipticity", low=0.0, low_open=True)
        check_range(self, "max_distance", low=0.0, low_open=True)
        check_range(self, "visit_sigma", low=0.0)
        check_range(self, "detector_sigma", low=0.0)
        check_range(self, "min_detectors", low=1)


def published_cuts(band: str) -> tuple[float, float]:
    """FWHM [pixel] and ellipticity that the published pipeline allows in a band.

    Parameters
    ----------
    band : str
        Band; r is the band of the shapes.

    Returns
    -------
    fwhm, ellipticity : float
        Limits.
    """
    return (4.4, 0.13) if band == "r" else (6.4, 0.33)


def _separation(ra: Float64Array, dec: Float64Array, ra0: float, dec0: float) -> Float64Array:
    a, d, d0 = np.radians(ra - ra0), np.radians(dec), np.radians(dec0)
    haversine = np.sin(0.5 * (d - d0)) ** 2 + np.cos(d) * np.cos(d0) * np.sin(0.5 * a) ** 2
    return np.degrees(2.0 * np.arcsin(np.sqrt(np.minimum(haversine, 1.0))))


def _floor(counts: Float64Array, sigma: float) -> float:
    """Median less some robust sigma, which is never below the Poisson noise of the median."""
    median = float(np.median(counts))
    return median - sigma * max(robust_sigma(counts), np.sqrt(max(median, 1.0)))


def select_detectors(
    summaries: Sequence[Table],
    *,
    centre: tuple[float, float],
    options: SelectOptions = SelectOptions(),
) -> Table:
    """Apply the cuts to every CCD of every visit.

    Parameters
    ----------
    summaries : sequence of Table
        ``check_visit_summary`` of each visit of one band.
    centre : (float, float)
        Right ascension and declination of the cluster [deg].
    options : SelectOptions
        The cuts.

    Returns
    -------
    Table
        ``select_visit``: one row for each CCD with ``selected`` and the ``reason``.

    Raises
    ------
    NoDataError
        If there is no CCD at all.
    """
    if not summaries or not sum(len(t) for t in summaries):
        raise NoDataError("there is no visit to select from: run check_visit first")
    names = ("visit", "detector", "band", "ra", "dec", "n_star", "fwhm", "ellipticity")
    data = {n: np.concatenate([np.asarray(t[n]) for t in summaries]) for n in names}
    reason = np.full(data["visit"].size, "", dtype="U160")

    def cut(bad: NDArray[np.bool_], words: list[str]) -> None:
        for i in np.flatnonzero(bad & (reason == "")):
            reason[i] = words[i]

    n = reason.size
    dropped = np.isin(data["detector"], options.drop_detectors)
    cut(dropped, [f"detector: {d} is never used" for d in data["detector"]])
    total = _cut_visits(data, dropped, options, cut)
    distance = _separation(data["ra"], data["dec"], *centre)
    far = ~(distance <= options.max_distance)
    limit = options.max_distance
    cut(far, [f"distance: {v:.2f} > {limit:g} deg" for v in distance])
    kept = data["n_star"][~dropped] if (~dropped).any() else data["n_star"]
    low = _floor(kept.astype(float), options.detector_sigma)
    cut(data["n_star"] < low, [f"stars: {v} < {low:.1f}" for v in data["n_star"]])
    wide, long = ~(data["fwhm"] <= options.fwhm), ~(data["ellipticity"] <= options.ellipticity)
    cut(wide, [f"fwhm: {v:.2f} > {options.fwhm:g} pixel" for v in data["fwhm"]])
    cut(long, [f"ellipticity: {v:.3f} > {options.ellipticity:g}" for v in data["ellipticity"]])
    for visit in np.unique(data["visit"]):
        mine = data["visit"] == visit
        good = int((mine & (reason == "")).sum())
        if good < options.min_detectors:
            cut(mine, [f"detectors: {good} good ones in the visit < {options.min_detectors}"] * n)
    table = Table({k: data[k] for k in ("visit", "detector", "band", "n_star")})
    table["n_star_visit"], table["distance"] = total, distance
    table["fwhm"], table["ellipticity"] = data["fwhm"], data["ellipticity"]
    table["selected"], table["reason"] = reason == "", reason
    schema = load_schema("select_visit")
    return schema.apply(table[[c.name for c in schema.columns]])


def _cut_visits(
    data: dict[str, NDArray[Any]],
    dropped: NDArray[np.bool_],
    options: SelectOptions,
    cut: Callable[[NDArray[np.bool_], list[str]], None],
) -> NDArray[np.int64]:
    """Drop visits with few PSF stars (clouds, bad seeing); the number of stars of each visit."""
    visits, index = np.unique(data["visit"], return_inverse=True)
    stars = np.bincount(index, np.where(dropped, 0, data["n_star"]), visits.size)
    # Visits with fewer CCDs in the data have fewer stars for no fault of theirs.
    ccds = np.bincount(index, ~dropped, visits.size)
    density = stars / np.maximum(ccds, 1)
    low = _floor_of_visits(density, stars, options.visit_sigma)
    text = [f"visit: {density[i]:.1f} stars a CCD < {low:.1f}" for i in index]
    cut(density[index] < low, text)
    return stars[index].astype(np.int64)


def _floor_of_visits(density: Float64Array, stars: Float64Array, sigma: float) -> float:
    median = float(np.median(density))
    poisson = median / np.sqrt(max(float(np.median(stars)), 1.0))
    return median - sigma * max(robust_sigma(density), poisson)


def count_reasons(table: Table) -> dict[str, int]:
    """How many CCDs each cut took.

    Parameters
    ----------
    table : Table
        ``select_visit``.

    Returns
    -------
    dict of str to int
        Number of CCDs for each cut, and ``selected``.
    """
    words = [str(r).split(":")[0] or "selected" for r in table["reason"]]
    return {w: words.count(w) for w in sorted(set(words))}

"""How well the visits of one band agree on their stars: relative astrometry and photometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma

__all__ = ["Repeatability", "RepeatabilityOptions", "measure_repeatability"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RepeatabilityOptions:
    """Which sources count."""

    radius_arcsec: float = option(
        1.0, "sources of different visits within it are one star", unit="arcsec"
    )
    min_snr: float = option(100.0, "smallest signal-to-noise ratio: bright stars")

    def __post_init__(self) -> None:
        check_range(self, "radius_arcsec", low=0.0, low_open=True)
        check_range(self, "min_snr", low=0.0)


@dataclass(frozen=True, eq=False)
class Repeatability:
    """Scatter of single visits about the mean of each star.

    Parameters
    ----------
    n_stars : int
        Stars seen by at least two visits.
    astrometry_mas : float [mas]
        Median over the stars of the standard deviation of a position, per axis.
    astrometry_rms_mas : float [mas]
        Root mean square over all stars, per axis.
    photometry_mmag : float [mmag]
        Median over the stars of the standard deviation of a magnitude.
    ra, dec : (n_sources,) float64 [deg]
        Positions of the sources used.
    d_east, d_north : (n_sources,) float64 [mas]
        Offset of each from its star's mean.
    d_mag : (n_sources,) float64 [mmag]
        Offset of each from its star's mean.
    """

    n_stars: int
    astrometry_mas: float
    astrometry_rms_mas: float
    photometry_mmag: float
    ra: Float64Array
    dec: Float64Array
    d_east: Float64Array
    d_north: Float64Array
    d_mag: Float64Array


def _empty() -> Repeatability:
    none = np.empty(0)
    nan = float("nan")
    return Repeatability(0, nan, nan, nan, none, none, none, none, none)


def measure_repeatability(
    *,
    ra: Float64Array,
    dec: Float64Array,
    flux: Float64Array,
    snr: Float64Array,
    visit: NDArray[np.int64],
    star: NDArray[np.bool_],
    options: RepeatabilityOptions = RepeatabilityOptions(),
) -> Repeatability:
    """Compare the visits of one band star by star.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions of the sources of all visits.
    flux : (n,) float64
        Calibrated fluxes.
    snr : (n,) float64
        Signal-to-noise ratios.
    visit : (n,) int64
        Visit of each source.
    star : (n,) bool
        Unflagged, unblended point sources.
    options : RepeatabilityOptions
        Options.

    Returns
    -------
    Repeatability
        With the n - 1 of the unbiased variance; a median over stars of standard deviations of two
        visits is lower than the true scatter, so the medians are of the pooled offsets instead.
    """
    use = star & (snr > options.min_snr) & (flux > 0) & np.isfinite(ra) & np.isfinite(dec)
    if use.sum() < 2:
        return _empty()
    ra, dec, flux, visit = ra[use], dec[use], flux[use], visit[use]
    label = _group(ra, dec, options.radius_arcsec)
    n_group = int(label.max()) + 1
    count = np.bincount(label, minlength=n_group)
    pairs = np.unique(np.stack([label, visit]), axis=1)
    n_visits = np.bincount(pairs[0], minlength=n_group)
    # A star is used if every source comes from another visit: no double within the radius.
    good = (n_visits == count) & (count >= 2)
    keep = good[label]
    if not keep.any():
        return _empty()
    ra, dec, flux, label, count = ra[keep], dec[keep], flux[keep], label[keep], count
    first = np.zeros(n_group, np.int64)
    first[label] = np.arange(label.size)
    east = ((ra - ra[first[label]] + 180) % 360 - 180) * np.cos(np.radians(dec)) * 3.6e6
    north = (dec - dec[first[label]]) * 3.6e6
    mag = -2500.0 * np.log10(flux)

    def offset(values: Float64Array) -> Float64Array:
        mean = np.bincount(label, values, n_group) / np.maximum(count, 1)
        return (values - mean[label]) * np.sqrt(count[label] / (count[label] - 1.0))

    d_east, d_north, d_mag = offset(east), offset(north), offset(mag)
    both = np.concatenate([d_east, d_north])
    return Repeatability(
        n_stars=int(good.sum()),
        astrometry_mas=robust_sigma(both, centre=0.0),
        astrometry_rms_mas=float(np.sqrt(np.mean(both**2))),
        photometry_mmag=robust_sigma(d_mag, centre=0.0),
        ra=ra,
        dec=dec,
        d_east=d_east,
        d_north=d_north,
        d_mag=d_mag,
    )


def _group(ra: Float64Array, dec: Float64Array, radius_arcsec: float) -> NDArray[np.int64]:
    """Number the groups of positions that are linked by less than the radius."""
    a, d = np.radians(ra), np.radians(dec)
    xyz = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    pairs = cKDTree(xyz).query_pairs(np.radians(radius_arcsec / 3600.0), output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(ra.size, ra.size))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)

"""How good photometric redshifts and their p(z) are, against spectroscopic ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.photoz.storage import decode_pz, grid_of

__all__ = ["MetricOptions", "cde_loss", "measure_photoz", "pit_values", "point_metrics"]

Float64Array = NDArray[np.float64]
_ESTIMATES = ("z_phot", "z_median", "z_mean", "z_ml")


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """Which galaxies are graded, and what an outlier is."""

    outlier: float = option(0.15, "Beyond this abs(dz)/(1+z) a redshift is an outlier")
    min_odds: float = option(0.7, "Odds of the sure sample")
    max_chi2: float = option(4.0, "Modified chi2 of the sure sample")

    def __post_init__(self) -> None:
        check_range(self, "outlier", low=0.0, low_open=True)
        check_range(self, "min_odds", low=0.0, high=1.0)
        check_range(self, "max_chi2", low=0.0, low_open=True)


def point_metrics(
    z_phot: ArrayLike, z_spec: ArrayLike, *, outlier: float = 0.15
) -> dict[str, float]:
    """Bias, scatter and outliers of point redshifts.

    Parameters
    ----------
    z_phot, z_spec : (n,) float64
        Photometric and spectroscopic redshifts; rows with NaN do not count.
    outlier : float
        Beyond this ``abs(dz)/(1+z_spec)`` a redshift is an outlier.

    Returns
    -------
    dict of str to float
        ``n``; ``bias``: median of dz = (z_phot - z_spec)/(1 + z_spec); ``nmad``: 1.4826 times the
        median of abs(dz - bias); ``nmad_published``: 1.48 times the median of abs(dz), bias
        included; ``outliers``: fraction. NaN without galaxies.
    """
    a, b = np.asarray(z_phot, np.float64), np.asarray(z_spec, np.float64)
    good = np.isfinite(a) & np.isfinite(b)
    if not good.any():
        return {"n": 0, **dict.fromkeys(("bias", "nmad", "nmad_published", "outliers"), np.nan)}
    dz = (a[good] - b[good]) / (1.0 + b[good])
    bias = float(np.median(dz))
    return {
        "n": int(good.sum()),
        "bias": bias,
        "nmad": 1.4826 * float(np.median(np.abs(dz - bias))),
        "nmad_published": 1.48 * float(np.median(np.abs(dz))),
        "outliers": float(np.mean(np.abs(dz) > outlier)),
    }


def pit_values(pz: ArrayLike, z: ArrayLike, z_spec: ArrayLike) -> Float64Array:
    """Probability integral transform: the p(z) below the true redshift; uniform if p(z) is right.

    Parameters
    ----------
    pz : (n, n_bin) float
        Probability in each bin.
    z : (n_bin,) float64
        Centres of the bins, equally spaced.
    z_spec : (n,) float64
        True redshifts.

    Returns
    -------
    (n,) float64
        In [0, 1]; NaN where p(z) or the redshift is missing.
    """
    p, grid, truth = _checked(pz, z, z_spec)
    step = grid[1] - grid[0]
    place = (truth - grid[0]) / step + 0.5
    cell = np.clip(np.floor(np.nan_to_num(place)).astype(np.int64), 0, len(grid) - 1)
    rows = np.arange(len(p))
    below = np.cumsum(p, axis=1)[rows, cell] - p[rows, cell]
    inside = np.clip(np.nan_to_num(place) - cell, 0.0, 1.0)
    # Single precision: a row sums to one within rounding.
    value = np.minimum(below + inside * p[rows, cell], 1.0)
    return np.where(np.isfinite(truth) & (p.sum(axis=1) > 0), value, np.nan)


def cde_loss(pz: ArrayLike, z: ArrayLike, z_spec: ArrayLike) -> float:
    """Loss of the conditional density: mean of int p(z)^2 dz - 2 p(z_spec); lower is better.

    Parameters
    ----------
    pz : (n, n_bin) float
        Probability in each bin.
    z : (n_bin,) float64
        Centres of the bins, equally spaced.
    z_spec : (n,) float64
        True redshifts.

    Returns
    -------
    float
        Up to a constant the mean squared distance of p(z) from the true density; NaN without
        galaxies.

    References
    ----------
    Izbicki & Lee 2017, Electron. J. Statist. 11, 2800.
    """
    p, grid, truth = _checked(pz, z, z_spec)
    good = np.isfinite(truth) & (p.sum(axis=1) > 0)
    if not good.any():
        return float("nan")
    step = grid[1] - grid[0]
    density = p[good] / step
    place = np.floor((truth[good] - grid[0]) / step + 0.5)
    on_grid = (place >= 0) & (place < len(grid))
    cell = np.clip(place, 0, len(grid) - 1).astype(np.int64)
    there = np.where(on_grid, density[np.arange(len(density)), cell], 0.0)
    return float(np.mean((density**2).sum(axis=1) * step - 2.0 * there))


def _checked(
    pz: ArrayLike, z: ArrayLike, z_spec: ArrayLike
) -> tuple[Float64Array, Float64Array, Float64Array]:
    p = np.atleast_2d(np.asarray(pz, np.float64))
    grid, truth = np.asarray(z, np.float64), np.atleast_1d(np.asarray(z_spec, np.float64))
    if p.shape != (len(truth), len(grid)) or len(grid) < 2:
        raise DataError(
            f"p(z) must be (galaxies, bins) = ({len(truth)}, {len(grid)}) with at least 2 bins; "
            f"got {p.shape}"
        )
    return p, grid, truth


def _pit_row(pit: Float64Array) -> dict[str, float]:
    """Kolmogorov-Smirnov distance from uniform and the tenths at both ends."""
    values = np.sort(pit[np.isfinite(pit)])
    n = len(values)
    if n == 0:
        return {"pit_ks": np.nan, "pit_low": np.nan, "pit_high": np.nan}
    steps = np.arange(1, n + 1) / n
    distance = max(np.max(steps - values), np.max(values - steps + 1.0 / n))
    return {
        "pit_ks": float(distance),
        "pit_low": float(np.mean(values < 0.1)),
        "pit_high": float(np.mean(values > 0.9)),
    }


def _samples(table: Table, options: MetricOptions) -> Sequence[tuple[str, NDArray[np.bool_]]]:
    sure = np.asarray(table["odds"], np.float64) > options.min_odds
    sure &= np.asarray(table["mod_chi2"], np.float64) < options.max_chi2
    return (("all", np.ones(len(table), bool)), ("sure", sure))


def measure_photoz(
    photoz: Table, z_spec: ArrayLike, *, options: MetricOptions = MetricOptions()
) -> Table:
    """Grade redshifts against spectroscopic ones.

    Parameters
    ----------
    photoz : astropy.table.Table
        Schema ``photoz``.
    z_spec : (n,) float64
        Spectroscopic redshift of each row; NaN where there is none.
    options : MetricOptions
        Samples and outliers.

    Returns
    -------
    astropy.table.Table
        Schema ``photozMetrics``: a row for each estimate (mode, median, mean, maximum likelihood)
        and sample (all; sure ones by odds and modified chi2). The columns of p(z) are the same in
        all rows of a sample, and NaN if the table has no p(z).

    Raises
    ------
    DataError
        If the lengths differ.
    NoDataError
        If no row has both redshifts.
    """
    truth = np.atleast_1d(np.asarray(z_spec, np.float64))
    if truth.shape != (len(photoz),):
        raise DataError(f"z_spec must be ({len(photoz)},), one for each row; got {truth.shape}")
    if not (np.isfinite(truth) & np.isfinite(np.asarray(photoz["z_phot"], np.float64))).any():
        raise NoDataError("no galaxy has both a spectroscopic and a photometric redshift")
    rows = []
    for sample, chosen in _samples(photoz, options):
        known = chosen & np.isfinite(truth)
        shape = {"cde_loss": np.nan, "pit_ks": np.nan, "pit_low": np.nan, "pit_high": np.nan}
        if "pz" in photoz.colnames and known.any():
            grid = grid_of(photoz)
            pz = decode_pz(np.asarray(photoz["pz"], np.uint8)[known])
            shape = {
                "cde_loss": cde_loss(pz, grid, truth[known]),
                **_pit_row(pit_values(pz, grid, truth[known])),
            }
        for name in _ESTIMATES:
            values = np.asarray(photoz[name], np.float64)[known]
            point = point_metrics(values, truth[known], outlier=options.outlier)
            rows.append({"sample": sample, "estimate": name, **point, **shape})
    return load_schema("photozMetrics").apply(Table(rows=rows))

"""Mean shears and their response, from the catalogues of metadetection.

Everything comes from sums over galaxies for each applied shear, which may be added over cells,
patches and clusters: `sum_shapes`, `sum_groups`. `solve_shear` makes a shear of them,
`solve_groups` also its error by leaving out one group after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions, shear_weights

__all__ = [
    "ShearEstimate",
    "ShearSolution",
    "estimate_shear",
    "solve_groups",
    "solve_shear",
    "sum_groups",
    "sum_shapes",
]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class ShearEstimate:
    """A mean shear.

    Parameters
    ----------
    g1, g2, g1_err, g2_err : float
        Shear and its jackknife error.
    response, response_err : (2, 2) float64
        Response R_ij and its jackknife error.
    n : int
        Galaxies of the unsheared catalogue that have a weight.
    """

    g1: float
    g2: float
    g1_err: float
    g2_err: float
    response: Float64Array
    response_err: Float64Array
    n: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ShearSolution:
    """Shears and responses of one or many samples, with jackknife errors.

    NaN where a sample is empty without one of the groups.

    Parameters
    ----------
    shear, shear_err : (..., 2) float64
        ``R^-1 <e>``.
    response, response_err : (..., 2, 2) float64
        Response R_ij.
    r, r_err : (...) float64
        Mean of its diagonal.
    """

    shear: Float64Array
    shear_err: Float64Array
    response: Float64Array
    response_err: Float64Array
    r: Float64Array
    r_err: Float64Array


def sum_groups(
    weight: Float64Array,
    e1: Float64Array,
    e2: Float64Array,
    *,
    version: Int64Array,
    group: Int64Array,
    n_group: int,
) -> Float64Array:
    """What mean shears are made of, for each group of galaxies.

    Parameters
    ----------
    weight, e1, e2 : (n,) float64
        Weights and shapes of galaxies of all versions.
    version : (n,) int64
        Index of each into `skymill.shear.metacal.SHEAR_TYPES`.
    group : (n,) int64
        Group of each.
    n_group : int
        Number of groups.

    Returns
    -------
    (n_group, 5, 4) float64
        For each of the versions: sums of w, w e1, w e2, and the number with w > 0.
    """
    n_version = len(SHEAR_TYPES)
    index = group * n_version + version
    values = (weight, weight * e1, weight * e2, weight > 0)
    sums = [np.bincount(index, v, minlength=n_group * n_version) for v in values]
    return np.stack(sums, axis=-1).reshape(n_group, n_version, len(values))


def _sum_by_cell(
    catalogues: dict[str, Table],
    cell: str | None,
    options: MetadetectOptions,
    weigh: Callable[[Table], Float64Array] | None,
) -> Float64Array:
    """The sums of each cell, or of all together."""
    weigh = weigh or functools.partial(shear_weights, options=options)
    tables = [catalogues[name] for name in SHEAR_TYPES]
    weight = np.concatenate([np.asarray(weigh(t), np.float64) for t in tables])
    e1, e2 = (np.concatenate([np.asarray(t[n], np.float64) for t in tables]) for n in ("e1", "e2"))
    version = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    cells, group = np.zeros(1), np.zeros(weight.size, np.int64)
    if cell is not None:
        numbers = np.concatenate([np.asarray(t[cell]) for t in tables])
        cells, group = np.unique(numbers, return_inverse=True)
    return sum_groups(weight, e1, e2, version=version, group=group, n_group=len(cells))


def sum_shapes(
    catalogues: dict[str, Table],
    *,
    options: MetadetectOptions | None = None,
    weigh: Callable[[Table], Float64Array] | None = None,
) -> Float64Array:
    """What a mean shear is made of; sums of several cells or clusters may be added.

    Parameters
    ----------
    catalogues : dict of str to Table
        For each of `skymill.shear.metacal.SHEAR_TYPES` the sources.
    options : MetadetectOptions, optional
        Weights.
    weigh : callable, optional
        Weights of a table's rows instead of `shear_weights`.

    Returns
    -------
    (5, 4) float64
        For each of the versions: sums of w, w e1, w e2, and the number with w > 0.
    """
    sums: Float64Array = _sum_by_cell(catalogues, None, options or MetadetectOptions(), weigh)[0]
    return sums


def solve_shear(
    sums: Float64Array, options: MetadetectOptions | None = None
) -> tuple[Float64Array, Float64Array]:
    """Shear and response from the sums of `sum_shapes`.

    Parameters
    ----------
    sums : (..., 5, 4) float64
        Sums, of one or of many samples.
    options : MetadetectOptions, optional
        Applied shear.

    Returns
    -------
    shear : (..., 2) float64
        ``R^-1 <e>``.
    response : (..., 2, 2) float64
        ``R_ij = (<e_i>_j+ - <e_i>_j-) / (2 step)``.
    """
    step = (options or MetadetectOptions()).metacal.step
    mean = sums[..., 1:3] / sums[..., :1]
    response = np.stack(
        [
            (mean[..., 1, :] - mean[..., 2, :]) / (2 * step),
            (mean[..., 3, :] - mean[..., 4, :]) / (2 * step),
        ],
        axis=-1,
    )
    return np.linalg.solve(response, mean[..., 0, :, None])[..., 0], response


def solve_groups(sums: Float64Array, options: MetadetectOptions | None = None) -> ShearSolution:
    """Shears and responses of all groups together, with errors by leaving out each.

    Parameters
    ----------
    sums : (n_group, ..., 5, 4) float64
        Sums of each group, of one or of many samples.
    options : MetadetectOptions, optional
        Applied shear.

    Returns
    -------
    ShearSolution
        Values and errors; NaN if a version has no galaxy without one of the groups.
    """
    total = sums.sum(axis=0)
    left = total - sums
    if not (left[..., 0] > 0).all():
        shape = total.shape[:-2]
        nothing, matrix = np.full((*shape, 2), np.nan), np.full((*shape, 2, 2), np.nan)
        return ShearSolution(
            shear=nothing, shear_err=nothing, response=matrix, response_err=matrix,
            r=nothing[..., 0], r_err=nothing[..., 0],
        )  # fmt: skip
    shear, response = solve_shear(total, options)
    shears, responses = solve_shear(left, options)
    return ShearSolution(
        shear=shear,
        shear_err=_jackknife_error(shears),
        response=response,
        response_err=_jackknife_error(responses),
        r=_mean_diagonal(response),
        r_err=_jackknife_error(_mean_diagonal(responses)),
    )


def _mean_diagonal(response: Float64Array) -> Float64Array:
    return np.asarray(0.5 * (response[..., 0, 0] + response[..., 1, 1]))


def _jackknife_error(values: Float64Array) -> Float64Array:
    n = len(values)
    return np.asarray(np.sqrt((n - 1) / n * ((values - values.mean(axis=0)) ** 2).sum(axis=0)))


def estimate_shear(
    catalogues: dict[str, Table] | list[dict[str, Table]],
    *,
    cell: str | None = None,
    options: MetadetectOptions | None = None,
    max_groups: int = 200,
    weigh: Callable[[Table], Float64Array] | None = None,
) -> ShearEstimate:
    """Mean shear of catalogues, with jackknife errors over cells.

    Parameters
    ----------
    catalogues : dict of str to Table, or a list of them
        For each of `skymill.shear.metacal.SHEAR_TYPES` the sources; a list is one entry a cell.
    cell : str, optional
        Column that numbers the cells, where one dict is given.
    options : MetadetectOptions, optional
        Weights and applied shear.
    max_groups : int
        Cells are joined to at most so many groups for the jackknife.
    weigh : callable, optional
        Weights of a table's rows instead of `shear_weights`, for further cuts; it is applied to
        every version alike and must not know which it is.

    Returns
    -------
    ShearEstimate
        Shear, response, errors.

    Raises
    ------
    DataError
        If fewer than two cells have galaxies in every version.
    """
    options = options or MetadetectOptions()
    if isinstance(catalogues, list):
        sums = np.array([sum_shapes(one, options=options, weigh=weigh) for one in catalogues])
    elif cell is None:
        raise DataError("estimate_shear needs the name of the column that numbers the cells")
    else:
        sums = _sum_by_cell(catalogues, cell, options, weigh)
    n = len(sums)
    if n < 2:
        raise DataError(f"a jackknife needs at least two cells; found {n}")
    groups = np.arange(n) * min(max_groups, n) // n
    grouped = np.zeros((groups[-1] + 1, *sums.shape[1:]))
    np.add.at(grouped, groups, sums)
    found = solve_groups(grouped, options)
    if np.isnan(found.r):
        raise DataError("too few galaxies passed the cuts to find the shear's response")
    return ShearEstimate(
        g1=float(found.shear[0]),
        g2=float(found.shear[1]),
        g1_err=float(found.shear_err[0]),
        g2_err=float(found.shear_err[1]),
        response=found.response,
        response_err=found.response_err,
        n=int(grouped[:, 0, 3].sum()),
    )

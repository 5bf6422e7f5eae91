"""From the five versions of a metadetection catalogue to calibrated shears.

The response ``R_ij = (<e_i>_{j+} - <e_i>_{j-}) / (2 step)`` of the weighted mean shape is measured
at a few sizes. Divided by the response at its size, a shape has about unit response. What is left
is measured on the weighted mean of these, and divided out: weights and detection are then part of
the response, whatever they are. The response may be that of several catalogues together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError, NoDataError
from skymill.data.flags import ShearFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions, ramp, shear_weights
from skymill.shear.response import ShearSolution, solve_groups, sum_groups

__all__ = ["MetaCalibrationOptions", "ResponseCurve", "calibrate_metadetection", "measure_response"]

Float64Array = NDArray[np.float64]
_COLUMNS = ("shear", "cell", "e1", "e2", "size_ratio", "snr", "detection", "flags", "p_behind")


@dataclass(frozen=True, kw_only=True)
class MetaCalibrationOptions:
    """Weights by redshift, nodes of the response, jackknife."""

    min_p_behind: float = option(
        0.5, "Probability to lie behind the cluster at which weights are zero"
    )
    full_p_behind: float = option(0.9, "Probability from which they are full")
    n_nodes: int = option(4, "Most sizes at which the response is measured")
    min_significance: float = option(
        10.0, "Response over its error that every node needs; else there are fewer nodes"
    )
    max_shear: float = option(2.0, "Largest modulus of the calibrated shear")
    n_groups: int = option(100, "Groups of cells that the jackknife leaves out in turn")

    def __post_init__(self) -> None:
        check_range(self, "min_p_behind", low=0.0, high=1.0)
        check_range(self, "full_p_behind", low=self.min_p_behind, high=1.0)
        check_range(self, "n_nodes", low=1, high=50)
        check_range(self, "min_significance", low=0.0)
        check_range(self, "max_shear", low=0.0, low_open=True)
        check_range(self, "n_groups", low=2, high=10_000)


@dataclass(frozen=True, kw_only=True)
class ResponseCurve:
    """Response as a function of size, and what it leaves.

    Parameters
    ----------
    size_ratio, r, variance : (n_node,) float64
        Nodes, response there, and mean square of one component of the shapes; between nodes they
        are interpolated.
    left : float
        Response of the weighted mean of the shapes over the curve.
    left_err : float
        Its jackknife error.
    """

    size_ratio: Float64Array
    r: Float64Array
    variance: Float64Array
    left: float
    left_err: float

    def at(self, size_ratio: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Response and variance at sizes (n,)."""
        return (
            np.interp(size_ratio, self.size_ratio, self.r),
            np.interp(size_ratio, self.size_ratio, self.variance),
        )


@dataclass(frozen=True)
class _Sample:
    """The rows with a weight of one catalogue; ``version`` is an index into `SHEAR_TYPES`."""

    version: NDArray[np.int64]
    group: NDArray[np.int64]
    n_group: int
    e: Float64Array
    size: Float64Array
    weight: Float64Array

    def sums(self, weight: Float64Array, e: Float64Array) -> Float64Array:
        """The sums of each group and column, (n_group, n_column, 5, 4); weight (n, n_column)."""
        columns = [
            sum_groups(
                w, e[:, 0], e[:, 1], version=self.version, group=self.group, n_group=self.n_group
            )
            for w in weight.T
        ]
        return np.stack(columns, axis=1)


def _versions(catalogue: Table) -> NDArray[np.int64]:
    missing = [name for name in _COLUMNS if name not in catalogue.colnames]
    if missing:
        raise DataError(
            f"the catalogue of metadetection has no column {', '.join(missing)}; it is made by the "
            "step meta_process"
        )
    names = np.asarray(catalogue["shear"]).astype(str)
    version = np.full(len(names), -1)
    for k, name in enumerate(SHEAR_TYPES):
        version[names == name] = k
    if (version < 0).any():
        raise DataError(
            f"the column shear must hold {', '.join(SHEAR_TYPES)}; found {names[version < 0][0]!r}"
        )
    return version


def _weights(
    catalogue: Table, options: MetaCalibrationOptions, detect: MetadetectOptions
) -> tuple[Float64Array, Float64Array]:
    """Weights by shape, and with the redshift."""
    by_shape = shear_weights(catalogue, detect)
    p = np.nan_to_num(np.asarray(catalogue["p_behind"], np.float64))
    return by_shape, by_shape * ramp(p, options.min_p_behind, options.full_p_behind)


def _sample(
    catalogue: Table, options: MetaCalibrationOptions, detect: MetadetectOptions, n_groups: int
) -> _Sample:
    version = _versions(catalogue)
    by_shape, weight = _weights(catalogue, options, detect)
    used = weight > 0
    counts = [int(np.count_nonzero(used[version == k])) for k in range(len(SHEAR_TYPES))]
    if min(counts) == 0:
        plain = version == 0
        raise NoDataError(
            f"none of {int(plain.sum())} objects of metadetection can be used: "
            f"{int((by_shape[plain] > 0).sum())} have a good shape, {counts[0]} of them probably "
            "lie behind the cluster"
        )
    cells, cell = np.unique(np.asarray(catalogue["cell"])[used], return_inverse=True)
    n_group = min(n_groups, len(cells))
    e = np.stack([np.asarray(catalogue[n], np.float64)[used] for n in ("e1", "e2")], axis=1)
    size = np.asarray(catalogue["size_ratio"], np.float64)[used]
    group = cell * n_group // len(cells)
    return _Sample(version[used], group, n_group, e, size, weight[used])


def _hats(size: Float64Array, nodes: Float64Array) -> Float64Array:
    """Share (n, n_node) that each size has in each node: linear between them."""
    return np.stack([np.interp(size, nodes, row) for row in np.eye(len(nodes))], axis=1)


def _nodes(sample: Sequence[_Sample], n: int) -> Float64Array:
    """Sizes at the middles of n parts of equal weight."""
    size = np.concatenate([s.size[s.version == 0] for s in sample])
    weight = np.concatenate([s.weight[s.version == 0] for s in sample])
    order = np.argsort(size)
    share = np.cumsum(weight[order]) / weight.sum()
    return np.interp((np.arange(n) + 0.5) / n, share, size[order])


def measure_response(
    catalogues: Sequence[Table],
    *,
    options: MetaCalibrationOptions = MetaCalibrationOptions(),
    detect: MetadetectOptions | None = None,
) -> tuple[ResponseCurve, Table]:
    """The response from one or many catalogues.

    Parameters
    ----------
    catalogues : sequence of astropy.table.Table
        Schema ``metaCalibratedCatalog``. The mean shears in the result are of the first.
    options : MetaCalibrationOptions
        Weights and nodes.
    detect : MetadetectOptions, optional
        Weights, applied shear.

    Returns
    -------
    ResponseCurve
        The response at sizes.
    astropy.table.Table
        Schema ``metaResponse``: as many nodes as ``min_significance`` allows, then all together.

    Raises
    ------
    NoDataError
        If no galaxy has a weight, or the response is not significant.
    """
    detect = detect or MetadetectOptions()
    n_groups = max(2, options.n_groups // len(catalogues))
    samples = [_sample(t, options, detect, n_groups) for t in catalogues]
    nodes, found = _measure_nodes(samples, options, detect)
    variance = np.ones(len(nodes))
    plain = [(s, s.version == 0) for s in samples]
    for k in range(len(nodes)):
        w = np.concatenate([(s.weight * _hats(s.size, nodes)[:, k])[p] for s, p in plain])
        e2 = np.concatenate([0.5 * (s.e[p] ** 2).sum(axis=1) for s, p in plain])
        variance[k] = np.average(e2, weights=w)
    curve = ResponseCurve(size_ratio=nodes, r=found.r, variance=variance, left=1.0, left_err=0.0)
    whole = solve_groups(np.concatenate([_calibrated_sums(s, curve) for s in samples]), detect)
    own = solve_groups(_calibrated_sums(samples[0], curve), detect)
    curve = replace(curve, left=float(whole.r[0]), left_err=float(whole.r_err[0]))
    return curve, _response_table(nodes, found, whole, own, samples)


def _measure_nodes(
    samples: Sequence[_Sample], options: MetaCalibrationOptions, detect: MetadetectOptions
) -> tuple[Float64Array, ShearSolution]:
    """The response at as many sizes as are significant."""
    for n in range(options.n_nodes, 0, -1):
        nodes = _nodes(samples, n)
        parts = [s.sums(s.weight[:, None] * _hats(s.size, nodes), s.e) for s in samples]
        found = solve_groups(np.concatenate(parts), detect)
        if (found.r > options.min_significance * found.r_err).all():
            return nodes, found
    if not found.r[0] > 3 * found.r_err[0]:
        raise NoDataError(
            f"the response of {sum(int((s.version == 0).sum()) for s in samples)} galaxies is "
            f"{found.r[0]:.3f} +- {found.r_err[0]:.3f}, too uncertain to calibrate with; "
            "measure it together with other clusters (metaShear: responseCatalogs; in the "
            "cluster file shear: response_from)"
        )
    return nodes, found


def _calibrated_sums(sample: _Sample, curve: ResponseCurve) -> Float64Array:
    r, variance = curve.at(sample.size)
    return sample.sums((sample.weight * r**2 / variance)[:, None], sample.e / r[:, None])


def _response_table(
    nodes: Float64Array,
    found: ShearSolution,
    whole: ShearSolution,
    own: ShearSolution,
    samples: Sequence[_Sample],
) -> Table:
    """Rows of the nodes and of all together; mean shears are those of the first catalogue."""
    n_plain = sum(int((s.version == 0).sum()) for s in samples)
    rows = []
    for k in [*range(len(nodes)), -1]:
        part, shears, at = (found, found, k) if k >= 0 else (whole, own, 0)
        row = {
            "node": k,
            "size_ratio": nodes[k] if k >= 0 else np.nan,
            "n": n_plain,
            "n_cluster": len(samples),
            "r": part.r[at],
            "r_err": part.r_err[at],
        }
        for i in (0, 1):
            row[f"g{i + 1}"] = shears.shear[at, i]
            row[f"g{i + 1}_err"] = shears.shear_err[at, i]
            for j in (0, 1):
                row[f"r{i + 1}{j + 1}"] = part.response[at, i, j]
                row[f"r{i + 1}{j + 1}_err"] = part.response_err[at, i, j]
        rows.append(row)
    return load_schema("metaResponse").apply(Table(rows=rows))


def calibrate_metadetection(
    catalogue: Table,
    *,
    others: Sequence[Table] = (),
    band: str = "r",
    options: MetaCalibrationOptions = MetaCalibrationOptions(),
    detect: MetadetectOptions | None = None,
) -> tuple[Table, Table]:
    """Calibrate the shears of the unsheared version.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``metaCalibratedCatalog``.
    others : sequence of astropy.table.Table
        The same of other clusters: the response is then that of all together.
    band : str
        Band of the column ``mag``.
    options : MetaCalibrationOptions
        Weights and nodes.
    detect : MetadetectOptions, optional
        Weights, applied shear.

    Returns
    -------
    shears : astropy.table.Table
        Schema ``shearCatalog``, one row for each object of the unsheared version.
    response : astropy.table.Table
        Schema ``metaResponse``.

    Raises
    ------
    NoDataError
        If no galaxy has a weight, or the response is not significant.
    """
    detect = detect or MetadetectOptions()
    curve, response = measure_response([catalogue, *others], options=options, detect=detect)
    table = catalogue[_versions(catalogue) == 0]
    by_shape, weight = _weights(table, options, detect)
    e1, e2, size = (np.asarray(table[n], np.float64) for n in ("e1", "e2", "size_ratio"))
    r, variance = curve.at(size)
    g1, g2 = e1 / r / curve.left, e2 / r / curve.left
    large = np.hypot(g1, g2) >= options.max_shear
    flags = np.zeros(len(table), np.uint32)
    flags[np.asarray(table["flags"]) != 0] |= np.uint32(ShearFlag.NO_SHAPE)
    flags[weight <= 0] |= np.uint32(ShearFlag.CUT)
    flags[large] |= np.uint32(ShearFlag.LARGE_SHEAR)
    nothing, zero = np.full(len(table), np.nan), np.zeros(len(table))
    columns = {name: np.asarray(table[name]) for name in ("ra", "dec", "z_phot", "snr", "odds")}
    magnitude = f"{band}_mag"
    out = Table(
        {
            "ID": np.asarray(table["ID"]).astype(str),
            **columns,
            "g1": g1,
            "g2": -g2,
            "weight": weight * r**2 / variance,
            "g1_pixel": g1,
            "g2_pixel": g2,
            "shear_m": r * curve.left - 1.0,
            "shear_c1": zero,
            "shear_c2": zero,
            "e1": e1,
            "e2": e2,
            "e_rms": np.sqrt(variance),
            "sigmae": nothing,
            "res": 1.0 - 1.0 / np.maximum(size, 1e-3),
            "mag": np.asarray(table[magnitude]) if magnitude in table.colnames else nothing,
            "blendedness": nothing,
            "mod_chi2": np.asarray(table["mod_chi2"]),
            "use": (weight > 0) & ~large,
            "shear_flags": flags,
        }
    )
    counts = {
        "shape": int((by_shape <= 0).sum()),
        "redshift": int(((by_shape > 0) & (weight <= 0)).sum()),
        "large_shear": int((large & (weight > 0)).sum()),
    }
    out.meta.update(method="metadetect", n_cluster=1 + len(others), cuts=json.dumps(counts))
    out.meta.update(response=curve.left, response_err=curve.left_err)
    return load_schema("shearCatalog").apply(out), response

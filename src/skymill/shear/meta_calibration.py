"""From the five versions of a metadetection catalogue to calibrated shears.

Galaxies are sorted into bins of their size over that of the PSF. In each bin

    R_ij = (<e_i>_{j+} - <e_i>_{j-}) / (2 step)

with weighted means over those that fall into the bin in that version of the catalogue: moving from
one bin to the next, like every other cut and weight, is part of the response. A galaxy's shear is
``e / R`` with ``R = (R_11 + R_22) / 2`` of its bin, its weight ``w R^2 / <e^2>``. The response may
be that of several catalogues together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError, NoDataError
from skymill.data.flags import ShearFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.shear.metacal import SHEAR_TYPES
from skymill.shear.metadetect import MetadetectOptions, shear_weights

__all__ = ["MetaCalibrationOptions", "calibrate_metadetection", "measure_response"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_COLUMNS = ("shear", "cell", "ra", "dec", "e1", "e2", "size_ratio", "snr", "flags", "z_phot")


@dataclass(frozen=True, kw_only=True)
class MetaCalibrationOptions:
    """Cuts, bins and groups; the same for every version of the catalogue."""

    band: str = option("r", "Band of the magnitudes that are cut")
    min_mag: float = option(17.0, "Brightest galaxy", unit="mag")
    max_mag: float = option(26.0, "Faintest galaxy", unit="mag")
    min_z: float = option(0.1, "Least point redshift")
    max_z: float = option(1.5, "Largest point redshift")
    min_odds: float = option(0.0, "Least odds of the photo-z")
    n_bins: int = option(3, "Most bins in size")
    min_significance: float = option(
        12.0, "Response over its error that every bin needs; else there are fewer bins"
    )
    max_shear: float = option(2.0, "Largest modulus of the calibrated shear")
    n_groups: int = option(100, "Groups of cells that the jackknife leaves out in turn")

    def __post_init__(self) -> None:
        for low, high in (("min_mag", "max_mag"), ("min_z", "max_z")):
            if getattr(self, high) <= getattr(self, low):
                raise DataError(
                    f"{high} must be > {low} = {getattr(self, low)}; got {getattr(self, high)}"
                )
        check_range(self, "min_odds", low=0.0, high=1.0)
        check_range(self, "n_bins", low=1, high=50)
        check_range(self, "min_significance", low=0.0)
        check_range(self, "max_shear", low=0.0, low_open=True)
        check_range(self, "n_groups", low=2, high=10_000)


@dataclass(frozen=True)
class _Sums:
    """Weighted sums (n_group, 5, n_bin, 5): weight, w e1, w e2, w e1^2 + w e2^2, number."""

    values: Float64Array
    n_cluster: int

    @property
    def total(self) -> Float64Array:
        return np.asarray(self.values.sum(axis=0))

    def left_out(self) -> Float64Array:
        """Sums without each group."""
        return np.asarray(self.total - self.values)


def _check(catalogue: Table) -> None:
    missing = [name for name in _COLUMNS if name not in catalogue.colnames]
    if missing:
        raise DataError(
            f"the catalogue of metadetection has no column {', '.join(missing)}; it is made by the "
            "step meta_process"
        )


def _weights(
    catalogue: Table, options: MetaCalibrationOptions, detect: MetadetectOptions
) -> tuple[Float64Array, dict[str, int]]:
    """Weight of each row, and how many unsheared rows each cut rejects."""
    weight = shear_weights(catalogue, detect)
    plain = np.asarray(catalogue["shear"]).astype(str) == "noshear"
    counts = {"shape": int((plain & ~(weight > 0)).sum())}
    z = np.asarray(catalogue["z_phot"], np.float64)
    cuts: dict[str, BoolArray] = {"redshift": (z > options.min_z) & (z < options.max_z)}
    name = f"{options.band}_mag"
    if name in catalogue.colnames:
        magnitude = np.asarray(catalogue[name], np.float64)
        cuts["magnitude"] = (magnitude > options.min_mag) & (magnitude < options.max_mag)
    if options.min_odds > 0:
        cuts["odds"] = np.asarray(catalogue["odds"], np.float64) > options.min_odds
    for reason, passed in cuts.items():
        counts[reason] = int((plain & (weight > 0) & ~passed).sum())
        weight = np.where(passed, weight, 0.0)
    return weight, counts


def _edges(size: Float64Array, weight: Float64Array, n: int) -> Float64Array:
    """Bins of equal weight."""
    order = np.argsort(size)
    share = np.cumsum(weight[order])
    inner = np.interp(np.arange(1, n) / n * share[-1], share, size[order])
    return np.concatenate([[-np.inf], inner, [np.inf]])


def _sum(
    catalogue: Table, weight: Float64Array, edges: Float64Array, n_groups: int
) -> Float64Array:
    used = weight > 0
    cells, cell = np.unique(np.asarray(catalogue["cell"])[used], return_inverse=True)
    n_group = min(n_groups, len(cells))
    group = cell * n_group // max(len(cells), 1)
    version = np.full(len(catalogue), -1)
    names = np.asarray(catalogue["shear"]).astype(str)
    for k, name in enumerate(SHEAR_TYPES):
        version[names == name] = k
    e1, e2 = (np.asarray(catalogue[n], np.float64)[used] for n in ("e1", "e2"))
    size = np.asarray(catalogue["size_ratio"], np.float64)[used]
    n_bin = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, n_bin - 1)
    w = weight[used]
    index = (group * 5 + version[used]) * n_bin + bins
    columns = (w, w * e1, w * e2, w * w * (e1**2 + e2**2), np.ones(len(w)))
    flat = [np.bincount(index, c, minlength=n_group * 5 * n_bin) for c in columns]
    return np.stack(flat, axis=-1).reshape(n_group, 5, n_bin, 5)


def _response(sums: Float64Array, step: float) -> tuple[Float64Array, Float64Array]:
    """Responses (..., n_bin, 2, 2) and mean shapes (..., n_bin, 2) of sums (..., 5, n_bin, 5)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums[..., 1:3] / sums[..., :1]
    columns = [(mean[..., k, :, :] - mean[..., k + 1, :, :]) / (2 * step) for k in (1, 3)]
    return np.stack(columns, axis=-1), mean[..., 0, :, :]


def _isotropic(response: Float64Array) -> Float64Array:
    return np.asarray(0.5 * (response[..., 0, 0] + response[..., 1, 1]))


def _jackknife(values: Float64Array) -> Float64Array:
    n = len(values)
    return np.asarray(np.sqrt((n - 1) / n * ((values - values.mean(axis=0)) ** 2).sum(axis=0)))


def _gather(
    catalogues: Sequence[Table],
    weights: Sequence[Float64Array],
    edges: Float64Array,
    options: MetaCalibrationOptions,
) -> _Sums:
    """Sums of all catalogues; the jackknife leaves out groups of cells of each in turn."""
    groups = max(2, options.n_groups // len(catalogues))
    parts = [_sum(t, w, edges, groups) for t, w in zip(catalogues, weights, strict=True)]
    return _Sums(np.concatenate(parts), len(catalogues))


def measure_response(
    catalogues: Sequence[Table],
    *,
    options: MetaCalibrationOptions = MetaCalibrationOptions(),
    detect: MetadetectOptions | None = None,
) -> Table:
    """The response in bins, from one or many catalogues.

    Parameters
    ----------
    catalogues : sequence of astropy.table.Table
        Schema ``metaCalibratedCatalog``. The mean shears in the result are of the first.
    options : MetaCalibrationOptions
        Cuts and bins.
    detect : MetadetectOptions, optional
        Weights, applied shear.

    Returns
    -------
    astropy.table.Table
        Schema ``metaResponse``: as many bins as ``min_significance`` allows, then all together.

    Raises
    ------
    NoDataError
        If no galaxy passes the cuts, or the response of all is not significant.
    """
    detect = detect or MetadetectOptions()
    weights = []
    for catalogue in catalogues:
        _check(catalogue)
        weight, counts = _weights(catalogue, options, detect)
        if not (weight > 0).any():
            listing = ", ".join(f"{name} {number}" for name, number in counts.items())
            raise NoDataError(
                f"none of {len(catalogue)} objects of metadetection passes the cuts; of the "
                f"unsheared ones rejected by: {listing}"
            )
        weights.append(weight)
    plain = [np.asarray(t["shear"]).astype(str) == "noshear" for t in catalogues]
    size = np.concatenate(
        [np.asarray(t["size_ratio"], float)[p] for t, p in zip(catalogues, plain, strict=True)]
    )
    weight = np.concatenate([w[p] for w, p in zip(weights, plain, strict=True)])
    for n in range(options.n_bins, 0, -1):
        edges = _edges(size, weight, n)
        sums = _gather(catalogues, weights, edges, options)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = _isotropic(_response(sums.total, detect.metacal.step)[0])
            error = _jackknife(_isotropic(_response(sums.left_out(), detect.metacal.step)[0]))
            good = (
                np.isfinite(value) & np.isfinite(error) & (value > options.min_significance * error)
            )
        if good.all():
            break
    if n == 1 and not (value[0] > 3 * error[0]):
        raise NoDataError(
            f"the response of {int((weight > 0).sum())} galaxies is {value[0]:.3f} +- "
            f"{error[0]:.3f}, too uncertain to calibrate with; take that of more clusters "
            "(responseCatalogs, in the cluster file shear: response_from)"
        )
    own = _gather(catalogues[:1], weights[:1], edges, options)
    return _response_table(edges, sums, own, detect.metacal.step)


def _response_table(edges: Float64Array, sums: _Sums, own: _Sums, step: float) -> Table:
    """Rows of the bins and of all together."""
    rows = []
    n_bin = len(edges) - 1
    whole = np.ones((1, n_bin))
    for k in range(-1 if n_bin > 0 else 0, n_bin):
        keep = whole if k < 0 else np.eye(n_bin)[k : k + 1]
        total, left = (
            np.einsum("ab,...vbc->...vac", keep, s) for s in (sums.total, sums.left_out())
        )
        response, _ = _response(total, step)
        responses, _ = _response(left, step)
        error = _jackknife(responses[:, 0])
        r, r_err = _isotropic(response)[0], _jackknife(_isotropic(responses)[:, 0])
        mine, mine_left = (
            np.einsum("ab,...vbc->...vac", keep, s) for s in (own.total, own.left_out())
        )
        shear = _response(mine, step)[1][0] / r
        shear_err = _jackknife(_response(mine_left, step)[1][:, 0] / r)
        rows.append(
            {
                "bin": k,
                "low": edges[0] if k < 0 else edges[k],
                "high": edges[-1] if k < 0 else edges[k + 1],
                "n": int(total[0, 0, 4]),
                "n_cluster": sums.n_cluster,
                **{f"r{i + 1}{j + 1}": response[0, i, j] for i in range(2) for j in range(2)},
                **{f"r{i + 1}{j + 1}_err": error[i, j] for i in range(2) for j in range(2)},
                "r": r,
                "r_err": r_err,
                "g1": shear[0],
                "g2": shear[1],
                "g1_err": shear_err[0],
                "g2_err": shear_err[1],
            }
        )
    return load_schema("metaResponse").apply(Table(rows=rows[1:] + rows[:1]))


def calibrate_metadetection(
    catalogue: Table,
    *,
    others: Sequence[Table] = (),
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
    options : MetaCalibrationOptions
        Cuts and bins.
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
        If no galaxy passes the cuts, or the response is not significant.
    """
    detect = detect or MetadetectOptions()
    response = measure_response([catalogue, *others], options=options, detect=detect)
    weight, counts = _weights(catalogue, options, detect)
    plain = np.asarray(catalogue["shear"]).astype(str) == "noshear"
    table, weight = catalogue[plain], weight[plain]
    bins = response[np.asarray(response["bin"]) >= 0]
    e1, e2, size = (np.asarray(table[n], np.float64) for n in ("e1", "e2", "size_ratio"))
    index = np.searchsorted(np.asarray(bins["high"])[:-1], size, side="right")
    r = np.asarray(bins["r"])[index]
    variance = np.ones(len(bins))
    for k in range(len(bins)):
        inside = (index == k) & (weight > 0)
        if inside.any():
            variance[k] = np.average((e1**2 + e2**2)[inside] / 2, weights=weight[inside])
    g1, g2 = e1 / r, e2 / r
    flags = np.zeros(len(table), np.uint32)
    flags[np.asarray(table["flags"]) != 0] |= np.uint32(ShearFlag.NO_SHAPE)
    flags[weight <= 0] |= np.uint32(ShearFlag.CUT)
    large = np.hypot(g1, g2) >= options.max_shear
    flags[large] |= np.uint32(ShearFlag.LARGE_SHEAR)
    counts["large_shear"] = int((large & (weight > 0)).sum())
    nothing, zero = np.full(len(table), np.nan), np.zeros(len(table))
    magnitude = f"{options.band}_mag"
    out = Table(
        {
            "ID": np.asarray(table["ID"]).astype(str),
            "ra": np.asarray(table["ra"]),
            "dec": np.asarray(table["dec"]),
            "g1": g1,
            "g2": -g2,
            "weight": weight * r**2 / variance[index],
            "g1_pixel": g1,
            "g2_pixel": g2,
            "z_phot": np.asarray(table["z_phot"]),
            "shear_m": r - 1.0,
            "shear_c1": zero,
            "shear_c2": zero,
            "e1": e1,
            "e2": e2,
            "e_rms": np.sqrt(variance[index]),
            "sigmae": nothing,
            "res": 1.0 - 1.0 / np.maximum(size, 1e-3),
            "snr": np.asarray(table["snr"]),
            "mag": np.asarray(table[magnitude]) if magnitude in table.colnames else nothing,
            "blendedness": nothing,
            "odds": np.asarray(table["odds"]),
            "mod_chi2": np.asarray(table["mod_chi2"]),
            "use": (weight > 0) & ~large,
            "shear_flags": flags,
        }
    )
    last = response[-1]
    out.meta.update(
        method="metadetect",
        response=float(last["r"]),
        response_err=float(last["r_err"]),
        n_cluster=1 + len(others),
        cuts=json.dumps(counts),
    )
    return load_schema("shearCatalog").apply(out), response

"""From measured distortions to calibrated shears with weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.flags import ShearFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.data.units import MAG_ERR_FACTOR
from skymill.shear.hsc_y1 import evaluate_hsc_y1
from skymill.shear.plugin import check_algorithm, load_algorithm

__all__ = ["CalibrateShearOptions", "calibrate_shears"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_NAIVE_E_RMS = 0.365


@dataclass(frozen=True, kw_only=True)
class CalibrateShearOptions:
    """Method, cuts and biases of the shear calibration; every cut has two sides."""

    method: str = option(
        "responsivity",
        "responsivity (from the shapes themselves), hsc (tables of HSC-Y1), naive (constants), or "
        "the dotted path of your own function or class (skymill.shear.plugin)",
    )
    band: str = option("r", "Band of the shapes")
    min_mag: float = option(17.0, "Brightest galaxy", unit="mag")
    max_mag: float = option(26.0, "Faintest galaxy", unit="mag")
    min_snr: float = option(5.0, "Least signal to noise of the model flux")
    max_distortion: float = option(
        2.0, "Largest modulus of the distortion (exclusive; published: 4)"
    )
    min_resolution: float = option(0.3, "Least resolution R2")
    max_sigma_e: float = option(0.4, "Largest error of one component of the distortion")
    max_blendedness: float = option(0.42, "Largest blendedness")
    min_z: float = option(0.0, "Least point redshift (published: 0.15)")
    max_z: float = option(10.0, "Largest point redshift (published: 1.4)")
    keep_unknown_z: bool = option(
        True, "Keep shapes without a redshift: the mass fit gives them the p(z) of their magnitude"
    )
    min_odds: float = option(0.0, "Least odds of the photo-z (published: 0.7)")
    max_mod_chi2: float = option(0.0, "Largest modified chi2 of the photo-z; 0 cuts nothing")
    max_shear: float = option(2.0, "Largest modulus of the calibrated shear")
    allow_outside: bool = option(
        False, "hsc: use galaxies outside of the calibrated range, with the nearest values"
    )
    e_rms_min_snr: float = option(
        30.0, "responsivity: e_rms is measured on galaxies with at least this signal to noise"
    )
    bias_offset: float = option(
        0.0, "responsivity: multiplicative bias m of the brightest galaxies"
    )
    bias_faint: float = option(
        -1.2, "responsivity: m + bias_faint / S/N; what blends do to faint galaxies, 0 for none"
    )

    def __post_init__(self) -> None:
        check_algorithm("method", self.method, ("hsc", "responsivity", "naive"))
        for low, high in (("min_mag", "max_mag"), ("min_z", "max_z")):
            if getattr(self, high) <= getattr(self, low):
                raise ConfigError(
                    f"{high} must be > {low} = {getattr(self, low)}; got {getattr(self, high)}"
                )
        check_range(self, "min_snr", low=0.0)
        check_range(self, "max_distortion", low=0.0, low_open=True)
        check_range(self, "min_resolution", low=0.0, high=1.0)
        check_range(self, "max_sigma_e", low=0.0, low_open=True)
        check_range(self, "max_blendedness", low=0.0)
        check_range(self, "min_odds", low=0.0, high=1.0)
        check_range(self, "max_mod_chi2", low=0.0)
        check_range(self, "max_shear", low=0.0, low_open=True)
        check_range(self, "e_rms_min_snr", low=0.0)
        check_range(self, "bias_offset", low=-0.9, high=0.9)
        check_range(self, "bias_faint", low=-4.0, high=4.0)


@dataclass
class _Shapes:
    """Columns of the catalogue that the calibration reads."""

    e1: Float64Array
    e2: Float64Array
    sigma_e: Float64Array
    resolution: Float64Array
    snr: Float64Array
    magnitude: Float64Array
    blendedness: Float64Array
    psf_e1: Float64Array
    psf_e2: Float64Array
    z: Float64Array
    odds: Float64Array
    mod_chi2: Float64Array
    failed: BoolArray


def _column(table: Table, name: str) -> Float64Array:
    if name not in table.colnames:
        raise DataError(
            f"the catalogue has no column {name!r}, which the shear calibration needs; it has "
            f"{', '.join(table.colnames[:20])} ..."
        )
    return np.asarray(np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan))


def _read_shapes(catalogue: Table, photoz: Table | None, band: str) -> _Shapes:
    n = len(catalogue)
    unknown = np.full(n, np.nan)
    z, odds, mod_chi2 = unknown, unknown, unknown
    if photoz is not None:
        rows = _match_ids(catalogue, photoz)
        z, odds, mod_chi2 = (
            np.where(rows >= 0, _column(photoz, c)[rows], np.nan)
            for c in ("z_phot", "odds", "mod_chi2")
        )
    failed = np.zeros(n, dtype=bool)
    if "hsm_flag" in catalogue.colnames:
        failed = np.asarray(catalogue["hsm_flag"]).astype(bool)
    return _Shapes(
        e1=_column(catalogue, "e1"),
        e2=_column(catalogue, "e2"),
        sigma_e=_column(catalogue, "sigmae"),
        resolution=_column(catalogue, "res"),
        snr=MAG_ERR_FACTOR / _column(catalogue, f"{band}_cmodel_magerr"),
        magnitude=_column(catalogue, f"{band}_cmodel_mag"),
        blendedness=_column(catalogue, "blendedness"),
        psf_e1=_column(catalogue, "sdss_psf_e1"),
        psf_e2=_column(catalogue, "sdss_psf_e2"),
        z=z,
        odds=odds,
        mod_chi2=mod_chi2,
        failed=failed,
    )


def _match_ids(catalogue: Table, photoz: Table) -> NDArray[np.int64]:
    """Row of the photo-z table of each object; -1 where there is none."""
    for name, table in (("catalogue", catalogue), ("photo-z table", photoz)):
        if "ID" not in table.colnames:
            raise DataError(f"the {name} has no column 'ID', by which redshifts are found")
    if len(photoz) == 0:
        return np.full(len(catalogue), -1, np.int64)
    known, wanted = np.asarray(photoz["ID"]).astype(str), np.asarray(catalogue["ID"]).astype(str)
    order = np.argsort(known)
    rows = order[np.clip(np.searchsorted(known[order], wanted), 0, len(known) - 1)]
    return np.where(known[rows] == wanted, rows, -1)


def _cuts(
    shapes: _Shapes, options: CalibrateShearOptions, has_photoz: bool
) -> Iterator[tuple[str, BoolArray]]:
    """Name of each cut and who passes it; what is not finite does not pass."""
    s, o = shapes, options
    modulus = np.hypot(s.e1, s.e2)
    yield "distortion", (modulus > 0) & (modulus < o.max_distortion)
    if o.method != "naive":
        yield "magnitude", (s.magnitude > o.min_mag) & (s.magnitude < o.max_mag)
        yield "snr", (s.snr >= o.min_snr) & np.isfinite(s.snr)
        yield "resolution", s.resolution > o.min_resolution
        yield "sigma_e", (s.sigma_e >= 0) & (s.sigma_e < o.max_sigma_e)
        yield "blendedness", (s.blendedness < o.max_blendedness) | ~np.isfinite(s.blendedness)
    if has_photoz:
        unknown = np.isnan(s.z) & o.keep_unknown_z
        yield "redshift", unknown | ((s.z > o.min_z) & (s.z < o.max_z))
        if o.min_odds > 0:
            yield "odds", unknown | (s.odds > o.min_odds)
        if o.max_mod_chi2 > 0:
            yield "mod_chi2", unknown | (s.mod_chi2 < o.max_mod_chi2)


@dataclass
class _Calibration:
    """What a method says of each object.

    g1, g2: distortions over two, or shears of a user's method (``ready``); e_rms, weight, m, c1,
    c2: of each object; outside: who the method does not hold for.
    """

    g1: Float64Array
    g2: Float64Array
    e_rms: Float64Array
    weight: Float64Array
    m: Float64Array
    c1: Float64Array
    c2: Float64Array
    outside: BoolArray
    ready: bool = False

    def finish(self, use: BoolArray) -> tuple[Float64Array, Float64Array, float, float]:
        """Shears in pixel axes, responsivity and mean m of the objects used."""
        if self.ready:
            return self.g1, self.g2, float("nan"), float("nan")
        weight = self.weight[use]
        total = weight.sum()
        responsivity = 1.0 - float(np.sum(weight * self.e_rms[use] ** 2) / total)
        mean_m = float(np.sum(weight * self.m[use]) / total)
        g1 = (self.g1 / responsivity - self.c1) / (1.0 + mean_m)
        g2 = (self.g2 / responsivity - self.c2) / (1.0 + mean_m)
        return g1, g2, responsivity, mean_m


def _shears(shapes: _Shapes, use: BoolArray, options: CalibrateShearOptions) -> _Calibration:
    n = len(shapes.e1)
    m, a, outside = np.zeros(n), np.zeros(n), np.zeros(n, dtype=bool)
    if options.method == "hsc":
        found = evaluate_hsc_y1(shapes.snr, shapes.resolution)
        e_rms, weight, m, a, outside = (
            found.e_rms, found.weight, found.m, found.a, found.outside
        )  # fmt: skip
    elif options.method == "naive":
        e_rms = np.full(n, _NAIVE_E_RMS)
        weight = 1.0 / e_rms**2
    else:
        intrinsic, noise_factor = _dispersions(shapes, use, options.e_rms_min_snr)
        e_rms = np.full(n, np.sqrt(intrinsic))
        with np.errstate(invalid="ignore"):
            weight = 1.0 / (intrinsic + noise_factor * shapes.sigma_e**2)
            m = options.bias_offset + options.bias_faint / np.maximum(shapes.snr, options.min_snr)
    c1, c2 = (a * np.nan_to_num(e) for e in (shapes.psf_e1, shapes.psf_e2))
    return _Calibration(shapes.e1 / 2.0, shapes.e2 / 2.0, e_rms, weight, m, c1, c2, outside)


def _call_algorithm(
    catalogue: Table, use: BoolArray, options: CalibrateShearOptions
) -> _Calibration:
    """Shears of a user's method."""
    table = load_algorithm("method", options.method)(catalogue, use.copy(), options)
    n = len(catalogue)
    names = getattr(table, "colnames", None)
    missing = {"g1", "g2", "weight"} - set(names or ())
    if names is None or missing or len(table) != n:
        got = type(table).__name__ if names is None else f"{len(table)} rows of {names}"
        raise DataError(
            f"the shear method {options.method!r} must return a table of {n} rows with g1, g2, "
            f"weight; got {got}"
        )

    def column(name: str) -> Float64Array:
        return _column(table, name) if name in names else np.zeros(n)

    outside = np.asarray(table["outside"], bool) if "outside" in names else np.zeros(n, bool)
    return _Calibration(
        g1=column("g1"), g2=column("g2"), e_rms=column("e_rms"), weight=column("weight"),
        m=column("shear_m"), c1=column("shear_c1"), c2=column("shear_c2"), outside=outside,
        ready=True,
    )  # fmt: skip


_FEWEST_BRIGHT = 100


def _dispersions(shapes: _Shapes, use: BoolArray, bright_snr: float) -> tuple[float, float]:
    """Variance of one component of the intrinsic distortion; true over given error variance.

    The first is measured on bright galaxies, where the errors hardly matter. The second makes the
    scatter of the faint ones what it is: errors of the deconvolved shapes of faint galaxies are
    larger than first order says, and without it they would get too much weight.
    """
    square, error2 = 0.5 * (shapes.e1**2 + shapes.e2**2), shapes.sigma_e**2
    bright = use & (shapes.snr >= bright_snr)
    if bright.sum() < _FEWEST_BRIGHT:
        bright = use
    measured, noise = float(np.mean(square[bright])), float(np.mean(error2[bright]))
    intrinsic = measured - noise
    if not intrinsic > 0.01:
        raise DataError(
            f"the shapes scatter by {measured:.4f} (variance of one component), not more than "
            f"their errors of {noise:.4f}: the responsivity cannot be measured; check sigmae"
        )
    weight = 1.0 / (intrinsic + error2[use]) ** 2
    total = float(np.sum(weight * error2[use] ** 2))
    excess = float(np.sum(weight * error2[use] * (square[use] - intrinsic)))
    return intrinsic, max(excess / total, 1.0) if total > 0 else 1.0


def calibrate_shears(
    catalogue: Table,
    photoz: Table | None = None,
    *,
    options: CalibrateShearOptions = CalibrateShearOptions(),
) -> Table:
    """Calibrate the shears of a catalogue.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Columns of ``exportCatalog`` (distortions ``e1``, ``e2`` in pixel axes, x to the West).
    photoz : astropy.table.Table, optional
        Schema ``photoz``, found by ``ID``.
    options : CalibrateShearOptions
        Method and cuts.

    Returns
    -------
    astropy.table.Table
        Schema ``shearCatalog``, one row for each object of the catalogue: ``use`` says whether it
        passes every cut, ``shear_flags`` why not. The metadata hold the responsivity, the mean m
        and how many objects each cut rejected.

    Raises
    ------
    DataError
        If a column is missing.
    NoDataError
        If no object passes the cuts, with the numbers of each.

    Notes
    -----
    ``g_i = (e_i / (2 R) - c_i) / (1 + m)`` with the responsivity ``R = 1 - <e_rms^2>`` and the
    weighted mean m of the objects used; then ``g2`` changes its sign for sky axes.
    """
    shapes = _read_shapes(catalogue, photoz, options.band)
    n = len(catalogue)
    flags = np.zeros(n, np.uint32)
    finite = np.isfinite(shapes.e1) & np.isfinite(shapes.e2) & ~shapes.failed
    flags[~finite] |= np.uint32(ShearFlag.NO_SHAPE)
    use, counts = finite.copy(), {"no_shape": int(n - finite.sum())}
    for name, passed in _cuts(shapes, options, photoz is not None):
        counts[name] = int((use & ~passed).sum())
        flags[~passed] |= np.uint32(ShearFlag.CUT)
        use &= passed
    _require(use, counts, n)
    if "." in options.method:
        found = _call_algorithm(catalogue, use, options)
    else:
        found = _shears(shapes, use, options)
    flags[found.outside & finite] |= np.uint32(ShearFlag.OUTSIDE_CALIBRATION)
    if not options.allow_outside:
        counts["outside_calibration"] = int((use & found.outside).sum())
        use &= ~found.outside
    _require(use, counts, n)
    g1, g2, responsivity, mean_m = found.finish(use)
    unknown = ~(np.isfinite(g1) & np.isfinite(g2) & np.isfinite(found.weight))
    flags[unknown & use] |= np.uint32(ShearFlag.NO_SHAPE)
    use &= ~unknown
    _require(use, counts, n)
    large = np.hypot(g1, g2) >= options.max_shear
    flags[large] |= np.uint32(ShearFlag.LARGE_SHEAR)
    counts["large_shear"] = int((use & large).sum())
    use &= ~large
    table = Table(
        {
            "ID": np.asarray(catalogue["ID"]).astype(str),
            "ra": _column(catalogue, "ra"),
            "dec": _column(catalogue, "dec"),
            "g1": g1,
            "g2": -g2,
            "weight": np.where(np.isfinite(found.weight), found.weight, 0.0),
            "g1_pixel": g1,
            "g2_pixel": g2,
            "z_phot": shapes.z,
            "shear_m": found.m,
            "shear_c1": found.c1,
            "shear_c2": found.c2,
            "e1": shapes.e1,
            "e2": shapes.e2,
            "e_rms": found.e_rms,
            "sigmae": shapes.sigma_e,
            "res": shapes.resolution,
            "snr": shapes.snr,
            "mag": shapes.magnitude,
            "blendedness": shapes.blendedness,
            "odds": shapes.odds,
            "mod_chi2": shapes.mod_chi2,
            "use": use,
            "shear_flags": flags,
        }
    )
    table.meta.update(
        method=options.method,
        responsivity=responsivity,
        mean_m=mean_m,
        cuts=json.dumps(counts),
    )
    return load_schema("shearCatalog").apply(table)


def _require(use: BoolArray, counts: dict[str, int], n: int) -> None:
    if not use.any():
        listing = ", ".join(f"{name} {number}" for name, number in counts.items())
        raise NoDataError(f"none of {n} objects passes the shear cuts; rejected by: {listing}")

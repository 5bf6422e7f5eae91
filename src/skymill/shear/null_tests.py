"""Null tests of a shear catalogue: numbers that are zero if nothing but lensing made the shears.

Every function takes a table of shears with the columns ``ra``, ``dec`` [deg], ``g1``, ``g2`` (sky
axes of the tangent plane: x to the East, y to the North) and, where there are, ``weight`` and
``use`` (schema ``shearCatalog``), and returns a table with errors by leaving out patches of sky, or
groups of points where these are compared with random ones.
`run_null_tests` makes all of them and sums each up in one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import treecorr
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.options import check_range, option

__all__ = [
    "NullTestOptions",
    "measure_b_mode",
    "measure_psf_leakage",
    "measure_shear_around_points",
    "measure_star_galaxy_correlation",
    "random_points",
    "run_null_tests",
    "summarize_null_test",
]

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NullTestOptions:
    """Radii and patches of the null tests."""

    min_radius_arcmin: float = option(0.5, "Smallest separation", unit="arcmin")
    max_radius_arcmin: float = option(20.0, "Largest separation", unit="arcmin")
    n_bins: int = option(8, "Bins of separation, equal in its logarithm")
    n_patches: int = option(25, "Patches of sky of the jackknife")
    random_jitter_arcmin: float = option(
        0.3, "Random points lie so far from a galaxy, in each axis (Gaussian)", unit="arcmin"
    )

    def __post_init__(self) -> None:
        check_range(self, "min_radius_arcmin", low=0.0, low_open=True)
        check_range(self, "n_bins", low=2, high=100)
        check_range(self, "n_patches", low=4, high=1000)
        check_range(self, "random_jitter_arcmin", low=0.0)
        if self.max_radius_arcmin <= self.min_radius_arcmin:
            raise ConfigError(
                f"max_radius_arcmin must be > min_radius_arcmin = {self.min_radius_arcmin} arcmin; "
                f"got {self.max_radius_arcmin}"
            )

    def bins(self) -> dict[str, float | int | str]:
        """The separations in the words of treecorr."""
        return {
            "min_sep": self.min_radius_arcmin,
            "max_sep": self.max_radius_arcmin,
            "nbins": self.n_bins,
            "num_threads": 1,
            "var_method": "jackknife",
            "cross_patch_weight": "match",
            "bin_slop": 0.3,
        }


@dataclass(frozen=True)
class _Shears:
    """Usable galaxies in a tangent plane [arcmin], with the patch that each belongs to."""

    wcs: FitsWcs
    rows: Int64Array
    x: Float64Array
    y: Float64Array
    g1: Float64Array
    g2: Float64Array
    weight: Float64Array
    patch: Int64Array

    @property
    def n_patches(self) -> int:
        return int(self.patch.max()) + 1

    def catalog(self, *, patches: bool = True) -> treecorr.Catalog:
        patch = self.patch if patches else None
        return treecorr.Catalog(
            x=self.x, y=self.y, g1=self.g1, g2=self.g2, w=self.weight, patch=patch
        )


def _column(table: Table, name: str) -> Float64Array:
    if name not in table.colnames:
        raise DataError(
            f"the table has no column {name!r}, which the null tests need; it has "
            f"{', '.join(table.colnames[:12])} ..."
        )
    return np.asarray(np.ma.filled(np.ma.asarray(table[name]).astype(np.float64), np.nan))


def _to_plane(wcs: FitsWcs, ra: Float64Array, dec: Float64Array) -> tuple[Float64Array, ...]:
    """Offsets to the East and the North [arcmin]; the projection has x to the West."""
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    return -np.asarray(x), np.asarray(y)


def _read(shears: Table, options: NullTestOptions) -> _Shears:
    ra, dec, g1, g2 = (_column(shears, name) for name in ("ra", "dec", "g1", "g2"))
    weight = _column(shears, "weight") if "weight" in shears.colnames else np.ones(len(ra))
    good = np.isfinite(ra + dec + g1 + g2 + weight) & (weight > 0)
    if "use" in shears.colnames:
        good &= np.asarray(shears["use"], bool)
    rows = np.flatnonzero(good)
    fewest = 4 * options.n_patches
    if rows.size < fewest:
        raise NoDataError(
            f"{options.n_patches} patches need at least {fewest} galaxies with a shear; "
            f"{rows.size} of {len(shears)} rows are usable: lower n_patches"
        )
    ra, dec = ra[rows], dec[rows]
    angle = np.radians(ra)
    middle = np.degrees(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360.0
    wcs = make_tan_wcs(ra=float(middle), dec=float(np.median(dec)), scale=60.0, x=0.0, y=0.0)
    x, y = _to_plane(wcs, ra, dec)
    return _Shears(wcs, rows, x, y, g1[rows], g2[rows], weight[rows], _patches(x, y, options))


def _patches(x: Float64Array, y: Float64Array, options: NullTestOptions) -> Int64Array:
    """Patches of equal numbers: columns of equal numbers, each cut into equal numbers."""
    n_column = round(np.sqrt(options.n_patches))
    per_column = np.diff(np.linspace(0, options.n_patches, n_column + 1).round().astype(int))
    order = np.argsort(x, kind="stable")
    edges = np.round(np.cumsum(np.append(0, per_column)) / options.n_patches * x.size).astype(int)
    patch = np.empty(x.size, np.int64)
    first = 0
    for k, count in enumerate(per_column):
        rows = order[edges[k] : edges[k + 1]]
        rows = rows[np.argsort(y[rows], kind="stable")]
        patch[rows] = first + np.arange(rows.size) * count // rows.size
        first += count
    return patch


def _jackknife(values: Float64Array) -> Float64Array:
    """Covariance from (n_patch, k) values with one patch left out each."""
    n = len(values)
    shift = values - values.mean(axis=0)
    return np.asarray((n - 1) / n * shift.T @ shift)


def measure_psf_leakage(
    shears: Table,
    *,
    psf_g1: ArrayLike,
    psf_g2: ArrayLike,
    options: NullTestOptions | None = None,
) -> Table:
    """How much of the PSF's shape is left in the shears: ``g_i = alpha g_i^PSF + c_i``.

    Parameters
    ----------
    shears : Table
        Shears.
    psf_g1, psf_g2 : (n,) float64
        Shear-like ellipticity (a - b)/(a + b) of the PSF at each row, in the axes of the shears.
    options : NullTestOptions, optional
        Patches.

    Returns
    -------
    Table
        A row for ``component`` 1, 2 and ``both`` (one alpha): ``alpha``, ``alpha_err``, ``c``,
        ``c_err`` (NaN for both). ``meta["covariance"]`` is that of alpha, ``meta["n_patches"]``.

    Raises
    ------
    DataError
        If the PSF has the same shape everywhere, which leaves alpha free.
    NoDataError
        If there are too few galaxies.
    """
    options = options or NullTestOptions()
    s = _read(shears, options)
    psf = np.stack([np.asarray(p, np.float64)[s.rows] for p in (psf_g1, psf_g2)])
    known = np.isfinite(psf).all(axis=0)
    sums = np.zeros((s.n_patches, 2, 5))
    for i, g in enumerate((s.g1, s.g2)):
        p, w = psf[i, known], s.weight[known]
        terms = (w, w * p, w * p * p, w * g[known], w * p * g[known])
        for k, term in enumerate(terms):
            sums[:, i, k] = np.bincount(s.patch[known], term, minlength=s.n_patches)
    total = sums.sum(axis=0)
    spread = total[:, 2] / total[:, 0] - (total[:, 1] / total[:, 0]) ** 2
    if not (spread > 1e-12).all():
        raise DataError(
            f"the PSF's ellipticity scatters by {np.sqrt(np.maximum(spread, 0))}: it has to vary "
            "for its leakage to be measured"
        )
    value = _fit_leakage(total)
    covariance = _jackknife(_fit_leakage(total - sums))
    error = np.sqrt(np.diag(covariance))
    out = Table(
        {
            "component": ["1", "2", "both"],
            "alpha": value[:3],
            "alpha_err": error[:3],
            "c": [*value[3:], np.nan],
            "c_err": [*error[3:], np.nan],
        }
    )
    out.meta.update(covariance=covariance[:2, :2].tolist(), n_patches=s.n_patches)
    return out


def _fit_leakage(sums: Float64Array) -> Float64Array:
    """alpha_1, alpha_2, alpha, c_1, c_2 (..., 5) from sums (..., 2, 5)."""
    w, p, pp, g, pg = np.moveaxis(sums, -1, 0)
    above, below = pg - p * g / w, pp - p * p / w
    alpha = above / below
    both = above.sum(axis=-1) / below.sum(axis=-1)
    c = (g - alpha * p) / w
    return np.concatenate([alpha, both[..., None], c], axis=-1)


def random_points(
    shears: Table, *, n: int, rng: np.random.Generator, options: NullTestOptions | None = None
) -> tuple[Float64Array, Float64Array]:
    """Points that cover the field as the galaxies do, holes included.

    Parameters
    ----------
    shears : Table
        Shears.
    n : int
        Number of points.
    rng : numpy.random.Generator
        Random numbers.
    options : NullTestOptions, optional
        Distance from galaxies.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions.
    """
    options = options or NullTestOptions()
    s = _read(shears, options)
    chosen = rng.integers(0, s.x.size, n)
    east, north = rng.normal(0.0, options.random_jitter_arcmin, (2, n))
    ra, dec = s.wcs.pixel_to_sky(x=-(s.x[chosen] + east), y=s.y[chosen] + north)
    return np.asarray(ra), np.asarray(dec)


def measure_shear_around_points(
    shears: Table,
    *,
    ra: ArrayLike,
    dec: ArrayLike,
    random: tuple[ArrayLike, ArrayLike] | None = None,
    options: NullTestOptions | None = None,
) -> Table:
    """Tangential and cross shear around stars, random points or one centre.

    Parameters
    ----------
    shears : Table
        Shears.
    ra, dec : (m,) float64 [deg]
        Points.
    random : (ra, dec), optional
        Random points that cover the field as the galaxies do, whose signal is subtracted. Errors
        are then those of the points' places, by leaving out groups of points: the shears are what
        they are, with noise and any cluster in them, and the points are what is compared. Without,
        they are by leaving out patches of galaxies.
    options : NullTestOptions, optional
        Radii, patches.

    Returns
    -------
    Table
        ``radius`` [arcmin], ``g_t``, ``g_t_err``, ``g_x``, ``g_x_err``, ``n_pairs`` for each bin;
        bins without a pair are left out. ``meta["covariance"]`` is that of ``g_t``,
        ``meta["covariance_x"]`` that of ``g_x``.

    Raises
    ------
    NoDataError
        If there are too few galaxies, no points, or no pair within the radii.
    """
    options = options or NullTestOptions()
    s = _read(shears, options)
    points = _points(s.wcs, ra, dec)
    n_groups = s.n_patches
    if random is None:
        correlations = [_around(points, s.catalog(), options)]
    else:
        both = (points, _points(s.wcs, *random))
        n_groups = min(n_groups, *(len(x) for x, _ in both))
        if n_groups < 2:
            raise NoDataError("shear around points less random ones needs at least two of each")
        galaxies = s.catalog(patches=False)
        correlations = [_around(p, galaxies, options, n_groups) for p in both]
    found = correlations[0]
    used = found.npairs > 0
    if not used.any():
        raise NoDataError(
            f"no galaxy lies {options.min_radius_arcmin} to {options.max_radius_arcmin} arcmin "
            "from a point"
        )

    def signal(part: str) -> Callable[[list[treecorr.NGCorrelation]], Float64Array]:
        def value(corrs: list[treecorr.NGCorrelation]) -> Float64Array:
            first = np.asarray(getattr(corrs[0], part))
            return first if len(corrs) == 1 else first - np.asarray(getattr(corrs[1], part))

        return value

    out = Table({"radius": np.exp(found.meanlogr[used]), "n_pairs": found.npairs[used]})
    out["radius"].unit = "arcmin"
    for name, part, key in (("g_t", "xi", "covariance"), ("g_x", "xi_im", "covariance_x")):
        covariance = treecorr.estimate_multi_cov(correlations, "jackknife", func=signal(part))
        out[name] = signal(part)(correlations)[used]
        out[f"{name}_err"] = np.sqrt(np.diag(covariance))[used]
        out.meta[key] = covariance[np.ix_(used, used)].tolist()
    out.meta["n_patches"] = n_groups
    return out


def _points(wcs: FitsWcs, ra: ArrayLike, dec: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Points with a position, in the tangent plane [arcmin]."""
    x, y = _to_plane(wcs, np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        raise NoDataError("shear around points needs at least one point with a position")
    return x[known], y[known]


def _around(
    points: tuple[Float64Array, Float64Array],
    galaxies: treecorr.Catalog,
    options: NullTestOptions,
    n_groups: int = 1,
) -> treecorr.NGCorrelation:
    """Shears around points; of more than one group, the points are the samples of the jackknife."""
    x, y = points
    patch = None
    if n_groups > 1:
        # Any order but that of the sky: every group covers the field.
        patch = np.random.default_rng(0).permutation(x.size) % n_groups
    correlation = treecorr.NGCorrelation(**options.bins())
    correlation.process(treecorr.Catalog(x=x, y=y, patch=patch), galaxies)
    return correlation


def measure_b_mode(shears: Table, *, options: NullTestOptions | None = None) -> Table:
    """Dispersion of the aperture mass (Crittenden et al. 2002) of the E and the B mode.

    Parameters
    ----------
    shears : Table
        Shears.
    options : NullTestOptions, optional
        Radii, patches.

    Returns
    -------
    Table
        ``radius`` [arcmin] of the aperture, ``map2_e``, ``map2_e_err``, ``map2_b``,
        ``map2_b_err``. Only apertures whose filter the separations cover (radius from twice the
        smallest to a quarter of the largest). ``meta["covariance"]`` is that of the B mode.

    Raises
    ------
    NoDataError
        If there are too few galaxies.
    """
    options = options or NullTestOptions()
    s = _read(shears, options)
    # The filter needs pairs from a tenth of the smallest aperture: without, E leaks into B by 10 %.
    least = 0.2 * options.min_radius_arcmin
    fine = {**options.bins(), "min_sep": least, "nbins": 12 * options.n_bins, "bin_slop": 1.0}
    correlation = treecorr.GGCorrelation(**fine)
    correlation.process(s.catalog())
    radius = np.geomspace(
        2.0 * options.min_radius_arcmin, 0.25 * options.max_radius_arcmin, options.n_bins
    )
    if radius[-1] <= radius[0]:
        raise ConfigError(
            "the B mode needs max_radius_arcmin > 8 min_radius_arcmin; got "
            f"{options.max_radius_arcmin} and {options.min_radius_arcmin}"
        )

    def mode(index: int) -> Callable[[list[treecorr.GGCorrelation]], Float64Array]:
        def value(corrs: list[treecorr.GGCorrelation]) -> Float64Array:
            return np.asarray(corrs[0].calculateMapSq(R=radius)[index])

        return value

    out = Table({"radius": radius})
    out["radius"].unit = "arcmin"
    for name, index in (("map2_e", 0), ("map2_b", 2)):
        covariance = treecorr.estimate_multi_cov([correlation], "jackknife", func=mode(index))
        out[name] = mode(index)([correlation])
        out[f"{name}_err"] = np.sqrt(np.diag(covariance))
    out.meta.update(covariance=covariance.tolist(), n_patches=s.n_patches)
    return out


def measure_star_galaxy_correlation(
    shears: Table,
    *,
    ra: ArrayLike,
    dec: ArrayLike,
    psf_g1: ArrayLike,
    psf_g2: ArrayLike,
    options: NullTestOptions | None = None,
) -> Table:
    """Correlation of the shears of galaxies with the PSF's shape at stars.

    Parameters
    ----------
    shears : Table
        Shears.
    ra, dec : (m,) float64 [deg]
        Stars.
    psf_g1, psf_g2 : (m,) float64
        Shear-like ellipticity of the PSF at the stars, in the axes of the shears.
    options : NullTestOptions, optional
        Radii, patches.

    Returns
    -------
    Table
        ``radius`` [arcmin], ``xi_plus``, ``xi_plus_err``, ``xi_minus``, ``xi_minus_err`` and
        ``xi_system`` = xi_plus^2 / xi_plus of the stars with each other (Bacon et al. 2003), the
        part of the galaxies' own correlation that the PSF can have made. Means are subtracted.
        ``meta["covariance"]`` is that of ``xi_plus``.

    Raises
    ------
    NoDataError
        If there are too few galaxies or fewer than ten stars.
    """
    options = options or NullTestOptions()
    s = _read(shears, options)
    x, y = _to_plane(s.wcs, np.asarray(ra, np.float64), np.asarray(dec, np.float64))
    p1, p2 = np.asarray(psf_g1, np.float64), np.asarray(psf_g2, np.float64)
    known = np.isfinite(x + y + p1 + p2)
    if known.sum() < 10:
        raise NoDataError(f"a star-galaxy correlation needs >= 10 stars; got {int(known.sum())}")
    stars = treecorr.Catalog(
        x=x[known], y=y[known], g1=p1[known] - p1[known].mean(), g2=p2[known] - p2[known].mean()
    )
    mean = np.average([s.g1, s.g2], weights=s.weight, axis=1)
    galaxies = treecorr.Catalog(
        x=s.x, y=s.y, g1=s.g1 - mean[0], g2=s.g2 - mean[1], w=s.weight, patch=s.patch
    )
    cross = treecorr.GGCorrelation(**options.bins())
    cross.process(stars, galaxies)
    alone = treecorr.GGCorrelation(**{**options.bins(), "var_method": "shot"})
    alone.process(stars)
    used = (cross.npairs > 0) & (alone.npairs > 0)
    if not used.any():
        raise NoDataError("no star lies within the radii from another and from a galaxy")
    n = options.n_bins
    covariance = np.asarray(cross.cov)
    error = np.sqrt(np.diag(covariance))
    out = Table(
        {
            "radius": np.exp(cross.meanlogr[used]),
            "xi_plus": cross.xip[used],
            "xi_plus_err": error[:n][used],
            "xi_minus": cross.xim[used],
            "xi_minus_err": error[n:][used],
            "xi_system": cross.xip[used] ** 2 / alone.xip[used],
        }
    )
    out["radius"].unit = "arcmin"
    out.meta.update(
        covariance=covariance[:n, :n][np.ix_(used, used)].tolist(), n_patches=s.n_patches
    )
    return out


def summarize_null_test(
    values: ArrayLike, covariance: ArrayLike, n_patches: int
) -> tuple[float, float, float, int, float]:
    """How far several values are from zero.

    Parameters
    ----------
    values : (k,) float64
        Values that should be zero.
    covariance : (k, k) float64
        Their covariance by a jackknife.
    n_patches : int
        Patches of the jackknife.

    Returns
    -------
    mean, mean_err : float
        Mean with the weights of the diagonal.
    t2 : float
        Hotelling's T^2: chi^2 with the measured covariance.
    k : int
        Number of values.
    p_value : float
        Chance of a larger T^2 if all are zero (Hotelling's distribution, which knows that the
        covariance was itself measured); NaN if there are not more patches than values.
    """
    v, c = np.asarray(values, np.float64), np.asarray(covariance, np.float64)
    k = v.size
    variance = np.diag(c)
    if not (variance > 0).all():
        return float(v.mean()), float("nan"), float("nan"), k, float("nan")
    w = 1.0 / variance
    w /= w.sum()
    mean, error = float(w @ v), float(np.sqrt(w @ c @ w))
    if n_patches <= k + 1:
        return mean, error, float("nan"), k, float("nan")
    t2 = float(v @ np.linalg.solve(c, v))
    p = float(stats.f.sf(t2 * (n_patches - k) / (k * (n_patches - 1)), k, n_patches - k))
    return mean, error, t2, k, p


def run_null_tests(
    shears: Table,
    *,
    psf_g1: ArrayLike,
    psf_g2: ArrayLike,
    star_ra: ArrayLike,
    star_dec: ArrayLike,
    star_psf_g1: ArrayLike,
    star_psf_g2: ArrayLike,
    rng: np.random.Generator,
    options: NullTestOptions | None = None,
) -> tuple[Table, dict[str, Table]]:
    """All null tests of a catalogue.

    Parameters
    ----------
    shears : Table
        Shears.
    psf_g1, psf_g2 : (n,) float64
        Shear-like ellipticity of the PSF at each row of the shears, sky axes.
    star_ra, star_dec : (m,) float64 [deg]
        Stars.
    star_psf_g1, star_psf_g2 : (m,) float64
        Shear-like ellipticity of the PSF at the stars, sky axes.
    rng : numpy.random.Generator
        Random points, five for each star, at least 1000.
    options : NullTestOptions, optional
        Radii, patches.

    Returns
    -------
    Table
        One row a test: ``name`` (``psf_leakage_1``, ``psf_leakage_2``, ``star_tangential``,
        ``star_cross``, ``random_tangential``, ``random_cross``, ``b_mode``,
        ``star_galaxy_xi_plus``), ``value`` (alpha, or the mean over the radii), ``error``,
        ``t2``, ``n_values``, ``p_value``, ``description``.
    dict of str to Table
        Values against radius: ``psf_leakage``, ``stars``, ``random``, ``b_mode``,
        ``star_galaxy``.
    """
    options = options or NullTestOptions()
    n_random = max(1000, 5 * np.asarray(star_ra).size)
    random = random_points(shears, n=n_random, rng=rng, options=options)
    parts = {
        "psf_leakage": measure_psf_leakage(shears, psf_g1=psf_g1, psf_g2=psf_g2, options=options),
        "stars": measure_shear_around_points(
            shears, ra=star_ra, dec=star_dec, random=random, options=options
        ),
        "random": measure_shear_around_points(
            shears, ra=random[0], dec=random[1], options=options
        ),
        "b_mode": measure_b_mode(shears, options=options),
        "star_galaxy": measure_star_galaxy_correlation(
            shears, ra=star_ra, dec=star_dec, psf_g1=star_psf_g1, psf_g2=star_psf_g2,
            options=options,
        ),
    }  # fmt: skip
    rows = [
        (f"psf_leakage_{c}", *_leakage_row(parts["psf_leakage"], k),
         f"alpha in g{c} = alpha g{c}^PSF + c{c}")
        for k, c in enumerate("12")
    ]  # fmt: skip
    for name, part, column, key, text in (
        ("star_tangential", "stars", "g_t", "covariance", "tangential shear around stars"),
        ("star_cross", "stars", "g_x", "covariance_x", "cross shear around stars"),
        ("random_tangential", "random", "g_t", "covariance", "tangential shear, random points"),
        ("random_cross", "random", "g_x", "covariance_x", "cross shear, random points"),
        ("b_mode", "b_mode", "map2_b", "covariance", "dispersion of the aperture mass, B mode"),
        ("star_galaxy_xi_plus", "star_galaxy", "xi_plus", "covariance",
         "correlation of PSF and galaxy shapes"),
    ):  # fmt: skip
        table = parts[part]
        found = summarize_null_test(table[column], table.meta[key], table.meta["n_patches"])
        rows.append((name, *found, text))
    names = ("name", "value", "error", "t2", "n_values", "p_value", "description")
    return Table(rows=rows, names=names), parts


def _leakage_row(table: Table, k: int) -> tuple[float, float, float, int, float]:
    return summarize_null_test(
        [table["alpha"][k]], [[table.meta["covariance"][k][k]]], table.meta["n_patches"]
    )

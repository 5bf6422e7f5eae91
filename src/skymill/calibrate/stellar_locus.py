"""Zero points of all bands together from the colours of stars (stellar-locus regression)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import make_smoothing_spline
from scipy.ndimage import gaussian_filter1d

from skymill.calibrate._locus_kernels import score_stars
from skymill.calibrate.filters import load_filters
from skymill.calibrate.synthetic import load_stellar_spectra, synthetic_magnitudes
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma

__all__ = ["LocusFit", "StellarLocus", "StellarLocusOptions", "fit_stellar_locus",
           "learn_locus", "library_locus"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: Main sequence of the library, blue to red.
_DWARFS = ("A7V", "F0V", "F2V", "F5V", "F6V", "F8V", "G0V", "G2V", "G5V", "G8V", "K0V", "K2V",
           "K3V", "K4V", "K5V", "K7V", "M0V", "M1V", "M2V", "M3V", "M4V", "M5V")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StellarLocusOptions:
    """Stars and model of the stellar locus."""

    use: bool = option(
        True, "Fit the colours of the stars too: for bands without a reference, and for all jointly"
    )
    anchor: str = option("r", "Band that stays where no band has a reference")
    max_error: float = option(0.05, "Largest error of a magnitude that counts", unit="mag")
    max_mag: float = option(22.0, "Faintest star, in the anchor (galaxies come in)", unit="mag")
    scatter: float = option(0.02, "Width of the locus in each band", unit="mag")
    scatter_u: float = option(0.06, "Width of the locus in u (metallicity)", unit="mag")
    model_error: float = option(0.01, "Systematic error of the locus in each band", unit="mag")
    model_error_u: float = option(
        0.03, "Systematic error of the locus in u (metallicity), y and Y (the library)", unit="mag"
    )
    outlier: float = option(4.0, "Stars beyond this many deviations count as outliers")
    max_outliers: float = option(0.4, "Largest share of stars that are not on the locus")
    min_stars: int = option(30, "Stars that the fit needs")
    reference_floor: float = option(
        0.003, "Systematic error of a reference's zero point in the joint fit", unit="mag"
    )

    def __post_init__(self) -> None:
        check_range(self, "max_error", low=0.0, low_open=True)
        check_range(self, "scatter", low=0.001, high=1.0)
        check_range(self, "scatter_u", low=0.001, high=1.0)
        check_range(self, "model_error", low=0.0, high=1.0)
        check_range(self, "model_error_u", low=0.0, high=1.0)
        check_range(self, "outlier", low=1.0, high=20.0)
        check_range(self, "max_outliers", low=0.0, high=1.0)
        check_range(self, "min_stars", low=5)
        check_range(self, "reference_floor", low=0.0, low_open=True)


@dataclass(frozen=True)
class StellarLocus:
    """Where stars lie in the space of magnitudes, up to their brightness.

    Parameters
    ----------
    bands : tuple of str
        Bands.
    magnitude : (n, n_band) float64 [mag]
        Magnitudes along the locus, each row with any common offset.
    scatter : (n_band,) float64 [mag]
        Standard deviation of the stars around it.
    """

    bands: tuple[str, ...]
    magnitude: Float64Array
    scatter: Float64Array


@dataclass(frozen=True)
class LocusFit:
    """Offsets of all bands from the stellar locus.

    Parameters
    ----------
    bands : tuple of str
        Bands.
    offset : (n_band,) float64 [mag]
        Subtract them from the magnitudes.
    covariance : (n_band, n_band) float64 [mag2]
        Of the offsets: stars, systematic error of the locus, references.
    n_star : int
        Stars in the fit.
    outlier_fraction : float
        Share of them that are not on the locus.
    scatter : (n_band,) float64 [mag]
        Robust scatter of the stars on the locus.
    """

    bands: tuple[str, ...]
    offset: Float64Array
    covariance: Float64Array
    n_star: int
    outlier_fraction: float
    scatter: Float64Array


def _widths(bands: Sequence[str], options: StellarLocusOptions) -> Float64Array:
    return np.array([options.scatter_u if b == "u" else options.scatter for b in bands])


def _densify(track: Float64Array, n: int = 100) -> Float64Array:
    """Points at equal steps along a track in colour space."""
    colours = np.diff(track, axis=1)
    step = np.hypot.reduce(np.diff(colours, axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(np.maximum(step, 1e-9))])
    at = np.linspace(0.0, length[-1], n)
    return np.stack([np.interp(at, length, column) for column in track.T], axis=1)


def _smooth(parameter: Float64Array, values: Float64Array, strength: float) -> Float64Array:
    spline = make_smoothing_spline(parameter, values, lam=strength)
    return np.asarray(spline(np.linspace(parameter[0], parameter[-1], 400)))


def library_locus(
    bands: Sequence[str],
    *,
    camera: str = "decam",
    options: StellarLocusOptions = StellarLocusOptions(),
) -> StellarLocus:
    """The locus of the main sequence from filter curves and a stellar library.

    Parameters
    ----------
    bands : sequence of str
        Bands, of which g, r and i must be three.
    camera : str
        Set of filters.
    options : StellarLocusOptions
        Widths of the locus.

    Returns
    -------
    StellarLocus
        From late A to M5, smoothed over single spectra.

    Raises
    ------
    ConfigError
        If g, r or i is missing or a filter is unknown.
    """
    if not {"g", "r", "i"} <= set(bands):
        raise ConfigError(f"the stellar locus needs g, r and i; got {', '.join(bands) or 'none'}")
    library = load_stellar_spectra()
    stars = synthetic_magnitudes([library[n] for n in _DWARFS], load_filters(camera, bands))
    names = list(bands)
    g, r, i = (stars[:, names.index(b)] for b in "gri")
    # g - r saturates in M dwarfs while r - i rises: their weighted sum orders all types.
    order = np.argsort((g - r) + 2.0 * (r - i))
    parameter = ((g - r) + 2.0 * (r - i))[order]
    colours = stars[order] - r[order, None]
    track = np.stack([_smooth(parameter, column, 1e-3) for column in colours.T], axis=1)
    return StellarLocus(tuple(bands), _densify(track), _widths(bands, options))


def learn_locus(
    magnitudes: Mapping[str, ArrayLike],
    *,
    options: StellarLocusOptions = StellarLocusOptions(),
    n_bins: int = 40,
) -> StellarLocus:
    """The locus of calibrated stars, as medians along their colour.

    Parameters
    ----------
    magnitudes : mapping of str to (n,) float64 [mag]
        Dereddened, calibrated magnitudes in the system wanted, of which g, r and i must be three.
    options : StellarLocusOptions
        Widths of the locus.
    n_bins : int
        Bins of equal numbers of stars.

    Returns
    -------
    StellarLocus
        From the 2nd to the 98th percentile of the colour.

    Raises
    ------
    ConfigError
        If g, r or i is missing.
    NoDataError
        If there are fewer than five stars a bin.
    """
    bands = tuple(magnitudes)
    if not {"g", "r", "i"} <= set(bands):
        raise ConfigError(f"the stellar locus needs g, r and i; got {', '.join(bands) or 'none'}")
    stars = np.stack([np.asarray(magnitudes[b], np.float64) for b in bands], axis=1)
    stars = stars[np.isfinite(stars).all(axis=1)]
    if len(stars) < 5 * n_bins:
        raise NoDataError(
            f"learning a stellar locus needs {5 * n_bins} stars with all of {', '.join(bands)}; "
            f"got {len(stars)}"
        )
    g, r, i = (stars[:, bands.index(b)] for b in "gri")
    parameter = (g - r) + 2.0 * (r - i)
    edges = np.quantile(parameter, np.linspace(0.02, 0.98, n_bins + 1))
    which = np.digitize(parameter, edges) - 1
    medians = np.array(
        [np.median(stars[which == k] - r[which == k, None], axis=0) for k in range(n_bins)]
    )
    return StellarLocus(bands, _densify(medians), _widths(bands, options))


class _Score(NamedTuple):
    """What `_Problem.score` finds for each star, and along the locus."""

    gradient: Float64Array  # (n, b)
    member: Float64Array  # (n,) probability to be on the locus
    place: Float64Array  # (n, b) expected magnitudes without the offsets
    along: Float64Array  # (t,) density of the members


@dataclass(frozen=True)
class _Problem:
    """Stars, locus and priors as arrays; see `fit_stellar_locus`."""

    magnitude: Float64Array  # (n, b), zero where missing
    weight: Float64Array  # (n, b)
    locus: Float64Array  # (t, b)
    density: Float64Array  # (t,)
    prior: Float64Array  # (b,) offsets expected
    precision: Float64Array  # (b,) of them
    floor: float  # likelihood of an outlier, over that at the centre of the locus

    def score(self, offset: Float64Array) -> _Score:
        """Gradient of the log likelihood of each star, and where the stars lie.

        The brightness of each star is fitted at each point of the locus; the point is summed over.
        """
        shape = self.magnitude.shape
        out = _Score(
            np.empty(shape), np.empty(shape[0]), np.empty(shape), np.empty(len(self.density))
        )
        score_stars(
            self.magnitude - offset, self.weight, self.locus, self.density, self.floor,
            out.gradient, out.member, out.place, out.along,
        )  # fmt: skip
        return out

    def gradient(self, offset: Float64Array) -> Float64Array:
        """Gradient of the log posterior in the offsets."""
        return np.asarray(
            self.score(offset).gradient.sum(axis=0) - self.precision * (offset - self.prior)
        )

    def curvature(self, offset: Float64Array) -> Float64Array:
        """Second derivatives of -log likelihood of the stars, none negative."""
        step = 2e-3
        rows = [
            (self.score(offset - e).gradient - self.score(offset + e).gradient).sum(axis=0)
            / (2 * step)
            for e in step * np.eye(len(offset))
        ]
        values, vectors = np.linalg.eigh(0.5 * (np.array(rows) + np.array(rows).T))
        return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def _newton(problem: _Problem, offset: Float64Array, n: int = 60) -> Float64Array:
    """Climb the log posterior; no step moves a band by more than 0.05 mag.

    The second derivatives are taken again only after a step that long: they cost ten gradients.
    """
    prior = np.diag(problem.precision)
    normal = problem.curvature(offset) + prior
    for _ in range(n):
        step = np.linalg.solve(normal, problem.gradient(offset))
        longest = float(np.abs(step).max())
        step *= min(1.0, 0.05 / max(longest, 1e-12))
        offset = offset + step
        if longest < 2e-5:
            break
        if longest > 0.02:
            normal = problem.curvature(offset) + prior
    return offset


def _stars(
    magnitudes: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike],
    locus: StellarLocus,
    options: StellarLocusOptions,
) -> tuple[Float64Array, Float64Array]:
    """Magnitudes and weights (zero where missing) of the stars with at least three bands."""
    for band in locus.bands:
        if band not in magnitudes or band not in errors:
            raise DataError(
                f"the stars have no magnitude and error in band {band} of the stellar locus; they "
                f"have {', '.join(magnitudes) or 'none'}"
            )
    m = np.stack([np.asarray(magnitudes[b], np.float64) for b in locus.bands], axis=1)
    e = np.stack([np.asarray(errors[b], np.float64) for b in locus.bands], axis=1)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(m) & (e > 0) & (e < options.max_error)
        anchor = options.anchor if options.anchor in locus.bands else locus.bands[0]
        bright = m[:, locus.bands.index(anchor)] < options.max_mag
    keep = (good.sum(axis=1) >= 3) & bright
    if keep.sum() < options.min_stars:
        raise NoDataError(
            f"the stellar locus needs {options.min_stars} stars with three bands better than "
            f"{options.max_error} mag and brighter than {options.max_mag} mag in {anchor}; "
            f"{int(keep.sum())} of {len(m)} are"
        )
    good, m, e = good[keep], m[keep], e[keep]
    weight = np.where(good, 1.0 / (np.where(good, e, 1.0) ** 2 + locus.scatter**2), 0.0)
    return np.where(good, m, 0.0), weight


def fit_stellar_locus(
    magnitudes: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike],
    locus: StellarLocus,
    *,
    known: Mapping[str, tuple[float, float]] | None = None,
    options: StellarLocusOptions = StellarLocusOptions(),
) -> LocusFit:
    """Offsets of all bands at once that put stars on the locus.

    Each star has a place on the locus (summed over, with the density of the stars along it, which
    is found too) and a brightness (fitted) of its own; stars far from the locus count as
    outliers. Colours alone do not tell a common offset of all bands: ``known`` offsets enter with
    their errors, and without any the anchor stays.

    Parameters
    ----------
    magnitudes, errors : mapping of str to (n,) float64 [mag]
        Dereddened PSF magnitudes of stars; NaN where not measured.
    locus : StellarLocus
        The locus in the same system.
    known : mapping of str to (float, float), optional
        Offset and error [mag] that a reference gives for a band.
    options : StellarLocusOptions
        Stars, widths, anchor.

    Returns
    -------
    LocusFit
        Offsets with their covariance (from the scatter of the stars, and the references).

    Raises
    ------
    DataError
        If a band of the locus is missing.
    NoDataError
        If too few stars are good enough, or most are not on the locus.

    References
    ----------
    High et al. 2009, AJ 138, 110; Kelly et al. 2014, MNRAS 439, 28.
    """
    magnitude, weight = _stars(magnitudes, errors, locus, options)
    given = {b: v for b, v in (known or {}).items() if b in locus.bands and np.isfinite(v).all()}
    given = {b: (v, float(np.hypot(e, options.reference_floor))) for b, (v, e) in given.items()}
    if not given:
        given = {options.anchor if options.anchor in locus.bands else locus.bands[0]: (0.0, 1e-5)}
    prior, sigma = np.array([given.get(b, (0.0, 3.0)) for b in locus.bands]).T
    n_point = len(locus.magnitude)
    problem = _Problem(
        magnitude, weight, locus.magnitude, np.full(n_point, 1.0 / n_point), prior, sigma**-2.0,
        float(np.exp(-0.5 * options.outlier**2)) * 0.1,
    )  # fmt: skip
    offset = _start(problem, [b in given for b in locus.bands])
    for _ in range(3):
        offset = _newton(problem, offset)
        density = gaussian_filter1d(problem.score(offset).along, n_point / 40, mode="nearest")
        density = np.maximum(density, 1e-3 * density.mean())
        problem = _Problem(
            magnitude, weight, locus.magnitude, density / density.sum(), prior, problem.precision,
            problem.floor,
        )  # fmt: skip
    offset = _newton(problem, offset)
    fit = _summary(problem, offset, locus.bands, options)
    if fit.outlier_fraction > options.max_outliers:
        raise NoDataError(
            f"{100 * fit.outlier_fraction:.0f} % of {fit.n_star} stars are off the stellar locus "
            f"(at most {100 * options.max_outliers:.0f} % may): is the camera right, is the "
            "extinction removed, are they stars?"
        )
    return fit


def _start(problem: _Problem, known: Sequence[bool]) -> Float64Array:
    """Offsets near the solution: bands without a reference from the median star of the others.

    The places of the stars on the locus are those of the bands that are known; the rest follow.
    """
    offset = problem.prior.copy()
    fixed = np.array(known)
    if fixed.sum() < 3 or fixed.all():
        return offset
    part = _Problem(
        problem.magnitude, np.where(fixed, problem.weight, 0.0), problem.locus, problem.density,
        problem.prior, problem.precision, problem.floor,
    )  # fmt: skip
    rows = (part.weight > 0).sum(axis=1) >= 3
    if rows.sum() < 5:
        return offset
    part = _Problem(
        part.magnitude[rows], part.weight[rows], part.locus, part.density, part.prior,
        part.precision, part.floor,
    )  # fmt: skip
    found = part.score(offset)
    # Brightness and place follow from the bands that are known.
    left = part.magnitude - offset - found.place
    for b in np.flatnonzero(~fixed):
        seen = (problem.weight[rows, b] > 0) & (found.member > 0.5)
        if seen.any():
            offset[b] = np.median(left[seen, b])
    return offset


def _join(
    problem: _Problem, offset: Float64Array, scores: Float64Array, model_error: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Offsets and covariance of the locus, with its systematic error, and of the references."""
    weak = 1.0 / 9.0 * np.eye(len(offset))
    inverse = np.linalg.inv(problem.curvature(offset) + weak)
    alone = offset + inverse @ scores.sum(axis=0)
    # The scatter of the stars' scores, not their errors alone, is the noise.
    covariance = inverse @ (scores.T @ scores + weak) @ inverse + np.diag(model_error**2)
    information = np.linalg.inv(covariance)
    both = np.linalg.inv(information + np.diag(problem.precision))
    joint = both @ (information @ alone + problem.precision * problem.prior)
    return joint, np.asarray(0.5 * (both + both.T))


def _summary(
    problem: _Problem, offset: Float64Array, bands: tuple[str, ...], options: StellarLocusOptions
) -> LocusFit:
    found = problem.score(offset)
    member = found.member
    model_error = np.array(
        [options.model_error_u if b in ("u", "y", "Y") else options.model_error for b in bands]
    )
    joint, covariance = _join(problem, offset, found.gradient, model_error)
    left = problem.magnitude - offset - found.place
    scatter = np.full(len(bands), np.nan)
    for b in range(len(bands)):
        seen = (problem.weight[:, b] > 0) & (member > 0.5)
        if seen.any():
            scatter[b] = robust_sigma(left[seen, b], centre=0.0)
    return LocusFit(bands, joint, covariance, len(member), float(1.0 - member.mean()), scatter)

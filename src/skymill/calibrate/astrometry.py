"""World coordinates of one CCD from reference stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.calibrate.match import SkyMatch, match_plane
from skymill.calibrate.pattern import PatternOptions, Similarity, match_pattern
from skymill.calibrate.reference import ReferenceStars
from skymill.calibrate.robust import LinearFit, fit_linear
from skymill.calibrate.tpv import from_tangent, monomials, to_tangent, tpv_from_mapping
from skymill.data.errors import FitError, NoDataError
from skymill.data.geometry import FitsWcs
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma

__all__ = ["AstrometryFit", "AstrometryOptions", "StarPositions", "fit_astrometry"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AstrometryOptions:
    """How the world coordinates of a CCD are fitted."""

    max_offset_pix: float = option(
        250.0, "Largest pointing error, along East or North.", unit="pixel"
    )
    max_rotation: float = option(1.0, "Largest rotation.", unit="deg")
    n_bright: int = option(200, "Brightest sources in the first attempt to match.")
    max_order: int = option(
        3, "Highest order of the correction to the mapping of the header; lower if enough."
    )
    stars_per_term: float = option(4.0, "Stars for each term of the polynomial, at least.")
    min_matches: int = option(8, "Fewest matched stars.")
    match_radius: float = option(
        1.0, "Largest separation of a pair in the last fit.", unit="arcsec"
    )
    clip: float = option(4.0, "Clipping limit.", unit="sigma")
    min_snr: float = option(10.0, "Faintest source, by signal to noise.")
    centroid_floor: float = option(0.005, "Smallest error of a centroid.", unit="pixel")
    max_scatter: float = option(0.2, "Largest scatter per axis that is accepted.", unit="arcsec")

    def __post_init__(self) -> None:
        check_range(self, "max_offset_pix", low=0.0, low_open=True)
        check_range(self, "max_rotation", low=0.0, high=10.0)
        check_range(self, "n_bright", low=5)
        check_range(self, "max_order", low=1, high=5)
        check_range(self, "stars_per_term", low=1.0)
        check_range(self, "min_matches", low=4)
        check_range(self, "match_radius", low=0.0, low_open=True)
        check_range(self, "clip", low=2.0)
        check_range(self, "min_snr", low=0.0)
        check_range(self, "centroid_floor", low=0.0)
        check_range(self, "max_scatter", low=0.0, low_open=True)


@dataclass(frozen=True)
class StarPositions:
    """Measured stars of a CCD.

    Parameters
    ----------
    x, y : (n,) float64
        Centroids [pixel].
    error : (n,) float64
        Standard deviation of the centroid per axis [pixel].
    flux, snr : (n,) float64
        Flux in any unit and its signal to noise.
    """

    x: Float64Array
    y: Float64Array
    error: Float64Array
    flux: Float64Array
    snr: Float64Array


@dataclass(frozen=True)
class AstrometryFit:
    """World coordinates of a CCD and how good they are.

    Parameters
    ----------
    wcs : FitsWcs
        The mapping (TPV about the centre of the CCD).
    pairs : SkyMatch
        Source (first) and reference (second), indices of the input; separation [arcsec].
    used : (n,) bool
        Pairs that were not clipped.
    residual_ra, residual_dec : (n,) float64
        Source less reference [mas].
    offset_mean, offset_std : float
        Mean and standard deviation of the separations of the used pairs [arcsec].
    scatter : float
        Robust scatter per axis of the used pairs [mas].
    pedestal : float
        Scatter beyond the given errors [mas].
    model_error : float
        Predicted standard deviation per axis of the mapping, mean over the stars [mas].
    order : int
        Order of the correction polynomial.
    pointing_error : (float, float)
        True less header position of the CCD's centre, East and North [arcsec].
    """

    wcs: FitsWcs
    pairs: SkyMatch
    used: NDArray[np.bool_]
    residual_ra: Float64Array
    residual_dec: Float64Array
    offset_mean: float
    offset_std: float
    scatter: float
    pedestal: float
    model_error: float
    order: int
    pointing_error: tuple[float, float]


@dataclass(frozen=True)
class _Frame:
    """The plane of the fit: tangent point, base positions [arcsec], unit pixel coordinates."""

    wcs: FitsWcs
    shape: tuple[int, int]
    ra0: float
    dec0: float
    start: Similarity | None = None

    def base(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        ra0, dec0 = self._header_centre()
        xi, eta = to_tangent(*self.wcs.pixel_to_sky(x=x, y=y), ra0=ra0, dec0=dec0)
        return 3600.0 * xi, 3600.0 * eta

    def unit(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        ny, nx = self.shape
        half = 0.5 * max(nx, ny)
        return (x - 0.5 * (nx - 1)) / half, (y - 0.5 * (ny - 1)) / half

    def _header_centre(self) -> tuple[float, float]:
        ny, nx = self.shape
        ra, dec = self.wcs.pixel_to_sky(x=[0.5 * (nx - 1)], y=[0.5 * (ny - 1)])
        return float(ra[0]), float(dec[0])


def fit_astrometry(
    stars: StarPositions,
    references: ReferenceStars,
    *,
    wcs: FitsWcs,
    shape: tuple[int, int],
    options: AstrometryOptions = AstrometryOptions(),
) -> AstrometryFit:
    """Fit the mapping of a CCD to reference stars.

    The mapping of the header (its distortion included) moves rigidly to the matched position, and
    a polynomial of the lowest sufficient order (by the Bayesian information criterion) corrects
    it. Errors are those of the centroids and of the references, with a common scatter added that
    makes chi2 per degree of freedom 1 (the turbulence of the air, mostly).

    Parameters
    ----------
    stars : StarPositions
        Measured sources; the bright unblended point sources are best.
    references : ReferenceStars
        Reference stars at the epoch of the exposure.
    wcs : FitsWcs
        Mapping of the header.
    shape : (ny, nx)
        Size of the CCD.
    options : AstrometryOptions
        Settings.

    Returns
    -------
    AstrometryFit
        The new mapping and its quality.

    Raises
    ------
    FitError
        If the stars do not match the references or the scatter is too large.
    NoDataError
        If there are too few stars.
    """
    good = np.flatnonzero(
        np.isfinite(stars.x + stars.y + stars.error + stars.flux)
        & (stars.snr >= options.min_snr)
        & (stars.error > 0)
    )
    if good.size < options.min_matches:
        raise NoDataError(
            f"{good.size} sources with S/N >= {options.min_snr:g} and a good centroid; astrometry "
            f"needs at least {options.min_matches}"
        )
    frame, start = _first_match(stars, good, references, wcs, shape, options)
    fit, pairs, order = _fit_correction(stars, good, references, frame, options)
    return _pack(stars, good, references, frame, start, fit, pairs, order, options)


def _first_match(
    stars: StarPositions,
    good: NDArray[np.int64],
    references: ReferenceStars,
    wcs: FitsWcs,
    shape: tuple[int, int],
    options: AstrometryOptions,
) -> tuple[_Frame, Similarity]:
    ny, nx = shape
    ra, dec = wcs.pixel_to_sky(x=[0.5 * (nx - 1)], y=[0.5 * (ny - 1)])
    frame = _Frame(wcs, shape, float(ra[0]), float(dec[0]))
    x, y = frame.base(stars.x[good], stars.y[good])
    xi, eta = to_tangent(references.ra, references.dec, ra0=frame.ra0, dec0=frame.dec0)
    near = np.flatnonzero(np.isfinite(xi))
    start = match_pattern(
        x=x,
        y=y,
        flux=stars.flux[good],
        ref_x=3600.0 * xi[near],
        ref_y=3600.0 * eta[near],
        ref_flux=references.flux[near],
        options=PatternOptions(
            max_offset=options.max_offset_pix * _pixel_scale(wcs, shape),
            max_rotation=options.max_rotation,
            n_bright=options.n_bright,
            min_pairs=min(options.min_matches, 5),
        ),
    )
    ra1, dec1 = from_tangent(
        start.shift[0] / 3600.0, start.shift[1] / 3600.0, ra0=frame.ra0, dec0=frame.dec0
    )
    return _Frame(wcs, shape, float(ra1), float(dec1), start), start


def _pixel_scale(wcs: FitsWcs, shape: tuple[int, int]) -> float:
    ny, nx = shape
    ra, dec = wcs.pixel_to_sky(x=[nx / 2, nx / 2 + 1, nx / 2], y=[ny / 2, ny / 2, ny / 2 + 1])
    xi, eta = to_tangent(ra, dec, ra0=float(ra[0]), dec0=float(dec[0]))
    return 3600.0 * float(np.sqrt(abs(xi[1] * eta[2] - xi[2] * eta[1])))


def _fit_correction(
    stars: StarPositions,
    good: NDArray[np.int64],
    references: ReferenceStars,
    frame: _Frame,
    options: AstrometryOptions,
) -> tuple[LinearFit, SkyMatch, int]:
    """Match and fit in turn; the residuals are in arcsec in the plane about the new centre."""
    base_x, base_y = frame.base(stars.x[good], stars.y[good])
    u, v = frame.unit(stars.x[good], stars.y[good])
    xi, eta = to_tangent(references.ra, references.dec, ra0=frame.ra0, dec0=frame.dec0)
    ref_x, ref_y = 3600.0 * xi, 3600.0 * eta
    assert frame.start is not None
    moved_x, moved_y = frame.start.apply(base_x, base_y)
    # The first affine map was found about the old centre: shift to the new one.
    moved_x, moved_y = moved_x - frame.start.shift[0], moved_y - frame.start.shift[1]
    scale = _pixel_scale(frame.wcs, frame.shape)
    radius = 2.0 * options.match_radius
    fit: LinearFit | None = None
    order = 1
    for _ in range(4):
        pairs = match_plane(moved_x, moved_y, ref_x, ref_y, radius=radius)
        if len(pairs) < options.min_matches:
            raise FitError(
                f"{len(pairs)} stars match a reference star within {radius:g} arcsec; astrometry "
                f"needs at least {options.min_matches}"
            )
        a, b = pairs.first, pairs.second
        target = np.stack([ref_x[b] - base_x[a], ref_y[b] - base_y[a]], axis=1)
        centroid = np.maximum(stars.error[good[a]], options.centroid_floor) * scale
        error = np.hypot(centroid, references.error[b] / 1000.0)
        fit, order = _best_order(u[a], v[a], target, error, options)
        shift = monomials(u, v, order) @ fit.coefficients
        moved_x, moved_y = base_x + shift[:, 0], base_y + shift[:, 1]
        spread = robust_sigma(fit.residuals[fit.used].ravel())
        radius = float(np.clip(6.0 * spread, 0.3 * options.match_radius, options.match_radius))
    assert fit is not None
    return fit, SkyMatch(good[a], b, pairs.separation), order


def _best_order(
    u: Float64Array,
    v: Float64Array,
    target: Float64Array,
    error: Float64Array,
    options: AstrometryOptions,
) -> tuple[LinearFit, int]:
    """The order with the lowest Bayesian information criterion that the stars can support."""
    fits: dict[int, LinearFit] = {}
    for order in range(1, options.max_order + 1):
        terms = (order + 1) * (order + 2) // 2
        if order > 1 and u.size < options.stars_per_term * terms:
            break
        fits[order] = fit_linear(monomials(u, v, order), target, error, clip=options.clip)
    top = fits[max(fits)]
    rows = top.used
    sigma = np.sqrt(error[rows] ** 2 + top.pedestal**2)[:, None]
    best, lowest = 1, np.inf
    for order, fit in fits.items():
        chi2 = float(np.sum((fit.residuals[rows] / sigma) ** 2))
        criterion = chi2 + 2 * fit.coefficients.shape[0] * np.log(2 * rows.sum())
        if criterion < lowest:
            best, lowest = order, criterion
    return fits[best], best


def _pack(
    stars: StarPositions,
    good: NDArray[np.int64],
    references: ReferenceStars,
    frame: _Frame,
    start: Similarity,
    fit: LinearFit,
    pairs: SkyMatch,
    order: int,
    options: AstrometryOptions,
) -> AstrometryFit:
    residual = -1000.0 * fit.residuals
    separation = np.hypot(*fit.residuals.T)
    scatter = robust_sigma(residual[fit.used].ravel())
    if int(fit.used.sum()) < options.min_matches:
        raise FitError(
            f"{int(fit.used.sum())} stars are left after clipping; astrometry needs at least "
            f"{options.min_matches}"
        )
    if scatter > 1000.0 * options.max_scatter:
        raise FitError(
            f"the astrometric scatter of {scatter:.0f} mas per axis over {int(fit.used.sum())} "
            f"stars exceeds {1000 * options.max_scatter:.0f} mas: the match is likely wrong"
        )

    def mapping(x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        base_x, base_y = frame.base(x, y)
        shift = monomials(*frame.unit(x, y), order) @ fit.coefficients
        return from_tangent(
            (base_x + shift[:, 0]) / 3600.0,
            (base_y + shift[:, 1]) / 3600.0,
            ra0=frame.ra0,
            dec0=frame.dec0,
        )

    design = monomials(*frame.unit(stars.x[good], stars.y[good]), order)
    variance = np.einsum("ij,jk,ik->i", design, fit.covariance, design)
    return AstrometryFit(
        wcs=tpv_from_mapping(mapping, shape=frame.shape),
        pairs=SkyMatch(pairs.first, pairs.second, separation),
        used=fit.used,
        residual_ra=residual[:, 0],
        residual_dec=residual[:, 1],
        offset_mean=float(separation[fit.used].mean()),
        offset_std=float(separation[fit.used].std()),
        scatter=scatter,
        pedestal=1000.0 * fit.pedestal,
        model_error=1000.0 * float(np.sqrt(variance.mean())),
        order=order,
        pointing_error=(float(start.shift[0]), float(start.shift[1])),
    )

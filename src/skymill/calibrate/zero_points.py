"""Zero points of a catalogue's bands against a reference catalogue and the stellar locus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.colour_terms import CatalogueTerm, find_colour_term
from skymill.calibrate.extinction import COEFFICIENTS, extinction_coefficient
from skymill.calibrate.filters import FILTER_SETS
from skymill.calibrate.match import match_sky
from skymill.calibrate.reference import ReferenceOptions, load_references
from skymill.calibrate.stellar_locus import (
    LocusFit,
    StellarLocusOptions,
    fit_stellar_locus,
    library_locus,
)
from skymill.calibrate.synthetic import DECAM_SYSTEM, choose_colour_term
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema
from skymill.data.units import magnitude_from_njy

__all__ = ["StarResiduals", "ZeroPoint", "ZeroPointFit", "ZeroPointOptions", "fit_zero_point",
           "fit_zero_points", "parse_colour_terms"]  # fmt: skip

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ZeroPointOptions:
    """Stars, match and colour terms of the zero points."""

    radius_arcsec: float = option(1.0, "Largest separation of a match", unit="arcsec")
    min_mag: float = option(16.0, "Brightest reference star", unit="mag")
    max_mag: float = option(21.0, "Faintest reference star", unit="mag")
    max_error: float = option(0.1, "Largest error of a star in either catalogue", unit="mag")
    clip: float = option(3.0, "Residuals beyond this many robust deviations are left out")
    min_stars: int = option(5, "Stars that a zero point needs")
    epoch_mjd: float = option(
        0.0, "Epoch of the catalogue for proper motions, MJD; 0 takes the reference's", unit="day"
    )
    colour_terms: tuple[str, ...] = option(
        (), "band:a0,a1,a2,a3 of m - m_ref = sum a_k (blue - red)^k in the reference's colour"
    )
    colour_bands: tuple[str, ...] = option(("g", "i"), "The reference's two bands of the colour")
    min_colour: float = option(0.0, "Bluest star, if there is a colour term", unit="mag")
    max_colour: float = option(0.7, "Reddest star, if there is a colour term", unit="mag")
    compute_terms: bool = option(
        True, "Compute a colour term from filter curves and stars where none is known"
    )

    def __post_init__(self) -> None:
        check_range(self, "radius_arcsec", low=0.0, low_open=True, high=60.0)
        check_range(self, "max_error", low=0.0, low_open=True)
        check_range(self, "clip", low=1.0, high=20.0)
        check_range(self, "min_stars", low=2)
        if self.max_mag <= self.min_mag:
            raise ConfigError(f"max_mag must be > min_mag = {self.min_mag} mag; got {self.max_mag}")
        parse_colour_terms(self.colour_terms)
        if len(self.colour_bands) != 2:
            raise ConfigError(f"colour_bands must be two bands; got {self.colour_bands}")


@dataclass(frozen=True, kw_only=True)
class StarResiduals:
    """The stars behind a zero point.

    Parameters
    ----------
    row : (n,) int64
        Rows of the catalogue's stars.
    magnitude : (n,) float64 [mag]
        Of the reference, in the camera's system and dereddened.
    residual, error : (n,) float64 [mag]
        Catalogue minus reference, and its error.
    used : (n,) bool
        Whether the star counted.
    """

    row: NDArray[np.int64]
    magnitude: Float64Array
    residual: Float64Array
    error: Float64Array
    used: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ZeroPoint:
    """Offset of a band.

    Parameters
    ----------
    offset, error, scatter : float [mag]
        Subtract ``offset`` from the magnitudes; its standard error; the scatter of a star.
    n_star : int
        Stars used.
    stars : StarResiduals, optional
        All matched stars with both magnitudes.
    """

    offset: float
    error: float
    scatter: float
    n_star: int
    stars: StarResiduals | None = None


@dataclass(frozen=True, kw_only=True)
class ZeroPointFit:
    """Zero points of all bands.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``zeroPoints``, one row a band.
    stars : astropy.table.Table
        Schema ``zeroPointStars``, one row for each matched star and band; residuals are after the
        zero point.
    """

    table: Table
    stars: Table


def parse_colour_terms(entries: Sequence[str]) -> dict[str, Float64Array]:
    """Polynomials written as ``band:a0,a1,...``.

    Parameters
    ----------
    entries : sequence of str
        One for each band.

    Returns
    -------
    dict of str to (k,) float64
        Coefficients by band.

    Raises
    ------
    ConfigError
        If an entry is malformed.
    """
    out = {}
    for entry in entries:
        band, _, numbers = entry.partition(":")
        try:
            out[band.strip()] = np.array([float(v) for v in numbers.split(",")])
        except ValueError:
            raise ConfigError(f"a colour term is written band:a0,a1,...; got {entry!r}") from None
    return out


def fit_zero_point(
    stars: Table,
    references: Sequence[Table],
    *,
    band: str,
    reference_band: str,
    ebv: Float64Array,
    reference_coefficient: float,
    options: ZeroPointOptions = ZeroPointOptions(),
    colour_coefficients: tuple[float, float] = (0.0, 0.0),
    known_term: CatalogueTerm | None = None,
) -> ZeroPoint:
    """Compare the PSF magnitudes of stars with a reference catalogue.

    Parameters
    ----------
    stars : astropy.table.Table
        Stars with ``ra``, ``dec`` and dereddened ``{band}_psf_mag`` and ``{band}_psf_magerr``.
    references : sequence of astropy.table.Table
        Shards in the ``refcat`` schema, not dereddened.
    band, reference_band : str
        Band of the catalogue and its counterpart in the reference.
    ebv : (n,) float64 [mag]
        E(B-V) of each star.
    reference_coefficient : float
        Extinction of the reference's band over E(B-V).
    options : ZeroPointOptions
        Choice of the stars.
    colour_coefficients : (float, float)
        Extinction of the two bands of the reference's colour over E(B-V).
    known_term : CatalogueTerm, optional
        Step from the reference's band to the catalogue's; a term of the band in ``options``
        replaces it. It acts on the reddened magnitudes, like in the calibration of the frames.

    Returns
    -------
    ZeroPoint
        Weighted, clipped mean of the residuals with a scatter of the stars beyond their errors.

    Raises
    ------
    NoDataError
        If too few stars match.
    """
    terms = parse_colour_terms(options.colour_terms)
    reference = load_references(
        references,
        band=reference_band,
        epoch_mjd=options.epoch_mjd or float(np.median(np.asarray(references[0]["epoch"]))),
        options=ReferenceOptions(mag_min=options.min_mag, mag_max=options.max_mag),
        colour=tuple(options.colour_bands) if band in terms else None,  # type: ignore[arg-type]
        colour_term=None if band in terms else known_term,
    )
    pairs = match_sky(
        np.asarray(stars["ra"]), np.asarray(stars["dec"]), reference.ra, reference.dec,
        radius_arcsec=options.radius_arcsec,
    )  # fmt: skip
    mag = np.asarray(stars[f"{band}_psf_mag"], np.float64)[pairs.first]
    err = np.asarray(stars[f"{band}_psf_magerr"], np.float64)[pairs.first]
    dust = np.nan_to_num(np.asarray(ebv, np.float64)[pairs.first])
    flux, flux_err = reference.flux[pairs.second], reference.flux_err[pairs.second]
    ref_err = np.nan_to_num(1.0857 * flux_err / flux, nan=0.0)
    residual = mag - (magnitude_from_njy(flux) - reference_coefficient * dust)
    keep = np.isfinite(residual) & (err < options.max_error) & (ref_err < options.max_error)
    if band in terms and reference.colour is not None:
        reddening = (colour_coefficients[0] - colour_coefficients[1]) * dust
        colour = reference.colour[pairs.second] - reddening
        with np.errstate(invalid="ignore"):
            keep &= (colour > options.min_colour) & (colour < options.max_colour)
        residual = residual - np.polynomial.polynomial.polyval(colour, terms[band])
    if keep.sum() < options.min_stars:
        raise NoDataError(
            f"band {band}: {int(keep.sum())} stars match the reference's {reference_band} within "
            f"{options.radius_arcsec} arcsec and the limits ({len(pairs)} pairs of {len(stars)} "
            f"stars and {len(reference)} references); at least {options.min_stars} are needed"
        )
    total = np.hypot(err, ref_err)
    found, used = _robust_mean(residual[keep], total[keep], options.clip)
    known = np.isfinite(residual)
    counted = np.zeros(len(residual), bool)
    counted[np.flatnonzero(keep)[used]] = True
    stars_ = StarResiduals(
        row=pairs.first[known], magnitude=(mag - residual)[known], residual=residual[known],
        error=total[known], used=counted[known],
    )  # fmt: skip
    return replace(found, stars=stars_)


def _robust_mean(
    values: Float64Array, errors: Float64Array, clip: float
) -> tuple[ZeroPoint, NDArray[np.bool_]]:
    """Clipped mean, weighted by the errors and the scatter that they leave unexplained."""
    extra2, mean = 0.0, float(np.median(values))
    # Outliers must not enter the first mean: they can be many and magnitudes away.
    used = np.abs(values - mean) <= clip * max(float(robust_sigma(values - mean)), 1e-6)
    for _ in range(20):
        scatter = float(robust_sigma(values[used] - mean))
        extra2 = max(scatter**2 - float(np.median(errors[used] ** 2)), 0.0)
        sigma = np.sqrt(errors**2 + extra2 + 1e-12)
        weight = np.where(used, 1.0 / sigma**2, 0.0)
        mean = float(np.sum(weight * values) / weight.sum())
        again = np.abs(values - mean) < clip * np.maximum(sigma, scatter)
        if again.sum() < 2 or np.array_equal(again, used):
            break
        used = again
    weight = np.where(used, 1.0 / (errors**2 + extra2 + 1e-12), 0.0)
    # The scatter of the stars themselves, not only their errors, sets the error of the mean.
    variance = float(np.sum(weight**2 * (values - mean) ** 2) / weight.sum() ** 2)
    n = int(used.sum())
    found = ZeroPoint(
        offset=mean,
        error=float(np.sqrt(variance * n / max(n - 1, 1))),
        scatter=float(robust_sigma(values[used] - mean)),
        n_star=n,
    )
    return found, used


def fit_zero_points(
    stars: Table,
    references: Sequence[Table],
    *,
    bands: Sequence[str],
    survey: str,
    band_map: dict[str, str],
    name: str,
    options: ZeroPointOptions = ZeroPointOptions(),
    locus: StellarLocusOptions = StellarLocusOptions(),
    camera: str = "",
    locus_camera: str = "",
) -> ZeroPointFit:
    """Zero points of all bands: from the reference, and jointly from the stellar locus.

    Parameters
    ----------
    stars : astropy.table.Table
        The stars of a ``dereddenedCatalog``.
    references : sequence of astropy.table.Table
        Shards in the ``refcat`` schema; may be empty.
    bands : sequence of str
        Bands of the catalogue.
    survey : str
        Survey of the reference, for its extinction coefficients.
    band_map : dict of str to str
        The reference's band where its name differs.
    name : str
        Name of the reference catalogue, for the table.
    options : ZeroPointOptions
        Stars and match.
    locus : StellarLocusOptions
        Stars and widths of the locus.
    camera : str
        Camera of the catalogue, whose known colour terms are applied; empty for none.
    locus_camera : str
        Set of filters of the stellar locus; that of ``camera`` if empty. Without a camera the
        catalogue is in the reference's system, which is then its own.

    Returns
    -------
    ZeroPointFit
        A band without a zero point has offset 0, source ``none`` and the reason in ``message``.
    """
    known = {**COEFFICIENTS, **FILTER_SETS}
    if survey not in known:
        raise ConfigError(f"survey must be one of {', '.join(known)}; got {survey!r}")
    shards = [t for t in references if len(t)]
    ebv = np.asarray(stars["ebv"], np.float64)
    dusty = bool(np.any(np.nan_to_num(ebv) != 0.0))
    rows: list[_Row] = []
    for band in bands:
        found, source, message = None, "none", "there is no reference catalogue here"
        other = band_map.get(band, band)
        term = _term(survey, band, camera, other, options)
        if shards and _other_u(survey, band, camera, term, options):
            message = (
                f"u of {survey} is another band than that of {camera}, and no colour term is known "
                "(zeroPoint.colour_terms)"
            )
        elif shards:
            try:
                found = fit_zero_point(
                    stars, shards, band=band, reference_band=other, ebv=ebv,
                    reference_coefficient=_coefficient(band, other, survey, camera, term, options)
                    if dusty else 0.0,
                    options=options,
                    colour_coefficients=_colour_coefficients(survey, options),
                    known_term=term,
                )  # fmt: skip
                source, message = f"{name} {other}"[:32], ""
            except (NoDataError, ConfigError, DataError) as err:
                message = str(err)
        rows.append((band, found, source, message))
    fit, reason = None, "switched off"
    if locus.use:
        try:
            fit = _fit_locus(rows, stars, locus, locus_camera or camera or survey)
        except (NoDataError, ConfigError, DataError) as err:
            reason = str(err)
    table = _zero_point_table(rows, fit, reason)
    return ZeroPointFit(table=table, stars=_star_table(rows, stars, table))


def _other_u(
    survey: str, band: str, camera: str, term: CatalogueTerm | None, options: ZeroPointOptions
) -> bool:
    """Whether a reference's u would move the catalogue into another system by tenths of a mag.

    A computed term does not help: at one u - g the library's stars differ by 0.1 mag.
    """
    if band != "u" or term is not None or "u" in parse_colour_terms(options.colour_terms):
        return False
    camera = camera.lower()
    return bool(camera) and camera != survey and not (camera == "decam" and survey in DECAM_SYSTEM)


def _term(
    survey: str, band: str, camera: str, other: str, options: ZeroPointOptions
) -> CatalogueTerm | None:
    """The known colour term, else one computed from filter curves where both systems have them."""
    if not camera or camera.lower() == survey:
        return None
    find = choose_colour_term if options.compute_terms else find_colour_term
    term = find(survey, band, camera=camera)
    return term if term is not None and other == term.primary else None


def _coefficient(
    band: str,
    other: str,
    survey: str,
    camera: str,
    term: CatalogueTerm | None,
    options: ZeroPointOptions,
) -> float:
    """Extinction of the reference's magnitudes: those of a known term are the camera's already."""
    if term is not None and band not in parse_colour_terms(options.colour_terms):
        return extinction_coefficient(band, survey=camera)
    return extinction_coefficient(other, survey=survey)


def _colour_coefficients(survey: str, options: ZeroPointOptions) -> tuple[float, float]:
    table = COEFFICIENTS.get(survey, {})
    blue, red = options.colour_bands
    return table.get(blue, 0.0), table.get(red, 0.0)


_Row = tuple[str, ZeroPoint | None, str, str]


def _fit_locus(
    rows: list[_Row], stars: Table, options: StellarLocusOptions, camera: str
) -> LocusFit:
    """All bands that the camera's filter curves know, with the reference's zero points."""
    have = FILTER_SETS.get(camera.lower(), {})
    bands = [r[0] for r in rows if r[0] in have and _has_magnitudes(stars, r[0])]
    model = library_locus(bands, camera=camera.lower(), options=options)
    known = {b: (z.offset, z.error) for b, z, _, _ in rows if z is not None}
    magnitudes = {b: np.asarray(stars[f"{b}_psf_mag"], np.float64) for b in bands}
    errors = {b: np.asarray(stars[f"{b}_psf_magerr"], np.float64) for b in bands}
    return fit_stellar_locus(magnitudes, errors, model, known=known, options=options)


def _has_magnitudes(stars: Table, band: str) -> bool:
    name = f"{band}_psf_mag"
    return name in stars.colnames and bool(np.isfinite(np.asarray(stars[name], float)).any())


def _joined(row: _Row, fit: LocusFit | None, reason: str) -> _Row:
    """The row of a band after the joint fit with the locus."""
    band, found, source, message = row
    if fit is None or band not in fit.bands:
        missing = f"; no stellar locus: {reason}" if fit is None and found is None else ""
        return band, found, source, message + missing
    k = fit.bands.index(band)
    joint = ZeroPoint(
        offset=float(fit.offset[k]),
        error=float(np.sqrt(fit.covariance[k, k])),
        scatter=float(fit.scatter[k]) if found is None else found.scatter,
        n_star=fit.n_star if found is None else found.n_star,
        stars=None if found is None else found.stars,
    )
    return band, joint, "locus" if found is None else f"{source} + locus"[:32], ""


def _zero_point_table(rows: list[_Row], fit: LocusFit | None, reason: str) -> Table:
    none = ZeroPoint(offset=0.0, error=np.nan, scatter=np.nan, n_star=0)
    joined = [_joined(row, fit, reason) for row in rows]
    points = [found or none for _, found, _, _ in joined]
    covariance = np.diag([p.error**2 for p in points])
    if fit is not None:
        names = [r[0] for r in rows]
        at = [names.index(b) for b in fit.bands]
        covariance[np.ix_(at, at)] = fit.covariance
    table = Table(
        {
            "band": np.array([r[0] for r in rows], "U8"),
            "offset": [p.offset for p in points],
            "offset_err": [p.error for p in points],
            "scatter": [p.scatter for p in points],
            "n_star": [p.n_star for p in points],
            "reference_offset": [z.offset if z else np.nan for _, z, _, _ in rows],
            "reference_err": [z.error if z else np.nan for _, z, _, _ in rows],
            "covariance": covariance,
            "source": np.array([r[2] for r in joined], "U32"),
            "message": np.array([r[3][:256] for r in joined], "U256"),
        }
    )
    return load_schema("zeroPoints").apply(table)


def _star_table(rows: list[_Row], stars: Table, table: Table) -> Table:
    """Residuals of the matched stars of all bands, after the zero points."""
    parts = []
    for (band, found, _, _), point in zip(rows, table, strict=True):
        if found is None or found.stars is None:
            continue
        s = found.stars
        parts.append(
            {
                "band": np.full(len(s.row), band, "U8"),
                "ra": np.asarray(stars["ra"], np.float64)[s.row],
                "dec": np.asarray(stars["dec"], np.float64)[s.row],
                "reference_mag": s.magnitude,
                "residual": s.residual - float(point["offset"]),
                "residual_err": s.error,
                "used": s.used,
            }
        )
    schema = load_schema("zeroPointStars")
    if not parts:
        return schema.empty()
    return schema.apply(Table({k: np.concatenate([p[k] for p in parts]) for k in parts[0]}))

"""Single-frame calibration of one CCD: world coordinates and zero point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.astrometry import (
    AstrometryFit,
    AstrometryOptions,
    StarPositions,
    fit_astrometry,
)
from skymill.calibrate.colour_terms import CatalogueTerm, ColourTerm
from skymill.calibrate.match import SkyMatch, match_sky
from skymill.calibrate.photometry import PhotometryOptions, ZeroPoint, fit_zero_point
from skymill.calibrate.reference import ReferenceOptions, ReferenceStars, load_references
from skymill.data.errors import DataError
from skymill.data.images import Exposure
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema

__all__ = [
    "CcdCalibration",
    "CcdOptions",
    "calibrate_ccd",
    "flux_columns",
    "scale_fluxes",
    "star_positions",
]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CcdOptions:
    """Which measurements calibrate a CCD."""

    flux: str = option("psfFlux", "Flux that is tied to the reference catalogue.")
    photometry_radius: float = option(
        0.7, "Largest separation of a source from its photometric reference.", unit="arcsec"
    )
    search_margin: float = option(
        0.05, "Width around the CCD in which reference stars are read.", unit="deg"
    )
    colour_fields: tuple[str, ...] = option(
        (), "Two flux fields whose colour enters the colour term; empty for none."
    )
    colour_coefficients: tuple[float, ...] = option(
        (), "c0, c1 and c2 of the colour term: m_image = m_reference + c0 + c1 c + c2 c^2."
    )
    colour_range: tuple[float, ...] = option(
        (-10.0, 10.0), "Range of colour of the stars of the colour term.", unit="mag"
    )

    def __post_init__(self) -> None:
        check_range(self, "photometry_radius", low=0.0, low_open=True)
        check_range(self, "search_margin", low=0.0)
        if len(self.colour_fields) not in (0, 2):
            raise DataError(f"colour_fields must be two names or none; got {self.colour_fields}")
        if self.colour_fields and not 1 <= len(self.colour_coefficients) <= 3:
            raise DataError(
                "colour_coefficients must be 1 to 3 numbers when colour_fields are set; got "
                f"{self.colour_coefficients}"
            )

    @property
    def colour_term(self) -> ColourTerm | None:
        """The colour term, or none."""
        if not self.colour_fields:
            return None
        c0, c1, c2 = (*self.colour_coefficients, 0.0, 0.0)[:3]
        return ColourTerm(c0, c1, c2, *self.colour_range)


@dataclass(frozen=True)
class CcdCalibration:
    """What `calibrate_ccd` made.

    Parameters
    ----------
    exposure : Exposure
        With world coordinates, flux scale and summary.
    sources : Table
        The ``src`` table.
    matches : Table
        The ``srcMatch`` table.
    astrometry : AstrometryFit
        The astrometric fit.
    photometry : ZeroPoint
        The photometric fit.
    """

    exposure: Exposure
    sources: Table
    matches: Table
    astrometry: AstrometryFit
    photometry: ZeroPoint


def calibrate_ccd(
    exposure: Exposure,
    catalogue: Table,
    *,
    astrometric: Sequence[Table],
    photometric: Sequence[Table],
    options: CcdOptions = CcdOptions(),
    astrometry_options: AstrometryOptions = AstrometryOptions(),
    photometry_options: PhotometryOptions = PhotometryOptions(),
    astrometric_references: ReferenceOptions = ReferenceOptions(flux_field="phot_g_mean"),
    photometric_references: ReferenceOptions = ReferenceOptions(mag_max=22.0),
    colour_term: CatalogueTerm | None = None,
) -> CcdCalibration:
    """Calibrate a CCD against reference catalogues.

    Parameters
    ----------
    exposure : Exposure
        Background-subtracted electrons with the world coordinates of the header.
    catalogue : Table
        Its measured sources: pixel columns of the ``src`` schema.
    astrometric, photometric : sequence of Table
        Shards of the reference catalogues (schema ``refcat``) that touch the CCD.
    options : CcdOptions
        Which measurements serve.
    astrometry_options : AstrometryOptions
        Astrometric fit.
    photometry_options : PhotometryOptions
        Photometric fit.
    astrometric_references, photometric_references : ReferenceOptions
        Choice of reference stars.
    colour_term : CatalogueTerm, optional
        Known step from the photometric catalogue to the camera; a colour term in ``options``
        replaces it.

    Returns
    -------
    CcdCalibration
        The calibrated exposure, its sources and the matches.

    Raises
    ------
    NoDataError
        If there are no reference stars here, or too few sources.
    FitError
        If the sources do not match the references.
    """
    if exposure.wcs is None:
        raise DataError("the exposure has no world coordinates to start from")
    near = _circle(exposure, options.search_margin)
    references = load_references(
        astrometric,
        band=exposure.info.band,
        epoch_mjd=exposure.info.mjd_mid,
        options=astrometric_references,
        flux_needed=False,
        near=near,
    )
    fit = fit_astrometry(
        star_positions(catalogue),
        references,
        wcs=exposure.wcs,
        shape=exposure.planes.shape,
        options=astrometry_options,
    )
    colour = (options.colour_fields[0], options.colour_fields[1]) if options.colour_fields else None
    photo_references = load_references(
        photometric,
        band=exposure.info.band,
        epoch_mjd=exposure.info.mjd_mid,
        options=photometric_references,
        colour=colour,
        near=near,
        colour_term=None if colour else colour_term,
    )
    sources = _source_table(catalogue, exposure, fit)
    pairs, zero_point = _calibrate_flux(
        sources, photo_references, exposure.planes.shape, options, photometry_options
    )
    sources["calib_photometry_used"][pairs.first[zero_point.used]] = True
    matches = _match_table(sources, references, fit, photo_references, pairs, zero_point)
    calibrated = exposure.replace(
        wcs=fit.wcs,
        photo_calib=zero_point.scale,
        summary={**exposure.summary, **_summary(exposure, fit, zero_point)},
    )
    return CcdCalibration(calibrated, sources, matches, fit, zero_point)


def _circle(exposure: Exposure, margin: float) -> tuple[float, float, float]:
    ny, nx = exposure.planes.shape
    assert exposure.wcs is not None
    ra, dec = exposure.wcs.pixel_to_sky(x=[nx / 2, 0.0, nx], y=[ny / 2, 0.0, ny])
    a, d = np.radians(ra), np.radians(dec)
    v = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
    radius = np.degrees(2 * np.arcsin(np.linalg.norm(v[1:] - v[0], axis=1).max() / 2))
    return float(ra[0]), float(dec[0]), float(radius + margin)


def star_positions(catalogue: Table) -> StarPositions:
    """The sources of a catalogue that can serve for astrometry.

    Parameters
    ----------
    catalogue : Table
        Pixel columns of the ``src`` schema.

    Returns
    -------
    StarPositions
        All rows; those with a flagged centroid have S/N 0.
    """
    good = np.asarray(catalogue["centroid_flags"]) == 0
    snr = np.where(good, np.nan_to_num(np.asarray(catalogue["snr"], np.float64)), 0.0)
    error = np.hypot(
        np.asarray(catalogue["x_err"], np.float64), np.asarray(catalogue["y_err"], np.float64)
    ) / np.sqrt(2.0)
    return StarPositions(
        np.asarray(catalogue["x"], np.float64),
        np.asarray(catalogue["y"], np.float64),
        error,
        np.asarray(catalogue["psfFlux"], np.float64),
        snr,
    )


def _source_table(catalogue: Table, exposure: Exposure, fit: AstrometryFit) -> Table:
    schema = load_schema("src")
    known = {c.name for c in schema.columns}
    sources = Table(
        {name: np.array(catalogue[name]) for name in catalogue.colnames if name in known}
    )
    n = len(sources)
    sources["ra"], sources["dec"] = fit.wcs.pixel_to_sky(
        x=np.asarray(sources["x"]), y=np.asarray(sources["y"])
    )
    used = np.zeros(n, bool)
    used[fit.pairs.first[fit.used]] = True
    sources["calib_astrometry_used"] = used
    sources["calib_photometry_used"] = np.zeros(n, bool)
    sources["visit"] = np.full(n, exposure.info.visit)
    sources["detector"] = np.full(n, exposure.info.detector)
    return schema.apply(sources)


def _calibrate_flux(
    sources: Table,
    references: ReferenceStars,
    shape: tuple[int, int],
    options: CcdOptions,
    photometry_options: PhotometryOptions,
) -> tuple[SkyMatch, ZeroPoint]:
    if options.flux not in sources.colnames:
        raise DataError(
            f"the sources have no flux {options.flux!r}; choose from "
            f"{', '.join(flux_columns(sources))}"
        )
    flags = f"{options.flux}_flags"
    good = (np.asarray(sources["extendedness"]) < 0.5) & ~np.asarray(sources["blended"])
    if flags in sources.colnames:
        good &= np.asarray(sources[flags]) == 0
    index = np.flatnonzero(good)
    pairs = match_sky(
        sources["ra"][index],
        sources["dec"][index],
        references.ra,
        references.dec,
        radius_arcsec=options.photometry_radius,
    )
    pairs = SkyMatch(index[pairs.first], pairs.second, pairs.separation)
    zero_point = fit_zero_point(
        flux=np.asarray(sources[options.flux])[pairs.first],
        flux_err=np.asarray(sources[f"{options.flux}Err"])[pairs.first],
        reference_flux=references.flux[pairs.second],
        reference_flux_err=references.flux_err[pairs.second],
        shape=shape,
        colour=None if references.colour is None else references.colour[pairs.second],
        colour_term=options.colour_term,
        options=photometry_options,
    )
    return pairs, zero_point


def _match_table(
    sources: Table,
    references: ReferenceStars,
    fit: AstrometryFit,
    photo_references: ReferenceStars,
    pairs: SkyMatch,
    zero_point: ZeroPoint,
) -> Table:
    n, m = len(fit.pairs), len(pairs)
    blank_n, blank_m = np.full(n, np.nan), np.full(m, np.nan)
    table = Table(
        {
            "id": np.concatenate([sources["id"][fit.pairs.first], sources["id"][pairs.first]]),
            "ref_id": np.concatenate(
                [references.id[fit.pairs.second], photo_references.id[pairs.second]]
            ),
            "catalogue": np.repeat(["astrometry", "photometry"], [n, m]),
            "separation": np.concatenate([fit.pairs.separation, pairs.separation]),
            "residual_ra": np.concatenate([fit.residual_ra, blank_m]),
            "residual_dec": np.concatenate([fit.residual_dec, blank_m]),
            "residual_mag": np.concatenate([blank_n, zero_point.residual]),
            "used": np.concatenate([fit.used, zero_point.used]),
        }
    )
    return load_schema("srcMatch").apply(table)


def _summary(exposure: Exposure, fit: AstrometryFit, zero_point: ZeroPoint) -> dict[str, float]:
    return {
        "zeroPoint": zero_point.magnitude,
        "zeroPointErr": zero_point.error,
        "zeroPointScatter": zero_point.scatter,
        "nPhotometry": float(zero_point.used.sum()),
        "astromOffsetMean": fit.offset_mean,
        "astromOffsetStd": fit.offset_std,
        "nAstrometry": float(fit.used.sum()),
        "expTime": exposure.info.exposure_time,
        "mjd": exposure.info.mjd_mid,
        "airmass": exposure.info.airmass,
    }


def flux_columns(table: Table) -> list[str]:
    """Names of the flux columns of a source table, without those of their errors.

    Parameters
    ----------
    table : Table
        Source table.

    Returns
    -------
    list of str
        Names.
    """
    return [n for n in table.colnames if n.endswith("Flux") and f"{n}Err" in table.colnames]


def scale_fluxes(table: Table, scale: Float64Array) -> Table:
    """Multiply all fluxes and their errors.

    Parameters
    ----------
    table : Table
        Source table.
    scale : (n,) float64
        Factor of each row.

    Returns
    -------
    Table
        A copy with scaled fluxes, without units on them.
    """
    out = table.copy()
    for name in flux_columns(table):
        for column in (name, f"{name}Err"):
            out[column] = np.asarray(table[column], np.float64) * scale
    return out

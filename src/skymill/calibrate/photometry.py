"""The zero point of one CCD from reference stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.calibrate.colour_terms import ColourTerm
from skymill.calibrate.robust import LinearFit, fit_linear
from skymill.data.errors import DataError, FitError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.photometry import FluxScale
from skymill.data.statistics import robust_sigma
from skymill.data.units import AB_ZERO_POINT_NJY, MAG_ERR_FACTOR

__all__ = ["ColourTerm", "PhotometryOptions", "ZeroPoint", "fit_zero_point"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PhotometryOptions:
    """How the zero point of a CCD is fitted."""

    min_snr: float = option(20.0, "Faintest source, by signal to noise.")
    min_stars: int = option(5, "Fewest stars of a zero point.")
    clip: float = option(3.0, "Clipping limit.", unit="sigma")
    reference_floor: float = option(0.003, "Smallest error of a reference star.", unit="mag")
    max_scatter: float = option(0.3, "Largest scatter that is accepted.", unit="mag")

    def __post_init__(self) -> None:
        check_range(self, "min_snr", low=1.0)
        check_range(self, "min_stars", low=1)
        check_range(self, "clip", low=2.0)
        check_range(self, "reference_floor", low=0.0)
        check_range(self, "max_scatter", low=0.0, low_open=True)


@dataclass(frozen=True)
class ZeroPoint:
    """Flux scale of a CCD and how good it is.

    Parameters
    ----------
    scale : FluxScale
        NanoJansky per count, constant over the CCD.
    magnitude, error : float
        AB magnitude of one count and its standard deviation [mag].
    used : (n,) bool
        Which of the given stars served.
    residual : (n,) float64
        Calibrated less reference magnitude [mag]; NaN for stars without a flux.
    scatter : float
        Robust scatter of the used stars [mag].
    pedestal : float
        Scatter beyond the given errors [mag].
    """

    scale: FluxScale
    magnitude: float
    error: float
    used: NDArray[np.bool_]
    residual: Float64Array
    scatter: float
    pedestal: float


def fit_zero_point(
    *,
    flux: Float64Array,
    flux_err: Float64Array,
    reference_flux: Float64Array,
    reference_flux_err: Float64Array,
    shape: tuple[int, int] = (4096, 2048),
    colour: Float64Array | None = None,
    colour_term: ColourTerm | None = None,
    options: PhotometryOptions = PhotometryOptions(),
) -> ZeroPoint:
    """Fit one flux scale to matched stars.

    A clipped weighted mean of the relative differences of flux, free of the bias of logarithms; a
    common scatter that makes chi2 per degree of freedom 1 is added to the errors (flat field,
    colours, aperture).

    Parameters
    ----------
    flux, flux_err : (n,) float64 [count]
        Measured fluxes.
    reference_flux, reference_flux_err : (n,) float64 [nJy]
        Fluxes of their reference stars. An unknown error (NaN) counts as 2 %.
    shape : (ny, nx)
        Size of the CCD.
    colour : (n,) float64 [mag], optional
        Colours of the reference stars, for ``colour_term``.
    colour_term : ColourTerm, optional
        Step from the reference's system to the instrument's.
    options : PhotometryOptions
        Settings.

    Returns
    -------
    ZeroPoint
        The scale and its quality.

    Raises
    ------
    NoDataError
        If too few stars can serve.
    FitError
        If the scatter is too large.
    """
    reference, reference_error = _in_instrument_system(
        reference_flux, reference_flux_err, colour, colour_term, options
    )
    with np.errstate(invalid="ignore"):
        good = (flux >= options.min_snr * flux_err) & (flux_err >= 0) & (reference > 0)
    rows = np.flatnonzero(good & np.isfinite(reference + reference_error))
    if rows.size < options.min_stars:
        raise NoDataError(
            f"{rows.size} stars with S/N >= {options.min_snr:g} and a reference flux; a zero point "
            f"needs at least {options.min_stars}"
        )
    pairs = (flux[rows], flux_err[rows], reference[rows], reference_error[rows])
    mean = float(np.median(reference[rows] / flux[rows]))
    for _ in range(20):
        relative, error = _relative_difference(*pairs, mean)
        fit = fit_linear(np.ones((rows.size, 1)), relative[:, None], error, clip=options.clip)
        step = float(np.clip(fit.coefficients[0, 0], -0.5, 0.5))
        mean *= 1.0 + step
        if abs(step) < 1e-10:
            break
    return _pack(rows, flux, reference, mean, fit, shape, options)


def _in_instrument_system(
    flux: Float64Array,
    flux_err: Float64Array,
    colour: Float64Array | None,
    colour_term: ColourTerm | None,
    options: PhotometryOptions,
) -> tuple[Float64Array, Float64Array]:
    error = np.where(np.isfinite(flux_err), flux_err, 0.02 * flux)
    error = np.maximum(error, options.reference_floor / MAG_ERR_FACTOR * flux)
    if colour_term is None:
        return flux, error
    if colour is None:
        raise DataError("a colour term needs the colours of the reference stars")
    factor = 10.0 ** (-0.4 * colour_term.magnitude_offset(colour))
    return flux * factor, error * factor


def _relative_difference(
    flux: Float64Array,
    flux_err: Float64Array,
    reference: Float64Array,
    reference_err: Float64Array,
    mean: float,
) -> tuple[Float64Array, Float64Array]:
    """Reference less measured flux over the star's best flux, and its error.

    The inverse-variance mean of both fluxes has no correlation with their difference, so that
    neither the ratio nor its weight is biased by the noise, as logarithms would be.
    """
    measured, measured_var = mean * flux, (mean * flux_err) ** 2
    reference_var = reference_err**2
    total = np.maximum(measured_var + reference_var, (1e-9 * reference) ** 2)
    best = np.where(
        total > 0, (measured * reference_var + reference * measured_var) / total, reference
    )
    best = np.where(best > 0, best, reference)
    return (reference - measured) / best, np.sqrt(total) / best


def _pack(
    rows: NDArray[np.int64],
    flux: Float64Array,
    reference: Float64Array,
    mean: float,
    fit: LinearFit,
    shape: tuple[int, int],
    options: PhotometryOptions,
) -> ZeroPoint:
    relative_error = float(np.sqrt(fit.covariance[0, 0]))
    scatter = MAG_ERR_FACTOR * robust_sigma(fit.residuals[fit.used, 0])
    magnitude = AB_ZERO_POINT_NJY - 2.5 * float(np.log10(mean))
    used = np.zeros(flux.size, bool)
    used[rows[fit.used]] = True
    if used.sum() < options.min_stars or scatter > options.max_scatter:
        raise FitError(
            f"the zero point of {magnitude:.2f} mag from {int(used.sum())} stars scatters by "
            f"{scatter:.2f} mag; allowed are {options.max_scatter:g} mag and at least "
            f"{options.min_stars} stars: the reference band or the match is wrong"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.where(
            (flux > 0) & (reference > 0), -2.5 * np.log10(mean * flux / reference), np.nan
        )
    return ZeroPoint(
        scale=FluxScale(mean, mean * relative_error, shape=shape),
        magnitude=magnitude,
        error=MAG_ERR_FACTOR * relative_error,
        used=used,
        residual=residual,
        scatter=scatter,
        pedestal=MAG_ERR_FACTOR * fit.pedestal,
    )

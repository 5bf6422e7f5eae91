"""The final PSF of a CCD, fitted to the isolated stars that several visits agree on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.characterize import StarResiduals, aperture_corrections, star_residuals
from skymill.data.errors import FitError
from skymill.data.images import Exposure
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema
from skymill.measure.aperture import aperture_fluxes
from skymill.measure.moments import Moments, adaptive_moments
from skymill.measure.psf_flux import psf_fluxes
from skymill.psf.fit import PsfFitOptions, fit_psf
from skymill.psf.models import ConstantPsf, PolynomialPsf

__all__ = ["FinalPsf", "FinalPsfOptions", "fit_final_psf", "psf_from_row", "psf_row"]


@dataclass(frozen=True, kw_only=True)
class FinalPsfOptions:
    """Options of `fit_final_psf`."""

    min_snr: float = option(50.0, "smallest signal-to-noise ratio of a star")
    max_snr: float = option(5000.0, "largest signal-to-noise ratio of a star")
    width: float = option(0.08, "stars further from the median ln(size) are galaxies or blends")
    min_stars: int = option(8, "with fewer isolated stars the first PSF is kept")
    reserve_fraction: float = option(0.2, "fraction kept out of the fit to test it")
    correction_snr: float = option(100.0, "smallest S/N of a star for aperture corrections")

    def __post_init__(self) -> None:
        check_range(self, "min_snr", low=0.0)
        check_range(self, "max_snr", low=self.min_snr)
        check_range(self, "width", low=0.0, low_open=True)
        check_range(self, "min_stars", low=3)
        check_range(self, "reserve_fraction", low=0.0, high=0.9)


@dataclass(frozen=True, eq=False)
class FinalPsf:
    """The final PSF of one CCD and what its stars said.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    refitted : bool
        False if there were too few isolated stars and the first PSF was kept.
    n_used : int
        Stars in the fit.
    aperture_correction : dict of str to float
        PSF flux over the flux of each aperture.
    stars : astropy.table.Table
        Rows of ``finalized_src_table``.
    residuals : StarResiduals
        Star less model, for the reserved stars where there are five, else for all.
    """

    psf: PolynomialPsf
    refitted: bool
    n_used: int
    aperture_correction: dict[str, float]
    stars: Table
    residuals: StarResiduals


def _star_table(exposure: Exposure, psf: PolynomialPsf, moments: Moments) -> Table:
    """Fluxes of the stars as `aperture_corrections` reads them."""
    planes = exposure.planes
    image, variance, mask = planes.image, planes.variance, planes.mask
    fitted = psf_fluxes(image, variance, mask, psf=psf, x=moments.x, y=moments.y)
    circles = aperture_fluxes(image, variance, mask, x=moments.x, y=moments.y)
    table = Table({"psfFlux": fitted.flux, "psfFlux_flags": fitted.flags})
    table["snr"] = fitted.flux / fitted.flux_err
    for k, radius in enumerate(circles.radii):
        good = circles.flags[:, k] == 0
        table[f"ap{radius:.0f}Flux"] = np.where(good, circles.flux[:, k], np.nan)
    return table


def fit_final_psf(
    exposure: Exposure,
    sources: Table,
    *,
    rng: np.random.Generator,
    options: FinalPsfOptions = FinalPsfOptions(),
    psf_options: PsfFitOptions = PsfFitOptions(),
) -> FinalPsf:
    """Fit the PSF of one CCD to isolated stars.

    Parameters
    ----------
    exposure : Exposure
        The calibrated CCD with its first PSF.
    sources : astropy.table.Table
        Rows of ``isolated_star_sources`` on this CCD.
    rng : numpy.random.Generator
        Chooses the stars that are kept out of the fit.
    options : FinalPsfOptions
        Choice of stars.
    psf_options : PsfFitOptions
        Fit.

    Returns
    -------
    FinalPsf
        The final model, or the first one again if there were too few stars.
    """
    planes, first = exposure.planes, exposure.psf
    if not isinstance(first, PolynomialPsf | ConstantPsf):
        raise FitError("the exposure has no PSF model to start from")
    sigma = exposure.summary.get("psfSigma", 2.0)
    moments = adaptive_moments(
        planes.image,
        planes.variance,
        planes.mask,
        x=np.asarray(sources["x"]),
        y=np.asarray(sources["y"]),
        sigma=sigma,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        snr, log_size = moments.flux / moments.flux_err, np.log(moments.sigma)
    star = (moments.flags == 0) & (snr > options.min_snr) & (snr < options.max_snr)
    if star.any():
        star &= np.abs(log_size - np.median(log_size[star])) < options.width
    reserved = star & (rng.random(star.size) < options.reserve_fraction)
    used = star & ~reserved
    psf, refitted = _polynomial(first, planes.shape), False
    if used.sum() >= options.min_stars:
        index = np.flatnonzero(used)
        fit = fit_psf(planes, x=moments.x[index], y=moments.y[index], options=psf_options)
        psf, refitted = fit.psf, True
        used = np.zeros(star.size, bool)
        used[index[fit.used]] = True
    index = np.flatnonzero(star)
    chosen = Moments(**{name: values[index] for name, values in vars(moments).items()})
    residuals, model = star_residuals(chosen, psf, x=chosen.x, y=chosen.y)
    corrections = dict(exposure.aperture_correction)
    if index.size >= 3:
        table = _star_table(exposure, psf, chosen)
        corrections = aperture_corrections(
            table, np.ones(len(table), bool), min_snr=options.correction_snr
        )
    stars = _describe(exposure, sources[index], chosen, model, used[index], reserved[index])
    test = reserved[index] if reserved.sum() >= 5 else np.ones(index.size, bool)
    shown = StarResiduals(**{name: values[test] for name, values in vars(residuals).items()})
    return FinalPsf(psf, refitted, int(used.sum()), corrections, stars, shown)


def _polynomial(psf: PolynomialPsf | ConstantPsf, shape: tuple[int, int]) -> PolynomialPsf:
    if isinstance(psf, PolynomialPsf):
        return psf
    ny, nx = shape
    stamp = np.asarray(psf.stamp, np.float64)[None]
    return PolynomialPsf(stamp, 0, ((nx - 1) / 2, (ny - 1) / 2), (nx / 2, ny / 2))


def _describe(
    exposure: Exposure,
    sources: Table,
    star: Moments,
    model: Moments,
    used: NDArray[np.bool_],
    reserved: NDArray[np.bool_],
) -> Table:
    n = len(sources)
    table = Table(
        {
            "visit": np.full(n, exposure.info.visit, np.int64),
            "detector": np.full(n, exposure.info.detector, np.int32),
            "sourceId": np.asarray(sources["sourceId"]),
            "x": star.x,
            "y": star.y,
            "ra": np.asarray(sources["ra"]),
            "dec": np.asarray(sources["dec"]),
            "e1": star.e1,
            "e2": star.e2,
            "sigma": star.sigma,
            "e1Psf": model.e1,
            "e2Psf": model.e2,
            "sigmaPsf": model.sigma,
            "snr": star.flux / star.flux_err,
            "calib_psf_used": used,
            "calib_psf_reserved": reserved,
        }
    )
    return load_schema("finalized_src_table").apply(table)


def psf_row(visit: int, detector: int, final: FinalPsf, *, max_order: int) -> dict[str, Any]:
    """One row of ``finalized_psf_ap_corr_catalog``.

    Parameters
    ----------
    visit, detector : int
        Which CCD.
    final : FinalPsf
        Its PSF.
    max_order : int
        Every row holds the terms of this order, so that the column has one length.

    Returns
    -------
    dict
        Column name to value.
    """
    psf, residuals = final.psf, final.residuals
    pairs = [(i, j) for i in range(max_order + 1) for j in range(max_order + 1 - i)]
    own = [(i, j) for i in range(psf.order + 1) for j in range(psf.order + 1 - i)]
    size = psf.stamp_size
    stamps = np.zeros((len(pairs), size, size))
    for term, stamp in zip(own, psf.coefficients, strict=True):
        stamps[pairs.index(term)] = stamp
    some = residuals.delta_e1.size > 0
    return {
        "visit": visit,
        "detector": detector,
        "refitted": final.refitted,
        "nPsfStar": final.n_used,
        "psfSigma": float(np.median(residuals.sigma)) if some else float("nan"),
        "psfStarDeltaE1Median": float(np.median(residuals.delta_e1)) if some else float("nan"),
        "psfStarDeltaE2Median": float(np.median(residuals.delta_e2)) if some else float("nan"),
        "psfStarDeltaSizeMedian": float(np.median(residuals.delta_sigma)) if some else float("nan"),
        "psfStarDeltaSizeScatter": robust_sigma(residuals.delta_sigma),
        "psfOrder": max_order,
        "psfCoefficients": stamps.ravel(),
        "psfStampSize": size,
        "psfCentreX": psf.centre[0],
        "psfCentreY": psf.centre[1],
        "psfHalfWidthX": psf.half_width[0],
        "psfHalfWidthY": psf.half_width[1],
        "apertureCorrections": json.dumps(final.aperture_correction),
    }


def psf_from_row(row: Any) -> PolynomialPsf:
    """The PSF that a row of ``finalized_psf_ap_corr_catalog`` describes.

    Parameters
    ----------
    row : astropy.table.Row
        The row.

    Returns
    -------
    PolynomialPsf
        The model.
    """
    size = int(row["psfStampSize"])
    return PolynomialPsf(
        np.asarray(row["psfCoefficients"], np.float64).reshape(-1, size, size),
        int(row["psfOrder"]),
        (float(row["psfCentreX"]), float(row["psfCentreY"])),
        (float(row["psfHalfWidthX"]), float(row["psfHalfWidthY"])),
    )

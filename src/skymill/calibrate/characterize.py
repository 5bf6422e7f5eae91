"""From flat electrons to a CCD without sky, with its PSF, cosmic rays masked, sources measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.data.images import Exposure, PixelPlanes
from skymill.data.masks import MaskPlane, is_set
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.detrend.cosmic_rays import CosmicRayOptions, remove_cosmic_rays
from skymill.detrend.streaks import Streak, StreakOptions, mask_streaks
from skymill.measure.background import BackgroundList, BackgroundOptions, estimate_background
from skymill.measure.catalogue import MeasureOptions, measure_sources
from skymill.measure.detection import DetectionOptions, Detections, detect_sources
from skymill.measure.moments import Moments, adaptive_moments, adaptive_moments_stamps
from skymill.psf.fit import PsfFit, PsfFitOptions, fit_psf
from skymill.psf.models import PolynomialPsf
from skymill.psf.star_choice import StarChoice, StarChoiceOptions, choose_stars

__all__ = [
    "Characterization",
    "CharacterizeOptions",
    "StarResiduals",
    "aperture_corrections",
    "characterize",
    "guess_psf_sigma",
    "star_residuals",
]

Float64Array = NDArray[np.float64]

#: FWHM of a Gaussian over its sigma.
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
#: Sources below this are not measured before the PSF is known: no star of the fit is so faint.
_STAR_SIGNIFICANCE = 8.0
#: Stars that a first guess of the PSF's size is content with.
_GUESS_STARS = 25


@dataclass(frozen=True, kw_only=True)
class CharacterizeOptions:
    """Options of `characterize`."""

    first_sigma: float = option(1.9, "PSF sigma assumed before any star is seen", unit="pixel")
    first_threshold: float = option(12.0, "detection threshold of the first pass", unit="sigma")
    threshold: float = option(5.0, "detection threshold of the catalogue", unit="sigma")
    background_box: int = option(128, "width of a box of the background mesh", unit="pixel")
    do_cosmic_rays: bool = option(True, "find and mask cosmic rays")
    do_streaks: bool = option(True, "find and mask trails of satellites")
    correction_snr: float = option(100.0, "smallest S/N of a star for aperture corrections")

    def __post_init__(self) -> None:
        check_range(self, "first_sigma", low=0.5, high=10.0)
        check_range(self, "first_threshold", low=3.0)
        check_range(self, "threshold", low=1.0)
        check_range(self, "background_box", low=16)
        check_range(self, "correction_snr", low=5.0)


@dataclass(frozen=True, eq=False)
class StarResiduals:
    """How well the PSF model describes the stars.

    Parameters
    ----------
    delta_e1, delta_e2 : (n,) float64
        Distortion of star less model.
    delta_sigma : (n,) float64 [pixel]
        Size of star less model.
    sigma : (n,) float64 [pixel]
        Size of the model.
    """

    delta_e1: Float64Array
    delta_e2: Float64Array
    delta_sigma: Float64Array
    sigma: Float64Array


@dataclass(frozen=True, eq=False)
class Characterization:
    """What `characterize` made.

    Parameters
    ----------
    exposure : Exposure
        Background subtracted, cosmic rays masked, PSF attached.
    background : BackgroundList
        What was subtracted.
    catalogue : astropy.table.Table
        Pixel columns of the ``src`` table.
    residuals : StarResiduals
        Of the candidate stars.
    streaks : list of Streak
        Trails, whose pixels are masked.
    """

    exposure: Exposure
    background: BackgroundList
    catalogue: Table
    residuals: StarResiduals
    streaks: list[Streak]


def _subtract(planes: PixelPlanes, background: BackgroundList, box: int) -> None:
    part = estimate_background(planes.image, planes.mask, options=BackgroundOptions(box=box))
    planes.image -= part.evaluate()
    background.append(part)


def _detect(planes: PixelPlanes, sigma: float, threshold: float) -> Detections:
    found = detect_sources(
        planes.image,
        planes.variance,
        planes.mask,
        psf_sigma=sigma,
        options=DetectionOptions(threshold=threshold),
    )
    found.mark(planes.mask)
    return found


def _moments(planes: PixelPlanes, found: Detections, sigma: float) -> Moments:
    """Moments of the sources that may be stars of the PSF; of the others NaN and a flag."""
    bright = found.significance >= _STAR_SIGNIFICANCE
    some = adaptive_moments(
        planes.image,
        planes.variance,
        planes.mask,
        x=found.x[bright],
        y=found.y[bright],
        sigma=sigma,
    )
    every = {}
    for name, values in vars(some).items():
        missing = 1 if np.issubdtype(values.dtype, np.integer) else np.nan
        every[name] = np.full((len(found), *values.shape[1:]), missing, values.dtype)
        every[name][bright] = values
    return Moments(**every)


def _choose(
    moments: Moments,
    found: Detections,
    shape: tuple[int, int],
    rng: np.random.Generator,
    options: StarChoiceOptions,
) -> StarChoice:
    ny, nx = shape
    margin = 20
    inside = (found.x > margin) & (found.x < nx - margin)
    inside &= (found.y > margin) & (found.y < ny - margin)
    good = (moments.flags == 0) & inside & (found.peaks_in_footprint == 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = moments.flux / moments.flux_err
    return choose_stars(
        sigma=moments.sigma,
        e1=moments.e1,
        e2=moments.e2,
        snr=snr,
        good=good,
        rng=rng,
        options=options,
    )


def guess_psf_sigma(
    planes: PixelPlanes, *, first: float, threshold: float, rng: np.random.Generator
) -> float:
    """Size of the stars of an image of which nothing is known yet.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels.
    first : float [pixel]
        Width of the first detection filter.
    threshold : float [sigma]
        Detection threshold.
    rng : numpy.random.Generator
        Passed to the choice of stars.

    Returns
    -------
    float [pixel]
        Sigma of the star locus.

    Raises
    ------
    NoDataError
        If there are too few stars.
    """
    ny = planes.shape[0]
    # Half of a CCD has stars enough; the whole is for sparse fields.
    try:
        choice = _first_stars(planes, slice(ny // 4, ny - ny // 4), first, threshold, rng)
        enough = int(choice.candidate.sum()) >= _GUESS_STARS
    except NoDataError:
        enough = False
    if not enough:
        choice = _first_stars(planes, slice(None), first, threshold, rng)
    return choice.sigma


def _first_stars(
    planes: PixelPlanes, rows: slice, first: float, threshold: float, rng: np.random.Generator
) -> StarChoice:
    part = PixelPlanes(planes.image[rows], planes.variance[rows], planes.mask[rows], planes.unit)
    found = _detect(part, first, threshold)
    moments = _moments(part, found, first)
    return _choose(moments, found, part.shape, rng, StarChoiceOptions(width=0.12))


def star_residuals(
    moments: Moments, psf: PolynomialPsf, *, x: Float64Array, y: Float64Array
) -> tuple[StarResiduals, Moments]:
    """Compare the moments of stars with those of the PSF model at their places.

    Parameters
    ----------
    moments : Moments
        Adaptive moments of the stars (n).
    psf : PolynomialPsf
        The model.
    x, y : (n,) float64 [pixel]
        Centres of the stars.

    Returns
    -------
    residuals : StarResiduals
        Star less model.
    model : Moments
        Adaptive moments of the model.
    """
    off_x, off_y = x - np.rint(x), y - np.rint(y)
    stamps = psf.draw(x=x, y=y, offset_x=off_x, offset_y=off_y)
    half = psf.stamp_size // 2
    model = adaptive_moments_stamps(stamps, x=half + off_x, y=half + off_y, sigma=moments.sigma)
    residuals = StarResiduals(
        delta_e1=moments.e1 - model.e1,
        delta_e2=moments.e2 - model.e2,
        delta_sigma=moments.sigma - model.sigma,
        sigma=model.sigma,
    )
    return residuals, model


def aperture_corrections(
    catalogue: Table, star: NDArray[np.bool_], *, min_snr: float
) -> dict[str, float]:
    """PSF flux over the flux of each other algorithm, for stars.

    Parameters
    ----------
    catalogue : astropy.table.Table
        With ``psfFlux``, ``snr`` and aperture fluxes.
    star : (n,) bool
        Stars to use.
    min_snr : float
        Smallest signal-to-noise ratio; lowered to that of the brightest ten if fewer pass.

    Returns
    -------
    dict of str to float
        Median ratio for each ``ap*Flux`` column.
    """
    snr = np.asarray(catalogue["snr"])
    use = star & (snr > min_snr) & (np.asarray(catalogue["psfFlux_flags"]) == 0)
    if use.sum() < 5:
        order = np.argsort(np.where(star & np.isfinite(snr), snr, -1.0))[::-1]
        use = np.zeros(len(snr), bool)
        use[order[: min(10, int(star.sum()))]] = True
    out = {}
    psf_flux = np.asarray(catalogue["psfFlux"])
    for name in catalogue.colnames:
        if name.startswith("ap") and name.endswith("Flux"):
            other = np.asarray(catalogue[name])
            good = use & (other > 0) & np.isfinite(psf_flux)
            if good.any():
                out[name] = float(np.median(psf_flux[good] / other[good]))
    return out


def _summarize(
    exposure: Exposure,
    background: BackgroundList,
    residuals: StarResiduals,
    star_moments: Moments,
    n_used: int,
) -> dict[str, float]:
    planes, psf = exposure.planes, exposure.psf
    assert psf is not None
    ny, nx = planes.shape
    middle = psf.draw(x=np.array([nx / 2.0]), y=np.array([ny / 2.0]))
    half = psf.stamp_size // 2
    centre = adaptive_moments_stamps(
        middle, x=np.array([half]), y=np.array([half]), sigma=residuals.sigma[:1]
    )
    sky = ~is_set(planes.mask, ~MaskPlane(0))
    sample = planes.image[sky][:: max(1, int(sky.sum()) // 100_000)]
    ellipticity = np.hypot(star_moments.e1, star_moments.e2)
    return {
        "psfSigma": float(centre.sigma[0]),
        "psfIxx": float(centre.ixx[0]),
        "psfIyy": float(centre.iyy[0]),
        "psfIxy": float(centre.ixy[0]),
        "psfStarDeltaE1Median": float(np.median(residuals.delta_e1)),
        "psfStarDeltaE2Median": float(np.median(residuals.delta_e2)),
        "psfStarDeltaE1Scatter": robust_sigma(residuals.delta_e1),
        "psfStarDeltaE2Scatter": robust_sigma(residuals.delta_e2),
        "psfStarDeltaSizeMedian": float(np.median(residuals.delta_sigma)),
        "psfStarDeltaSizeScatter": robust_sigma(residuals.delta_sigma),
        "nPsfStar": float(n_used),
        "fwhm": float(_FWHM * np.median(star_moments.sigma)),
        "ellipticity": float(np.median(ellipticity)),
        "skyBg": float(np.median([np.median(b.mesh) for b in background][:1])),
        "skyNoise": robust_sigma(sample.astype(np.float64)),
    }


def _take(moments: Moments, index: NDArray[np.int64]) -> Moments:
    return Moments(**{name: values[index] for name, values in vars(moments).items()})


def characterize(
    exposure: Exposure,
    *,
    rng: np.random.Generator,
    options: CharacterizeOptions = CharacterizeOptions(),
    star_options: StarChoiceOptions = StarChoiceOptions(),
    psf_options: PsfFitOptions = PsfFitOptions(),
    measure_options: MeasureOptions = MeasureOptions(),
    cosmic_ray_options: CosmicRayOptions = CosmicRayOptions(),
    streak_options: StreakOptions = StreakOptions(),
) -> Characterization:
    """Subtract the sky, mask cosmic rays and trails, fit the PSF, measure the sources of one CCD.

    Parameters
    ----------
    exposure : Exposure
        Flat pixels in electrons, with their sky. Its planes are changed in place.
    rng : numpy.random.Generator
        Chooses the stars that are kept out of the PSF fit.
    options : CharacterizeOptions
        Thresholds.
    star_options : StarChoiceOptions
        Choice of stars.
    psf_options : PsfFitOptions
        PSF fit.
    measure_options : MeasureOptions
        Measurement of the catalogue.
    cosmic_ray_options : CosmicRayOptions
        Limits of the search for cosmic rays.
    streak_options : StreakOptions
        Limits of the search for trails.

    Returns
    -------
    Characterization
        The exposure, what was subtracted, and the sources.

    Raises
    ------
    NoDataError
        If there are too few stars for a PSF.
    """
    planes, background = exposure.planes, BackgroundList()
    _subtract(planes, background, 2 * options.background_box)
    sigma = guess_psf_sigma(
        planes, first=options.first_sigma, threshold=options.first_threshold, rng=rng
    )
    if options.do_cosmic_rays:
        remove_cosmic_rays(planes, psf_sigma=sigma, options=cosmic_ray_options)
    streaks = mask_streaks(planes, options=streak_options) if options.do_streaks else []
    _detect(planes, sigma, options.threshold)
    _subtract(planes, background, options.background_box)
    found = _detect(planes, sigma, options.threshold)
    moments = _moments(planes, found, sigma)
    stars = _choose(moments, found, planes.shape, rng, star_options)
    fit_index = np.flatnonzero(stars.candidate & ~stars.reserved)
    fit = fit_psf(planes, x=moments.x[fit_index], y=moments.y[fit_index], options=psf_options)
    catalogue = measure_sources(
        planes,
        psf=fit.psf,
        psf_sigma=sigma,
        detections=found,
        options=measure_options,
        visit=exposure.info.visit,
        detector=exposure.info.detector,
    )
    _mark_stars(catalogue, stars, fit_index, fit)
    index = np.flatnonzero(stars.candidate)
    chosen = _take(moments, index)
    residuals, _ = star_residuals(chosen, fit.psf, x=chosen.x, y=chosen.y)
    out = exposure.replace(
        psf=fit.psf,
        aperture_correction=aperture_corrections(
            catalogue, np.asarray(catalogue["calib_psf_used"]), min_snr=options.correction_snr
        ),
    )
    out.summary = {
        **exposure.summary,
        **_summarize(out, background, residuals, chosen, int(fit.used.sum())),
    }
    return Characterization(out, background, catalogue, residuals, streaks)


def _mark_stars(
    catalogue: Table, stars: StarChoice, fit_index: NDArray[np.int64], fit: PsfFit
) -> None:
    used = np.zeros(len(catalogue), bool)
    used[fit_index[fit.used]] = True
    catalogue["calib_psf_candidate"] = stars.candidate
    catalogue["calib_psf_used"] = used
    catalogue["calib_psf_reserved"] = stars.reserved

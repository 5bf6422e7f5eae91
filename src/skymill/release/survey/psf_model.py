"""The PSF of one CCD: its stars, the fit, and the row in PSFEx's file format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import zoom

from skymill.calibrate.characterize import guess_psf_sigma
from skymill.data.errors import FitError, NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.options import check_range, option
from skymill.instruments.community_ccd import QUALITY_BITS, CommunityCcd
from skymill.measure.detection import DetectionOptions, Detections, detect_sources
from skymill.measure.moments import adaptive_moments, adaptive_moments_stamps
from skymill.model.profiles import EXP
from skymill.psf.fit import PsfFitOptions, fit_psf
from skymill.psf.models import PolynomialPsf
from skymill.psf.star_choice import StarChoiceOptions, choose_stars

__all__ = [
    "PsfModel",
    "SurveyPsfOptions",
    "ccd_planes",
    "fit_survey_psf",
    "full_width",
    "psf_moments",
    "psf_norms",
]

Float64Array = NDArray[np.float64]

#: Half-light radius of the round galaxy for galaxy depths [arcsec].
GALAXY_RADIUS = 0.45

#: Peaks fainter than this fraction of a star's do not spoil it as a star of the PSF.
_FAINT_NEIGHBOUR = 0.02

#: FWHM of a Gaussian over its sigma.
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True, kw_only=True)
class SurveyPsfOptions:
    """How the PSF of a CCD is made."""

    stamp_size: int = option(63, "odd width of the PSF stamp", unit="pixel")
    order: int = option(2, "highest order of the polynomial over the CCD")
    threshold: float = option(4.0, "detection of stars and of their neighbours", unit="sigma")
    first_sigma: float = option(1.7, "PSF sigma assumed before any star is seen", unit="pixel")
    min_snr: float = option(30.0, "smallest signal-to-noise ratio of a star")
    max_stars: int = option(300, "the brightest so many are used")
    wing_radius: float = option(
        3.0, "beyond so many FWHM the model is the same over the CCD", unit="FWHM"
    )

    def __post_init__(self) -> None:
        check_range(self, "stamp_size", low=15)
        check_range(self, "order", low=0, high=4)
        check_range(self, "threshold", low=3.0)
        check_range(self, "min_snr", low=5.0)
        check_range(self, "max_stars", low=5)
        check_range(self, "wing_radius", low=1.0)


@dataclass(frozen=True, eq=False)
class PsfModel:
    """The PSF of one CCD.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    fwhm : float [pixel]
        Full width at half of the maximum, in the middle of the CCD.
    loaded, accepted : int
        Stars that were tried and kept.
    chi2 : float
        Median reduced chi2 of the stars.
    """

    psf: PolynomialPsf
    fwhm: float
    loaded: int
    accepted: int
    chi2: float

    def columns(self) -> dict[str, Any]:
        """Columns of the row that PSFEx's files in the releases hold."""
        order, size = self.psf.order, self.psf.stamp_size
        pairs = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
        theirs = [(i, j) for j in range(order + 1) for i in range(order + 1 - j)]
        stamps = np.stack([self.psf.coefficients[pairs.index(pair)] for pair in theirs])
        return {
            "psf_mask": stamps.astype(np.float32),
            "loaded": np.int64(self.loaded),
            "accepted": np.int64(self.accepted),
            "chi2": np.float64(self.chi2),
            "polnaxis": np.int64(2),
            "polngrp": np.int64(1),
            "psf_fwhm": np.float64(self.fwhm),
            "psf_samp": np.float64(1.0),
            "psfnaxis": np.int64(3),
            "psfaxis1": np.int64(size),
            "psfaxis2": np.int64(size),
            "psfaxis3": np.int64(len(pairs)),
            "polgrp1": np.int64(1),
            "polname1": "X_IMAGE",
            # The first pixel is 1 in PSFEx's coordinates.
            "polzero1": np.float64(self.psf.centre[0] + 1.0),
            "polscal1": np.float64(self.psf.half_width[0]),
            "polgrp2": np.int64(1),
            "polname2": "Y_IMAGE",
            "polzero2": np.float64(self.psf.centre[1] + 1.0),
            "polscal2": np.float64(self.psf.half_width[1]),
            "poldeg1": np.int64(order),
        }


def ccd_planes(ccd: CommunityCcd, sky: NDArray[np.float32] | float) -> PixelPlanes:
    """Sky-subtracted pixels with variance and mask planes.

    Parameters
    ----------
    ccd : CommunityCcd
        The CCD.
    sky : (ny, nx) float32 or float [unit of the image]
        Its sky.

    Returns
    -------
    PixelPlanes
        In the unit of the image.
    """
    good = ccd.weight > 0
    with np.errstate(divide="ignore"):
        variance = np.where(good, 1.0 / ccd.weight, np.inf).astype(np.float32)
    typical = np.float32(np.median(variance[good])) if good.any() else np.float32(1.0)
    variance[~good] = typical
    mask = np.zeros(ccd.image.shape, np.int32)
    saturated = (ccd.quality & (QUALITY_BITS["satur"] | QUALITY_BITS["bleed"])) != 0
    mask[saturated] |= int(MaskPlane.SAT)
    mask[(ccd.quality & QUALITY_BITS["cr"]) != 0] |= int(MaskPlane.CR)
    mask[~good & (mask == 0)] |= int(MaskPlane.BAD)
    finite = np.isfinite(ccd.image)
    mask[~finite] |= int(MaskPlane.BAD)
    image = np.where(finite, ccd.image - sky, np.float32(0)).astype(np.float32)
    return PixelPlanes(image, variance, mask, unit="count")


def fit_survey_psf(
    planes: PixelPlanes, *, seed: int, options: SurveyPsfOptions = SurveyPsfOptions()
) -> PsfModel:
    """Choose the stars of a CCD and fit the PSF to them.

    Parameters
    ----------
    planes : PixelPlanes
        Sky-subtracted pixels; the planes of detections are changed.
    seed : int
        Of the random numbers; the exposure and the CCD give it.
    options : SurveyPsfOptions
        Choice and model.

    Returns
    -------
    PsfModel
        The model.

    Raises
    ------
    NoDataError, FitError
        If there are too few stars.
    """
    rng = np.random.default_rng(seed)
    sigma = guess_psf_sigma(
        planes, first=options.first_sigma, threshold=max(options.threshold, 10.0), rng=rng
    )
    found = detect_sources(
        planes.image, planes.variance, planes.mask, psf_sigma=sigma,
        options=DetectionOptions(threshold=options.threshold),
    )  # fmt: skip
    moments = adaptive_moments(
        planes.image, planes.variance, planes.mask, x=found.x, y=found.y, sigma=sigma
    )
    ny, nx = planes.shape
    margin = max(8, int(4 * sigma))
    inside = (found.x > margin) & (found.x < nx - 1 - margin)
    inside &= (found.y > margin) & (found.y < ny - 1 - margin)
    good = (moments.flags == 0) & inside & _stands_out(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = moments.flux / moments.flux_err
    stars = choose_stars(
        sigma=moments.sigma, e1=moments.e1, e2=moments.e2, snr=snr, good=good, rng=rng,
        options=StarChoiceOptions(
            min_snr=options.min_snr, max_stars=options.max_stars, reserve_fraction=0.0
        ),
    )  # fmt: skip
    index = np.flatnonzero(stars.candidate)
    size = min(options.stamp_size, 2 * (min(planes.shape) // 4) + 1)
    neighbours = (found.labels > 0) & ~np.isin(found.labels, found.footprint[index])
    clean = PixelPlanes(planes.image, planes.variance, planes.mask.copy(), unit=planes.unit)
    clean.mask[neighbours] |= int(MaskPlane.BAD)
    fit = fit_psf(
        clean, x=moments.x[index], y=moments.y[index],
        options=PsfFitOptions(stamp_size=size, order=options.order),
    )  # fmt: skip
    width = FWHM * float(np.median(moments.sigma[index][fit.used]))
    psf = _smooth_wings(fit.psf, options.wing_radius * width)
    fwhm = full_width(psf, x=(nx - 1) / 2, y=(ny - 1) / 2)
    chi2 = float(np.median(fit.reduced_chi2[fit.used]))
    return PsfModel(psf, fwhm, int(index.size), int(fit.used.sum()), chi2)


def _stands_out(found: Detections) -> NDArray[np.bool_]:
    """Objects beside which all others of their footprint are faint."""
    order = np.lexsort((-found.peak_value, found.footprint))
    first = np.ones(len(found), bool)
    first[1:] = np.diff(found.footprint[order]) != 0
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(found)))
    values = found.peak_value[order]
    out = np.zeros(len(found), bool)
    second = np.where(sizes > 1, values[np.minimum(starts + 1, len(found) - 1)], 0.0)
    out[order[starts]] = second < _FAINT_NEIGHBOUR * values[starts]
    return out


def full_width(psf: PolynomialPsf, *, x: float, y: float) -> float:
    """Full width at half of the maximum of the PSF at one place.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    x, y : float [pixel]
        Where.

    Returns
    -------
    float [pixel]
        Diameter of the circle with the area above half of the maximum.
    """
    stamp = psf.draw(x=np.array([x]), y=np.array([y]))[0].astype(float)
    half = min(stamp.shape[0] // 2, 15)
    middle = stamp.shape[0] // 2
    core = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1]
    fine = zoom(core, 8, order=3, grid_mode=True, mode="nearest")
    return float(2.0 * np.sqrt((fine > 0.5 * fine.max()).sum() / 64.0 / np.pi))


def _smooth_wings(psf: PolynomialPsf, radius: float) -> PolynomialPsf:
    """The mean profile without variation over the CCD far from the centre.

    Far out the stars hold noise and neighbours only; a polynomial of them would add noise to every
    star that is fitted. Between 1 and 1.5 radii the model goes over into the mean in rings.
    """
    size = psf.stamp_size
    axis = np.arange(size) - size // 2
    distance = np.hypot(axis[:, None], axis[None, :])
    blend = np.clip((distance - radius) / (0.5 * radius), 0.0, 1.0)
    if not (blend > 0).any():
        return psf
    coefficients = psf.coefficients * (1.0 - blend)
    ring = np.rint(distance).astype(int)
    count = np.bincount(ring.ravel())
    mean = np.bincount(ring.ravel(), psf.coefficients[0].ravel()) / count
    # A profile only falls; beyond the noise it is zero.
    falling = np.minimum.accumulate(np.maximum(mean, 0.0))
    coefficients[0] += blend * falling[ring]
    total = coefficients[0].sum()
    coefficients[1:] -= (coefficients[1:].sum(axis=(1, 2)) / total)[:, None, None] * coefficients[0]
    return PolynomialPsf(coefficients / total, psf.order, psf.centre, psf.half_width)


def _galaxy_spectrum(size: int, radius: float) -> Float64Array:
    """Fourier transform of the round exponential galaxy of unit flux; half-light radius [pixel].

    The mixture of Gaussians for the truncated exponential, as the catalogues fit it.
    """
    ky = 2 * np.pi * np.fft.fftfreq(size)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(size)[None, :]
    square = (kx**2 + ky**2) * radius**2
    parts = zip(EXP.amplitudes, EXP.variances, strict=True)
    return np.asarray(sum(a * np.exp(-0.5 * v * square) for a, v in parts))


def psf_norms(
    psf: PolynomialPsf, *, x: Float64Array, y: Float64Array, pixel_scale: float
) -> tuple[Float64Array, Float64Array]:
    """Root of the summed squares of the PSF, alone and convolved with a small galaxy.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    x, y : (n,) float64 [pixel]
        Where.
    pixel_scale : float [arcsec/pixel]
        Width of a pixel.

    Returns
    -------
    psfnorm, galnorm : (n,) float64
        Of the unit-flux profiles; the galaxy is a round exponential of 0.45 arcsec.
    """
    stamps = psf.draw(x=np.atleast_1d(x), y=np.atleast_1d(y)).astype(np.float64)
    stamps /= stamps.sum(axis=(1, 2))[:, None, None]
    size = scipy.fft.next_fast_len(2 * stamps.shape[-1], real=True)
    spectrum = scipy.fft.rfft2(stamps, s=(size, size))
    spectrum *= _galaxy_spectrum(size, GALAXY_RADIUS / pixel_scale)
    galaxy = scipy.fft.irfft2(spectrum, s=(size, size))
    return (
        np.sqrt((stamps**2).sum(axis=(1, 2))),
        np.sqrt((galaxy**2).sum(axis=(1, 2))),
    )


def psf_moments(psf: PolynomialPsf, *, x: float, y: float) -> dict[str, float]:
    """Second moments of the PSF at one place.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    x, y : float [pixel]
        Where.

    Returns
    -------
    dict of str to float
        ``psf_mx2``, ``psf_my2``, ``psf_mxy`` [pixel2], ``psf_a``, ``psf_b`` [pixel],
        ``psf_theta`` [deg from x to y], ``psf_ell``: adaptive (Gaussian weighted) moments.
    """
    stamp = psf.draw(x=np.array([x]), y=np.array([y]))
    half = float(stamp.shape[-1] // 2)
    found = adaptive_moments_stamps(
        stamp, x=np.array([half]), y=np.array([half]), sigma=np.array([2.0])
    )
    mxx, myy, mxy = (float(v[0]) for v in (found.ixx, found.iyy, found.ixy))
    middle, spread = (mxx + myy) / 2, float(np.hypot((mxx - myy) / 2, mxy))
    a, b = np.sqrt(max(middle + spread, 0.0)), np.sqrt(max(middle - spread, 0.0))
    return {
        "psf_mx2": mxx,
        "psf_my2": myy,
        "psf_mxy": mxy,
        "psf_a": float(a),
        "psf_b": float(b),
        "psf_theta": float(np.degrees(np.arctan2(2 * mxy, mxx - myy) / 2)),
        "psf_ell": float(1.0 - b / a) if a > 0 else float("nan"),
    }


#: What a CCD without a PSF raises.
PSF_ERRORS = (NoDataError, FitError)

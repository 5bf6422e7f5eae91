"""Choose the stars that a PSF is fitted to: the locus of one size among the bright objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.data.options import check_range, option

__all__ = ["StarChoice", "StarChoiceOptions", "choose_stars"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StarChoiceOptions:
    """Options of `choose_stars`."""

    min_snr: float = option(50.0, "smallest signal-to-noise ratio of a star")
    min_sigma: float = option(0.8, "smallest size of a star", unit="pixel")
    max_sigma: float = option(6.0, "largest size of a star", unit="pixel")
    width: float = option(0.06, "half width of the star locus in ln(size)")
    max_ellipticity: float = option(0.4, "largest distortion of a star")
    max_stars: int = option(300, "the brightest so many are used")
    min_stars: int = option(5, "fewer stars lower the limit of signal-to-noise to 20, then fail")
    reserve_fraction: float = option(0.2, "fraction kept out of the fit to test it")

    def __post_init__(self) -> None:
        check_range(self, "min_snr", low=0.0)
        check_range(self, "width", low=0.0, low_open=True)
        check_range(self, "max_stars", low=3)
        check_range(self, "min_stars", low=3)
        check_range(self, "reserve_fraction", low=0.0, high=0.9)


@dataclass(frozen=True, eq=False)
class StarChoice:
    """The chosen objects.

    Parameters
    ----------
    candidate : (n,) bool
        On the star locus.
    reserved : (n,) bool
        Candidates that the fit must not see.
    sigma : float [pixel]
        Size of the locus.
    """

    candidate: BoolArray
    reserved: BoolArray
    sigma: float


def _locus(log_size: Float64Array, snr: Float64Array, width: float) -> float:
    """The most crowded size, nearest to the small end: stars are the smallest real objects.

    A kernel density of ln(size), weighted towards bright objects; the first peak from below that
    reaches 40 % of the highest wins, because at faint limits galaxies can outnumber stars.
    """
    grid = np.arange(log_size.min() - 0.2, log_size.max() + 0.2, width / 8)
    weight = np.minimum(snr, 500.0) ** 0.5
    density = np.exp(-0.5 * ((grid[:, None] - log_size[None, :]) / (width / 2)) ** 2) @ weight
    inner = density[1:-1]
    is_peak = (inner >= density[:-2]) & (inner > density[2:]) & (inner > 0.4 * density.max())
    peaks = np.flatnonzero(is_peak) + 1
    return float(grid[peaks[0]] if peaks.size else grid[np.argmax(density)])


def choose_stars(
    *,
    sigma: Float64Array,
    e1: Float64Array,
    e2: Float64Array,
    snr: Float64Array,
    good: BoolArray,
    rng: np.random.Generator,
    options: StarChoiceOptions = StarChoiceOptions(),
) -> StarChoice:
    """Choose the stars of one CCD.

    Parameters
    ----------
    sigma : (n,) float64 [pixel]
        Size: fourth root of the determinant of the moments.
    e1, e2 : (n,) float64
        Distortion.
    snr : (n,) float64
        Signal-to-noise ratio.
    good : (n,) bool
        False for saturated, blended, flagged and edge objects.
    rng : numpy.random.Generator
        Chooses the reserved stars.
    options : StarChoiceOptions
        Options.

    Returns
    -------
    StarChoice
        Candidates and reserved stars.

    Raises
    ------
    NoDataError
        If too few objects are on the locus.
    """
    usable = good & np.isfinite(sigma) & np.isfinite(snr) & (np.hypot(e1, e2) < 1.0)
    usable &= (sigma > options.min_sigma) & (sigma < options.max_sigma)
    for limit in (options.min_snr, min(options.min_snr, 20.0)):
        bright = usable & (snr >= limit)
        if bright.sum() < options.min_stars:
            continue
        log_size = np.log(np.where(bright, sigma, 1.0))
        centre = _locus(log_size[bright], snr[bright], options.width)
        candidate = bright
        for _ in range(5):
            candidate = bright & (np.abs(log_size - centre) < options.width)
            if not candidate.any():
                break
            centre = float(np.median(log_size[candidate]))
        if candidate.sum() < options.min_stars:
            continue
        mean1, mean2 = np.median(e1[candidate]), np.median(e2[candidate])
        candidate &= np.hypot(e1 - mean1, e2 - mean2) < options.max_ellipticity
        if candidate.sum() > options.max_stars:
            faintest = np.sort(snr[candidate])[-options.max_stars]
            candidate &= snr >= faintest
        n_stars = int(candidate.sum())
        n_reserved = int(options.reserve_fraction * n_stars) if n_stars >= 10 else 0
        reserved = np.zeros(len(sigma), bool)
        reserved[rng.permutation(np.flatnonzero(candidate))[:n_reserved]] = True
        return StarChoice(candidate, reserved, float(np.exp(centre)))
    raise NoDataError(
        f"found fewer than {options.min_stars} stars for the PSF: {int(usable.sum())} usable"
        f" objects, {int((usable & (snr >= 20)).sum())} of them with S/N > 20"
    )

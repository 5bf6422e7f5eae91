"""Zero point of a band without a reference, from the colours of stars (mostly u)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from skymill.calibrate.robust import robust_sigma
from skymill.data.errors import ConfigError, NoDataError
from skymill.data.options import check_range, option

__all__ = ["StellarLocusOptions", "fit_locus_line", "fit_locus_offset"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class StellarLocusOptions:
    """The straight part of the locus: colour(band - g) = slope (g - r) + intercept."""

    band: str = option("u", "Band whose zero point is wanted")
    slope: float = option(0.0, "Slope of the locus in the camera's own magnitudes")
    intercept: float = option(0.0, "Colour of the locus at g - r = 0", unit="mag")
    has_line: bool = option(False, "True once slope and intercept are given")
    min_gr: float = option(0.2, "Bluest star", unit="mag")
    max_gr: float = option(0.55, "Reddest star", unit="mag")
    max_mag_g: float = option(20.0, "Faintest star in g", unit="mag")
    min_stars: int = option(10, "Stars that a zero point needs")

    def __post_init__(self) -> None:
        check_range(self, "min_stars", low=3)
        if self.max_gr <= self.min_gr:
            raise ConfigError(f"max_gr must be > min_gr = {self.min_gr} mag; got {self.max_gr}")


def fit_locus_line(colour: Float64Array, g_minus_r: Float64Array) -> tuple[float, float]:
    """Straight line through model or reference stars.

    Parameters
    ----------
    colour : (n,) float64 [mag]
        Colour of the band to g.
    g_minus_r : (n,) float64 [mag]
        g - r of the same stars.

    Returns
    -------
    slope, intercept : float
        Of the line.

    Raises
    ------
    NoDataError
        With fewer than three stars.
    """
    good = np.isfinite(colour) & np.isfinite(g_minus_r)
    if good.sum() < 3:
        raise NoDataError(f"a line of the stellar locus needs 3 stars; got {int(good.sum())}")
    slope, intercept = np.polyfit(g_minus_r[good], colour[good], 1)
    return float(slope), float(intercept)


def fit_locus_offset(
    magnitudes: dict[str, Float64Array],
    *,
    options: StellarLocusOptions,
) -> tuple[float, float, float, int]:
    """Offset of a band from the stellar locus.

    The stars are chosen by g - r, which does not depend on the band in question: no selection bias.

    Parameters
    ----------
    magnitudes : dict of str to (n,) float64 [mag]
        Dereddened PSF magnitudes of stars with g and r already on their zero points.
    options : StellarLocusOptions
        Line and choice of the stars.

    Returns
    -------
    offset, error, scatter : float [mag]
        What to subtract from the band's magnitudes, its standard error, and the scatter of a star.
    n : int
        Stars used.

    Raises
    ------
    ConfigError
        If the line is not given.
    NoDataError
        If too few stars are in the range.
    """
    if not options.has_line:
        raise ConfigError(
            f"the stellar locus of {options.band} needs slope and intercept (and has_line = True)"
        )
    for band in (options.band, "g", "r"):
        if band not in magnitudes:
            raise NoDataError(f"the stellar locus of {options.band} needs the band {band}")
    g, r = magnitudes["g"], magnitudes["r"]
    gr = g - r
    residual = magnitudes[options.band] - g - (options.slope * gr + options.intercept)
    with np.errstate(invalid="ignore"):
        keep = (gr > options.min_gr) & (gr < options.max_gr) & (g < options.max_mag_g)
    keep &= np.isfinite(residual)
    values = residual[keep]
    if len(values) < options.min_stars:
        raise NoDataError(
            f"{len(values)} stars of the locus with {options.band}, g and r; at least "
            f"{options.min_stars} are needed"
        )
    offset = float(_biweight(values))
    scatter = float(robust_sigma(values - offset))
    return offset, 1.09 * scatter / np.sqrt(len(values)), scatter, len(values)


def _biweight(values: Float64Array) -> float:
    """Tukey's location with a constant of 6 scaled deviations: the root of its influence sum."""
    middle = float(np.median(values))
    scale = 6.0 * max(float(np.median(np.abs(values - middle))), 1e-9)

    def influence(centre: float) -> float:
        u = (values - centre) / scale
        return float(np.sum(np.where(np.abs(u) < 1, u * (1 - u * u) ** 2, 0.0)))

    low, high = middle - 0.2 * scale, middle + 0.2 * scale
    if influence(low) * influence(high) > 0:
        return middle
    return float(brentq(influence, low, high))

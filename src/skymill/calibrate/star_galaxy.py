"""Stars and galaxies by the excess of the model flux over the PSF flux."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.options import check_range, option

__all__ = ["StarGalaxyOptions", "classify"]


@dataclass(frozen=True, kw_only=True)
class StarGalaxyOptions:
    """The border between stars and galaxies."""

    threshold: float = option(0.5, "Stars have an extendedness below it, galaxies above it")
    max_star_mag: float = option(
        99.0, "Fainter point sources are neither: unresolved galaxies outnumber stars", unit="mag"
    )

    def __post_init__(self) -> None:
        check_range(self, "threshold", low=0.0, high=1.0)


def classify(
    extendedness: ArrayLike,
    magnitude: ArrayLike,
    *,
    options: StarGalaxyOptions = StarGalaxyOptions(),
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which objects are stars and which are galaxies.

    Parameters
    ----------
    extendedness : (n,) float64
        0 for point sources, 1 for extended ones; NaN if unknown.
    magnitude : (n,) float64 [mag]
        Magnitude in the band of the classification.
    options : StarGalaxyOptions
        The border.

    Returns
    -------
    is_star, is_galaxy : (n,) bool
        Both false where the class is not known.
    """
    value = np.asarray(extendedness, np.float64)
    mag = np.asarray(magnitude, np.float64)
    with np.errstate(invalid="ignore"):
        star = (value < options.threshold) & ~(mag > options.max_star_mag)
        galaxy = value > options.threshold
    return star, galaxy

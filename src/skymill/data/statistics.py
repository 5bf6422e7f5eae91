"""Robust statistics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["robust_sigma"]

#: Standard deviation of a normal distribution over its median absolute deviation.
_MAD_TO_SIGMA = 1.482602218505602


def robust_sigma(values: ArrayLike, *, centre: float | None = None) -> float:
    """Standard deviation from the median absolute deviation.

    Parameters
    ----------
    values : (n,) float
        Values, all finite.
    centre : float, optional
        About what they deviate; their median if omitted.

    Returns
    -------
    float
        Sigma as of a normal distribution; NaN without values.
    """
    given = np.asarray(values)
    if given.size == 0:
        return float("nan")
    middle = np.median(given) if centre is None else centre
    return float(_MAD_TO_SIGMA * np.median(np.abs(given - middle)))

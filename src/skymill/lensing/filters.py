"""Filter functions Q of the aperture mass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError

__all__ = ["FILTER_NAMES", "aperture_filter"]

Float64Array = NDArray[np.float64]
_X_CORE = 0.15
_POLYNOMIAL_ORDER = 1
_GAUSSIAN_TRUNCATION = 3.0


def _schirmer(x: Float64Array) -> Float64Array:
    """Follow the NFW shear, cut at the centre and the edge (Schirmer et al. 2007)."""
    u = x / _X_CORE
    tanh = np.where(u > 1e-6, np.tanh(u) / np.where(u > 1e-6, u, 1.0), 1.0)
    edges = 1.0 + np.exp(6.0 - 150.0 * x) + np.exp(-47.0 + 50.0 * x)
    return tanh / edges / np.pi


def _polynomial(x: Float64Array) -> Float64Array:
    """(l+1)(l+2)/pi x^2 (1-x^2)^l of Schneider et al. 1998 with l = 1; integrates to one."""
    order = _POLYNOMIAL_ORDER
    return (order + 1) * (order + 2) / np.pi * x**2 * np.clip(1.0 - x * x, 0.0, None) ** order


def _gaussian(x: Float64Array) -> Float64Array:
    """Q of a Gaussian mass filter whose scale is a third of the aperture."""
    y2 = (x * _GAUSSIAN_TRUNCATION) ** 2
    safe = np.where(y2 > 1e-8, y2, 1.0)
    value = (1.0 - (1.0 + safe) * np.exp(-safe)) / safe
    # 1-(1+y)exp(-y) = y^2/2 + ... cancels at the centre.
    return np.where(y2 > 1e-8, value, y2 / 2.0) * _GAUSSIAN_TRUNCATION**2 / np.pi


_FILTERS: dict[str, Callable[[Float64Array], Float64Array]] = {
    "schirmer": _schirmer,
    "polynomial": _polynomial,
    "gaussian": _gaussian,
}
#: Names that `aperture_filter` knows.
FILTER_NAMES = tuple(_FILTERS)


def aperture_filter(name: str, x: ArrayLike) -> Float64Array:
    """Filter function times the square of the aperture's radius.

    Parameters
    ----------
    name : str
        ``"schirmer"``, ``"polynomial"`` or ``"gaussian"``.
    x : (...) float64
        Distance over the aperture's radius.

    Returns
    -------
    (...) float64
        R^2 Q; zero beyond the aperture.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if name not in _FILTERS:
        raise ConfigError(f"filter must be one of {', '.join(FILTER_NAMES)}; got {name!r}")
    x_ = np.asarray(x, np.float64)
    return np.where(x_ < 1.0, _FILTERS[name](np.minimum(x_, 1.0)), 0.0)

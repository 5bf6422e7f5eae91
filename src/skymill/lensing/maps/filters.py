"""Filter functions Q of the aperture mass."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import fsolve

from skymill.data.errors import ConfigError

__all__ = ["FILTER_NAMES", "aperture_filter"]

Float64Array = NDArray[np.float64]
_X_CORE = 0.15
_POLYNOMIAL_ORDER = 1
_GAUSSIAN_TRUNCATION = 3.0
# Core and end of the isothermal part, over the aperture's radius.
_TSIS_CORE, _TSIS_EDGE = 0.05, 0.8
# Makes the integral of Q over the aperture one.
_TSIS_NORM = 3.1106760294019975


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


def _outer_integral(x: ArrayLike, a: float) -> Float64Array:
    """Integral of x (1 - x)^2 (x - a) from zero."""
    y = np.asarray(x, np.float64)
    return np.asarray(
        (1.0 + 2.0 * a) * y**3 / 3.0 - a * y**2 / 2.0 - (2.0 + a) * y**4 / 4.0 + y**5 / 5.0
    )


def _middle_integral(x: ArrayLike) -> Float64Array:
    """Integral of x n / sqrt((x - n)^2 + n^2) from n, with n the core radius."""
    n = _TSIS_CORE
    t = np.asarray(x, np.float64) - n
    return np.asarray(n * (np.hypot(t, n) - n + n * np.arcsinh(t / n)))


@functools.cache
def _tsis_constants() -> tuple[float, float, float]:
    """Constants a, b, c that make U smooth at the edge of the middle part and compensated."""
    n, x = _TSIS_CORE, _TSIS_EDGE
    root = np.hypot(x - n, n)

    def conditions(p: Float64Array) -> list[float]:
        a, b, c = p
        inner = 0.5 * n * n + (_middle_integral(x) - 0.5 * c * (x * x - n * n)) / (1.0 - c)
        return [
            (n / root - c) / (1.0 - c) - b * (1.0 - x) ** 2 * (x - a),
            -n * (x - n) / root**3 / (1.0 - c) - b * ((1.0 - x) ** 2 - 2.0 * (1.0 - x) * (x - a)),
            float(inner + b * (_outer_integral(1.0, a) - _outer_integral(x, a))),
        ]

    a, b, c = fsolve(conditions, (0.7, -19.0, 0.12), xtol=1e-13)
    return float(a), float(b), float(c)


def _tsis(x: Float64Array) -> Float64Array:
    """Follow a singular isothermal sphere with a core and a smooth end (Schneider 1996)."""
    a, b, c = _tsis_constants()
    n, edge = _TSIS_CORE, _TSIS_EDGE
    middle, outer = np.clip(x, n, edge), np.clip(x, edge, 1.0)
    u = np.where(
        x < n,
        1.0,
        np.where(
            x < edge,
            (n / np.hypot(middle - n, n) - c) / (1.0 - c),
            b * (1.0 - outer) ** 2 * (outer - a),
        ),
    )
    inside = (
        0.5 * np.minimum(x, n) ** 2
        + (_middle_integral(middle) - 0.5 * c * (middle**2 - n * n)) / (1.0 - c)
        + b * (_outer_integral(outer, a) - _outer_integral(edge, a))
    )
    # Q = 2 / x^2 int x U - U, which vanishes in the core.
    q = np.where(x > n, 2.0 * inside / np.maximum(x, n) ** 2 - u, 0.0)
    return np.asarray(q * _TSIS_NORM)


_FILTERS: dict[str, Callable[[Float64Array], Float64Array]] = {
    "schirmer": _schirmer,
    "polynomial": _polynomial,
    "gaussian": _gaussian,
    "tsis": _tsis,
}
#: Names that `aperture_filter` knows.
FILTER_NAMES = tuple(_FILTERS)


def aperture_filter(name: str, x: ArrayLike) -> Float64Array:
    """Filter function times the square of the aperture's radius.

    Parameters
    ----------
    name : str
        ``"schirmer"``, ``"polynomial"``, ``"gaussian"`` or ``"tsis"`` (isothermal sphere).
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

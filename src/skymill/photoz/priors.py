"""Priors of type and redshift at a magnitude; each sums to one over all templates and redshifts.

p(T|m) = f exp(-k (m - m_ref)) and p(z|T, m) ~ z^a exp(-(z/z_m)^a) with z_m = z_0 + k_m (m - m_ref).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import ConfigError

__all__ = ["PRIOR_NAMES", "prior_of_classes"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Piece:
    """Parameters from a magnitude on: (elliptical, spiral, irregular)."""

    start: float
    reference: float
    fraction: tuple[float, float]
    slope: tuple[float, float]
    alpha: tuple[float, float, float]
    z0: tuple[float, float, float]
    k: tuple[float, float, float]
    flat: bool = False


# Benitez 2000, ApJ 536, 571, table 1 (from the Hubble Deep Field North; magnitude F814W AB).
_HDFN = (
    _Piece(20.0, 20.0, (0.35, 0.50), (0.450, 0.147), (2.465, 1.806, 0.906),
           (0.431, 0.390, 0.0626), (0.0913, 0.0636, 0.123)),
)  # fmt: skip
# Raichoor et al. 2014, ApJ 797, 102 (brighter than i = 20), Benitez-like beyond.
_NGVS = (
    _Piece(-99.0, 0.0, (0.333, 0.333), (0.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0),
           (1.0, 1.0, 1.0), flat=True),
    _Piece(12.5, 12.5, (0.86, 0.14), (0.062, -0.108), (2.46, 2.07, 1.89), (0.0, 0.0, 0.0),
           (0.027, 0.021, 0.15)),
    _Piece(17.0, 17.0, (0.65, 0.23), (0.257, -0.014), (2.46, 1.94, 1.95), (0.121, 0.095, 0.069),
           (0.103, 0.098, 0.077)),
    _Piece(20.0, 20.0, (0.30, 0.35), (0.40, 0.30), (2.46, 1.81, 2.00), (0.431, 0.390, 0.300),
           (0.091, 0.100, 0.150)),
)  # fmt: skip
_PRIORS = {"ngvs": _NGVS, "hdfn": _HDFN}
#: Names that `prior_of_classes` knows.
PRIOR_NAMES = (*_PRIORS, "flat")


def prior_of_classes(
    name: str, *, magnitude: float, z: Float64Array, cut: float = 0.01
) -> Float64Array:
    """Prior of each spectral class over redshift.

    Parameters
    ----------
    name : str
        ``"ngvs"``, ``"hdfn"`` or ``"flat"``.
    magnitude : float [mag]
        AB magnitude in i (or F814W); NaN takes the flat prior.
    z : (n_z,) float64
        Redshifts, equally spaced.
    cut : float
        Where p(z|T, m) is below this fraction of a flat one it is set to zero, so that far tails
        of the formula do not decide between templates.

    Returns
    -------
    (3, n_z) float64
        Elliptical, spiral, irregular; the whole sums to one.

    Raises
    ------
    ConfigError
        If the name is unknown.
    """
    if name not in PRIOR_NAMES:
        raise ConfigError(f"prior must be one of {', '.join(PRIOR_NAMES)}; got {name!r}")
    if name == "flat" or not np.isfinite(magnitude):
        return np.full((3, len(z)), 1.0 / (3 * len(z)))
    pieces = _PRIORS[name]
    m = min(max(magnitude, pieces[0].start), 32.0)
    piece = next(p for p in reversed(pieces) if m >= p.start)
    dm = m - piece.reference
    early = [f * np.exp(-k * dm) for f, k in zip(piece.fraction, piece.slope, strict=True)]
    total = sum(early)
    if total > 1.0:
        early = [value / total for value in early]
    fraction = np.array([*early, max(1.0 - sum(early), 0.0)])
    if piece.flat:
        return np.repeat(fraction[:, None] / (fraction.sum() * len(z)), len(z), axis=1)
    alpha = np.array(piece.alpha)[:, None]
    z_m = np.maximum(np.array(piece.z0) + np.array(piece.k) * dm, 0.01)[:, None]
    log_shape = alpha * np.log(z[None, :]) - (z[None, :] / z_m) ** alpha
    shape = np.exp(log_shape - log_shape.max(axis=1, keepdims=True))
    shape /= shape.sum(axis=1, keepdims=True)
    shape[shape < cut / len(z)] = 0.0
    shape /= shape.sum(axis=1, keepdims=True)
    return np.asarray(fraction[:, None] * shape)

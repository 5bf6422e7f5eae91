"""Fourier transforms of Sersic profiles, truncated as the Legacy Surveys truncate them.

The profile of index n is exp(-b_n ((r^2 + s)^(1/2n) - 1)), with r in half-light radii of the
untruncated profile, times a factor that falls smoothly from 1 to 0 over the last half-light radius
before the edge: 4 for n <= 1, 8 for n >= 4, linear in n between. The core is softened by
s = (1/50)^2 at n >= 4, 0 at n <= 1, linear between: EXP is n = 1 and DEV is n = 4 exactly. The
profile is scaled to unit flux within its edge.

The transform is a smooth function of K^2, the squared wave number in units of the inverse
half-light radius. A table holds its value and its slope at knots of t = 1 + 64 K^2 (32 in each
octave) and at nodes of n; between knots it is a cubic with these slopes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline, PPoly
from scipy.special import gammaincinv, j0, j1

__all__ = [
    "N_MAX",
    "N_MIN",
    "SersicTable",
    "build_table",
    "edge_radius",
    "extent",
    "profile",
    "table",
]

Float64Array = NDArray[np.float64]

#: Range of the index.
N_MIN, N_MAX = 0.5, 6.0
#: t = 1 + _STRETCH K^2; knots in an octave of t; octaves.
_STRETCH, _PER_OCTAVE, _OCTAVES = 64.0, 32, 24
_SEGMENTS = (np.linspace(0.5, 1.0, 11), np.linspace(1.0, 4.0, 41), np.linspace(4.0, 6.0, 21))


def edge_radius(n: float) -> float:
    """Radius [half-light radii] outside of which a profile of index n is zero.

    Parameters
    ----------
    n : float
        Index.

    Returns
    -------
    float [half-light radii]
        The edge.
    """
    return float(4.0 + 4.0 / 3.0 * np.clip(n - 1.0, 0.0, 3.0))


def profile(radius: Float64Array, n: float, *, soften: bool = True) -> Float64Array:
    """Surface brightness of the truncated profile, 1 near unit radius.

    Parameters
    ----------
    radius : (m,) float64 [half-light radii]
        Where.
    n : float
        Index.
    soften : bool
        Soften the core.

    Returns
    -------
    (m,) float64
        The brightness; not normalised.
    """
    b = float(gammaincinv(2.0 * n, 0.5))
    soft = 4e-4 * np.clip((n - 1.0) / 3.0, 0.0, 1.0) if soften else 0.0
    value = np.exp(-b * ((radius**2 + soft) ** (0.5 / n) - 1.0))
    fall = np.clip(radius - edge_radius(n) + 1.0, 0.0, 1.0)
    return np.asarray(value * (1.0 - fall**2) ** 2)


@functools.cache
def _brightness(rounded: int) -> tuple[Float64Array, Float64Array]:
    """Radii and normalised brightness of index rounded / 4."""
    n = max(rounded, 2) / 4.0
    radius = np.linspace(0.0, edge_radius(n), 161)
    value = profile(radius, n)
    fine, weight = _radial_nodes()
    total = 2.0 * np.pi * (profile(fine, n) * weight * fine).sum()
    return radius, value / total


def extent(n: float, threshold: ArrayLike) -> Float64Array:
    """Radius [half-light radii] beyond which a profile of unit flux is fainter than a threshold.

    Parameters
    ----------
    n : float
        Index; rounded to quarters.
    threshold : (m,) float [1 / half-light radius squared]
        Brightness of a round profile of unit flux.

    Returns
    -------
    (m,) float64
        At most the radius of the edge.
    """
    radius, value = _brightness(round(4.0 * n))
    # The brightness falls outwards.
    first = np.searchsorted(-value, -np.asarray(threshold, np.float64))
    return np.asarray(radius[np.minimum(first, radius.size - 1)])


def knots() -> Float64Array:
    """K^2 of the knots (m,)."""
    octave = np.arange(_OCTAVES)[:, None]
    part = np.arange(_PER_OCTAVE)[None, :] / _PER_OCTAVE
    t = np.append((2.0**octave * (1.0 + part)).ravel(), 2.0**_OCTAVES)
    return (t - 1.0) / _STRETCH


def _radial_nodes() -> tuple[Float64Array, Float64Array]:
    """Gauss-Legendre nodes and weights: logarithmic panels in the core, equal ones outside."""
    x, w = np.polynomial.legendre.leggauss(12)
    edges = np.concatenate([[0.0], np.geomspace(1e-7, 0.02, 40), np.arange(1, 800) * 0.01 + 0.02])
    edges = edges[edges < 8.0 - 1e-9]
    # Edges and kinks of the truncation fall onto panels for every node of n.
    edges = np.append(edges, 8.0)
    half = 0.5 * np.diff(edges)
    middle = 0.5 * (edges[1:] + edges[:-1])
    return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def _transforms(light: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Value and slope (n_profile, n_knot) of profiles at the radial nodes (n_node, n_profile)."""
    radius, weight = _radial_nodes()
    light = light * (weight * radius)[:, None]
    light /= light.sum(axis=0)
    wave = np.sqrt(knots())
    value, slope = np.empty((2, light.shape[1], wave.size))
    moment = radius[:, None] * light
    for first in range(0, wave.size, 64):
        part = wave[first : first + 64]
        phase = part[:, None] * radius
        value[:, first : first + 64] = (j0(phase) @ light).T
        # d J0(K r) / d K^2 = -r J1(K r) / (2 K)
        safe = np.where(part > 0, part, 1.0)
        slope[:, first : first + 64] = -((j1(phase) @ moment) / (2.0 * safe[:, None])).T
    slope[:, 0] = -0.25 * (radius[:, None] ** 2 * light).sum(axis=0)
    return value, slope


def build_table() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Transforms of all nodes by numerical integration.

    Returns
    -------
    value, slope : (n_node, n_knot) float32
        Transform and its derivative by K^2.
    """
    nodes = np.concatenate(_SEGMENTS)
    radius, _ = _radial_nodes()
    value, slope = _transforms(np.stack([profile(radius, n) for n in nodes], axis=1))
    return value.astype(np.float32), slope.astype(np.float32)


def transform(n: float, *, soften: bool = True) -> Float64Array:
    """Transform of one profile by numerical integration, in the form of `SersicTable.at`.

    Parameters
    ----------
    n : float
        Index.
    soften : bool
        Soften the core.

    Returns
    -------
    (n_knot, 4) float64
        Value and slope; the derivatives by n are zero.
    """
    radius, _ = _radial_nodes()
    value, slope = _transforms(profile(radius, n, soften=soften)[:, None])
    nothing = np.zeros_like(value[0])
    return np.stack([value[0], slope[0], nothing, nothing], axis=1)


@dataclass(frozen=True, eq=False)
class SersicTable:
    """Transforms between the nodes of n.

    Parameters
    ----------
    polynomial : PPoly
        Values and slopes (n_knot, 2) as piecewise cubics of n.
    """

    polynomial: PPoly

    def at(self, n: float) -> Float64Array:
        """Columns value, slope, and their derivatives by n, at the knots.

        Parameters
        ----------
        n : float
            Index within [0.5, 6].

        Returns
        -------
        (n_knot, 4) float64
            For the kernels.
        """
        index = min(max(float(n), N_MIN), N_MAX)
        x, c = self.polynomial.x, self.polynomial.c
        i = min(int(np.searchsorted(x, index, side="right")) - 1, x.size - 2)
        u = index - x[i]
        c3, c2, c1, c0 = c[0, i], c[1, i], c[2, i], c[3, i]
        out = np.empty((c0.shape[0], 4))
        out[:, :2] = c0 + u * (c1 + u * (c2 + u * c3))
        out[:, 2:] = c1 + u * (2.0 * c2 + u * 3.0 * c3)
        return out


@functools.cache
def table() -> SersicTable:
    """The table that comes with the package."""
    source = resources.files("skymill.model") / "tables" / "sersic_fourier.npz"
    with source.open("rb") as stream, np.load(stream) as data:
        value, slope = data["value"].astype(np.float64), data["slope"].astype(np.float64)
    parts_x, parts_c, first = [], [], 0
    for nodes in _SEGMENTS:
        both = np.stack(
            [value[first : first + nodes.size], slope[first : first + nodes.size]], axis=-1
        )
        spline = CubicSpline(nodes, both)
        parts_x.append(spline.x[:-1])
        parts_c.append(spline.c)
        first += nodes.size
    x = np.append(np.concatenate(parts_x), N_MAX)
    return SersicTable(PPoly.construct_fast(np.concatenate(parts_c, axis=1), x))


@functools.cache
def fixed_table(n: float) -> Float64Array:
    """`SersicTable.at` of an index that is used often (1 and 4)."""
    return table().at(n)

"""Members of the cluster among the sources: how much they dilute the shear at each radius.

Members are not sheared. What p(z) does not tell apart shows as an excess of sources towards the
centre, over the area that the catalogue covers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import ConvexHull, QhullError

from skymill.lensing.nfw import convergence_shape

__all__ = ["Dilution", "covered_radii", "fit_dilution", "member_shape"]

Float64Array = NDArray[np.float64]
_SUB = 6
_RINGS = 24
_PER_CELL = 12.0


@dataclass(frozen=True)
class Dilution:
    """Excess of sources by members, as ``1 + amplitude * member_shape(r / scale)``.

    Parameters
    ----------
    amplitude : float
        Members over background sources at the scale radius; >= 0.
    error : float
        Its standard error.
    scale_mpc : float
        Scale radius of the members [Mpc].
    """

    amplitude: float
    error: float
    scale_mpc: float

    def boost(self, radius: Float64Array) -> Float64Array:
        """Factor by which members lower the mean shear at a radius.

        Parameters
        ----------
        radius : (n,) float64 [Mpc]
            Projected distances.

        Returns
        -------
        (n,) float64
            At least one.
        """
        return 1.0 + self.amplitude * member_shape(radius / self.scale_mpc)


def member_shape(x: Float64Array) -> Float64Array:
    """Projected NFW profile, one at the scale radius and constant inside of a tenth of it.

    Parameters
    ----------
    x : (n,) float64
        Radius over the scale radius.

    Returns
    -------
    (n,) float64
        Surface density.
    """
    return convergence_shape(np.maximum(x, 0.1)) * 3.0


def covered_radii(east: Float64Array, north: Float64Array) -> tuple[Float64Array, float]:
    """Distances from the origin of points that fill the field evenly.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        All galaxies, of whatever kind: cells with none of them are holes, and the field ends at
        their convex hull.

    Returns
    -------
    radius : (m,) float64 [arcmin]
        Distances.
    area : float [arcmin2]
        Area that each point stands for.
    """
    x0, y0 = east.min(), north.min()
    span = max(float(np.ptp(east)), float(np.ptp(north)), 1e-6)
    size = float(np.sqrt(max(np.ptp(east) * np.ptp(north), 1e-12) * _PER_CELL / len(east)))
    size = max(size, span / 400.0)
    nx, ny = int(np.ptp(east) / size) + 1, int(np.ptp(north) / size) + 1
    index = ((north - y0) / size).astype(int) * nx + ((east - x0) / size).astype(int)
    full = np.bincount(index, minlength=nx * ny).reshape(ny, nx) > 0
    fine = np.repeat(np.repeat(full, _SUB, axis=0), _SUB, axis=1)
    iy, ix = np.nonzero(fine)
    step = size / _SUB
    points = np.stack([x0 + (ix + 0.5) * step, y0 + (iy + 0.5) * step])
    try:
        hull = ConvexHull(np.stack([east, north], axis=1)).equations
    except QhullError:  # all galaxies on a line: no area to speak of
        return np.hypot(*points), step * step
    inside = (hull[:, :2] @ points + hull[:, 2:] <= 1e-9).all(axis=0)
    return np.hypot(*points[:, inside]), step * step


def fit_dilution(
    radius: Float64Array,
    covered: Float64Array,
    *,
    radius_max: float,
    scale_mpc: float,
    weight: Float64Array | None = None,
) -> Dilution:
    """Fit the excess of sources towards the centre.

    Parameters
    ----------
    radius : (n,) float64 [Mpc]
        Projected distances of the sources of the whole field.
    covered : (m,) float64 [Mpc]
        Distances of points that fill the field evenly, from `covered_radii`.
    radius_max : float [Mpc]
        Where to stop.
    scale_mpc : float [Mpc]
        Scale radius of the members.
    weight : (n,) float64, optional
        How much each source counts in the fit of the mass (weight times the square of its lensing
        efficiency): members that p(z) knows count little.

    Returns
    -------
    Dilution
        Maximum of the Poisson likelihood of the counts in rings, with background and amplitude
        free; an amplitude below zero is set to zero.
    """
    top = min(radius_max, float(covered.max()))
    edges = np.concatenate([[0.0], np.geomspace(0.02 * top, top, _RINGS)])
    value = np.ones(len(radius)) if weight is None else weight * weight.sum() / np.sum(weight**2)
    counts = np.histogram(radius, edges, weights=value)[0]
    area = np.histogram(covered, edges)[0].astype(float)
    shape = np.histogram(covered, edges, weights=member_shape(covered / scale_mpc))[0]
    use = area > 0
    counts, area, shape = counts[use], area[use], shape[use]

    def minus_log_likelihood(p: Float64Array) -> float:
        expected = np.exp(p[0]) * np.maximum(area + p[1] * shape, 1e-3 * area)
        return float(np.sum(expected - counts * np.log(expected)))

    start = np.array([np.log(counts.sum() / area.sum()), 0.0])
    best = minimize(minus_log_likelihood, start, method="Nelder-Mead", options={"xatol": 1e-5}).x
    n0 = float(np.exp(best[0]))
    mean = n0 * np.maximum(area + best[1] * shape, 1e-3 * area)
    first, second = mean, n0 * shape
    fisher = np.array(
        [
            [np.sum(first**2 / mean), np.sum(first * second / mean)],
            [np.sum(first * second / mean), np.sum(second**2 / mean)],
        ]
    )
    error = float(np.sqrt(np.linalg.pinv(fisher)[1, 1]))
    return Dilution(amplitude=max(float(best[1]), 0.0), error=error, scale_mpc=scale_mpc)

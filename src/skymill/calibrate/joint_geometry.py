"""The geometry that all visits of a camera share: where each CCD lies in the focal plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.calibrate.tpv import from_tangent, monomials, to_tangent
from skymill.data.geometry import FitsWcs

__all__ = ["CcdGeometry", "FocalGeometry", "common_geometry"]

Float64Array = NDArray[np.float64]

_GRID = 9
_ORDER = 5


@dataclass(frozen=True)
class CcdGeometry:
    """Input of one CCD of one visit.

    Parameters
    ----------
    visit, detector : int
        Identity.
    wcs : FitsWcs
        Single-frame world coordinates.
    shape : (ny, nx)
        Size of the CCD.
    """

    visit: int
    detector: int
    wcs: FitsWcs
    shape: tuple[int, int]


def _unit(x: Float64Array, y: Float64Array, shape: tuple[int, int]) -> tuple[Float64Array, ...]:
    ny, nx = shape
    half = 0.5 * max(nx, ny)
    return (x - 0.5 * (nx - 1)) / half, (y - 0.5 * (ny - 1)) / half


@dataclass
class FocalGeometry:
    """Mean geometry of the CCDs and the affine position of each visit.

    Parameters
    ----------
    coefficients : dict of int to (q, 2) float64
        For each detector the polynomial from unit pixel coordinates to the focal plane [deg].
    shapes : dict of int to (ny, nx)
        Size of each detector.
    tangent : dict of int to (float, float)
        Tangent point of each visit [deg].
    affine : dict of int to (3, 2) float64
        For each visit the map (1, u, v) of the focal plane to its tangent plane [deg].
    radius : float
        Largest distance of a CCD's corner from the origin of the focal plane [deg].
    """

    coefficients: dict[int, Float64Array]
    shapes: dict[int, tuple[int, int]]
    tangent: dict[int, tuple[float, float]]
    affine: dict[int, Float64Array]
    radius: float

    def unit_pixel(
        self, detector: int, x: Float64Array, y: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Pixels of a CCD scaled to within [-1, 1].

        Parameters
        ----------
        detector : int
            The CCD.
        x, y : (n,) float64 [pixel]
            Positions.

        Returns
        -------
        u, v : (n,) float64
            Scaled positions.
        """
        u, v = _unit(x, y, self.shapes[detector])
        return u, v

    def focal(
        self, detector: int, x: Float64Array, y: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Positions in the focal plane.

        Parameters
        ----------
        detector : int
            The CCD.
        x, y : (n,) float64 [pixel]
            Positions.

        Returns
        -------
        u, v : (n,) float64 [deg]
            Positions in the mean tangent plane.
        """
        plane = monomials(*self.unit_pixel(detector, x, y), _ORDER) @ self.coefficients[detector]
        return plane[:, 0], plane[:, 1]

    def plane(self, visit: int, u: Float64Array, v: Float64Array) -> Float64Array:
        """Tangent plane of a visit.

        Parameters
        ----------
        visit : int
            The visit.
        u, v : (n,) float64 [deg]
            Positions in the focal plane.

        Returns
        -------
        (n, 2) float64 [deg]
            Positions about the visit's tangent point.
        """
        return np.stack([np.ones_like(u), u, v], axis=1) @ self.affine[visit]

    def sky(self, visit: int, plane: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Sky positions of points of a visit's tangent plane.

        Parameters
        ----------
        visit : int
            The visit.
        plane : (n, 2) float64 [deg]
            Positions about the visit's tangent point.

        Returns
        -------
        ra, dec : (n,) float64 [deg]
            Sky positions.
        """
        ra0, dec0 = self.tangent[visit]
        return from_tangent(plane[:, 0], plane[:, 1], ra0=ra0, dec0=dec0)


def _centre(wcs: FitsWcs, shape: tuple[int, int]) -> tuple[float, float]:
    ra, dec = wcs.pixel_to_sky(x=[0.5 * (shape[1] - 1)], y=[0.5 * (shape[0] - 1)])
    return float(ra[0]), float(dec[0])


def _mean_direction(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    a, d = np.radians(np.array(points)).T
    v = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]).mean(axis=1)
    return float(np.degrees(np.arctan2(v[1], v[0])) % 360), float(
        np.degrees(np.arctan2(v[2], np.hypot(v[0], v[1])))
    )


def _fit(source: Float64Array, target: Float64Array) -> Float64Array:
    """Affine map of (n, 2) points as (3, 2) coefficients of (1, u, v)."""
    design = np.column_stack([np.ones(len(source)), source])
    return np.linalg.lstsq(design, target, rcond=None)[0]


def _apply(affine: Float64Array, points: Float64Array) -> Float64Array:
    return affine[0] + points @ affine[1:]


def _invert(affine: Float64Array, points: Float64Array) -> Float64Array:
    return np.linalg.solve(affine[1:].T, (points - affine[0]).T).T


class _Builder:
    """Aligns the visits one after the other, then averages."""

    def __init__(self, ccds: Sequence[CcdGeometry]) -> None:
        self.sky: dict[int, dict[int, tuple[Float64Array, Float64Array]]] = {}
        self.shapes: dict[int, tuple[int, int]] = {}
        nodes = np.cos(np.pi * np.arange(_GRID) / (_GRID - 1))
        self.unit: dict[int, tuple[Float64Array, Float64Array]] = {}
        for ccd in ccds:
            ny, nx = ccd.shape
            gx, gy = np.meshgrid(0.5 * (nx - 1 + nx * nodes), 0.5 * (ny - 1 + ny * nodes))
            x, y = gx.ravel(), gy.ravel()
            self.shapes[ccd.detector] = ccd.shape
            u, v = _unit(x, y, ccd.shape)
            self.unit[ccd.detector] = (u, v)
            self.sky.setdefault(ccd.visit, {})[ccd.detector] = ccd.wcs.pixel_to_sky(x=x, y=y)
        self.tangent: dict[int, tuple[float, float]] = {}
        self.affine: dict[int, Float64Array] = {}
        self.focal: dict[int, Float64Array] = {}

    def project(self, visit: int, detector: int) -> Float64Array:
        ra0, dec0 = self.tangent[visit]
        return np.stack(to_tangent(*self.sky[visit][detector], ra0=ra0, dec0=dec0), axis=1)

    def align(self, visit: int) -> None:
        """Tangent point and affine map of a visit from the CCDs that are already known."""
        mine = self.sky[visit]
        shared = [d for d in mine if d in self.focal]
        middle = _GRID * _GRID // 2
        centres = {d: (float(mine[d][0][middle]), float(mine[d][1][middle])) for d in mine}
        self.tangent[visit] = _mean_direction([centres[d] for d in (shared or mine)])
        self.affine[visit] = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        for _ in range(4 if shared else 0):
            found = np.concatenate([self.project(visit, d) for d in shared])
            self.affine[visit] = _fit(np.concatenate([self.focal[d] for d in shared]), found)
            # The origin of the focal plane is where the axis of the telescope points.
            ra, dec = from_tangent(
                *self.affine[visit][0], ra0=self.tangent[visit][0], dec0=self.tangent[visit][1]
            )
            self.tangent[visit] = float(ra), float(dec)
            found = np.concatenate([self.project(visit, d) for d in shared])
            self.affine[visit] = _fit(np.concatenate([self.focal[d] for d in shared]), found)
        for d in mine:
            if d not in self.focal:
                self.focal[d] = _invert(self.affine[visit], self.project(visit, d))

    def build(self) -> None:
        left = sorted(self.sky, key=lambda v: (-len(self.sky[v]), v))
        while left:
            nearest = max(left, key=lambda v: sum(d in self.focal for d in self.sky[v]))
            left.remove(nearest)
            self.align(nearest)
        for _ in range(3):
            for d in self.focal:
                visits = [v for v in self.sky if d in self.sky[v]]
                self.focal[d] = np.mean(
                    [_invert(self.affine[v], self.project(v, d)) for v in visits], axis=0
                )
            for v, mine in self.sky.items():
                self.affine[v] = _fit(
                    np.concatenate([self.focal[d] for d in mine]),
                    np.concatenate([self.project(v, d) for d in mine]),
                )


def common_geometry(ccds: Sequence[CcdGeometry]) -> FocalGeometry:
    """Average the single-frame coordinates of all visits into one focal plane.

    Each CCD's place and distortion is the mean over the visits, after an affine map for each
    visit; so the noise of single-frame fits averages out, and what remains of low order is left
    to the joint fit.

    Parameters
    ----------
    ccds : sequence of CcdGeometry
        The CCDs of all visits.

    Returns
    -------
    FocalGeometry
        The focal plane.
    """
    builder = _Builder(ccds)
    builder.build()
    coefficients = {}
    for detector, plane in builder.focal.items():
        design = monomials(*builder.unit[detector], _ORDER)
        coefficients[detector] = np.linalg.lstsq(design, plane, rcond=None)[0]
    radius = max(float(np.hypot(*plane.T).max()) for plane in builder.focal.values())
    return FocalGeometry(coefficients, builder.shapes, builder.tangent, builder.affine, radius)

"""Regions on the sky for the registry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d
from numpy.typing import ArrayLike

from skymill.data.errors import DataError

__all__ = ["convex_polygon", "hull"]


def _vectors(ra: ArrayLike, dec: ArrayLike) -> list[UnitVector3d]:
    ra_, dec_ = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    if not (np.isfinite(ra_).all() and np.isfinite(dec_).all()):
        raise DataError("a region on the sky needs finite corners; the WCS has none there")
    return [
        UnitVector3d(LonLat.fromDegrees(float(a) % 360.0, float(d)))
        for a, d in zip(ra_.ravel(), dec_.ravel(), strict=True)
    ]


def convex_polygon(*, ra: ArrayLike, dec: ArrayLike) -> ConvexPolygon:
    """The smallest convex polygon with given corners.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Corners in any order, within one hemisphere.

    Returns
    -------
    lsst.sphgeom.ConvexPolygon
        The polygon; its sides are great circles.
    """
    return ConvexPolygon(_vectors(ra, dec))


def hull(polygons: Sequence[ConvexPolygon]) -> ConvexPolygon:
    """The smallest convex polygon that holds others.

    Parameters
    ----------
    polygons : sequence of lsst.sphgeom.ConvexPolygon
        The others.

    Returns
    -------
    lsst.sphgeom.ConvexPolygon
        Their hull.
    """
    return ConvexPolygon([v for p in polygons for v in p.getVertices()])

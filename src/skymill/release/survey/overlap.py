"""Which CCDs overlap an image: a circle on unit vectors first, then polygons in its pixels."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.data.geometry import FitsWcs

__all__ = ["MARGIN", "ccd_corners", "ccds_near", "polygons_overlap", "touching", "unit_vectors"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

#: The table of CCDs knows their places without the distortion of the camera, which is up to 5
#: arcsec; no CCD may be lost for that [arcsec].
MARGIN = 6.0


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Float64Array:
    """Unit vectors of positions.

    Parameters
    ----------
    ra, dec : (...) float64 [deg]
        Positions.

    Returns
    -------
    (..., 3) float64
        Vectors.
    """
    lon, lat = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def ccds_near(ccds: Table, *, ra: float, dec: float, radius_deg: float = 1.0) -> BoolArray:
    """Which CCDs have their centre within a circle.

    Parameters
    ----------
    ccds : Table
        With ``ra`` and ``dec``.
    ra, dec, radius_deg : float [deg]
        The circle.

    Returns
    -------
    (n,) bool
        True inside.
    """
    chord = 2.0 * np.sin(np.radians(min(radius_deg, 180.0)) / 2.0)
    step = unit_vectors(ccds["ra"], ccds["dec"]) - unit_vectors(ra, dec)
    return np.asarray((step**2).sum(axis=-1) <= chord**2)


def ccd_corners(ccds: Table) -> tuple[Float64Array, Float64Array]:
    """Outer corners of CCDs from the TAN part of their world coordinates.

    Parameters
    ----------
    ccds : Table
        Rows of ``survey-ccds``.

    Returns
    -------
    ra, dec : (n, 4) float64 [deg]
        Corners, counted around the CCD. The TAN part lacks the distortion of the camera; each
        CCD is therefore moved such that its centre is at ``ra``, ``dec``.
    """
    width, height = np.asarray(ccds["width"], float), np.asarray(ccds["height"], float)
    x = np.stack([0 * width, width, width, 0 * width], axis=1) + 0.5
    y = np.stack([0 * height, 0 * height, height, height], axis=1) + 0.5
    # Offsets from the centre on the tangent plane of the camera are, for a CCD, as good as those
    # on a tangent plane at the centre itself: they differ by less than 1e-4 of the CCD's width.
    dx, dy = x - (width[:, None] + 1) / 2, y - (height[:, None] + 1) / 2
    cd = [[np.asarray(ccds[f"cd{i}_{j}"], float)[:, None] for j in (1, 2)] for i in (1, 2)]
    east, north = cd[0][0] * dx + cd[0][1] * dy, cd[1][0] * dx + cd[1][1] * dy
    turn = _turn(ccds)
    east, north = (
        east * np.cos(turn) - north * np.sin(turn),
        east * np.sin(turn) + north * np.cos(turn),
    )
    return _from_plane(np.asarray(ccds["ra"], float), np.asarray(ccds["dec"], float), east, north)


def _turn(ccds: Table) -> Float64Array:
    """Angle between North at the tangent point of the camera and at the centre of the CCD."""
    lon = np.radians(np.asarray(ccds["ra"], float) - np.asarray(ccds["crval1"], float))
    dec0, dec = (np.radians(np.asarray(ccds[n], float)) for n in ("crval2", "dec"))
    middle = (dec0 + dec) / 2
    return np.asarray(-np.arctan2(np.sin(lon) * np.sin(middle), np.cos(lon)))[:, None]


def _from_plane(
    ra: Float64Array, dec: Float64Array, east: Float64Array, north: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Positions of gnomonic offsets [deg] about each row's own tangent point."""
    lat = np.radians(dec)[:, None]
    u, v = np.radians(east), np.radians(north)
    lon = np.arctan2(u, np.cos(lat) - v * np.sin(lat))
    out_dec = np.arctan2(np.sin(lat) + v * np.cos(lat), np.hypot(u, np.cos(lat) - v * np.sin(lat)))
    return (ra[:, None] + np.degrees(lon)) % 360.0, np.degrees(out_dec)


def polygons_overlap(a: Float64Array, b: Float64Array) -> bool:
    """Whether two convex polygons share an area.

    Parameters
    ----------
    a, b : (n, 2) float64
        Corners in order.

    Returns
    -------
    bool
        True if no edge of either separates them.
    """
    for corners in (a, b):
        edges = np.roll(corners, -1, axis=0) - corners
        for normal in np.stack([-edges[:, 1], edges[:, 0]], axis=1):
            first, second = a @ normal, b @ normal
            if first.max() <= second.min() or second.max() <= first.min():
                return False
    return True


def touching(ccds: Table, wcs: FitsWcs, shape: tuple[int, int]) -> Table:
    """The CCDs that overlap an image.

    Parameters
    ----------
    ccds : Table
        Rows of ``survey-ccds``.
    wcs : FitsWcs
        World coordinates of the image.
    shape : (ny, nx)
        Its pixels.

    Returns
    -------
    Table
        The rows that overlap it, or come within `MARGIN` of it.
    """
    ny, nx = shape
    ra0, dec0 = wcs.pixel_to_sky(x=[(nx - 1) / 2], y=[(ny - 1) / 2])
    edge_ra, edge_dec = wcs.pixel_to_sky(x=[-0.5], y=[-0.5])
    step = unit_vectors(edge_ra, edge_dec) - unit_vectors(ra0, dec0)
    half_diagonal = 2 * np.degrees(np.arcsin(min(1.0, float(np.sqrt((step**2).sum())) / 2)))
    reach = 1.0 + max(0.0, half_diagonal - 0.25)
    near = ccds[ccds_near(ccds, ra=float(ra0[0]), dec=float(dec0[0]), radius_deg=reach)]
    if len(near) == 0:
        return near
    ra, dec = ccd_corners(near)
    x, y = wcs.sky_to_pixel(ra=ra.ravel(), dec=dec.ravel())
    corners = np.stack([x, y], axis=-1).reshape(len(near), 4, 2)
    scale = half_diagonal * 3600.0 / (np.hypot(nx, ny) / 2)
    grow = MARGIN / scale
    image = np.array(
        [[-grow, -grow], [nx + grow, -grow], [nx + grow, ny + grow], [-grow, ny + grow]]
    )
    image -= 0.5
    keep = [bool(np.isfinite(c).all()) and polygons_overlap(c, image) for c in corners]
    return near[np.array(keep, bool)]

"""Bricks of a region that CCDs touch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skymill.coadd.bricks import Brick
from skymill.release.survey.bricks import brick_wcs
from skymill.release.survey.overlap import ccd_corners, polygons_overlap, unit_vectors

__all__ = ["bricks_near_ccds", "bricks_touching"]

#: Half diagonal of a brick and of the largest CCD (90prime), with a margin [deg].
_FAR = 1.05 * np.sqrt(2.0) * (0.25 + 0.455 * 4096 / 3600) / 2

#: Width of a brick [deg], less a margin for its curved edges.
_WIDTH = 0.95 * 0.25


def _chord(angle_deg: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(2.0 * np.sin(np.radians(angle_deg) / 2.0))


def _sure(ccds: Table) -> NDArray[np.float64]:
    """Distance [deg] of the centres below which each CCD surely overlaps a brick."""
    cd = [np.asarray(ccds[f"cd{i}_{j}"], float) for i in (1, 2) for j in (1, 2)]
    scale = np.sqrt(np.abs(cd[0] * cd[3] - cd[1] * cd[2]))
    short = np.minimum(np.asarray(ccds["width"], float), np.asarray(ccds["height"], float))
    return (_WIDTH + 0.95 * scale * short) / 2


def _neighbours(bricks: Sequence[Brick], ccds: Table) -> list[list[int]]:
    if len(ccds) == 0 or not bricks:
        return [[] for _ in bricks]
    tree = cKDTree(unit_vectors(ccds["ra"], ccds["dec"]))
    centres = unit_vectors([b.ra for b in bricks], [b.dec for b in bricks])
    return [sorted(found) for found in tree.query_ball_point(centres, float(_chord(_FAR)))]


def bricks_near_ccds(bricks: Sequence[Brick], ccds: Table) -> list[Brick]:
    """Bricks near to which a CCD's centre lies: every brick that may be touched.

    Parameters
    ----------
    bricks : sequence of Brick
        Candidates.
    ccds : Table
        Rows of ``survey-ccds``.

    Returns
    -------
    list of Brick
        In the order given.
    """
    near = _neighbours(bricks, ccds)
    return [brick for brick, found in zip(bricks, near, strict=True) if found]


def bricks_touching(bricks: Sequence[Brick], ccds: Table) -> list[Brick]:
    """Bricks that a CCD overlaps.

    Parameters
    ----------
    bricks : sequence of Brick
        Candidates.
    ccds : Table
        Rows of ``survey-ccds``.

    Returns
    -------
    list of Brick
        In the order given: those with a CCD's centre so near that it must overlap, or whose
        square overlaps the polygon of a CCD.
    """
    if len(ccds) == 0:
        return []
    ra, dec = ccd_corners(ccds)
    vectors, sure = unit_vectors(ccds["ra"], ccds["dec"]), _chord(_sure(ccds))
    near = _neighbours(bricks, ccds)
    return [
        brick
        for brick, found in zip(bricks, near, strict=True)
        if found and _is_touched(brick, np.array(found), vectors, sure, ra, dec)
    ]


def _is_touched(
    brick: Brick,
    found: NDArray[np.int64],
    vectors: NDArray[np.float64],
    sure: NDArray[np.float64],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
) -> bool:
    distance = np.sqrt(((vectors[found] - unit_vectors(brick.ra, brick.dec)) ** 2).sum(axis=1))
    if (distance < sure[found]).any():
        return True
    wcs = brick_wcs(brick)
    width = brick.ra_high - brick.ra_low
    sky = np.array([
        (brick.ra_low, brick.dec_low), (brick.ra_low + width, brick.dec_low),
        (brick.ra_low + width, brick.dec_high), (brick.ra_low, brick.dec_high),
    ])  # fmt: skip
    square = np.stack(wcs.sky_to_pixel(ra=sky[:, 0], dec=sky[:, 1]), axis=1)
    for k in found:
        corners = np.stack(wcs.sky_to_pixel(ra=ra[k], dec=dec[k]), axis=1)
        if np.isfinite(corners).all() and polygons_overlap(corners, square):
            return True
    return False

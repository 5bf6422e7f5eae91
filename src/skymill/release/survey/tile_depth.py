"""Depth cut by tiles: of many exposures of one planned pointing only the deepest are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError
from skymill.release.survey.cuts import CUT_BITS
from skymill.release.survey.tiles import Tiles

__all__ = ["TILE_EXPOSURES", "tile_depth_cut"]

#: Exposures of a tile and band that are kept, by camera.
TILE_EXPOSURES = {"decam": 3, "90prime": 6, "mosaic": 2}


def tile_depth_cut(
    ccds: Table, tiles: Mapping[str, Tiles], *, exposures: Mapping[str, int] | None = None
) -> Table:
    """Set ``depth_cut_2`` of the exposures that are not among the deepest of their tile.

    The depth of an exposure is the median of its CCDs' depths for a galaxy, from ``sig1`` and
    ``galnorm``. CCDs that another cut hits do not count; exposures of no tile are kept.

    Parameters
    ----------
    ccds : Table
        Schema ``survey-ccds``, after `skymill.release.survey.cuts.apply_cuts`.
    tiles : mapping of str to Tiles
        By camera; cameras without tiles are not cut.
    exposures : mapping of str to int, optional
        Exposures that are kept of each tile and band, by camera; `TILE_EXPOSURES` if omitted.

    Returns
    -------
    Table
        A copy; the bit is set anew, other bits stay.

    Raises
    ------
    ConfigError
        If fewer than one exposure is to be kept.
    """
    numbers = {**TILE_EXPOSURES, **(exposures or {})}
    for camera, number in numbers.items():
        if number < 1:
            raise ConfigError(
                f"exposures of a tile must be >= 1 for the camera {camera}; got {number}"
            )
    out = ccds.copy()
    bit = CUT_BITS["depth_cut_2"]
    bits = np.asarray(ccds["ccd_cuts"], np.int64) & ~bit
    depth = _depth(ccds)
    cameras = np.char.strip(np.asarray(ccds["camera"]).astype(str))
    bands = np.char.strip(np.asarray(ccds["filter"]).astype(str))
    groups: dict[tuple[str, str, int], list[tuple[float, NDArray[np.int64]]]] = {}
    for camera, own in tiles.items():
        rows = np.flatnonzero((cameras == camera) & (bits == 0))
        exposure = np.asarray(ccds["expnum"], np.int64)[rows]
        for number in np.unique(exposure):
            same = rows[exposure == number]
            first = ccds[int(same[0])]
            tile = own.find(
                str(first["object"]).strip(), ra=float(first["ra_bore"]),
                dec=float(first["dec_bore"]),
            )["tileid"]  # fmt: skip
            if tile:
                key = camera, str(bands[same[0]]), int(tile)
                groups.setdefault(key, []).append((float(np.median(depth[same])), same))
    for (camera, _, _), members in groups.items():
        # The deepest first; of equal ones that of the first row.
        members.sort(key=lambda member: (-member[0], int(member[1][0])))
        for _, rows in members[numbers[camera] :]:
            bits[rows] |= bit
    out["ccd_cuts"] = bits
    return out


def _depth(ccds: Table) -> NDArray[np.float64]:
    """Galaxy depth (5 sigma) [mag] of each CCD; -inf where unknown."""
    sigma = np.asarray(ccds["sig1"], float)
    norm = np.asarray(ccds["galnorm"], float)
    known = (sigma > 0) & (norm > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 22.5 - 2.5 * np.log10(5.0 * sigma / norm)
    return np.where(known, depth, -np.inf)

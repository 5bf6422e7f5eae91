"""The mask bits of a brick's pixels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skymill.release.brick.bits import MaskBit, Quality
from skymill.release.brick.coadds import BandCoadd
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.reference_sources import ReferenceMasks

__all__ = ["mask_bits"]


def mask_bits(
    grid: BrickGrid,
    coadds: Mapping[str, BandCoadd],
    masks: ReferenceMasks,
    bailed_out: NDArray[np.bool_],
    divided: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """Mask bits of all pixels of a brick.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    coadds : mapping of str to BandCoadd
        By band.
    masks : ReferenceMasks
        Bright stars, large galaxies and star clusters.
    bailed_out : (ny, nx) bool
        Pixels of blobs that were not fitted.
    divided : (ny, nx) bool
        Pixels of blobs that were fitted in parts.

    Returns
    -------
    (ny, nx) int32
        `MaskBit`.
    """
    out = np.zeros(grid.shape, np.int32)
    primary = grid.primary_pixels()
    out[~primary] |= np.int32(MaskBit.NPRIMARY)
    for band, coadd in coadds.items():
        saturated = getattr(MaskBit, f"SATUR_{band.upper()}", None)
        everywhere = getattr(MaskBit, f"ALLMASK_{band.upper()}", None)
        if saturated is not None:
            out[(coadd.any_mask & int(Quality.SATUR)) != 0] |= np.int32(saturated)
        if everywhere is not None:
            out[coadd.all_mask != 0] |= np.int32(everywhere)
    out[masks.bright] |= np.int32(MaskBit.BRIGHT)
    out[masks.medium] |= np.int32(MaskBit.MEDIUM)
    out[masks.galaxy] |= np.int32(MaskBit.GALAXY)
    out[masks.cluster] |= np.int32(MaskBit.CLUSTER)
    out[divided] |= np.int32(MaskBit.SUB_BLOB)
    # Blobs outside of the brick's own area are another brick's work.
    out[bailed_out & primary] |= np.int32(MaskBit.BAILOUT)
    return out

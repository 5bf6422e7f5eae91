"""Masks that do not depend on the exposure: defect boxes, glowing edges; and grown saturation."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.detrend._isr_kernels import grow_saturated

__all__ = ["mask_defects", "mask_edges", "mask_saturation"]


def mask_defects(mask: NDArray[np.int32], defects: Table) -> int:
    """Set BAD in every defect box.

    Parameters
    ----------
    mask : (ny, nx) int32
        Changed in place.
    defects : astropy.table.Table
        Columns ``x0``, ``y0`` and ``nx``, ``ny`` (or ``width``, ``height``) [pixel of the trimmed
        image].

    Returns
    -------
    int
        Number of pixels with the plane.

    Raises
    ------
    DataError
        If a column is missing.
    """
    sizes = ("width", "height") if "width" in defects.colnames else ("nx", "ny")
    names = ("x0", "y0", *sizes)
    absent = set(names) - set(defects.colnames)
    if absent:
        raise DataError(f"the defect table has no column {', '.join(sorted(absent))}")
    bit = np.int32(int(MaskPlane.BAD))
    columns = (np.asarray(defects[c], dtype=np.int64) for c in names)
    for x0, y0, width, height in zip(*columns, strict=True):
        mask[max(y0, 0) : max(y0 + height, 0), max(x0, 0) : max(x0 + width, 0)] |= bit
    return int(np.count_nonzero(mask & bit))


def mask_edges(mask: NDArray[np.int32], width: int) -> None:
    """Set SUSPECT in a frame along the edges of the CCD, where the field lines bend.

    Parameters
    ----------
    mask : (ny, nx) int32
        Changed in place.
    width : int [pixel]
        Width of the frame; 0 for none.
    """
    if width <= 0:
        return
    bit = np.int32(int(MaskPlane.SUSPECT))
    mask[:width] |= bit
    mask[-width:] |= bit
    mask[:, :width] |= bit
    mask[:, -width:] |= bit


def mask_saturation(mask: NDArray[np.int32], *, radius: int, widen_trails: bool) -> None:
    """Grow the SAT plane: charge spills into the neighbours of saturated pixels.

    Parameters
    ----------
    mask : (ny, nx) int32
        Changed in place.
    radius : int [pixel]
        Every saturated pixel grows by a square of this radius.
    widen_trails : bool
        Runs of 6 or more saturated pixels along a row become wider by 1 to 4 pixels on each side.
    """
    if radius > 0 or widen_trails:
        grow_saturated(mask, np.int32(int(MaskPlane.SAT)), radius, widen_trails)

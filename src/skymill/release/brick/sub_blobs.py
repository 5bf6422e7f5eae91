"""Huge blobs in parts: each is fitted with a margin, and keeps the sources of its own pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from skymill.model.blob import BlobFit
from skymill.release.brick.grid import BrickGrid

__all__ = ["MARGIN", "Division", "divide_blobs", "own_sources"]

#: Width of a part, and the margin of its neighbours that is fitted with it [pixel].
_PART, MARGIN = 256, 32


@dataclass
class Division:
    """Blobs and the parts of those that were divided.

    Parameters
    ----------
    numbers : (ny, nx) int32
        Number of the blob, or of the part, of each pixel; -1 outside of all.
    parent : (n,) int32
        Blob of each number; its own number if it is whole.
    """

    numbers: NDArray[np.int32]
    parent: NDArray[np.int32]

    def __post_init__(self) -> None:
        self._parts = np.bincount(self.parent, minlength=self.parent.size)

    def is_part(self, number: int) -> bool:
        """Whether a number is that of a part of a larger blob."""
        return bool(self._parts[self.parent[number]] > 1)

    def whole(self, numbers: NDArray[np.integer]) -> NDArray[np.int32]:
        """Blobs of numbers; negative ones stay as they are.

        Parameters
        ----------
        numbers : int array
            Numbers.

        Returns
        -------
        int32 array
            The same shape.
        """
        if not self.parent.size:
            return np.asarray(numbers, np.int32)
        known = self.parent[np.maximum(numbers, 0)]
        return np.where(numbers >= 0, known, numbers).astype(np.int32)

    def divided(self) -> NDArray[np.bool_]:
        """Pixels of blobs that were divided.

        Returns
        -------
        (ny, nx) bool
            The pixels.
        """
        parts = self._parts[self.parent] > 1 if self.parent.size else np.zeros(0, bool)
        out = np.zeros(self.numbers.shape, bool)
        inside = self.numbers >= 0
        out[inside] = parts[self.numbers[inside]]
        return out


def divide_blobs(
    blobs: NDArray[np.int32], *, larger_than: int, touching: NDArray[np.bool_] | None = None
) -> Division:
    """Divide large blobs into parts of some 256 pixels width.

    Parameters
    ----------
    blobs : (ny, nx) int32
        Number of the blob of each pixel from 0 on; -1 outside.
    larger_than : int [pixel]
        Blobs with more pixels are divided; 0: none for their size.
    touching : (ny, nx) bool, optional
        Blobs with a pixel in it are divided whatever their size.

    Returns
    -------
    Division
        A divided blob's first part keeps its number, others get new ones.
    """
    n = int(blobs.max()) + 1 if blobs.size else 0
    numbers, parent = blobs.copy(), list(range(n))
    chosen = np.zeros(n, bool)
    if larger_than > 0:
        chosen |= np.bincount(blobs[blobs >= 0], minlength=n) > larger_than
    if touching is not None:
        chosen[np.unique(blobs[touching & (blobs >= 0)])] = True
    boxes: Sequence[tuple[slice, slice] | None] = find_objects(blobs + 1) if chosen.any() else []
    for blob in map(int, np.flatnonzero(chosen)):
        box = boxes[blob]
        if box is None:
            continue
        height, width = (s.stop - s.start for s in box)
        rows, columns = math.ceil(height / _PART), math.ceil(width / _PART)
        if rows * columns == 1:
            continue
        row = np.arange(height) * rows // height
        column = np.arange(width) * columns // width
        part = row[:, None] * columns + column[None, :]
        own = blobs[box] == blob
        for k, number in enumerate(np.unique(part[own])):
            new = blob if k == 0 else len(parent)
            if k > 0:
                parent.append(blob)
            numbers[box][own & (part == number)] = new
    return Division(numbers, np.array(parent, np.int32))


def own_sources(
    fit: BlobFit,
    number: int,
    start_numbers: NDArray[np.int64],
    division: Division,
    grid: BrickGrid,
) -> BlobFit:
    """The fit of a part without the sources of its margin.

    Parameters
    ----------
    fit : BlobFit
        All sources of the part and of its margin.
    number : int
        The part.
    start_numbers : (k,) int64
        Numbers of the parts in which the sources that were given to the fit began.
    division : Division
        All parts.
    grid : BrickGrid
        The brick.

    Returns
    -------
    BlobFit
        Sources that began in the part, and those found in the residuals that lie in it.
    """
    x, y = grid.wcs.sky_to_pixel(ra=fit.sources.ra, dec=fit.sources.dec)
    column = np.clip(np.floor(x + 0.5).astype(int), 0, grid.width - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, grid.height - 1)
    known = fit.origin >= 0
    began = start_numbers[np.maximum(fit.origin, 0)] if start_numbers.size else -1
    keep = np.where(known, began, division.numbers[row, column]) == number
    return replace(
        fit,
        sources=fit.sources.at(keep),
        origin=fit.origin[keep],
        forced_keep=fit.forced_keep[keep],
    )

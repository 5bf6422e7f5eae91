"""Mosaics: the patches of a tract side by side on one image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from skymill.coadd.skymap import Patch, Tract
from skymill.data.errors import NoDataError
from skymill.data.images import Box, Coadd
from skymill.data.masks import MaskPlane, is_set

__all__ = ["assemble_mosaic", "bin_image", "central_patches", "mosaic_box"]

Float32Array = NDArray[np.float32]


def central_patches(tract: Tract, width: int) -> list[Patch]:
    """The patches in the middle of a tract.

    Parameters
    ----------
    tract : Tract
        The tract.
    width : int
        Patches along each side; rounded up to the parity of the tract so that the square stays
        centred. 0 means all.

    Returns
    -------
    list of Patch
        In the order of their numbers.
    """
    if width <= 0:
        return list(tract.patches)
    skip_x = max(0, (tract.n_x - width) // 2)
    skip_y = max(0, (tract.n_y - width) // 2)
    return [
        p
        for p in tract.patches
        if skip_x <= p.ix < tract.n_x - skip_x and skip_y <= p.iy < tract.n_y - skip_y
    ]


def mosaic_box(patches: Iterable[Patch]) -> Box:
    """The rectangle around the inner boxes of patches.

    Parameters
    ----------
    patches : iterable of Patch
        Patches of one tract.

    Returns
    -------
    Box
        Pixels of the tract.

    Raises
    ------
    NoDataError
        If there is no patch.
    """
    boxes = [p.inner_box for p in patches]
    if not boxes:
        raise NoDataError("a mosaic needs at least one patch")
    return Box(
        x0=min(b.x0 for b in boxes),
        y0=min(b.y0 for b in boxes),
        x1=max(b.x1 for b in boxes),
        y1=max(b.y1 for b in boxes),
    )


def assemble_mosaic(coadds: Iterable[Coadd], box: Box) -> tuple[Float32Array, NDArray[np.int32]]:
    """Put the inner boxes of coadds side by side.

    Parameters
    ----------
    coadds : iterable of Coadd
        Coadds of one tract and band, taken one after the other.
    box : Box
        Pixels of the tract that the mosaic shows.

    Returns
    -------
    image : (ny, nx) float32 [nJy]
        NaN where there are no data.
    mask : (ny, nx) int32
        Mask bits; NO_DATA where no coadd lies.
    """
    image = np.full(box.shape, np.nan, np.float32)
    mask = np.full(box.shape, int(MaskPlane.NO_DATA), np.int32)
    for coadd in coadds:
        part = coadd.inner_box.intersection(coadd.box).intersection(box)
        if part.is_empty:
            continue
        source, target = part.slices(within=coadd.box), part.slices(within=box)
        void = is_set(coadd.planes.mask[source], MaskPlane.NO_DATA)
        image[target] = np.where(void, np.float32(np.nan), coadd.planes.image[source])
        mask[target] = coadd.planes.mask[source]
    return image, mask


def bin_image(image: Float32Array, width: int) -> Float32Array:
    """Average an image in square blocks.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels; NaN are left out.
    width : int [pixel]
        Width of a block; a rest at the upper and right edge is dropped.

    Returns
    -------
    (ny // width, nx // width) float32
        Means; NaN where a block has no pixel.
    """
    if width <= 1:
        return image
    ny, nx = image.shape[0] // width, image.shape[1] // width
    total, number = np.zeros((ny, nx)), np.zeros((ny, nx), np.int32)
    # One pixel of every block at a time: a sum over two axes of a 4-d view is far slower.
    for j in range(width):
        for i in range(width):
            part = image[j : ny * width : width, i : nx * width : width]
            known = np.isfinite(part)
            total += np.where(known, part, np.float32(0.0))
            number += known
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / number, np.float32)

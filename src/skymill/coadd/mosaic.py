"""Mosaics: the patches of a tract side by side on one image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.coadd._mosaic_kernels import bin_mean, bin_share
from skymill.coadd.skymap import Patch, Tract
from skymill.data.errors import NoDataError
from skymill.data.images import Box
from skymill.data.masks import MaskPlane, is_set

__all__ = [
    "MosaicPart",
    "assemble_mosaic",
    "bin_image",
    "bin_mask",
    "central_patches",
    "drop_wide_gaps",
    "mosaic_box",
]

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


class MosaicPart(NamedTuple):
    """What a mosaic takes of a coadd: its pixels, where they lie, and which are its own."""

    image: Float32Array
    mask: NDArray[np.int32]
    box: Box
    inner_box: Box


def assemble_mosaic(
    coadds: Iterable[MosaicPart], box: Box
) -> tuple[Float32Array, NDArray[np.int32]]:
    """Put the inner boxes of coadds side by side.

    Parameters
    ----------
    coadds : iterable of MosaicPart
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
        void = is_set(coadd.mask[source], MaskPlane.NO_DATA)
        image[target] = np.where(void, np.float32(np.nan), coadd.image[source])
        mask[target] = coadd.mask[source]
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
    out = np.empty((image.shape[0] // width, image.shape[1] // width), np.float32)
    bin_mean(np.ascontiguousarray(image, np.float32), width, out)
    return out


def bin_mask(mask: NDArray[np.int32], planes: MaskPlane, width: int) -> Float32Array:
    """Share of the pixels of square blocks that have any of some mask planes.

    Parameters
    ----------
    mask : (ny, nx) int32
        Mask bits.
    planes : MaskPlane
        The planes.
    width : int [pixel]
        Width of a block; a rest at the upper and right edge is dropped.

    Returns
    -------
    (ny // width, nx // width) float32
        Shares from 0 to 1.
    """
    out = np.empty((mask.shape[0] // width, mask.shape[1] // width), np.float32)
    bin_share(np.ascontiguousarray(mask, np.int32), np.int32(int(planes)), width, out)
    return out


def drop_wide_gaps(image: Float32Array, share: Float32Array, *, width: int = 9) -> Float32Array:
    """An image without its wide interpolated areas, for pictures.

    Parameters
    ----------
    image : (ny, nx) float32
        Binned pixels.
    share : (ny, nx) float32
        Share of interpolated pixels in each.
    width : int [pixel]
        Pixels where more than half of the square of this width around them are interpolated are
        void: interpolation bridges columns, not corners of detectors.

    Returns
    -------
    (ny, nx) float32
        The image with NaN there.
    """
    wide = (share > 0.5) & (ndimage.uniform_filter(share, width, mode="nearest") > 0.5)
    return np.where(wide, np.float32(np.nan), image)

"""Corrections of a coadd: smooth surfaces of its CCDs are subtracted after the stacking.

A coadd is linear in its inputs. What should have been subtracted from a CCD before the warping can
be subtracted from the coadd, with the CCD's weight in each pixel. As the surface is smooth it is
moved to the tract on a coarse grid; nothing is resampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.coadd._warp_kernels import add_surface
from skymill.coadd.stack import InputPixels
from skymill.coadd.warp import footprint, mapping_nodes
from skymill.data.errors import DataError
from skymill.data.images import Coadd
from skymill.data.photometry import FluxScale
from skymill.data.protocols import Wcs

__all__ = ["CcdSurface", "correct_coadd"]


@dataclass(frozen=True, kw_only=True)
class CcdSurface:
    """What is to be subtracted from one CCD.

    Parameters
    ----------
    visit : int
        The visit.
    wcs : Wcs
        Mapping of the CCD with which it was warped.
    photo_calib : FluxScale
        Flux scale with which it was warped.
    level : (ny, nx) float32 [electron]
        The surface; smooth over 64 pixels.
    """

    visit: int
    wcs: Wcs
    photo_calib: FluxScale
    level: NDArray[np.float32]


def correct_coadd(coadd: Coadd, inputs: InputPixels, surfaces: Iterable[CcdSurface]) -> Coadd:
    """Subtract surfaces of single CCDs from a coadd of them.

    Parameters
    ----------
    coadd : Coadd
        The coadd.
    inputs : InputPixels
        Which visits each of its pixels holds, and their weights.
    surfaces : iterable of CcdSurface
        The surfaces; taken one after the other. A CCD without one is not corrected.

    Returns
    -------
    Coadd
        The coadd that the corrected CCDs would have given with the same rejected pixels; without
        the noise realisation.

    Raises
    ------
    DataError
        If the record of the inputs is that of another coadd.
    """
    shape = coadd.box.shape
    if tuple(inputs.shape) != shape:
        raise DataError(f"the inputs are those of {inputs.shape} pixels, the coadd has {shape}")
    weights = dict(zip(inputs.visits, inputs.weights, strict=True))
    largest = max(weights.values(), default=1.0)
    bits = inputs.bits()
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for visit, used in bits.items():
        weight += used * np.float32(weights[visit] / largest)
    for surface in surfaces:
        if surface.visit in bits:
            share = np.float32(weights[surface.visit] / largest)
            _add(coadd, surface, bits[surface.visit], share, total)
    image = coadd.planes.image.copy()
    np.subtract(image, total / np.maximum(weight, np.float32(1e-30)), out=image, where=weight > 0)
    planes = dataclasses.replace(coadd.planes, image=image)
    return dataclasses.replace(coadd, planes=planes, noise=None)


def _add(
    coadd: Coadd,
    surface: CcdSurface,
    used: NDArray[np.uint8],
    share: np.float32,
    total: NDArray[np.float32],
) -> None:
    shape = surface.level.shape
    part, _ = footprint(surface.wcs, shape, coadd.wcs, coadd.box)
    if part.is_empty:
        return
    nodes = mapping_nodes(surface.wcs, surface.photo_calib, coadd.wcs, part, False)
    nodes[2] *= _sample(surface.level, x=nodes[0], y=nodes[1])
    add_surface(
        nodes,
        shape,
        np.ascontiguousarray(used[part.slices(within=coadd.box)]),
        part.y0 - coadd.box.y0,
        part.x0 - coadd.box.x0,
        share,
        total,
    )


def _sample(
    level: NDArray[np.float32], *, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A surface at some positions, continued beyond its edges with the slope that it has there."""
    ny, nx = level.shape
    cx, cy = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    at_edge = ndimage.map_coordinates(level, [cy, cx], np.float64, order=1, mode="nearest")
    mirrored = [2 * cy - y, 2 * cx - x]
    inside = ndimage.map_coordinates(level, mirrored, np.float64, order=1, mode="nearest")
    return np.asarray(2 * at_edge - inside)

"""Where the pixels of a brick lie on an exposure, and those of the exposure on the brick."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.geometry import FitsWcs, local_jacobian
from skymill.model.fit_image import FitImage
from skymill.release.brick._brick_kernels import map_positions
from skymill.release.brick.grid import BrickGrid

__all__ = ["STEP", "PixelMap", "map_pixels"]

Float64Array = NDArray[np.float64]

#: Spacing of the exact positions between which the map is bilinear [pixel]. The scale of a camera
#: changes by a hundredth over some 10 000 pixels: the error is below STEP^2 / 8 x 1e-6 pixels.
STEP = 16


@dataclass
class PixelMap:
    """The box of a brick's pixels that an exposure covers, and where they lie on it.

    Parameters
    ----------
    x0, y0, width, height : int [pixel]
        The box on the brick; without pixels if the exposure misses the brick.
    nodes : (2, n, m) float64 [pixel]
        x and y on the exposure's cut-out of every `STEP`-th pixel of the box.
    inverse : (2, k, l) float64 [pixel]
        x and y on the brick of every `STEP`-th pixel of the exposure's cut-out.
    scale : float
        Area of a pixel of the brick over that of one of the exposure.
    """

    x0: int
    y0: int
    width: int
    height: int
    nodes: Float64Array
    inverse: Float64Array
    scale: float

    def __bool__(self) -> bool:
        return self.width > 0 and self.height > 0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the box."""
        return self.height, self.width

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the box on the brick."""
        return slice(self.y0, self.y0 + self.height), slice(self.x0, self.x0 + self.width)

    def positions(self) -> tuple[Float64Array, Float64Array]:
        """Places of the box's pixels on the exposure.

        Returns
        -------
        x, y : (height, width) float64 [pixel]
            Perhaps off the exposure.
        """
        out = np.empty((2, *self.shape))
        if self:
            map_positions(self.nodes, STEP, out)
        return out[0], out[1]


def _brick_box(image: FitImage, grid: BrickGrid) -> tuple[int, int, int, int]:
    ny, nx = image.image.shape
    t = np.linspace(-0.5, 0.5, 9)
    cx, cy = (nx - 1) / 2.0, (ny - 1) / 2.0
    xs = np.concatenate([cx + t * nx, cx + t * nx, np.full(9, -0.5), np.full(9, nx - 0.5)])
    ys = np.concatenate([np.full(9, -0.5), np.full(9, ny - 0.5), cy + t * ny, cy + t * ny])
    ra, dec = image.wcs.pixel_to_sky(x=xs, y=ys)
    x, y = grid.wcs.sky_to_pixel(ra=ra, dec=dec)
    x0, x1 = max(0, math.floor(x.min())), min(grid.width, math.ceil(x.max()) + 1)
    y0, y1 = max(0, math.floor(y.min())), min(grid.height, math.ceil(y.max()) + 1)
    return x0, max(x0, x1), y0, max(y0, y1)


def _nodes(source: FitsWcs, target: FitsWcs, x0: int, y0: int, nx: int, ny: int) -> Float64Array:
    """Places on the target of every `STEP`-th pixel of a box of the source, and one beyond."""
    columns = x0 + STEP * np.arange(max(2, math.ceil((nx - 1) / STEP) + 1), dtype=float)
    rows = y0 + STEP * np.arange(max(2, math.ceil((ny - 1) / STEP) + 1), dtype=float)
    gx, gy = np.meshgrid(columns, rows)
    ra, dec = source.pixel_to_sky(x=gx.ravel(), y=gy.ravel())
    x, y = target.sky_to_pixel(ra=ra, dec=dec)
    return np.stack([x.reshape(gx.shape), y.reshape(gx.shape)])


def map_pixels(image: FitImage, grid: BrickGrid) -> PixelMap:
    """Map the pixels of a brick onto an exposure.

    Parameters
    ----------
    image : FitImage
        The exposure.
    grid : BrickGrid
        The brick.

    Returns
    -------
    PixelMap
        The box of pixels that may lie on the exposure.
    """
    x0, x1, y0, y1 = _brick_box(image, grid)
    nx, ny = x1 - x0, y1 - y0
    if nx <= 0 or ny <= 0:
        none = np.empty((2, 0, 0))
        return PixelMap(x0, y0, 0, 0, none, none, 1.0)
    height, width = image.image.shape
    centre = np.array([(width - 1) / 2]), np.array([(height - 1) / 2])
    own = local_jacobian(image.wcs, x=centre[0], y=centre[1])[0]
    return PixelMap(
        x0=x0,
        y0=y0,
        width=nx,
        height=ny,
        nodes=_nodes(grid.wcs, image.wcs, x0, y0, nx, ny),
        inverse=_nodes(image.wcs, grid.wcs, 0, 0, width, height),
        scale=float(grid.pixel_scale**2 / abs(np.linalg.det(own))),
    )

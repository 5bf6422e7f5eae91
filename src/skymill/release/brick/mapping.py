"""Where the pixels of a brick lie on an exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from skymill.model.fit_image import FitImage
from skymill.release.brick.grid import BrickGrid

__all__ = ["PixelMap", "map_pixels"]

#: Spacing of the exact positions between which cubic splines interpolate [pixel].
_STEP = 32
#: Boxes with fewer pixels than this are mapped exactly, pixel by pixel.
_EXACT = 20000


@dataclass
class PixelMap:
    """The brick's pixels that an exposure covers, and where they lie on it.

    Parameters
    ----------
    column, row : (n,) int64 [pixel]
        On the brick.
    x, y : (n,) float64 [pixel]
        On the exposure's cut-out.
    scale : float
        Area of a pixel of the brick over that of one of the exposure.
    """

    column: NDArray[np.int64]
    row: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scale: float

    @property
    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the nearest pixel of the exposure."""
        return np.floor(self.y + 0.5).astype(np.int64), np.floor(self.x + 0.5).astype(np.int64)


def _brick_box(image: FitImage, grid: BrickGrid) -> tuple[int, int, int, int]:
    ny, nx = image.image.shape
    t = np.linspace(-0.5, 0.5, 9)
    cx, cy = (nx - 1) / 2.0, (ny - 1) / 2.0
    xs = np.concatenate([cx + t * nx, cx + t * nx, np.full(9, -0.5), np.full(9, nx - 0.5)])
    ys = np.concatenate([np.full(9, -0.5), np.full(9, ny - 0.5), cy + t * ny, cy + t * ny])
    ra, dec = image.wcs.pixel_to_sky(x=xs, y=ys)
    x, y = grid.wcs.sky_to_pixel(ra=ra, dec=dec)
    x0, x1 = max(0, int(np.floor(x.min()))), min(grid.width, int(np.ceil(x.max())) + 1)
    y0, y1 = max(0, int(np.floor(y.min()))), min(grid.height, int(np.ceil(y.max())) + 1)
    return x0, max(x0, x1), y0, max(y0, y1)


def _positions(
    image: FitImage, grid: BrickGrid, xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gx, gy = np.meshgrid(xs, ys)
    ra, dec = grid.wcs.pixel_to_sky(x=gx.ravel(), y=gy.ravel())
    x, y = image.wcs.sky_to_pixel(ra=ra, dec=dec)
    return x.reshape(gx.shape), y.reshape(gx.shape)


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
        The pixels whose centres lie on the exposure.
    """
    x0, x1, y0, y1 = _brick_box(image, grid)
    nx, ny = x1 - x0, y1 - y0
    if nx <= 0 or ny <= 0:
        none = np.empty(0, np.int64)
        return PixelMap(none, none, none.astype(float), none.astype(float), 1.0)
    columns, rows = np.arange(x0, x1), np.arange(y0, y1)
    if nx * ny <= _EXACT:
        px, py = _positions(image, grid, columns.astype(float), rows.astype(float))
    else:
        nodes_x = np.linspace(x0, x1 - 1, max(4, nx // _STEP + 2))
        nodes_y = np.linspace(y0, y1 - 1, max(4, ny // _STEP + 2))
        at_x, at_y = _positions(image, grid, nodes_x, nodes_y)
        px = RectBivariateSpline(nodes_y, nodes_x, at_x)(rows, columns)
        py = RectBivariateSpline(nodes_y, nodes_x, at_y)(rows, columns)
    height, width = image.image.shape
    with np.errstate(invalid="ignore"):
        inside = (px >= -0.5) & (px < width - 0.5) & (py >= -0.5) & (py < height - 0.5)
    v, u = np.nonzero(inside)
    return PixelMap(u + x0, v + y0, px[inside], py[inside], _area_ratio(image, grid))


def _area_ratio(image: FitImage, grid: BrickGrid) -> float:
    from skymill.data.geometry import local_jacobian

    ny, nx = image.image.shape
    own = local_jacobian(image.wcs, x=(nx - 1) / 2, y=(ny - 1) / 2)[0]
    return float(grid.pixel_scale**2 / abs(np.linalg.det(own)))

"""One image as a picture: pixels with a stretch for the sky, the mask in colours, the sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from astropy.visualization import ZScaleInterval
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.data.tables import float_column
from skymill.qa.canvas import figure_to_png

__all__ = ["draw_image"]

#: Longest side of the drawn image; larger ones are averaged.
_MAX_SIDE = 1100
#: Planes that are drawn, upper ones last, with their colours.
_COLOURS = (
    (MaskPlane.DETECTED, "#2b6cff"),
    (MaskPlane.INTRP, "#19c37d"),
    (MaskPlane.EDGE, "#bbbbbb"),
    (MaskPlane.SENSOR_EDGE, "#8a8a8a"),
    (MaskPlane.REJECTED, "#5ad1e6"),
    (MaskPlane.SUSPECT, "#e6d15a"),
    (MaskPlane.BRIGHT_OBJECT, "#f29e4c"),
    (MaskPlane.CROSSTALK, "#b58bff"),
    (MaskPlane.FLAT_LOW, "#7a5195"),
    (MaskPlane.CLIPPED, "#ff5ec4"),
    (MaskPlane.STREAK, "#ff2bd6"),
    (MaskPlane.CR, "#ff8c1a"),
    (MaskPlane.SAT, "#ffe11a"),
    (MaskPlane.BAD, "#ff2b2b"),
    (MaskPlane.NO_DATA, "#404040"),
)
_MAX_SOURCES = 3000


def draw_image(
    image: NDArray[np.generic],
    mask: NDArray[np.int32] | None = None,
    *,
    origin: tuple[int, int] = (0, 0),
    sources: Table | None = None,
    title: str = "",
    unit: str = "",
) -> bytes:
    """Draw an image.

    Parameters
    ----------
    image : (ny, nx)
        Pixels; NaN is left white.
    mask : (ny, nx) int32, optional
        Bits of `skymill.data.masks.MaskPlane`, drawn in colours over the pixels.
    origin : (x, y) [pixel]
        Of the first pixel, for the axes and the sources.
    sources : astropy.table.Table, optional
        With ``x`` and ``y`` in pixels of the axes; circles.
    title, unit : str
        Title; unit of the pixels.

    Returns
    -------
    bytes
        A PNG file.

    Raises
    ------
    DataError
        If it is no image of two dimensions.
    """
    if image.ndim != 2 or 0 in image.shape:
        raise DataError(f"only images of two dimensions are drawn; got one of shape {image.shape}")
    block = -(-max(image.shape) // _MAX_SIDE)
    pixels = _average(np.asarray(image, np.float32), block)
    ny, nx = pixels.shape
    extent = (origin[0] - 0.5, origin[0] + nx * block - 0.5,
              origin[1] - 0.5, origin[1] + ny * block - 0.5)  # fmt: skip
    figure, axes, bar = _frame(nx, ny)
    known = pixels[np.isfinite(pixels)]
    low, high = ZScaleInterval().get_limits(known) if known.size else (0.0, 1.0)
    if not high > low:
        high = low + 1.0
    shown = axes.imshow(pixels, origin="lower", cmap="gray", vmin=low, vmax=high, extent=extent,
                        interpolation="nearest")  # fmt: skip
    handles = [] if mask is None else _draw_mask(axes, mask, block, extent)
    if sources is not None:
        handles += _draw_sources(axes, sources, extent)
    figure.colorbar(shown, cax=bar, label=unit)
    if handles:
        figure.legend(handles=handles, fontsize=8, loc="upper right", frameon=False)
    axes.set(xlabel="x [pixel]", ylabel="y [pixel]", xlim=extent[:2], ylim=extent[2:])
    axes.set_title(title, fontsize=9)
    return figure_to_png(figure, dpi=130)


def _frame(nx: int, ny: int) -> tuple[Figure, Axes, Axes]:
    """A figure with room for an image, its scale and the words to its right [inch]."""
    scale = 8.0 / max(nx, ny)
    width, height = max(scale * nx, 0.5), max(scale * ny, 0.5)
    left, low, gap, bar, words, top = 0.85, 0.55, 0.12, 0.18, 2.9, 0.4
    size = left + width + gap + bar + words, low + max(height, 2.5) + top
    figure = Figure(figsize=size)

    def place(x: float, wide: float) -> Axes:
        return figure.add_axes((x / size[0], low / size[1], wide / size[0], height / size[1]))

    return figure, place(left, width), place(left + width + gap, bar)


def _average(image: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Mean of blocks; an incomplete block at the end is left out."""
    if block == 1:
        return image
    ny, nx = max(image.shape[0] // block, 1), max(image.shape[1] // block, 1)
    cut = image[: ny * block, : nx * block]
    tall, wide = min(block, cut.shape[0]), min(block, cut.shape[1])
    return np.asarray(cut.reshape(ny, tall, nx, wide).mean(axis=(1, 3)), np.float32)


def _draw_mask(
    axes: Axes, mask: NDArray[np.int32], block: int, extent: tuple[float, ...]
) -> list[Patch]:
    """Each plane in its colour; a block shows a plane if any of its pixels has it."""
    ny, nx = max(mask.shape[0] // block, 1), max(mask.shape[1] // block, 1)
    cut = mask[: ny * block, : nx * block]
    tall, wide = min(block, cut.shape[0]), min(block, cut.shape[1])
    words = np.bitwise_or.reduce(
        np.bitwise_or.reduce(cut.reshape(ny, tall, nx, wide), axis=3), axis=1
    )
    overlay = np.zeros((ny, nx, 4), np.float32)
    handles = []
    for plane, colour in _COLOURS:
        here = (words & int(plane)) != 0
        if not here.any():
            continue
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        overlay[here] = (*rgb, 0.3 if plane == MaskPlane.DETECTED else 0.65)
        share = 100.0 * float(((mask & int(plane)) != 0).mean())
        handles.append(Patch(color=colour, label=f"{plane.name} {share:.2g} %"))
    axes.imshow(overlay, origin="lower", extent=extent, interpolation="nearest")  # type: ignore[arg-type]
    return handles


def _draw_sources(axes: Axes, sources: Table, extent: Sequence[float]) -> list[Patch]:
    x, y = float_column(sources, "x"), float_column(sources, "y")
    inside = (x > extent[0]) & (x < extent[1]) & (y > extent[2]) & (y < extent[3])
    rows = np.flatnonzero(inside)
    step = max(len(rows) // _MAX_SOURCES, 1)
    axes.plot(x[rows][::step], y[rows][::step], "o", ms=3.5, mfc="none", mec="#35e035", mew=0.5)
    return [Patch(fill=False, edgecolor="#35e035", label=f"{len(rows)} sources")]

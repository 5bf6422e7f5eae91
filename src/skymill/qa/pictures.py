"""Colour pictures of the sky, and the picture of a sky map."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from skymill.coadd.skymap import Tract
from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.options import check_choice, check_range, option

__all__ = [
    "PictureOptions",
    "color_rgb",
    "data_rectangle",
    "decode_png",
    "draw_sky_map",
    "encode_png",
]

Float32Array = NDArray[np.float32]
_WCS_KEY = "WCS"

#: Factors that make a typical galaxy grey: the inverse of its flux in each band relative to r.
BAND_WEIGHTS = {"u": 3.0, "g": 1.9, "r": 1.0, "i": 0.75, "z": 0.62, "Y": 0.58, "y": 0.58}


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """How fluxes become colours."""

    style: str = option("lupton", "lupton: colours kept up to saturation; asinh: by channel")
    softening: float = option(6.0, "strength Q of the compression of bright pixels")
    stretch: float = option(12.0, "brightness of full light without compression", unit="sky sigma")
    black: float = option(-1.0, "brightness of black", unit="sky sigma")

    def __post_init__(self) -> None:
        check_choice(self, "style", ("lupton", "asinh"))
        check_range(self, "softening", low=0.0, low_open=True)
        check_range(self, "stretch", low=0.0, low_open=True)


def _sky_sigma(values: Float32Array) -> tuple[float, float]:
    """Level and robust width of the fainter side of an image's histogram."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return 0.0, 1.0
    known = known[:: max(1, known.size // 200_000)]
    level = float(np.median(known))
    low = known[known <= level]
    return level, 1.4826 * float(np.median(level - low)) or 1.0


def _fill_missing(planes: list[Float32Array], known: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Where not all channels are known put the mean of the known ones into all, in place.

    Two channels would still give a hue: the whole pixel becomes grey. Returns where none is known;
    unknown pixels are zero.
    """
    number = known[0].astype(np.uint8) + known[1] + known[2]
    partial = (number > 0) & (number < 3)
    if partial.any():
        mean = (planes[0][partial] + planes[1][partial] + planes[2][partial]) / number[partial]
        for plane in planes:
            plane[partial] = mean
    return np.asarray(number == 0)


def _white_cores(share: Float32Array, light: list[Float32Array]) -> Float32Array:
    """Saturated shares grown by a pixel and softened, so that cores have no coloured rim.

    Only where the picture is bright: bleed trails far from their star are interpolated well.
    """
    core = ndimage.grey_dilation(share, footprint=ndimage.generate_binary_structure(2, 1))
    core = np.maximum(core, np.clip(1.5 * ndimage.uniform_filter(core, 3), 0, 1))
    brightest = np.minimum(np.maximum(np.maximum(light[0], light[1]), light[2]), np.float32(1.0))
    # Closed first: a core without light is dark within its bright rim.
    around = ndimage.uniform_filter(ndimage.grey_closing(brightest, (11, 11)), 5)
    return np.asarray(core * np.clip((around - 0.4) / 0.3, 0, 1), np.float32)


def data_rectangle(images: Sequence[Float32Array]) -> tuple[slice, slice]:
    """The smallest rectangle that holds all pixels of some images.

    Parameters
    ----------
    images : sequence of (ny, nx) float32
        Images of one shape; NaN where there are no data.

    Returns
    -------
    (slice, slice)
        Rows and columns; all of them if no image has any data.
    """
    known = np.isfinite(images[0])
    for image in images[1:]:
        known |= np.isfinite(image)
    if not known.any():
        return slice(None), slice(None)
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def color_rgb(
    red: Float32Array,
    green: Float32Array,
    blue: Float32Array,
    *,
    bands: tuple[str, str, str] = ("i", "r", "g"),
    white: Float32Array | None = None,
    options: PictureOptions = PictureOptions(),
) -> NDArray[np.uint8]:
    """Three images as colours.

    Parameters
    ----------
    red, green, blue : (ny, nx) float32 [nJy]
        Fluxes, the first row at the bottom. Where one is NaN the mean of the others takes its
        place, which is grey; where all are, the picture is black.
    bands : (str, str, str)
        Bands of the three, which weight them so that galaxies look neither red nor blue.
    white : (ny, nx) float32, optional
        How white each pixel is painted, from 0 to 1: the cores of saturated stars, whose flux and
        colour are not known.
    options : PictureOptions
        Style and brightness.

    Returns
    -------
    (ny, nx, 3) uint8
        The first row at the *top*, as pictures are stored.

    References
    ----------
    Lupton et al. 2004, PASP 116, 133.
    """
    if not red.shape == green.shape == blue.shape:
        raise DataError(
            f"the three images must have one shape; got {red.shape}, {green.shape}, {blue.shape}"
        )
    # The median over the picture is the sky: a picture needs no absolute zero. Plane by plane: a
    # last axis of three would be several times as slow.
    planes, known = [], []
    for plane, band in zip((red, green, blue), bands, strict=True):
        level, _ = _sky_sigma(plane)
        known.append(np.isfinite(plane))
        part = (plane - np.float32(level)) * np.float32(BAND_WEIGHTS.get(band, 1.0))
        planes.append(np.where(known[-1], part, np.float32(0.0)))
    void = _fill_missing(planes, known)
    luminance = (planes[0] + planes[1] + planes[2]) / np.float32(3.0)
    _, sigma = _sky_sigma(np.where(void, np.float32(np.nan), luminance))
    black = np.float32(options.black * sigma)
    q, stretch = options.softening, options.stretch * sigma
    strength = np.float32(q / stretch)
    # Linear at the faint end, where a tenth of the stretch has a tenth of the full brightness.
    slope = np.float32(0.1 / np.arcsinh(0.1 * q))
    light = [np.maximum(p - black, np.float32(0.0)) for p in planes]
    if options.style == "asinh":
        light = [np.arcsinh(strength * p) * slope for p in light]
    else:
        bright = np.maximum(luminance - black, np.float32(1e-6 * sigma))
        factor = np.arcsinh(strength * bright) * slope / bright
        light = [p * factor for p in light]
        peak = np.maximum(np.maximum(np.maximum(light[0], light[1]), light[2]), np.float32(1.0))
        light = [p / peak for p in light]
    paint = None if white is None else _white_cores(white, light)
    out = np.empty((*void.shape, 3), np.uint8)
    for k, channel in enumerate(light):
        part = np.clip(channel, 0, 1)
        if paint is not None:
            part += (1 - part) * paint
        part[void] = 0.0
        out[..., k] = (part * np.float32(255) + np.float32(0.5))[::-1]
    return out


def encode_png(rgb: NDArray[np.uint8], wcs: FitsWcs | None = None) -> bytes:
    """A picture as the bytes of a PNG file.

    Parameters
    ----------
    rgb : (ny, nx, 3) uint8
        Colours, the first row at the top.
    wcs : FitsWcs, optional
        Mapping of the pixels to the sky, written into the file as text; rows count from the
        bottom, as in FITS.

    Returns
    -------
    bytes
        The file.
    """
    buffer = io.BytesIO()
    text = PngInfo()
    if wcs is not None:
        text.add_text(_WCS_KEY, wcs.header.tostring(sep="\n"))
    Image.fromarray(np.ascontiguousarray(rgb), "RGB").save(
        buffer, format="PNG", compress_level=1, pnginfo=text
    )
    return buffer.getvalue()


def decode_png(content: bytes) -> tuple[NDArray[np.uint8], FitsWcs | None]:
    """Read what `encode_png` wrote, or any PNG.

    Parameters
    ----------
    content : bytes
        The file.

    Returns
    -------
    rgb : (ny, nx, 3) uint8
        Colours, the first row at the bottom.
    wcs : FitsWcs or None
        Mapping of the pixels to the sky, if the file has one.
    """
    with Image.open(io.BytesIO(content)) as picture:
        header = getattr(picture, "text", {}).get(_WCS_KEY)
        rgb = np.asarray(picture.convert("RGB"))[::-1]
    wcs = None if header is None else FitsWcs(fits.Header.fromstring(header, sep="\n"))
    return rgb, wcs


def draw_sky_map(
    tract: Tract,
    *,
    ra: ArrayLike = (),
    dec: ArrayLike = (),
    title: str = "",
) -> bytes:
    """The patches of a tract with their numbers, North up and East left.

    Parameters
    ----------
    tract : Tract
        The tract.
    ra, dec : (n, 4) float64 [deg], optional
        Corners of CCDs to draw over it.
    title : str
        Title.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(8, 8))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ras = np.asarray(ra, float).reshape(-1, 4)
    decs = np.asarray(dec, float).reshape(-1, 4)
    for corner_ra, corner_dec in zip(ras, decs, strict=True):
        x, y = tract.sky_to_pixel(ra=corner_ra, dec=corner_dec)
        axes.fill(x, y, color="tab:orange", alpha=0.08, linewidth=0)
    for patch in tract.patches:
        box = patch.inner_box
        axes.plot(
            [box.x0, box.x1, box.x1, box.x0, box.x0],
            [box.y0, box.y0, box.y1, box.y1, box.y0],
            color="0.4",
            linewidth=0.6,
        )
        middle = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        axes.text(*middle, str(patch.index), ha="center", va="center", fontsize=8)
    axes.plot([tract.x], [tract.y], "+", color="tab:red", markersize=12)
    axes.set(
        xlim=(0, tract.box.x1),
        ylim=(0, tract.box.y1),
        aspect="equal",
        xlabel="x (West) [pixel]",
        ylabel="y (North) [pixel]",
        title=title or f"tract {tract.index} {tract.name} at {tract.ra:.4f}, {tract.dec:+.4f} deg",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()

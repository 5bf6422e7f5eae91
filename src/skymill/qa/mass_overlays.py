"""Contours of mass, light and hot gas over a picture of the sky, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.lensing.maps.aperture_mass import ApertureMassMap
from skymill.lensing.maps.convergence import ConvergenceMap
from skymill.qa.canvas import figure_to_png
from skymill.qa.mass_figures import choose_aperture
from skymill.qa.pictures import decode_png

__all__ = ["Background", "Contours", "draw_overlay", "mass_contours", "read_background",
           "read_contours"]  # fmt: skip

_WIDEST = 1400
_SIDE = 6.4


@dataclass(frozen=True)
class Background:
    """A picture with its place on the sky.

    Parameters
    ----------
    pixels : (ny, nx) float or (ny, nx, 3) uint8
        Brightness or colours; the first row is at the bottom.
    wcs : FitsWcs
        Mapping to the sky.
    """

    pixels: NDArray[np.generic]
    wcs: FitsWcs


@dataclass(frozen=True)
class Contours:
    """Lines of equal value of a map.

    Parameters
    ----------
    values : (ny, nx) float
        The map.
    wcs : FitsWcs
        Its mapping to the sky.
    levels : sequence of float
        Values of the lines, ascending.
    color : str
        Colour of the lines; those below zero are dashed.
    label : str
        What the map is.
    """

    values: NDArray[np.floating]
    wcs: FitsWcs
    levels: Sequence[float]
    color: str
    label: str


def _image_of(hdus: fits.HDUList, what: str) -> tuple[NDArray[np.float32], FitsWcs]:
    """The first image of a FITS file that has pixels, its first plane if it is a cube."""
    for hdu in hdus:
        data = getattr(hdu, "data", None)
        if isinstance(data, np.ndarray) and data.dtype.names is None and data.ndim >= 2:
            header = hdu.header.copy()
            while data.ndim > 2:
                data = data[0]
            for key in [k for k in header if k[-1:] in "3456" and k[:5] in ("CTYPE", "CRPIX",
                        "CRVAL", "CDELT", "CUNIT")] + ["WCSAXES"]:  # fmt: skip
                header.pop(key, None)
            return np.asarray(data, np.float32), FitsWcs(header)
    raise DataError(f"{what} has no image")


def read_background(content: bytes | fits.HDUList, *, what: str = "the picture") -> Background:
    """A PNG with a mapping to the sky (as exported by skymill), or the first image of a FITS file.

    Parameters
    ----------
    content : bytes or astropy.io.fits.HDUList
        The PNG file, or the open FITS file.
    what : str
        Its name, for messages.

    Returns
    -------
    Background
        The picture, binned to at most 1400 pixels a side.

    Raises
    ------
    DataError
        If it has no mapping to the sky.
    """
    pixels: NDArray[np.generic]
    if isinstance(content, bytes):
        pixels, wcs = decode_png(content)
        if wcs is None:
            raise DataError(
                f"{what} does not say where on the sky it is: a PNG needs the text that skymill's "
                "export writes; give a FITS image instead"
            )
    else:
        pixels, wcs = _image_of(content, what)
    block = -(-max(pixels.shape[:2]) // _WIDEST)
    if block > 1:
        ny, nx = pixels.shape[0] // block, pixels.shape[1] // block
        cut = np.asarray(pixels[: ny * block, : nx * block], np.float32)
        shape = (ny, block, nx, block, *pixels.shape[2:])
        mean = cut.reshape(shape).mean(axis=(1, 3))
        pixels, wcs = mean.astype(pixels.dtype), wcs.binned(block)
    return Background(pixels, wcs)


def read_contours(
    hdus: fits.HDUList,
    *,
    label: str,
    color: str = "#66ff66",
    n_levels: int = 7,
    smoothing_arcmin: float = 0.25,
    what: str = "the map",
) -> Contours:
    """Contours of any FITS image, as of X-ray surface brightness.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open file.
    label : str
        What it shows.
    color : str
        Colour of the lines.
    n_levels : int
        Lines, equally spaced in the square root between noise and peak.
    smoothing_arcmin : float
        Sigma of a Gaussian applied first.
    what : str
        Name of the file, for messages.

    Returns
    -------
    Contours
        The lines.

    Raises
    ------
    DataError
        If the image has no usable pixel or is flat.
    """
    values, wcs = _image_of(hdus, what)
    known = np.isfinite(values)
    if not known.any():
        raise DataError(f"{what} has no finite pixel")
    step = float(proj_plane_pixel_scales(wcs.astropy)[1]) * 60.0
    filled = np.where(known, values, np.median(values[known]))
    smooth = gaussian_filter(filled, smoothing_arcmin / step) if smoothing_arcmin > 0 else filled
    base = float(np.median(smooth))
    spread = 1.4826 * float(np.median(np.abs(smooth - base)))
    low, high = base + 3.0 * spread, float(smooth.max())
    if not high > low:
        raise DataError(f"{what} shows nothing above its background; no contours can be drawn")
    shares = np.linspace(0.0, 1.0, n_levels + 1)[:-1] ** 2
    levels = low + (high - low) * shares
    return Contours(smooth, wcs, [float(v) for v in levels], color, label)


def mass_contours(
    mass: ApertureMassMap | ConvergenceMap, *, aperture: float | None = None
) -> Contours:
    """Contours of signal to noise, from -3 in steps of one.

    Parameters
    ----------
    mass : ApertureMassMap or ConvergenceMap
        A map.
    aperture : float [arcmin], optional
        Aperture of the first kind; that of the highest peak if omitted.

    Returns
    -------
    Contours
        Of the E mode.
    """
    if isinstance(mass, ApertureMassMap):
        k = choose_aperture(mass, aperture)
        snr = mass.snr("E")[k]
        label = f"aperture mass, {mass.apertures[k]:.1f}', S/N"
    else:
        sigma = np.where(mass.wiener_sigma > 0, mass.wiener_sigma, np.inf)
        snr, label = mass.wiener_e / sigma, "convergence, S/N"
    top = max(float(snr.max()), 3.0)
    levels = [v for v in np.arange(-3.0, np.floor(top) + 1.0) if v not in (-1.0, 0.0, 1.0)]
    return Contours(np.asarray(snr, np.float32), mass.wcs, levels, "white", label)


def draw_overlay(
    background: Background,
    contours: Sequence[Contours],
    *,
    mark: tuple[float, float] | None = None,
    title: str = "",
) -> bytes:
    """Draw contours over a picture of the sky.

    Parameters
    ----------
    background : Background
        The picture: a grey image is shown inverted, its faint end stretched.
    contours : sequence of Contours
        Lines to draw, each on its own grid.
    mark : (ra, dec) [deg], optional
        A position to mark with a cross.
    title : str
        Title.

    Returns
    -------
    bytes
        A PNG file.
    """
    ny, nx = background.pixels.shape[:2]
    figure = Figure(figsize=(_SIDE + 0.9, _SIDE * ny / nx + 0.9), layout="constrained")
    axes = figure.add_subplot(projection=background.wcs.astropy)
    if background.pixels.ndim == 3:
        axes.imshow(background.pixels, origin="lower")
    else:
        grey = np.asarray(background.pixels, np.float64)
        known = grey[np.isfinite(grey)]
        low, high = np.percentile(known, [10.0, 99.5]) if known.size else (0.0, 1.0)
        scaled = np.arcsinh(10.0 * np.clip((grey - low) / max(high - low, 1e-30), 0, 1))
        axes.imshow(scaled, origin="lower", cmap="gray_r")
    for item in contours:
        axes.contour(
            item.values, levels=sorted(item.levels), colors=item.color, linewidths=0.9,
            negative_linestyles="dashed", transform=axes.get_transform(item.wcs.astropy),
        )  # fmt: skip
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(-0.5, ny - 0.5)
    if mark is not None:
        axes.plot(*mark, "+", color="red", ms=14, mew=1.5, transform=axes.get_transform("icrs"))
    for axis, name in zip(axes.coords, ("RA", "Dec"), strict=True):  # type: ignore[attr-defined]
        axis.set_axislabel(name, fontsize=9)
        axis.set_ticklabel(size=7)
    handles = [Line2D([], [], color=c.color, label=c.label) for c in contours]
    if handles:
        axes.legend(
            handles=handles, fontsize=8, facecolor="0.5", labelcolor="white", loc="upper right"
        )
    axes.set_title(title, fontsize=10)
    return figure_to_png(figure, dpi=110)

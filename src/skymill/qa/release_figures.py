"""Figures of a data release: its bricks on the sky, depths, seeing, and colours of coadds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skymill.data.errors import NoDataError
from skymill.qa.canvas import figure_to_png
from skymill.qa.pictures import color_rgb

__all__ = ["draw_brick_histograms", "draw_brick_map", "draw_color", "draw_depth_histogram"]

Float64Array = NDArray[np.float64]

_COLOURS = {"u": "tab:purple", "g": "tab:green", "r": "tab:red", "i": "tab:brown",
            "z": "tab:gray", "Y": "black", "y": "black"}  # fmt: skip
_LABELS = {
    "nexp": "exposures",
    "psfdepth": "5-sigma depth of point sources [mag]",
    "galdepth": "5-sigma depth of galaxies [mag]",
    "psfsize": "FWHM of the PSF [arcsec]",
}
#: Least range of the colours.
_SPANS = {"nexp": 2.0, "psfdepth": 0.2, "galdepth": 0.2, "psfsize": 0.1}


def draw_color(planes: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
    """Coadds of one to any number of bands as a picture.

    Parameters
    ----------
    planes : mapping of str to (ny, nx) float32
        Fluxes by band; the first row at the bottom.

    Returns
    -------
    (ny, nx, 3) uint8
        Colours, the first row at the top. The reddest band is red, the bluest is blue; one band
        alone is grey.
    """
    if not planes:
        raise NoDataError("a picture needs the image of at least one band")
    bands = sorted(planes, key="ugrizYy".find)
    chosen = (bands[-1], bands[len(bands) // 2], bands[0])
    nothing = np.full_like(planes[bands[0]], np.nan, np.float32)
    used: set[str] = set()
    channels = []
    for band in chosen:
        channels.append(nothing if band in used else np.asarray(planes[band], np.float32))
        used.add(band)
    return color_rgb(channels[0], channels[1], channels[2], bands=chosen)


def _bands(table: Table, kind: str) -> list[str]:
    start = f"{kind}_"
    names = [
        n[len(start) :] for n in table.colnames if n.startswith(start) and len(n) == len(start) + 1
    ]
    return sorted(names, key="ugrizYy".find)


def _corners(table: Table) -> tuple[Float64Array, float]:
    """Corners of the bricks, with right ascensions around a centre without a jump."""
    vectors = np.exp(1j * np.radians(np.asarray(table["ra"], float)))
    centre = (
        float(np.degrees(np.angle(vectors.mean()))) % 360 if abs(vectors.mean()) > 0.05 else 180.0
    )
    low = (np.asarray(table["ra1"], float) - centre + 180) % 360 - 180 + centre
    high = low + np.asarray(table["ra2"], float) - np.asarray(table["ra1"], float)
    bottom, top = np.asarray(table["dec1"], float), np.asarray(table["dec2"], float)
    corners = [[low, bottom], [high, bottom], [high, top], [low, top]]
    return np.moveaxis(np.array(corners), 2, 0), centre


def draw_brick_map(table: Table, kind: str) -> bytes:
    """The bricks of a release on the sky, coloured by a quantity, a panel for each band.

    Parameters
    ----------
    table : astropy.table.Table
        One row a brick, with ``ra1`` to ``dec2``.
    kind : str
        ``nexp``, ``psfdepth``, ``galdepth`` or ``psfsize``.

    Returns
    -------
    bytes
        PNG.

    Raises
    ------
    NoDataError
        If the table has no rows or the quantity for no band.
    """
    bands = _bands(table, kind)
    if len(table) == 0 or not bands:
        raise NoDataError(f"the table of bricks has nothing to draw for {kind}")
    corners, _ = _corners(table)
    figure = Figure(figsize=(4.2 * len(bands), 3.8), layout="constrained")
    for axes, band in zip(np.atleast_1d(figure.subplots(1, len(bands))), bands, strict=True):
        values = np.asarray(table[f"{kind}_{band}"], float)
        known = values > 0
        low, high = np.percentile(values[known], [1, 99]) if known.any() else (0.0, 1.0)
        # Bricks that are almost alike get almost the same colour.
        spare = max(0.0, _SPANS[kind] - (high - low)) / 2
        norm = Normalize(low - spare, high + spare)
        shown = ScalarMappable(norm, "viridis")
        colours = shown.to_rgba(values)
        colours[~known] = (0.85, 0.85, 0.85, 1.0)
        axes.add_collection(PolyCollection(list(corners), facecolors=colours, linewidths=0))
        axes.set_xlim(corners[..., 0].max(), corners[..., 0].min())
        axes.set_ylim(corners[..., 1].min(), corners[..., 1].max())
        axes.set_aspect(1 / max(0.05, np.cos(np.radians(np.median(table["dec"])))))
        axes.set(xlabel="RA [deg]", ylabel="Dec [deg]", title=band)
        figure.colorbar(shown, ax=axes, label=_LABELS[kind], shrink=0.8)
    return figure_to_png(figure)


def draw_brick_histograms(table: Table) -> bytes:
    """How exposures, depth and seeing are distributed over the bricks.

    Parameters
    ----------
    table : astropy.table.Table
        One row a brick.

    Returns
    -------
    bytes
        PNG.
    """
    kinds = [k for k in _LABELS if _bands(table, k)]
    if len(table) == 0 or not kinds:
        raise NoDataError("the table of bricks has nothing to draw")
    figure = Figure(figsize=(3.6 * len(kinds), 3.2), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        for band in _bands(table, kind):
            values = np.asarray(table[f"{kind}_{band}"], float)
            values = values[values > 0]
            if values.size == 0:
                continue
            edges = (
                np.arange(0.5, values.max() + 1.5)
                if kind == "nexp"
                else np.linspace(values.min() - 0.05, values.max() + 0.05, 31)
            )
            axes.hist(values, edges, histtype="step", color=_COLOURS.get(band), label=band)
        axes.set(xlabel=_LABELS[kind], ylabel="bricks")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure_to_png(figure)


def draw_depth_histogram(
    low: Sequence[float], high: Sequence[float], counts: Mapping[str, NDArray[np.int64]],
    *, pixel_arcsec: float = 0.262,
) -> bytes:  # fmt: skip
    """Area of the release that is deeper than a magnitude, for points and galaxies.

    Parameters
    ----------
    low, high : (n,) [mag]
        Edges of the bins of depth.
    counts : mapping of str to (n,) int64
        Pixels in ``counts_ptsrc_g`` and so on.
    pixel_arcsec : float [arcsec]
        Side of a pixel.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    area = (pixel_arcsec / 3600) ** 2
    inner = slice(1, None)
    for name, values in counts.items():
        band, is_galaxy = name[-1], "_gal_" in name
        deeper = np.cumsum(np.asarray(values, float)[::-1])[::-1] * area
        label = f"{band} {'galaxies' if is_galaxy else 'points'}"
        style = "--" if is_galaxy else "-"
        axes.step(
            np.asarray(low)[inner],
            deeper[inner],
            style,
            where="post",
            color=_COLOURS.get(band),
            label=label,
        )
    axes.set(xlabel="5-sigma depth [mag]", ylabel="area deeper than it [deg2]")
    axes.legend(frameon=False, fontsize=8)
    return figure_to_png(figure)

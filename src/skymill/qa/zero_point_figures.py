"""Figures of the photometric calibration, as PNG bytes."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skymill.calibrate.filters import FILTER_SETS
from skymill.calibrate.residual_map import map_residuals
from skymill.calibrate.stellar_locus import library_locus
from skymill.data.errors import ConfigError
from skymill.data.statistics import robust_sigma
from skymill.data.tables import float_column
from skymill.qa.canvas import figure_to_png, say_in_panel

__all__ = ["draw_stellar_locus", "draw_zero_points"]

#: Largest error of a magnitude and most stars of a panel.
_MAX_ERROR = 0.05
_MAX_POINTS = 5000


def draw_zero_points(stars: Table, *, title: str = "", cell_arcmin: float = 6.0) -> bytes:
    """Residuals of each band: over magnitude, as a histogram, and over the field.

    Parameters
    ----------
    stars : astropy.table.Table
        Schema ``zeroPointStars``.
    title : str
        Title of the figure.
    cell_arcmin : float [arcmin]
        Side of a cell of the map.

    Returns
    -------
    bytes
        A PNG file.
    """
    bands = list(dict.fromkeys(np.asarray(stars["band"]).astype(str)))
    figure = Figure(figsize=(12, 3.4 * max(len(bands), 1)), layout="constrained")
    if title:
        figure.suptitle(title)
    if not bands:
        say_in_panel(figure.subplots(), "no star was matched with a reference")
        return figure_to_png(figure)
    grid = figure.subplots(len(bands), 3, squeeze=False)
    cells = map_residuals(stars, cell_arcmin=cell_arcmin)
    for row, band in zip(grid, bands, strict=True):
        part = stars[np.asarray(stars["band"]).astype(str) == band]
        _draw_magnitudes(row[0], part, band)
        _draw_histogram(row[1], part)
        _draw_map(row[2], cells[np.asarray(cells["band"]).astype(str) == band])
    return figure_to_png(figure)


def draw_stellar_locus(
    stars: Table, zero_points: Table, *, camera: str = "decam", title: str = ""
) -> bytes:
    """Colours of the stars before and after the zero points, with the locus of the library.

    Parameters
    ----------
    stars : astropy.table.Table
        Dereddened ``{band}_psf_mag`` and ``{band}_psf_magerr``, without the zero points.
    zero_points : astropy.table.Table
        Schema ``zeroPoints``.
    camera : str
        Set of filters of the locus.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file; it says so if fewer than three bands have a locus.
    """
    offsets = {str(row["band"]): float(row["offset"]) for row in zero_points}
    have = FILTER_SETS.get(camera.lower(), {})
    bands = [b for b in have if b in offsets and f"{b}_psf_mag" in stars.colnames]
    panels = list(zip(bands, bands[1:], bands[2:], strict=False))
    figure = Figure(figsize=(4.2 * max(len(panels), 1), 4.0), layout="constrained")
    figure.suptitle(title)
    try:
        locus = library_locus(bands, camera=camera.lower()) if panels else None
    except ConfigError:
        locus = None
    if locus is None:
        say_in_panel(figure.subplots(), "the stellar locus needs g, r and i")
        return figure_to_png(figure)
    track = dict(zip(bands, locus.magnitude.T, strict=True))
    magnitudes = {}
    for band in bands:
        mag, err = float_column(stars, f"{band}_psf_mag"), float_column(stars, f"{band}_psf_magerr")
        with np.errstate(invalid="ignore"):
            magnitudes[band] = np.where(err < _MAX_ERROR, mag, np.nan)
    for axes, (a, b, c) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels,
                               strict=True):  # fmt: skip
        x, y = magnitudes[b] - magnitudes[c], magnitudes[a] - magnitudes[b]
        step = max(int(np.isfinite(x + y).sum()) // _MAX_POINTS, 1)
        rows = np.flatnonzero(np.isfinite(x + y))[::step]
        shift_x, shift_y = offsets[b] - offsets[c], offsets[a] - offsets[b]
        axes.plot(x[rows], y[rows], ".", ms=2, color="0.75", label="before")
        axes.plot(x[rows] - shift_x, y[rows] - shift_y, ".", ms=2, label="after")
        along, across = track[b] - track[c], track[a] - track[b]
        axes.plot(along, across, "k-", lw=1, label="library")
        axes.set(xlabel=f"{b} - {c} [mag]", ylabel=f"{a} - {b} [mag]",
                 xlim=(along.min() - 0.3, along.max() + 0.3),
                 ylim=(across.min() - 0.4, across.max() + 0.4))  # fmt: skip
        axes.legend(fontsize=7, loc="upper left")
    return figure_to_png(figure)


def _draw_magnitudes(axes: Axes, part: Table, band: str) -> None:
    used = np.asarray(part["used"], bool)
    mag, residual = np.asarray(part["reference_mag"]), np.asarray(part["residual"])
    axes.plot(mag[~used], residual[~used], ".", ms=2, color="0.75", label="left out")
    axes.plot(mag[used], residual[used], ".", ms=2, label=f"{int(used.sum())} used")
    axes.axhline(0, color="k", lw=0.8)
    axes.set(ylim=(-0.25, 0.25), xlabel=f"reference {band} [mag]", ylabel="residual [mag]")
    axes.legend(fontsize=7, loc="upper left")


def _draw_histogram(axes: Axes, part: Table) -> None:
    residual = np.asarray(part["residual"])[np.asarray(part["used"], bool)]
    axes.hist(residual, bins=np.arange(-0.25, 0.2501, 0.005), histtype="stepfilled", alpha=0.6)
    if residual.size:
        axes.set_title(f"scatter {1e3 * robust_sigma(residual):.0f} mmag", fontsize=9)
    axes.set(xlabel="residual [mag]", ylabel="stars")


def _draw_map(axes: Axes, cells: Table) -> None:
    if not len(cells):
        say_in_panel(axes, "too few stars")
        return
    figure = axes.get_figure()
    assert figure is not None
    shown = axes.scatter(
        cells["ra"], cells["dec"], c=1e3 * np.asarray(cells["residual"]), cmap="RdBu_r", vmin=-30,
        vmax=30, marker="s", s=30,
    )  # fmt: skip
    axes.invert_xaxis()
    axes.set(xlabel="RA [deg]", ylabel="Dec [deg]")
    figure.colorbar(shown, ax=axes, label="median residual [mmag]")
    error = np.hypot(cells["residual_err"], 1e-6)
    pull = np.std(np.asarray(cells["residual"]) / error)
    axes.set_title(f"{len(cells)} cells, pulls of width {pull:.1f}", fontsize=9)

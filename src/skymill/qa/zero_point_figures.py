"""Figures of the photometric calibration, as PNG bytes."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skymill.calibrate.residual_map import map_residuals
from skymill.qa.mass_figures import figure_to_png

__all__ = ["draw_zero_points"]


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
        axes = figure.subplots()
        axes.text(0.5, 0.5, "no star was matched with a reference", ha="center")
        axes.set_axis_off()
        return figure_to_png(figure)
    grid = figure.subplots(len(bands), 3, squeeze=False)
    cells = map_residuals(stars, cell_arcmin=cell_arcmin)
    for row, band in zip(grid, bands, strict=True):
        part = stars[np.asarray(stars["band"]).astype(str) == band]
        _draw_magnitudes(row[0], part, band)
        _draw_histogram(row[1], part)
        _draw_map(row[2], cells[np.asarray(cells["band"]).astype(str) == band])
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
        spread = 1.4826 * np.median(np.abs(residual - np.median(residual)))
        axes.set_title(f"scatter {1e3 * spread:.0f} mmag", fontsize=9)
    axes.set(xlabel="residual [mag]", ylabel="stars")


def _draw_map(axes: Axes, cells: Table) -> None:
    if not len(cells):
        axes.text(0.5, 0.5, "too few stars", ha="center")
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

"""Figures of a red sequence: colour and magnitude, density on the sky, purity."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from skymill.lensing.members.ridge import Ridge
from skymill.qa.canvas import figure_to_png

__all__ = ["draw_grades", "draw_red_sequence"]

#: Field galaxies drawn at most: more is a blot.
_MAX_FIELD = 6000


def draw_red_sequence(
    sequence: Table,
    density: fits.HDUList,
    ridge: Ridge,
    *,
    catalogue: Table | None = None,
    title: str = "",
) -> bytes:
    """Draw the colour-magnitude diagram with the ridge, and the density of the candidates.

    Parameters
    ----------
    sequence : astropy.table.Table
        Schema ``redSequence``, with the metadata of `find_red_sequence`.
    density : astropy.io.fits.HDUList
        The density map.
    ridge : Ridge
        The fitted ridge.
    catalogue : astropy.table.Table, optional
        All galaxies, drawn in grey.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(10.5, 4.5), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    meta = sequence.meta
    blue, red, reference = meta["blue"], meta["red"], meta["reference"]
    key = ridge.index(blue, red)
    limits = (float(meta["faint_mag"]) - 6.0, float(meta["faint_mag"]) + 0.2)
    if catalogue is not None:
        mag, colour = _diagram(catalogue, blue, red, reference)
        inside = (mag > limits[0]) & (mag < limits[1])
        step = max(int(inside.sum()) // _MAX_FIELD, 1)
        left.plot(mag[inside][::step], colour[inside][::step], ".", color="0.75", ms=1.5, zorder=1)
    near = np.asarray(sequence["p_member"]) > 0.01
    drawn = sequence[near][np.argsort(sequence["p_member"][near])]
    points = left.scatter(
        drawn["mag"], drawn["colour"], c=drawn["p_member"], s=10, cmap="plasma_r", vmin=0, vmax=1,
        zorder=3,
    )  # fmt: skip
    line = np.linspace(*limits, 2)
    middle = ridge.line(line)[key]
    left.plot(line, middle, "k-", lw=1, zorder=4)
    for side in (-2, 2):
        left.plot(line, middle + side * ridge.scatter[key], "k:", lw=0.8, zorder=4)
    centre = float(ridge.line(np.array([np.mean(limits)]))[key, 0])
    left.set(
        xlim=limits, ylim=(centre - 0.9, centre + 0.7), xlabel=f"{reference} [mag]",
        ylabel=f"{blue} - {red} [mag]",
    )  # fmt: skip
    left.set_title(
        f"{blue} - {red} = {meta['colour_at_middle']:.3f} at {reference} = "
        f"{meta['middle_mag']:.1f}, slope {meta['slope']:.3f}, richness "
        f"{meta['richness']:.0f} +- {meta['richness_err']:.0f}",
        fontsize=9,
    )
    figure.colorbar(points, ax=left, label="probability of membership", pad=0.01)
    _draw_map(figure, density, float(meta["radius_arcmin"]))
    if title:
        figure.suptitle(title, fontsize=10)
    return figure_to_png(figure)


def _diagram(
    catalogue: Table, blue: str, red: str, reference: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    value = {
        b: np.asarray(catalogue[f"{b}_cmodel_mag"], np.float64) for b in {blue, red, reference}
    }
    return value[reference], value[blue] - value[red]


def _draw_map(figure: Figure, density: fits.HDUList, radius_arcmin: float) -> None:
    """The map within four radii of the cluster, whose region is a circle."""
    wcs = WCS(density["DENSITY"].header).celestial
    n = density["DENSITY"].data.shape[0]
    radius = radius_arcmin / (60.0 * proj_plane_pixel_scales(wcs)[1])
    half = min(int(np.ceil(4.0 * radius)), n // 2)
    cut = (slice(n // 2 - half, n // 2 + half + 1),) * 2
    plane, snr = density["DENSITY"].data[cut], density["SNR"].data[cut]
    shown = np.where(density["COVERAGE"].data[cut] > 0.1, plane, np.nan)
    axes: Any = figure.add_subplot(1, 2, 2, projection=wcs[cut])
    image = axes.imshow(shown, origin="lower", cmap="inferno", vmin=0)
    axes.set_facecolor("0.8")
    if snr.max() > 3:
        axes.contour(snr, levels=[3, 5, 8, 12], colors="w", linewidths=0.6)
    axes.add_patch(Circle((half, half), radius, fill=False, ec="cyan", lw=1, ls="--"))
    for axis, name in zip(axes.coords, ("RA", "Dec"), strict=True):
        axis.set_axislabel(name, fontsize=9)
        axis.set_ticklabel(size=7)
    axes.set_title("members; contours at S/N 3, 5, 8, 12", fontsize=9)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label("density less the field [arcmin$^{-2}$]", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def draw_grades(grades: Table, *, title: str = "") -> bytes:
    """Draw purity and completeness against the threshold.

    Parameters
    ----------
    grades : astropy.table.Table
        Schema ``redSequenceGrades``.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, colour, shift in (("purity", "C0", -0.005), ("completeness", "C1", 0.005)):
        value = np.asarray(grades[name])
        error = [value - grades[f"{name}_low"], np.asarray(grades[f"{name}_high"]) - value]
        # The limits of Wilson may exclude the value itself at 0 and 1.
        axes.errorbar(
            np.asarray(grades["threshold"]) + shift, value, np.maximum(error, 0), fmt="o-", ms=4,
            lw=1, color=colour, label=name,
        )  # fmt: skip
    axes.set(xlabel="smallest probability of membership", ylabel="fraction", ylim=(0, 1.03))
    axes.legend(fontsize=8, loc="lower left")
    n = int(grades["n_member"][0]) if len(grades) else 0
    axes.set_title(f"{title + ': ' if title else ''}{n} members with a redshift", fontsize=10)
    return figure_to_png(figure)

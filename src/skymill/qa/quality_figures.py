"""Figures of a catalogue's quality: depth, sky, PSF and null tests, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from skymill.data.tables import float_column
from skymill.data.units import MAG_ERR_FACTOR
from skymill.qa.canvas import figure_to_png, say_in_panel
from skymill.qa.catalogue_quality import Quality, QualityOptions, psf_fwhm
from skymill.qa.depth import SNR_LEVELS, magnitudes_at_snr
from skymill.qa.psf_quality import StarResiduals
from skymill.qa.sky_offsets import field_centre, field_offsets

__all__ = ["band_colour", "draw_depth", "draw_null_tests", "draw_psf_quality", "draw_sky"]

Float64Array = NDArray[np.float64]

_BAND_COLOURS = {"u": "#7b3fbf", "g": "#2a9d3a", "r": "#d1332e", "i": "#a05a2c", "z": "#444444",
                 "Y": "#999999", "y": "#999999"}  # fmt: skip
_FIGURE = (11.0, 3.7)
#: Objects drawn at most in one panel.
_MAX_POINTS = 8000
#: Cells of the maps of the PSF along the longer side.
_CELLS = 24


def band_colour(band: str) -> str:
    """Colour of a band, the same in all figures.

    Parameters
    ----------
    band : str
        Band.

    Returns
    -------
    str
        A colour of matplotlib.
    """
    return _BAND_COLOURS.get(band, "#1f77b4")


def draw_depth(catalogue: Table, quality: Quality) -> bytes:
    """Number counts with their limits, errors against magnitude, magnitudes at S/N 10 and 20.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    quality : Quality
        What was measured.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=_FIGURE, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    limits = _magnitude_limits(quality)
    chosen: list[Float64Array] = []
    for band, counts in quality.counts.items():
        colour = band_colour(band)
        left.step(counts.magnitude, counts.counts, where="mid", color=colour, lw=1, label=band)
        left.plot(counts.magnitude, counts.law, ":", color=colour, lw=1)
        if np.isfinite(counts.limit):
            left.axvline(counts.limit, color=colour, lw=0.8, ls="--")
        _draw_errors(middle, catalogue, band)
        for level, style in zip(SNR_LEVELS, ("-", "--"), strict=True):
            mag = magnitudes_at_snr(catalogue, band, level)
            if len(mag):
                label = f"{band}, {level}: {np.median(mag):.2f}"
                right.hist(mag, np.arange(*limits, 0.1), histtype="step", color=colour, ls=style,
                           label=label)  # fmt: skip
                chosen.append(mag)
    left.set(yscale="log", xlim=limits, xlabel="model magnitude",
             ylim=(0.7, 30 * max((c.counts.max() for c in quality.counts.values() if len(c.counts)),
                                 default=1)), ylabel="objects per 0.1 mag")  # fmt: skip
    left.set_title("counts; dotted: fit; dashed: half of it", fontsize=9)
    middle.set(yscale="log", xlim=limits, ylim=(1e-3, 1), xlabel="model magnitude",
               ylabel="error [mag]")  # fmt: skip
    middle.set_title("errors; lines at S/N 5, 10, 20", fontsize=9)
    for snr in (5, 10, 20):
        middle.axhline(MAG_ERR_FACTOR / snr, color="0.5", lw=0.7)
    right.set(xlabel="model magnitude", ylabel="objects per 0.1 mag")
    right.set_title("at S/N 10 and 20, with medians", fontsize=9)
    if not quality.counts:
        say_in_panel(middle, "no magnitudes")
    for axes in (left, right):
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=7, loc="upper left", frameon=False, ncols=3 if axes is left else 1)
        else:
            say_in_panel(axes, "no magnitudes")
    if chosen:
        low, high = np.percentile(np.concatenate(chosen), [0.5, 99.5])
        # Room for the legend on the bright side.
        right.set_xlim(low - 0.6 * (high - low) - 0.2, high + 0.4)
    return figure_to_png(figure)


def _magnitude_limits(quality: Quality) -> tuple[float, float]:
    """From the brightest objects to where the counts have ended."""
    seen = [c.magnitude[c.counts > 0] for c in quality.counts.values() if len(c.counts)]
    if not seen:
        return 15.0, 27.0
    low, high = min(float(m[0]) for m in seen), max(float(m[-1]) for m in seen)
    return low - 0.2, min(max(high, low + 1.0), 28.5)


def _draw_errors(axes: Axes, catalogue: Table, band: str) -> None:
    mag = float_column(catalogue, f"{band}_cmodel_mag")
    err = float_column(catalogue, f"{band}_cmodel_magerr")
    good = np.flatnonzero(np.isfinite(mag) & np.isfinite(err) & (err > 0))
    step = max(len(good) // _MAX_POINTS, 1)
    axes.plot(mag[good][::step], err[good][::step], ".", ms=0.8, alpha=0.5,
              color=band_colour(band), rasterized=True)  # fmt: skip


def draw_sky(
    catalogue: Table,
    quality: Quality,
    visits: Sequence[Table] = (),
    *,
    options: QualityOptions = QualityOptions(),
) -> bytes:
    """The objects of the catalogue, the exposures that cover them, the astrometry.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    quality : Quality
        What was measured.
    visits : sequence of astropy.table.Table
        Visit summaries.
    options : QualityOptions
        Pixel of the coadds.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=_FIGURE, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    centre = field_centre(float_column(catalogue, "ra"), float_column(catalogue, "dec"))
    _draw_objects(left, catalogue, centre, options.pixel_scale)
    _draw_visits(middle, visits, centre)
    east, north = quality.offsets
    if len(east) == 0:
        say_in_panel(right, "no astrometric reference")
        return figure_to_png(figure)
    step = max(len(east) // _MAX_POINTS, 1)
    crowd = min(1.0, 1000.0 / len(east))
    right.plot(east[::step], north[::step], ".", ms=1 + 2 * crowd, alpha=0.2 + 0.4 * crowd)
    reach = float(np.clip(4 * np.median(np.hypot(east, north)), 10.0, 1000.0))
    right.axhline(0, color="0.6", lw=0.7)
    right.axvline(0, color="0.6", lw=0.7)
    right.set(xlim=(reach, -reach), ylim=(-reach, reach), aspect="equal", xlabel="East [mas]",
              ylabel="North [mas]")  # fmt: skip
    right.set_title(
        f"{len(east)} stars less the reference: ({np.median(east):+.1f}, "
        f"{np.median(north):+.1f}) mas",
        fontsize=9,
    )
    return figure_to_png(figure)


def _logarithmic(axes: Axes) -> None:
    """Separations with plain numbers."""
    low, high = axes.get_xlim()
    axes.set_xscale("log")
    ticks = np.array([0.5, 1, 2, 5, 10, 20, 50, 100])
    axes.set_xticks(ticks[(ticks > max(low, 0.1)) & (ticks < high)])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _on_sky(axes: Axes, title: str) -> None:
    axes.set(aspect="equal", xlabel="East [arcmin]", ylabel="North [arcmin]")
    if not axes.xaxis_inverted():
        axes.invert_xaxis()
    axes.set_title(title, fontsize=9)


def _draw_objects(
    axes: Axes, catalogue: Table, centre: tuple[float, float], pixel_scale: float
) -> None:
    """Stars as points, galaxies as ellipses of their shape and three times their radius."""
    east, north = field_offsets(
        float_column(catalogue, "ra"), float_column(catalogue, "dec"), centre
    )
    extendedness = float_column(catalogue, "extendedness")
    galaxy = extendedness > 0.5
    star = ~galaxy & np.isfinite(east + extendedness)
    unknown = ~np.isfinite(extendedness) & np.isfinite(east)
    for some, colour in ((unknown, "0.6"), (star, "#1f77b4")):
        step = max(int(some.sum()) // _MAX_POINTS, 1)
        axes.plot(east[some][::step], north[some][::step], ".", ms=1, color=colour,
                  rasterized=True)  # fmt: skip
    e1, e2 = float_column(catalogue, "e1"), float_column(catalogue, "e2")
    size = float_column(catalogue, "sdss_xx") + float_column(catalogue, "sdss_yy")
    with np.errstate(invalid="ignore"):
        drawn = galaxy & np.isfinite(east + size) & (size > 0) & (np.hypot(e1, e2) < 0.95)
    rows = np.flatnonzero(drawn)[:: max(int(drawn.sum()) // _MAX_POINTS, 1)]
    ratio = np.sqrt((1 - np.hypot(e1, e2)[rows]) / (1 + np.hypot(e1, e2)[rows]))
    major = 3.0 * np.sqrt(size[rows]) * pixel_scale / 60.0
    # Pixel axes have x to the West, as the axis of the figure has after its inversion.
    angle = 180.0 - np.degrees(0.5 * np.arctan2(e2[rows], e1[rows]))
    axes.add_collection(EllipseCollection(
        2 * major, 2 * major * ratio, angle, units="xy", facecolors="none", edgecolors="#c44",
        linewidths=0.3, offsets=np.stack([east[rows], north[rows]], axis=1),
        offset_transform=axes.transData, rasterized=True,
    ))  # fmt: skip
    axes.autoscale_view()
    title = f"{int(galaxy.sum())} galaxies (ellipses), {int(star.sum())} stars"
    if unknown.any():
        title += f", {int(unknown.sum())} unknown"
    _on_sky(axes, title if unknown.sum() < len(catalogue) else f"{len(catalogue)} objects")


def _draw_visits(axes: Axes, visits: Sequence[Table], centre: tuple[float, float]) -> None:
    """Outlines of the CCDs, filled so that overlapping exposures are darker."""
    shown: dict[str, int] = {}
    for table in visits:
        if len(table) == 0:
            continue
        band = str(table["band"][0])
        shown[band] = shown.get(band, 0) + 1
        corners = np.asarray(table["ra_corners"], np.float64), np.asarray(table["dec_corners"])
        east, north = field_offsets(corners[0].ravel(), corners[1].ravel(), centre)
        shape = corners[0].shape
        outline = np.stack([east.reshape(shape), north.reshape(shape)], axis=-1)
        axes.add_collection(PolyCollection(
            list(outline), facecolors=band_colour(band), edgecolors=band_colour(band),
            alpha=0.12, linewidths=0.6,
        ))  # fmt: skip
    if not shown:
        say_in_panel(axes, "no visit summaries")
        return
    for band, n in sorted(shown.items()):
        axes.plot([], [], "s", color=band_colour(band), alpha=0.6, label=f"{band}: {n} visits")
    axes.autoscale_view()
    axes.legend(fontsize=7, loc="upper left")
    _on_sky(axes, "CCDs of the visits")


def draw_psf_quality(
    catalogue: Table, quality: Quality, *, options: QualityOptions = QualityOptions()
) -> bytes:
    """Map of the PSF's size and shape, residuals at stars, rho statistics.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Schema ``exportCatalog``.
    quality : Quality
        What was measured.
    options : QualityOptions
        Pixel of the coadds.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(11.0, 7.2), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    _draw_psf_map(figure, a, catalogue, options)
    _draw_residuals(b, quality)
    for axes, place in ((c, "visits"), (d, "coadd")):
        _draw_rho(axes, quality.rho.get(place), place)
    return figure_to_png(figure)


def _cells(east: Float64Array, north: Float64Array) -> tuple[NDArray[np.int64], int]:
    """Cell of each place of a grid over the field, and how many cells there are."""
    width = max(float(np.ptp(east)), float(np.ptp(north)), 1e-3) / _CELLS
    x = ((east - east.min()) / width).astype(int)
    y = ((north - north.min()) / width).astype(int)
    return np.unique(np.stack([x, y]), axis=1, return_inverse=True)[1].ravel(), _CELLS


def _draw_psf_map(figure: Figure, axes: Axes, catalogue: Table, options: QualityOptions) -> None:
    fwhm = psf_fwhm(catalogue, pixel_scale=options.pixel_scale)
    east, north = field_offsets(float_column(catalogue, "ra"), float_column(catalogue, "dec"))
    e1, e2 = float_column(catalogue, "sdss_psf_e1"), float_column(catalogue, "sdss_psf_e2")
    good = np.isfinite(fwhm + east + north + e1 + e2)
    if good.sum() < 2:
        say_in_panel(axes, "no PSF moments")
        return
    cell, _ = _cells(east[good], north[good])
    n = np.bincount(cell)
    x, y, size, p1, p2 = (
        np.bincount(cell, value[good]) / n for value in (east, north, fwhm, e1, e2)
    )
    points = axes.scatter(x, y, c=size, s=45, marker="s", cmap="viridis")
    figure.colorbar(points, ax=axes, label="FWHM [arcsec]", pad=0.01)
    modulus = np.hypot(p1, p2)
    # A stick of the mean length is as long as a cell; East is -x of the pixel axes.
    length = 0.5 * (np.ptp(x) + np.ptp(y)) / _CELLS / max(float(modulus.mean()), 1e-6)
    angle = 0.5 * np.arctan2(p2, p1)
    half = 0.5 * length * modulus[:, None] * np.stack([-np.cos(angle), np.sin(angle)], axis=1)
    middle = np.stack([x, y], axis=1)
    axes.add_collection(
        LineCollection(list(np.stack([middle - half, middle + half], axis=1)), colors="w", lw=1)
    )
    _on_sky(axes, f"PSF of the coadd: size, and sticks of its shape (mean {modulus.mean():.3f})")


def _draw_residuals(axes: Axes, quality: Quality) -> None:
    drawn = False
    bins = np.linspace(-0.1, 0.1, 51)
    for name, stars, style in (
        ("visits", quality.visit_stars, "-"), ("coadd", quality.coadd_stars, "--")
    ):  # fmt: skip
        if stars is None:
            continue
        graded: StarResiduals = stars.for_grading()
        for label, value, colour in (
            ("size", graded.size_residual, "k"),
            ("e1", graded.e1 - graded.e1_psf, "#d1332e"),
            ("e2", graded.e2 - graded.e2_psf, "#1f77b4"),
        ):
            axes.hist(np.clip(value, -0.099, 0.099), bins, histtype="step", color=colour, ls=style,
                      density=True, label=f"{label}, {name}: {np.median(value):+.4f}")  # fmt: skip
            drawn = True
    if not drawn:
        say_in_panel(axes, "no PSF stars")
        return
    axes.legend(fontsize=7, frameon=False, loc="upper left")
    axes.set(xlabel="star less PSF: T / T PSF - 1, e1, e2", ylabel="density")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title("residuals at stars, medians", fontsize=9)


def _draw_rho(axes: Axes, rho: Table | None, place: str) -> None:
    if rho is None:
        say_in_panel(axes, f"{place}: too few stars for the rho statistics")
        return
    radius = np.asarray(rho["radius"])
    for k in range(1, 6):
        value, error = np.asarray(rho[f"rho_{k}"]), np.asarray(rho[f"rho_{k}_err"])
        positive = value > 0
        shift = 1.0 + 0.03 * (k - 3)
        line = axes.errorbar(radius * shift, np.abs(value), error, fmt="none", lw=0.8,
                             color=f"C{k - 1}")  # fmt: skip
        for rows, face in ((positive, f"C{k - 1}"), (~positive, "w")):
            axes.plot(radius[rows] * shift, np.abs(value[rows]), "o", ms=4, mfc=face,
                      mec=f"C{k - 1}", label=f"rho {k}" if rows is positive else None)  # fmt: skip
        line.set_label("")
    low = float(np.percentile(np.abs([rho[f"rho_{k}"] for k in range(1, 6)]), 5))
    axes.set(yscale="log", xlabel="separation [arcmin]", ylabel="|rho|",
             ylim=(max(0.3 * low, 1e-9), None))  # fmt: skip
    _logarithmic(axes)
    axes.legend(fontsize=7, ncols=5, loc="upper center", frameon=False)
    axes.set_title(f"rho statistics of the {place} (open: negative)", fontsize=9)


def draw_null_tests(quality: Quality) -> bytes:
    """Shear around stars and random points, B mode, correlation with the PSF.

    Parameters
    ----------
    quality : Quality
        What was measured.

    Returns
    -------
    bytes
        A PNG file; it says so if the tests could not be made.
    """
    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    panels = figure.subplots(2, 2)
    parts = quality.null_tests
    p_values = {
        str(r["quantity"]): float(r["p_value"]) for r in quality.table if np.isfinite(r["p_value"])
    }
    (a, b), (c, d) = panels
    for axes, name, title in ((a, "stars", "around stars, random points subtracted"),
                              (b, "random", "around random points")):  # fmt: skip
        key = "star" if name == "stars" else "random"
        curves = [
            ("g_t", "tangential", f"null_{key}_tangential"),
            ("g_x", "cross", f"null_{key}_cross"),
        ]
        _draw_curves(axes, parts.get(name), curves, p_values, f"shear {title}", "shear")
    modes = [("map2_e", "E mode", ""), ("map2_b", "B mode", "null_b_mode")]
    _draw_curves(
        c, parts.get("b_mode"), modes, p_values, "dispersion of the aperture mass", "<Map$^2$>"
    )
    c.set_xlabel("aperture [arcmin]")
    _draw_curves(d, parts.get("star_galaxy"), [("xi_plus", r"$\xi_+$", "null_star_galaxy_xi_plus")],
                 p_values, "correlation of galaxies with the PSF at stars", r"$\xi_+$")  # fmt: skip
    leakage = parts.get("psf_leakage")
    if leakage is not None:
        both = leakage[-1]
        figure.suptitle(
            f"null tests of the shears; PSF leakage alpha = {both['alpha']:+.3f} +- "
            f"{both['alpha_err']:.3f}",
            fontsize=10,
        )
    return figure_to_png(figure)


def _draw_curves(
    axes: Axes, table: Table | None, curves: list[tuple[str, str, str]],
    p_values: dict[str, float], title: str, ylabel: str,
) -> None:  # fmt: skip
    if table is None:
        say_in_panel(axes, "not made; the table of the step says why")
        axes.set_title(title, fontsize=9)
        return
    for k, (column, label, key) in enumerate(curves):
        p = p_values.get(key)
        text = label if p is None else f"{label}: p = {p:.2f}"
        axes.errorbar(
            np.asarray(table["radius"]) * (1 + 0.04 * k), np.asarray(table[column]),
            np.asarray(table[f"{column}_err"]), fmt="ox"[k], ms=4, lw=1, label=text,
        )  # fmt: skip
    axes.axhline(0, color="0.6", lw=0.7)
    axes.set(xlabel="separation [arcmin]", ylabel=ylabel)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    _logarithmic(axes)
    axes.legend(fontsize=8, framealpha=0.7, edgecolor="none")
    axes.set_title(title, fontsize=9)

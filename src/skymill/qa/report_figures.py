"""Figures of the report: PSF, astrometry and photometry, shear, redshifts, counts, times."""

from __future__ import annotations

import io

import numpy as np
from astropy.table import Table
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from skymill.lensing.maps.aperture_mass import ApertureMassMap
from skymill.qa.canvas import figure_to_png
from skymill.qa.mass_overlays import draw_overlay, mass_contours, read_background
from skymill.qa.pictures import decode_png
from skymill.qa.quality_figures import band_colour
from skymill.qa.repeatability import Repeatability

__all__ = [
    "draw_colour",
    "draw_completeness",
    "draw_psf",
    "draw_redshifts",
    "draw_repeatability",
    "draw_times",
]

Float64Array = NDArray[np.float64]


#: Longest side [pixel] and quality of a photograph on the page.
_PHOTO_SIDE, _PHOTO_QUALITY = 1600, 86


def draw_colour(
    colour: bytes,
    mass_map: ApertureMassMap | None = None,
    *,
    mark: tuple[float, float] | None = None,
) -> tuple[bytes, bool]:
    """The colour picture, small enough for a page, with contours of the mass.

    Parameters
    ----------
    colour : bytes
        PNG of the export step.
    mass_map : ApertureMassMap, optional
        Its E mode is drawn, if the picture says where on the sky it is.
    mark : (ra, dec), optional [deg]
        A position to mark.

    Returns
    -------
    picture : bytes
        JPEG.
    placed : bool
        Whether the contours and the mark could be drawn.
    """
    placed = decode_png(colour)[1] is not None
    if placed:
        contours = [] if mass_map is None else [mass_contours(mass_map)]
        colour = draw_overlay(read_background(colour), contours, mark=mark)
    with Image.open(io.BytesIO(colour)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_PHOTO_QUALITY, optimize=True)
    return buffer.getvalue(), placed


def draw_psf(stars: Table) -> bytes:
    """PSF residuals of the stars: size, shape, and where they are on the CCD.

    Parameters
    ----------
    stars : astropy.table.Table
        ``finalized_src_table`` of all visits.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    size = (np.asarray(stars["sigma"]) / np.asarray(stars["sigmaPsf"])) ** 2 - 1
    kept = np.asarray(stars["calib_psf_reserved"])
    bins = np.linspace(-0.06, 0.06, 49)
    left.hist(size[~kept], bins, histtype="step", label="in the fit", density=True)
    left.hist(size[kept], bins, histtype="step", label="reserved", density=True)
    left.set(xlabel="T star / T PSF - 1", ylabel="density", xticks=(-0.05, 0, 0.05))
    left.legend(frameon=False, fontsize=8)
    d_e1 = np.asarray(stars["e1"]) - np.asarray(stars["e1Psf"])
    d_e2 = np.asarray(stars["e2"]) - np.asarray(stars["e2Psf"])
    middle.plot(d_e1[~kept], d_e2[~kept], ".", ms=2, alpha=0.4)
    middle.plot(d_e1[kept], d_e2[kept], ".", ms=3)
    middle.set(xlim=(-0.06, 0.06), ylim=(-0.06, 0.06), xlabel="e1 star - e1 PSF")
    ticks = (-0.05, 0, 0.05)
    middle.set(ylabel="e2 star - e2 PSF", aspect="equal", xticks=ticks, yticks=ticks)
    angle = 0.5 * np.arctan2(np.asarray(stars["e2"]), np.asarray(stars["e1"]))
    length = np.hypot(np.asarray(stars["e1"]), np.asarray(stars["e2"]))
    right.quiver(
        np.asarray(stars["x"]), np.asarray(stars["y"]), length * np.cos(angle),
        length * np.sin(angle), np.asarray(stars["sigma"]) * 2.355 * 0.263, headlength=0,
        headaxislength=0, headwidth=1, pivot="mid", scale=1.5, cmap="viridis", width=0.004,
    )  # fmt: skip
    right.set(xlabel="x on the CCD [pixel]", ylabel="y [pixel]", title="shapes of all stars")
    return figure_to_png(figure)


def draw_repeatability(by_band: dict[str, Repeatability]) -> bytes:
    """Offsets of single visits from the mean of each star.

    Parameters
    ----------
    by_band : dict of str to Repeatability
        Each band's.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for band, found in by_band.items():
        if not found.n_stars:
            continue
        left.plot(
            found.d_east, found.d_north, ".", ms=2, alpha=0.5, color=band_colour(band),
            label=f"{band}: {found.astrometry_mas:.1f} mas, {found.n_stars} stars",
        )  # fmt: skip
        right.hist(
            found.d_mag, np.linspace(-40, 40, 81), histtype="step", color=band_colour(band),
            label=f"{band}: {found.photometry_mmag:.1f} mmag",
        )  # fmt: skip
    offsets = [np.hypot(f.d_east, f.d_north) for f in by_band.values() if f.n_stars]
    reach = 5.0 * float(np.median(np.concatenate(offsets))) if offsets else 60.0
    left.set(xlim=(reach, -reach), ylim=(-reach, reach), xlabel="East [mas]", ylabel="North [mas]")
    left.set(aspect="equal", title="position of one visit less the star's mean")
    right.set(xlabel="magnitude of one visit less the star's mean [mmag]", ylabel="sources")
    for axes in (left, right):
        if offsets:
            axes.legend(frameon=False, fontsize=8)
    return figure_to_png(figure)


def draw_redshifts(z_true: Float64Array, z_phot: Float64Array, odds: Float64Array) -> bytes:
    """Photometric against true redshifts.

    Parameters
    ----------
    z_true, z_phot, odds : (n,) float64
        Matched galaxies.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    points = axes.scatter(z_true, z_phot, c=odds, s=2, cmap="viridis", vmin=0, vmax=1)
    axes.plot([0, 1.5], [0, 1.5], "k-", lw=0.7)
    axes.set(xlim=(0, 1.5), ylim=(0, 1.5), xlabel="true redshift", ylabel="photometric redshift")
    figure.colorbar(points, label="odds")
    return figure_to_png(figure)


def draw_completeness(completeness: dict[str, float]) -> bytes:
    """Fraction of the true objects that were found.

    Parameters
    ----------
    completeness : dict of str to float
        ``"low-high"`` magnitude to fraction.

    Returns
    -------
    bytes
        PNG.
    """
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    middle = [float(np.mean([float(v) for v in key.split("-")])) for key in completeness]
    axes.plot(middle, list(completeness.values()), "o-")
    axes.axhline(0.5, color="0.7", lw=0.7)
    axes.set(xlabel="true r [mag]", ylabel="fraction found", ylim=(0, 1.05))
    return figure_to_png(figure)


def draw_times(timing: dict[str, float]) -> bytes:
    """Seconds of each step.

    Parameters
    ----------
    timing : dict of str to float
        ``step_s`` to seconds.

    Returns
    -------
    bytes
        PNG.
    """
    names = [n for n in timing if n != "total_s"]
    figure = Figure(figsize=(7, 0.24 * len(names) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh([n.removesuffix("_s") for n in names], [timing[n] for n in names])
    axes.invert_yaxis()
    axes.set(xlabel="seconds")
    return figure_to_png(figure)

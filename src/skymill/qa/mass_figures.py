"""Figures of mass maps and mass fits, as PNG bytes."""

from __future__ import annotations

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.lensing.maps.aperture_mass import ApertureMassMap
from skymill.lensing.maps.convergence import ConvergenceMap
from skymill.lensing.masses.halo_fit import HaloFit
from skymill.lensing.masses.mass_fit import MassFit
from skymill.qa.canvas import figure_to_png

__all__ = [
    "choose_aperture",
    "draw_convergence",
    "draw_density",
    "draw_halo_fit",
    "draw_mass_fit",
    "draw_mass_map",
]

_SNR_RANGE = (-3.0, 6.0)


def choose_aperture(mass_map: ApertureMassMap, aperture: float | None) -> int:
    """Number of the aperture to show.

    Parameters
    ----------
    mass_map : ApertureMassMap
        The maps.
    aperture : float [arcmin], optional
        The nearest to this radius; that with the highest covered E-mode peak if omitted.

    Returns
    -------
    int
        Index of the aperture.
    """
    if aperture is not None:
        return int(np.abs(mass_map.apertures - aperture).argmin())
    covered = np.where(mass_map.coverage >= 0.7, mass_map.snr("E"), -np.inf)
    return int(covered.max(axis=(1, 2)).argmax())


def _draw_mode(
    axes: Axes,
    snr: NDArray[np.float32],
    *,
    title: str,
    peaks: Table | None,
    mark: tuple[float, float] | None,
) -> None:
    image = axes.imshow(snr, origin="lower", cmap="RdBu_r", vmin=-_SNR_RANGE[1], vmax=_SNR_RANGE[1])
    if snr.max() > 3:
        axes.contour(snr, levels=np.arange(3.0, float(snr.max()) + 1.0), colors="k", linewidths=0.6)
    if peaks is not None and len(peaks):
        axes.plot(peaks["x"], peaks["y"], "+", color="k", ms=9, mew=1.2)
    if mark is not None:
        axes.plot(*mark, "o", mfc="none", mec="lime", ms=11, mew=1.4)
    axes.set_title(title, fontsize=10)
    for axis, name in zip(axes.coords, ("RA", "Dec"), strict=True):  # type: ignore[attr-defined]
        axis.set_axislabel(name, fontsize=9)
        axis.set_ticklabel(size=7)
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("S/N", fontsize=8)


def draw_density(hdu: fits.ImageHDU, *, title: str = "") -> bytes:
    """A density map on the sky.

    Parameters
    ----------
    hdu : astropy.io.fits.ImageHDU
        (ny, nx) map with its WCS and BUNIT.
    title : str
        Title.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(5.6, 4.8))
    axes = figure.add_subplot(projection=WCS(hdu.header).celestial)
    image = axes.imshow(hdu.data, origin="lower", cmap="inferno")
    for axis, name in zip(axes.coords, ("RA", "Dec"), strict=True):  # type: ignore[attr-defined]
        axis.set_axislabel(name, fontsize=9)
        axis.set_ticklabel(size=7)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label(f"density [{hdu.header.get('BUNIT', '')}]", fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure_to_png(figure)


def draw_mass_map(
    mass_map: ApertureMassMap,
    peaks: Table | None = None,
    *,
    aperture: float | None = None,
    mark: tuple[float, float] | None = None,
    title: str = "",
) -> bytes:
    """Draw the signal-to-noise maps of the E and the B mode of one aperture.

    Parameters
    ----------
    mass_map : ApertureMassMap
        The maps.
    peaks : astropy.table.Table, optional
        Schema ``massMapPeaks``; those of the aperture are marked with crosses.
    aperture : float [arcmin], optional
        Which aperture; that with the highest E-mode peak if omitted.
    mark : (ra, dec) [deg], optional
        A position to mark with a circle.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.
    """
    k = choose_aperture(mass_map, aperture)
    radius = float(mass_map.apertures[k])
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    figure.suptitle(
        f"{title + ': ' if title else ''}aperture mass, {mass_map.filter}, "
        f"R = {radius:.1f} arcmin, {mass_map.n_galaxies} galaxies",
        fontsize=10,
    )
    position = None
    if mark is not None:
        x, y = mass_map.wcs.sky_to_pixel(ra=[mark[0]], dec=[mark[1]])
        position = (float(x[0]), float(y[0]))
    for i, mode in enumerate(("E", "B")):
        axes = figure.add_subplot(1, 2, i + 1, projection=mass_map.wcs.astropy)
        chosen = None
        if peaks is not None and len(peaks):
            same = np.isclose(np.asarray(peaks["aperture"]), radius)
            chosen = peaks[same & (np.asarray(peaks["mode"]).astype(str) == mode)]
        _draw_mode(axes, mass_map.snr(mode)[k], title=f"{mode} mode", peaks=chosen, mark=position)
    return figure_to_png(figure)


def draw_convergence(
    maps: ConvergenceMap, *, mark: tuple[float, float] | None = None, title: str = ""
) -> bytes:
    """Draw the direct and the Wiener convergence, E and B.

    Parameters
    ----------
    maps : ConvergenceMap
        The maps.
    mark : (ra, dec) [deg], optional
        A position to mark with a circle.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.
    """
    figure = Figure(figsize=(10.5, 8.4), layout="constrained")
    figure.suptitle(
        f"{title + ': ' if title else ''}convergence, {maps.n_galaxies} galaxies", fontsize=10
    )
    rows = (
        ("Kaiser-Squires", maps.kappa_e, maps.kappa_b),
        ("Wiener filter", maps.wiener_e, maps.wiener_b),
    )
    for i, (name, e_mode, b_mode) in enumerate(rows):
        top = max(float(np.percentile(np.abs(e_mode), 99.8)), 1e-6)
        for j, (mode, plane) in enumerate((("E", e_mode), ("B", b_mode))):
            axes = figure.add_subplot(2, 2, 2 * i + j + 1, projection=maps.wcs.astropy)
            shown = np.where(maps.mask, np.nan, plane) if i == 0 else plane
            image = axes.imshow(shown, origin="lower", cmap="RdBu_r", vmin=-top, vmax=top)
            axes.set_facecolor("0.8")
            if mark is not None:
                x, y = maps.wcs.sky_to_pixel(ra=[mark[0]], dec=[mark[1]])
                axes.plot(x, y, "o", mfc="none", mec="lime", ms=11, mew=1.4)
            axes.set_title(f"{name}, {mode} mode", fontsize=10)
            for axis, label in zip(axes.coords, ("RA", "Dec"), strict=True):  # type: ignore[attr-defined]
                axis.set_axislabel(label, fontsize=9)
                axis.set_ticklabel(size=7)
            bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
            bar.ax.tick_params(labelsize=7)
    return figure_to_png(figure)


_PARAMETER_LABELS = {
    "log_mass": "log M200",
    "ln_c": "ln c",
    "east": "East [arcmin]",
    "north": "North [arcmin]",
}


def draw_halo_fit(fit: HaloFit, *, title: str = "") -> bytes:
    """Draw the distributions of the parameters of a fit of halos, each and in pairs.

    Parameters
    ----------
    fit : HaloFit
        The fit: its Markov chains, or its bootstrap without them.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.

    Raises
    ------
    DataError
        If the fit has neither chains nor bootstrap.
    """
    draws = fit.chain if len(fit.chain) else fit.bootstrap
    if len(draws) == 0:
        raise DataError("the fit has neither Markov chains nor a bootstrap to draw")
    n = len(fit.names)
    figure = Figure(figsize=(2.0 * n + 1.5, 2.0 * n + 1.0), layout="constrained")
    panels = figure.subplots(n, n, squeeze=False)
    limits = np.percentile(draws, [0.2, 99.8], axis=0).T
    for i in range(n):
        for j in range(n):
            axes = panels[i, j]
            if j > i:
                axes.set_visible(False)
                continue
            if i == j:
                axes.hist(draws[:, i], bins=40, range=limits[i], histtype="stepfilled", alpha=0.6)
                axes.axvline(fit.best[i], color="k", lw=0.8)
                axes.set_yticks([])
            else:
                axes.hist2d(draws[:, j], draws[:, i], bins=40, range=[limits[j], limits[i]],
                            cmap="Blues")  # fmt: skip
                axes.plot(fit.best[j], fit.best[i], "k+", ms=8)
            axes.tick_params(labelsize=7)
            kind, number = fit.names[j].rsplit("_", 1)
            if i == n - 1:
                axes.set_xlabel(f"{_PARAMETER_LABELS[kind]} ({number})", fontsize=8)
            else:
                axes.set_xticklabels([])
            if j == 0 and i > 0:
                kind, number = fit.names[i].rsplit("_", 1)
                axes.set_ylabel(f"{_PARAMETER_LABELS[kind]} ({number})", fontsize=8)
            elif j > 0:
                axes.set_yticklabels([])
    figure.suptitle(title or "halos: Markov chains" if len(fit.chain) else "halos: bootstrap",
                    fontsize=10)  # fmt: skip
    return figure_to_png(figure)


def draw_mass_fit(fit: MassFit, *, title: str = "", truth: float | None = None) -> bytes:
    """Draw the shear profile with its model and the masses of the bootstrap.

    Parameters
    ----------
    fit : MassFit
        The fit.
    title : str
        Title of the figure.
    truth : float [Msun], optional
        A mass to mark.

    Returns
    -------
    bytes
        A PNG file.
    """
    if len(fit.table) != 1:
        raise DataError(f"a mass fit has one row; got {len(fit.table)}")
    row, profile = fit.table[0], fit.profile
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    radius = np.asarray(profile["radius"])
    unit = 1e14
    error = np.asarray(profile["delta_sigma_err"]) / unit
    for name, style, label in (
        ("delta_sigma", "o", "tangential"),
        ("delta_sigma_x", "x", "cross (null test)"),
    ):
        shift = 1.0 if style == "o" else 1.04
        left.errorbar(
            radius * shift, np.asarray(profile[name]) / unit, error, fmt=style, ms=4, lw=1,
            label=label,
        )  # fmt: skip
    left.plot(radius, np.asarray(profile["delta_sigma_model"]) / unit, "k-", label="best NFW")
    left.axhline(0, color="0.6", lw=0.7)
    left.set(
        xscale="log", xlabel="radius [Mpc]", ylabel="excess surface density [1e14 Msun Mpc$^{-2}$]"
    )
    ticks = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 1, 2, 3, 5])
    left.set_xticks(ticks[(ticks > radius.min()) & (ticks < radius.max())])
    left.xaxis.set_major_formatter(ScalarFormatter())
    left.xaxis.set_minor_formatter(NullFormatter())
    left.legend(fontsize=8)
    right.hist(fit.bootstrap / unit, bins=40, histtype="stepfilled", color="C0", alpha=0.6)
    right.axvline(row["m200"] / unit, color="k", label="maximum likelihood")
    for name in ("m200_lower", "m200_upper"):
        right.axvline(row[name] / unit, color="k", ls=":")
    if truth is not None:
        right.axvline(truth / unit, color="C3", ls="--", label="truth")
    right.set(xlabel="M200 [1e14 Msun]", ylabel="bootstrap samples")
    right.legend(fontsize=8)
    figure.suptitle(
        f"{title + ': ' if title else ''}M200 = ({row['m200'] / unit:.2f} +- "
        f"{row['m200_err'] / unit:.2f}) 1e14 Msun (line of sight "
        f"{row['m200_lss_err'] / unit:.2f}), z = {row['z_lens']:.3f}, "
        f"{row['n_galaxies']} galaxies",
        fontsize=10,
    )
    return figure_to_png(figure)

"""Figures of photometric redshifts, as PNG bytes."""

from __future__ import annotations

import itertools

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from skymill.photoz.metrics import pit_values, point_metrics
from skymill.photoz.storage import decode_pz, grid_of
from skymill.qa.canvas import figure_to_png, say_in_panel

__all__ = ["draw_photoz"]

Float64Array = NDArray[np.float64]


def draw_photoz(photoz: Table, z_spec: ArrayLike | None = None, *, title: str = "") -> bytes:
    """Redshifts: distribution, odds, and against spectra where there are some.

    Parameters
    ----------
    photoz : astropy.table.Table
        Schema ``photoz``.
    z_spec : (n,) float64, optional
        Spectroscopic redshifts; NaN where there is none.
    title : str
        Title of the figure.

    Returns
    -------
    bytes
        A PNG file.
    """
    truth = np.full(len(photoz), np.nan) if z_spec is None else np.asarray(z_spec, np.float64)
    mode = np.asarray(photoz["z_phot"], np.float64)
    both = np.isfinite(truth) & np.isfinite(mode)
    rows = 2 if both.any() else 1
    figure = Figure(figsize=(10, 4.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    if title:
        figure.suptitle(title)
    _draw_distribution(axes[-1, 0], photoz, mode, truth[both])
    if both.any():
        _draw_against(axes[0, 0], mode[both], truth[both])
        _draw_residual(axes[0, 1], mode[both], truth[both])
        _draw_pit(axes[1, 1], photoz, truth, both)
    else:
        _draw_odds(axes[0, 1], photoz)
    return figure_to_png(figure)


def _limit(values: Float64Array) -> float:
    return max(float(np.quantile(values, 0.995)) * 1.1, 0.1) if values.size else 1.0


def _draw_against(axes: Axes, mode: Float64Array, truth: Float64Array) -> None:
    found = point_metrics(mode, truth)
    top = _limit(np.concatenate([truth, mode]))
    line = np.array([0.0, top])
    if len(mode) > 3000:
        axes.hist2d(truth, mode, bins=120, range=[[0, top]] * 2, cmap="viridis", cmin=1)
    else:
        axes.plot(truth, mode, ".", ms=3, alpha=0.5)
    axes.plot(line, line, "k-", lw=0.8)
    for sign in (-1, 1):
        axes.plot(line, line + sign * 0.15 * (1 + line), "k:", lw=0.8)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="spectroscopic redshift", ylabel="mode of p(z)")
    axes.set_title(
        f"{found['n']} galaxies: NMAD {found['nmad']:.4f}, outliers {found['outliers']:.3f}, "
        f"bias {found['bias']:+.4f}",
        fontsize=9,
    )


def _draw_residual(axes: Axes, mode: Float64Array, truth: Float64Array) -> None:
    dz = (mode - truth) / (1 + truth)
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, min(16, len(truth) // 20 + 2))))
    middles, quantiles = [], []
    for low, high in itertools.pairwise(edges):
        part = (truth >= low) & (truth <= high)
        if part.sum() > 4:
            middles.append(float(np.median(truth[part])))
            quantiles.append(np.quantile(dz[part], [0.16, 0.5, 0.84]))
    axes.plot(truth, dz, ".", ms=1.5, alpha=min(1.0, 2000 / len(truth)), color="0.6")
    if middles:
        low, middle, high = np.array(quantiles).T
        axes.fill_between(middles, low, high, alpha=0.3)
        axes.plot(middles, middle, "o-", ms=3)
    axes.axhline(0, color="k", lw=0.8)
    axes.set(ylim=(-0.3, 0.3), xlabel="spectroscopic redshift", ylabel="dz / (1 + z)")
    axes.set_title("median and 16 to 84 per cent", fontsize=9)


def _draw_pit(axes: Axes, photoz: Table, truth: Float64Array, both: NDArray[np.bool_]) -> None:
    if "pz" not in photoz.colnames:
        say_in_panel(axes, "no p(z)")
        return
    pz = decode_pz(np.asarray(photoz["pz"], np.uint8)[both])
    pit = pit_values(pz, grid_of(photoz), truth[both])
    axes.hist(pit[np.isfinite(pit)], bins=20, range=(0, 1), density=True, histtype="stepfilled",
              alpha=0.5)  # fmt: skip
    axes.axhline(1, color="k", lw=0.8)
    axes.set(xlabel="probability integral transform", ylabel="density", xlim=(0, 1))
    axes.set_title("flat where p(z) is right", fontsize=9)


def _draw_odds(axes: Axes, photoz: Table) -> None:
    odds = np.asarray(photoz["odds"], np.float64)
    axes.hist(odds[np.isfinite(odds)], bins=40, range=(0, 1), histtype="stepfilled", alpha=0.5)
    axes.set(xlabel="odds", ylabel="galaxies")


def _draw_distribution(axes: Axes, photoz: Table, mode: Float64Array, truth: Float64Array) -> None:
    known = mode[np.isfinite(mode)]
    if not known.size:
        say_in_panel(axes, "no redshifts")
        return
    top = _limit(known)
    axes.hist(known, bins=60, range=(0, top), density=True, histtype="step", label="modes")
    if "pz" in photoz.colnames and len(photoz):
        grid = grid_of(photoz)
        chosen = slice(None, None, max(len(photoz) // 20000, 1))
        total = decode_pz(np.asarray(photoz["pz"], np.uint8)[chosen]).sum(axis=0)
        scale = max(float(total.sum()) * (grid[1] - grid[0]), 1e-30)
        axes.plot(grid, total / scale, label="sum of p(z)")
    if truth.size:
        axes.hist(truth, bins=60, range=(0, top), density=True, histtype="step", label="spectra")
    axes.set(xlim=(0, top), xlabel="redshift", ylabel="density")
    axes.legend(fontsize=8)

"""Galaxy models: exponential, de Vaucouleurs and their composite, convolved with the PSF."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.data.flags import MeasureFlag
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf
from skymill.model._galaxy_kernels import fit_composite, fit_galaxies
from skymill.model._mixture_kernels import fit_mixture
from skymill.model.profiles import DEV, EXP, Profile

__all__ = [
    "CompositeFlux",
    "CompositeGalaxies",
    "GalaxyFit",
    "GalaxyOptions",
    "PsfMixtures",
    "Windows",
    "composite_fluxes",
    "fit_composite_galaxies",
    "fit_profile",
    "psf_mixtures",
]

Float64Array = NDArray[np.float64]
_DRAWN_AT_ONCE = 2048
IntArray = NDArray[np.int64]
#: A galaxy with this share of the de Vaucouleurs profile gets a wider window at the radius's limit.
_PURE = 0.95


@dataclass(frozen=True, kw_only=True)
class GalaxyOptions:
    """How galaxies are fitted."""

    components: int = option(3, "Gaussians of the PSF's mixture")
    psf_cell: int = option(200, "distance over which the PSF's mixture is shared", unit="pixel")
    min_radius: float = option(0.05, "smallest half-light radius", unit="pixel")
    max_radius: float = option(
        100.0, "largest half-light radius; never above 0.6 of half the window", unit="pixel"
    )

    def __post_init__(self) -> None:
        check_range(self, "components", low=2, high=5)
        check_range(self, "psf_cell", low=10)
        check_range(self, "min_radius", low=0.0, low_open=True)
        check_range(self, "max_radius", low=1.0)


@dataclass
class PsfMixtures:
    """The PSF as a mixture of Gaussians at nodes of a grid.

    Parameters
    ----------
    node : (n,) int64
        Node of each source; -1 where the PSF has no value.
    amplitudes : (m, k) float64
        Fluxes of the Gaussians.
    covariances : (m, k, 3) float64 [pixel2]
        Their covariances xx, yy, xy.
    scale : (m,) float64
        Flux that the mixture finds for a star of unit flux: model fluxes are divided by it, so
        that they agree with PSF fluxes for stars.
    """

    node: IntArray
    amplitudes: Float64Array
    covariances: Float64Array
    scale: Float64Array

    def at(self, index: IntArray) -> PsfMixtures:
        """The mixtures of some of the sources.

        Parameters
        ----------
        index : (m,) int64
            Which sources.

        Returns
        -------
        PsfMixtures
            The same nodes, shared.
        """
        return PsfMixtures(self.node[index], self.amplitudes, self.covariances, self.scale)


@dataclass
class GalaxyFit:
    """One profile fitted to n sources.

    Parameters
    ----------
    flux, flux_err : (n,) float64 [image unit]
        Total flux and its error, the shape being fitted as well.
    fixed_err : (n,) float64 [image unit]
        Error of the flux if the shape were known.
    shape : (n, 3) float64 [pixel2]
        Covariance-like matrix xx, yy, xy of the profile before the PSF: the half-light ellipse.
    chi2 : (n,) float64
        Objective at the minimum.
    iterations : (n,) int64
        Evaluations of the model.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    flux: Float64Array
    flux_err: Float64Array
    fixed_err: Float64Array
    shape: Float64Array
    chi2: Float64Array
    iterations: IntArray
    flags: NDArray[np.uint32]

    @property
    def radius(self) -> Float64Array:
        """(n,) float64 [pixel] Geometric mean of the half-light ellipse's semi-axes."""
        det = self.shape[:, 0] * self.shape[:, 1] - self.shape[:, 2] ** 2
        return np.asarray(np.maximum(det, 0.0) ** 0.25)


@dataclass
class CompositeFlux:
    """The best sum of an exponential and a de Vaucouleurs profile of given shapes.

    Parameters
    ----------
    flux, flux_err : (n,) float64 [image unit]
        Total flux and its error at fixed shape.
    fraction : (n,) float64
        Share of the de Vaucouleurs profile.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    flux: Float64Array
    flux_err: Float64Array
    fraction: Float64Array
    flags: NDArray[np.uint32]


def psf_mixtures(
    psf: Psf, *, x: Float64Array, y: Float64Array, options: GalaxyOptions = GalaxyOptions()
) -> PsfMixtures:
    """Fit mixtures to the PSF at the nodes of a grid that lie next to the sources.

    Parameters
    ----------
    psf : Psf
        The model.
    x, y : (n,) float64 [pixel]
        Positions in the coordinates of the PSF.
    options : GalaxyOptions
        Components and width of the grid.

    Returns
    -------
    PsfMixtures
        Mixtures and the node of each source.
    """
    n = x.size
    peak, known = np.empty(n), np.zeros(n, bool)
    for first in range(0, n, _DRAWN_AT_ONCE):
        part = slice(first, first + _DRAWN_AT_ONCE)
        stamps = psf.draw(x=x[part], y=y[part])
        known[part] = np.isfinite(stamps).all(axis=(1, 2)) & (stamps.sum(axis=(1, 2)) > 0)
        middle = stamps.shape[1] // 2
        peak[part] = stamps[:, middle, middle]
    members = np.flatnonzero(known)
    node = np.full(n, -1, np.int64)
    # A PSF that is constant in cells shows few different stamps: these are the nodes.
    keys = peak[members][:, None]
    if np.unique(keys).size > max(16, members.size // 4):
        cells = np.stack([x[members], y[members]], axis=1) / options.psf_cell
        keys = np.floor(cells).reshape(-1, 2)
    unique, lead, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    node[members] = inverse.ravel()
    count = unique.shape[0]
    amplitudes = np.empty((count, options.components))
    covariances, scale = np.empty((count, options.components, 3)), np.empty(count)
    if count:
        lead = members[lead]
        stamps = np.ascontiguousarray(psf.draw(x=x[lead], y=y[lead]), np.float64)
        fit_mixture(stamps, options.components, 60, amplitudes, covariances, scale)
    return PsfMixtures(
        node=node,
        amplitudes=amplitudes,
        covariances=covariances,
        scale=scale,
    )


@dataclass(frozen=True)
class Windows:
    """Pixels of n galaxies, and the PSF there.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels, or a sheet of stamps.
    good : (ny, nx) bool
        Pixels that may be used.
    x, y : (n,) float64 [pixel]
        Centres, held fixed.
    half : (n,) int64 [pixel]
        Half width of the window of each galaxy.
    psf : PsfMixtures
        The PSF at the galaxies.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    good: NDArray[np.bool_]
    x: Float64Array
    y: Float64Array
    half: IntArray
    psf: PsfMixtures

    def at(self, index: IntArray, half: IntArray) -> Windows:
        """Windows of another width about some of the galaxies.

        Parameters
        ----------
        index : (m,) int64
            Which galaxies.
        half : (m,) int64 [pixel]
            Half width of their windows.

        Returns
        -------
        Windows
            The same pixels.
        """
        return replace(self, x=self.x[index], y=self.y[index], half=half, psf=self.psf.at(index))

    def arguments(self) -> tuple[NDArray[Any], ...]:
        """What every kernel of galaxies takes first.

        Returns
        -------
        tuple of array
            Pixels, places, widths and mixtures.
        """
        psf = self.psf
        return (
            self.image, self.variance, self.good, self.x, self.y, self.half,
            psf.node, psf.amplitudes, psf.covariances, psf.scale,
        )  # fmt: skip


def fit_profile(
    windows: Windows,
    *,
    start: Float64Array,
    profile: Profile,
    options: GalaxyOptions = GalaxyOptions(),
) -> GalaxyFit:
    """Fit a profile with free ellipse and flux at each position.

    Parameters
    ----------
    windows : Windows
        Pixels of n galaxies.
    start : (n, 3) float64 [pixel2]
        First guess of the half-light ellipse xx, yy, xy.
    profile : Profile
        What is fitted.
    options : GalaxyOptions
        Limits of the radius.

    Returns
    -------
    GalaxyFit
        Least squares with equal weights (the mean variance of the window), so that bright parts
        do not weigh by their own noise; a weak prior on size and ellipse decides where the data
        do not.

    References
    ----------
    Hogg & Lang 2013, PASP 125, 719; Bosch et al. 2018, PASJ 70, S5, section 4.9.
    """
    n = windows.x.size
    out = GalaxyFit(
        flux=np.empty(n),
        flux_err=np.empty(n),
        fixed_err=np.empty(n),
        shape=np.empty((n, 3)),
        chi2=np.empty(n),
        iterations=np.empty(n, np.int64),
        flags=np.zeros(n, np.uint32),
    )
    fit_galaxies(
        *windows.arguments(),
        profile.amplitudes,
        profile.variances,
        np.nan_to_num(np.ascontiguousarray(start, np.float64), nan=1.0),
        float(options.min_radius),
        float(options.max_radius),
        out.flux,
        out.flux_err,
        out.fixed_err,
        out.shape,
        out.chi2,
        out.iterations,
        out.flags,
    )
    return out


def composite_fluxes(
    windows: Windows,
    *,
    exp_shape: Float64Array,
    dev_shape: Float64Array,
    fraction: Float64Array | None = None,
) -> CompositeFlux:
    """Fit the sum of both profiles with fixed ellipses.

    Parameters
    ----------
    windows : Windows
        Pixels of n galaxies.
    exp_shape, dev_shape : (n, 3) float64 [pixel2]
        Half-light ellipses xx, yy, xy of the two profiles.
    fraction : (n,) float64, optional
        Share of the de Vaucouleurs profile; fitted if omitted.

    Returns
    -------
    CompositeFlux
        Fluxes, errors, shares, flags.
    """
    n = windows.x.size
    share = np.zeros(n) if fraction is None else np.array(fraction, np.float64)
    out = CompositeFlux(np.empty(n), np.empty(n), share, np.zeros(n, np.uint32))
    fit_composite(
        *windows.arguments(),
        EXP.amplitudes,
        EXP.variances,
        np.ascontiguousarray(exp_shape),
        DEV.amplitudes,
        DEV.variances,
        np.ascontiguousarray(dev_shape),
        out.fraction,
        fraction is None,
        out.flux,
        out.flux_err,
        out.flags,
    )
    return out


@dataclass
class CompositeGalaxies:
    """Both profiles and their best sum for n sources.

    Parameters
    ----------
    exp, dev : GalaxyFit
        Each profile alone.
    total : CompositeFlux
        Their sum, at these shapes.
    half : (n,) int64 [pixel]
        Half width of the window that was used.
    """

    exp: GalaxyFit
    dev: GalaxyFit
    total: CompositeFlux
    half: IntArray

    def replace_rows(self, index: IntArray, other: CompositeGalaxies) -> None:
        """Put the fits of some of the sources in the place of the old ones.

        Parameters
        ----------
        index : (m,) int64
            Which sources.
        other : CompositeGalaxies
            Their new fits.
        """
        self.half[index] = other.half
        for mine, new in ((self.exp, other.exp), (self.dev, other.dev), (self.total, other.total)):
            for column in fields(mine):
                getattr(mine, column.name)[index] = getattr(new, column.name)


def fit_composite_galaxies(
    windows: Windows,
    *,
    widest: IntArray,
    start: Float64Array,
    options: GalaxyOptions = GalaxyOptions(),
) -> CompositeGalaxies:
    """Fit an exponential, a de Vaucouleurs profile, and their sum with the shapes of the two.

    The window follows the moments, which weigh the core: that of a large elliptical ends within two
    of its half-light radii. Where such a galaxy meets the limit of the radius, its window doubles.

    Parameters
    ----------
    windows : Windows
        Pixels of n galaxies.
    widest : (n,) int64 [pixel]
        How far the half width of each window may grow.
    start : (n, 3) float64 [pixel2]
        First guess of the half-light ellipse xx, yy, xy.
    options : GalaxyOptions
        Limits of the radius.

    Returns
    -------
    CompositeGalaxies
        The fits; fluxes are those of the truncated profiles (2 % and 8 % less than the infinite
        ones, as in the published surveys).
    """

    def fit(some: Windows, first: Float64Array) -> CompositeGalaxies:
        exp = fit_profile(some, start=first, profile=EXP, options=options)
        # Small galaxies look smaller with the cuspy profile, large ones larger.
        cuspy = exp.shape * np.clip(0.5 * exp.radius, 0.6, 2.5)[:, None]
        dev = fit_profile(some, start=cuspy, profile=DEV, options=options)
        total = composite_fluxes(some, exp_shape=exp.shape, dev_shape=dev.shape)
        return CompositeGalaxies(exp, dev, total, some.half)

    out = fit(replace(windows, half=windows.half.copy()), start)
    while True:
        cut_off = (out.dev.flags & np.uint32(int(MeasureFlag.AT_LIMIT))) != 0
        cut_off &= (out.total.fraction > _PURE) & (out.half < widest)
        index = np.flatnonzero(cut_off)
        if not index.size:
            return out
        half = np.minimum(2 * out.half[index], widest[index])
        out.replace_rows(index, fit(windows.at(index, half), start[index]))

"""Fit a PSF model to the stars of one CCD.

The model is the PSF's pixels at native sampling, each a polynomial of the position; a star off
the centre of a pixel is the model moved in Fourier space. The least-squares solution is
reached by iteration: the residual of each star is moved back to the centre, regressed on the
polynomial, and added to the model; flux and centre of each star follow with every turn. The
fixed point is where no residual is left that the model could take up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import FitError
from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma
from skymill.psf._kernels import cut_stamps, fit_stars
from skymill.psf.models import PolynomialPsf, polynomial_basis
from skymill.psf.shift import shift_stamps

#: Error of a moved model relative to its value (undersampling, brighter-fatter residuals).
_MODEL_ERROR = 0.01

#: Stars are first normalised by their flux within this radius [pixel].
_CORE_RADIUS = 5.0

#: Pixels further from the model than this many standard deviations belong to something else.
_PIXEL_CLIP = 4.0

__all__ = ["PsfFit", "PsfFitOptions", "fit_psf"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_BAD = int(UNUSABLE | MaskPlane.INTRP)


@dataclass(frozen=True, kw_only=True)
class PsfFitOptions:
    """Options of `fit_psf`."""

    stamp_size: int = option(25, "odd width of the PSF stamp", unit="pixel")
    order: int = option(2, "highest order of the polynomial over the CCD")
    n_iterations: int = option(6, "turns of the fit")
    clip_sigma: float = option(
        4.0, "stars whose reduced chi2 stands out by more are dropped", unit="sigma"
    )
    stars_per_term: int = option(5, "stars needed per polynomial term; fewer lower the order")

    def __post_init__(self) -> None:
        check_range(self, "stamp_size", low=9)
        check_range(self, "order", low=0, high=4)
        check_range(self, "n_iterations", low=1)
        check_range(self, "clip_sigma", low=0.0, low_open=True)
        check_range(self, "stars_per_term", low=1)


@dataclass(frozen=True, eq=False)
class PsfFit:
    """A fitted PSF and what each star had to say.

    Parameters
    ----------
    psf : PolynomialPsf
        The model.
    used : (n,) bool
        The stars that the fit kept.
    x, y : (n,) float64 [pixel]
        Their fitted centres.
    flux : (n,) float64
        Their fitted fluxes.
    reduced_chi2 : (n,) float64
        Of each star's stamp.
    order : int
        The order that the number of stars allowed.
    """

    psf: PolynomialPsf
    used: BoolArray
    x: Float64Array
    y: Float64Array
    flux: Float64Array
    reduced_chi2: Float64Array
    order: int


def _allowed_order(n_stars: int, options: PsfFitOptions) -> int:
    for order in range(options.order, -1, -1):
        if n_stars >= options.stars_per_term * (order + 1) * (order + 2) // 2:
            return order
    return 0


def _regress(
    values: NDArray[np.float32], weight: NDArray[np.float32], terms: Float64Array
) -> Float64Array:
    """Weighted polynomial through each pixel's values: (n_terms, size, size)."""
    n, size, _ = values.shape
    w = weight.reshape(n, -1).astype(np.float64)
    d = values.reshape(n, -1).astype(np.float64)
    normal = np.einsum("sa,sp,sb->pab", terms, w, terms, optimize=True)
    right = np.einsum("sa,sp->pa", terms, w * d)
    scale = np.trace(normal, axis1=1, axis2=2) / terms.shape[1]
    normal += 1e-9 * np.maximum(scale, 1e-30)[:, None, None] * np.eye(terms.shape[1])
    return np.linalg.solve(normal, right[..., None])[..., 0].T.reshape(-1, size, size)


def _clip_stars(reduced: Float64Array, used: BoolArray, n_sigma: float) -> BoolArray:
    values = reduced[used]
    middle = np.median(values)
    spread = robust_sigma(values)
    # A bright star's chi2 carries the model's own error: never clip within 30 % of the middle.
    keep = np.isfinite(reduced) & (reduced < middle + n_sigma * max(spread, 0.1 * middle))
    return used & keep


def fit_psf(
    planes: PixelPlanes,
    *,
    x: Float64Array,
    y: Float64Array,
    options: PsfFitOptions = PsfFitOptions(),
) -> PsfFit:
    """Fit the PSF of a CCD to its stars.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels.
    x, y : (n,) float64 [pixel]
        Centres of the stars; within half a pixel is enough.
    options : PsfFitOptions
        Options.

    Returns
    -------
    PsfFit
        The model and the fate of each star.

    Raises
    ------
    FitError
        With fewer than three usable stars.
    """
    stars = _Stars(planes, x, y, options.stamp_size | 1)
    last = options.n_iterations - 1
    for turn in range(options.n_iterations):
        stars.set_order(_allowed_order(stars.n_used, options))
        stars.update_model(drop_neighbours=turn >= 2)
        stars.update_positions()
        if 1 <= turn < last and stars.n_used > 5:
            stars.used = _clip_stars(stars.reduced_chi2, stars.used, options.clip_sigma)
        if stars.n_used < 3:
            raise FitError(f"the PSF fit kept only {stars.n_used} of {len(x)} stars; it needs 3")
    return PsfFit(
        stars.psf, stars.used, stars.x, stars.y, stars.flux, stars.reduced_chi2, stars.order
    )


class _Stars:
    """The stars of a fit and the model so far."""

    def __init__(self, planes: PixelPlanes, x: Float64Array, y: Float64Array, size: int) -> None:
        n = len(x)
        self.x, self.y = np.array(x, np.float64), np.array(y, np.float64)
        self.ix, self.iy = np.rint(self.x).astype(np.int64), np.rint(self.y).astype(np.int64)
        self.data = np.empty((n, size, size), np.float32)
        self.weight = np.empty_like(self.data)
        cut_stamps(
            planes.image, planes.variance, planes.mask, np.int32(_BAD),
            self.ix, self.iy, self.data, self.weight,
        )  # fmt: skip
        half = size // 2
        core = self.weight[:, half - 2 : half + 3, half - 2 : half + 3].reshape(n, -1)
        self.used = (core > 0).all(axis=1) & ((self.weight > 0).mean(axis=(1, 2)) > 0.8)
        self.flux = _core_fluxes(self.data, self.weight)
        self.used &= self.flux > 0
        if self.n_used < 3:
            raise FitError(f"a PSF needs at least 3 usable stars; {n} given, {self.n_used} usable")
        ny, nx = planes.shape
        self.middle, self.half_width = ((nx - 1) / 2, (ny - 1) / 2), (nx / 2, ny / 2)
        self.reduced_chi2 = np.full(n, np.nan)
        self.model = np.zeros_like(self.data)
        self.coefficients: Float64Array | None = None
        self.order = -1
        self._drop_outliers_of_median()

    @property
    def n_used(self) -> int:
        return int(self.used.sum())

    @property
    def psf(self) -> PolynomialPsf:
        assert self.coefficients is not None
        return PolynomialPsf(self.coefficients, self.order, self.middle, self.half_width)

    def _safe_flux(self) -> Float64Array:
        return np.where(self.used & (self.flux > 0), self.flux, 1.0)

    def _drop_outliers_of_median(self) -> None:
        """Mask what the median star does not show; its variation over the CCD is allowed for."""
        first = _median_model(
            self.data, self.weight, self.flux, self.used, self.x - self.ix, self.y - self.iy
        )
        self.flux /= first.core_sum
        flux = self._safe_flux()
        residual = self.data / flux[:, None, None] - first.stamps
        self.weight = _without_neighbours(residual, self.weight, flux, 3 * first.stamps)

    def set_order(self, order: int) -> None:
        """Polynomial terms of the order that the number of stars allows."""
        if order == self.order:
            return
        self.order = order
        u = (self.x - self.middle[0]) / self.half_width[0]
        v = (self.y - self.middle[1]) / self.half_width[1]
        self.terms = polynomial_basis(u, v, order)
        if self.coefficients is not None:
            self.coefficients = _truncate(self.coefficients, order)

    def update_model(self, *, drop_neighbours: bool) -> None:
        """Regress the residuals of all stars on the polynomial and add them to the model."""
        flux = self._safe_flux()[:, None, None]
        difference = np.where(self.weight > 0, self.data - flux * self.model, 0) / flux
        residual: NDArray[np.float32] = difference.astype(np.float32)
        if drop_neighbours:
            self.weight = _without_neighbours(residual, self.weight, flux.ravel(), self.model)
            residual = np.where(self.weight > 0, residual, np.float32(0))
        shifted = shift_stamps(residual, dx=self.ix - self.x, dy=self.iy - self.y)
        # Relative weight of a star's pixel: flux^2 / variance, with a floor of the variance at
        # a fraction of the model, so that the few brightest do not carry the polynomial alone
        # (their residuals are errors of the interpolation, not noise).
        scale = flux**2 * np.where(self.weight > 0, self.weight, 0)
        floor = (_MODEL_ERROR * self.model) ** 2
        soft = (scale / (1.0 + floor * scale)).astype(np.float32) * self.used[:, None, None]
        update = _regress(shifted, soft, self.terms)
        total = update if self.coefficients is None else self.coefficients + update
        total /= total[0].sum()
        # A sum that varied over the CCD would be degenerate with the stars' fluxes.
        total[1:] -= total[1:].sum(axis=(1, 2))[:, None, None] * total[0]
        self.coefficients = total

    def update_positions(self) -> None:
        """Fit flux and centre of each star to the model."""
        n = len(self.x)
        off_x, off_y = self.x - self.ix, self.y - self.iy
        self.model = self.psf.draw(x=self.x, y=self.y, offset_x=off_x, offset_y=off_y)
        flux, dx, dy = np.empty(n), np.empty(n), np.empty(n)
        chi2, n_good = np.empty(n), np.empty(n, np.int64)
        fit_stars(self.data, self.weight, self.model, flux, dx, dy, chi2, n_good)
        fitted = np.isfinite(flux)
        self.flux = np.where(fitted, flux, self.flux)
        # A PSF off its stamp's centre would be degenerate with the stars' positions.
        centre_x, centre_y = _windowed_centroids(self.psf.draw(x=self.x, y=self.y))
        self.x = _moved(self.x, dx + centre_x, self.ix)
        self.y = _moved(self.y, dy + centre_y, self.iy)
        self.used &= fitted
        self.reduced_chi2 = chi2 / np.maximum(n_good - 3, 1)


def _core(size: int) -> BoolArray:
    axis = np.arange(size) - size // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 <= _CORE_RADIUS**2


def _core_fluxes(data: NDArray[np.float32], weight: NDArray[np.float32]) -> Float64Array:
    return np.where((weight > 0) & _core(data.shape[-1]), data, 0).sum(axis=(1, 2), dtype=float)


@dataclass(frozen=True, eq=False)
class _MedianModel:
    stamps: NDArray[np.float32]
    core_sum: float


def _median_model(
    data: NDArray[np.float32],
    weight: NDArray[np.float32],
    core_flux: Float64Array,
    used: BoolArray,
    off_x: Float64Array,
    off_y: Float64Array,
) -> _MedianModel:
    """The median star: a first model that no neighbour can bend."""
    normal = np.where(weight > 0, data, 0)[used] / core_flux[used][:, None, None]
    centred = shift_stamps(normal.astype(np.float32), dx=-off_x[used], dy=-off_y[used])
    median = np.median(centred, axis=0)
    median = (median / median.sum()).astype(np.float32)
    stamps = np.broadcast_to(median, data.shape).astype(np.float32)
    moved = shift_stamps(stamps, dx=off_x, dy=off_y)
    return _MedianModel(moved, float(median[_core(data.shape[-1])].sum()))


def _without_neighbours(
    residual: NDArray[np.floating],
    weight: NDArray[np.float32],
    flux: Float64Array,
    model: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Zero the weight of pixels that a neighbour or a cosmic ray has lifted off the model."""
    error2 = 1.0 / (flux[:, None, None] ** 2 * np.maximum(weight, 1e-30)) + (0.1 * model) ** 2
    return np.where(residual**2 > _PIXEL_CLIP**2 * error2, 0, weight).astype(np.float32)


def _windowed_centroids(stamps: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
    """Centroids (n,) relative to the stamps' centres, in a Gaussian window of the PSF's width."""
    size = stamps.shape[-1]
    axis = np.arange(size) - size // 2
    radius2 = axis[:, None] ** 2 + axis[None, :] ** 2
    mean = stamps.mean(axis=0)
    core = mean > 0.05 * mean.max()
    sigma2 = float((mean * radius2)[core].sum() / mean[core].sum() / 2)
    window = np.exp(-0.5 * radius2 / sigma2) * stamps
    total = window.sum(axis=(1, 2))
    # A Gaussian window as wide as the PSF halves the centroid.
    return (
        np.asarray(2 * (window * axis[None, None, :]).sum(axis=(1, 2)) / total, np.float64),
        np.asarray(2 * (window * axis[None, :, None]).sum(axis=(1, 2)) / total, np.float64),
    )


def _moved(centre: Float64Array, change: Float64Array, index: NDArray[np.int64]) -> Float64Array:
    """The new centre, kept within the stamp's central pixels."""
    return index + np.clip(centre + change - index, -0.98, 0.98)


def _truncate(coefficients: Float64Array, order: int) -> Float64Array:
    """Coefficients of the terms that a polynomial of lower (or higher) order still has."""
    n_old = coefficients.shape[0]
    old = int((np.sqrt(8 * n_old + 1) - 3) / 2)
    pairs_old = [(i, j) for i in range(old + 1) for j in range(old + 1 - i)]
    pairs = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    out = np.zeros((len(pairs), *coefficients.shape[1:]))
    for k, pair in enumerate(pairs):
        if pair in pairs_old:
            out[k] = coefficients[pairs_old.index(pair)]
    return out

"""Fit of one source to all exposures at once.

The fluxes, one a band, follow from linear least squares for given other parameters; the position,
the size, the ellipticity and the index come from damped Gauss-Newton steps (Levenberg, Marquardt)
on the normal equations from which the fluxes are eliminated.

Internal parameters: offsets to the East and North [arcsec] from where the stamps were placed; the
logarithm of the size a / (1 + e), in which the model is smooth at e = 0; the softened ellipticity
ee with e = 1 - exp(-|ee|), whose components have the prior N(0, 0.25); the index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from skymill.model._forward_kernels import fill_spectra, gram, normal_equations, place_model
from skymill.model.forward import profile_table
from skymill.model.sersic import N_MAX, N_MIN
from skymill.model.sources import SourceType

__all__ = ["Limits", "SourceFit", "Stamps", "evaluate_source", "fit_source"]

Float64Array = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

EAST, NORTH, LOG_SIZE, SOFT1, SOFT2, INDEX = range(6)
#: Parameters of each type, apart from the fluxes.
N_PARAMETER = {
    SourceType.PSF: 2,
    SourceType.REX: 3,
    SourceType.EXP: 5,
    SourceType.DEV: 5,
    SourceType.SER: 6,
}
#: Inverse variance of the prior of each component of the softened ellipticity.
_PRIOR = 1.0 / 0.25**2
#: Largest change of each parameter in one step.
_MAX_STEP = np.array([0.4, 0.4, 1.0, 0.6, 0.6, 0.75])
_SMALLEST_RADIUS = 0.01
_LARGEST_SOFT = 4.0


@dataclass(eq=False)
class Stamps:
    """Pixels of one source on the exposures that see it.

    Parameters
    ----------
    image : (m,) int64
        Which exposures.
    band : (m,) int64
        Their bands.
    x0, y0 : (m,) int64 [pixel]
        First pixel of each stamp in the exposure's cut-out.
    data, weight : (m, n, n) float64
        Flux without the other sources, and its inverse variance; 0 where a pixel is not used.
    window : (m, 4) int64
        Rows and columns that hold weight.
    psf : (m, n, n // 2 + 1) complex128
        Transforms of the PSFs.
    shift : (m, 2) float64 [pixel]
        Position in the stamp of the place from which the offsets count.
    to_pixel : (m, 2, 2) float64 [pixel / arcsec]
        Local affine maps.
    background : bool
        Fit a constant in each exposure, too.
    """

    image: NDArray[np.int64]
    band: NDArray[np.int64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    data: Float64Array
    weight: Float64Array
    window: NDArray[np.int64]
    psf: ComplexArray
    shift: Float64Array
    to_pixel: Float64Array
    background: bool = False

    @property
    def size(self) -> int:
        """Width of the stamps [pixel]."""
        return int(self.data.shape[-1])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a fit may do.

    Parameters
    ----------
    max_radius : float [arcsec]
        Largest half-light radius.
    fixed_position : bool
        Keep the position.
    inside : callable, optional
        Tells of offsets (east, north) [arcsec] whether they are allowed.
    tolerance : float
        Change of chi-squared that is still worth a step.
    max_steps : int
        Steps.
    """

    max_radius: float = 30.0
    fixed_position: bool = False
    inside: Callable[[float, float], bool] | None = None
    tolerance: float = 2e-3
    max_steps: int = 40


@dataclass(eq=False)
class SourceFit:
    """Result of a fit, or of an evaluation.

    Parameters
    ----------
    kind : int
        `SourceType`.
    parameters : (6,) float64
        Internal parameters.
    flux : (n_band,) float64 [nanomaggy]
        Fluxes; 0 in bands without data.
    gain : (n_band,) float64
        Inverse variances of the fluxes at fixed shape.
    chi2 : float
        Change of chi-squared against no source (negative), without the prior.
    hessian : (p, p), mixed : (p, n_band), gradient : (p,)
        Normal equations of half of chi-squared with the prior.
    planes : (m, n, n) float32
        Models of unit flux on the stamps.
    at_radius_limit, at_index_limit : bool
        A limit was met.
    steps : int
        Evaluations.
    """

    kind: int
    parameters: Float64Array
    flux: Float64Array
    gain: Float64Array
    chi2: float
    hessian: Float64Array
    mixed: Float64Array
    gradient: Float64Array
    planes: NDArray[np.float32]
    at_radius_limit: bool = False
    at_index_limit: bool = False
    steps: int = 1

    @property
    def penalised(self) -> float:
        """chi2 with the prior of the ellipticity."""
        return self.chi2 + _prior(self.kind, self.parameters)

    @property
    def signed_gain(self) -> float:
        """Chi-squared won, where bands with negative flux count negative."""
        return float((np.sign(self.flux) * self.flux**2 * self.gain).sum())

    @property
    def shape(self) -> tuple[float, float, float]:
        """Half-light radius of the major axis [arcsec] and ellipticity e1, e2."""
        if self.kind == SourceType.PSF:
            return 0.0, 0.0, 0.0
        size = float(np.exp(self.parameters[LOG_SIZE]))
        if self.kind == SourceType.REX:
            return size, 0.0, 0.0
        soft = float(np.hypot(self.parameters[SOFT1], self.parameters[SOFT2]))
        e = -np.expm1(-soft)
        ratio = e / soft if soft > 0 else 1.0
        e1, e2 = self.parameters[SOFT1] * ratio, self.parameters[SOFT2] * ratio
        return size * (1.0 + e), float(e1), float(e2)

    @property
    def sersic(self) -> float:
        """Index of the profile."""
        if self.kind == SourceType.SER:
            return float(self.parameters[INDEX])
        return {SourceType.PSF: 0.0, SourceType.DEV: 4.0}.get(SourceType(self.kind), 1.0)

    def covariance(self, *, fixed_position: bool) -> tuple[Float64Array, NDArray[np.int64]]:
        """Covariance of the parameters and the fluxes together.

        Parameters
        ----------
        fixed_position : bool
            The position was not fitted.

        Returns
        -------
        covariance : (k, k) float64
            Of the parameters that were free; those at a limit count as fixed.
        index : (k,) int64
            Which parameter; 6 + band for a flux.
        """
        p, n_band = self.mixed.shape
        full = np.zeros((p + n_band, p + n_band))
        full[:p, :p] = self.hessian
        full[:p, p:] = self.mixed
        full[p:, :p] = self.mixed.T
        full[p:, p:] = np.diag(self.gain)
        free = np.diag(full) > 0
        if fixed_position:
            free[:2] = False
        if self.at_radius_limit and p > LOG_SIZE:
            free[LOG_SIZE : min(p, SOFT2 + 1)] = False
        if self.at_index_limit and p > INDEX:
            free[INDEX] = False
        chosen = np.flatnonzero(free)
        part = full[np.ix_(chosen, chosen)]
        scale = 1.0 / np.sqrt(np.diag(part))
        inverse = np.linalg.pinv(part * scale[:, None] * scale[None, :], hermitian=True)
        index = np.where(chosen < p, chosen, chosen - p + 6)
        return inverse * scale[:, None] * scale[None, :], index

    def flux_variance(self, *, fixed_position: bool) -> Float64Array:
        """Variances of the fluxes, whatever the other parameters are.

        Parameters
        ----------
        fixed_position : bool
            The position was not fitted.

        Returns
        -------
        (n_band,) float64 [nanomaggy2]
            0 in bands without data.
        """
        covariance, index = self.covariance(fixed_position=fixed_position)
        out = np.zeros(6 + self.gain.size)
        out[index] = np.diag(covariance)
        return out[6:]


def _prior(kind: int, parameters: Float64Array) -> float:
    if N_PARAMETER[SourceType(kind)] < 5:
        return 0.0
    return float(_PRIOR * (parameters[SOFT1] ** 2 + parameters[SOFT2] ** 2))


def evaluate_source(
    stamps: Stamps, kind: int, parameters: Float64Array, n_band: int, *, derivatives: bool = True
) -> SourceFit:
    """Best fluxes and normal equations of a source with given parameters.

    Parameters
    ----------
    stamps : Stamps
        Its pixels.
    kind : int
        `SourceType`.
    parameters : (6,) float64
        Internal parameters.
    n_band : int
        Number of bands.
    derivatives : bool
        Without them the normal equations stay empty.

    Returns
    -------
    SourceFit
        The evaluation.
    """
    p = N_PARAMETER[SourceType(kind)]
    n_shape = min(max(p - 2, 0), 3)
    by_index = p == 6
    n_plane = 1 + p if derivatives else 1
    m, size = stamps.image.size, stamps.size
    profile = profile_table(kind, float(parameters[INDEX]))
    shift, quadratic = np.empty((m, 2)), np.empty((m, 3))
    d_quadratic = np.empty((m, n_shape, 3))
    place_model(parameters, stamps.shift, stamps.to_pixel, shift, quadratic, d_quadratic)
    spectra = np.empty((m, n_plane, size, size // 2 + 1), np.complex64)
    fill_spectra(
        stamps.psf,
        shift,
        quadratic,
        d_quadratic,
        profile,
        kind != SourceType.PSF,
        by_index and derivatives,
        spectra,
    )
    planes = scipy.fft.irfft2(spectra, s=(size, size), overwrite_x=True, workers=1)
    matrix, vector = np.empty((m, n_plane, n_plane)), np.empty((m, n_plane))
    gram(planes, stamps.data, stamps.weight, stamps.window, stamps.background, matrix, vector)
    flux, gain = np.empty(n_band), np.empty(n_band)
    hessian, mixed = np.empty((n_plane - 1, n_plane - 1)), np.empty((n_plane - 1, n_band))
    gradient = np.empty(n_plane - 1)
    chi2 = normal_equations(
        matrix, vector, stamps.band, stamps.to_pixel, flux, gain, hessian, mixed, gradient
    )
    if derivatives and p >= 5:
        for i in (SOFT1, SOFT2):
            hessian[i, i] += _PRIOR
            gradient[i] -= _PRIOR * parameters[i]
    return SourceFit(
        kind=int(kind),
        parameters=parameters.copy(),
        flux=flux,
        gain=gain,
        chi2=float(chi2),
        hessian=hessian,
        mixed=mixed,
        gradient=gradient,
        planes=planes[:, 0].copy(),
    )


def fit_source(
    stamps: Stamps, kind: int, start: Float64Array, n_band: int, limits: Limits
) -> SourceFit:
    """Fit one type of model.

    Parameters
    ----------
    stamps : Stamps
        Pixels of the source.
    kind : int
        `SourceType`.
    start : (6,) float64
        Internal parameters to start from.
    n_band : int
        Number of bands.
    limits : Limits
        What the fit may do.

    Returns
    -------
    SourceFit
        The fit.
    """
    p = N_PARAMETER[SourceType(kind)]
    low, high = _bounds(limits)
    state = evaluate_source(stamps, kind, np.clip(start, low, high), n_band)
    damping, evaluations = 1e-3, 1
    while evaluations < limits.max_steps:
        step, gain = _step(state, p, damping, low, high, limits.fixed_position)
        if gain < limits.tolerance:
            break
        trial = state.parameters.copy()
        trial[:p] += step * min(1.0, float(np.min(_MAX_STEP[:p] / np.maximum(np.abs(step), 1e-12))))
        trial = np.clip(trial, low, high)
        allowed = limits.inside is None or limits.inside(float(trial[EAST]), float(trial[NORTH]))
        if allowed:
            new = evaluate_source(stamps, kind, trial, n_band)
            evaluations += 1
            if new.penalised < state.penalised:
                state = new
                damping = max(damping * 0.1, 1e-6)
                continue
        damping *= 10.0 if damping >= 1e-2 else 100.0
        if damping > 1e7:
            break
    state.steps = evaluations
    if p > LOG_SIZE:
        size = state.parameters[LOG_SIZE]
        state.at_radius_limit = bool(
            size <= low[LOG_SIZE] + 1e-3 or state.shape[0] >= limits.max_radius * 0.99
            or size >= high[LOG_SIZE] - 1e-3
        )  # fmt: skip
    if p > INDEX:
        index = state.parameters[INDEX]
        state.at_index_limit = bool(min(index - N_MIN, N_MAX - index) < 1e-3)
    return state


def _bounds(limits: Limits) -> tuple[Float64Array, Float64Array]:
    low = np.array(
        [-np.inf, -np.inf, np.log(_SMALLEST_RADIUS), -_LARGEST_SOFT, -_LARGEST_SOFT, N_MIN]
    )
    largest = np.log(max(limits.max_radius, 2.0 * _SMALLEST_RADIUS))
    high = np.array([np.inf, np.inf, largest, _LARGEST_SOFT, _LARGEST_SOFT, N_MAX])
    return low, high


def _step(
    state: SourceFit,
    p: int,
    damping: float,
    low: Float64Array,
    high: Float64Array,
    fixed_position: bool,
) -> tuple[Float64Array, float]:
    """A damped step and the change of chi-squared that it promises."""
    inverse = np.where(state.gain > 0, 1.0 / np.where(state.gain > 0, state.gain, 1.0), 0.0)
    matrix = state.hessian - (state.mixed * inverse) @ state.mixed.T
    gradient = state.gradient
    now = state.parameters[:p]
    free = ~((now <= low[:p]) & (gradient < 0)) & ~((now >= high[:p]) & (gradient > 0))
    if fixed_position:
        free[:2] = False
    diagonal = np.diag(state.hessian)
    free &= diagonal > 0
    step = np.zeros(p)
    chosen = np.flatnonzero(free)
    if chosen.size == 0:
        return step, 0.0
    part = matrix[np.ix_(chosen, chosen)]
    part = part + np.diag(damping * diagonal[chosen] + 1e-9 * diagonal[chosen])
    try:
        solved = np.linalg.solve(part, gradient[chosen])
    except np.linalg.LinAlgError:
        solved = gradient[chosen] / diagonal[chosen]
    step[chosen] = solved
    return step, float(gradient[chosen] @ solved)

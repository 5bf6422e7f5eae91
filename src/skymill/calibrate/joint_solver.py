"""Least squares with one free value for each star, eliminated star by star.

The model of measurement i of star s is ``t_i + A_i p = m_s + noise``: ``t_i`` the measured value by
the current calibration, ``A_i`` its derivatives by the calibration's parameters ``p`` and ``m_s``
the star's true value, for which a reference catalogue may give a measurement of its own. The stars
are eliminated (Schur complement), so that only the parameters of the calibration stand in the
normal matrix, which is solved by Cholesky factorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from skymill.calibrate.robust import find_pedestal
from skymill.data.errors import FitError

__all__ = [
    "JointOutcome",
    "JointProblem",
    "JointSolution",
    "Measured",
    "Weights",
    "iterate",
    "solve_step",
    "update_weights",
]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Int64Array = NDArray[np.int64]

#: Values and errors of the measurements by the parameters and the stars' values.
Measured = Callable[[Float64Array, Float64Array | None], tuple[Float64Array, Float64Array]]

#: Stars whose rows are multiplied as a dense block at a time.
_BLOCK = 2000


@dataclass(frozen=True)
class JointProblem:
    """What does not change from one step to the next.

    Parameters
    ----------
    design : (n, p) sparse
        Derivatives of the measured values by the parameters; the same for all k components.
    star : (n,) int64
        Number of each measurement's star.
    prior : (p,) float64
        Standard deviations of the parameters about zero.
    reference_star : (m,) int64
        Star of each reference.
    reference : (m, k) float64
        Values of the references.
    reference_error : (m,) float64
        Their standard deviations.
    n_star : int
        Number of stars.
    """

    design: sparse.csr_array
    star: Int64Array
    prior: Float64Array
    reference_star: Int64Array
    reference: Float64Array
    reference_error: Float64Array
    n_star: int


@dataclass(frozen=True)
class Weights:
    """What is in the fit and how much it counts.

    Parameters
    ----------
    used : (n,) bool
        Measurements.
    reference_used : (m,) bool
        References.
    pedestal : float
        Scatter added in quadrature to the errors of the measurements.
    reference_pedestal : float
        The same for the references: what colours, for one, add to their errors.
    """

    used: BoolArray
    reference_used: BoolArray
    pedestal: float
    reference_pedestal: float = 0.0


@dataclass(frozen=True)
class JointSolution:
    """One step of the fit.

    Parameters
    ----------
    step : (p, k) float64
        Change of the parameters.
    covariance : (p, p) float64
        Covariance of the parameters, the same for each component.
    value : (n_star, k) float64
        Values of the stars; NaN for a star without measurements in the fit.
    residual : (n, k) float64
        Measured less star, after the step.
    leverage : (n,) float64
        Share of the measurement in its own star's value.
    reference_residual : (m, k) float64
        Reference less star.
    reference_leverage : (m,) float64
        Share of the reference in its star's value.
    """

    step: Float64Array
    covariance: Float64Array
    value: Float64Array
    residual: Float64Array
    leverage: Float64Array
    reference_residual: Float64Array
    reference_leverage: Float64Array


def _sum(index: Int64Array, values: Float64Array, size: int) -> Float64Array:
    if values.ndim == 1:
        return np.bincount(index, values, size)
    return np.stack([np.bincount(index, v, size) for v in values.T], axis=1)


def solve_step(
    problem: JointProblem,
    values: Float64Array,
    error: Float64Array,
    parameters: Float64Array,
    weights: Weights,
) -> JointSolution:
    """Solve the linear problem about the current parameters.

    Parameters
    ----------
    problem : JointProblem
        The problem.
    values : (n, k) float64
        Measured values by the current calibration.
    error : (n,) float64
        Their standard deviations without the pedestal.
    parameters : (p, k) float64
        Current parameters (their distance from zero counts against the prior).
    weights : Weights
        What is in the fit.

    Returns
    -------
    JointSolution
        The step and what it leaves.

    Raises
    ------
    FitError
        If the normal matrix is singular.
    """
    n_star = problem.n_star
    w = np.where(weights.used, 1.0 / (error**2 + weights.pedestal**2), 0.0)
    reference_variance = problem.reference_error**2 + weights.reference_pedestal**2
    w_ref = np.where(weights.reference_used, 1.0 / reference_variance, 0.0)
    total = _sum(problem.star, w, n_star) + _sum(problem.reference_star, w_ref, n_star)
    inverse = np.where(total > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)
    mean = inverse[:, None] * (
        _sum(problem.star, w[:, None] * values, n_star)
        + _sum(problem.reference_star, w_ref[:, None] * problem.reference, n_star)
    )
    weighted = problem.design.multiply(w[:, None]).tocsr()
    normal = (problem.design.T @ weighted).toarray()
    select = sparse.csr_array(
        (np.ones(w.size), (problem.star, np.arange(w.size))), shape=(n_star, w.size)
    )
    gathered = (select @ weighted).tocsr()
    for start in range(0, n_star, _BLOCK):
        rows = slice(start, min(start + _BLOCK, n_star))
        block = gathered[rows].toarray() * np.sqrt(inverse[rows])[:, None]
        normal -= block.T @ block
    prior = 1.0 / problem.prior**2
    normal[np.diag_indices_from(normal)] += prior
    gradient = weighted.T @ (values - mean[problem.star]) + prior[:, None] * parameters
    scale = 1.0 / np.sqrt(np.diag(normal))
    try:
        factor = linalg.cho_factor(normal * scale * scale[:, None], lower=True)
    except linalg.LinAlgError as err:
        raise FitError(
            "the joint calibration is not constrained by its stars (singular normal matrix); "
            "lower its orders"
        ) from err
    covariance = linalg.cho_solve(factor, np.eye(scale.size)) * scale * scale[:, None]
    step = -scale[:, None] * linalg.cho_solve(factor, scale[:, None] * gradient)
    moved = values + problem.design @ step
    value = mean + inverse[:, None] * (gathered @ step)
    value[total <= 0] = np.nan
    return JointSolution(
        step=step,
        covariance=covariance,
        value=value,
        residual=moved - value[problem.star],
        leverage=w * inverse[problem.star],
        reference_residual=problem.reference - value[problem.reference_star],
        reference_leverage=w_ref * inverse[problem.reference_star],
    )


def _normalised(
    residual: Float64Array, error: Float64Array, leverage: Float64Array
) -> Float64Array:
    """Modulus of the residuals over their own standard deviations, largest component."""
    free = np.sqrt(np.maximum(1.0 - leverage, 0.05))
    return np.abs(residual).max(axis=1) / (error * free)


def _pedestal(
    residual: Float64Array,
    error: Float64Array,
    leverage: Float64Array,
    used: BoolArray,
    before: float,
    clip: float,
    *,
    spent: int = 0,
) -> float:
    """Scatter that makes chi2 equal the degrees of freedom that the stars leave."""
    k = residual.shape[1]
    # What lies far beyond the limit is judged by the clipping, not by the pedestal.
    free = np.sqrt(np.maximum(1.0 - leverage, 0.05))
    limit = 3.0 * clip * np.sqrt(error**2 + before**2) * free
    rows = used & (np.abs(residual) < limit[:, None]).all(axis=1) & (leverage < 0.99)
    left = float(np.sum(1.0 - leverage[rows]))
    if left <= 0:
        return before
    degrees = k * max(left - spent, 0.3 * left)
    return find_pedestal(residual[rows], error[rows], degrees=degrees)


def update_weights(
    problem: JointProblem,
    solution: JointSolution,
    error: Float64Array,
    weights: Weights,
    *,
    clip: float,
) -> Weights:
    """Find the pedestal and clip outliers.

    Of each star only the worst measurement (or its reference) is dropped at once, since one
    outlier pulls its star away from the good ones.

    Parameters
    ----------
    problem : JointProblem
        The problem.
    solution : JointSolution
        The last step.
    error : (n,) float64
        Errors without the pedestal.
    weights : Weights
        Of the last step.
    clip : float
        Limit in standard deviations.

    Returns
    -------
    Weights
        For the next step.
    """
    used, ref_used = weights.used, weights.reference_used
    pedestal = _pedestal(
        solution.residual,
        error,
        solution.leverage,
        used,
        weights.pedestal,
        clip,
        spent=solution.step.shape[0],
    )
    ref_pedestal = _pedestal(
        solution.reference_residual,
        problem.reference_error,
        solution.reference_leverage,
        ref_used,
        weights.reference_pedestal,
        clip,
    )
    ref_sigma = np.sqrt(problem.reference_error**2 + ref_pedestal**2)
    sigma = np.sqrt(error**2 + pedestal**2)
    badness = np.where(used, _normalised(solution.residual, sigma, solution.leverage), 0.0)
    ref_badness = np.where(
        ref_used,
        _normalised(solution.reference_residual, ref_sigma, solution.reference_leverage),
        0.0,
    )
    worst = np.zeros(problem.n_star)
    np.maximum.at(worst, problem.star, badness)
    np.maximum.at(worst, problem.reference_star, ref_badness)
    drop = (badness > clip) & (badness >= worst[problem.star])
    drop_ref = (ref_badness > clip) & (ref_badness >= worst[problem.reference_star])
    return Weights(used & ~drop, ref_used & ~drop_ref, pedestal, ref_pedestal)


@dataclass(frozen=True)
class JointOutcome:
    """What a fit ended with.

    Parameters
    ----------
    problem : JointProblem
        The fit.
    parameters : (size, k) float64
        Its parameters.
    solution : JointSolution
        The last step.
    weights : Weights
        Who was used.
    error : (n,) float64
        Errors of the measurements.
    """

    problem: JointProblem
    parameters: Float64Array
    solution: JointSolution
    weights: Weights
    error: Float64Array


def iterate(
    problem: JointProblem,
    measured: Measured,
    components: int,
    *,
    max_iterations: int,
    clip: float,
) -> JointOutcome:
    """Linearise, solve and clip until nothing changes.

    Parameters
    ----------
    problem : JointProblem
        The fit.
    measured : callable
        Values and errors of the measurements by the parameters and the stars' values.
    components : int
        2 for positions, 1 for magnitudes.
    max_iterations : int
        At most so many steps.
    clip : float
        Outliers are beyond so many standard deviations.

    Returns
    -------
    JointOutcome
        The result.
    """
    parameters = np.zeros((problem.design.shape[1], components))
    n = problem.star.size
    weights = Weights(np.ones(n, bool), np.ones(problem.reference_star.size, bool), 0.0)
    values, error = measured(parameters, None)
    # Start with a pedestal so wide that the brightest stars do not decide alone.
    weights = Weights(weights.used, weights.reference_used, float(np.median(error)))
    solution = solve_step(problem, values, error, parameters, weights)
    for _ in range(max_iterations):
        parameters = parameters + solution.step
        new = update_weights(problem, solution, error, weights, clip=clip)
        still = (
            np.array_equal(new.used, weights.used)
            and np.array_equal(new.reference_used, weights.reference_used)
            and abs(new.pedestal - weights.pedestal) <= 1e-3 * new.pedestal + 1e-12
            and abs(new.reference_pedestal - weights.reference_pedestal)
            <= 1e-3 * new.reference_pedestal + 1e-12
            and float(np.abs(solution.step).max()) < 1e-6
        )
        weights = new
        values, error = measured(parameters, solution.value)
        if still:
            break
        solution = solve_step(problem, values, error, parameters, weights)
    return JointOutcome(problem, parameters, solution, weights, error)

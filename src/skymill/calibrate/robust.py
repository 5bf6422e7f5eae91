"""Weighted linear fits with clipping and an intrinsic scatter that is found from the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import FitError
from skymill.data.statistics import robust_sigma

__all__ = ["LinearFit", "find_pedestal", "fit_linear"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearFit:
    """Solution of a weighted linear fit.

    Parameters
    ----------
    coefficients : (p, k) float64
        Solution for each of k targets.
    covariance : (p, p) float64
        Covariance of the coefficients of each target (they share weights).
    used : (n,) bool
        Rows that were not clipped.
    pedestal : float
        Scatter added in quadrature to the given errors so that chi2 per degree of freedom is 1;
        0 if the errors suffice.
    residuals : (n, k) float64
        Target less model, for all rows.
    chi2 : float
        Of the used rows over all targets, with the pedestal.
    """

    coefficients: Float64Array
    covariance: Float64Array
    used: NDArray[np.bool_]
    pedestal: float
    residuals: Float64Array
    chi2: float


def find_pedestal(residuals: Float64Array, error: Float64Array, *, degrees: float) -> float:
    """Scatter that added in quadrature to the errors makes chi2 equal its degrees of freedom.

    Parameters
    ----------
    residuals : (n, k) float64
        Residuals.
    error : (n,) float64
        Their given standard deviations.
    degrees : float
        Degrees of freedom.

    Returns
    -------
    float
        The pedestal in the unit of the residuals; 0 if chi2 is already no larger.
    """
    square = np.sum(residuals**2, axis=1)
    variance = error**2
    if np.sum(square / variance) <= degrees:
        return 0.0
    low, high = 0.0, float(np.sum(square) / degrees)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if np.sum(square / (variance + middle)) > degrees:
            low = middle
        else:
            high = middle
    return float(np.sqrt(0.5 * (low + high)))


def _solve(
    design: Float64Array, targets: Float64Array, weight: Float64Array
) -> tuple[Float64Array, Float64Array]:
    root = np.sqrt(weight)[:, None]
    q, r = np.linalg.qr(design * root)
    if np.any(np.abs(np.diag(r)) < 1e-12 * np.abs(r).max()):
        raise FitError(
            f"the {design.shape[0]} stars do not constrain the {design.shape[1]} coefficients of "
            "the fit (they lie on a line or in one place); lower the order"
        )
    inverse = np.linalg.inv(r)
    return inverse @ (q.T @ (targets * root)), inverse @ inverse.T


def fit_linear(
    design: Float64Array,
    targets: Float64Array,
    error: Float64Array,
    *,
    clip: float = 4.0,
    iterations: int = 10,
    pedestal_floor: float = 0.0,
) -> LinearFit:
    """Fit targets by a linear model, clip outliers and find the intrinsic scatter.

    Each round fits, finds the pedestal, and drops the rows that deviate by more than ``clip``
    standard deviations; the first round takes its scale from the median absolute deviation, so
    that a minority of outliers cannot hide themselves.

    Parameters
    ----------
    design : (n, p) float64
        Model matrix.
    targets : (n, k) float64
        Data; all k share the matrix and the errors.
    error : (n,) float64
        Standard deviations, > 0.
    clip : float
        Clipping limit in standard deviations.
    iterations : int
        Most rounds.
    pedestal_floor : float
        Smallest pedestal.

    Returns
    -------
    LinearFit
        The solution.

    Raises
    ------
    FitError
        If fewer rows than coefficients are left, or they do not constrain them.
    """
    n, p = design.shape
    k = targets.shape[1]
    if n < p:
        raise FitError(f"{n} stars cannot constrain {p} coefficients; lower the order of the fit")
    used = np.ones(n, bool)
    pedestal = pedestal_floor
    # Robust start: iteratively reweighted (Cauchy) least squares resists a wrong minority.
    coefficients = _start(design, targets, error)
    residuals = targets - design @ coefficients
    scale = max(robust_sigma((residuals / error[:, None]).ravel()), 1.0)
    used = np.all(np.abs(residuals) < clip * scale * error[:, None], axis=1)
    # Rows with tiny errors must not be dropped for a scatter that all rows share.
    spread = robust_sigma(residuals.ravel())
    used |= np.all(np.abs(residuals) < clip * spread, axis=1)
    covariance = np.empty((p, p))
    for _ in range(iterations):
        if used.sum() < p:
            raise FitError(
                f"only {int(used.sum())} of {n} stars are left after clipping, too few for {p} "
                "coefficients; the match is likely wrong"
            )
        for _ in range(3):
            weight = 1.0 / (error[used] ** 2 + pedestal**2)
            coefficients, covariance = _solve(design[used], targets[used], weight)
            residuals = targets - design @ coefficients
            degrees = max(k * (int(used.sum()) - p), 1)
            pedestal = max(
                find_pedestal(residuals[used], error[used], degrees=degrees), pedestal_floor
            )
        sigma = np.sqrt(error**2 + pedestal**2)
        new = np.all(np.abs(residuals) < clip * sigma[:, None], axis=1)
        if np.array_equal(new, used):
            break
        used = new
    chi2 = float(np.sum(residuals[used] ** 2 / (error[used] ** 2 + pedestal**2)[:, None]))
    return LinearFit(coefficients, covariance, used, pedestal, residuals, chi2)


def _start(design: Float64Array, targets: Float64Array, error: Float64Array) -> Float64Array:
    weight = np.ones(error.size)
    coefficients, _ = _solve(design, targets, weight)
    for _ in range(20):
        residuals = np.sqrt(np.sum((targets - design @ coefficients) ** 2, axis=1))
        scale = max(float(np.median(residuals)), 1e-300)
        new, _ = _solve(design, targets, 1.0 / (1.0 + (residuals / (1.5 * scale)) ** 2) ** 2)
        if np.allclose(new, coefficients, rtol=0, atol=1e-3 * scale):
            return new
        coefficients = new
    return coefficients

"""Numba kernel that fits a round Moffat profile with a background to many stars."""

import math

import numpy as np
from numba import njit

_N = 6


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(matrix, right, out):
    """Gaussian elimination with pivots of a small system; False if singular."""
    n = right.size
    a, b = matrix.copy(), right.copy()
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(a[i, k]) > abs(a[pivot, k]):
                pivot = i
        if abs(a[pivot, k]) < 1e-300:
            return False
        if pivot != k:
            for j in range(n):
                a[k, j], a[pivot, j] = a[pivot, j], a[k, j]
            b[k], b[pivot] = b[pivot], b[k]
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            for j in range(k, n):
                a[i, j] -= factor * a[k, j]
            b[i] -= factor * b[k]
    for k in range(n - 1, -1, -1):
        total = b[k]
        for j in range(k + 1, n):
            total -= a[k, j] * out[j]
        out[k] = total / a[k, k]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _normal(image, weight, x0, y0, half, p, hessian, gradient):
    """Chi2, gradient and Gauss-Newton matrix of one star; p is amplitude, x, y, ln width,
    ln (beta - 1), background.
    """
    hessian[:] = 0.0
    gradient[:] = 0.0
    width2 = math.exp(2.0 * p[3])
    extra = math.exp(p[4])
    beta = 1.0 + extra
    chi2 = 0.0
    d = np.empty(_N)
    for iy in range(2 * half + 1):
        for ix in range(2 * half + 1):
            w = weight[y0 - half + iy, x0 - half + ix]
            if w <= 0.0:
                continue
            dx = x0 - half + ix - p[1]
            dy = y0 - half + iy - p[2]
            r2 = (dx * dx + dy * dy) / width2
            base = 1.0 + r2
            log_base = math.log(base)
            shape = math.exp(-beta * log_base)
            residual = image[y0 - half + iy, x0 - half + ix] - p[0] * shape - p[5]
            slope = p[0] * shape * 2.0 * beta / base
            d[0] = shape
            d[1] = slope * dx / width2
            d[2] = slope * dy / width2
            d[3] = slope * r2
            d[4] = -p[0] * shape * log_base * extra
            d[5] = 1.0
            chi2 += w * residual * residual
            for i in range(_N):
                gradient[i] += w * residual * d[i]
                for j in range(i + 1):
                    hessian[i, j] += w * d[i] * d[j]
    for i in range(_N):
        for j in range(i):
            hessian[j, i] = hessian[i, j]
    return chi2


@njit(cache=True, nogil=True, error_model="numpy")
def fit_moffats(image, weight, x, y, half, first_fwhm, out, status):
    """Levenberg-Marquardt fits; `out` (n, 6) receives amplitude, x, y, FWHM, beta, background.

    `status`: 0 good, 1 at the edge, 2 too few pixels, 3 not converged, 4 parameter at its limit.
    """
    ny, nx = image.shape
    hessian, trial_hessian = np.empty((_N, _N)), np.empty((_N, _N))
    gradient, trial_gradient = np.empty(_N), np.empty(_N)
    step = np.empty(_N)
    low, high = math.log(0.1), math.log(50.0)
    for k in range(x.size):
        x0, y0 = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        out[k] = np.nan
        if x0 < half or y0 < half or x0 >= nx - half or y0 >= ny - half:
            status[k] = 1
            continue
        used, border, count = 0, 0.0, 0
        for iy in range(y0 - half, y0 + half + 1):
            for ix in range(x0 - half, x0 + half + 1):
                if weight[iy, ix] > 0.0:
                    used += 1
                    if abs(ix - x0) == half or abs(iy - y0) == half:
                        border += image[iy, ix]
                        count += 1
        if used < (2 * half + 1) ** 2 // 2 or count == 0:
            status[k] = 2
            continue
        beta = 3.0
        width = 0.5 * first_fwhm / math.sqrt(2.0 ** (1.0 / beta) - 1.0)
        p = np.array(
            [image[y0, x0] - border / count, x[k], y[k], math.log(width), math.log(beta - 1.0),
             border / count]
        )  # fmt: skip
        chi2 = _normal(image, weight, x0, y0, half, p, hessian, gradient)
        damping, done = 1e-3, False
        for _ in range(100):
            damped = hessian.copy()
            for i in range(_N):
                damped[i, i] *= 1.0 + damping
            if not _solve(damped, gradient, step):
                break
            trial = p + step
            trial[3] = min(max(trial[3], math.log(0.2)), math.log(60.0))
            trial[4] = min(max(trial[4], low), high)
            new = _normal(image, weight, x0, y0, half, trial, trial_hessian, trial_gradient)
            if new <= chi2:
                done = chi2 - new <= 1e-9 * chi2 or (
                    abs(trial[3] - p[3]) < 1e-6 and abs(trial[4] - p[4]) < 1e-5
                )
                p[:] = trial
                chi2 = new
                hessian[:] = trial_hessian
                gradient[:] = trial_gradient
                damping = max(0.2 * damping, 1e-12)
                if done:
                    break
            else:
                damping *= 8.0
                if damping > 1e12:
                    done = True
                    break
        beta = 1.0 + math.exp(p[4])
        out[k, 0], out[k, 1], out[k, 2] = p[0], p[1], p[2]
        out[k, 3] = 2.0 * math.exp(p[3]) * math.sqrt(2.0 ** (1.0 / beta) - 1.0)
        out[k, 4], out[k, 5] = beta, p[5]
        status[k] = 0 if done else 3
        away = (p[1] - x[k]) ** 2 + (p[2] - y[k]) ** 2
        if away > 9.0 or p[0] <= 0.0:
            status[k] = 3
        elif p[4] <= low or p[3] <= math.log(0.2) or p[3] >= math.log(60.0):
            status[k] = 4

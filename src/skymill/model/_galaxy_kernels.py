"""Numba loops of `galaxy`: PSF-convolved mixtures of Gaussians, their derivatives and their fit.

The covariance of a galaxy of unit half-light radius squared is M = L L^T with
L = [[exp(p0), 0], [p1, exp(p2)]]: positive definite for any p.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}

# Bits of data.flags.MeasureFlag.
_EDGE, _PIXELS, _NO_VARIANCE, _NOT_CONVERGED, _AT_LIMIT, _NO_DATA = 1, 4, 16, 32, 512, 1024
_NEGATIVE, _NO_PSF = 256, 128

_LIMIT = 26.0

# Largest half-light radius in half widths of the window.
_REACH = 0.6


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _exp(t):
    """exp(t) for -13 <= t <= 0 to 1e-6: Taylor series of t/64, squared six times."""
    z = t * np.float32(0.015625)
    p = np.float32(1.0) + z * (
        np.float32(1.0)
        + z
        * (
            np.float32(0.5)
            + z * (np.float32(1.0 / 6.0) + z * (np.float32(1.0 / 24.0) + z * np.float32(1 / 120.0)))
        )
    )
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * p


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_row(value, start, a, b_dy, c_dy2, amplitude):
    a_, b_, c_ = np.float32(a), np.float32(2.0 * b_dy), np.float32(c_dy2)
    s_, amp = np.float32(start), np.float32(amplitude)
    half = np.float32(-0.5)
    for i in range(value.size):
        dx = s_ + np.float32(i)
        value[i] += amp * _exp(half * ((a_ * dx + b_) * dx + c_))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_row_derivatives(value, d_xx, d_yy, d_xy, start, a, b, c, dy, amplitude, scale):
    a_, b_, c_ = np.float32(a), np.float32(b), np.float32(c)
    s_, amp, dy_ = np.float32(start), np.float32(amplitude), np.float32(dy)
    k = np.float32(scale)
    half = np.float32(0.5)
    for i in range(value.size):
        dx = s_ + np.float32(i)
        ux = a_ * dx + b_ * dy_
        uy = b_ * dx + c_ * dy_
        g = amp * _exp(-half * (ux * dx + uy * dy_))
        value[i] += g
        g *= k
        d_xx[i] += half * g * (ux * ux - a_)
        d_yy[i] += half * g * (uy * uy - c_)
        d_xy[i] += g * (ux * uy - b_)


@njit(cache=True, nogil=True, error_model="numpy")
def _row_range(a, b_dy, c_dy2, x0, n):
    disc = b_dy * b_dy - a * (c_dy2 - _LIMIT)
    if disc <= 0.0:
        return 0, 0
    root = math.sqrt(disc)
    first = math.ceil(x0 + (-b_dy - root) / a)
    last = math.floor(x0 + (-b_dy + root) / a) + 1
    return max(first, 0), min(last, n)


@njit(cache=True, nogil=True, error_model="numpy")
def _render(mxx, myy, mxy, amps, variances, psf_amp, psf_cov, x0, y0, out, derivatives):
    """Model of unit flux in out[0], and its derivatives by M in out[1:4]."""
    n = out.shape[1]
    out[:, :, :] = 0.0
    for i in range(amps.size):
        for j in range(psf_amp.size):
            cxx = variances[i] * mxx + psf_cov[j, 0]
            cyy = variances[i] * myy + psf_cov[j, 1]
            cxy = variances[i] * mxy + psf_cov[j, 2]
            det = cxx * cyy - cxy * cxy
            a, b, c = cyy / det, -cxy / det, cxx / det
            amplitude = amps[i] * psf_amp[j] / (2.0 * math.pi * math.sqrt(det))
            reach = math.sqrt(_LIMIT * cyy)
            for y in range(max(0, math.ceil(y0 - reach)), min(n, math.floor(y0 + reach) + 1)):
                dy = y - y0
                first, last = _row_range(a, b * dy, c * dy * dy, x0, n)
                if last <= first:
                    continue
                if derivatives:
                    _add_row_derivatives(
                        out[0, y, first:last],
                        out[1, y, first:last],
                        out[2, y, first:last],
                        out[3, y, first:last],
                        first - x0,
                        a,
                        b,
                        c,
                        dy,
                        amplitude,
                        variances[i],
                    )
                else:
                    _add_row(out[0, y, first:last], first - x0, a, b * dy, c * dy * dy, amplitude)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _dot3(w, u, v):
    total = 0.0
    for i in range(w.size):
        total += w[i] * u[i] * v[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(out, data, weight, n_plane, matrix, vector):
    """Inner products of the planes with one another and with the data; returns data . data."""
    n = out.shape[1]
    matrix[:, :] = 0.0
    vector[:] = 0.0
    data2 = 0.0
    for y in range(n):
        w, d = weight[y], data[y]
        for i in range(n_plane):
            vector[i] += _dot3(w, out[i, y], d)
            for j in range(i, n_plane):
                matrix[i, j] += _dot3(w, out[i, y], out[j, y])
        data2 += _dot3(w, d, d)
    for i in range(n_plane):
        for j in range(i):
            matrix[i, j] = matrix[j, i]
    return data2


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(matrix, vector, n):
    """Gauss elimination with pivots, in place; the solution replaces ``vector``."""
    for i in range(n):
        p = i
        for j in range(i + 1, n):
            if abs(matrix[j, i]) > abs(matrix[p, i]):
                p = j
        if matrix[p, i] == 0.0:
            return False
        if p != i:
            for k in range(n):
                matrix[i, k], matrix[p, k] = matrix[p, k], matrix[i, k]
            vector[i], vector[p] = vector[p], vector[i]
        for j in range(i + 1, n):
            f = matrix[j, i] / matrix[i, i]
            for k in range(i, n):
                matrix[j, k] -= f * matrix[i, k]
            vector[j] -= f * vector[i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= matrix[i, k] * vector[k]
        vector[i] /= matrix[i, i]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _cut(sheet, variance, good, sx, sy, half, data, weight):
    """Copy the window; returns the number of usable pixels, their mean variance, and flags."""
    height, width = sheet.shape
    n = 2 * half + 1
    count, total = 0, 0.0
    flags = 0
    for j in range(n):
        y = sy - half + j
        for i in range(n):
            x = sx - half + i
            data[j, i] = 0.0
            weight[j, i] = 0.0
            if x < 0 or y < 0 or x >= width or y >= height:
                flags |= _EDGE
                continue
            v = variance[y, x]
            if not good[y, x]:
                flags |= _PIXELS
            elif v > 0.0 and np.isfinite(v):
                data[j, i] = sheet[y, x]
                weight[j, i] = 1.0
                total += v
                count += 1
            else:
                flags |= _NO_VARIANCE
    return count, total / max(count, 1), flags


@njit(cache=True, nogil=True, error_model="numpy")
def _penalty(p, flux, mean_log, gradient, hessian):
    """Weak prior against large sizes and thin ellipses; none against points."""
    s_size, s_ratio, s_tilt = 1.0, 1.0, 1.0
    size = max(0.0, 0.5 * (p[0] + p[2]) - mean_log)
    ratio = p[0] - p[2]
    # The tilt is relative to the size, whose derivative is left out: the prior is weak.
    scale = math.exp(-0.5 * (p[0] + p[2]))
    tilt = p[1] * scale
    gradient[0] = 0.5 * size / s_size**2 + ratio / s_ratio**2
    gradient[2] = 0.5 * size / s_size**2 - ratio / s_ratio**2
    gradient[1] = tilt * scale / s_tilt**2
    hessian[0] = (0.25 / s_size**2 if size > 0.0 else 0.0) + 1.0 / s_ratio**2
    hessian[2] = hessian[0]
    hessian[1] = scale * scale / s_tilt**2
    return (size / s_size) ** 2 + (ratio / s_ratio) ** 2 + (tilt / s_tilt) ** 2


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(data, weight, sigma2, p, amps, variances, psf_amp, psf_cov, x0, y0, low, high, out):
    """Levenberg-Marquardt over (p0, p1, p2) with the flux solved linearly at each step."""
    matrix, vector = np.empty((4, 4)), np.empty(4)
    jac = np.zeros((3, 3))
    normal, step = np.empty((3, 3)), np.empty(3)
    work, work_step = np.empty((3, 3)), np.empty(3)
    gradient, hessian = np.zeros(3), np.zeros(3)
    trial = p.copy()
    mean_log = 1.0
    damping = 1e-2
    best = np.inf
    flux = 0.0
    flags = _NOT_CONVERGED
    evaluations = 0
    for evaluation in range(30):
        evaluations = evaluation + 1
        ea, b, ec = math.exp(trial[0]), trial[1], math.exp(trial[2])
        _render(
            ea * ea, b * b + ec * ec, ea * b, amps, variances, psf_amp, psf_cov, x0, y0, out, True
        )
        data2 = _sums(out, data, weight, 4, matrix, vector)
        if not (matrix[0, 0] > 0.0):
            return 0.0, np.nan, _NO_DATA, evaluations
        new_flux = vector[0] / matrix[0, 0]
        chi2 = (data2 - new_flux * vector[0]) / sigma2
        objective = chi2 + _penalty(trial, new_flux, mean_log, gradient, hessian)
        if objective < best:
            gain = best - objective
            best, flux = objective, new_flux
            p[:] = trial
            damping = max(damping * 0.2, 1e-6)
            # A bright galaxy is never an exact mixture: its objective is known relatively.
            if gain < 1e-3 + 1e-6 * objective:
                flags = 0
                break
            # Derivatives of M by p, rows (xx, yy, xy).
            jac[0, 0], jac[2, 0] = 2.0 * ea * ea, ea * b
            jac[2, 1], jac[1, 1] = ea, 2.0 * b
            jac[1, 2] = 2.0 * ec * ec
            # Projected on the space orthogonal to the model itself, as the flux follows.
            for i in range(3):
                step[i] = -gradient[i]
                for j in range(3):
                    normal[i, j] = hessian[i] if i == j else 0.0
                for m in range(3):
                    step[i] += flux * jac[m, i] * (vector[m + 1] - flux * matrix[0, m + 1]) / sigma2
            for i in range(3):
                for j in range(3):
                    for m in range(3):
                        for k in range(3):
                            normal[i, j] += (
                                flux
                                * flux
                                * jac[m, i]
                                * jac[k, j]
                                * (
                                    matrix[m + 1, k + 1]
                                    - matrix[0, m + 1] * matrix[0, k + 1] / matrix[0, 0]
                                )
                                / sigma2
                            )
        else:
            damping = damping * 8.0
            if damping > 1e6:
                flags = 0
                break
        for i in range(3):
            work_step[i] = step[i]
            for j in range(3):
                work[i, j] = normal[i, j] * (1.0 + damping if i == j else 1.0)
        # What stands at its limit and wants to go beyond is held: the others go on without it.
        for i in range(0, 3, 2):
            if (p[i] >= high and step[i] > 0.0) or (p[i] <= low and step[i] < 0.0):
                for j in range(3):
                    work[i, j], work[j, i] = 0.0, 0.0
                work[i, i], work_step[i] = 1.0, 0.0
        if not _solve(work, work_step, 3):
            flags = _NOT_CONVERGED
            break
        largest = 0.0
        for i in range(3):
            change = max(-1.0, min(1.0, work_step[i])) if i != 1 else work_step[i]
            if i == 1:
                bound = 0.5 * math.exp(p[0]) + 0.5 * math.exp(p[2])
                change = max(-bound, min(bound, change))
            trial[i] = p[i] + change
            if i == 1:
                trial[i] = max(-math.exp(high), min(math.exp(high), trial[i]))
            else:
                trial[i] = max(low, min(high, trial[i]))
            largest = max(largest, abs(trial[i] - p[i]))
        if largest < 1e-4:
            flags = 0
            break
    if p[0] <= low and p[2] <= low:
        flags |= 0
    elif p[0] >= high or p[2] >= high:
        flags |= _AT_LIMIT
    return flux, best, flags, evaluations


@njit(cache=True, nogil=True, error_model="numpy")
def _flux_error(out, weight, variance, sx, sy, half, norm):
    """Error of the linear flux of the model in out[0] for the given variance."""
    n = 2 * half + 1
    total = 0.0
    for j in range(n):
        for i in range(n):
            if weight[j, i] > 0.0:
                m = out[0, j, i]
                total += m * m * variance[sy - half + j, sx - half + i]
    return math.sqrt(total) / norm


@njit(cache=True, nogil=True, error_model="numpy")
def _free_flux_error(out, weight, variance, sx, sy, half, p, flux, sigma2, matrix, vector):
    """Error of the flux when the shape is fitted too, for the given variance.

    Linear error propagation through the minimum: the flux moves by the first row of the inverse
    normal matrix (of flux and p, prior included) times the derivatives of the model. ``out`` holds
    the model and its derivatives by M. Not finite where the normal matrix is singular.
    """
    n = 2 * half + 1
    ea, b, ec = math.exp(p[0]), p[1], math.exp(p[2])
    jac = np.zeros((3, 3))
    jac[0, 0], jac[2, 0] = 2.0 * ea * ea, ea * b
    jac[2, 1], jac[1, 1] = ea, 2.0 * b
    jac[1, 2] = 2.0 * ec * ec
    gradient, hessian = np.zeros(3), np.zeros(3)
    _penalty(p, flux, 1.0, gradient, hessian)
    # Columns of the design as mixtures of the four planes.
    mix = np.zeros((4, 4))
    mix[0, 0] = 1.0
    for i in range(3):
        for m in range(3):
            mix[i + 1, m + 1] = flux * jac[m, i]
    _sums(out, weight, weight, 4, matrix, vector)
    normal, row = np.zeros((4, 4)), np.zeros(4)
    for i in range(4):
        for j in range(4):
            for k in range(4):
                for m in range(4):
                    normal[i, j] += mix[i, k] * mix[j, m] * matrix[k, m] / sigma2
    for i in range(3):
        normal[i + 1, i + 1] += hessian[i]
    row[0] = 1.0
    if not _solve(normal, row, 4):
        return np.nan
    share = np.zeros(4)
    for k in range(4):
        for i in range(4):
            share[k] += row[i] * mix[i, k] / sigma2
    total = 0.0
    for j in range(n):
        for i in range(n):
            if weight[j, i] > 0.0:
                response = 0.0
                for k in range(4):
                    response += share[k] * out[k, j, i]
                total += response * response * variance[sy - half + j, sx - half + i]
    return math.sqrt(total)


@njit(cache=True, nogil=True, error_model="numpy")
def fit_galaxies(
    sheet,
    variance,
    good,
    x,
    y,
    half,
    node,
    psf_amp,
    psf_cov,
    psf_scale,
    amps,
    variances,
    start,
    low,
    high,
    flux,
    flux_err,
    fixed_err,
    shape,
    chi2,
    iterations,
    flags,
):
    """Fit one profile to each source; ``shape`` receives M (xx, yy, xy)."""
    matrix, vector = np.empty((4, 4)), np.empty(4)
    for k in range(x.size):
        n = 2 * half[k] + 1
        data, weight = np.empty((n, n), np.float32), np.empty((n, n), np.float32)
        out = np.empty((4, n, n), np.float32)
        sx, sy = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        flux[k], flux_err[k], fixed_err[k] = np.nan, np.nan, np.nan
        chi2[k], iterations[k] = np.nan, 0
        shape[k, :] = np.nan
        count, sigma2, f = _cut(sheet, variance, good, sx, sy, half[k], data, weight)
        if count < 10 or node[k] < 0:
            flags[k] = f | (_NO_DATA if node[k] >= 0 else _NO_PSF | _NO_DATA)
            continue
        p = start[k].copy()
        amp, cov = psf_amp[node[k]], psf_cov[node[k]]
        x0, y0 = x[k] - sx + half[k], y[k] - sy + half[k]
        # Light far outside of the window is a guess, and the wings of neighbours suggest it.
        top = max(low, min(high, math.log(_REACH * half[k])))
        p[0], p[2] = min(p[0], top), min(p[2], top)
        value, objective, g, n_eval = _fit_one(
            data, weight, sigma2, p, amps, variances, amp, cov, x0, y0, low, top, out
        )
        a, b, c = math.exp(p[0]), p[1], math.exp(p[2])
        shape[k, 0], shape[k, 1], shape[k, 2] = a * a, b * b + c * c, a * b
        _render(shape[k, 0], shape[k, 1], shape[k, 2], amps, variances, amp, cov, x0, y0, out, True)
        norm = 0.0
        for j in range(n):
            norm += _dot3(weight[j], out[0, j], out[0, j])
        if not (norm > 0.0):
            flags[k] = f | _NO_DATA
            continue
        flux[k] = value / psf_scale[node[k]]
        fixed = _flux_error(out, weight, variance, sx, sy, half[k], norm)
        free = _free_flux_error(
            out, weight, variance, sx, sy, half[k], p, value, sigma2, matrix, vector
        )
        fixed_err[k] = fixed / psf_scale[node[k]]
        flux_err[k] = (max(free, fixed) if np.isfinite(free) else fixed) / psf_scale[node[k]]
        chi2[k], iterations[k] = objective, n_eval
        flags[k] = f | g


@njit(cache=True, nogil=True, error_model="numpy")
def fit_composite(
    sheet,
    variance,
    good,
    x,
    y,
    half,
    node,
    psf_amp,
    psf_cov,
    psf_scale,
    exp_amps,
    exp_variances,
    exp_shape,
    dev_amps,
    dev_variances,
    dev_shape,
    fraction,
    free,
    flux,
    flux_err,
    flags,
):
    """Linear fit of the sum of both profiles with fixed shapes.

    With ``free`` both fluxes are fitted, neither below zero, and ``fraction`` receives the share
    of the second; without, ``fraction`` is given and only the total flux is fitted.
    """
    for k in range(x.size):
        n = 2 * half[k] + 1
        data, weight = np.empty((n, n), np.float32), np.empty((n, n), np.float32)
        first = np.empty((4, n, n), np.float32)
        second = np.empty((4, n, n), np.float32)
        sx, sy = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        flux[k], flux_err[k] = np.nan, np.nan
        count, _, f = _cut(sheet, variance, good, sx, sy, half[k], data, weight)
        known = np.isfinite(exp_shape[k, 0]) and np.isfinite(dev_shape[k, 0])
        if count < 10 or node[k] < 0 or not known:
            flags[k] = f | _NO_DATA
            continue
        amp, cov = psf_amp[node[k]], psf_cov[node[k]]
        x0, y0 = x[k] - sx + half[k], y[k] - sy + half[k]
        s = exp_shape[k]
        _render(s[0], s[1], s[2], exp_amps, exp_variances, amp, cov, x0, y0, first, False)
        s = dev_shape[k]
        _render(s[0], s[1], s[2], dev_amps, dev_variances, amp, cov, x0, y0, second, False)
        if free:
            ee, ed, dd, e_i, d_i = 0.0, 0.0, 0.0, 0.0, 0.0
            for j in range(n):
                ee += _dot3(weight[j], first[0, j], first[0, j])
                ed += _dot3(weight[j], first[0, j], second[0, j])
                dd += _dot3(weight[j], second[0, j], second[0, j])
                e_i += _dot3(weight[j], first[0, j], data[j])
                d_i += _dot3(weight[j], second[0, j], data[j])
            det = ee * dd - ed * ed
            alone = 1.0 if d_i * d_i * ee > e_i * e_i * dd else 0.0
            fraction[k] = alone
            if det > 1e-6 * ee * dd:
                f_e, f_d = (dd * e_i - ed * d_i) / det, (ee * d_i - ed * e_i) / det
                if f_e > 0.0 and f_d > 0.0:
                    fraction[k] = f_d / (f_e + f_d)
        q = np.float32(fraction[k])
        for j in range(n):
            for i in range(n):
                first[0, j, i] += q * (second[0, j, i] - first[0, j, i])
        mm, m_d = 0.0, 0.0
        for j in range(n):
            mm += _dot3(weight[j], first[0, j], first[0, j])
            m_d += _dot3(weight[j], first[0, j], data[j])
        if not (mm > 0.0):
            flags[k] = f | _NO_DATA
            continue
        flux[k] = m_d / mm / psf_scale[node[k]]
        flux_err[k] = _flux_error(first, weight, variance, sx, sy, half[k], mm)
        flux_err[k] /= psf_scale[node[k]]
        flags[k] = f


@njit(cache=True, nogil=True, error_model="numpy")
def _first_guess(stamp, weight, cov):
    """Widths from the area above half maximum, 2 pi ln 2 sigma2 for a Gaussian."""
    half = stamp.shape[0] // 2
    n_component = weight.size
    area = 0.0
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            if stamp[j, i] > 0.5 * stamp[half, half]:
                area += 1.0
    width = max(area / (2.0 * math.pi * math.log(2.0)), 0.3)
    for c in range(n_component):
        weight[c] = 0.6 if c == 0 else 0.4 / (n_component - 1)
        cov[c, 0] = width * (0.8 if c == 0 else 1.8 * 3.0 ** (c - 1))
        cov[c, 1], cov[c, 2] = cov[c, 0], 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(weight, cov, inv):
    """Rows (a, 2 b, c, height) of each component: height exp(-(a x2 + 2 b x y + c y2)/2)."""
    for c in range(weight.size):
        det = cov[c, 0] * cov[c, 1] - cov[c, 2] * cov[c, 2]
        inv[c, 0], inv[c, 1], inv[c, 2] = cov[c, 1] / det, -2.0 * cov[c, 2] / det, cov[c, 0] / det
        inv[c, 3] = weight[c] / (2.0 * math.pi * math.sqrt(det))


@njit(cache=True, nogil=True, error_model="numpy")
def _em_step(stamp, weight, cov, inv, share, new):
    """One step of expectation maximisation on the pixels above 1e-5 of the peak."""
    size = stamp.shape[0]
    half = size // 2
    floor = 1e-5 * stamp[half, half]
    n_component = weight.size
    _inverse(weight, cov, inv)
    new[:, :] = 0.0
    for j in range(size):
        dy = j - half
        for i in range(size):
            v = stamp[j, i]
            if v <= floor:
                continue
            dx = i - half
            norm = 1e-300
            for c in range(n_component):
                q = (inv[c, 0] * dx + inv[c, 1] * dy) * dx + inv[c, 2] * dy * dy
                share[c] = inv[c, 3] * math.exp(-0.5 * q)
                norm += share[c]
            v /= norm
            for c in range(n_component):
                r = v * share[c]
                new[c, 0] += r
                new[c, 1] += r * dx * dx
                new[c, 2] += r * dy * dy
                new[c, 3] += r * dx * dy
    total = 0.0
    for c in range(n_component):
        total += new[c, 0]
    for c in range(n_component):
        weight[c] = new[c, 0] / total
        if new[c, 0] > 1e-6 * total:
            cov[c, 0] = max(new[c, 1] / new[c, 0], 0.2)
            cov[c, 1] = max(new[c, 2] / new[c, 0], 0.2)
            bound = 0.95 * math.sqrt(cov[c, 0] * cov[c, 1])
            cov[c, 2] = max(-bound, min(bound, new[c, 3] / new[c, 0]))


@njit(cache=True, nogil=True, error_model="numpy")
def fit_mixture(stamps, n_component, iterations, amplitudes, covariances, scale):
    """Mixture of concentric Gaussians for each PSF stamp, by expectation maximisation.

    Each stamp starts from the mixture of the one before and then needs a third of the steps.
    ``scale`` receives the flux that the mixture, fitted linearly, finds in the stamp of a star of
    unit flux.
    """
    n, size, _ = stamps.shape
    half = size // 2
    share, weight = np.empty(n_component), np.empty(n_component)
    cov, inv, new = (
        np.empty((n_component, 3)),
        np.empty((n_component, 4)),
        np.empty((n_component, 4)),
    )
    for s in range(n):
        stamp = stamps[s]
        similar = s > 0 and abs(stamp[half, half] / stamps[s - 1, half, half] - 1.0) < 0.2
        if not similar:
            _first_guess(stamp, weight, cov)
        for _ in range(iterations // 3 if similar else iterations):
            _em_step(stamp, weight, cov, inv, share, new)
        _inverse(weight, cov, inv)
        total = 0.0
        for j in range(size):
            for i in range(size):
                total += stamp[j, i]
        mm, m_p = 0.0, 0.0
        for j in range(size):
            for i in range(size):
                dx, dy = i - half, j - half
                m = 0.0
                for c in range(n_component):
                    q = (inv[c, 0] * dx + inv[c, 1] * dy) * dx + inv[c, 2] * dy * dy
                    m += inv[c, 3] * math.exp(-0.5 * q)
                m *= total
                mm += m * m
                m_p += m * stamp[j, i]
        for c in range(n_component):
            amplitudes[s, c] = weight[c] * total
            covariances[s, c, 0], covariances[s, c, 1] = cov[c, 0], cov[c, 1]
            covariances[s, c, 2] = cov[c, 2]
        scale[s] = m_p / mm

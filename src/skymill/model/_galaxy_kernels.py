"""Numba loops of `galaxy`: PSF-convolved mixtures of Gaussians, their derivatives and their fit.

A galaxy's shape is the matrix M (xx, yy, xy) of its half-light ellipse. The model is nearly linear
in M down to points, which keeps the fits short; M stays positive definite by limits on its axes.
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

# Pixels that are drawn at once.
_BLOCK = 16

# Largest half-light radius in half widths of the window.
_REACH = 0.6

# Inverse of the prior's width of sinh(ln(a/b)).
_ROUND = 0.7


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
def _add_block(value, start, a, b2, c, amplitude):
    """Add a Gaussian to _BLOCK pixels: a fixed count makes vectors of short rows, too."""
    lowest = np.float32(-13.0)
    for i in range(_BLOCK):
        dx = start + np.float32(i)
        t = np.float32(-0.5) * ((a * dx + b2) * dx + c)
        g = amplitude * _exp(max(t, lowest))
        value[i] += g if t > lowest else np.float32(0.0)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_block_derivatives(out, start, a, b, c, b_dy, c_dy, dy, amplitude, k):
    """Add a Gaussian and its derivatives by xx, yy, xy to _BLOCK pixels.

    The four lie one after the other: were they in arrays of their own, the loop would have to
    watch that they do not overlap.
    """
    half, lowest = np.float32(0.5), np.float32(-13.0)
    for i in range(_BLOCK):
        dx = start + np.float32(i)
        ux = a * dx + b_dy
        uy = b * dx + c_dy
        t = -half * (ux * dx + uy * dy)
        g = amplitude * _exp(max(t, lowest))
        g = g if t > lowest else np.float32(0.0)
        out[i] += g
        g *= k
        out[i + _BLOCK] += half * g * (ux * ux - a)
        out[i + 2 * _BLOCK] += half * g * (uy * uy - c)
        out[i + 3 * _BLOCK] += g * (ux * uy - b)


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
    """Model of unit flux, with ``derivatives`` also its derivatives by M.

    ``out`` (n, blocks, _BLOCK or 4 _BLOCK) holds _BLOCK pixels of the value, then of each
    derivative; the last pixels of a row may be too many.
    """
    n, blocks = out.shape[0], out.shape[1]
    out[:, :, :] = 0.0
    for i in range(amps.size):
        for j in range(psf_amp.size):
            cxx = variances[i] * mxx + psf_cov[j, 0]
            cyy = variances[i] * myy + psf_cov[j, 1]
            cxy = variances[i] * mxy + psf_cov[j, 2]
            det = cxx * cyy - cxy * cxy
            a, b, c = cyy / det, -cxy / det, cxx / det
            amplitude = np.float32(amps[i] * psf_amp[j] / (2.0 * math.pi * math.sqrt(det)))
            a_, b_, c_, k = np.float32(a), np.float32(b), np.float32(c), np.float32(variances[i])
            reach = math.sqrt(_LIMIT * cyy)
            for y in range(max(0, math.ceil(y0 - reach)), min(n, math.floor(y0 + reach) + 1)):
                dy = y - y0
                first, last = _row_range(a, b * dy, c * dy * dy, x0, blocks * _BLOCK)
                dy_, b_dy, c_dy = np.float32(dy), np.float32(b * dy), np.float32(c * dy)
                for block in range(first // _BLOCK, (last + _BLOCK - 1) // _BLOCK):
                    start = np.float32(block * _BLOCK - x0)
                    if derivatives:
                        _add_block_derivatives(
                            out[y, block], start, a_, b_, c_, b_dy, c_dy, dy_, amplitude, k
                        )
                    else:
                        b2, c2 = np.float32(2.0) * b_dy, c_dy * dy_
                        _add_block(out[y, block], start, a_, b2, c2, amplitude)


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(drawn, weight, planes):
    """Put the parts of all blocks together, zero where there are no data."""
    n_plane = planes.shape[0]
    flat = drawn.reshape(-1)
    for k in range(weight.size // _BLOCK):
        w = weight[k * _BLOCK : (k + 1) * _BLOCK]
        for m in range(n_plane):
            start = (k * n_plane + m) * _BLOCK
            source = flat[start : start + _BLOCK]
            target = planes[m, k * _BLOCK : (k + 1) * _BLOCK]
            for i in range(_BLOCK):
                target[i] = source[i] * w[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _dot(u, v):
    total = 0.0
    for i in range(u.size):
        total += np.float64(u[i]) * np.float64(v[i])
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _products(planes, data, matrix, vector):
    """Inner products of the planes with one another and with the data."""
    for i in range(planes.shape[0]):
        vector[i] = _dot(planes[i], data)
        for j in range(i + 1):
            matrix[i, j] = _dot(planes[i], planes[j])
            matrix[j, i] = matrix[i, j]


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
def _cut(sheet, variance, good, sx, sy, half, data, weight, noise):
    """Copy the window; returns the number of usable pixels, their mean variance, and flags.

    Data, weight and noise (the variance) are zero where a pixel may not be used, and in what a row
    has more than the window.
    """
    height, width = sheet.shape
    n = 2 * half + 1
    stride = data.size // n
    data[:], weight[:], noise[:] = 0.0, 0.0, 0.0
    count, total = 0, 0.0
    flags = 0
    for j in range(n):
        y = sy - half + j
        for i in range(n):
            x = sx - half + i
            p = j * stride + i
            if x < 0 or y < 0 or x >= width or y >= height:
                flags |= _EDGE
                continue
            v = variance[y, x]
            if not good[y, x]:
                flags |= _PIXELS
            elif v > 0.0 and np.isfinite(v):
                data[p], weight[p], noise[p] = sheet[y, x], 1.0, v
                total += v
                count += 1
            else:
                flags |= _NO_VARIANCE
    return count, total / max(count, 1), flags


@njit(cache=True, nogil=True, error_model="numpy")
def _blur(psf_amp, psf_cov):
    """Variance of the widest Gaussian that carries a fifth of the PSF."""
    blur = 0.0
    for j in range(psf_amp.size):
        if psf_amp[j] > 0.2:
            blur = max(blur, 0.5 * (psf_cov[j, 0] + psf_cov[j, 1]))
    return blur


@njit(cache=True, nogil=True, error_model="numpy")
def _penalty(shape, floor, gradient, hessian):
    """Weak prior against large sizes and thin ellipses; none against points.

    The square of (ln size - 1) where that is positive, with the size from the mean variance, and
    that of the sinh of the logarithm of the axis ratio, in units of its width; ``floor`` is a
    variance below which no ellipse can be seen. Fills half of the gradient and of the Gauss-Newton
    Hessian by (xx, yy, xy).
    """
    xx, yy, xy = shape[0] + floor, shape[1] + floor, shape[2]
    det = xx * yy - xy * xy
    root = math.sqrt(det)
    size = max(0.0, 0.5 * math.log(0.5 * (shape[0] + shape[1])) - 1.0)
    slope = 0.5 / (shape[0] + shape[1]) if size > 0.0 else 0.0
    e1, e2 = 0.5 * _ROUND * (xx - yy) / root, _ROUND * xy / root
    inner, half = _ROUND / root, 0.5 / det
    rows = (
        (slope, slope, 0.0, size),
        (0.5 * inner - e1 * half * yy, -0.5 * inner - e1 * half * xx, e1 * xy / det, e1),
        (-e2 * half * yy, -e2 * half * xx, inner + e2 * xy / det, e2),
    )
    total = 0.0
    gradient[:] = 0.0
    hessian[:, :] = 0.0
    for row in rows:
        jac = (row[0], row[1], row[2])
        total += row[3] * row[3]
        for i in range(3):
            gradient[i] += jac[i] * row[3]
            for j in range(3):
                hessian[i, j] += jac[i] * jac[j]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _axes(shape):
    """Variances along the axes of the ellipse, larger first, and its direction's cos and sin."""
    half, tilt = 0.5 * (shape[0] - shape[1]), shape[2]
    mean, root = 0.5 * (shape[0] + shape[1]), math.sqrt(half * half + tilt * tilt)
    if root < 1e-12 * abs(mean):
        return mean, mean, 1.0, 0.0
    angle = 0.5 * math.atan2(tilt, half)
    return mean + root, mean - root, math.cos(angle), math.sin(angle)


@njit(cache=True, nogil=True, error_model="numpy")
def _limit(shape, low, high):
    """Bring the axes of an ellipse into their range, in place."""
    major, minor, c, s = _axes(shape)
    if minor >= low and major <= high:
        return
    major, minor = max(low, min(high, major)), max(low, min(high, minor))
    shape[0] = c * c * major + s * s * minor
    shape[1] = s * s * major + c * c * minor
    shape[2] = c * s * (major - minor)


@njit(cache=True, nogil=True, error_model="numpy")
def _normal_equations(flux, matrix, vector, sigma2, gradient, hessian, normal, right):
    """Gauss-Newton equations of the shape, the flux following it linearly, prior included."""
    for i in range(3):
        inner = vector[i + 1] - flux * matrix[0, i + 1]
        right[i] = flux * inner / sigma2 - gradient[i]
        for j in range(3):
            inner = matrix[i + 1, j + 1] - matrix[0, i + 1] * matrix[0, j + 1] / matrix[0, 0]
            normal[i, j] = flux * flux * inner / sigma2 + hessian[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _propose(shape, normal, right, damping, low, high, reach, work, step, turn):
    """The step of the shape, written into ``step``; returns by how much the objective falls.

    The equations are solved along the ellipse's own axes. An axis at its limit that wants to go
    beyond is held: the others go on without it.
    """
    major, minor, c, s = _axes(shape)
    turn[0, 0], turn[0, 1], turn[0, 2] = c * c, s * s, -2.0 * c * s
    turn[1, 0], turn[1, 1], turn[1, 2] = s * s, c * c, 2.0 * c * s
    turn[2, 0], turn[2, 1], turn[2, 2] = c * s, -c * s, c * c - s * s
    own, force = np.zeros((3, 3)), np.zeros(3)
    for i in range(3):
        for k in range(3):
            force[i] += turn[k, i] * right[k]
            for j in range(3):
                for m in range(3):
                    own[i, j] += turn[k, i] * normal[k, m] * turn[m, j]
    held = np.zeros(3, np.bool_)
    for i in range(2):
        axis = major if i == 0 else minor
        held[i] = (axis <= 1.0001 * low and force[i] < 0.0) or (
            axis >= 0.9999 * high and force[i] > 0.0
        )
    held[2] = held[0] and held[1]
    along = np.zeros(3)
    for i in range(3):
        along[i] = 0.0 if held[i] else force[i]
        for j in range(3):
            work[i, j] = 0.0 if held[i] or held[j] else own[i, j]
        work[i, i] = 1.0 if held[i] else own[i, i] * (1.0 + damping) + 1e-300
    if not _solve(work, along, 3):
        return np.nan
    fall = 0.0
    longest = max(abs(along[0]), abs(along[1]), abs(along[2]))
    shrink = min(1.0, (0.5 * (major + minor) + reach) / max(longest, 1e-300))
    for i in range(3):
        along[i] *= shrink
    for i in range(3):
        fall += 2.0 * along[i] * force[i]
        step[i] = 0.0
        for j in range(3):
            fall -= along[i] * own[i, j] * along[j]
            step[i] += turn[i, j] * along[j]
    return fall


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(
    data,
    weight,
    sigma2,
    shape,
    amps,
    variances,
    psf_amp,
    psf_cov,
    x0,
    y0,
    low,
    high,
    drawn,
    planes,
):
    """Levenberg-Marquardt over the ellipse, the flux solved linearly at each step.

    Returns flux, objective, flags, evaluations; ``planes`` keep model and derivatives of the last
    evaluation, which lies within a small step of the solution.
    """
    matrix, vector = np.empty((4, 4)), np.empty(4)
    normal, right = np.empty((3, 3)), np.empty(3)
    gradient, hessian = np.empty(3), np.empty((3, 3))
    work, step, turn = np.empty((3, 3)), np.empty(3), np.empty((3, 3))
    data2 = _dot(data, data)
    # What the PSF blurs: steps are bounded by it, and thinner ellipses cannot be seen.
    blur = _blur(psf_amp, psf_cov)
    floor = 0.1 * blur
    _limit(shape, low, high)
    trial = shape.copy()
    damping, best, flux, evaluations = 1e-3, np.inf, 0.0, 0
    flags = _NOT_CONVERGED
    for _ in range(30):
        evaluations += 1
        _render(
            trial[0], trial[1], trial[2], amps, variances, psf_amp, psf_cov, x0, y0, drawn, True
        )
        _gather(drawn, weight, planes)
        _products(planes, data, matrix, vector)
        if not (matrix[0, 0] > 0.0):
            return 0.0, np.nan, _NO_DATA, evaluations
        new_flux = vector[0] / matrix[0, 0]
        objective = (data2 - new_flux * vector[0]) / sigma2
        objective += _penalty(trial, floor, gradient, hessian)
        if objective <= best:
            gain = best - objective
            best, flux = objective, new_flux
            shape[:] = trial
            damping = max(damping * 0.1, 1e-6)
            # A bright galaxy is never an exact mixture: its objective is known relatively.
            if gain < 1e-3 + 1e-6 * objective:
                flags = 0
                break
            _normal_equations(flux, matrix, vector, sigma2, gradient, hessian, normal, right)
        else:
            damping = max(damping * 10.0, 1e-2)
            if damping > 1e6:
                flags = 0
                break
        fall = _propose(shape, normal, right, damping, low, high, blur, work, step, turn)
        if np.isnan(fall):
            break
        for i in range(3):
            trial[i] = shape[i] + step[i]
        _limit(trial, low, high)
        if fall < 1e-2 + 1e-6 * best and objective <= best:
            # So small a step needs no evaluation: the flux follows it linearly.
            for i in range(3):
                flux -= new_flux * matrix[0, i + 1] / matrix[0, 0] * (trial[i] - shape[i])
            shape[:] = trial
            flags = 0
            break
    if _axes(shape)[0] >= 0.9999 * high:
        flags |= _AT_LIMIT
    return flux, best, flags, evaluations


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _weighted_square(plane, variance):
    total = 0.0
    for i in range(plane.size):
        total += plane[i] * plane[i] * variance[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _free_flux_error(planes, noise, shape, flux, sigma2, floor, matrix, response):
    """Error of the flux when the shape is fitted too, for the given variance.

    Linear error propagation through the minimum: the flux moves by the first row of the inverse
    normal matrix (of flux and shape, prior included) times the derivatives of the model, which are
    ``planes``. Not finite where the normal matrix is singular.
    """
    gradient, hessian = np.empty(3), np.empty((3, 3))
    _penalty(shape, floor, gradient, hessian)
    normal, row = np.empty((4, 4)), np.zeros(4)
    for i in range(4):
        for j in range(4):
            scale = (1.0 if i == 0 else flux) * (1.0 if j == 0 else flux)
            normal[i, j] = scale * matrix[i, j] / sigma2
            if i > 0 and j > 0:
                normal[i, j] += hessian[i - 1, j - 1]
    row[0] = 1.0
    if not _solve(normal, row, 4):
        return np.nan
    response[:] = 0.0
    for k in range(4):
        _add_scaled(response, planes[k], np.float32(row[k] * (1.0 if k == 0 else flux) / sigma2))
    return math.sqrt(_weighted_square(response, noise))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_scaled(target, source, factor):
    for i in range(target.size):
        target[i] += factor * source[i]


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
        stride = _BLOCK * ((n + _BLOCK - 1) // _BLOCK)
        data, weight = np.empty(n * stride, np.float32), np.empty(n * stride, np.float32)
        noise, response = np.empty(n * stride, np.float32), np.empty(n * stride, np.float32)
        drawn = np.empty((n, stride // _BLOCK, 4 * _BLOCK), np.float32)
        planes = np.empty((4, n * stride), np.float32)
        sx, sy = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        flux[k], flux_err[k], fixed_err[k] = np.nan, np.nan, np.nan
        chi2[k], iterations[k] = np.nan, 0
        shape[k, :] = np.nan
        count, sigma2, f = _cut(sheet, variance, good, sx, sy, half[k], data, weight, noise)
        if count < 10 or node[k] < 0:
            flags[k] = f | (_NO_DATA if node[k] >= 0 else _NO_PSF | _NO_DATA)
            continue
        amp, cov, scale = psf_amp[node[k]], psf_cov[node[k]], psf_scale[node[k]]
        x0, y0 = x[k] - sx + half[k], y[k] - sy + half[k]
        # Light far outside of the window is a guess, and the wings of neighbours suggest it.
        top = max(low, min(high, _REACH * half[k]))
        found = start[k].copy()
        value, objective, g, n_eval = _fit_one(
            data, weight, sigma2, found, amps, variances, amp, cov, x0, y0,
            low * low, top * top, drawn, planes,
        )  # fmt: skip
        chi2[k], iterations[k], flags[k] = objective, n_eval, f | g
        if not np.isfinite(objective):
            continue
        _products(planes, data, matrix, vector)
        shape[k, :] = found
        flux[k] = value / scale
        fixed = math.sqrt(_weighted_square(planes[0], noise)) / matrix[0, 0]
        free = _free_flux_error(
            planes, noise, found, value, sigma2, 0.1 * _blur(amp, cov), matrix, response
        )
        fixed_err[k] = fixed / scale
        flux_err[k] = (max(free, fixed) if np.isfinite(free) else fixed) / scale


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
    matrix, vector = np.empty((2, 2)), np.empty(2)
    for k in range(x.size):
        n = 2 * half[k] + 1
        stride = _BLOCK * ((n + _BLOCK - 1) // _BLOCK)
        data, weight = np.empty(n * stride, np.float32), np.empty(n * stride, np.float32)
        noise = np.empty(n * stride, np.float32)
        drawn = np.empty((n, stride // _BLOCK, _BLOCK), np.float32)
        planes = np.zeros((2, n * stride), np.float32)
        sx, sy = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        flux[k], flux_err[k] = np.nan, np.nan
        count, _, f = _cut(sheet, variance, good, sx, sy, half[k], data, weight, noise)
        e, d = exp_shape[k], dev_shape[k]
        known = np.isfinite(e[0]) and np.isfinite(d[0])
        if count < 10 or node[k] < 0 or not known:
            flags[k] = f | _NO_DATA
            continue
        amp, cov = psf_amp[node[k]], psf_cov[node[k]]
        x0, y0 = x[k] - sx + half[k], y[k] - sy + half[k]
        # A profile without a share need not be drawn.
        if free or fraction[k] < 1.0:
            _render(e[0], e[1], e[2], exp_amps, exp_variances, amp, cov, x0, y0, drawn, False)
            _gather(drawn, weight, planes[:1])
        if free or fraction[k] > 0.0:
            _render(d[0], d[1], d[2], dev_amps, dev_variances, amp, cov, x0, y0, drawn, False)
            _gather(drawn, weight, planes[1:])
        _products(planes, data, matrix, vector)
        if free:
            fraction[k] = _share(matrix, vector)
        q = fraction[k]
        mm = (1.0 - q) ** 2 * matrix[0, 0] + 2.0 * q * (1.0 - q) * matrix[0, 1]
        mm += q * q * matrix[1, 1]
        if not (mm > 0.0):
            flags[k] = f | _NO_DATA
            continue
        m_d = (1.0 - q) * vector[0] + q * vector[1]
        model = np.zeros(n * stride, np.float32)
        _add_scaled(model, planes[0], np.float32(1.0 - q))
        _add_scaled(model, planes[1], np.float32(q))
        scale = psf_scale[node[k]]
        flux[k] = m_d / mm / scale
        flux_err[k] = math.sqrt(_weighted_square(model, noise)) / mm / scale
        flags[k] = f


@njit(cache=True, nogil=True, error_model="numpy")
def _share(matrix, vector):
    """Share of the second of two models whose fluxes are fitted, neither below zero."""
    ee, ed, dd = matrix[0, 0], matrix[0, 1], matrix[1, 1]
    e_i, d_i = vector[0], vector[1]
    det = ee * dd - ed * ed
    if det > 1e-6 * ee * dd:
        f_e, f_d = (dd * e_i - ed * d_i) / det, (ee * d_i - ed * e_i) / det
        if f_e > 0.0 and f_d > 0.0:
            return f_d / (f_e + f_d)
    return 1.0 if d_i * d_i * ee > e_i * e_i * dd else 0.0

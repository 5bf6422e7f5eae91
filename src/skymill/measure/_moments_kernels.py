"""Numba loops of `moments`: adaptive Gaussian-weighted moments."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}

# Bits of data.flags.MeasureFlag.
_EDGE, _CENTRE, _PIXELS, _SATURATED, _NO_VARIANCE = 1, 2, 4, 8, 16
_NOT_CONVERGED, _BAD_MOMENTS, _NEGATIVE, _NO_DATA, _SHIFTED = 32, 64, 256, 1024, 4096
_INTERPOLATED = 8192

# Columns of the result.
X, Y, IXX, IYY, IXY, SUM, RHO4, VARIANCE, ITERATIONS = range(9)
COLUMNS = 9


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _exp(t):
    """exp(t) for -13 <= t <= 0 to 1e-10: Taylor series of t/64, squared six times."""
    z = t * 0.015625
    p = 1.0 + z * (
        1.0
        + z
        * (
            0.5
            + z
            * (1.0 / 6.0 + z * (1.0 / 24.0 + z * (1.0 / 120.0 + z * (1.0 / 720.0 + z / 5040.0))))
        )
    )
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * p


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _row_sums(row, start, a, b_dy, c_dy2):
    """Sums of w I, w I dx, w I dx2 and w I rho4 along a row; dx of its first pixel is start."""
    s0, s1, s2, s4 = 0.0, 0.0, 0.0, 0.0
    for i in range(row.size):
        dx = start + i
        rho2 = (a * dx + 2.0 * b_dy) * dx + c_dy2
        wi = _exp(-0.5 * rho2) * row[i]
        s0 += wi
        s1 += wi * dx
        s2 += wi * dx * dx
        s4 += wi * rho2 * rho2
    return s0, s1, s2, s4


@njit(cache=True, nogil=True, error_model="numpy")
def _row_range(a, b_dy, c_dy2, x0, nx, limit):
    """Pixels [first, last) of a row with rho2 < limit, and if the row leaves the image."""
    disc = b_dy * b_dy - a * (c_dy2 - limit)
    if disc <= 0.0:
        return 0, 0, False
    root = math.sqrt(disc)
    first = math.ceil(x0 + (-b_dy - root) / a)
    last = math.floor(x0 + (-b_dy + root) / a) + 1
    leaves = first < 0 or last > nx
    return max(first, 0), min(last, nx), leaves


@njit(cache=True, nogil=True, error_model="numpy")
def _weighted_sums(image, x0, y0, mxx, myy, mxy, limit, sums):
    """Sums over the ellipse rho2 < limit: w I times (1, dx, dy, dx2, dxdy, dy2, rho4)."""
    ny, nx = image.shape
    det = mxx * myy - mxy * mxy
    a, b, c = myy / det, -mxy / det, mxx / det
    reach = math.sqrt(limit * myy)
    first_y, last_y = max(0, math.ceil(y0 - reach)), min(ny, math.floor(y0 + reach) + 1)
    sums[:] = 0.0
    for iy in range(first_y, last_y):
        dy = iy - y0
        first, last, _ = _row_range(a, b * dy, c * dy * dy, x0, nx, limit)
        if last <= first:
            continue
        row = image[iy, first:last]
        s0, s1, s2, s4 = _row_sums(row, first - x0, a, b * dy, c * dy * dy)
        sums[0] += s0
        sums[1] += s1
        sums[2] += s0 * dy
        sums[3] += s2
        sums[4] += s1 * dy
        sums[5] += s0 * dy * dy
        sums[6] += s4


@njit(cache=True, nogil=True, error_model="numpy")
def _clamp(value, limit):
    return max(-limit, min(limit, value))


@njit(cache=True, nogil=True, error_model="numpy")
def _adapt(image, x_start, y_start, sigma, max_iterations, tolerance, nsig2, max_shift, sums, out):
    """Iterate the weight until it has the moments of the weighted image; returns flags."""
    x0, y0 = x_start, y_start
    mxx = myy = sigma * sigma
    mxy = 0.0
    scale0 = sigma
    out[X], out[Y] = x0, y0
    ny, nx = image.shape
    for iteration in range(max_iterations):
        det = mxx * myy - mxy * mxy
        if not (det > 1e-4 and mxx > 0.0 and myy > 0.0):
            return _BAD_MOMENTS
        if mxx > nx * nx or myy > ny * ny:
            return _NOT_CONVERGED | _EDGE
        _weighted_sums(image, x0, y0, mxx, myy, mxy, nsig2, sums)
        total = sums[0]
        if not (total > 0.0):
            return _NEGATIVE
        half_trace = 0.5 * (mxx + myy)
        minor = half_trace - math.sqrt(0.25 * (mxx - myy) ** 2 + mxy * mxy)
        if minor <= 0.0:
            return _BAD_MOMENTS
        scale = math.sqrt(minor)
        dx = _clamp(2.0 * sums[1] / (total * scale), 0.25)
        dy = _clamp(2.0 * sums[2] / (total * scale), 0.25)
        dxx = 4.0 * (sums[3] / total - 0.5 * mxx) / minor
        dxy = 4.0 * (sums[4] / total - 0.5 * mxy) / minor
        dyy = 4.0 * (sums[5] / total - 0.5 * myy) / minor
        # One bound for all three: bounded one by one, the weight of a galaxy much larger than it
        # would grow along a diagonal to a needle and stick there.
        shrink = min(1.0, 0.25 / max(abs(dxx), abs(dxy), abs(dyy), 1e-30))
        dxx, dxy, dyy = shrink * dxx, shrink * dxy, shrink * dyy
        change = max(abs(dx), abs(dy), math.sqrt(max(abs(dxx), abs(dxy), abs(dyy))))
        change = max(change * change, abs(dx), abs(dy))
        if scale < scale0:
            change *= scale0 / scale
        x0 += dx * scale
        y0 += dy * scale
        mxx += dxx * minor
        mxy += dxy * minor
        myy += dyy * minor
        out[X], out[Y], out[IXX], out[IYY], out[IXY] = x0, y0, mxx, myy, mxy
        out[SUM], out[RHO4], out[ITERATIONS] = total, sums[6] / total, iteration + 1
        if (x0 - x_start) ** 2 + (y0 - y_start) ** 2 > max_shift * max_shift:
            return _SHIFTED
        # In noise the pixels that enter and leave at the rim can keep it from standing still.
        if change < tolerance or (iteration >= 20 and change < 1e-3):
            return 0
    return _NOT_CONVERGED


@njit(cache=True, nogil=True, error_model="numpy")
def _inspect(variance, mask, unusable, repaired, saturated, nsig2, out):
    """Flags of the pixels under a converged weight, and the variance that the weight sees."""
    ny, nx = mask.shape
    x0, y0 = out[X], out[Y]
    mxx, myy, mxy = out[IXX], out[IYY], out[IXY]
    det = mxx * myy - mxy * mxy
    a, b, c = myy / det, -mxy / det, mxx / det
    flags = 0
    reach = math.sqrt(nsig2 * myy)
    if y0 - reach < 0 or y0 + reach > ny - 1:
        flags |= _EDGE
    sum_w2, sum_w2v = 0.0, 0.0
    for iy in range(max(0, math.ceil(y0 - reach)), min(ny, math.floor(y0 + reach) + 1)):
        dy = iy - y0
        first, last, leaves = _row_range(a, b * dy, c * dy * dy, x0, nx, nsig2)
        if leaves:
            flags |= _EDGE
        for ix in range(first, last):
            dx = ix - x0
            rho2 = (a * dx + 2.0 * b * dy) * dx + c * dy * dy
            m = mask[iy, ix]
            near = dx * dx + dy * dy < 2.25
            if (m & saturated) != 0:
                flags |= _SATURATED
            if (m & repaired) != 0:
                if near:
                    flags |= _INTERPOLATED
            elif (m & unusable) != 0:
                flags |= _PIXELS
                if near:
                    flags |= _CENTRE
                continue
            v = variance[iy, ix]
            if not (v > 0.0) or not np.isfinite(v):
                flags |= _NO_VARIANCE
                continue
            w = _exp(-0.5 * min(rho2, 26.0))
            sum_w2 += w * w
            sum_w2v += w * w * v
    out[VARIANCE] = sum_w2v / sum_w2 if sum_w2 > 0.0 else np.nan
    return flags


@njit(cache=True, nogil=True, error_model="numpy")
def adapt_all(
    clean,
    variance,
    mask,
    unusable,
    repaired,
    saturated,
    x,
    y,
    sigma,
    max_iterations,
    tolerance,
    nsig2,
    max_shift,
    out,
    flags,
):
    """Adaptive moments of every position in one image; ``clean`` has zeros at unusable pixels."""
    ny, nx = clean.shape
    sums = np.empty(7)
    for k in range(x.size):
        out[k, :] = np.nan
        out[k, ITERATIONS] = 0
        if not (x[k] > -0.5 and x[k] < nx - 0.5 and y[k] > -0.5 and y[k] < ny - 0.5):
            flags[k] = _NO_DATA | _EDGE
            continue
        f = _adapt(
            clean,
            x[k],
            y[k],
            sigma[k],
            max_iterations,
            tolerance,
            nsig2,
            max_shift,
            sums,
            out[k],
        )
        if f == 0:
            f |= _inspect(variance, mask, unusable, repaired, saturated, nsig2, out[k])
        flags[k] = f


@njit(cache=True, nogil=True, error_model="numpy")
def adapt_stamps(stamps, x, y, sigma, max_iterations, tolerance, nsig2, max_shift, out, flags):
    """Adaptive moments of each stamp of a batch, without variance and mask."""
    sums = np.empty(7)
    for k in range(stamps.shape[0]):
        out[k, :] = np.nan
        out[k, ITERATIONS] = 0
        flags[k] = _adapt(
            stamps[k],
            x[k],
            y[k],
            sigma[k],
            max_iterations,
            tolerance,
            nsig2,
            max_shift,
            sums,
            out[k],
        )

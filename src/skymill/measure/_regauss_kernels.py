"""Numba loops of `shear_shape`: re-Gaussianization of many sources in one call.

The image is corrected for what the PSF has besides its best Gaussian: the Gaussian that comes
closest to the source before the PSF, convolved with Gaussian minus PSF, is added. The adaptive
moments of the sum are those of a source under a Gaussian PSF, for which the correction is exact to
the fourth order. Hirata & Seljak 2003, MNRAS 343, 459, sections 2.4 and 5.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}

# Bits of data.flags.MeasureFlag.
_NOT_CONVERGED, _BAD_MOMENTS, _NO_PSF, _NO_DATA = 32, 64, 128, 1024

# Columns of the result.
E1, E2, SIGMA_E, RESOLUTION = range(4)

# Reach of the weight: exp(-13.8) = 1e-6.
_LIMIT = 27.631
_ITERATIONS = 200
_TOLERANCE = 2e-6
# Extent of the Gaussian before the PSF, and of the PSF's residual around the source, in sigma.
_REACH_SOURCE, _REACH_RESIDUAL = 3.0, 3.6
# The Gaussian before the PSF is nowhere narrower than half a pixel.
_LEAST_VARIANCE = 0.25
_FARTHEST, _LARGEST = 15.0, 8000.0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _exp(t):
    """exp(t) for -14 <= t <= 0 to 1e-6: Taylor series of t/64, squared six times."""
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
def _row_sums(row, start, a, b_dy, c_dy2):
    """Sums of w I times 1, dx, dx2 and rho4 along a row; dx of its first pixel is ``start``."""
    a_, b_, c_, first = np.float32(a), np.float32(2.0 * b_dy), np.float32(c_dy2), np.float32(start)
    s0, s1, s2, s4 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(row.size):
        dx = first + np.float32(i)
        rho2 = (a_ * dx + b_) * dx + c_
        wi = _exp(np.float32(-0.5) * rho2) * row[i]
        s0 += wi
        wi_dx = wi * dx
        s1 += wi_dx
        s2 += wi_dx * dx
        s4 += wi * rho2 * rho2
    return s0, s1, s2, s4


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(image, x0, y0, mxx, myy, mxy, sums):
    """Sums of w I times 1, dx, dy, dx2, dx dy, dy2, rho4 within the reach of the weight."""
    ny, nx = image.shape
    det = mxx * myy - mxy * mxy
    a, b, c = myy / det, -mxy / det, mxx / det
    reach = math.sqrt(_LIMIT * myy)
    sums[:] = 0.0
    for iy in range(max(0, math.ceil(y0 - reach)), min(ny, math.floor(y0 + reach) + 1)):
        dy = iy - y0
        disc = b * b * dy * dy - a * (c * dy * dy - _LIMIT)
        if disc <= 0.0:
            continue
        root = math.sqrt(disc)
        first = max(0, math.ceil(x0 + (-b * dy - root) / a))
        last = min(nx, math.floor(x0 + (-b * dy + root) / a) + 1)
        if last <= first:
            continue
        s0, s1, s2, s4 = _row_sums(image[iy, first:last], first - x0, a, b * dy, c * dy * dy)
        sums[0] += s0
        sums[1] += s1
        sums[2] += s0 * dy
        sums[3] += s2
        sums[4] += s1 * dy
        sums[5] += s0 * dy * dy
        sums[6] += s4


@njit(cache=True, nogil=True, error_model="numpy")
def _bound(value):
    return max(-0.25, min(0.25, value))


@njit(cache=True, nogil=True, error_model="numpy")
def _adapt(image, shape, sums):
    """Iterate ``shape`` (x, y, xx, yy, xy, sum, rho4) to the adaptive moments; True if it could."""
    x_start, y_start = shape[0], shape[1]
    scale_start = 0.0
    for step in range(_ITERATIONS):
        mxx, myy, mxy = shape[2], shape[3], shape[4]
        if not (mxx > 0.0 and myy > 0.0 and mxx * myy - mxy * mxy > 0.0):
            return False
        _sums(image, shape[0], shape[1], mxx, myy, mxy, sums)
        total = sums[0]
        if not (total > 0.0):
            return False
        minor = 0.5 * (mxx + myy) - math.sqrt(0.25 * (mxx - myy) ** 2 + mxy * mxy)
        if not (minor > 0.0):
            return False
        scale = math.sqrt(minor)
        if step == 0:
            scale_start = scale
        dx, dy = _bound(2.0 * sums[1] / (total * scale)), _bound(2.0 * sums[2] / (total * scale))
        dxx = 4.0 * (sums[3] / total - 0.5 * mxx) / minor
        dxy = 4.0 * (sums[4] / total - 0.5 * mxy) / minor
        dyy = 4.0 * (sums[5] / total - 0.5 * myy) / minor
        # One bound for all three, so that the weight does not grow to a needle.
        shrink = min(1.0, 0.25 / max(abs(dxx), abs(dxy), abs(dyy), 1e-30))
        dxx, dxy, dyy = shrink * dxx, shrink * dxy, shrink * dyy
        shape[0] += dx * scale
        shape[1] += dy * scale
        shape[2] += dxx * minor
        shape[3] += dyy * minor
        shape[4] += dxy * minor
        shape[5], shape[6] = total, sums[6] / total
        if not (max(abs(shape[2]), abs(shape[3]), abs(shape[4])) < _LARGEST):
            return False
        if not (max(abs(shape[0] - x_start), abs(shape[1] - y_start)) < _FARTHEST):
            return False
        change = max(abs(dx), abs(dy), abs(dxx), abs(dyy), abs(dxy))
        change *= max(1.0, scale_start / scale)
        # In noise the pixels that enter and leave at the rim can keep it from standing still.
        if change < _TOLERANCE or (step >= 30 and change < 1e-4):
            return True
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def _add_shear(e1, e2, by1, by2):
    """The distortion of a source of distortion (e1, e2) after a shear of distortion (by1, by2)."""
    dot = e1 * by1 + e2 * by2
    factor = 1.0 / (1.0 + math.sqrt(1.0 - by1 * by1 - by2 * by2))
    turn = e2 * by1 - e1 * by2
    return (
        (e1 + by1 + by2 * factor * turn) / (1.0 + dot),
        (e2 + by2 - by1 * factor * turn) / (1.0 + dot),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _undo_psf(star, source):
    """Distortion of a source before a Gaussian PSF: Bernstein & Jarvis 2002, sections 3 and 8."""
    t_star, t_source = star[2] + star[3], source[2] + source[3]
    p1, p2 = (star[2] - star[3]) / t_star, 2.0 * star[4] / t_star
    o1, o2 = (source[2] - source[3]) / t_source, 2.0 * source[4] / t_source
    a4 = 0.5 * source[6] - 1.0
    # In the frame in which the PSF is round, areas are in the ratio of traces over cosh eta.
    ratio = t_star / t_source
    ratio *= math.sqrt((1.0 - p1 * p1 - p2 * p2) / (1.0 - o1 * o1 - o2 * o2))
    r1, r2 = _add_shear(o1, o2, -p1, -p2)
    resolution = 1.0 - ratio * (1.0 + a4) / (1.0 - a4) * math.sqrt(1.0 - r1 * r1 - r2 * r2)
    return _add_shear(r1 / resolution, r2 / resolution, p1, p2)


@njit(cache=True, nogil=True, error_model="numpy")
def _before_psf(star, source):
    """Covariance xx, yy, xy of the source's Gaussian before the PSF, nowhere too narrow."""
    xx, yy, xy = source[2] - star[2], source[3] - star[3], source[4] - star[4]
    half, root = 0.5 * (xx + yy), math.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)
    major, minor = max(half + root, _LEAST_VARIANCE), max(half - root, _LEAST_VARIANCE)
    cosine, sine = (0.5 * (xx - yy) / root, xy / root) if root > 0.0 else (1.0, 0.0)
    half, root = 0.5 * (major + minor), 0.5 * (major - minor)
    return half + root * cosine, half - root * cosine, root * sine


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _gaussian_row(out, start, a, b_dy, c_dy2, peak):
    """Values of a Gaussian along a row; below 1e-6 of the peak it is constant."""
    a_, b_, c_ = np.float32(-0.5 * a), np.float32(-b_dy), np.float32(-0.5 * c_dy2)
    first, height, lowest = np.float32(start), np.float32(peak), np.float32(-14.0)
    for i in range(out.size):
        dx = first + np.float32(i)
        out[i] = height * _exp(max((a_ * dx + b_) * dx + c_, lowest))


@njit(cache=True, nogil=True, error_model="numpy")
def _gaussian_minus_psf(stamp, star, flux, residual):
    """The Gaussian of the PSF's moments and flux minus the PSF."""
    det = star[2] * star[3] - star[4] * star[4]
    a, b, c = star[3] / det, -star[4] / det, star[2] / det
    peak = flux / (2.0 * math.pi * math.sqrt(det))
    for j in range(stamp.shape[0]):
        dy = j - star[1]
        _gaussian_row(residual[j], -star[0], a, b * dy, c * dy * dy, peak)
        for i in range(stamp.shape[1]):
            residual[j, i] -= stamp[j, i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_scaled(target, source, f0, f1, f2, f3):
    """Add four copies of a line, each one pixel further on; ``source`` begins with three zeros."""
    s0, s1, s2, s3 = source[3:], source[2:], source[1:], source
    for i in range(target.size):
        target[i] += f0 * s0[i] + f1 * s1[i] + f2 * s2[i] + f3 * s3[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _range(low, high, centre, reach):
    """Pixels of ``low`` .. ``high`` (inclusive) within ``reach`` of the centre."""
    return max(low, math.floor(centre - reach)), min(high, math.ceil(centre + reach))


@njit(cache=True, nogil=True, error_model="numpy")
def _convolve(core, box):
    """All overlaps of two images: (n + m - 1) pixels along each side.

    Both lie in lines with room for the widest shift, so that a tap of ``core`` is one long loop
    over all of ``box``.
    """
    ny, nx = box.shape
    stride = nx + core.shape[1] + 2
    line = np.zeros(ny * stride + 3, np.float32)
    for j in range(ny):
        line[3 + j * stride : 3 + j * stride + nx] = box[j]
    total = np.zeros((ny + core.shape[0] - 1) * stride + 4, np.float32)
    for j in range(core.shape[0]):
        for i in range(0, core.shape[1], 4):
            shift = j * stride + i
            _add_scaled(
                total[shift : shift + ny * stride],
                line,
                core[j, i],
                core[j, i + 1],
                core[j, i + 2],
                core[j, i + 3],
            )
    return total, stride


@njit(cache=True, nogil=True, error_model="numpy")
def _add_residual(image, source, star, flux, flux_star, residual):
    """Add the source's Gaussian before the PSF, convolved with ``residual``, to the image."""
    ny, nx = image.shape
    py, px = residual.shape
    xx, yy, xy = _before_psf(star, source)
    det = xx * yy - xy * xy
    a, b, c = yy / det, -xy / det, xx / det
    cx, cy = source[0] - star[0], source[1] - star[1]
    wide, high = math.sqrt(max(xx, 1.0)), math.sqrt(max(yy, 1.0))
    x0, x1 = _range(-(px - 1), nx - 1, cx, _REACH_SOURCE * wide)
    y0, y1 = _range(-(py - 1), ny - 1, cy, _REACH_SOURCE * high)
    reach_x = _REACH_RESIDUAL * math.sqrt(source[2]) + _REACH_SOURCE * wide
    reach_y = _REACH_RESIDUAL * math.sqrt(source[3]) + _REACH_SOURCE * high
    u0, u1 = _range(0, px - 1, star[0], reach_x)
    v0, v1 = _range(0, py - 1, star[1], reach_y)
    if x1 < x0 or y1 < y0:
        return
    # Columns in fours; what is too much stays zero.
    core = np.zeros((y1 - y0 + 1, 4 * ((x1 - x0 + 4) // 4)), np.float32)
    total = 0.0
    for j in range(core.shape[0]):
        dy = y0 + j - cy
        row = core[j, : x1 - x0 + 1]
        _gaussian_row(row, x0 - cx, a, b * dy, c * dy * dy, 1.0)
        for i in range(row.size):
            total += row[i]
    sums, stride = _convolve(core, residual[v0 : v1 + 1, u0 : u1 + 1])
    scale = np.float32(flux / (total * flux_star))
    left, down = x0 + u0, y0 + v0
    first, last = max(0, left), min(nx, left + x1 - x0 + u1 - u0 + 1)
    for y in range(max(0, down), min(ny, down + y1 - y0 + v1 - v0 + 1)):
        offset = (y - down) * stride - left
        for x in range(first, last):
            image[y, x] += scale * sums[offset + x]


@njit(cache=True, nogil=True, error_model="numpy")
def _cut(sheet, good, x0, y0, window):
    """Copy a window with zeros where pixels may not be used; returns the number of others."""
    count = 0
    for j in range(window.shape[0]):
        for i in range(window.shape[1]):
            usable = good[y0 + j, x0 + i]
            window[j, i] = sheet[y0 + j, x0 + i] if usable else np.float32(0.0)
            count += usable
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _typical_variance(variance, good, x0, y0, height, width, values):
    """Median variance of about a hundred usable pixels of a window."""
    step = max(1, math.ceil(math.sqrt(height * width / 100.0)))
    n = 0
    for j in range(0, height, step):
        for i in range(0, width, step):
            if n < values.size and good[y0 + j, x0 + i]:
                values[n] = variance[y0 + j, x0 + i]
                n += 1
    return np.median(values[:n]) if n > 0 else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def regauss_all(sheet, variance, good, x, y, moments, reach, psf_stamps, psf_moments, out, flags):
    """PSF-corrected distortions of all sources.

    ``moments`` and ``psf_moments`` (n, 3) are first guesses xx, yy, xy; ``reach`` is the half
    width of each source's window. ``out`` (n, 4) receives the columns above, NaN where ``flags``
    is not zero.
    """
    ny, nx = sheet.shape
    size = psf_stamps.shape[1]
    residual = np.empty((size, size), np.float32)
    source, star, sums = np.empty(7), np.empty(7), np.empty(7)
    values = np.empty(256, np.float32)
    for k in range(x.size):
        out[k, :] = np.nan
        flags[k] = 0
        cx, cy = math.floor(x[k] + 0.5), math.floor(y[k] + 0.5)
        x0, x1 = max(0, cx - reach[k]), min(nx, cx + reach[k] + 1)
        y0, y1 = max(0, cy - reach[k]), min(ny, cy + reach[k] + 1)
        if not np.isfinite(moments[k, 0] + moments[k, 1] + moments[k, 2]):
            flags[k] = _BAD_MOMENTS
            continue
        if x1 <= x0 or y1 <= y0:
            flags[k] = _NO_DATA
            continue
        window = np.empty((y1 - y0, x1 - x0), np.float32)
        if _cut(sheet, good, x0, y0, window) == 0:
            flags[k] = _NO_DATA
            continue
        star[0], star[1] = size // 2, size // 2
        source[0], source[1] = x[k] - x0, y[k] - y0
        for i in range(3):
            star[2 + i], source[2 + i] = psf_moments[k, i], moments[k, i]
        stamp = psf_stamps[k]
        flux_star = np.sum(stamp)
        if not (flux_star > 0.0) or not _adapt(stamp, star, sums):
            flags[k] = _NO_PSF
            continue
        if not _adapt(window, source, sums):
            flags[k] = _NOT_CONVERGED
            continue
        flux = source[6] * source[5]
        _gaussian_minus_psf(stamp, star, flux_star, residual)
        _add_residual(window, source, star, flux, flux_star, residual)
        if not _adapt(window, source, sums):
            flags[k] = _NOT_CONVERGED
            continue
        resolution = 1.0 - (star[2] + star[3]) / (source[2] + source[3])
        e1, e2 = _undo_psf(star, source)
        if not (resolution > 0.0) or not np.isfinite(e1 + e2):
            flags[k] = _NOT_CONVERGED
            continue
        sky = _typical_variance(variance, good, x0, y0, y1 - y0, x1 - x0, values)
        sigma = (source[2] * source[3] - source[4] * source[4]) ** 0.25
        out[k, E1], out[k, E2], out[k, RESOLUTION] = e1, e2, resolution
        # Twice the error of a shear.
        out[k, SIGMA_E] = 2.0 * math.sqrt(4.0 * math.pi * sky) * sigma / (resolution * flux)

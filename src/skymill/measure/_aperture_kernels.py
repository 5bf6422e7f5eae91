"""Numba loops of `aperture`: sums over circles with exact overlaps."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}

# Bits of data.flags.MeasureFlag.
_EDGE, _CENTRE, _PIXELS, _SATURATED, _NO_VARIANCE, _NO_DATA = 1, 2, 4, 8, 16, 1024
_INTERPOLATED = 8192


@njit(cache=True, nogil=True, error_model="numpy")
def _integral(x, r):
    """Integral of sqrt(r2 - t2) dt from 0 to x."""
    u = min(1.0, x / r)
    return 0.5 * (x * math.sqrt(max(r * r - x * x, 0.0)) + r * r * math.asin(u))


@njit(cache=True, nogil=True, error_model="numpy")
def _quadrant(x0, x1, y0, y1, r):
    """Area of the rectangle (0 <= x0 < x1, 0 <= y0 < y1) inside the circle of radius r."""
    if x0 * x0 + y0 * y0 >= r * r:
        return 0.0
    if x1 * x1 + y1 * y1 <= r * r:
        return (x1 - x0) * (y1 - y0)
    inner = math.sqrt(max(r * r - y1 * y1, 0.0))
    outer = math.sqrt(max(r * r - y0 * y0, 0.0))
    a = min(max(inner, x0), x1)
    b = min(max(outer, x0), x1)
    return (a - x0) * (y1 - y0) + _integral(b, r) - _integral(a, r) - y0 * (b - a)


@njit(cache=True, nogil=True, error_model="numpy")
def overlap(dx, dy, r):
    """Area of the unit pixel centred at (dx, dy) inside the circle of radius r at the origin."""
    ax, ay = abs(dx), abs(dy)
    x0, x1, y0, y1 = ax - 0.5, ax + 0.5, ay - 0.5, ay + 0.5
    if x0 >= 0.0 and y0 >= 0.0:
        return _quadrant(x0, x1, y0, y1, r)
    if x0 < 0.0 and y0 < 0.0:
        return (
            _quadrant(0.0, x1, 0.0, y1, r)
            + _quadrant(0.0, -x0, 0.0, y1, r)
            + _quadrant(0.0, x1, 0.0, -y0, r)
            + _quadrant(0.0, -x0, 0.0, -y0, r)
        )
    if x0 < 0.0:
        return _quadrant(0.0, x1, y0, y1, r) + _quadrant(0.0, -x0, y0, y1, r)
    return _quadrant(x0, x1, 0.0, y1, r) + _quadrant(x0, x1, 0.0, -y0, r)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _sum(row):
    total = 0.0
    for i in range(row.size):
        total += row[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _circle(clean, variance, x, y, r):
    """Flux and variance inside a circle; pixels outside of the image count as zero."""
    ny, nx = clean.shape
    flux, var = 0.0, 0.0
    for iy in range(max(0, math.ceil(y - r - 0.5)), min(ny, math.floor(y + r + 0.5) + 1)):
        dy = abs(iy - y)
        near, far = max(dy - 0.5, 0.0), dy + 0.5
        if near >= r:
            continue
        wide = math.sqrt(r * r - near * near) + 0.5
        first = max(0, math.ceil(x - wide))
        last = min(nx, math.floor(x + wide) + 1)
        full_first, full_last = first, first
        if far < r:
            narrow = math.sqrt(r * r - far * far) - 0.5
            if narrow > 0.0:
                full_first = min(max(first, math.ceil(x - narrow)), last)
                full_last = min(max(full_first, math.floor(x + narrow) + 1), last)
        for ix in range(first, full_first):
            f = overlap(ix - x, iy - y, r)
            flux += f * clean[iy, ix]
            var += f * f * variance[iy, ix]
        flux += _sum(clean[iy, full_first:full_last])
        var += _sum(variance[iy, full_first:full_last])
        for ix in range(max(first, full_last), last):
            f = overlap(ix - x, iy - y, r)
            flux += f * clean[iy, ix]
            var += f * f * variance[iy, ix]
    return flux, var


@njit(cache=True, nogil=True, error_model="numpy")
def circle_flags(mask, variance, x, y, r, unusable, repaired, saturated):
    """Flags of the pixels whose centre lies in a circle."""
    ny, nx = mask.shape
    flags = 0
    if x - r < -0.5 or y - r < -0.5 or x + r > nx - 0.5 or y + r > ny - 0.5:
        flags |= _EDGE
    for iy in range(max(0, math.ceil(y - r)), min(ny, math.floor(y + r) + 1)):
        dy = iy - y
        half = math.sqrt(max(r * r - dy * dy, 0.0))
        for ix in range(max(0, math.ceil(x - half)), min(nx, math.floor(x + half) + 1)):
            m = mask[iy, ix]
            v = variance[iy, ix]
            if not (v > 0.0):
                flags |= _NO_VARIANCE
            if (m & (unusable | repaired | saturated)) == 0:
                continue
            near = dy * dy + (ix - x) * (ix - x) < 2.25
            if (m & saturated) != 0:
                flags |= _SATURATED
            if (m & repaired) != 0:
                if near:
                    flags |= _INTERPOLATED
            elif (m & unusable) != 0:
                flags |= _PIXELS
                if near:
                    flags |= _CENTRE
    return flags


@njit(cache=True, nogil=True, error_model="numpy")
def _is_clean(mask, variance, x, y, r, bits):
    """Whether no pixel of the square around a circle has a bit or no variance."""
    ny, nx = mask.shape
    first, last = max(0, math.ceil(x - r)), min(nx, math.floor(x + r) + 1)
    for iy in range(max(0, math.ceil(y - r)), min(ny, math.floor(y + r) + 1)):
        marks, row = mask[iy, first:last], variance[iy, first:last]
        some, low = np.int32(0), np.float32(1.0)
        for i in range(marks.size):
            some |= marks[i]
            low = min(low, row[i])
        if (some & bits) != 0 or not (low > 0.0):
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def aperture_all(
    clean, variance, mask, unusable, repaired, saturated, x, y, radii, flux, flux_err, flags
):
    """Sums over each circle of each position."""
    ny, nx = clean.shape
    bits, widest = unusable | repaired | saturated, radii.max()
    for k in range(x.size):
        inside = x[k] > -0.5 and x[k] < nx - 0.5 and y[k] > -0.5 and y[k] < ny - 0.5
        clean_square = inside and _is_clean(mask, variance, x[k], y[k], widest, bits)
        for j in range(radii.size):
            if not inside:
                flux[k, j], flux_err[k, j] = np.nan, np.nan
                flags[k, j] = _NO_DATA | _EDGE
                continue
            value, var = _circle(clean, variance, x[k], y[k], radii[j])
            flux[k, j], flux_err[k, j] = value, math.sqrt(var)
            r = radii[j]
            if clean_square:
                leaves = x[k] - r < -0.5 or y[k] - r < -0.5
                leaves = leaves or x[k] + r > nx - 0.5 or y[k] + r > ny - 0.5
                flags[k, j] = _EDGE if leaves else 0
            else:
                flags[k, j] = circle_flags(
                    mask, variance, x[k], y[k], r, unusable, repaired, saturated
                )


@njit(cache=True, nogil=True, error_model="numpy")
def aperture_each(
    clean, variance, mask, unusable, repaired, saturated, x, y, radius, flux, flux_err, flags
):
    """Sum over one circle of its own radius at each position."""
    ny, nx = clean.shape
    for k in range(x.size):
        inside = x[k] > -0.5 and x[k] < nx - 0.5 and y[k] > -0.5 and y[k] < ny - 0.5
        if not inside or not (radius[k] > 0.0):
            flux[k], flux_err[k] = np.nan, np.nan
            flags[k] = _NO_DATA
            continue
        value, var = _circle(clean, variance, x[k], y[k], radius[k])
        flux[k], flux_err[k] = value, math.sqrt(var)
        flags[k] = circle_flags(
            mask, variance, x[k], y[k], radius[k], unusable, repaired, saturated
        )

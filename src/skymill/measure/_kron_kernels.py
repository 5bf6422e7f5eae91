"""Numba loops of `kron`: Kron radius and flux in an ellipse; blendedness."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Bits of data.flags.MeasureFlag.
_EDGE, _PIXELS, _SATURATED, _NO_VARIANCE, _BAD_MOMENTS, _NEGATIVE, _AT_LIMIT, _NO_DATA = (
    1,
    4,
    8,
    16,
    64,
    256,
    512,
    1024,
)
_SUB = 5


@njit(cache=True, nogil=True, error_model="numpy")
def _fraction(dx, dy, a, b, c, r2):
    """Share of a pixel inside of the ellipse rho2 < r2, by 5 x 5 points where its rim is near."""
    n = 0
    for j in range(_SUB):
        v = dy + (j - 0.5 * (_SUB - 1)) / _SUB
        for i in range(_SUB):
            u = dx + (i - 0.5 * (_SUB - 1)) / _SUB
            if a * u * u + 2.0 * b * u * v + c * v * v < r2:
                n += 1
    return n / (_SUB * _SUB)


@njit(cache=True, nogil=True, error_model="numpy")
def kron_radius(clean, x, y, moments, reach, low, high, half, radius, flags):
    """First radial moment within ``reach`` sigma, in units of the sigma of the moments."""
    ny, nx = clean.shape
    for k in range(x.size):
        mxx, myy, mxy = moments[k, 0], moments[k, 1], moments[k, 2]
        det = mxx * myy - mxy * mxy
        radius[k] = np.nan
        if not (det > 0.0):
            flags[k] |= _BAD_MOMENTS
            continue
        a, b, c = myy / det, -mxy / det, mxx / det
        width = min(reach * math.sqrt(myy), half[k])
        s1, s0 = 0.0, 0.0
        for iy in range(max(0, math.ceil(y[k] - width)), min(ny, math.floor(y[k] + width) + 1)):
            dy = iy - y[k]
            wide = min(reach * math.sqrt(mxx), half[k])
            for ix in range(max(0, math.ceil(x[k] - wide)), min(nx, math.floor(x[k] + wide) + 1)):
                dx = ix - x[k]
                rho2 = a * dx * dx + 2.0 * b * dx * dy + c * dy * dy
                if rho2 < reach * reach:
                    s1 += math.sqrt(rho2) * clean[iy, ix]
                    s0 += clean[iy, ix]
        if not (s0 > 0.0) or not (s1 > 0.0):
            flags[k] |= _NEGATIVE
            radius[k] = low
            continue
        r = s1 / s0
        if r < low or r > high:
            if r > high:
                flags[k] |= _AT_LIMIT
            r = max(low, min(high, r))
        radius[k] = r


@njit(cache=True, nogil=True, error_model="numpy")
def ellipse_fluxes(
    clean,
    variance,
    mask,
    unusable,
    repaired,
    saturated,
    x,
    y,
    moments,
    radius,
    half,
    flux,
    flux_err,
    flags,
):
    """Sum of the pixels with rho < radius, rim pixels by 5 x 5 points."""
    ny, nx = clean.shape
    for k in range(x.size):
        mxx, myy, mxy = moments[k, 0], moments[k, 1], moments[k, 2]
        det = mxx * myy - mxy * mxy
        r = radius[k]
        flux[k], flux_err[k] = np.nan, np.nan
        if not (det > 0.0) or not (r > 0.0):
            flags[k] |= _NO_DATA
            continue
        a, b, c = myy / det, -mxy / det, mxx / det
        wide, high = r * math.sqrt(mxx) + 1.0, r * math.sqrt(myy) + 1.0
        if wide > half[k] or high > half[k]:
            flags[k] |= _EDGE
        wide, high = min(wide, half[k]), min(high, half[k])
        total, var = 0.0, 0.0
        for iy in range(max(0, math.ceil(y[k] - high)), min(ny, math.floor(y[k] + high) + 1)):
            dy = iy - y[k]
            for ix in range(max(0, math.ceil(x[k] - wide)), min(nx, math.floor(x[k] + wide) + 1)):
                dx = ix - x[k]
                rho = math.sqrt(a * dx * dx + 2.0 * b * dx * dy + c * dy * dy)
                # |grad rho| <= 1/minor axis: beyond 0.71 of it the pixel is wholly in or out.
                step = 0.71 * math.sqrt(0.5 * (a + c) + math.sqrt(0.25 * (a - c) ** 2 + b * b))
                if rho > r + step:
                    continue
                f = 1.0 if rho < r - step else _fraction(dx, dy, a, b, c, r * r)
                if f == 0.0:
                    continue
                m = mask[iy, ix]
                if (m & saturated) != 0:
                    flags[k] |= _SATURATED
                if (m & unusable) != 0 and (m & repaired) == 0:
                    flags[k] |= _PIXELS
                if not (variance[iy, ix] > 0.0):
                    flags[k] |= _NO_VARIANCE
                total += f * clean[iy, ix]
                var += f * f * variance[iy, ix]
        flux[k], flux_err[k] = total, math.sqrt(var)


@njit(cache=True, nogil=True, error_model="numpy")
def blendedness(child, parent, x, y, shift_x, shift_y, moments, half, out):
    """1 - child/parent of the positive flux under the Gaussian of the child's moments.

    The child's stamp lies at (x, y) of its sheet and at (x - shift_x, y - shift_y) of the image.
    """
    ny, nx = parent.shape
    for k in range(x.size):
        mxx, myy, mxy = moments[k, 0], moments[k, 1], moments[k, 2]
        det = mxx * myy - mxy * mxy
        out[k] = np.nan
        if not (det > 0.0):
            continue
        a, b, c = myy / det, -mxy / det, mxx / det
        wide, high = min(3.0 * math.sqrt(mxx), half[k]), min(3.0 * math.sqrt(myy), half[k])
        s_child, s_parent = 0.0, 0.0
        for iy in range(math.ceil(y[k] - high), math.floor(y[k] + high) + 1):
            dy = iy - y[k]
            v = iy - shift_y[k]
            for ix in range(math.ceil(x[k] - wide), math.floor(x[k] + wide) + 1):
                u = ix - shift_x[k]
                if u < 0 or v < 0 or u >= nx or v >= ny:
                    continue
                p = parent[v, u]
                if not np.isfinite(p):
                    continue
                dx = ix - x[k]
                rho2 = a * dx * dx + 2.0 * b * dx * dy + c * dy * dy
                w = math.exp(-0.5 * rho2)
                s_child += w * max(child[iy, ix], 0.0)
                s_parent += w * max(p, 0.0)
        if s_parent > 0.0:
            out[k] = max(0.0, min(1.0, 1.0 - s_child / s_parent))

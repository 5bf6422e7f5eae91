"""Numba loop of `centroid`: iterated centroids under a Gaussian of fixed width."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Bits of data.flags.MeasureFlag.
_EDGE, _NOT_CONVERGED, _NEGATIVE, _NO_DATA, _SHIFTED = 1, 32, 256, 1024, 4096
_CENTRE, _INTERPOLATED = 2, 8192


@njit(cache=True, nogil=True, error_model="numpy")
def windowed_centroids(
    clean,
    variance,
    mask,
    unusable,
    repaired,
    x,
    y,
    sigma,
    max_iterations,
    tolerance,
    max_shift,
    out_x,
    out_y,
    err_x,
    err_y,
    flags,
):
    """Iterate x += 2 sum(w I dx)/sum(w I); where it fails the start remains, with a flag."""
    ny, nx = clean.shape
    for k in range(x.size):
        out_x[k], out_y[k] = x[k], y[k]
        err_x[k] = err_y[k] = np.nan
        if not (x[k] > -0.5 and x[k] < nx - 0.5 and y[k] > -0.5 and y[k] < ny - 0.5):
            flags[k] = _NO_DATA | _EDGE
            continue
        s = sigma[k]
        reach = math.ceil(4.0 * s)
        x0, y0 = x[k], y[k]
        f = _NOT_CONVERGED
        for _ in range(max_iterations):
            cx, cy = math.floor(x0 + 0.5), math.floor(y0 + 0.5)
            total, sx, sy = 0.0, 0.0, 0.0
            vx, vy = 0.0, 0.0
            for iy in range(max(0, cy - reach), min(ny, cy + reach + 1)):
                dy = iy - y0
                wy = math.exp(-0.5 * dy * dy / (s * s))
                # The weight along a row by recurrence: w(dx + 1) = w(dx) r, r *= q.
                first = max(0, cx - reach)
                dx = first - x0
                w = wy * math.exp(-0.5 * dx * dx / (s * s))
                r = math.exp(-(dx + 0.5) / (s * s))
                q = math.exp(-1.0 / (s * s))
                for ix in range(first, min(nx, cx + reach + 1)):
                    wi = w * clean[iy, ix]
                    wv = w * w * variance[iy, ix]
                    total += wi
                    sx += wi * dx
                    sy += wi * dy
                    vx += wv * dx * dx
                    vy += wv * dy * dy
                    dx += 1.0
                    w *= r
                    r *= q
            if not (total > 0.0):
                f = _NEGATIVE
                break
            step_x, step_y = 2.0 * sx / total, 2.0 * sy / total
            x0 += max(-s, min(s, step_x))
            y0 += max(-s, min(s, step_y))
            if (x0 - x[k]) ** 2 + (y0 - y[k]) ** 2 > max_shift * max_shift:
                f = _SHIFTED
                break
            if abs(step_x) < tolerance and abs(step_y) < tolerance:
                f = 0
                out_x[k], out_y[k] = x0, y0
                err_x[k] = 2.0 * math.sqrt(vx) / total
                err_y[k] = 2.0 * math.sqrt(vy) / total
                break
        cx, cy = math.floor(out_x[k] + 0.5), math.floor(out_y[k] + 0.5)
        if cx - reach < 0 or cy - reach < 0 or cx + reach >= nx or cy + reach >= ny:
            f |= _EDGE
        for iy in range(max(0, cy - 1), min(ny, cy + 2)):
            for ix in range(max(0, cx - 1), min(nx, cx + 2)):
                if (mask[iy, ix] & repaired) != 0:
                    f |= _INTERPOLATED
                elif (mask[iy, ix] & unusable) != 0:
                    f |= _CENTRE
        flags[k] = f

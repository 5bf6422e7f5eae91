"""Kernels of metadetection: peaks, and moments under a fixed Gaussian weight."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _ramp(value, low, high):
    """0 below low, 1 above high, smooth between."""
    if value >= high:
        return 1.0
    t = max((value - low) / (high - low), 0.0)
    return t * t * (3.0 - 2.0 * t)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _root(parent, k):
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@numba.njit(cache=True, nogil=True, error_model="numpy")
def find_peaks(image, floor, threshold, full, low, high, x, y, weight):
    """Peaks, and how far each is a source of its own, without jumps as the pixels change.

    image: (ny, nx) float32; floor: pixels below it are not looked at; threshold, full: height at
    which a peak begins to count and from which it counts in full; low, high: height over their
    saddle at which two peaks begin to be two sources and from which they are.
    x, y: (n,) int64, weight: (n,) float64, written; returns the number of peaks (of which the first
    n are written). Pixels are flooded from the highest down; where two peaks meet, at the saddle
    of the highest path between them, they share one weight in proportion to a^4 and b^4, their
    heights over it, if the lesser is below low, and have one each if it is above high.
    """
    ny, nx = image.shape
    flat = np.empty(ny * nx, np.int64)
    values = np.empty(ny * nx, np.float32)
    n = 0
    for i in range(1, ny - 1):
        for j in range(1, nx - 1):
            if image[i, j] > floor:
                flat[n] = i * nx + j
                values[n] = -image[i, j]
                n += 1
    order = np.argsort(values[:n], kind="mergesort")
    label = np.full(ny * nx, -1, np.int32)
    parent = np.empty(n, np.int32)
    top = np.empty(n, np.float64)
    share = np.empty(n, np.float64)
    place = np.empty(n, np.int64)
    count = 0
    for k in range(n):
        pixel = flat[order[k]]
        level = -float(values[order[k]])
        mine = -1
        for di in range(-1, 2):
            for dj in range(-1, 2):
                there = label[pixel + di * nx + dj]
                if there < 0:
                    continue
                other = _root(parent, there)
                if mine < 0:
                    mine = other
                elif other != mine:
                    # Of two peaks the higher one goes on.
                    if top[other] > top[mine]:
                        mine, other = other, mine
                    a = top[mine] - level
                    b = top[other] - level
                    apart = _ramp(b, low, high)
                    part = a**4 / (a**4 + b**4) if a > 0.0 else 0.5
                    sure_a = _ramp(top[mine], threshold, full)
                    sure_b = _ramp(top[other], threshold, full)
                    share[mine] *= 1.0 - sure_b * (1.0 - apart) * (1.0 - part)
                    share[other] *= 1.0 - sure_a * (1.0 - apart) * part
                    parent[other] = mine
        if mine < 0:
            mine = count
            parent[count] = count
            top[count] = level
            share[count] = 1.0
            place[count] = pixel
            count += 1
        label[pixel] = mine
    found = 0
    for k in range(count):
        if top[k] <= threshold:
            continue
        if found < x.size:
            y[found], x[found] = divmod(place[k], nx)
            weight[found] = share[k] * _ramp(top[k], threshold, full)
        found += 1
    return found


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weigh_moments(image, x, y, sigma, iterations, max_shift, out):
    """Flux, centre and second moments under a Gaussian weight of fixed width.

    image: (ny, nx) float32; x, y: (n,) float64 starting positions [pixel]; out: (n, 7) float64,
    written: flux (sum of weight times image over the sum of the squared weight), x, y,
    Mxx, Myy, Mxy [pixel2], 1 if the centre stayed within max_shift.
    """
    ny, nx = image.shape
    half = int(np.ceil(4.0 * sigma))
    width = 2 * half + 1
    wx = np.empty(width, np.float64)
    dx = np.empty(width, np.float64)
    inverse = 0.5 / (sigma * sigma)
    for k in range(x.size):
        cx = x[k]
        cy = y[k]
        good = 1.0
        flux = 0.0
        mxx = 0.0
        myy = 0.0
        mxy = 0.0
        norm = 1.0
        done = False
        for step in range(iterations + 1):
            x0 = int(np.rint(cx)) - half
            y0 = int(np.rint(cy)) - half
            if x0 < 0 or y0 < 0 or x0 + width > nx or y0 + width > ny:
                good = 0.0
                break
            for j in range(width):
                d = x0 + j - cx
                dx[j] = d
                wx[j] = np.exp(-d * d * inverse)
            flux = 0.0
            norm = 0.0
            sx = 0.0
            sy = 0.0
            mxx = 0.0
            myy = 0.0
            mxy = 0.0
            for i in range(width):
                d = y0 + i - cy
                wy = np.exp(-d * d * inverse)
                row = image[y0 + i, x0 : x0 + width]
                r0 = 0.0
                r1 = 0.0
                r2 = 0.0
                w2 = 0.0
                for j in range(width):
                    v = wx[j] * row[j]
                    r0 += v
                    r1 += v * dx[j]
                    r2 += v * dx[j] * dx[j]
                    w2 += wx[j] * wx[j]
                flux += wy * r0
                norm += wy * wy * w2
                sx += wy * r1
                sy += wy * d * r0
                mxx += wy * r2
                mxy += wy * d * r1
                myy += wy * d * d * r0
            if flux <= 0.0:
                good = 0.0
                break
            if done:
                break
            if step < iterations:
                # The weight halves the shift of a source as wide as itself.
                cx += 2.0 * sx / flux
                cy += 2.0 * sy / flux
                done = abs(sx) + abs(sy) < 1e-3 * flux
                if (cx - x[k]) ** 2 + (cy - y[k]) ** 2 > max_shift * max_shift:
                    good = 0.0
                    break
        out[k, 0] = flux / norm
        out[k, 1] = cx
        out[k, 2] = cy
        if flux > 0.0:
            out[k, 3] = mxx / flux
            out[k, 4] = myy / flux
            out[k, 5] = mxy / flux
        else:
            out[k, 3] = 0.0
            out[k, 4] = 0.0
            out[k, 5] = 0.0
        out[k, 6] = good


@numba.njit(cache=True, nogil=True, error_model="numpy")
def weigh_fluxes(image, x, y, sigma, out):
    """Flux under a Gaussian weight at given places.

    image: (ny, nx) float32; x, y: (n,) float64; out: (n,) float64, written: sum of weight times
    image over the sum of the squared weight; NaN where the weight leaves the image.
    """
    ny, nx = image.shape
    half = int(np.ceil(4.0 * sigma))
    inverse = 0.5 / (sigma * sigma)
    for k in range(x.size):
        x0 = int(np.rint(x[k])) - half
        y0 = int(np.rint(y[k])) - half
        if x0 < 0 or y0 < 0 or x0 + 2 * half + 1 > nx or y0 + 2 * half + 1 > ny:
            out[k] = np.nan
            continue
        total = 0.0
        norm = 0.0
        for i in range(2 * half + 1):
            dy = y0 + i - y[k]
            for j in range(2 * half + 1):
                dx = x0 + j - x[k]
                w = np.exp(-(dx * dx + dy * dy) * inverse)
                total += w * image[y0 + i, x0 + j]
                norm += w * w
        out[k] = total / norm

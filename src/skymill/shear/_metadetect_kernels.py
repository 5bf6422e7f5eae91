"""Kernels of metadetection: peaks, and moments under a fixed Gaussian weight."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def find_peaks(image, threshold, margin, x, y):
    """Pixels above a threshold that no neighbour within two pixels exceeds.

    image: (ny, nx) float32; x, y: (n,) int64, written; returns how many were found (maybe more
    than n, of which the first n are written).
    """
    ny, nx = image.shape
    found = 0
    for i in range(margin, ny - margin):
        for j in range(margin, nx - margin):
            value = image[i, j]
            if value <= threshold:
                continue
            highest = True
            for di in range(-2, 3):
                for dj in range(-2, 3):
                    other = image[i + di, j + dj]
                    if other > value or (other == value and (di < 0 or (di == 0 and dj < 0))):
                        highest = False
                        break
                if not highest:
                    break
            if highest:
                if found < x.size:
                    x[found] = j
                    y[found] = i
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _lowest_between(image, x0, y0, x1, y1):
    """Lowest value on the straight line between two pixels, read between the pixels."""
    dx = x1 - x0
    dy = y1 - y0
    steps = 2 * max(abs(dx), abs(dy))
    lowest = min(image[y0, x0], image[y1, x1])
    for t in range(1, steps):
        x = x0 + dx * t / steps
        y = y0 + dy * t / steps
        j = min(int(x), image.shape[1] - 2)
        i = min(int(y), image.shape[0] - 2)
        u = x - j
        v = y - i
        value = (1.0 - v) * ((1.0 - u) * image[i, j] + u * image[i, j + 1]) + v * (
            (1.0 - u) * image[i + 1, j] + u * image[i + 1, j + 1]
        )
        lowest = min(lowest, value)
    return lowest


@numba.njit(cache=True, nogil=True, error_model="numpy")
def judge_peaks(image, x, y, surety, low, high, radius, weight):
    """How far each peak is a source of its own, from 0 to 1, without jumps.

    x, y: (n,) int64; surety: (n,) float64, how far each peak counts by its height, 0 to 1;
    low, high: heights over a saddle between which two peaks become two sources;
    weight: (n,) float64, written: surety times a product over the neighbours within radius. Two
    peaks a and b above their saddle share one weight in proportion to a^2 and b^2 if the lesser of
    the two is below low, and have one each if it is above high.
    """
    n = x.size
    weight[:] = surety
    for k in range(n):
        for m in range(k):
            dx = x[m] - x[k]
            dy = y[m] - y[k]
            if dx * dx + dy * dy > radius * radius:
                continue
            saddle = _lowest_between(image, x[k], y[k], x[m], y[m])
            a = image[y[k], x[k]] - saddle
            b = image[y[m], x[m]] - saddle
            t = (min(a, b) - low) / (high - low) if high > low else 1.0 * (min(a, b) > low)
            if t >= 1.0:
                continue
            t = max(t, 0.0)
            apart = t * t * (3.0 - 2.0 * t)
            total = a * a + b * b
            share = a * a / total if total > 0.0 else 0.5
            weight[k] *= 1.0 - surety[m] * (1.0 - apart) * (1.0 - share)
            weight[m] *= 1.0 - surety[k] * (1.0 - apart) * share

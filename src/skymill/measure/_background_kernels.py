"""Numba loops of `background`: one clipped mode for each box of pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_BINS = 1024


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _sums_within(values, low, high, shift):
    """Count, sum and sum of squares of (value - shift) for values in [low, high]."""
    count, s1, s2 = 0.0, 0.0, 0.0
    for i in range(values.size):
        v = values[i]
        d = v - shift
        w = 1.0 if (v >= low) & (v <= high) else 0.0
        count += w
        s1 += w * d
        s2 += w * d * d
    return count, s1, s2


@njit(cache=True, nogil=True, error_model="numpy")
def _clipped_range(values, n, clip_sigma, passes):
    """Mean and width of values[:n] after a few rough clips at clip_sigma."""
    low, high = -np.inf, np.inf
    mean, sigma = np.float64(values[n // 2]), 0.0
    for _ in range(passes):
        count, s1, s2 = _sums_within(values[:n], low, high, mean)
        if count == 0.0:
            break
        offset = s1 / count
        new_sigma = math.sqrt(max(s2 / count - offset * offset, 0.0))
        mean += offset
        converged = sigma > 0.0 and abs(new_sigma - sigma) < 0.05 * sigma
        sigma = new_sigma
        if sigma == 0.0 or converged:
            break
        low, high = mean - clip_sigma * sigma, mean + clip_sigma * sigma
    return mean, sigma


@njit(cache=True, nogil=True, error_model="numpy")
def _histogram_mode(values, n, mean, sigma, clip_sigma, counts):
    """Mode and width from a histogram that is clipped about its median until it stands still."""
    reach = 6.0 * sigma
    start, step = mean - reach, 2.0 * reach / _BINS
    counts[:] = 0
    for i in range(n):
        k = math.floor((values[i] - start) / step)
        if k >= 0 and k < _BINS:
            counts[k] += 1
    first, last = 0, _BINS
    median, average, width = mean, mean, sigma
    for _ in range(30):
        total = 0
        s1 = 0.0
        for k in range(first, last):
            total += counts[k]
            s1 += counts[k] * (k + 0.5)
        if total == 0:
            break
        m1 = s1 / total
        s2 = 0.0
        cumulative = 0
        med = m1
        found = False
        half = 0.5 * total
        for k in range(first, last):
            s2 += counts[k] * (k + 0.5 - m1) * (k + 0.5 - m1)
            if not found and cumulative + counts[k] >= half:
                med = k + (half - cumulative) / max(counts[k], 1)
                found = True
            cumulative += counts[k]
        sd = math.sqrt(s2 / total)
        median, average, width = start + step * med, start + step * m1, step * sd
        new_first = max(first, math.floor(med - clip_sigma * sd))
        new_last = min(last, math.ceil(med + clip_sigma * sd) + 1)
        if new_first == first and new_last == last:
            break
        first, last = new_first, new_last
    # Pearson's rule holds for mild crowding; in a crowded box the median is safer.
    if width > 0.0 and abs(average - median) < 0.3 * width:
        return 2.5 * median - 1.5 * average, width
    return median, width


@njit(cache=True, nogil=True, error_model="numpy")
def box_statistics(image, mask, ignore, y_edges, x_edges, clip_sigma, min_pixels, level, rms, used):
    """Clipped mode and width of the unmasked pixels of each box; ``used`` counts them."""
    ny, nx = y_edges.size - 1, x_edges.size - 1
    largest = 0
    for j in range(ny):
        for i in range(nx):
            area = (y_edges[j + 1] - y_edges[j]) * (x_edges[i + 1] - x_edges[i])
            largest = max(largest, area)
    values = np.empty(largest, np.float32)
    counts = np.empty(_BINS, np.int64)
    for j in range(ny):
        for i in range(nx):
            n = 0
            for y in range(y_edges[j], y_edges[j + 1]):
                for x in range(x_edges[i], x_edges[i + 1]):
                    v = image[y, x]
                    if (mask[y, x] & ignore) == 0 and np.isfinite(v):
                        values[n] = v
                        n += 1
            used[j, i] = n
            if n < min_pixels:
                level[j, i] = np.nan
                rms[j, i] = np.nan
                continue
            mean, sigma = _clipped_range(values, n, clip_sigma, 6)
            if sigma > 0.0:
                level[j, i], rms[j, i] = _histogram_mode(values, n, mean, sigma, clip_sigma, counts)
            else:
                level[j, i], rms[j, i] = mean, 0.0

"""Numba kernels of the detection: peaks of a significance map, and which of them stand alone."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def local_maxima(sn, threshold, out):
    """Pixels above a threshold that no neighbour exceeds; ties go to the first pixel.

    sn (ny, nx) float32; out (m, 2) int64 receives y, x. Returns their number.
    """
    ny, nx = sn.shape
    n = 0
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            value = sn[y, x]
            if not value > threshold:
                continue
            peak = True
            for v in range(-1, 2):
                for u in range(-1, 2):
                    if u == 0 and v == 0:
                        continue
                    other = sn[y + v, x + u]
                    before = v < 0 or (v == 0 and u < 0)
                    if other > value or (before and other == value):
                        peak = False
            if peak and n < out.shape[0]:
                out[n, 0] = y
                out[n, 1] = x
                n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def _reaches_known(sn, known, y0, x0, level, reach, visited, stamp, stack):
    """True if pixels above `level` connect the peak with a known source within `reach` pixels."""
    ny, nx = sn.shape
    top = 0
    stack[0, 0] = y0
    stack[0, 1] = x0
    visited[y0, x0] = stamp
    while top >= 0:
        y = stack[top, 0]
        x = stack[top, 1]
        top -= 1
        if known[y, x]:
            return True
        for k in range(4):
            v = y + (1 if k == 0 else (-1 if k == 1 else 0))
            u = x + (1 if k == 2 else (-1 if k == 3 else 0))
            if v < 0 or u < 0 or v >= ny or u >= nx:
                continue
            if abs(v - y0) > reach or abs(u - x0) > reach:
                continue
            if visited[v, u] == stamp or not sn[v, u] > level:
                continue
            visited[v, u] = stamp
            top += 1
            stack[top, 0] = v
            stack[top, 1] = u
    return False


@njit(cache=True, nogil=True, error_model="numpy")
def select_peaks(
    sn, peaks, known, avoid, saddle_fraction, saddle_min, reach, inner, outer, aperture, kept
):
    """Which peaks, brightest first, are separated from the sources known before.

    peaks (n, 2) int64: y, x, brightest first. known (ny, nx) bool, changed: pixels of sources.
    avoid (ny, nx) bool: no source may be found here. saddle: a peak must rise above the saddle
    towards any known source by saddle_min or saddle_fraction of itself. aperture: the peak above
    the 16th percentile of a ring from `inner` to `outer` pixels must reach this. kept (n,) bool.
    """
    ny, nx = sn.shape
    visited = np.zeros((ny, nx), np.int32)
    size = (2 * reach + 1) * (2 * reach + 1) + 8
    stack = np.empty((size, 2), np.int64)
    ring = np.empty((2 * outer + 1) * (2 * outer + 1), np.float64)
    for k in range(peaks.shape[0]):
        kept[k] = False
        y, x = peaks[k]
        if avoid[y, x] or known[y, x]:
            continue
        value = sn[y, x]
        drop = max(saddle_min, saddle_fraction * value)
        level = value - drop
        if _reaches_known(sn, known, y, x, level, reach, visited, np.int32(k + 1), stack):
            continue
        n = 0
        for v in range(max(0, y - outer), min(ny, y + outer + 1)):
            for u in range(max(0, x - outer), min(nx, x + outer + 1)):
                r2 = (v - y) * (v - y) + (u - x) * (u - x)
                if r2 >= inner * inner and r2 <= outer * outer:
                    ring[n] = sn[v, u]
                    n += 1
        if n > 0:
            ordered = np.sort(ring[:n])
            place = 0.16 * (n - 1)
            low = math.floor(place)
            high = min(n - 1, low + 1)
            floor = ordered[low] + (place - low) * (ordered[high] - ordered[low])
            if value - floor < aperture:
                continue
        kept[k] = True
        known[y, x] = True

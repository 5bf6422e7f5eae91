"""Numba loops of `blob`: which source owns which pixel."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _sift_up(heap, key, size):
    """Move the last entry of a heap to its place; the largest key is on top."""
    i = size - 1
    while i > 0:
        parent = (i - 1) // 2
        if key[heap[parent]] >= key[heap[i]]:
            break
        heap[parent], heap[i] = heap[i], heap[parent]
        i = parent


@njit(cache=True, nogil=True, error_model="numpy")
def _pop(heap, key, size):
    """Take the entry with the largest key."""
    top = heap[0]
    heap[0] = heap[size - 1]
    size -= 1
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and key[heap[child + 1]] > key[heap[child]]:
            child += 1
        if key[heap[i]] >= key[heap[child]]:
            break
        heap[i], heap[child] = heap[child], heap[i]
        i = child
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def flood(snr, mask, x, y, reach2, owner):
    """Give each pixel of the mask to a source, from the highest signal-to-noise ratio downhill.

    snr (ny, nx); mask (ny, nx); x, y (n,): pixels of the sources; reach2 (n,): square of the
    largest distance, 0 for any; owner (ny, nx) int32 is filled, -1 where nobody.
    """
    ny, nx = snr.shape
    owner[:, :] = -1
    heap = np.empty(ny * nx, np.int64)
    key = snr.copy().ravel()
    size = 0
    for i in range(x.size):
        if owner[y[i], x[i]] == -1:
            owner[y[i], x[i]] = i
            heap[size] = y[i] * nx + x[i]
            size += 1
            _sift_up(heap, key, size)
    while size > 0:
        pixel = _pop(heap, key, size)
        size -= 1
        py, px = pixel // nx, pixel % nx
        source = owner[py, px]
        for k in range(4):
            qx = px + (1 if k == 0 else (-1 if k == 1 else 0))
            qy = py + (1 if k == 2 else (-1 if k == 3 else 0))
            if qx < 0 or qy < 0 or qx >= nx or qy >= ny:
                continue
            if not mask[qy, qx] or owner[qy, qx] != -1:
                continue
            far = (qx - x[source]) ** 2 + (qy - y[source]) ** 2
            if reach2[source] > 0 and far > reach2[source]:
                continue
            owner[qy, qx] = source
            heap[size] = qy * nx + qx
            size += 1
            _sift_up(heap, key, size)


@njit(cache=True, nogil=True, error_model="numpy")
def claim_neighbourhoods(mask, x, y, rank, radius, owner):
    """Give every pixel within a radius of a source to the nearest source.

    x, y, rank (n,): pixels of the sources, the first in rank wins among equals.
    """
    ny, nx = mask.shape
    best = np.full((ny, nx), radius * radius + 1, np.int64)
    for i in rank:
        for qy in range(max(0, y[i] - radius), min(ny, y[i] + radius + 1)):
            for qx in range(max(0, x[i] - radius), min(nx, x[i] + radius + 1)):
                far = (qx - x[i]) ** 2 + (qy - y[i]) ** 2
                if mask[qy, qx] and far < best[qy, qx]:
                    best[qy, qx] = far
                    owner[qy, qx] = i


@njit(cache=True, nogil=True, error_model="numpy")
def symmetrize(snr, x, y):
    """The lesser of each pixel and its mirror image about a pixel, where the mirror exists."""
    ny, nx = snr.shape
    out = snr.copy()
    half_x, half_y = min(x, nx - 1 - x), min(y, ny - 1 - y)
    for j in range(y - half_y, y + half_y + 1):
        for i in range(x - half_x, x + half_x + 1):
            other = snr[2 * y - j, 2 * x - i]
            if other < out[j, i]:
                out[j, i] = other
    return out

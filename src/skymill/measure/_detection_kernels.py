"""Numba loops of `detection`: matched filter, growth of footprints, peaks."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _filter_separable(image, taps, out):
    """Convolve with a symmetric separable kernel; outside of the image is zero."""
    ny, nx = image.shape
    half = taps.size // 2
    padded = np.zeros(nx + 2 * half, np.float32)
    ring = np.zeros((2 * half + 1, nx), np.float32)
    for y in range(ny + half):
        slot = y % (2 * half + 1)
        row = ring[slot]
        if y < ny:
            source = image[y]
            for x in range(nx):
                padded[half + x] = source[x]
            for x in range(nx):
                row[x] = taps[half] * padded[half + x]
            for k in range(half):
                left, right, weight = padded[k:], padded[2 * half - k :], taps[k]
                for x in range(nx):
                    row[x] += weight * (left[x] + right[x])
        else:
            for x in range(nx):
                row[x] = 0.0
        centre = y - half
        if centre < 0:
            continue
        target = out[centre]
        middle = ring[centre % (2 * half + 1)]
        for x in range(nx):
            target[x] = taps[half] * middle[x]
        for k in range(half):
            # Rows before the first one are still zero in the ring.
            above = ring[(centre - half + k) % (2 * half + 1)]
            below = ring[(centre + half - k) % (2 * half + 1)]
            weight = taps[k]
            for x in range(nx):
                target[x] += weight * (above[x] + below[x])


@njit(cache=True, nogil=True, error_model="numpy")
def matched_filter(image, variance, mask, exclude, repaired, taps, smooth, noise, cover):
    """Smoothed image, the standard deviation of each of its pixels, and their cover.

    Pixels with a bit of ``exclude`` and none of ``repaired``, and those that are not finite,
    have no weight. ``cover`` is the share of the kernel that lies on pixels with a weight.
    ``noise`` is zero at pixels without a weight where that is less than one half: beyond the edge
    of the data the kernel sees the tails of sources and no sky.
    """
    ny, nx = image.shape
    known = np.ones((ny, nx), np.float32)
    clean = np.empty((ny, nx), np.float32)
    clean_variance = np.empty((ny, nx), np.float32)
    for y in range(ny):
        for x in range(nx):
            m = mask[y, x]
            v, s = image[y, x], variance[y, x]
            bad = (m & exclude) != 0 and (m & repaired) == 0
            if bad or not np.isfinite(v) or not np.isfinite(s) or s <= 0.0:
                clean[y, x] = 0.0
                clean_variance[y, x] = 0.0
                known[y, x] = 0.0
            else:
                clean[y, x] = v
                clean_variance[y, x] = s
    _filter_separable(clean, taps, smooth)
    _filter_separable(clean_variance, taps * taps, noise)
    _filter_separable(known, taps, cover)
    for y in range(ny):
        for x in range(nx):
            blind = known[y, x] == 0.0 and cover[y, x] < 0.5
            noise[y, x] = 0.0 if blind else math.sqrt(max(noise[y, x], np.float32(0.0)))


@njit(cache=True, nogil=True, error_model="numpy")
def grow_disk(seed, radius, out):
    """Set ``out`` within ``radius`` of each set pixel of ``seed`` (both uint8)."""
    ny, nx = seed.shape
    reach = math.floor(radius)
    far = np.int16(30000)
    distance = np.empty((ny, nx), np.int16)
    for y in range(ny):
        d = far
        for x in range(nx):
            d = np.int16(0) if seed[y, x] else min(np.int16(d + 1), far)
            distance[y, x] = d
        d = far
        for x in range(nx - 1, -1, -1):
            d = np.int16(0) if seed[y, x] else min(np.int16(d + 1), far)
            if d < distance[y, x]:
                distance[y, x] = d
    for y in range(ny):
        for x in range(nx):
            out[y, x] = 0
    for dy in range(-reach, reach + 1):
        half = np.int16(math.floor(math.sqrt(max(radius * radius - dy * dy, 0.0))))
        for y in range(max(0, -dy), min(ny, ny - dy)):
            source, target = distance[y + dy], out[y]
            for x in range(nx):
                target[x] |= source[x] <= half


@njit(cache=True, nogil=True, error_model="numpy")
def _find_root(parent, i):
    root = i
    while parent[root] != root:
        root = parent[root]
    while parent[i] != root:
        parent[i], i = root, parent[i]
    return root


@njit(cache=True, nogil=True, error_model="numpy")
def find_peaks(smooth, noise, threshold, order, min_prominence, min_contrast, peak_pixel, parent):
    """Local maxima that rise above the saddle to a higher one.

    Pixels are visited from the brightest to the faintest (``order``, flat indices) and joined to
    the basins that they touch; where two basins meet, the lower summit survives if it rises above
    the meeting point by ``min_prominence`` of its own noise and by ``min_contrast`` of its height.
    ``parent`` (flat, int32) is -1 everywhere on entry. Returns the number of peaks.
    """
    ny, nx = smooth.shape
    flat, flat_noise = smooth.ravel(), noise.ravel()
    n = order.size
    # A basin is known by its summit: the root of the union-find tree is the summit's pixel.
    dead = np.zeros(ny * nx, np.uint8)
    summits = 0
    summit = np.empty(n, np.int32)
    for i in range(n):
        p = order[i]
        y, x = p // nx, p % nx
        parent[p] = p
        best = np.int32(-1)
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                if dy == 0 and dx == 0:
                    continue
                v, u = y + dy, x + dx
                if v < 0 or u < 0 or v >= ny or u >= nx:
                    continue
                q = v * nx + u
                if parent[q] < 0:
                    continue
                root = _find_root(parent, q)
                if best < 0:
                    best = root
                    continue
                if root == best:
                    continue
                high, low = best, root
                if flat[low] > flat[high]:
                    high, low = low, high
                rise = flat[low] - flat[p]
                if rise < min_prominence * flat_noise[low] or rise < min_contrast * flat[low]:
                    dead[low] = 1
                parent[low] = high
                best = high
        if best >= 0:
            parent[p] = best
        else:
            summit[summits] = p
            summits += 1
    found = 0
    for k in range(summits):
        p = summit[k]
        if dead[p] == 0 and flat[p] > threshold * flat_noise[p]:
            peak_pixel[found] = p
            found += 1
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def refine_peaks(smooth, pixel, x, y):
    """Vertex of the parabola through the three pixels around each peak, within half a pixel."""
    ny, nx = smooth.shape
    for i in range(pixel.size):
        v, u = pixel[i] // nx, pixel[i] % nx
        x[i], y[i] = u, v
        if 0 < u < nx - 1:
            left, mid, right = smooth[v, u - 1], smooth[v, u], smooth[v, u + 1]
            curve = left - 2.0 * mid + right
            if curve < 0.0:
                x[i] += min(0.5, max(-0.5, 0.5 * (left - right) / curve))
        if 0 < v < ny - 1:
            below, mid, above = smooth[v - 1, u], smooth[v, u], smooth[v + 1, u]
            curve = below - 2.0 * mid + above
            if curve < 0.0:
                y[i] += min(0.5, max(-0.5, 0.5 * (below - above) / curve))


@njit(cache=True, nogil=True, error_model="numpy")
def footprint_boxes(labels, count, boxes, area):
    """Bounding box (x0, y0, x1, y1; half open) and area of each label 1..count."""
    ny, nx = labels.shape
    for k in range(count):
        boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = nx, ny, 0, 0
        area[k] = 0
    for y in range(ny):
        for x in range(nx):
            k = labels[y, x] - 1
            if k >= 0:
                boxes[k, 0] = min(boxes[k, 0], x)
                boxes[k, 1] = min(boxes[k, 1], y)
                boxes[k, 2] = max(boxes[k, 2], x + 1)
                boxes[k, 3] = max(boxes[k, 3], y + 1)
                area[k] += 1

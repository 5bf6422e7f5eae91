"""Numba kernels that pair two lists of positions with a counting-sorted grid.

Each list is sorted into cells of about one object; only the cells within the search radius are
visited, so that memory is read nearly in order.
"""

import math

import numpy as np
from numba import njit

_TWO_PI = 2.0 * math.pi


@njit(cache=True, nogil=True, error_model="numpy")
def sort_plane(x, y, x0, y0, inverse, nx, ny, start, order, sorted_x, sorted_y):
    """Counting sort of planar points into nx * ny cells; `start` has nx * ny + 1 entries."""
    n = x.size
    cell = np.empty(n, np.int32)
    for i in range(n):
        ix = min(max(int((x[i] - x0) * inverse), 0), nx - 1)
        iy = min(max(int((y[i] - y0) * inverse), 0), ny - 1)
        cell[i] = iy * nx + ix
        start[cell[i] + 1] += 1
    for c in range(nx * ny):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    for i in range(n):
        k = cursor[cell[i]]
        cursor[cell[i]] = k + 1
        order[k] = i
        sorted_x[k] = x[i]
        sorted_y[k] = y[i]


@njit(cache=True, nogil=True, error_model="numpy")
def match_plane(ax, ay, a_order, bx, by, b_order, start, x0, y0, inverse, nx, ny, r2, best, back):
    """Mutually nearest pairs of planar points; `best[a]` = b or -1, in the original numbering.

    The lists come sorted (`sort_plane`); `back` is scratch of the length of b.
    """
    reach = math.ceil(math.sqrt(r2) * inverse)
    distance_b = np.full(bx.size, np.inf)
    nearest = np.full(ax.size, -1, np.int64)
    for i in range(ax.size):
        px, py = ax[i], ay[i]
        cx = math.floor((px - x0) * inverse)
        cy = math.floor((py - y0) * inverse)
        lowest = r2
        for iy in range(max(cy - reach, 0), min(cy + reach, ny - 1) + 1):
            first = max(cx - reach, 0)
            last = min(cx + reach, nx - 1)
            if first > last:
                continue
            for k in range(start[iy * nx + first], start[iy * nx + last + 1]):
                d2 = (bx[k] - px) ** 2 + (by[k] - py) ** 2
                if d2 <= lowest:
                    lowest = d2
                    nearest[i] = k
                if d2 <= r2 and d2 < distance_b[k]:
                    distance_b[k] = d2
                    back[k] = i
    for i in range(ax.size):
        k = nearest[i]
        best[a_order[i]] = b_order[k] if k >= 0 and back[k] == i else -1


@njit(cache=True, nogil=True, error_model="numpy")
def sort_sphere(ra, dec, ra0, dec0, height, columns, offset, scale, start, order, packed):
    """Counting sort of sky positions [rad] into bands of declination cut in right ascension.

    `columns[band]` cells of `1 / scale[band]` radian stand in each band from `offset[band]`.
    `packed` (n, 3) receives ra - ra0 in [0, 2 pi), dec and cos(dec).
    """
    n = ra.size
    bands = columns.size
    cell = np.empty(n, np.int32)
    shifted = np.empty(n)
    for i in range(n):
        u = ra[i] - ra0
        if u < 0.0:
            u += _TWO_PI
        elif u >= _TWO_PI:
            u -= _TWO_PI
        shifted[i] = u
        band = min(max(int((dec[i] - dec0) / height), 0), bands - 1)
        column = min(int(u * scale[band]), columns[band] - 1)
        cell[i] = offset[band] + column
        start[cell[i] + 1] += 1
    for c in range(start.size - 1):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    for i in range(n):
        k = cursor[cell[i]]
        cursor[cell[i]] = k + 1
        order[k] = i
        packed[k, 0] = shifted[i]
        packed[k, 1] = dec[i]
        packed[k, 2] = math.cos(dec[i])


@njit(cache=True, nogil=True, error_model="numpy")
def match_sphere(
    a, a_order, b, b_order, start, dec0, height, columns, offset, scale, radius, best, separation
):
    """Mutually nearest pairs on the sphere; `best[a]` = b or -1, in the original numbering.

    The separation [rad] is exact (haversine); `separation` is filled for the pairs.
    """
    bands = columns.size
    limit = math.sin(0.5 * radius) ** 2
    distance_b = np.full(b.shape[0], np.inf)
    back = np.full(b.shape[0], -1, np.int64)
    nearest = np.full(a.shape[0], -1, np.int64)
    distance_a = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        u, dec, cosine = a[i, 0], a[i, 1], a[i, 2]
        low = max(math.floor((dec - radius - dec0) / height), 0)
        high = min(math.floor((dec + radius - dec0) / height), bands - 1)
        # Largest difference in right ascension within the radius (tangent of the small circle).
        half = math.pi
        if math.sin(radius) < cosine:
            half = math.asin(math.sin(radius) / cosine) * (1.0 + 1e-12)
        lowest = limit
        for band in range(low, high + 1):
            for turn in range(-1, 2):
                left = u - half + turn * _TWO_PI
                right = u + half + turn * _TWO_PI
                if half >= math.pi:
                    if turn != 0:
                        continue
                    left, right = 0.0, _TWO_PI
                first = math.floor(left * scale[band])
                last = math.floor(right * scale[band])
                if last < 0 or first >= columns[band]:
                    # The last column also holds what rounds past its end.
                    continue
                first = max(first, 0)
                last = min(last, columns[band] - 1)
                for k in range(start[offset[band] + first], start[offset[band] + last + 1]):
                    half_dec = 0.5 * (b[k, 1] - dec)
                    half_ra = 0.5 * (b[k, 0] - u)
                    if abs(half_dec) < 1e-3:
                        s = half_dec * (1.0 - half_dec * half_dec / 6.0)
                    else:
                        s = math.sin(half_dec)
                    if abs(half_ra) < 1e-3:
                        t = half_ra * (1.0 - half_ra * half_ra / 6.0)
                    else:
                        t = math.sin(half_ra)
                    d = s * s + cosine * b[k, 2] * t * t
                    if d <= lowest:
                        lowest = d
                        nearest[i] = k
                    if d <= limit and d < distance_b[k]:
                        distance_b[k] = d
                        back[k] = i
        distance_a[i] = lowest
    for i in range(a.shape[0]):
        k = nearest[i]
        if k >= 0 and back[k] == i:
            best[a_order[i]] = b_order[k]
            separation[a_order[i]] = 2.0 * math.asin(math.sqrt(distance_a[i]))
        else:
            best[a_order[i]] = -1


@njit(cache=True, nogil=True, error_model="numpy")
def count_neighbours(x, y, order, start, x0, y0, inverse, nx, ny, r2, count):
    """Other points within the radius of each planar point, from one sorted list."""
    reach = math.ceil(math.sqrt(r2) * inverse)
    for i in range(x.size):
        cx = int((x[i] - x0) * inverse)
        cy = int((y[i] - y0) * inverse)
        total = 0
        for iy in range(max(cy - reach, 0), min(cy + reach, ny - 1) + 1):
            first, last = max(cx - reach, 0), min(cx + reach, nx - 1)
            if first > last:
                continue
            for k in range(start[iy * nx + first], start[iy * nx + last + 1]):
                if k != i and (x[k] - x[i]) ** 2 + (y[k] - y[i]) ** 2 <= r2:
                    total += 1
        count[order[i]] = total


@njit(cache=True, nogil=True, error_model="numpy")
def vote_offsets(ax, ay, bx, by, limit, inverse, size, votes):
    """Histogram of all differences b - a within +-limit; `votes` is (size, size), rows y."""
    for i in range(ax.size):
        for k in range(bx.size):
            dx, dy = bx[k] - ax[i] + limit, by[k] - ay[i] + limit
            if dx >= 0.0 and dy >= 0.0:
                ix, iy = int(dx * inverse), int(dy * inverse)
                if ix < size and iy < size:
                    votes[iy, ix] += 1

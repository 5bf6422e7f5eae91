"""Radial histograms of tangential shear around every point of a grid (numba only)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def radial_histograms(
    row_north,
    row_east,
    cell_start,
    n_cell_x,
    n_cell_y,
    cell_size,
    cell_x0,
    cell_y0,
    galaxies,
    r_max,
    lookup,
    n_bins,
    buffer,
    index,
    out,
):
    """Sums of w g_t, w g_x, w^2 |g|^2 / 2 and w in radial bins for each point of one grid row.

    ``galaxies`` (6, n): east, north, w g1, w g2, w^2 |g|^2 / 2, w, sorted by cell (x fastest).
    ``lookup`` (n_fine + 1,) int32 gives the bin of each of n_fine steps equal in sqrt(r), and
    n_bins beyond. ``out`` (4, n_points, n_bins) is overwritten.
    ``buffer`` (2, n) float32 and ``index`` (n,) int32 are scratch.
    """
    n_points = row_east.size
    hist = np.zeros((n_bins + 1, 4), dtype=np.float32)
    n_fine = lookup.size - 1
    factor = np.float32(n_fine) / np.sqrt(np.float32(r_max))
    limit = np.float32(n_fine)
    r_max2 = np.float32(r_max * r_max)
    tiny = np.float32(1e-12)
    for p in range(n_points):
        hist[:, :] = 0
        east0 = np.float32(row_east[p])
        north0 = np.float32(row_north)
        ix0 = int(np.floor((row_east[p] - r_max - cell_x0) / cell_size))
        ix1 = int(np.floor((row_east[p] + r_max - cell_x0) / cell_size))
        iy0 = int(np.floor((row_north - r_max - cell_y0) / cell_size))
        iy1 = int(np.floor((row_north + r_max - cell_y0) / cell_size))
        if ix0 < 0:
            ix0 = 0
        if iy0 < 0:
            iy0 = 0
        if ix1 > n_cell_x - 1:
            ix1 = n_cell_x - 1
        if iy1 > n_cell_y - 1:
            iy1 = n_cell_y - 1
        if ix1 >= ix0:
            for iy in range(iy0, iy1 + 1):
                # Narrow the row of cells to the chord of the circle.
                low = cell_y0 + iy * cell_size - row_north
                high = low + cell_size
                gap = 0.0
                if low > 0:
                    gap = low
                elif high < 0:
                    gap = -high
                if gap >= r_max:
                    continue
                chord = np.sqrt(r_max * r_max - gap * gap)
                jx0 = int(np.floor((row_east[p] - chord - cell_x0) / cell_size))
                jx1 = int(np.floor((row_east[p] + chord - cell_x0) / cell_size))
                if jx0 < ix0:
                    jx0 = ix0
                if jx1 > ix1:
                    jx1 = ix1
                if jx1 < jx0:
                    continue
                start = cell_start[iy * n_cell_x + jx0]
                stop = cell_start[iy * n_cell_x + jx1 + 1]
                n = stop - start
                if n <= 0:
                    continue
                east = galaxies[0, start:stop]
                north = galaxies[1, start:stop]
                a1 = galaxies[2, start:stop]
                a2 = galaxies[3, start:stop]
                tangential = buffer[0, :n]
                cross = buffer[1, :n]
                bins = index[:n]
                for i in range(n):
                    dx = east[i] - east0
                    dy = north[i] - north0
                    dx2 = dx * dx
                    dy2 = dy * dy
                    r2 = dx2 + dy2
                    inverse = np.float32(1.0) / (r2 + tiny)
                    cos2 = (dx2 - dy2) * inverse
                    sin2 = np.float32(2.0) * dx * dy * inverse
                    tangential[i] = -(a1[i] * cos2 + a2[i] * sin2)
                    cross[i] = a1[i] * sin2 - a2[i] * cos2
                    position = factor * np.sqrt(np.sqrt(r2))
                    bins[i] = np.int32(position if r2 < r_max2 and position < limit else limit)
                noise = galaxies[4, start:stop]
                weight = galaxies[5, start:stop]
                for i in range(n):
                    b = lookup[bins[i]]
                    hist[b, 0] += tangential[i]
                    hist[b, 1] += cross[i]
                    hist[b, 2] += noise[i]
                    hist[b, 3] += weight[i]
        for b in range(n_bins):
            out[0, p, b] = hist[b, 0]
            out[1, p, b] = hist[b, 1]
            out[2, p, b] = hist[b, 2]
            out[3, p, b] = hist[b, 3]


@njit(cache=True, nogil=True, error_model="numpy")
def turned_histograms(
    row_north,
    row_east,
    cell_start,
    n_cell_x,
    n_cell_y,
    cell_size,
    cell_x0,
    cell_y0,
    east,
    north,
    shears,
    r_max,
    n_bins,
    out,
):
    """Sums of w g_t and w g_x in radial bins, of many catalogues at the same places.

    ``shears`` (n, 2, n_turn) float32: w g1 and w g2 of each catalogue. ``out``
    (n_points, n_bins, 2, n_turn) is overwritten: g_t, g_x. Bins are equal in sqrt(r).
    """
    n_turn = shears.shape[2]
    factor = np.float32(n_bins) / np.sqrt(np.float32(r_max))
    r_max2 = np.float32(r_max * r_max)
    tiny = np.float32(1e-12)
    for p in range(row_east.size):
        hist = out[p]
        hist[:, :, :] = np.float32(0.0)
        east0 = np.float32(row_east[p])
        north0 = np.float32(row_north)
        iy0 = max(int(np.floor((row_north - r_max - cell_y0) / cell_size)), 0)
        iy1 = min(int(np.floor((row_north + r_max - cell_y0) / cell_size)), n_cell_y - 1)
        for iy in range(iy0, iy1 + 1):
            low = cell_y0 + iy * cell_size - row_north
            gap = max(low, -(low + cell_size), 0.0)
            if gap >= r_max:
                continue
            chord = np.sqrt(r_max * r_max - gap * gap)
            ix0 = max(int(np.floor((row_east[p] - chord - cell_x0) / cell_size)), 0)
            ix1 = min(int(np.floor((row_east[p] + chord - cell_x0) / cell_size)), n_cell_x - 1)
            if ix1 < ix0:
                continue
            for i in range(cell_start[iy * n_cell_x + ix0], cell_start[iy * n_cell_x + ix1 + 1]):
                dx = east[i] - east0
                dy = north[i] - north0
                r2 = dx * dx + dy * dy
                if r2 >= r_max2:
                    continue
                inverse = np.float32(1.0) / (r2 + tiny)
                cos2 = (dx * dx - dy * dy) * inverse
                sin2 = np.float32(2.0) * dx * dy * inverse
                b = min(np.int32(factor * np.sqrt(np.sqrt(r2))), np.int32(n_bins - 1))
                first = shears[i, 0]
                second = shears[i, 1]
                tangential = hist[b, 0]
                cross = hist[b, 1]
                for k in range(n_turn):
                    tangential[k] -= first[k] * cos2 + second[k] * sin2
                    cross[k] += first[k] * sin2 - second[k] * cos2

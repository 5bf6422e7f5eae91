"""Numba kernels of warping: Lanczos resampling along runs, filling of unusable pixels, PSF stamps.

One output row is cut into blocks of `BLOCK` pixels. Within a block the weights lie at constant
offsets of one buffer, and stretches of pixels whose input pixels differ by a constant offset
("runs") are summed with vector instructions across the output pixels.
"""

import math

import numpy as np
from numba import njit

BLOCK = 128
#: Spacing of the nodes of the pixel mapping; it divides BLOCK.
STEP = 64


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_weights(fraction, n, polynomials, weights):
    """Weights of the taps for each fraction in [0, 1).

    fraction: (BLOCK,) float64; polynomials: (taps, 12) float64 in 2 fraction - 1, constant first;
    weights: (taps BLOCK,) float32, tap k at offset k BLOCK.
    """
    for k in range(polynomials.shape[0]):
        c = polynomials[k]
        c0, c1, c2, c3, c4, c5 = c[0], c[1], c[2], c[3], c[4], c[5]
        c6, c7, c8, c9, c10, c11 = c[6], c[7], c[8], c[9], c[10], c[11]
        out = weights[k * BLOCK : k * BLOCK + n]
        for i in range(n):
            t = 2.0 * fraction[i] - 1.0
            t2 = t * t
            even = c0 + t2 * (c2 + t2 * (c4 + t2 * (c6 + t2 * (c8 + t2 * c10))))
            odd = c1 + t2 * (c3 + t2 * (c5 + t2 * (c7 + t2 * (c9 + t2 * c11))))
            out[i] = even + t * odd


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_row(row, w, wy, n, order, acc):
    """Add wy * sum_k w_k row_k for one row of taps; everything starts at the run."""
    if order == 3:
        for i in range(n):
            acc[i] += wy[i] * (
                w[i] * row[i]
                + w[i + 128] * row[i + 1]
                + w[i + 256] * row[i + 2]
                + w[i + 384] * row[i + 3]
                + w[i + 512] * row[i + 4]
                + w[i + 640] * row[i + 5]
            )
    else:
        for i in range(n):
            acc[i] += wy[i] * (
                w[i] * row[i]
                + w[i + 128] * row[i + 1]
                + w[i + 256] * row[i + 2]
                + w[i + 384] * row[i + 3]
                + w[i + 512] * row[i + 4]
                + w[i + 640] * row[i + 5]
                + w[i + 768] * row[i + 6]
                + w[i + 896] * row[i + 7]
                + w[i + 1024] * row[i + 8]
                + w[i + 1152] * row[i + 9]
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _row_nodes(nodes, y, row):
    """Cubic interpolation of the nodes (4, my, mx) to one output row: (4, mx)."""
    cell = y // STEP
    t = (y - cell * STEP) / STEP
    w0 = -t * (t - 1) * (t - 2) / 6
    w1 = (t + 1) * (t - 1) * (t - 2) / 2
    w2 = -(t + 1) * t * (t - 2) / 2
    w3 = (t + 1) * t * (t - 1) / 6
    for p in range(4):
        a, b, c, d = nodes[p, cell], nodes[p, cell + 1], nodes[p, cell + 2], nodes[p, cell + 3]
        out = row[p]
        for m in range(out.size):
            out[m] = w0 * a[m] + w1 * b[m] + w2 * c[m] + w3 * d[m]


@njit(cache=True, nogil=True, error_model="numpy")
def _block_positions(row, start, n, position):
    """Cubic interpolation along a row: all nodes' values at n pixels from `start`."""
    for p in range(4):
        nodes = row[p]
        out = position[p]
        done = 0
        while done < n:
            cell = (start + done) // STEP
            first = start + done - cell * STEP
            count = min(STEP - first, n - done)
            a, b, c, d = nodes[cell], nodes[cell + 1], nodes[cell + 2], nodes[cell + 3]
            # Newton form about node b with t in [0, 1).
            c1 = (-2 * a - 3 * b + 6 * c - d) / 6
            c2 = (a - 2 * b + c) / 2
            c3 = (-a + 3 * b - 3 * c + d) / 6
            part = out[done : done + count]
            for i in range(count):
                t = (first + i) * (1.0 / STEP)
                part[i] = b + t * (c1 + t * (c2 + t * c3))
            done += count


@njit(cache=True, nogil=True, error_model="numpy")
def resample(
    planes, variance, mask, nodes, polynomials, exact, box, out, out_variance, out_mask, no_data
):
    """Resample the planes of one input image into a part of the output.

    planes: (np, ny, nx) float32, variance (ny, nx) float32, mask (ny, nx) int32: input, filled.
    box: y0, x0, n_rows, n_columns of the part. nodes: (4, my, mx) float64, input x, input y,
    flux factor and variance factor at the positions STEP (m - 1) from the part's first pixel.
    polynomials: (2 order, 12), weights of the taps. exact: sum the variance with the squared
    weights, else interpolate it linearly. out (np, NY, NX) float32, out_variance, out_mask
    (NY, NX): written only where the whole kernel lies within the input and nothing was written
    before (mask has `no_data`). Returns the number of pixels written.
    """
    y_off, x_off, n_rows, n_columns = box
    n_planes, ny, nx = planes.shape
    taps = polynomials.shape[0]
    order = taps // 2
    row = np.empty((4, nodes.shape[2]))
    position = np.empty((4, BLOCK))
    fx = np.empty(BLOCK)
    fy = np.empty(BLOCK)
    ix = np.empty(BLOCK, np.int64)
    iy = np.empty(BLOCK, np.int64)
    wx = np.empty(taps * BLOCK, np.float32)
    wy = np.empty(taps * BLOCK, np.float32)
    wx2 = np.empty(taps * BLOCK, np.float32)
    wy2 = np.empty(taps * BLOCK, np.float32)
    acc = np.empty(BLOCK, np.float32)
    bits = np.empty(BLOCK, np.int32)
    fresh = np.empty(BLOCK, np.bool_)
    written = 0
    for y in range(n_rows):
        _row_nodes(nodes, y, row)
        for start in range(0, n_columns, BLOCK):
            n = min(BLOCK, n_columns - start)
            _block_positions(row, start, n, position)
            inside = 0
            for i in range(n):
                x_in, y_in = position[0, i], position[1, i]
                jx, jy = math.floor(x_in), math.floor(y_in)
                ix[i], iy[i] = int(jx), int(jy)
                fx[i], fy[i] = x_in - jx, y_in - jy
                if (
                    ix[i] >= order - 1
                    and ix[i] < nx - order
                    and iy[i] >= order - 1
                    and iy[i] < ny - order
                ):
                    inside += 1
                else:
                    ix[i] = -1
            if inside == 0:
                continue
            evaluate_weights(fx, n, polynomials, wx)
            evaluate_weights(fy, n, polynomials, wy)
            if exact:
                for i in range(wx.size):
                    wx2[i] = wx[i] * wx[i]
                    wy2[i] = wy[i] * wy[i]
            first = 0
            while first < n:
                if ix[first] < 0:
                    first += 1
                    continue
                last = first + 1
                while (
                    last < n
                    and ix[last] >= 0
                    and ix[last] - ix[first] == last - first
                    and iy[last] == iy[first]
                ):
                    last += 1
                count = last - first
                begin = x_off + start + first
                x0 = ix[first] - order + 1
                y0 = iy[first] - order + 1
                factor = position[2, first:last]
                target = out_mask[y + y_off, begin : begin + count]
                m0 = mask[iy[first], ix[first] : ix[first] + count + 1]
                m1 = mask[iy[first] + 1, ix[first] : ix[first] + count + 1]
                for i in range(count):
                    bits[i] = m0[i] | m0[i + 1] | m1[i] | m1[i + 1]
                for i in range(count):
                    fresh[i] = (target[i] & no_data) != 0
                    if fresh[i]:
                        target[i] = bits[i]
                        written += 1
                for p in range(n_planes):
                    acc[:count] = 0.0
                    for t in range(taps):
                        _sum_row(
                            planes[p, y0 + t, x0 : x0 + count + taps - 1],
                            wx[first:],
                            wy[t * BLOCK + first : t * BLOCK + last],
                            count,
                            order,
                            acc,
                        )
                    result = out[p, y + y_off, begin : begin + count]
                    for i in range(count):
                        if fresh[i]:
                            result[i] = acc[i] * factor[i]
                if exact:
                    acc[:count] = 0.0
                    for t in range(taps):
                        _sum_row(
                            variance[y0 + t, x0 : x0 + count + taps - 1],
                            wx2[first:],
                            wy2[t * BLOCK + first : t * BLOCK + last],
                            count,
                            order,
                            acc,
                        )
                else:
                    v0 = variance[iy[first], ix[first] : ix[first] + count + 1]
                    v1 = variance[iy[first] + 1, ix[first] : ix[first] + count + 1]
                    for i in range(count):
                        s = np.float32(fx[first + i])
                        t0 = v0[i] + s * (v0[i + 1] - v0[i])
                        t1 = v1[i] + s * (v1[i + 1] - v1[i])
                        acc[i] = t0 + np.float32(fy[first + i]) * (t1 - t0)
                spread = position[3, first:last]
                result = out_variance[y + y_off, begin : begin + count]
                for i in range(count):
                    if fresh[i]:
                        result[i] = acc[i] * spread[i]
                first = last
    return written


@njit(cache=True, nogil=True, error_model="numpy")
def fill_unusable(planes, variance, mask, unusable, no_number, reach):
    """Replace unusable pixels in place by the nearest usable ones of their row and column.

    planes: (np, ny, nx) float32; variance (ny, nx) float32; mask (ny, nx) int32. A pixel is
    unusable if it has a bit of `unusable`, is not finite or has no positive finite variance; the
    latter two get the bit `no_number`. Weights are 1 / distance; without a usable pixel within
    `reach` the value is zero and the variance is kept or 1.
    """
    n_planes, ny, nx = planes.shape
    bad = np.empty((ny, nx), np.bool_)
    for y in range(ny):
        for x in range(nx):
            v = variance[y, x]
            ok = (mask[y, x] & unusable) == 0
            if ok and not (v > 0.0 and v < np.inf and math.isfinite(planes[0, y, x])):
                ok = False
                mask[y, x] |= no_number
            bad[y, x] = not ok
    level = np.empty(n_planes)
    for y in range(ny):
        for x in range(nx):
            if not bad[y, x]:
                continue
            total = 0.0
            spread = 0.0
            level[:] = 0.0
            for direction in range(4):
                dx = 1 if direction == 0 else (-1 if direction == 1 else 0)
                dy = 1 if direction == 2 else (-1 if direction == 3 else 0)
                xx, yy = x, y
                for distance in range(1, reach + 1):
                    xx += dx
                    yy += dy
                    if xx < 0 or yy < 0 or xx >= nx or yy >= ny:
                        break
                    if not bad[yy, xx]:
                        w = 1.0 / distance
                        total += w
                        spread += w * variance[yy, xx]
                        for p in range(n_planes):
                            level[p] += w * planes[p, yy, xx]
                        break
            for p in range(n_planes):
                planes[p, y, x] = level[p] / total if total > 0 else 0.0
            if total > 0:
                variance[y, x] = spread / total
            elif not (variance[y, x] > 0.0 and variance[y, x] < np.inf):
                variance[y, x] = 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def resample_stamps(stamps, jacobian, table, out):
    """PSF stamps seen through local affine maps, of unit sum.

    stamps: (n, s, s) float32 centred; jacobian: (n, 2, 2) float64, d(input x, y) / d(output x, y);
    table: (steps + 2, taps) float64, weights at equal steps of the fraction from 0 to 1;
    out: (n, so, so) float32, zero outside of the input stamp.
    """
    steps = table.shape[0] - 2
    taps = table.shape[1]
    order = taps // 2
    n, s, _ = stamps.shape
    so = out.shape[1]
    half, half_out = s // 2, so // 2
    wx = np.empty(taps)
    wy = np.empty(taps)
    for k in range(n):
        total = 0.0
        for j in range(so):
            for i in range(so):
                x = jacobian[k, 0, 0] * (i - half_out) + jacobian[k, 0, 1] * (j - half_out) + half
                y = jacobian[k, 1, 0] * (i - half_out) + jacobian[k, 1, 1] * (j - half_out) + half
                x0 = math.floor(x)
                y0 = math.floor(y)
                out[k, j, i] = 0.0
                if x0 < -1 or y0 < -1 or x0 > s or y0 > s:
                    continue
                fx = (x - x0) * steps
                fy = (y - y0) * steps
                mx = int(fx)
                my = int(fy)
                fx -= mx
                fy -= my
                for t in range(taps):
                    wx[t] = table[mx, t] * (1 - fx) + table[mx + 1, t] * fx
                    wy[t] = table[my, t] * (1 - fy) + table[my + 1, t] * fy
                value = 0.0
                for b in range(max(0, order - 1 - y0), min(taps, s - y0 + order - 1)):
                    line = 0.0
                    for a in range(max(0, order - 1 - x0), min(taps, s - x0 + order - 1)):
                        line += wx[a] * stamps[k, y0 + b - order + 1, x0 + a - order + 1]
                    value += wy[b] * line
                out[k, j, i] = value
                total += value
        if total > 0:
            for j in range(so):
                for i in range(so):
                    out[k, j, i] /= total


@njit(cache=True, nogil=True, error_model="numpy")
def add_surface(nodes, shape, bits, y0, x0, weight, total):
    """Add weight times a smooth surface to the pixels of a part where bits are set.

    nodes: (4, my, mx) float64, input x, input y, value and anything at the positions
    STEP (m - 1) from the part's first pixel; shape: (ny, nx) of the input, outside of which
    nothing is added; bits: (n_rows, n_columns) uint8 of the part; y0, x0: where the part lies in
    total (NY, NX) float32.
    """
    n_rows, n_columns = bits.shape
    ny, nx = shape
    row = np.empty((4, nodes.shape[2]))
    position = np.empty((4, BLOCK))
    for y in range(n_rows):
        _row_nodes(nodes, y, row)
        for start in range(0, n_columns, BLOCK):
            n = min(BLOCK, n_columns - start)
            _block_positions(row, start, n, position)
            u, v, value = position[0], position[1], position[2]
            target = total[y + y0, x0 + start : x0 + start + n]
            wanted = bits[y, start : start + n]
            for i in range(n):
                inside = u[i] >= -0.5 and u[i] < nx - 0.5 and v[i] >= -0.5 and v[i] < ny - 0.5
                target[i] += weight * value[i] if inside and wanted[i] != 0 else 0.0

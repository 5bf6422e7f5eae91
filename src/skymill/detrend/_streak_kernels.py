"""Kernels of the streak finder: bins, sums along all lines, profiles across a line."""

# mypy: ignore-errors
import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def bin_significance(image, variance, mask, bad, width, out, known):
    """Signal-to-noise ratio of squares of pixels; ``known`` is 0 where most are unusable."""
    rows, columns = out.shape
    for j in range(rows):
        for i in range(columns):
            total, noise, n = np.float32(0.0), np.float32(0.0), 0
            for y in range(j * width, (j + 1) * width):
                for x in range(i * width, (i + 1) * width):
                    v, s = image[y, x], variance[y, x]
                    if (mask[y, x] & bad) == 0 and s > 0.0 and np.isfinite(v) and np.isfinite(s):
                        total += v
                        noise += s
                        n += 1
            if 2 * n > width * width:
                out[j, i] = total / math.sqrt(noise)
                known[j, i] = 1.0
            else:
                out[j, i] = 0.0
                known[j, i] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def sum_lines(pixels, flip_x, one, two):
    """Sums along the lines that rise by 0 to rows - 1 columns over all rows.

    The number of rows is a power of two. ``one`` and ``two`` are (rows, columns + rows) work
    arrays; returned is the one that holds the sum along the line from column ``i - rows`` of the
    first row to column ``i - rows + shift`` of the last in [shift, i]. Lines of half the height
    are joined in pairs (Brady 1998, SIAM J. Comput. 27, 107).
    """
    rows, columns = pixels.shape
    wide = columns + rows
    one[:] = 0.0
    for y in range(rows):
        for x in range(columns):
            one[y, rows + x] = pixels[y, columns - 1 - x] if flip_x else pixels[y, x]
    height = 1
    while height < rows:
        for start in range(0, rows, 2 * height):
            for shift in range(2 * height):
                half = shift // 2
                step = shift - half
                low, high = one[start + half], one[start + height + half]
                target = two[start + shift]
                for x in range(wide - step):
                    target[x] = low[x] + high[x + step]
                for x in range(wide - step, wide):
                    target[x] = low[x]
        one, two = two, one
        height *= 2
    return one


@njit(cache=True, nogil=True, error_model="numpy")
def line_significance(sums, counts, box, least, out):
    """Sums over ``box`` neighbouring lines over the root of their number of pixels."""
    n_shift, wide = sums.shape
    for s in range(n_shift):
        row, number, target = sums[s], counts[s], out[s]
        for x in range(wide - box + 1):
            total, n = np.float32(0.0), np.float32(0.0)
            for k in range(box):
                total += row[x + k]
                n += number[x + k]
            target[x] = total / math.sqrt(n) if n >= least * box else np.float32(0.0)
        for x in range(wide - box + 1, wide):
            target[x] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def block_peaks(values, block, limit, out):
    """The largest value of each square block above a limit: rows (value, j, i); their number."""
    ny, nx = values.shape
    found = 0
    for j0 in range(0, ny, block):
        for i0 in range(0, nx, block):
            best, at_j, at_i = np.float32(limit), -1, -1
            for j in range(j0, min(j0 + block, ny)):
                row = values[j]
                for i in range(i0, min(i0 + block, nx)):
                    if row[i] > best:
                        best, at_j, at_i = row[i], j, i
            if at_j >= 0 and found < out.shape[0]:
                out[found, 0], out[found, 1], out[found, 2] = best, at_j, at_i
                found += 1
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def line_profiles(
    image, variance, mask, bad, saturated, x0, y0, x1, y1, segment, reach, low, high, mean_low,
    mean_high, number, n_saturated,
):  # fmt: skip
    """Mean significance of the pixels at each distance from a line, segment by segment.

    ``mean_low`` and ``mean_high`` (segments, 2 reach + 1) clip the pixels at ``low`` and
    ``high`` sigma. Distances are positive to the left of the direction of the line.
    """
    ny, nx = image.shape
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    mean_low[:] = 0.0
    mean_high[:] = 0.0
    number[:] = 0
    n_saturated[:] = 0
    for t in range(int(length) + 1):
        k = t // segment
        if k >= mean_low.shape[0]:
            break
        for d in range(-reach, reach + 1):
            x = math.floor(x0 + t * ux - d * uy + 0.5)
            y = math.floor(y0 + t * uy + d * ux + 0.5)
            if x < 0 or y < 0 or x >= nx or y >= ny:
                continue
            m = mask[y, x]
            if (m & saturated) != 0:
                n_saturated[k] += 1
            s = variance[y, x]
            if (m & bad) != 0 or not s > 0.0:
                continue
            v = image[y, x] / math.sqrt(s)
            if not np.isfinite(v):
                continue
            mean_low[k, d + reach] += min(max(v, -low), low)
            mean_high[k, d + reach] += min(max(v, -low), high)
            number[k, d + reach] += 1
    for k in range(mean_low.shape[0]):
        for d in range(2 * reach + 1):
            n = number[k, d]
            if n > 0:
                mean_low[k, d] /= n
                mean_high[k, d] /= n


@njit(cache=True, nogil=True, error_model="numpy")
def mark_band(mask, bit, x0, y0, x1, y1, half_width):
    """Set a bit in the pixels within a distance of a line between two points; their number."""
    ny, nx = mask.shape
    length = math.hypot(x1 - x0, y1 - y0)
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    low = max(0, math.floor(min(y0, y1) - half_width))
    high = min(ny - 1, math.ceil(max(y0, y1) + half_width))
    marked = 0
    for y in range(low, high + 1):
        # |distance| <= half_width and 0 <= along <= length are two intervals of x.
        left, right = 0.0, nx - 1.0
        for a, b, lower, upper in (
            (-uy, (y - y0) * ux + x0 * uy, -half_width, half_width),
            (ux, (y - y0) * uy - x0 * ux, -0.5, length + 0.5),
        ):
            if abs(a) < 1e-12:
                if not lower <= b <= upper:
                    right = -1.0
                continue
            p, q = (lower - b) / a, (upper - b) / a
            left, right = max(left, min(p, q)), min(right, max(p, q))
        for x in range(math.ceil(left), math.floor(right) + 1):
            mask[y, x] |= bit
            marked += 1
    return marked

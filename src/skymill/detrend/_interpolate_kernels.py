"""Kernel that fills masked pixels from their neighbours."""

# mypy: ignore-errors
import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _run_along_row(mask, bad, y, x):
    """First good pixel to the left and to the right of a bad pixel (-1 and nx if none)."""
    nx = mask.shape[1]
    left = x - 1
    while left >= 0 and (mask[y, left] & bad) != 0:
        left -= 1
    right = x + 1
    while right < nx and (mask[y, right] & bad) != 0:
        right += 1
    return left, right


@njit(cache=True, nogil=True, error_model="numpy")
def _run_along_column(mask, bad, y, x):
    ny = mask.shape[0]
    low = y - 1
    while low >= 0 and (mask[low, x] & bad) != 0:
        low -= 1
    high = y + 1
    while high < ny and (mask[high, x] & bad) != 0:
        high += 1
    return low, high


@njit(cache=True, nogil=True, error_model="numpy")
def _predict(image, mask, bad, y, x, step_y, step_x, first, n_run, weights):
    """Linear prediction across a short run; two good pixels on each side or NaN."""
    total = np.float32(0.0)
    wsum = np.float32(0.0)
    ny, nx = mask.shape
    for k in range(4):
        offset = first - 2 + k if k < 2 else first + n_run + k - 2
        yy, xx = y + offset * step_y, x + offset * step_x
        if yy < 0 or yy >= ny or xx < 0 or xx >= nx or (mask[yy, xx] & bad) != 0:
            return np.float32(np.nan)
        w = weights[n_run - 1, -first, k]
        total += w * image[yy, xx]
        wsum += w
    return total / wsum


@njit(cache=True, nogil=True, error_model="numpy")
def _along(image, mask, bad, y, x, step_y, step_x, low, high, size, weights):
    """Prediction of one pixel along one axis, and its gap; (NaN, size) if impossible."""
    position = y if step_y == 1 else x
    n_run = high - low - 1
    if low < 0 and high >= size:
        return np.float32(np.nan), 2 * size
    if low < 0:
        return image[y + (high - y) * step_y, x + (high - x) * step_x], 2 * n_run
    if high >= size:
        return image[y + (low - y) * step_y, x + (low - x) * step_x], 2 * n_run
    if n_run <= weights.shape[0]:
        v = _predict(image, mask, bad, y, x, step_y, step_x, low + 1 - position, n_run, weights)
        if v == v:
            return v, n_run
    a = image[y + (low - y) * step_y, x + (low - x) * step_x]
    b = image[y + (high - y) * step_y, x + (high - x) * step_x]
    f = np.float32((position - low) / (high - low))
    return a * (np.float32(1.0) - f) + b * f, n_run


@njit(cache=True, nogil=True, error_model="numpy")
def fill_masked(image, variance, mask, bad, done, weights):
    """Fill every pixel with a bit of ``bad`` along its shorter gap; set ``done``; count them.

    Only pixels without a bad bit are read, so that the order does not matter.
    """
    ny, nx = image.shape
    filled = 0
    # The gap along each column is found once, where its first row is met.
    column_low = np.full(nx, -1, np.int64)
    column_high = np.zeros(nx, np.int64)
    for y in range(ny):
        row = mask[y]
        any_bits = np.int32(0)
        for x in range(nx):
            any_bits |= row[x]
        if (any_bits & bad) == 0:
            continue
        x = 0
        while x < nx:
            if (row[x] & bad) == 0:
                x += 1
                continue
            left, right = _run_along_row(mask, bad, y, x)
            for i in range(left + 1, right):
                if y >= column_high[i]:
                    column_low[i], column_high[i] = _run_along_column(mask, bad, y, i)
                low, high = column_low[i], column_high[i]
                v, gap = _along(image, mask, bad, y, i, 0, 1, left, right, nx, weights)
                v2, gap2 = _along(image, mask, bad, y, i, 1, 0, low, high, ny, weights)
                use_column = gap2 < gap or v != v
                if use_column:
                    v = v2
                if v != v:
                    continue
                total, n = np.float32(0.0), 0
                if use_column:
                    if low >= 0:
                        total += variance[low, i]
                        n += 1
                    if high < ny:
                        total += variance[high, i]
                        n += 1
                else:
                    if left >= 0:
                        total += variance[y, left]
                        n += 1
                    if right < nx:
                        total += variance[y, right]
                        n += 1
                image[y, i] = v
                if n > 0:
                    variance[y, i] = total / np.float32(n)
                row[i] |= done
                filled += 1
            x = right
    return filled

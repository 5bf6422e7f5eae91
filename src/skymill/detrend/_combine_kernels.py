"""Kernel of the clipped mean of a stack of frames."""

# mypy: ignore-errors
import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def clipped_mean(stack, variance, clip, rounds, mean, used):
    """Mean of each pixel over the frames, without outliers.

    Parameters are the stack (n, ny, nx) with NaN for unusable pixels, the expected variance of one
    frame (ny, nx), and the outputs (ny, nx): mean (NaN without a value) and number of frames used.
    A value is an outlier beyond ``clip`` sigma of the median (first round) or mean (later rounds),
    where sigma is the larger of the expected one and, with 5 frames or more, the robust scatter.
    """
    n, ny, nx = stack.shape
    values = np.empty(n, np.float32)
    deviation = np.empty(n, np.float32)
    for y in range(ny):
        for x in range(nx):
            m = 0
            for k in range(n):
                v = stack[k, y, x]
                if v == v:
                    j = m - 1
                    while j >= 0 and values[j] > v:
                        values[j + 1] = values[j]
                        j -= 1
                    values[j + 1] = v
                    m += 1
            if m == 0:
                mean[y, x] = np.nan
                used[y, x] = 0
                continue
            half = m // 2
            centre = values[half] if m % 2 == 1 else 0.5 * (values[half - 1] + values[half])
            sigma = np.sqrt(max(variance[y, x], np.float32(0.0)))
            if m >= 5:
                for k in range(m):
                    d = abs(values[k] - centre)
                    j = k - 1
                    while j >= 0 and deviation[j] > d:
                        deviation[j + 1] = deviation[j]
                        j -= 1
                    deviation[j + 1] = d
                sigma = max(sigma, np.float32(1.4826) * deviation[m // 2])
            limit = np.float32(clip) * sigma
            total = np.float64(0.0)
            count = 0
            for _ in range(rounds):
                total = 0.0
                count = 0
                for k in range(m):
                    if abs(values[k] - centre) <= limit:
                        total += values[k]
                        count += 1
                if count == 0:
                    break
                centre = np.float32(total / count)
            if count == 0:
                mean[y, x] = centre
                used[y, x] = 1
            else:
                mean[y, x] = np.float32(total / count)
                used[y, x] = count


@njit(cache=True, nogil=True, error_model="numpy")
def add_frame(image, variance, mask, bits, scale, values, total, count):
    """Divide a frame by its scale into ``values``, NaN where it has a bit or is not finite.

    The scaled variances of the usable pixels are added to ``total`` (float64), and one to
    ``count`` (int32); all arrays are (ny, nx).
    """
    ny, nx = image.shape
    inverse = np.float32(1.0) / np.float32(scale)
    squared = 1.0 / (scale * scale)
    nothing = np.float32(np.nan)
    for y in range(ny):
        f, v, m = image[y], variance[y], mask[y]
        out, t, c = values[y], total[y], count[y]
        for x in range(nx):
            good = (m[x] & bits) == 0 and abs(f[x]) < np.inf
            out[x] = f[x] * inverse if good else nothing
            t[x] += v[x] * squared if good else 0.0
            c[x] += 1 if good else 0

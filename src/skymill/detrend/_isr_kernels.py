"""Kernels of the instrument-signature removal: overscan, then everything else in one pass."""

import numpy as np
from numba import njit

# Columns of the ``amps`` array: raw data box, raw overscan box, trimmed box (x0, y0, x1, y1 each).
N_COLUMNS = 12


@njit(cache=True, nogil=True, error_model="numpy")
def _sort(values, n):
    for i in range(1, n):
        v = values[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            j -= 1
        values[j + 1] = v


@njit(cache=True, nogil=True, error_model="numpy")
def _median_of_sorted(values, n, grouped):
    """Median; ``grouped`` spreads equal integers over their unit interval."""
    if not grouped:
        half = n // 2
        if n % 2 == 1:
            return values[half]
        return 0.5 * (values[half - 1] + values[half])
    middle = values[(n - 1) // 2]
    below = 0
    equal = 0
    for i in range(n):
        if values[i] < middle:
            below += 1
        elif values[i] == middle:
            equal += 1
    return middle - 0.5 + (0.5 * n - below) / equal


@njit(cache=True, nogil=True, error_model="numpy")
def row_levels(raw, x0, x1, y0, y1, use_mean, grouped, levels, sums):
    """Level of each row of one overscan box, and the sums for the read noise.

    ``levels`` (n_rows,) is filled; ``sums`` is (sum of squared deviations, degrees of freedom).
    Pixels beyond 5 robust sigma of their row count neither for the noise nor, with ``use_mean``
    (then 3 sigma), for the level.
    """
    n = x1 - x0
    buffer = np.empty(n, np.float64)
    total, dof = 0.0, 0.0
    for r in range(y1 - y0):
        row = raw[y0 + r, x0:x1]
        for i in range(n):
            buffer[i] = row[i]
        _sort(buffer, n)
        median = _median_of_sorted(buffer, n, grouped)
        sigma = max((buffer[(3 * n) // 4] - buffer[n // 4]) / 1.349, 0.75)
        level = median
        mean5, count5, mean3, count3 = 0.0, 0, 0.0, 0
        for i in range(n):
            d = abs(buffer[i] - median)
            if d <= 5.0 * sigma:
                mean5 += buffer[i]
                count5 += 1
            if d <= 3.0 * sigma:
                mean3 += buffer[i]
                count3 += 1
        if count5 > 1:
            mean5 /= count5
            for i in range(n):
                if abs(buffer[i] - median) <= 5.0 * sigma:
                    total += (buffer[i] - mean5) ** 2
            dof += count5 - 1
        if use_mean and count3 > 0:
            level = mean3 / count3
        levels[r] = level
    sums[0] += total
    sums[1] += dof


@njit(cache=True, nogil=True, error_model="numpy")
def trim_amplifier(raw, box, levels, saturation, saturated_bit, out, mask):
    """Data section minus the level of its row into the trimmed image; saturated raw pixels."""
    x0, y0, x1, y1 = box[0], box[1], box[2], box[3]
    tx0, ty0, tx1 = box[8], box[9], box[10]
    n = x1 - x0
    for r in range(y1 - y0):
        source = raw[y0 + r, x0:x1]
        target = out[ty0 + r, tx0:tx1]
        bits = mask[ty0 + r, tx0:tx1]
        level = np.float32(levels[r])
        for i in range(n):
            target[i] = np.float32(source[i]) - level
        for i in range(n):
            bits[i] = saturated_bit if source[i] >= saturation else np.int32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def add_crosstalk(signal, mask, source, coefficient, flip_x, flip_y, threshold, bit):
    """Add one source amplifier's crosstalk to the signal image of a victim amplifier."""
    ny, nx = signal.shape
    c = np.float32(coefficient)
    limit = np.float32(threshold)
    for y in range(ny):
        row = source[ny - 1 - y] if flip_y else source[y]
        out = signal[y]
        bits = mask[y]
        if flip_x:
            for x in range(nx):
                out[x] += c * row[nx - 1 - x]
            for x in range(nx):
                bits[x] |= bit if row[nx - 1 - x] > limit else np.int32(0)
        else:
            for x in range(nx):
                out[x] += c * row[x]
            for x in range(nx):
                bits[x] |= bit if row[x] > limit else np.int32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def correct_amplifier(
    adu,
    y0,
    y1,
    x0,
    x1,
    crosstalk,
    bias,
    bias_variance,
    table,
    table_step,
    linear_limit,
    gain,
    read_variance,
    flat,
    flat_variance,
    flat_low,
    bits_suspect,
    bits_flat,
    bits_nan,
    image,
    variance,
    mask,
):
    """Crosstalk, bias, linearity, gain, variance and flat of one amplifier, row by row.

    ``crosstalk``, ``bias``, ``bias_variance``, ``table``, ``flat`` and ``flat_variance`` of size 0
    are left out. ``table`` is the linearity correction [ADU] at multiples of ``table_step``.
    """
    n = x1 - x0
    v = np.empty(n, np.float32)
    w = np.empty(n, np.float32)
    has_crosstalk, has_bias = crosstalk.size > 0, bias.size > 0
    has_bias_variance, has_table = bias_variance.size > 0, table.size > 0
    has_flat, has_flat_variance = flat.size > 0, flat_variance.size > 0
    g = np.float32(gain)
    g2 = np.float32(gain * gain)
    noise = np.float32(read_variance)
    step = np.float32(1.0 / table_step)
    last = np.float32(table.size - 1.001)
    limit = np.float32(linear_limit)
    low = np.float32(flat_low)
    zero, one = np.float32(0.0), np.float32(1.0)
    for y in range(y0, y1):
        row = adu[y, x0:x1]
        bits = mask[y, x0:x1]
        out = image[y, x0:x1]
        var = variance[y, x0:x1]
        for i in range(n):
            v[i] = row[i]
        if has_crosstalk:
            other = crosstalk[y, x0:x1]
            for i in range(n):
                v[i] -= other[i]
        if has_bias:
            other = bias[y, x0:x1]
            for i in range(n):
                v[i] -= other[i]
        for i in range(n):
            bits[i] |= bits_suspect if v[i] > limit else np.int32(0)
        if has_table:
            for i in range(n):
                t = v[i] * step
                t = min(max(t, zero), last)
                k = np.int32(t)
                f = t - np.float32(k)
                v[i] += table[k] * (one - f) + table[k + 1] * f
        for i in range(n):
            e = v[i] * g
            v[i] = e
            w[i] = noise + max(e, zero)
        if has_bias_variance:
            other = bias_variance[y, x0:x1]
            for i in range(n):
                w[i] += g2 * other[i]
        if has_flat:
            other = flat[y, x0:x1]
            for i in range(n):
                f = other[i]
                good = f > low
                inverse = one / f if good else one
                bits[i] |= np.int32(0) if good else bits_flat
                v[i] *= inverse
                w[i] *= inverse * inverse
            if has_flat_variance:
                second = flat_variance[y, x0:x1]
                for i in range(n):
                    f = other[i]
                    ratio = v[i] / f if f > low else zero
                    w[i] += ratio * ratio * second[i]
        for i in range(n):
            bits[i] |= bits_nan if v[i] != v[i] else np.int32(0)
            out[i] = v[i]
            var[i] = w[i]


@njit(cache=True, nogil=True, error_model="numpy")
def divide_flat(image, variance, mask, flat, flat_variance, flat_low, bits_flat):
    """Divide by the flat in place; where the flat is too low the pixel stays and is marked."""
    ny, nx = image.shape
    has_flat_variance = flat_variance.size > 0
    low = np.float32(flat_low)
    one, zero = np.float32(1.0), np.float32(0.0)
    for y in range(ny):
        for x in range(nx):
            f = flat[y, x]
            good = f > low
            inverse = one / f if good else one
            mask[y, x] |= np.int32(0) if good else bits_flat
            image[y, x] *= inverse
            variance[y, x] *= inverse * inverse
        if has_flat_variance:
            for x in range(nx):
                f = flat[y, x]
                ratio = image[y, x] / f if f > low else zero
                variance[y, x] += ratio * ratio * flat_variance[y, x]


@njit(cache=True, nogil=True, error_model="numpy")
def grow_saturated(mask, bit, radius, widen):
    """Grow a plane by a square of ``radius`` pixels, and widen its long runs along rows.

    With ``widen`` a run of 6-7, 8-9 or more pixels becomes 1, 3 or 4 pixels wider on either side.
    """
    ny, nx = mask.shape
    xs, x_ends, ys = [np.int64(0)], [np.int64(0)], [np.int64(0)]
    for y in range(ny):
        any_bits = np.int32(0)
        row = mask[y]
        for x in range(nx):
            any_bits |= row[x]
        if (any_bits & bit) == 0:
            continue
        x = 0
        while x < nx:
            if (row[x] & bit) == 0:
                x += 1
                continue
            start = x
            while x < nx and (row[x] & bit) != 0:
                x += 1
            length = x - start
            extra = 0
            if widen:
                if length >= 10:
                    extra = 4
                elif length >= 8:
                    extra = 3
                elif length >= 6:
                    extra = 1
            xs.append(start - radius - extra)
            x_ends.append(x + radius + extra)
            ys.append(y)
    for k in range(1, len(xs)):
        lo, hi = max(xs[k], 0), min(x_ends[k], nx)
        for y in range(max(ys[k] - radius, 0), min(ys[k] + radius + 1, ny)):
            for x in range(lo, hi):
                mask[y, x] |= bit

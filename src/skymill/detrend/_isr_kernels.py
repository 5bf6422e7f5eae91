"""Kernels of the instrument-signature removal: overscan, then everything else in one pass."""

# mypy: ignore-errors
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
        if flip_x:
            row = row[::-1]
        out = signal[y]
        n_bright = 0
        for x in range(nx):
            out[x] += c * row[x]
            n_bright += np.int64(row[x] > limit)
        if n_bright > 0:
            bits = mask[y]
            for x in range(nx):
                bits[x] |= bit if row[x] > limit else np.int32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _correct_span(
    v,
    w,
    y,
    x0,
    a,
    signal,
    bias,
    bias_variance,
    table,
    numbers,
    flat,
    flat_variance,
    bits_suspect,
    bits_flat,
    bits_nan,
    image,
    variance,
    mask,
):
    """One row of one amplifier: ``v`` holds its ADU without its own CCD's crosstalk."""
    n = v.size
    x1 = x0 + n
    bits = mask[y, x0:x1]
    out = image[y, x0:x1]
    var = variance[y, x0:x1]
    g = np.float32(numbers[a, 0])
    g2 = np.float32(numbers[a, 0] * numbers[a, 0])
    noise = np.float32(numbers[a, 1])
    limit = np.float32(numbers[a, 2])
    step = np.float32(numbers[a, 3])
    low = np.float32(numbers[a, 4])
    zero, one = np.float32(0.0), np.float32(1.0)
    if signal.size > 0:
        other = signal[y, x0:x1]
        for i in range(n):
            v[i] -= other[i]
    if bias.size > 0:
        other = bias[y, x0:x1]
        for i in range(n):
            v[i] -= other[i]
    for i in range(n):
        bits[i] |= bits_suspect if v[i] > limit else np.int32(0)
    if table.size > 0:
        knots = table[a]
        last = np.float32(knots.size - 1.001)
        for i in range(n):
            t = v[i] * step
            t = min(max(t, zero), last)
            k = np.int32(t)
            f = t - np.float32(k)
            v[i] += knots[k] * (one - f) + knots[k + 1] * f
    for i in range(n):
        e = v[i] * g
        v[i] = e
        w[i] = noise + max(e, zero)
    if bias_variance.size > 0:
        other = bias_variance[y, x0:x1]
        for i in range(n):
            w[i] += g2 * other[i]
    if flat.size > 0:
        other = flat[y, x0:x1]
        for i in range(n):
            f = other[i]
            good = f > low
            inverse = one / f if good else one
            bits[i] |= np.int32(0) if good else bits_flat
            v[i] *= inverse
            w[i] *= inverse * inverse
        if flat_variance.size > 0:
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
def correct_rows(
    image,
    variance,
    mask,
    boxes,
    numbers,
    terms,
    coefficients,
    threshold,
    bits_crosstalk,
    signal,
    bias,
    bias_variance,
    table,
    flat,
    flat_variance,
    bits_suspect,
    bits_flat,
    bits_nan,
):
    """Crosstalk, bias, linearity, gain, variance and flat in one pass, in place.

    ``image`` holds ADU and becomes electrons. ``boxes`` are x0, y0, x1, y1 of the amplifiers;
    ``numbers`` their gain, read variance [electron2], linear limit [ADU], 1 / step of the table
    and lowest flat. ``terms`` are (victim, source, flip_x) within this CCD, of amplifiers that
    read the same rows at the same time, with their ``coefficients`` (value, onset of
    the non-linearity); ``signal`` is crosstalk from
    elsewhere. Arrays of size 0 are left out; ``table`` is the linearity correction [ADU].
    """
    ny, nx = image.shape
    n_amp = boxes.shape[0]
    v = np.empty(nx, np.float32)
    w = np.empty(nx, np.float32)
    for y in range(ny):
        row = image[y]
        for i in range(nx):
            v[i] = row[i]
        for t in range(terms.shape[0]):
            victim, source = terms[t, 0], terms[t, 1]
            if y < boxes[victim, 1] or y >= boxes[victim, 3]:
                continue
            c = np.float32(coefficients[t, 0])
            limit = np.float32(min(threshold, coefficients[t, 1]))
            to = v[boxes[victim, 0] : boxes[victim, 2]]
            of = row[boxes[source, 0] : boxes[source, 2]]
            if terms[t, 2] != 0:
                of = of[::-1]
            n = to.size
            n_bright = 0
            for i in range(n):
                to[i] -= c * of[i]
                n_bright += np.int64(of[i] > limit)
            if n_bright > 0:
                bits = mask[y, boxes[victim, 0] : boxes[victim, 2]]
                for i in range(n):
                    bits[i] |= bits_crosstalk if of[i] > limit else np.int32(0)
        for a in range(n_amp):
            if boxes[a, 1] <= y < boxes[a, 3]:
                x0, x1 = boxes[a, 0], boxes[a, 2]
                _correct_span(
                    v[x0:x1], w[x0:x1], y, x0, a, signal, bias, bias_variance, table, numbers,
                    flat, flat_variance, bits_suspect, bits_flat, bits_nan, image, variance, mask,
                )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def merge_planes(mask, other, bits):
    """Set the bits of another mask, in place."""
    for y in range(mask.shape[0]):
        to, of = mask[y], other[y]
        for x in range(mask.shape[1]):
            to[x] |= of[x] & bits


@njit(cache=True, nogil=True, error_model="numpy")
def count_planes(mask, bits):
    """Number of pixels with any of the bits."""
    total = 0
    for y in range(mask.shape[0]):
        row = mask[y]
        for x in range(mask.shape[1]):
            total += np.int64((row[x] & bits) != 0)
    return total


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

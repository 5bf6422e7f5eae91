"""Numba kernels of stacking: static sky by median and clipping, footprints, weighted sums."""

import math

import numpy as np
from numba import njit

LANES = 128


@njit(cache=True, nogil=True, error_model="numpy")
def static_sky(values, variance, pairs, clip, threshold, source_error, static, count, outlier):
    """Clipped weighted mean of the epochs, and which epochs deviate from it.

    values, variance: (n, m) float32, NaN where an epoch has no usable pixel; pairs: comparators
    of a sorting network for n lanes. static (m,) float32 (NaN without epochs), count (m,) uint16
    epochs, outlier (n, m) uint8: set where an epoch deviates from the mean of the others by more
    than `threshold` sigma of the difference. Of two epochs that differ the brighter is the
    outlier, as transients add light, unless the fainter lies below zero by `threshold` sigma.
    """
    n, m = values.shape
    work = np.empty((n, LANES), np.float32)
    weight = np.empty(LANES, np.float32)
    total = np.empty(LANES, np.float32)
    number = np.empty(LANES, np.int64)
    middle = np.empty(LANES, np.float32)
    limit = np.empty(LANES, np.float32)
    floor = np.empty(LANES, np.float32)
    for start in range(0, m, LANES):
        lanes = min(LANES, m - start)
        number[:] = 0
        for e in range(n):
            v = values[e, start : start + lanes]
            w = work[e]
            for i in range(lanes):
                good = v[i] == v[i]
                w[i] = v[i] if good else np.float32(np.inf)
                number[i] += 1 if good else 0
            for i in range(lanes, LANES):
                w[i] = 0.0
        for p in range(pairs.shape[0]):
            a = work[pairs[p, 0]]
            b = work[pairs[p, 1]]
            for i in range(LANES):
                x, y = a[i], b[i]
                a[i] = x if x < y else y
                b[i] = y if x < y else x
        for i in range(lanes):
            k = number[i]
            if k > 0:
                middle[i] = np.float32(0.5) * (work[(k - 1) // 2, i] + work[k // 2, i])
            else:
                middle[i] = np.nan
            limit[i] = (source_error * middle[i]) * (source_error * middle[i])
            weight[i] = 0.0
            total[i] = 0.0
        for e in range(n):
            v = values[e, start : start + lanes]
            s = variance[e, start : start + lanes]
            for i in range(lanes):
                d = v[i] - middle[i]
                use = d * d <= clip * clip * (s[i] + limit[i])
                w = np.float32(1.0) / s[i] if use else np.float32(0.0)
                weight[i] += w
                total[i] += w * v[i] if use else np.float32(0.0)
        for i in range(lanes):
            mean = total[i] / weight[i] if weight[i] > 0.0 else middle[i]
            static[start + i] = mean
            count[start + i] = number[i]
            floor[i] = (source_error * mean) * (source_error * mean)
        for e in range(n):
            v = values[e, start : start + lanes]
            s = variance[e, start : start + lanes]
            o = outlier[e, start : start + lanes]
            for i in range(lanes):
                # Against the mean of the others: an epoch must not hide in its own weight.
                d = v[i] - middle[i]
                use = d * d <= clip * clip * (s[i] + limit[i])
                w = np.float32(1.0) / s[i] if use else np.float32(0.0)
                rest = weight[i] - w
                known = rest > np.float32(1e-6) * weight[i]
                other = total[i] - (w * v[i] if use else np.float32(0.0))
                d = v[i] - other / rest
                spread = s[i] + np.float32(1.0) / rest + floor[i]
                o[i] = 1 if known and d * d > threshold * threshold * spread else 0
        for i in range(lanes):
            if number[i] != 2:
                continue
            low = -1
            high = -1
            for e in range(n):
                if values[e, start + i] == values[e, start + i]:
                    high = e
                    low = e if low < 0 else low
            if values[low, start + i] > values[high, start + i]:
                low, high = high, low
            faint, bright = values[low, start + i], values[high, start + i]
            s0, s1 = variance[low, start + i], variance[high, start + i]
            outlier[low, start + i] = 0
            outlier[high, start + i] = 0
            slack = source_error * max(faint, np.float32(0.0))
            d = bright - faint
            if d * d > threshold * threshold * (s0 + s1 + slack * slack):
                if faint < 0 and faint * faint > threshold * threshold * s0:
                    outlier[low, start + i] = 1
                    static[start + i] = bright
                else:
                    outlier[high, start + i] = 1
                    static[start + i] = faint
            else:
                static[start + i] = (faint * s1 + bright * s0) / (s0 + s1)


@njit(cache=True, nogil=True, error_model="numpy")
def judge_footprints(
    outlier, n_outlier, count, min_pixels, spatial, max_epochs, fraction_low, fraction_high, grow
):
    """Turn the outliers of one epoch in place into its artifacts.

    outlier: (ny, nx) uint8, 1 at outliers; on return 1 at the pixels to clip, else 0.
    n_outlier, count: (ny, nx) uint16 epochs that deviate, and epochs. A connected footprint of at
    least `min_pixels` is an artifact if at least the share `spatial` of its pixels deviates in no
    more epochs than allowed (of two epochs one may); it is then grown by `grow` pixels. Returns
    the number of artifacts.
    """
    ny, nx = outlier.shape
    stack = np.empty(1024, np.int64)
    members = np.empty(1024, np.int64)
    found = 0
    for y in range(ny):
        row = outlier[y]
        for x in range(nx):
            if row[x] != 1:
                continue
            top = 1
            stack[0] = y * nx + x
            row[x] = 2
            size = 0
            transient = 0
            while top > 0:
                top -= 1
                here = stack[top]
                if size == members.size:
                    larger = np.empty(2 * members.size, np.int64)
                    larger[:size] = members
                    members = larger
                members[size] = here
                size += 1
                yy = here // nx
                xx = here - yy * nx
                n = count[yy, xx]
                allowed = min(fraction_low * n, max_epochs + fraction_high * n)
                if n == 2:
                    allowed = max(allowed, 1.0)
                if n_outlier[yy, xx] <= allowed:
                    transient += 1
                for dy in range(-1, 2):
                    for dx in range(-1, 2):
                        v, u = yy + dy, xx + dx
                        if v < 0 or u < 0 or v >= ny or u >= nx or outlier[v, u] != 1:
                            continue
                        outlier[v, u] = 2
                        if top == stack.size:
                            deeper = np.empty(2 * stack.size, np.int64)
                            deeper[:top] = stack
                            stack = deeper
                        stack[top] = v * nx + u
                        top += 1
            if size >= min_pixels and transient >= spatial * size:
                found += 1
                for m in range(size):
                    yy = members[m] // nx
                    outlier[yy, members[m] - yy * nx] = 3
    # 2: seen and kept; 3: artifact; 4: grown.
    if found > 0 and grow > 0:
        for y in range(ny):
            for x in range(nx):
                if outlier[y, x] != 3:
                    continue
                for dy in range(-grow, grow + 1):
                    for dx in range(-grow, grow + 1):
                        v, u = y + dy, x + dx
                        if v < 0 or u < 0 or v >= ny or u >= nx:
                            continue
                        if dy * dy + dx * dx <= grow * grow and outlier[v, u] != 3:
                            outlier[v, u] = 4
    for y in range(ny):
        row = outlier[y]
        for x in range(nx):
            row[x] = 1 if row[x] >= 3 else 0
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(
    image, variance, mask, noise, clipped, weight, y0, x0, bad, sat, no_data, sums, count, bits
):
    """Add one warp to the running sums.

    image, variance, noise: (ny, nx) float32; mask (ny, nx) int32; clipped (ny, nx) uint8, or of
    shape (0, 0) for none. sums: (9, NY, NX) float32: w, w f, w^2 v, w noise of the used pixels,
    the same of the covered but rejected ones, w of the saturated ones; count (3, NY, NX) uint16:
    used, rejected, clipped; bits (2, NY, NX) int32: bits of the used and of the rejected pixels.
    """
    ny, nx = image.shape
    has_clip = clipped.shape[0] > 0
    has_noise = noise.shape[0] > 0
    w2 = weight * weight
    zero = np.float32(0.0)
    for y in range(ny):
        f, v, m = image[y], variance[y], mask[y]
        u = y + y0
        if has_noise:
            e = noise[y]
            good_noise = sums[3, u, x0 : x0 + nx]
            lost_noise = sums[7, u, x0 : x0 + nx]
            for i in range(nx):
                ok = (m[i] & bad) == 0
                if has_clip:
                    ok = ok and clipped[y, i] == 0
                good_noise[i] += weight * e[i] if ok else zero
                lost_noise[i] += zero if ok or (m[i] & no_data) != 0 else weight * e[i]
        s0, s1, s2 = sums[0, u, x0 : x0 + nx], sums[1, u, x0 : x0 + nx], sums[2, u, x0 : x0 + nx]
        r0, r1, r2 = sums[4, u, x0 : x0 + nx], sums[5, u, x0 : x0 + nx], sums[6, u, x0 : x0 + nx]
        s8 = sums[8, u, x0 : x0 + nx]
        n0, n1, n2 = count[0, u, x0 : x0 + nx], count[1, u, x0 : x0 + nx], count[2, u, x0 : x0 + nx]
        b0, b1 = bits[0, u, x0 : x0 + nx], bits[1, u, x0 : x0 + nx]
        for i in range(nx):
            cut = has_clip and clipped[y, i] != 0
            if (m[i] & bad) == 0 and not cut:
                s0[i] += weight
                s1[i] += weight * f[i]
                s2[i] += w2 * v[i]
                n0[i] += 1
                b0[i] |= m[i]
            elif (m[i] & no_data) == 0:
                r0[i] += weight
                r1[i] += weight * f[i]
                r2[i] += w2 * v[i]
                b1[i] |= m[i]
                if cut:
                    n2[i] += 1
                else:
                    n1[i] += 1
            if (m[i] & sat) != 0:
                s8[i] += weight


@njit(cache=True, nogil=True, error_model="numpy")
def normalise(sums, count, bits, planes, sat_fraction, image, variance, mask, noise):
    """Turn the running sums into the coadd; pixels seen only by rejected inputs keep their bits.

    sums, count, bits: as of `accumulate`; planes: (9,) int32: bits kept from used inputs, bits
    kept from rejected ones, then SAT, INTRP, CLIPPED, REJECTED, INEXACT_PSF, NO_DATA, SENSOR_EDGE.
    SAT is set where saturated inputs have more than `sat_fraction` of the weight.
    """
    ny, nx = image.shape
    keep_used, keep_lost = planes[0], planes[1]
    sat, intrp, clip_bit, reject_bit = planes[2], planes[3], planes[4], planes[5]
    inexact, no_data, edge = planes[6], planes[7], planes[8]
    has_noise = noise.shape[0] > 0
    for y in range(ny):
        for x in range(nx):
            w, lost = sums[0, y, x], sums[4, y, x]
            bit = np.int32(0)
            if w > 0:
                k = 0
                bit = bits[0, y, x] & keep_used
            elif lost > 0:
                k = 4
                w = lost
                bit = (bits[1, y, x] & keep_lost) | intrp
            else:
                image[y, x] = 0.0
                variance[y, x] = 0.0
                mask[y, x] = no_data
                if has_noise:
                    noise[y, x] = 0.0
                continue
            image[y, x] = sums[k + 1, y, x] / w
            variance[y, x] = sums[k + 2, y, x] / (w * w)
            if has_noise:
                noise[y, x] = sums[k + 3, y, x] / w
            if sums[8, y, x] > sat_fraction * (sums[0, y, x] + lost):
                bit |= sat
            if count[1, y, x] > 0:
                bit |= reject_bit
            if count[2, y, x] > 0:
                bit |= clip_bit
            if bit & (reject_bit | clip_bit | edge):
                bit |= inexact
            mask[y, x] = bit


@njit(cache=True, nogil=True, error_model="numpy")
def noise_scale(values, variance, static):
    """Robust width of (value - static) / sigma of each epoch.

    values, variance: (n, m) float32; static: (m,). Returns (n,): 1.4826 times the median of the
    absolute normalised residual, 1 where an epoch has fewer than 100 pixels.
    """
    n, m = values.shape
    out = np.ones(n)
    residual = np.empty(m)
    for e in range(n):
        k = 0
        for i in range(m):
            r = abs(values[e, i] - static[i]) / math.sqrt(variance[e, i])
            if r == r:
                residual[k] = r
                k += 1
        if k >= 100:
            out[e] = 1.4826 * np.median(residual[:k])
    return out

"""Kernels of the cosmic-ray finder: LA-Cosmic's statistic, only where it can matter."""

# mypy: ignore-errors
import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def bright_laplacian(image, noise_floor, block, threshold, masked, bad, out):
    """Pixels whose Laplacian alone could exceed the threshold; returns their number.

    ``noise_floor`` is a lower bound of the noise in each square block. ``out`` takes flat
    indices; pixels beyond its size are counted but not stored. The Laplacian of the image that is
    sampled twice as finely, clipped and binned again, is ``sum(max(0, 2 v - n_x - n_y)) / 4``
    over the four corners.
    """
    ny, nx = image.shape
    found = 0
    zero = np.float32(0.0)
    laplacian = np.empty(nx - 2, np.float32)
    for y in range(1, ny - 1):
        centre = image[y, 1 : nx - 1]
        left, right = image[y, 0 : nx - 2], image[y, 2:nx]
        low, high = image[y - 1, 1 : nx - 1], image[y + 1, 1 : nx - 1]
        n = nx - 2
        for i in range(n):
            a = centre[i] - left[i]
            b = centre[i] - right[i]
            c = centre[i] - low[i]
            d = centre[i] - high[i]
            laplacian[i] = max(zero, a + c) + max(zero, a + d) + max(zero, b + c) + max(zero, b + d)
        floors = noise_floor[y // block]
        for k in range(floors.size):
            x0 = max(k * block, 1)
            x1 = min((k + 1) * block, nx - 1)
            # L / 4 / 2 > threshold x noise
            limit = np.float32(8.0) * np.float32(threshold) * floors[k]
            part = laplacian[x0 - 1 : x1 - 1]
            top = 0
            for i in range(part.size):
                top += np.int64(part[i] > limit)
            if top == 0:
                continue
            for i in range(part.size):
                if part[i] > limit and (masked[y, x0 + i] & bad) == 0:
                    if found < out.size:
                        out[found] = y * nx + x0 + i
                    found += 1
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _median_small(values, n):
    """Median of the first n values (n odd) by selection; reorders them."""
    k = n // 2
    low, high = 0, n - 1
    while low < high:
        pivot = values[k]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                t = values[i]
                values[i] = values[j]
                values[j] = t
                i += 1
                j -= 1
        if j < k:
            low = i
        if k < i:
            high = j
    return values[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _ratio(image, variance, noise, y, x, buffer):
    """Laplacian over noise at a pixel; the noise of a pixel is found once."""
    ny, nx = image.shape
    if y < 1 or x < 1 or y >= ny - 1 or x >= nx - 1:
        return np.float32(0.0)
    sigma = noise[y, x]
    if sigma == 0.0:
        n = 0
        for j in range(max(y - 2, 0), min(y + 3, ny)):
            for i in range(max(x - 2, 0), min(x + 3, nx)):
                buffer[n] = variance[j, i]
                n += 1
        if n % 2 == 0:
            n -= 1
        sigma = np.float32(np.sqrt(max(_median_small(buffer, n), np.float32(1e-20))))
        noise[y, x] = sigma
    v = image[y, x]
    zero = np.float32(0.0)
    a, b = v - image[y, x - 1], v - image[y, x + 1]
    c, d = v - image[y - 1, x], v - image[y + 1, x]
    total = max(zero, a + c) + max(zero, a + d) + max(zero, b + c) + max(zero, b + d)
    return total / (np.float32(8.0) * sigma)


@njit(cache=True, nogil=True, error_model="numpy")
def _cleaned_ratio(image, variance, noise, y, x, buffer, second):
    """The ratio minus its median over 5 x 5 pixels: what sampling and noise leave is gone."""
    ny, nx = image.shape
    n = 0
    for j in range(max(y - 2, 0), min(y + 3, ny)):
        for i in range(max(x - 2, 0), min(x + 3, nx)):
            second[n] = _ratio(image, variance, noise, j, i, buffer)
            n += 1
    own = _ratio(image, variance, noise, y, x, buffer)
    if n % 2 == 0:
        n -= 1
    return own - _median_small(second, n)


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(image, y, x, weights, buffer):
    """Median of 3 x 3 pixels, or the sum with weights if there are any."""
    ny, nx = image.shape
    half = weights.shape[0] // 2
    if half == 0:
        n = 0
        for j in range(max(y - 1, 0), min(y + 2, ny)):
            for i in range(max(x - 1, 0), min(x + 2, nx)):
                buffer[n] = image[j, i]
                n += 1
        if n % 2 == 0:
            n -= 1
        return _median_small(buffer, n)
    total = np.float32(0.0)
    for j in range(-half, half + 1):
        yy = min(max(y + j, 0), ny - 1)
        for i in range(-half, half + 1):
            xx = min(max(x + i, 0), nx - 1)
            total += weights[j + half, i + half] * image[yy, xx]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _fine_structure(image, noise, y, x, weights, buffer, second):
    """How much of a star's own structure stands at a pixel, in units of the noise."""
    ny, nx = image.shape
    own = np.float32(0.0)
    n = 0
    for j in range(max(y - 3, 0), min(y + 4, ny)):
        for i in range(max(x - 3, 0), min(x + 4, nx)):
            value = _smooth(image, j, i, weights, buffer)
            second[n] = value
            if j == y and i == x:
                own = value
            n += 1
    if n % 2 == 0:
        n -= 1
    return max((own - _median_small(second, n)) / noise[y, x], np.float32(0.01))


@njit(cache=True, nogil=True, error_model="numpy")
def _is_sharp(image, level, sigma, y, x, shape_x, shape_d, factor, margin):
    """True if in one direction at least the neighbours are fainter than any star could have."""
    ny, nx = image.shape
    if y < 1 or x < 1 or y >= ny - 1 or x >= nx - 1:
        return False
    v = image[y, x] - level
    error = margin * sigma * np.float32(0.7071)
    h = np.float32(0.5) * (image[y, x - 1] + image[y, x + 1]) - level
    w = np.float32(0.5) * (image[y - 1, x] + image[y + 1, x]) - level
    d = np.float32(0.5) * (image[y - 1, x - 1] + image[y + 1, x + 1]) - level
    e = np.float32(0.5) * (image[y - 1, x + 1] + image[y + 1, x - 1]) - level
    near = factor * shape_x * v
    far = factor * shape_d * v
    return h + error < near or w + error < near or d + error < far or e + error < far


@njit(cache=True, nogil=True, error_model="numpy")
def find_hits(
    image,
    variance,
    masked,
    bad,
    noise,
    state,
    candidates,
    levels,
    block,
    sigma_clip,
    sigma_low,
    object_limit,
    weights,
    sharp,
    hits,
):
    """One iteration: which candidates, and which of their neighbours, are hit.

    ``state`` is 0 for untouched pixels and 1 for hits of earlier iterations. New hits get 1 and
    their flat indices go into ``hits``; their number is returned. ``sharp`` is (shape_x, shape_d,
    factor, margin); factor 0 switches the test off.
    """
    ny, nx = image.shape
    buffer = np.empty(64, np.float32)
    second = np.empty(64, np.float32)
    n_seeds = 0
    for k in range(candidates.size):
        y, x = candidates[k] // nx, candidates[k] % nx
        if state[y, x] != 0 or (masked[y, x] & bad) != 0:
            continue
        if _ratio(image, variance, noise, y, x, buffer) <= sigma_clip:
            continue
        value = _cleaned_ratio(image, variance, noise, y, x, buffer, second)
        if value <= sigma_clip:
            continue
        if sharp[2] > 0.0:
            level = levels[y // block, x // block]
            if not _is_sharp(
                image, level, noise[y, x], y, x, sharp[0], sharp[1], sharp[2], sharp[3]
            ):
                continue
        fine = _fine_structure(image, noise, y, x, weights, buffer, second)
        if value <= object_limit * fine:
            continue
        if n_seeds < hits.size:
            hits[n_seeds] = candidates[k]
            n_seeds += 1
    n = n_seeds
    for k in range(n_seeds):
        state[hits[k] // nx, hits[k] % nx] = 1
    for step in range(2):
        limit = sigma_clip if step == 0 else sigma_low
        last = n
        # The second round starts from all pixels again: seeds may have faint neighbours.
        for k in range(last):
            yc, xc = hits[k] // nx, hits[k] % nx
            for y in range(max(yc - 1, 0), min(yc + 2, ny)):
                for x in range(max(xc - 1, 0), min(xc + 2, nx)):
                    if state[y, x] != 0 or (masked[y, x] & bad) != 0:
                        continue
                    if _ratio(image, variance, noise, y, x, buffer) <= limit:
                        continue
                    value = _cleaned_ratio(image, variance, noise, y, x, buffer, second)
                    if value > limit and n < hits.size:
                        state[y, x] = 1
                        hits[n] = y * nx + x
                        n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def clean_hits(image, variance, masked, bad, noise, state, hits, n_hits, levels, block):
    """Replace hits by the mean of the good pixels among 5 x 5; forget the noise around them."""
    ny, nx = image.shape
    new_image = np.empty(n_hits, np.float32)
    new_variance = np.empty(n_hits, np.float32)
    for k in range(n_hits):
        yc, xc = hits[k] // nx, hits[k] % nx
        total, total_variance, n = np.float32(0.0), np.float32(0.0), 0
        for y in range(max(yc - 2, 0), min(yc + 3, ny)):
            for x in range(max(xc - 2, 0), min(xc + 3, nx)):
                if state[y, x] == 0 and (masked[y, x] & bad) == 0:
                    total += image[y, x]
                    total_variance += variance[y, x]
                    n += 1
                noise[y, x] = np.float32(0.0)
        if n > 0:
            new_image[k] = total / np.float32(n)
            new_variance[k] = total_variance / np.float32(n)
        else:
            new_image[k] = levels[yc // block, xc // block]
            new_variance[k] = variance[yc, xc]
    for k in range(n_hits):
        image[hits[k] // nx, hits[k] % nx] = new_image[k]
        variance[hits[k] // nx, hits[k] % nx] = new_variance[k]


@njit(cache=True, nogil=True, error_model="numpy")
def near_hits(shape_y, shape_x, hits, n_hits, radius, seen, stamp, out):
    """Flat indices of all pixels within ``radius`` of a hit, each once; returns their number."""
    n = 0
    for k in range(n_hits):
        yc, xc = hits[k] // shape_x, hits[k] % shape_x
        for y in range(max(yc - radius, 0), min(yc + radius + 1, shape_y)):
            for x in range(max(xc - radius, 0), min(xc + radius + 1, shape_x)):
                if seen[y, x] != stamp and n < out.size:
                    seen[y, x] = stamp
                    out[n] = y * shape_x + x
                    n += 1
    return n


@njit(cache=True, nogil=True, error_model="numpy")
def block_floor(variance, block, masked, bad, out):
    """Smallest variance of the good pixels in and next to each square block."""
    ny, nx = variance.shape
    large = np.float32(np.inf)
    n_y, n_x = out.shape
    own = np.full((n_y, n_x), large, np.float32)
    for y in range(ny):
        row = variance[y]
        target = own[y // block]
        for k in range(n_x):
            part = row[k * block : min((k + 1) * block, nx)]
            lowest = target[k]
            for i in range(part.size):
                v = part[i]
                lowest = v if (v < lowest and v > np.float32(0.0)) else lowest
            target[k] = lowest
    # The 5 x 5 median of a pixel reaches into the neighbouring blocks.
    for j in range(n_y):
        for i in range(n_x):
            lowest = large
            for jj in range(max(j - 1, 0), min(j + 2, n_y)):
                for ii in range(max(i - 1, 0), min(i + 2, n_x)):
                    lowest = min(lowest, own[jj, ii])
            out[j, i] = np.sqrt(lowest) if lowest < large else np.float32(0.0)

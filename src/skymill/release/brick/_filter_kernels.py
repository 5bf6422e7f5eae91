"""Numba kernels on the pixels of one image: blurring without holes, growing of masks, filling."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def blur(image, good, taps, out, share):
    """Convolve with taps along both axes; beyond the edge and where not good there is nothing.

    image, out, share (ny, nx) float32; good (ny, nx) bool; taps (2 r + 1,) float32, symmetric.
    out receives the blurred image without the pixels that are not good, share the blurred map
    of the good ones.
    """
    ny, nx = image.shape
    reach = taps.size // 2
    rows = np.zeros((2, ny, nx), np.float32)
    padded = np.zeros((2, nx + 2 * reach), np.float32)
    for y in range(ny):
        for x in range(nx):
            padded[0, reach + x] = image[y, x] if good[y, x] else np.float32(0.0)
            padded[1, reach + x] = np.float32(1.0) if good[y, x] else np.float32(0.0)
        for p in range(2):
            line = rows[p, y]
            for t in range(taps.size):
                w = taps[t]
                part = padded[p, t : t + nx]
                for x in range(nx):
                    line[x] += w * part[x]
    for y in range(ny):
        first, last = max(0, y - reach), min(ny, y + reach + 1)
        for p in range(2):
            line = out[y] if p == 0 else share[y]
            line[:] = 0.0
            for v in range(first, last):
                w = taps[v - y + reach]
                part = rows[p, v]
                for x in range(nx):
                    line[x] += w * part[x]


@njit(cache=True, nogil=True, error_model="numpy")
def grow(mask, reach, level, threshold):
    """Grow a mask in place by up to `reach` steps to the four sides.

    mask (ny, nx) bool. Of the pixels within reach those are added whose level (ny, nx) float32
    exceeds the threshold; without pixels in `level` all are.
    """
    ny, nx = mask.shape
    seen = mask.copy()
    queue = np.empty((ny * nx, 2), np.int32)
    n = 0
    for y in range(ny):
        for x in range(nx):
            # Only the rim has neighbours to add.
            if mask[y, x] and not (
                y > 0 and x > 0 and y < ny - 1 and x < nx - 1
                and mask[y - 1, x] and mask[y + 1, x] and mask[y, x - 1] and mask[y, x + 1]
            ):  # fmt: skip
                queue[n, 0] = y
                queue[n, 1] = x
                n += 1
    first = 0
    for _ in range(reach):
        last = n
        for k in range(first, last):
            y, x = queue[k]
            for side in range(4):
                v = y + (1 if side == 0 else (-1 if side == 1 else 0))
                u = x + (1 if side == 2 else (-1 if side == 3 else 0))
                if v < 0 or u < 0 or v >= ny or u >= nx or seen[v, u]:
                    continue
                seen[v, u] = True
                queue[n, 0] = v
                queue[n, 1] = u
                n += 1
                if level.size == 0 or level[v, u] > threshold:
                    mask[v, u] = True
        first = last


@njit(cache=True, nogil=True, error_model="numpy")
def fill_masked(image, good, passes):
    """Replace masked pixels in place by the mean of their usable 3x3 neighbours, ring by ring.

    image (ny, nx) float32; good (ny, nx) bool, changed: pixels that were filled become True. What
    no ring of the `passes` reaches becomes 0.
    """
    ny, nx = good.shape
    ring = np.empty(ny * nx, np.int64)
    value = np.empty(ny * nx, np.float32)
    queued = good.copy()
    n = 0
    for y in range(ny):
        for x in range(nx):
            if good[y, x]:
                continue
            image[y, x] = 0.0
            for v in range(max(0, y - 1), min(ny, y + 2)):
                for u in range(max(0, x - 1), min(nx, x + 2)):
                    if good[v, u] and not queued[y, x]:
                        queued[y, x] = True
                        ring[n] = y * nx + x
                        n += 1
    first = 0
    for _ in range(passes):
        last = n
        for k in range(first, last):
            y, x = ring[k] // nx, ring[k] % nx
            total = 0.0
            count = 0
            for v in range(max(0, y - 1), min(ny, y + 2)):
                for u in range(max(0, x - 1), min(nx, x + 2)):
                    if good[v, u]:
                        total += image[v, u]
                        count += 1
            value[k] = total / count
        for k in range(first, last):
            y, x = ring[k] // nx, ring[k] % nx
            image[y, x] = value[k]
            good[y, x] = True
            for v in range(max(0, y - 1), min(ny, y + 2)):
                for u in range(max(0, x - 1), min(nx, x + 2)):
                    if not queued[v, u]:
                        queued[v, u] = True
                        ring[n] = v * nx + u
                        n += 1
        if n == last:
            return
        first = last

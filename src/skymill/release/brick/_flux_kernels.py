"""Numba kernels of the normal equations of the fluxes of all sources on one exposure."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _overlap(boxes, a, b, out):
    """Common pixels x0, x1, y0, y1 of two boxes into out; False without any."""
    out[0] = max(boxes[a, 0], boxes[b, 0])
    out[1] = min(boxes[a, 0] + boxes[a, 2], boxes[b, 0] + boxes[b, 2])
    out[2] = max(boxes[a, 1], boxes[b, 1])
    out[3] = min(boxes[a, 1] + boxes[a, 3], boxes[b, 1] + boxes[b, 3])
    return out[0] < out[1] and out[2] < out[3]


@njit(cache=True, nogil=True, error_model="numpy")
def normal_terms(pixels, first, boxes, blob_of, numbers, residual, weight, gradient):
    """Sums of the normal equations over the pixels that belong to the blob of each source.

    pixels float64: patches of unit flux one after the other, from first (n,) int64; boxes (n, 4)
    int64: x0, y0, width and height of each. blob_of (n,) int64, ascending; numbers (ny, nx) int32:
    blob of each pixel. residual, weight (ny, nx) float32. gradient (n,): receives the sums of
    patch x weight x residual.
    Returns pairs (m, 2) int64 of sources of one blob whose patches overlap, the first not behind
    the second, and the sums (m,) of patch x weight x patch.
    """
    n = boxes.shape[0]
    common = np.empty(4, np.int64)
    count = 0
    for a in range(n):
        b = a
        while b < n and blob_of[b] == blob_of[a]:
            if _overlap(boxes, a, b, common):
                count += 1
            b += 1
    pairs = np.empty((count, 2), np.int64)
    sums = np.zeros(count)
    k = 0
    for a in range(n):
        gradient[a] = 0.0
        b = a
        while b < n and blob_of[b] == blob_of[a]:
            if _overlap(boxes, a, b, common):
                total = 0.0
                for y in range(common[2], common[3]):
                    at_a = first[a] + (y - boxes[a, 1]) * boxes[a, 2] - boxes[a, 0]
                    at_b = first[b] + (y - boxes[b, 1]) * boxes[b, 2] - boxes[b, 0]
                    for x in range(common[0], common[1]):
                        if numbers[y, x] == blob_of[a]:
                            value = pixels[at_a + x] * weight[y, x]
                            total += value * pixels[at_b + x]
                            if a == b:
                                gradient[a] += value * residual[y, x]
                pairs[k, 0], pairs[k, 1] = a, b
                sums[k] = total
                k += 1
            b += 1
    return pairs, sums

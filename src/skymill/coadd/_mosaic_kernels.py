"""Numba kernels of mosaics: averages in blocks, and which share of them is masked."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def bin_mean(image, width, mean):
    """Mean of the known pixels of blocks.

    image: (NY, NX) float32, NaN unknown; mean: (ny, nx) float32 with ny width <= NY and
    nx width <= NX; NaN where a block has no known pixel.
    """
    ny, nx = mean.shape
    total = np.empty(nx, np.float32)
    number = np.empty(nx, np.float32)
    for j in range(ny):
        total[:] = 0.0
        number[:] = 0.0
        for y in range(j * width, (j + 1) * width):
            row = image[y]
            for k in range(width):
                for i in range(nx):
                    v = row[i * width + k]
                    known = v == v
                    total[i] += v if known else np.float32(0.0)
                    number[i] += np.float32(1.0) if known else np.float32(0.0)
        out = mean[j]
        for i in range(nx):
            out[i] = total[i] / number[i] if number[i] > 0 else np.float32(np.nan)


@njit(cache=True, nogil=True, error_model="numpy")
def bin_share(mask, bits, width, share):
    """Share of the pixels of each block that have any of some bits.

    mask: (NY, NX) int32; bits: int32; share: (ny, nx) float32.
    """
    ny, nx = share.shape
    number = np.empty(nx, np.int64)
    for j in range(ny):
        number[:] = 0
        for y in range(j * width, (j + 1) * width):
            row = mask[y]
            for k in range(width):
                for i in range(nx):
                    number[i] += 1 if (row[i * width + k] & bits) != 0 else 0
        out = share[j]
        for i in range(nx):
            out[i] = np.float32(number[i]) / np.float32(width * width)

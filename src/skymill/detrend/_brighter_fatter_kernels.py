"""Kernels of the brighter-fatter effect: a small convolution and a conserved flux."""

# mypy: ignore-errors
import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def convolve_small(image, kernel, out):
    """Convolution with a small odd kernel that is symmetric under reflection; edges repeat."""
    ny, nx = image.shape
    size = kernel.shape[0]
    half = size // 2
    n_pad = nx + 2 * half
    rows = np.empty((size, n_pad), np.float32)
    folded = np.empty((half + 1, n_pad), np.float32)
    for y in range(ny):
        # A ring of padded rows: image row k lies in rows[k mod size].
        first = -half if y == 0 else half
        for j in range(first, half + 1):
            source = image[min(max(y + j, 0), ny - 1)]
            row = rows[(y + j + size) % size]
            for i in range(half):
                row[i] = source[0]
                row[half + nx + i] = source[nx - 1]
            inner = row[half : half + nx]
            for x in range(nx):
                inner[x] = source[x]
        for j in range(half):
            a, b = rows[(y + j - half + size) % size], rows[(y + half - j) % size]
            f = folded[j]
            for x in range(n_pad):
                f[x] = a[x] + b[x]
        folded[half, :] = rows[y % size]
        target = out[y]
        target[:] = np.float32(0.0)
        for j in range(half + 1):
            f = folded[j]
            c = kernel[j, half]
            centre = f[half : half + nx]
            for x in range(nx):
                target[x] += c * centre[x]
            for i in range(half):
                c = kernel[j, i]
                left = f[i : i + nx]
                right = f[size - 1 - i : size - 1 - i + nx]
                for x in range(nx):
                    target[x] += c * (left[x] + right[x])


@njit(cache=True, nogil=True, error_model="numpy")
def add_divergence(image, potential, out):
    """Out = half the divergence of (image x gradient of potential), conserved pixel by pixel."""
    ny, nx = image.shape
    quarter = np.float32(0.25)
    zero = np.float32(0.0)
    flux_low = np.zeros(nx, np.float32)
    flux_x = np.zeros(nx + 1, np.float32)
    for y in range(ny):
        for x in range(nx - 1):
            mean = image[y, x] + image[y, x + 1]
            flux_x[x + 1] = quarter * mean * (potential[y, x + 1] - potential[y, x])
        for x in range(nx):
            high = zero
            if y + 1 < ny:
                mean = image[y, x] + image[y + 1, x]
                high = quarter * mean * (potential[y + 1, x] - potential[y, x])
            out[y, x] = flux_x[x + 1] - flux_x[x] + high - flux_low[x]
            flux_low[x] = high


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def lag_sums(values, used, products, counts):
    """Sums over all pairs of pixels at each lag (y, x), both signs of the lag together.

    ``values`` is zero where ``used`` (0 or 1) is zero; ``products`` and ``counts`` are square.
    """
    ny, nx = values.shape
    size = products.shape[0]
    products[:] = 0.0
    counts[:] = 0
    for y in range(ny):
        for j in range(min(size, ny - y)):
            a, b = values[y], values[y + j]
            p, q = used[y], used[y + j]
            for i in range(size):
                total = np.float32(0.0)
                number = np.int32(0)
                for x in range(nx - i):
                    total += a[x] * b[x + i] + a[x + i] * b[x]
                for x in range(nx - i):
                    number += np.int32(p[x] & q[x + i]) + np.int32(p[x + i] & q[x])
                products[j, i] += total
                counts[j, i] += number

"""Kernels: Fourier transforms read between their grid points, along sheared wave vectors."""

from __future__ import annotations

import numba
import numpy as np

TAPS = 6


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bessel(x):
    """Modified Bessel function of order zero (Abramowitz & Stegun 9.8.1, 9.8.2)."""
    if x < 3.75:
        t = (x / 3.75) ** 2
        return 1.0 + t * (
            3.5156229
            + t * (3.0899424 + t * (1.2067492 + t * (0.2659732 + t * (0.0360768 + t * 0.0045813))))
        )
    t = 3.75 / x
    s = 0.39894228 + t * (
        0.01328592
        + t
        * (
            0.00225319
            + t
            * (
                -0.00157565
                + t
                * (
                    0.00916281
                    + t * (-0.02057706 + t * (0.02635537 + t * (-0.01647633 + t * 0.00392377)))
                )
            )
        )
    )
    return s * np.exp(x) / np.sqrt(x)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def tabulate_kernel(beta, table):
    """Kaiser-Bessel kernel at the six grid points around a position.

    table: (n + 1, 8) float32, written; row i belongs to the fraction i / n between the third and
    the fourth point; the last two columns are zero.
    """
    rows = table.shape[0]
    half = TAPS / 2.0
    for i in range(rows):
        for t in range(TAPS):
            distance = (t - (TAPS // 2 - 1)) - i / (rows - 1.0)
            inside = max(1.0 - (distance / half) ** 2, 0.0)
            table[i, t] = _bessel(beta * np.sqrt(inside)) / (2.0 * half)
        for t in range(TAPS, table.shape[1]):
            table[i, t] = 0.0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _place(value, table, weights):
    """First of the six grid points around a position; writes their weights."""
    first = int(np.floor(value))
    part = (value - first) * (table.shape[0] - 1)
    row = min(int(part), table.shape[0] - 2)
    rest = np.float32(part - row)
    for t in range(8):
        weights[t] = table[row, t] + rest * (table[row + 1, t] - table[row, t])
    return first - (TAPS // 2 - 1)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _read_psf(star, u, v, table, wx, wy):
    """Transform of the PSF at wave vector (u, v) [grid points of star]; wx, wy: (8,) scratch."""
    centre = star.shape[0] // 2
    x0 = _place(u, table, wx) + centre
    y0 = _place(v, table, wy) + centre
    real = np.float32(0.0)
    imaginary = np.float32(0.0)
    for t in range(TAPS):
        a = np.float32(0.0)
        b = np.float32(0.0)
        for s in range(TAPS):
            a += wx[s] * star[y0 + t, x0 + s, 0]
            b += wx[s] * star[y0 + t, x0 + s, 1]
        real += wy[t] * a
        imaginary += wy[t] * b
    return real, imaginary


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _read_planes(fine, u, v, table, wx, wy):
    """Transforms of image and noise at wave vector (u, v) [grid points of fine]."""
    n = fine.shape[0]
    last = fine.shape[1] - 1
    x0 = _place(u, table, wx)
    y0 = _place(v, table, wy)
    a0 = a1 = a2 = a3 = np.float32(0.0)
    if x0 >= 0 and x0 + TAPS - 1 <= last:
        for t in range(TAPS):
            y = y0 + t
            if y < 0:
                y += n
            elif y >= n:
                y -= n
            b0 = b1 = b2 = b3 = np.float32(0.0)
            for s in range(TAPS):
                b0 += wx[s] * fine[y, x0 + s, 0]
                b1 += wx[s] * fine[y, x0 + s, 1]
                b2 += wx[s] * fine[y, x0 + s, 2]
                b3 += wx[s] * fine[y, x0 + s, 3]
            a0 += wy[t] * b0
            a1 += wy[t] * b1
            a2 += wy[t] * b2
            a3 += wy[t] * b3
        return a0, a1, a2, a3
    # Beyond the edges of the half plane lies the conjugate of the other half.
    for t in range(TAPS):
        for s in range(TAPS):
            x = x0 + s
            y = y0 + t
            w = wy[t] * wx[s]
            c = w
            if x < 0 or x > n // 2:
                x = -x if x < 0 else n - x
                y = -y
                c = -w
            y %= n
            a0 += w * fine[y, x, 0]
            a1 += c * fine[y, x, 1]
            a2 += w * fine[y, x, 2]
            a3 += c * fine[y, x, 3]
    return a0, a1, a2, a3


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def shear_transform(fine, star, ratio, matrix, table, target, amplitude, out):
    """Deconvolved, sheared, convolved with the target, turned noise added.

    fine: (n, c, 4) float32, real and imaginary parts of the half transforms of image and noise
    padded to n: c columns, all (n // 2 + 1) or those that are read; star: (m, m, 2) float32,
    transform of the PSF, its origin at [m // 2, m // 2], wrapped around its period, of which
    ratio grid points are one of the output; matrix: (2, 2) float64 of determinant 1, wave vector
    k = (kx, ky) is read at matrix^T k; table: kernel; target: (n_out, n_out // 2 + 1) float32,
    transform of the target, zero where nothing is read; amplitude: the same, what the noise is
    multiplied with besides, or (0, 0) for ones; out: the same, complex64, written.
    """
    n_out, n_col = target.shape
    scale = fine.shape[0] / n_out
    wx = np.empty(8, np.float32)
    wy = np.empty(8, np.float32)
    re, im = _read_psf(star, 0.0, 0.0, table, wx, wy)
    floor = np.float32(1e-12) * (re * re + im * im)
    for row in range(n_out):
        ky = row if row < n_out - row else row - n_out
        for col in range(n_col):
            g = target[row, col]
            if g <= 0.0:
                out[row, col] = np.complex64(0.0)
                continue
            u = matrix[0, 0] * col + matrix[1, 0] * ky
            v = matrix[0, 1] * col + matrix[1, 1] * ky
            re, im = _read_psf(star, ratio * u, ratio * v, table, wx, wy)
            power = max(re * re + im * im, floor)
            a0, a1, a2, a3 = _read_planes(fine, scale * u, scale * v, table, wx, wy)
            # The PSF turned by 90 degrees under the opposite shear (the inverse matrix).
            u = matrix[1, 1] * col - matrix[1, 0] * ky
            v = matrix[0, 0] * ky - matrix[0, 1] * col
            turned = _read_psf(star, -ratio * v, ratio * u, table, wx, wy)
            other = max(turned[0] * turned[0] + turned[1] * turned[1], floor)
            loud = g / np.sqrt(other)
            if amplitude.size:
                loud *= amplitude[row, col]
            sharp = g / power
            out[row, col] = complex(
                (a0 * re + a1 * im) * sharp + a2 * loud, (a1 * re - a0 * im) * sharp + a3 * loud
            )

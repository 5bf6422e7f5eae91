"""Kernels: a Fourier transform read between its grid points, along sheared wave vectors."""

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
    """Kaiser-Bessel kernel of 6 points, tabulated by the distance 0 ... 3.

    table: (n,) float32, written.
    """
    n = table.size
    half = TAPS / 2.0
    for i in range(n):
        u = i / (n - 1.0)
        table[i] = _bessel(beta * np.sqrt(1.0 - u * u)) / (2.0 * half)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def read_sheared(fine, matrix, table, n_out, out):
    """Read transforms at sheared wave vectors.

    fine: (m, n, n) complex64, full transforms of images padded to n, origin at [0, 0];
    matrix: (2, 2) float64, wave vector k = (kx, ky) is read at matrix^T k;
    table: kernel; out: (m, n_out, n_out // 2 + 1) complex64, written.
    """
    m, n, _ = fine.shape
    per_step = (table.size - 1) / (TAPS / 2.0)
    ratio = n / n_out
    wx = np.empty(TAPS, np.float32)
    wy = np.empty(TAPS, np.float32)
    for row in range(n_out):
        ky = row if row < n_out - row else row - n_out
        for col in range(n_out // 2 + 1):
            u = ratio * (matrix[0, 0] * col + matrix[1, 0] * ky)
            v = ratio * (matrix[0, 1] * col + matrix[1, 1] * ky)
            u0 = int(np.floor(u)) - 2
            v0 = int(np.floor(v)) - 2
            for t in range(TAPS):
                position = abs(u0 + t - u) * per_step
                cell = min(int(position), table.size - 2)
                part = np.float32(position - cell)
                wx[t] = table[cell] + part * (table[cell + 1] - table[cell])
                position = abs(v0 + t - v) * per_step
                cell = min(int(position), table.size - 2)
                part = np.float32(position - cell)
                wy[t] = table[cell] + part * (table[cell + 1] - table[cell])
            for k in range(m):
                re = np.float32(0.0)
                im = np.float32(0.0)
                for t in range(TAPS):
                    y = (v0 + t) % n
                    row_re = np.float32(0.0)
                    row_im = np.float32(0.0)
                    for s in range(TAPS):
                        value = fine[k, y, (u0 + s) % n]
                        row_re += wx[s] * value.real
                        row_im += wx[s] * value.imag
                    re += wy[t] * row_re
                    im += wy[t] * row_im
                out[k, row, col] = complex(re, im)

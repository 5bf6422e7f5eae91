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
def read_sheared(fine, matrix, table, limit, n_out, out):
    """Read four transforms at sheared wave vectors.

    fine: (n, n // 2 + 1, 8) float32, real and imaginary parts of the half transforms of four
    images padded to n; matrix: (2, 2) float64, wave vector k = (kx, ky) is read at matrix^T k;
    table: kernel; limit: largest modulus of k that is read [grid points of the output];
    out: (n_out, n_out // 2 + 1, 8) float32, written, zero beyond the limit.
    """
    n = fine.shape[0]
    last = fine.shape[1] - 1
    steps = table.shape[0] - 1
    ratio = n / n_out
    wx = np.empty(8, np.float32)
    wy = np.empty(8, np.float32)
    for row in range(n_out):
        ky = row if row < n_out - row else row - n_out
        for col in range(n_out // 2 + 1):
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = np.float32(0.0)
            if col * col + ky * ky <= limit * limit:
                u = ratio * (matrix[0, 0] * col + matrix[1, 0] * ky)
                v = ratio * (matrix[0, 1] * col + matrix[1, 1] * ky)
                u0 = int(np.floor(u))
                v0 = int(np.floor(v))
                u = (u - u0) * steps
                v = (v - v0) * steps
                iu = min(int(u), steps - 1)
                iv = min(int(v), steps - 1)
                pu = np.float32(u - iu)
                pv = np.float32(v - iv)
                for t in range(8):
                    wx[t] = table[iu, t] + pu * (table[iu + 1, t] - table[iu, t])
                    wy[t] = table[iv, t] + pv * (table[iv + 1, t] - table[iv, t])
                u0 -= TAPS // 2 - 1
                v0 -= TAPS // 2 - 1
                if u0 >= 0 and u0 + TAPS - 1 <= last:
                    for t in range(TAPS):
                        y = v0 + t
                        if y < 0:
                            y += n
                        elif y >= n:
                            y -= n
                        for s in range(TAPS):
                            w = wy[t] * wx[s]
                            a0 += w * fine[y, u0 + s, 0]
                            a1 += w * fine[y, u0 + s, 1]
                            a2 += w * fine[y, u0 + s, 2]
                            a3 += w * fine[y, u0 + s, 3]
                            a4 += w * fine[y, u0 + s, 4]
                            a5 += w * fine[y, u0 + s, 5]
                            a6 += w * fine[y, u0 + s, 6]
                            a7 += w * fine[y, u0 + s, 7]
                else:
                    # Beyond the edges of the half plane lies the conjugate of the other half.
                    for t in range(TAPS):
                        for s in range(TAPS):
                            x = u0 + s
                            y = v0 + t
                            w = wy[t] * wx[s]
                            c = w
                            if x < 0 or x > last:
                                x = -x if x < 0 else n - x
                                y = -y
                                c = -w
                            y %= n
                            a0 += w * fine[y, x, 0]
                            a1 += c * fine[y, x, 1]
                            a2 += w * fine[y, x, 2]
                            a3 += c * fine[y, x, 3]
                            a4 += w * fine[y, x, 4]
                            a5 += c * fine[y, x, 5]
                            a6 += w * fine[y, x, 6]
                            a7 += c * fine[y, x, 7]
            out[row, col, 0] = a0
            out[row, col, 1] = a1
            out[row, col, 2] = a2
            out[row, col, 3] = a3
            out[row, col, 4] = a4
            out[row, col, 5] = a5
            out[row, col, 6] = a6
            out[row, col, 7] = a7


@numba.njit(cache=True, nogil=True, error_model="numpy")
def reconvolve(read, opposite, target, amplitude, out):
    """Deconvolved, convolved with the target, turned noise added.

    read: (n, m, 4) complex64, transforms of image, noise, PSF and PSF turned by 90 degrees at the
    wave vectors of a shear; opposite: the same for the opposite shear; target: (n, m) float32;
    amplitude: (n, m) float32, what the noise is multiplied with besides, or (0, 0) for ones;
    out: (n, m) complex64, written.
    """
    n, m, _ = read.shape
    centre = read[0, 0, 2]
    floor = np.float32(1e-12) * (centre.real * centre.real + centre.imag * centre.imag)
    zero = np.complex64(0.0)
    for i in range(n):
        for j in range(m):
            g = target[i, j]
            if g <= 0.0:
                out[i, j] = zero
                continue
            psf = read[i, j, 2]
            power = max(psf.real * psf.real + psf.imag * psf.imag, floor)
            turned = opposite[i, j, 3]
            other = max(turned.real * turned.real + turned.imag * turned.imag, floor)
            loud = g / np.sqrt(other)
            if amplitude.size:
                loud *= amplitude[i, j]
            scale = g / power
            out[i, j] = (
                read[i, j, 0] * complex(psf.real * scale, -psf.imag * scale) + read[i, j, 1] * loud
            )

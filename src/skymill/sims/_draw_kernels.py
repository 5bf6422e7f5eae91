"""Fourier-space drawing of stars and galaxies: numba only, one family, self-contained."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def lookup(table, scale, u):
    t = u * scale
    i = int(t)
    if i >= table.size - 1:
        return table[table.size - 1]
    f = t - i
    return table[i] * (1.0 - f) + table[i + 1] * f


@njit(cache=True, nogil=True, error_model="numpy")
def transform_sources(
    size, x, y, flux, bulge, disk_map, bulge_map, psf_map, psf_table, psf_kmax, bulge_table, out
):
    """Fourier transforms of sources on stamps of size pixels.

    disk_map, bulge_map, psf_map : (n, 4) matrices M (row major, pixels) with F(k) = f(|M^T k|).
    bulge: fraction of the flux in the de Vaucouleurs part, < 0 for a point source.
    psf_table: transform of the PSF against k in units of its own scale, up to psf_kmax.
    bulge_table: transform of the r^1/4 profile against u = k / (1 + k).
    out : (n, size, size // 2 + 1) complex64.
    """
    n = x.size
    half = size // 2 + 1
    step = 2.0 * math.pi / size
    two_pi = 2.0 * math.pi
    psf_scale = (psf_table.size - 1) / psf_kmax
    bulge_scale = bulge_table.size - 1
    phase_x_re = np.empty(half)
    phase_x_im = np.empty(half)
    for s in range(n):
        cx = x[s] - (math.floor(x[s]) - size // 2)
        cy = y[s] - (math.floor(y[s]) - size // 2)
        d0, d1, d2, d3 = disk_map[s, 0], disk_map[s, 1], disk_map[s, 2], disk_map[s, 3]
        b0, b1, b2, b3 = bulge_map[s, 0], bulge_map[s, 1], bulge_map[s, 2], bulge_map[s, 3]
        p0, p1, p2, p3 = psf_map[s, 0], psf_map[s, 1], psf_map[s, 2], psf_map[s, 3]
        frac = bulge[s]
        for i in range(half):
            phase_x_re[i] = math.cos(step * i * cx)
            phase_x_im[i] = -math.sin(step * i * cx)
        for j in range(size):
            jj = j if j <= size // 2 else j - size
            phase_y_re = math.cos(step * jj * cy)
            phase_y_im = -math.sin(step * jj * cy)
            for i in range(half):
                acc_re = 0.0
                acc_im = 0.0
                for my in range(-1, 2):
                    ky = step * jj + two_pi * my
                    # Aliases whose nearest frequency is out of reach of the PSF are skipped below.
                    sy = 1.0 if ky == 0.0 else math.sin(0.5 * ky) / (0.5 * ky)
                    for mx in range(-1, 2):
                        kx = step * i + two_pi * mx
                        px = p0 * kx + p2 * ky
                        py = p1 * kx + p3 * ky
                        kp = math.sqrt(px * px + py * py)
                        if kp >= psf_kmax:
                            continue
                        value = lookup(psf_table, psf_scale, kp)
                        sx = 1.0 if kx == 0.0 else math.sin(0.5 * kx) / (0.5 * kx)
                        value *= sx * sy
                        if frac >= 0.0:
                            gal = 0.0
                            if frac < 1.0:
                                qx = d0 * kx + d2 * ky
                                qy = d1 * kx + d3 * ky
                                q = 1.0 + qx * qx + qy * qy
                                gal += (1.0 - frac) / (q * math.sqrt(q))
                            if frac > 0.0:
                                qx = b0 * kx + b2 * ky
                                qy = b1 * kx + b3 * ky
                                q1 = math.sqrt(qx * qx + qy * qy)
                                gal += frac * lookup(bulge_table, bulge_scale, q1 / (1.0 + q1))
                            value *= gal
                        if mx == 0 and my == 0:
                            acc_re += value
                        else:
                            angle = two_pi * (mx * cx + my * cy)
                            acc_re += value * math.cos(angle)
                            acc_im -= value * math.sin(angle)
                re = phase_x_re[i] * phase_y_re - phase_x_im[i] * phase_y_im
                im = phase_x_re[i] * phase_y_im + phase_x_im[i] * phase_y_re
                out[s, j, i] = complex(
                    flux[s] * (re * acc_re - im * acc_im), flux[s] * (re * acc_im + im * acc_re)
                )


@njit(cache=True, nogil=True, error_model="numpy")
def add_stamps(stamps, x, y, image):
    """Add stamps whose centre pixel is size // 2 at floor(x), floor(y)."""
    ny, nx = image.shape
    n, size, _ = stamps.shape
    for s in range(n):
        x0 = math.floor(x[s]) - size // 2
        y0 = math.floor(y[s]) - size // 2
        i0, i1 = max(0, -x0), min(size, nx - x0)
        j0, j1 = max(0, -y0), min(size, ny - y0)
        if i1 <= i0:
            continue
        for j in range(j0, j1):
            row = image[y0 + j, x0 + i0 : x0 + i1]
            src = stamps[s, j, i0:i1]
            for i in range(i1 - i0):
                row[i] += src[i]

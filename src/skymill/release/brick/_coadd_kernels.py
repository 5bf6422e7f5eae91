"""Numba kernels of the coadds: Lanczos-3 resampling and weighted sums over exposures."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def fill_masked(image, good, passes):
    """Replace masked pixels in place by the mean of their usable 3x3 neighbours, ring by ring.

    image (ny, nx) float32; good (ny, nx) bool, changed: pixels that were filled become True.
    """
    ny, nx = good.shape
    todo = np.empty((ny * nx, 2), np.int64)
    n = 0
    for y in range(ny):
        for x in range(nx):
            if not good[y, x]:
                todo[n, 0] = y
                todo[n, 1] = x
                n += 1
    value = np.empty(n, np.float32)
    found = np.empty(n, np.bool_)
    for _ in range(passes):
        if n == 0:
            return
        for k in range(n):
            y, x = todo[k]
            total = 0.0
            count = 0
            for v in range(max(0, y - 1), min(ny, y + 2)):
                for u in range(max(0, x - 1), min(nx, x + 2)):
                    if good[v, u]:
                        total += image[v, u]
                        count += 1
            found[k] = count > 0
            value[k] = total / count if count else 0.0
        left = 0
        for k in range(n):
            y, x = todo[k]
            if found[k]:
                image[y, x] = value[k]
                good[y, x] = True
            else:
                todo[left, 0] = y
                todo[left, 1] = x
                left += 1
        n = left
    for k in range(n):
        image[todo[k, 0], todo[k, 1]] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _lanczos_weights(fraction, w):
    """Six normalised weights of Lanczos-3 for taps -2 ... 3 about a fraction in [0, 1)."""
    total = 0.0
    for t in range(6):
        d = fraction - (t - 2)
        if abs(d) < 1e-6:
            w[t] = 1.0
        elif abs(d) >= 3.0:
            w[t] = 0.0
        else:
            a = math.pi * d
            w[t] = 3.0 * math.sin(a) * math.sin(a / 3.0) / (a * a)
        total += w[t]
    for t in range(6):
        w[t] /= total


@njit(cache=True, nogil=True, error_model="numpy")
def resample_planes(planes, px, py, out):
    """Lanczos-3 values of planes (n, ny, nx) float32 at positions px, py (m,) into out (n, m).

    Taps beyond the edge take the edge's pixel. Positions off the image give 0.
    """
    n, ny, nx = planes.shape
    wx = np.empty(6)
    wy = np.empty(6)
    for k in range(px.size):
        x, y = px[k], py[k]
        if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
            for p in range(n):
                out[p, k] = 0.0
            continue
        ix = math.floor(x)
        iy = math.floor(y)
        _lanczos_weights(x - ix, wx)
        _lanczos_weights(y - iy, wy)
        inner = ix >= 2 and ix < nx - 3 and iy >= 2 and iy < ny - 3
        for p in range(n):
            value = 0.0
            if inner:
                for t in range(6):
                    line = 0.0
                    for s in range(6):
                        line += wx[s] * planes[p, iy - 2 + t, ix - 2 + s]
                    value += wy[t] * line
            else:
                for t in range(6):
                    v = min(max(iy - 2 + t, 0), ny - 1)
                    line = 0.0
                    for s in range(6):
                        u = min(max(ix - 2 + s, 0), nx - 1)
                        line += wx[s] * planes[p, v, u]
                    value += wy[t] * line
            out[p, k] = value


@njit(cache=True, nogil=True, error_model="numpy")
def add_exposure(
    values, px, py, column, row, inverse_error, quality, scale, depths, sums, counts, masks
):
    """Add one exposure to the sums of its band.

    values (3, m): image, model and blob model at the output pixels; px, py (m,): their places on
    the exposure; column, row (m,): on the brick. scale: flux of an output pixel over that of an
    exposure's. depths: inverse variance of a PSF, of a galaxy, and 1 / area of the PSF [arcsec-2].
    sums (10, NY, NX) float64: weight, weight x image, weight x model, weight x blob model, image,
    chi2, psf depth, galaxy depth, weight / area, model.
    counts (2, NY, NX) int16: exposures, usable exposures. masks (2, NY, NX) int32: and, or.
    """
    ny, nx = inverse_error.shape
    for k in range(px.size):
        x, y = px[k], py[k]
        if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
            continue
        ix = min(nx - 1, math.floor(x + 0.5))
        iy = min(ny - 1, math.floor(y + 0.5))
        u, v = column[k], row[k]
        bits = quality[iy, ix]
        if counts[0, v, u] == 0:
            masks[0, v, u] = bits
        else:
            masks[0, v, u] &= bits
        masks[1, v, u] |= bits
        counts[0, v, u] += 1
        pixel = values[0, k] * scale
        sums[4, v, u] += pixel
        sums[9, v, u] += values[1, k] * scale
        error = inverse_error[iy, ix] / scale
        weight = error * error
        if weight > 0.0:
            counts[1, v, u] += 1
            model = values[1, k] * scale
            sums[0, v, u] += weight
            sums[1, v, u] += weight * pixel
            sums[2, v, u] += weight * model
            sums[3, v, u] += weight * values[2, k] * scale
            sums[5, v, u] += weight * (pixel - model) * (pixel - model)
            sums[6, v, u] += depths[0]
            sums[7, v, u] += depths[1]
            sums[8, v, u] += weight * depths[2]

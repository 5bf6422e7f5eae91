"""Numba kernels of the PSF folder: the linear fit of stars by their model, stamps."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def fit_stars(data, weight, model, flux, dx, dy, chi2, n_good):
    """Linear least squares of flux and centre of each star against its model.

    data, weight, model: (n, ny, nx) float32; weight is 1/variance and zero where masked. The
    model is drawn at the present centre with unit flux. The fit has four columns: the model, its
    two derivatives (central differences) and nothing for the background, which is subtracted
    before. On return flux is the new flux, dx and dy the *change* of the centre.
    """
    n, ny, nx = data.shape
    h = np.empty((3, 3))
    b = np.empty(3)
    for s in range(n):
        h[:] = 0.0
        b[:] = 0.0
        count = 0
        for j in range(1, ny - 1):
            for i in range(1, nx - 1):
                w = weight[s, j, i]
                if w <= 0.0:
                    continue
                count += 1
                m = model[s, j, i]
                gx = -0.5 * (model[s, j, i + 1] - model[s, j, i - 1])
                gy = -0.5 * (model[s, j + 1, i] - model[s, j - 1, i])
                d = data[s, j, i]
                h[0, 0] += w * m * m
                h[0, 1] += w * m * gx
                h[0, 2] += w * m * gy
                h[1, 1] += w * gx * gx
                h[1, 2] += w * gx * gy
                h[2, 2] += w * gy * gy
                b[0] += w * m * d
                b[1] += w * gx * d
                b[2] += w * gy * d
        n_good[s] = count
        h[1, 0] = h[0, 1]
        h[2, 0] = h[0, 2]
        h[2, 1] = h[1, 2]
        flux[s] = np.nan
        dx[s] = 0.0
        dy[s] = 0.0
        chi2[s] = np.nan
        if count < 10 or not h[0, 0] > 0.0:
            continue
        # Solve the 3x3 system by Cramer's rule; the determinant is of order w^3.
        c00 = h[1, 1] * h[2, 2] - h[1, 2] * h[2, 1]
        c01 = h[1, 2] * h[2, 0] - h[1, 0] * h[2, 2]
        c02 = h[1, 0] * h[2, 1] - h[1, 1] * h[2, 0]
        det = h[0, 0] * c00 + h[0, 1] * c01 + h[0, 2] * c02
        if not det > 0.0:
            continue
        f = (b[0] * c00 + b[1] * c01 + b[2] * c02) / det
        c11 = h[0, 0] * h[2, 2] - h[0, 2] * h[2, 0]
        c12 = h[0, 1] * h[2, 0] - h[0, 0] * h[2, 1]
        c22 = h[0, 0] * h[1, 1] - h[0, 1] * h[1, 0]
        px = (b[0] * c01 + b[1] * c11 + b[2] * c12) / det
        py = (b[0] * c02 + b[1] * c12 + b[2] * c22) / det
        if not f > 0.0:
            continue
        flux[s] = f
        dx[s] = min(max(px / f, -0.5), 0.5)
        dy[s] = min(max(py / f, -0.5), 0.5)
        total = 0.0
        for j in range(1, ny - 1):
            for i in range(1, nx - 1):
                w = weight[s, j, i]
                if w > 0.0:
                    r = data[s, j, i] - f * model[s, j, i]
                    total += w * r * r
        chi2[s] = total


@njit(cache=True, nogil=True, error_model="numpy")
def cut_stamps(image, variance, mask, bad_bits, ix, iy, data, weight):
    """Copy the stamps around (ix, iy) with weights 1/variance; zero weight off the image.

    image, variance: (ny, nx) float32; mask: (ny, nx) int32; ix, iy: (n,) int64;
    data, weight: (n, size, size) float32.
    """
    n, size, _ = data.shape
    half = size // 2
    ny, nx = image.shape
    for s in range(n):
        for j in range(size):
            y = iy[s] + j - half
            for i in range(size):
                x = ix[s] + i - half
                data[s, j, i] = 0.0
                weight[s, j, i] = 0.0
                if x < 0 or y < 0 or x >= nx or y >= ny:
                    continue
                v = variance[y, x]
                d = image[y, x]
                if (mask[y, x] & bad_bits) != 0 or not v > 0.0 or not abs(d) < 1e30:
                    continue
                data[s, j, i] = d
                weight[s, j, i] = 1.0 / v

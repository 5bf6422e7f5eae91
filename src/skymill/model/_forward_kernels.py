"""Numba loops of `forward` and `multi_fit`: spectra of models, inner products, normal equations."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}

# The knots of skymill.model.sersic: t = 1 + 64 K^2, 32 in each octave.
_STRETCH, _PER_OCTAVE = 64.0, 32


@njit(cache=True, nogil=True, error_model="numpy")
def _phases(shift, n, count, out):
    """exp(-i k shift) for the first ``count`` wave numbers of a transform of n points."""
    for i in range(count):
        wave = i if i <= n // 2 else i - n
        angle = -2.0 * math.pi * wave * shift / n
        out[i] = complex(math.cos(angle), math.sin(angle))


@njit(cache=True, nogil=True, error_model="numpy")
def _widths(n_knot):
    """Width in K^2 of the intervals of each octave."""
    out = np.empty(n_knot // _PER_OCTAVE + 2)
    out[0] = 1.0 / (_PER_OCTAVE * _STRETCH)
    for i in range(1, out.size):
        out[i] = 2.0 * out[i - 1]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _find(k2, n_knot):
    """Interval of the table and place in it; the last interval has no end."""
    mantissa, exponent = math.frexp(1.0 + _STRETCH * k2)
    position = (2.0 * mantissa - 1.0) * _PER_OCTAVE
    part = int(position)
    return min((exponent - 1) * _PER_OCTAVE + part, n_knot - 1), position - part


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(index, u, width, table):
    """Transform of the profile, and its slope by K^2."""
    f0, f1 = table[index, 0], table[index + 1, 0]
    d0, d1 = table[index, 1] * width, table[index + 1, 1] * width
    rise = f1 - f0
    c2, c3 = 3.0 * rise - 2.0 * d0 - d1, d0 + d1 - 2.0 * rise
    value = f0 + u * (d0 + u * (c2 + u * c3))
    return value, (d0 + u * (2.0 * c2 + u * 3.0 * c3)) / width


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up_index(index, u, width, table):
    """Derivative of the transform by the index of the profile."""
    n0, n1 = table[index, 2], table[index + 1, 2]
    e0, e1 = table[index, 3] * width, table[index + 1, 3] * width
    rise = n1 - n0
    return n0 + u * (e0 + u * (3.0 * rise - 2.0 * e0 - e1 + u * (e0 + e1 - 2.0 * rise)))


@njit(cache=True, nogil=True, error_model="numpy")
def fill_spectra(psf, shift, quadratic, d_quadratic, table, is_galaxy, by_index, out):
    """Spectra of the model of unit flux and of its derivatives.

    psf (n_image, n, n // 2 + 1); shift (n_image, 2): x, y of the source from pixel (0, 0) of the
    stamp; quadratic (n_image, 3): K^2 = qxx kx^2 + qyy ky^2 + 2 qxy kx ky; d_quadratic
    (n_image, n_shape, 3): its derivatives; out (n_image, n_plane, n, n // 2 + 1): the model, and
    if there is room its derivatives by x, y, the shapes, and last the index of the profile.
    """
    n_image, n, half = psf.shape
    n_plane = out.shape[1]
    n_shape = d_quadratic.shape[1]
    ex, ey = np.empty(half, np.complex128), np.empty(n, np.complex128)
    step = 2.0 * math.pi / n
    n_knot = table.shape[0]
    widths = _widths(n_knot)
    for m in range(n_image):
        _phases(shift[m, 0], n, half, ex)
        _phases(shift[m, 1], n, n, ey)
        qxx, qyy, qxy = quadratic[m, 0], quadratic[m, 1], quadratic[m, 2]
        for iy in range(n):
            ky = step * (iy if iy <= n // 2 else iy - n)
            slope_y = 0.0 if 2 * iy == n else ky
            for ix in range(half):
                kx = step * ix
                slope_x = 0.0 if 2 * ix == n else kx
                base = psf[m, iy, ix] * (ex[ix] * ey[iy])
                value, slope = 1.0, 0.0
                if is_galaxy:
                    k2 = max(qxx * kx * kx + qyy * ky * ky + 2.0 * qxy * kx * ky, 0.0)
                    found, u = _find(k2, n_knot)
                    if found < n_knot - 1:
                        width = widths[found // _PER_OCTAVE]
                        value, slope = _look_up(found, u, width, table)
                        if by_index:
                            index = _look_up_index(found, u, width, table)
                            out[m, 3 + n_shape, iy, ix] = base * index
                    else:
                        value = 0.0
                        if by_index:
                            out[m, 3 + n_shape, iy, ix] = 0.0
                model = base * value
                out[m, 0, iy, ix] = model
                if n_plane == 1:
                    continue
                out[m, 1, iy, ix] = complex(model.imag * slope_x, -model.real * slope_x)
                out[m, 2, iy, ix] = complex(model.imag * slope_y, -model.real * slope_y)
                for j in range(n_shape):
                    d = (
                        d_quadratic[m, j, 0] * kx * kx
                        + d_quadratic[m, j, 1] * ky * ky
                        + 2.0 * d_quadratic[m, j, 2] * kx * ky
                    )
                    out[m, 3 + j, iy, ix] = base * (slope * d)


@njit(cache=True, nogil=True, error_model="numpy")
def add_stamp(image, plane, x0, y0, scale):
    """Add scale times a stamp whose first pixel is pixel (x0, y0) of the image."""
    ny, nx = image.shape
    height, width = plane.shape
    first, last = max(0, -x0), min(width, nx - x0)
    if last <= first:
        return
    for j in range(max(0, -y0), min(height, ny - y0)):
        row = image[y0 + j, x0 + first : x0 + last]
        source = plane[j, first:last]
        for i in range(row.size):
            row[i] += scale * source[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _dot(u, v):
    total = 0.0
    for i in range(u.size):
        total += u[i] * v[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def gram(planes, data, weight, window, background, matrix, vector):
    """Weighted inner products of the planes with one another and with the data.

    planes (n_image, p, n, n); data, weight (n_image, n, n); window (n_image, 4): first and last
    row and column with weight; matrix (n_image, p, p) and vector (n_image, p) are filled. With
    ``background`` a constant in each image is fitted and eliminated.
    """
    n_image, p, n, _ = planes.shape
    row = np.empty(n)
    ones = np.ones(n)
    sums = np.empty(p)
    matrix[:, :, :] = 0.0
    vector[:, :] = 0.0
    for m in range(n_image):
        x0, x1 = window[m, 2], window[m, 3]
        if x1 <= x0:
            continue
        scaled = row[: x1 - x0]
        sums[:] = 0.0
        total_weight, total_data = 0.0, 0.0
        for y in range(window[m, 0], window[m, 1]):
            w = weight[m, y, x0:x1]
            d = data[m, y, x0:x1]
            for i in range(p):
                source = planes[m, i, y, x0:x1]
                for x in range(scaled.size):
                    scaled[x] = w[x] * source[x]
                vector[m, i] += _dot(scaled, d)
                if background:
                    sums[i] += _dot(scaled, ones[: x1 - x0])
                for j in range(i, p):
                    matrix[m, i, j] += _dot(scaled, planes[m, j, y, x0:x1])
            if background:
                total_weight += _dot(w, ones[: x1 - x0])
                total_data += _dot(w, d)
        if background and total_weight > 0.0:
            for i in range(p):
                vector[m, i] -= sums[i] * total_data / total_weight
                for j in range(i, p):
                    matrix[m, i, j] -= sums[i] * sums[j] / total_weight
        for i in range(p):
            for j in range(i):
                matrix[m, i, j] = matrix[m, j, i]


@njit(cache=True, nogil=True, error_model="numpy")
def normal_equations(matrix, vector, band, jacobian, flux, gain, hessian, mixed, gradient):
    """Fluxes that fit best, and the normal equations of the other parameters.

    matrix, vector: of `gram`; band (n_image,); jacobian (n_image, 2, 2): d(x, y) / d(east, north).
    Filled: flux (n_band,); gain (n_band,): sum of squares of the model of unit flux; hessian
    (p - 1, p - 1), mixed (p - 1, n_band), gradient (p - 1,): of half of chi-squared at fixed
    fluxes. Returns the change of chi-squared that the source makes.
    """
    n_image, p, _ = matrix.shape
    n_band = flux.size
    gain[:] = 0.0
    flux[:] = 0.0
    hessian[:, :] = 0.0
    mixed[:, :] = 0.0
    gradient[:] = 0.0
    for m in range(n_image):
        gain[band[m]] += matrix[m, 0, 0]
        flux[band[m]] += vector[m, 0]
    chi2 = 0.0
    for b in range(n_band):
        flux[b] = flux[b] / gain[b] if gain[b] > 0.0 else 0.0
        chi2 -= flux[b] * flux[b] * gain[b]
    if p == 1:
        return chi2
    change = np.eye(p)
    for m in range(n_image):
        change[1:3, 1:3] = jacobian[m]
        turned = np.zeros((p, p))
        for i in range(p):
            for j in range(p):
                total = 0.0
                for k in range(p):
                    total += matrix[m, i, k] * change[k, j]
                turned[i, j] = total
        f = flux[band[m]]
        for i in range(1, p):
            projected = 0.0
            for k in range(p):
                projected += change[k, i] * vector[m, k]
            gradient[i - 1] += f * (projected - f * turned[0, i])
            mixed[i - 1, band[m]] += f * turned[0, i]
            for j in range(1, p):
                total = 0.0
                for k in range(p):
                    total += change[k, i] * turned[k, j]
                hessian[i - 1, j - 1] += f * f * total
    return chi2


@njit(cache=True, nogil=True, error_model="numpy")
def _sky_matrix(log_size, soft1, soft2, out):
    """xx, yy, xy of the matrix of `shape_matrix` for internal parameters."""
    soft = math.sqrt(soft1 * soft1 + soft2 * soft2)
    factor = (1.0 - math.exp(-soft)) / soft if soft > 1e-8 else 1.0 - 0.5 * soft
    e1, e2 = soft1 * factor, soft2 * factor
    e = e1 * e1 + e2 * e2
    size = math.exp(2.0 * log_size)
    out[0] = size * (1.0 + e - 2.0 * e1)
    out[1] = size * (1.0 + e + 2.0 * e1)
    out[2] = size * 2.0 * e2


@njit(cache=True, nogil=True, error_model="numpy")
def _to_pixels(sky, to_pixel, out):
    a, b, c, d = to_pixel[0, 0], to_pixel[0, 1], to_pixel[1, 0], to_pixel[1, 1]
    xx, yy, xy = sky[0], sky[1], sky[2]
    out[0] = a * a * xx + 2.0 * a * b * xy + b * b * yy
    out[1] = c * c * xx + 2.0 * c * d * xy + d * d * yy
    out[2] = a * c * xx + (a * d + b * c) * xy + b * d * yy


@njit(cache=True, nogil=True, error_model="numpy")
def place_model(parameters, base_shift, to_pixel, shift, quadratic, d_quadratic):
    """Positions on stamps and shapes in pixels of a source with internal parameters.

    parameters: east, north [arcsec], log of size, soft e1, soft e2 (the size is the half-light
    radius of the major axis over 1 + e; 0 to 3 shapes follow from d_quadratic).
    """
    n_image = to_pixel.shape[0]
    n_shape = d_quadratic.shape[1]
    sky, low, high = np.empty(3), np.empty(3), np.empty(3)
    slope = np.empty((3, 3))
    step = 1e-5
    if n_shape > 0:
        log_size, soft1, soft2 = parameters[2], parameters[3], parameters[4]
        _sky_matrix(log_size, soft1, soft2, sky)
        slope[0] = 2.0 * sky
        _sky_matrix(log_size, soft1 - step, soft2, low)
        _sky_matrix(log_size, soft1 + step, soft2, high)
        slope[1] = (high - low) / (2.0 * step)
        _sky_matrix(log_size, soft1, soft2 - step, low)
        _sky_matrix(log_size, soft1, soft2 + step, high)
        slope[2] = (high - low) / (2.0 * step)
    for m in range(n_image):
        for i in range(2):
            shift[m, i] = (
                base_shift[m, i]
                + to_pixel[m, i, 0] * parameters[0]
                + to_pixel[m, i, 1] * parameters[1]
            )
        if n_shape > 0:
            _to_pixels(sky, to_pixel[m], quadratic[m])
            for j in range(n_shape):
                _to_pixels(slope[j], to_pixel[m], d_quadratic[m, j])


@njit(cache=True, nogil=True, error_model="numpy")
def cut_stamp(image, weight, brick_pixel, mask, x0, y0, data_out, weight_out, window):
    """Copy a stamp of the residual and its weight within a mask; its window of pixels.

    brick_pixel (ny, nx): place of each pixel in ``mask`` (flat, bool), -1 for none.
    """
    ny, nx = image.shape
    n = data_out.shape[0]
    data_out[:, :] = 0.0
    weight_out[:, :] = 0.0
    window[0], window[1], window[2], window[3] = n, 0, n, 0
    total = 0
    first, last = max(0, -x0), min(n, nx - x0)
    for j in range(max(0, -y0), min(n, ny - y0)):
        for i in range(first, last):
            w = weight[y0 + j, x0 + i]
            pixel = brick_pixel[y0 + j, x0 + i]
            if w > 0.0 and pixel >= 0 and mask[pixel]:
                data_out[j, i] = image[y0 + j, x0 + i]
                weight_out[j, i] = w
                window[0], window[1] = min(window[0], j), max(window[1], j + 1)
                window[2], window[3] = min(window[2], i), max(window[3], i + 1)
                total += 1
    if total == 0:
        window[0], window[2] = 0, 0
    return total

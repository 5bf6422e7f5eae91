"""Numba kernels between the pixels of a brick and those of its exposures.

A map is given by its nodes: ``nodes`` (2, n, m) float64 are x and y on the other image at every
``step``-th pixel of a box of ``width`` x ``height`` pixels; between them it is bilinear.
"""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _line(nodes, step, row, width, px, py):
    """Places px, py (width,) on the other image of a line of the box."""
    j = min(row // step, nodes.shape[1] - 2)
    t = (row - j * step) / step
    for i in range(nodes.shape[2] - 1):
        first = i * step
        if first >= width:
            break
        ax = nodes[0, j, i] + t * (nodes[0, j + 1, i] - nodes[0, j, i])
        bx = nodes[0, j, i + 1] + t * (nodes[0, j + 1, i + 1] - nodes[0, j, i + 1])
        ay = nodes[1, j, i] + t * (nodes[1, j + 1, i] - nodes[1, j, i])
        by = nodes[1, j, i + 1] + t * (nodes[1, j + 1, i + 1] - nodes[1, j, i + 1])
        dx = (bx - ax) / step
        dy = (by - ay) / step
        for k in range(min(step, width - first)):
            px[first + k] = ax + k * dx
            py[first + k] = ay + k * dy


@njit(cache=True, nogil=True, error_model="numpy")
def map_positions(nodes, step, out):
    """Places out (2, height, width) float64 of all pixels of the box: x, then y."""
    for row in range(out.shape[1]):
        _line(nodes, step, row, out.shape[2], out[0, row], out[1, row])


@njit(cache=True, nogil=True, error_model="numpy")
def _lanczos_weights(fraction, w):
    """Six normalised weights of Lanczos-3 for taps -2 ... 3 about a fraction in [0, 1)."""
    sine = math.sin(math.pi * fraction)
    third_sine = math.sin(math.pi * fraction / 3.0)
    third_cosine = math.cos(math.pi * fraction / 3.0)
    root = math.sqrt(0.75)
    total = 0.0
    for t in range(6):
        tap = t - 2
        d = fraction - tap
        if abs(d) < 1e-6:
            w[t] = 1.0
        else:
            # sin(pi d) and sin(pi d / 3) by the sine of a difference.
            upper = sine if tap % 2 == 0 else -sine
            if tap == -2:
                c, s = -0.5, -root
            elif tap == -1:
                c, s = 0.5, -root
            elif tap == 0:
                c, s = 1.0, 0.0
            elif tap == 1:
                c, s = 0.5, root
            elif tap == 2:
                c, s = -0.5, root
            else:
                c, s = -1.0, 0.0
            a = math.pi * d
            w[t] = 3.0 * upper * (third_sine * c - third_cosine * s) / (a * a)
        total += w[t]
    for t in range(6):
        w[t] /= total


@njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(plane, ix, iy, wx, wy):
    """Weighted sum of 6 x 6 pixels; taps beyond the edge take the edge's pixel."""
    ny, nx = plane.shape
    value = 0.0
    if ix >= 2 and ix < nx - 3 and iy >= 2 and iy < ny - 3:
        for t in range(6):
            line = 0.0
            for s in range(6):
                line += wx[s] * plane[iy - 2 + t, ix - 2 + s]
            value += wy[t] * line
        return value
    for t in range(6):
        v = min(max(iy - 2 + t, 0), ny - 1)
        line = 0.0
        for s in range(6):
            u = min(max(ix - 2 + s, 0), nx - 1)
            line += wx[s] * plane[v, u]
        value += wy[t] * line
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def resample(plane, nodes, step, out):
    """Lanczos-3 values of a plane (ny, nx) float32 at the pixels of the box into out (h, w).

    Pixels of the box off the plane become 0.
    """
    ny, nx = plane.shape
    height, width = out.shape
    px, py = np.empty(width), np.empty(width)
    wx, wy = np.empty(6), np.empty(6)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        for k in range(width):
            x, y = px[k], py[k]
            out[row, k] = 0.0
            if x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5:
                ix, iy = math.floor(x), math.floor(y)
                _lanczos_weights(x - ix, wx)
                _lanczos_weights(y - iy, wy)
                out[row, k] = _interpolate(plane, ix, iy, wx, wy)


@njit(cache=True, nogil=True, error_model="numpy")
def add_image(image, inverse_error, nodes, step, x0, y0, width, height, scale, sums):
    """Add one exposure to sums (2, NY, NX) float32: weight, and weight x image.

    image, inverse_error (ny, nx) float32: an exposure without holes. x0, y0: first pixel of the
    box on the brick. scale: flux of a pixel of the brick over that of one of the exposure.
    """
    ny, nx = image.shape
    px, py = np.empty(width), np.empty(width)
    wx, wy = np.empty(6), np.empty(6)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        for k in range(width):
            x, y = px[k], py[k]
            if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
                continue
            error = inverse_error[math.floor(y + 0.5), math.floor(x + 0.5)] / scale
            if error > 0.0:
                ix, iy = math.floor(x), math.floor(y)
                _lanczos_weights(x - ix, wx)
                _lanczos_weights(y - iy, wy)
                weight = error * error
                value = _interpolate(image, ix, iy, wx, wy) * scale
                sums[0, y0 + row, x0 + k] += weight
                sums[1, y0 + row, x0 + k] += weight * value


@njit(cache=True, nogil=True, error_model="numpy")
def add_exposure(
    planes, inverse_error, quality, nodes, step, x0, y0, width, height, scale, depths, sums,
    counts, masks,
):  # fmt: skip
    """Add one exposure to the sums of its band.

    planes (3, ny, nx) float32: image without holes, model and blob model. scale: flux of a pixel
    of the brick over that of one of the exposure. depths: inverse variance of a PSF, of a galaxy,
    and 1 / area of the PSF [arcsec-2].
    sums (10, NY, NX) float32: weight, weight x image, weight x model, weight x blob model, image,
    chi2, psf depth, galaxy depth, weight / area, model.
    counts (2, NY, NX) int16: exposures, usable exposures. masks (2, NY, NX) int32: and, or.
    """
    ny, nx = inverse_error.shape
    px, py = np.empty(width), np.empty(width)
    wx, wy = np.empty(6), np.empty(6)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        v = y0 + row
        for k in range(width):
            x, y = px[k], py[k]
            if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
                continue
            u = x0 + k
            near_x, near_y = math.floor(x + 0.5), math.floor(y + 0.5)
            bits = quality[near_y, near_x]
            if counts[0, v, u] == 0:
                masks[0, v, u] = bits
            else:
                masks[0, v, u] &= bits
            masks[1, v, u] |= bits
            counts[0, v, u] += 1
            ix, iy = math.floor(x), math.floor(y)
            _lanczos_weights(x - ix, wx)
            _lanczos_weights(y - iy, wy)
            pixel = _interpolate(planes[0], ix, iy, wx, wy) * scale
            model = _interpolate(planes[1], ix, iy, wx, wy) * scale
            sums[4, v, u] += pixel
            sums[9, v, u] += model
            error = inverse_error[near_y, near_x] / scale
            weight = error * error
            if weight > 0.0:
                counts[1, v, u] += 1
                sums[0, v, u] += weight
                sums[1, v, u] += weight * pixel
                sums[2, v, u] += weight * model
                sums[3, v, u] += weight * scale * _interpolate(planes[2], ix, iy, wx, wy)
                sums[5, v, u] += weight * (pixel - model) * (pixel - model)
                sums[6, v, u] += depths[0]
                sums[7, v, u] += depths[1]
                sums[8, v, u] += weight * depths[2]


@njit(cache=True, nogil=True, error_model="numpy")
def add_detection(
    flux, share, unit_flux, unit_weight, inverse_error, core, ramp, nodes, step, x0, y0, width,
    height, total, weights, saturated,
):  # fmt: skip
    """Add one smoothed exposure to the detection maps of its band by the nearest pixel.

    flux, share (ny, nx) float32: smoothed image and smoothed map of usable pixels, which become
    fluxes and inverse variances with unit_flux and unit_weight. ramp: pixels of the edge of the
    exposure over which its weight rises. core (ny, nx) bool: saturated. total, weights (NY, NX)
    float32, saturated (NY, NX) bool: the sums.
    """
    ny, nx = flux.shape
    px, py = np.empty(width), np.empty(width)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        for k in range(width):
            x, y = px[k], py[k]
            if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
                continue
            ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
            if core[iy, ix]:
                saturated[y0 + row, x0 + k] = True
            if inverse_error[iy, ix] > 0.0:
                edge_x = min(1.0, (min(ix, nx - 1 - ix) + 1.0) / (ramp + 1.0))
                edge_y = min(1.0, (min(iy, ny - 1 - iy) + 1.0) / (ramp + 1.0))
                weight = share[iy, ix] * unit_weight * edge_x * edge_y
                total[y0 + row, x0 + k] += flux[iy, ix] * unit_flux * weight
                weights[y0 + row, x0 + k] += weight


@njit(cache=True, nogil=True, error_model="numpy")
def collect(values, inverse_error, quality, norm, nodes, step, x0, y0, sums, extremes, count, bits):
    """Add one blurred exposure to the sums and extremes of its band.

    values (h, w) float32 at the pixels of the box; weights are (inverse_error / norm)^2 of the
    nearest pixel. sums (2, NY, NX) float32: weight, weight x value. extremes (4, NY, NX) float32:
    smallest and largest value, and their weights; count (NY, NX) int16: usable values. Both may
    have no pixels, if they are not wanted. bits (NY, NX) int32: quality of any exposure.
    """
    ny, nx = inverse_error.shape
    height, width = values.shape
    px, py = np.empty(width), np.empty(width)
    wanted = count.size > 0
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        v = y0 + row
        for k in range(width):
            x, y = px[k], py[k]
            if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
                continue
            u = x0 + k
            ix, iy = math.floor(x + 0.5), math.floor(y + 0.5)
            bits[v, u] |= quality[iy, ix]
            error = inverse_error[iy, ix] / norm
            if not error > 0.0:
                continue
            weight = np.float32(error * error)
            value = values[row, k]
            sums[0, v, u] += weight
            sums[1, v, u] += weight * value
            if wanted:
                if count[v, u] == 0 or value < extremes[0, v, u]:
                    extremes[0, v, u] = value
                    extremes[2, v, u] = weight
                if count[v, u] == 0 or value > extremes[1, v, u]:
                    extremes[1, v, u] = value
                    extremes[3, v, u] = weight
                count[v, u] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def compare(
    values, inverse_error, norm, noise, wings, limits, veto, nodes, step, x0, y0, sums, extremes,
    count, seeds, significance,
):  # fmt: skip
    """Compare one exposure with the others of its band; returns which seeds there are.

    noise: typical error of its values; wings: part of the others' light that is uncertain.
    limits: significance and relative difference of seeds, fewest values without extremes.
    veto (NY, NX) bool: no seeds. seeds (h, w) uint8: 1 above, 2 below the others; significance
    (h, w) float32. Returns the bits that occur in seeds.
    """
    ny, nx = inverse_error.shape
    height, width = values.shape
    px, py = np.empty(width), np.empty(width)
    wanted = count.size > 0
    seen = 0
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        v = y0 + row
        for k in range(width):
            seeds[row, k] = 0
            significance[row, k] = 0.0
            x, y = px[k], py[k]
            if not (x >= -0.5 and x < nx - 0.5 and y >= -0.5 and y < ny - 0.5):
                continue
            error = inverse_error[math.floor(y + 0.5), math.floor(x + 0.5)] / norm
            if not error > 0.0:
                continue
            u = x0 + k
            value, weight = values[row, k], np.float32(error * error)
            other_weight = np.float64(sums[0, v, u]) - weight
            other_sum = np.float64(sums[1, v, u]) - weight * value
            if wanted and count[v, u] >= limits[2]:
                for e in range(2):
                    # The exposure itself is out already.
                    if extremes[e, v, u] != value:
                        other_weight -= extremes[2 + e, v, u]
                        other_sum -= extremes[2 + e, v, u] * extremes[e, v, u]
            # What rounding leaves of the weight of a lonely exposure is none.
            if not other_weight > 1e-5 * weight:
                continue
            other = other_sum / other_weight
            difference = value - other
            wing = wings * max(other, 0.0)
            sigma = difference / math.sqrt(1.0 / weight + 1.0 / other_weight + wing * wing)
            significance[row, k] = sigma
            if veto[v, u]:
                continue
            ratio = difference / max(other, noise)
            if sigma > limits[0] and ratio > limits[1]:
                seeds[row, k] = 1
                seen |= 1
            elif -sigma > limits[0] and -ratio > limits[1]:
                seeds[row, k] = 2
                seen |= 2
    return seen


@njit(cache=True, nogil=True, error_model="numpy")
def mark(mask, x0, y0, nodes, step, bit, out):
    """Give out (h, w) uint8 the bit at pixels whose nearest one of mask (ny, nx) bool is set.

    nodes: of a map from the pixels of out; x0, y0: first pixel of mask in its target.
    """
    ny, nx = mask.shape
    height, width = out.shape
    px, py = np.empty(width), np.empty(width)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        for k in range(width):
            u = math.floor(px[k] + 0.5) - x0
            v = math.floor(py[k] + 0.5) - y0
            if u >= 0 and v >= 0 and u < nx and v < ny and mask[v, u]:
                out[row, k] = bit


@njit(cache=True, nogil=True, error_model="numpy")
def nearest_numbers(numbers, nodes, step, out):
    """Numbers (ny, nx) int32 of the nearest pixels into out (h, w); -1 beyond the edge."""
    ny, nx = numbers.shape
    height, width = out.shape
    px, py = np.empty(width), np.empty(width)
    for row in range(height):
        _line(nodes, step, row, width, px, py)
        for k in range(width):
            u = math.floor(px[k] + 0.5)
            v = math.floor(py[k] + 0.5)
            out[row, k] = numbers[v, u] if u >= 0 and v >= 0 and u < nx and v < ny else -1

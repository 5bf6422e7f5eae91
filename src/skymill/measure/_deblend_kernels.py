"""Numba loops of `deblend`: templates, their spectra, and the pixels of each child.

A template is a square of (2 r + 1)^2 pixels around its peak, stored flat; pixels outside of the
parent are zero.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _towards(d, r):
    """Coordinate, along a side of ring r, of the neighbour one ring further in: d (r - 1)/r."""
    a = abs(d)
    if 2 * a > r or (2 * a == r and a % 2 == 1):
        a -= 1
    return a if d >= 0 else -a


@njit(cache=True, nogil=True, error_model="numpy")
def _inner(dx, dy, radius):
    """The neighbour of offset (dx, dy) on the way to the centre."""
    far = max(abs(dx), abs(dy))
    return (_towards(dy, far) + radius) * (2 * radius + 1) + _towards(dx, far) + radius


@njit(cache=True, nogil=True, error_model="numpy")
def _symmetric(image, inside, cx, cy, dx, dy):
    """The lower of a pixel and its mirror image; zero outside of the parent."""
    ny, nx = image.shape
    x, y, u, v = cx + dx, cy + dy, cx - dx, cy - dy
    if x < 0 or y < 0 or x >= nx or y >= ny or not inside[y, x]:
        return np.float32(0.0)
    value = max(image[y, x], np.float32(0.0))
    if u < 0 or v < 0 or u >= nx or v >= ny or not inside[v, u]:
        # A blend cut by the edge of the parent: there is no mirror to compare with.
        return value if (u < 0 or v < 0 or u >= nx or v >= ny) else np.float32(0.0)
    return min(value, max(image[v, u], np.float32(0.0)))


@njit(cache=True, nogil=True, error_model="numpy")
def template_radii(image, inside, cx, cy, limit, max_radius, radii):
    """Radius at which each peak's symmetric, monotonic template has fallen below ``limit``."""
    for k in range(cx.size):
        size = 2 * max_radius[k] + 1
        work = np.zeros(size * size, np.float32)
        centre = max_radius[k] * size + max_radius[k]
        work[centre] = max(image[cy[k], cx[k]], np.float32(0.0))
        radii[k] = max_radius[k]
        for r in range(1, max_radius[k] + 1):
            brightest = np.float32(0.0)
            for side in range(8 * r):
                leg, step = side // (2 * r), side % (2 * r)
                if leg == 0:
                    dx, dy = -r + step, -r
                elif leg == 1:
                    dx, dy = r, -r + step
                elif leg == 2:
                    dx, dy = r - step, r
                else:
                    dx, dy = -r, r - step
                value = _symmetric(image, inside, cx[k], cy[k], dx, dy)
                value = min(value, work[_inner(dx, dy, max_radius[k])])
                work[(dy + max_radius[k]) * size + dx + max_radius[k]] = value
                brightest = max(brightest, value)
            if brightest < limit:
                radii[k] = r
                break


@njit(cache=True, nogil=True, error_model="numpy")
def _clear_beyond(template, radius, r, x0, y0, x1, y1):
    """Zero what lies outside of ring r, at offsets x0 .. x1, y0 .. y1 from the peak."""
    size = 2 * radius + 1
    for dy in range(y0, y1 + 1):
        row = (dy + radius) * size + radius
        if abs(dy) > r:
            template[row + x0 : row + x1 + 1] = np.float32(0.0)
            continue
        for dx in range(x0, -r):
            template[row + dx] = np.float32(0.0)
        for dx in range(r + 1, x1 + 1):
            template[row + dx] = np.float32(0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _limit_ring(template, radius, r, x0, y0, x1, y1):
    """Make ring r nowhere brighter than the one inside of it; whether it still has light."""
    size = 2 * radius + 1
    bright = False
    for sign in (-1, 1):
        if y0 <= sign * r <= y1:
            row = (sign * r + radius) * size + radius
            inner = row - sign * size
            for dx in range(max(-r, x0), min(r, x1) + 1):
                value = min(template[row + dx], template[inner + _towards(dx, r)])
                template[row + dx] = value
                bright |= value > 0.0
        if x0 <= sign * r <= x1:
            column = radius + sign * r
            for dy in range(max(-r + 1, y0), min(r - 1, y1) + 1):
                p = (dy + radius) * size + column
                q = (_towards(dy, r) + radius) * size + column - sign
                value = min(template[p], template[q])
                template[p] = value
                bright |= value > 0.0
    return bright


@njit(cache=True, nogil=True, error_model="numpy")
def _symmetrise(template, radius, hx, hy):
    """The lower of each pixel and its mirror image, within hx, hy of the peak."""
    size = 2 * radius + 1
    n = size * size
    for dy in range(-hy, 1):
        row = (dy + radius) * size + radius
        for dx in range(-hx, hx + 1 if dy < 0 else 0):
            p, q = row + dx, n - 1 - row - dx
            low = min(template[p], template[q])
            template[p], template[q] = low, low


@njit(cache=True, nogil=True, error_model="numpy")
def _regularise(template, radius, symmetric, x0, y0, x1, y1):
    """Make a template symmetric, monotonic and of unit peak in place.

    It is zero beyond the offsets x0 .. x1, y0 .. y1 from the peak. Returns the ring beyond which
    nothing is left.
    """
    size = 2 * radius + 1
    if symmetric:
        hx, hy = min(-x0, x1), min(-y0, y1)
        for dy in range(y0, y1 + 1):
            row = (dy + radius) * size + radius
            if abs(dy) > hy:
                template[row + x0 : row + x1 + 1] = np.float32(0.0)
            else:
                template[row + x0 : row - hx] = np.float32(0.0)
                template[row + hx + 1 : row + x1 + 1] = np.float32(0.0)
        x0, y0, x1, y1 = -hx, -hy, hx, hy
        _symmetrise(template, radius, hx, hy)
    for dy in range(y0, y1 + 1):
        row = (dy + radius) * size + radius
        for dx in range(x0, x1 + 1):
            template[row + dx] = max(template[row + dx], np.float32(0.0))
    last = radius
    for r in range(1, radius + 1):
        if not _limit_ring(template, radius, r, x0, y0, x1, y1):
            _clear_beyond(template, radius, r, x0, y0, x1, y1)
            last = r
            break
    centre = (size * size) // 2
    peak = template[centre]
    if peak <= 0.0:
        _clear_beyond(template, radius, -1, x0, y0, x1, y1)
        template[centre] = np.float32(1.0)
        return 0
    for dy in range(max(-last, y0), min(last, y1) + 1):
        row = (dy + radius) * size + radius
        for dx in range(max(-last, x0), min(last, x1) + 1):
            template[row + dx] /= peak
    return last


@njit(cache=True, nogil=True, error_model="numpy")
def _initial(image, inside, cx, cy, radius, template):
    ny, nx = image.shape
    size = 2 * radius + 1
    x0, y0 = -min(radius, cx), -min(radius, cy)
    x1, y1 = min(radius, nx - 1 - cx), min(radius, ny - 1 - cy)
    for dy in range(y0, y1 + 1):
        for dx in range(x0, x1 + 1):
            p = (dy + radius) * size + dx + radius
            template[p] = _symmetric(image, inside, cx, cy, dx, dy)
    return _regularise(template, radius, False, x0, y0, x1, y1)


@njit(cache=True, nogil=True, error_model="numpy")
def _add(template, radius, support, cx, cy, scale, total):
    """Total += scale * template within ``support`` of the peak, where they overlap."""
    ny, nx = total.shape
    size = 2 * radius + 1
    for v in range(max(0, cy - support), min(ny, cy + support + 1)):
        row = (v - cy + radius) * size + radius - cx
        for u in range(max(0, cx - support), min(nx, cx + support + 1)):
            total[v, u] += scale * template[row + u]


@njit(cache=True, nogil=True, error_model="numpy")
def _take_share(image, inside, total, cx, cy, radius, support, spectrum, factor, template, fresh):
    """Add a child's share of one band, times ``factor``, to its fresh template.

    Returns the products of the template with the share and with itself.
    """
    ny, nx = image.shape
    size = 2 * radius + 1
    s_td, s_tt = 0.0, 0.0
    for v in range(max(0, cy - support), min(ny, cy + support + 1)):
        row = (v - cy + radius) * size + radius - cx
        for u in range(max(0, cx - support), min(nx, cx + support + 1)):
            t = template[row + u]
            m = spectrum * t
            if m > 0.0 and inside[v, u]:
                share = image[v, u] * m / total[v, u]
                s_td += t * share
                s_tt += t * t
                fresh[row + u] += factor * share
    return s_td, s_tt


@njit(cache=True, nogil=True, error_model="numpy")
def _take_rest(image, inside, total, cx, cy, radius, factor, fresh):
    """Add the pixels that no model covers, times ``factor``, to a fresh template."""
    ny, nx = image.shape
    size = 2 * radius + 1
    for v in range(max(0, cy - radius), min(ny, cy + radius + 1)):
        row = (v - cy + radius) * size + radius - cx
        for u in range(max(0, cx - radius), min(nx, cx + radius + 1)):
            if total[v, u] <= 0.0 and inside[v, u]:
                fresh[row + u] += factor * image[v, u]


@njit(cache=True, nogil=True, error_model="numpy")
def factorise(
    images, weights, white, inside, cx, cy, radii, first, iterations, relaxed, templates, spectra
):
    """Alternate between the pixels, the spectra and the templates of one parent's children.

    ``images`` (bands, ny, nx) are the parent's pixels, ``weights`` (bands) the inverse variance,
    ``white`` the weighted sum of the bands. Each step shares every pixel among the children in
    proportion to their models, then takes each child's spectrum and its symmetric, monotonic
    template from its share; in the ``relaxed`` steps at the end it need not be symmetric. Child 0
    keeps a floor inside the whole parent, so that no flux is lost.
    """
    n_band, ny, nx = images.shape
    n = cx.size
    support = np.empty(n, np.int64)
    for k in range(n):
        size = 2 * radii[k] + 1
        t = templates[first[k] : first[k] + size * size]
        support[k] = _initial(white, inside, cx[k], cy[k], radii[k], t)
        for b in range(n_band):
            spectra[k, b] = max(images[b, cy[k], cx[k]], np.float32(1e-6))
    total = np.empty((ny, nx), np.float32)
    fresh = np.zeros(templates.size, np.float32)
    for step in range(iterations + relaxed):
        new_spectra = np.zeros((n, n_band), np.float32)
        for b in range(n_band):
            total[:] = 0.0
            for k in range(n):
                t = templates[first[k] : first[k] + (2 * radii[k] + 1) ** 2]
                _add(t, radii[k], support[k], cx[k], cy[k], spectra[k, b], total)
            for k in range(n):
                r, s = radii[k], spectra[k, b]
                t = templates[first[k] : first[k] + (2 * r + 1) ** 2]
                f = fresh[first[k] : first[k] + (2 * r + 1) ** 2]
                factor = weights[b] * s
                s_td, s_tt = _take_share(
                    images[b], inside, total, cx[k], cy[k], r, support[k], s, factor, t, f
                )
                if k == 0:
                    _take_rest(images[b], inside, total, cx[k], cy[k], r, factor, f)
                if s_tt > 0.0:
                    new_spectra[k, b] = s_td / s_tt
        for k in range(n):
            r, size = radii[k], 2 * radii[k] + 1
            t = templates[first[k] : first[k] + size * size]
            f = fresh[first[k] : first[k] + size * size]
            norm = 0.0
            for b in range(n_band):
                norm += weights[b] * spectra[k, b] * spectra[k, b]
            reach = r if k == 0 else support[k]
            x0, y0 = -min(reach, cx[k]), -min(reach, cy[k])
            x1, y1 = min(reach, nx - 1 - cx[k]), min(reach, ny - 1 - cy[k])
            for j in range(r + y0, r + y1 + 1):
                for i in range(j * size + r + x0, j * size + r + x1 + 1):
                    t[i] = f[i] / norm if norm > 0.0 else np.float32(0.0)
                    f[i] = np.float32(0.0)
            support[k] = _regularise(t, r, step < iterations, x0, y0, x1, y1)
            for b in range(n_band):
                spectra[k, b] = max(new_spectra[k, b], np.float32(1e-6))


@njit(cache=True, nogil=True, error_model="numpy")
def finish(inside, cx, cy, radii, first, templates):
    """Cut templates to the parent; child 0 gets a floor wherever the parent is."""
    ny, nx = inside.shape
    for k in range(cx.size):
        r, size = radii[k], 2 * radii[k] + 1
        for j in range(size):
            for i in range(size):
                v, u = cy[k] - r + j, cx[k] - r + i
                p = first[k] + j * size + i
                if v < 0 or u < 0 or v >= ny or u >= nx or not inside[v, u]:
                    templates[p] = 0.0
                elif k == 0:
                    templates[p] = max(templates[p], np.float32(1e-6))


@njit(cache=True, nogil=True, error_model="numpy")
def footprint_templates(labels, label, x0, y0, x1, y1, first, templates):
    """Templates of sources that are alone: one inside of the footprint."""
    for k in range(label.size):
        p = first[k]
        for y in range(y0[k], y1[k]):
            for x in range(x0[k], x1[k]):
                templates[p] = 1.0 if labels[y, x] == label[k] else 0.0
                p += 1


@njit(cache=True, nogil=True, error_model="numpy")
def model_total(x0, y0, x1, y1, first, spectrum, templates, total):
    """Sum of all children's models in one band; zero where there is no source."""
    ny, nx = total.shape
    for k in range(x0.size):
        width = x1[k] - x0[k]
        for y in range(max(0, y0[k]), min(ny, y1[k])):
            for x in range(max(0, x0[k]), min(nx, x1[k])):
                t = templates[first[k] + (y - y0[k]) * width + x - x0[k]]
                total[y, x] += spectrum[k] * t


@njit(cache=True, nogil=True, error_model="numpy")
def cut_children(
    image,
    variance,
    mask,
    noise,
    total,
    index,
    centre_x,
    centre_y,
    x0,
    y0,
    x1,
    y1,
    first,
    spectrum,
    templates,
    outside_bit,
    size,
    out_image,
    out_variance,
    out_mask,
):
    """Stamp of each child: its share inside of its template, noise in place of other sources.

    The stamps lie one above the other in arrays of shape (n size, size).
    """
    ny, nx = image.shape
    half = size // 2
    for n in range(index.size):
        k = index[n]
        left, down = centre_x[k] - half, centre_y[k] - half
        first_i, last_i = max(0, -left), min(size, nx - left)
        for j in range(size):
            y, row = down + j, n * size + j
            if y < 0 or y >= ny or last_i <= first_i:
                out_image[row], out_variance[row], out_mask[row] = 0.0, 0.0, outside_bit
                continue
            for i in range(first_i):
                out_image[row, i], out_variance[row, i], out_mask[row, i] = 0.0, 0.0, outside_bit
            for i in range(last_i, size):
                out_image[row, i], out_variance[row, i], out_mask[row, i] = 0.0, 0.0, outside_bit
            inside = slice(left + first_i, left + last_i)
            out_variance[row, first_i:last_i] = variance[y, inside]
            out_mask[row, first_i:last_i] = mask[y, inside]
            _choose(
                total[y, inside], image[y, inside], noise[y, inside], out_image[row, first_i:last_i]
            )
        # Its own share, where its template is.
        width = x1[k] - x0[k]
        u0, u1 = max(x0[k], left + first_i), min(x1[k], left + last_i)
        for y in range(max(y0[k], down, 0), min(y1[k], down + size, ny)):
            row = n * size + y - down
            base = first[k] + (y - y0[k]) * width - x0[k]
            for x in range(u0, u1):
                t = total[y, x]
                if t > 0.0:
                    share = min(spectrum[k] * templates[base + x] / t, np.float32(1.0))
                    # The noise that the neighbours' share takes away is put back.
                    lost = np.float32(np.sqrt(max(1.0 - share * share, 0.0)))
                    out_image[row, x - left] = share * image[y, x] + lost * noise[y, x]


@njit(cache=True, nogil=True, error_model="numpy")
def _choose(total, image, noise, out):
    """The image where there is no source, else noise."""
    for i in range(out.size):
        out[i] = image[i] if total[i] <= 0.0 else noise[i]

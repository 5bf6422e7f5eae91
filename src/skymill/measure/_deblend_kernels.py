"""Numba loops of `deblend`: templates, their spectra, and the pixels of each child.

A template is a square of (2 r + 1)^2 pixels around its peak, stored flat; pixels outside of the
parent are zero.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _sign(v):
    return 1 if v > 0 else (-1 if v < 0 else 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _inner(dx, dy, radius):
    """The neighbour of offset (dx, dy) on the way to the centre."""
    far = max(abs(dx), abs(dy))
    ix = dx - _sign(dx) if abs(dx) == far else int(np.round(dx * (far - 1.0) / far))
    iy = dy - _sign(dy) if abs(dy) == far else int(np.round(dy * (far - 1.0) / far))
    return (iy + radius) * (2 * radius + 1) + ix + radius


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
def _regularise(template, radius, symmetric):
    """Make a template symmetric, monotonic and of unit peak in place."""
    size = 2 * radius + 1
    n = size * size
    if symmetric:
        for i in range(n // 2):
            low = min(template[i], template[n - 1 - i])
            template[i], template[n - 1 - i] = low, low
    for i in range(n):
        template[i] = max(template[i], np.float32(0.0))
    for r in range(1, radius + 1):
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
            p = (dy + radius) * size + dx + radius
            template[p] = min(template[p], template[_inner(dx, dy, radius)])
    peak = template[n // 2]
    if peak > 0.0:
        for i in range(n):
            template[i] /= peak
    else:
        for i in range(n):
            template[i] = np.float32(0.0)
        template[n // 2] = np.float32(1.0)
    return peak


@njit(cache=True, nogil=True, error_model="numpy")
def _initial(image, inside, cx, cy, radius, template):
    size = 2 * radius + 1
    for j in range(size):
        for i in range(size):
            template[j * size + i] = _symmetric(image, inside, cx, cy, i - radius, j - radius)
    return _regularise(template, radius, False)


@njit(cache=True, nogil=True, error_model="numpy")
def _add(template, radius, cx, cy, scale, total):
    """Total += scale * template where they overlap."""
    ny, nx = total.shape
    size = 2 * radius + 1
    for j in range(max(0, radius - cy), min(size, ny - cy + radius)):
        for i in range(max(0, radius - cx), min(size, nx - cx + radius)):
            total[cy - radius + j, cx - radius + i] += scale * template[j * size + i]


@njit(cache=True, nogil=True, error_model="numpy")
def factorise(images, weights, white, inside, cx, cy, radii, first, iterations, templates, spectra):
    """Alternate between the pixels, the spectra and the templates of one parent's children.

    ``images`` (bands, ny, nx) are the parent's pixels, ``weights`` (bands) the inverse variance,
    ``white`` the weighted sum of the bands. Each step shares every pixel among the children in
    proportion to their models, then takes each child's spectrum and its symmetric, monotonic
    template from its share. Child 0 keeps a floor inside the whole parent, so that no flux is
    lost.
    """
    n_band, ny, nx = images.shape
    n = cx.size
    for k in range(n):
        size = 2 * radii[k] + 1
        t = templates[first[k] : first[k] + size * size]
        _initial(white, inside, cx[k], cy[k], radii[k], t)
        for b in range(n_band):
            spectra[k, b] = max(images[b, cy[k], cx[k]], np.float32(1e-6))
    total = np.empty((ny, nx), np.float32)
    fresh = np.empty(templates.size, np.float32)
    for _ in range(iterations):
        fresh[:] = 0.0
        new_spectra = np.zeros((n, n_band), np.float32)
        for b in range(n_band):
            total[:] = 0.0
            for k in range(n):
                size = 2 * radii[k] + 1
                t = templates[first[k] : first[k] + size * size]
                _add(t, radii[k], cx[k], cy[k], spectra[k, b], total)
            for k in range(n):
                r, size = radii[k], 2 * radii[k] + 1
                t = templates[first[k] : first[k] + size * size]
                f = fresh[first[k] : first[k] + size * size]
                s = spectra[k, b]
                s_td, s_tt = 0.0, 0.0
                for j in range(max(0, r - cy[k]), min(size, ny - cy[k] + r)):
                    for i in range(max(0, r - cx[k]), min(size, nx - cx[k] + r)):
                        v, u = cy[k] - r + j, cx[k] - r + i
                        if not inside[v, u]:
                            continue
                        m = s * t[j * size + i]
                        if k == 0 and total[v, u] <= 0.0:
                            share = images[b, v, u]
                        elif m > 0.0:
                            share = images[b, v, u] * m / total[v, u]
                        else:
                            continue
                        s_td += t[j * size + i] * share
                        s_tt += t[j * size + i] * t[j * size + i]
                        f[j * size + i] += weights[b] * s * share
                if s_tt > 0.0:
                    new_spectra[k, b] = s_td / s_tt
        for k in range(n):
            size = 2 * radii[k] + 1
            t = templates[first[k] : first[k] + size * size]
            f = fresh[first[k] : first[k] + size * size]
            norm = 0.0
            for b in range(n_band):
                norm += weights[b] * spectra[k, b] * spectra[k, b]
            for i in range(size * size):
                t[i] = f[i] / norm if norm > 0.0 else np.float32(0.0)
            _regularise(t, radii[k], True)
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
        width = x1[k] - x0[k]
        for j in range(size):
            y = centre_y[k] - half + j
            for i in range(size):
                x = centre_x[k] - half + i
                row = n * size + j
                if x < 0 or y < 0 or x >= nx or y >= ny:
                    out_image[row, i] = 0.0
                    out_variance[row, i] = 0.0
                    out_mask[row, i] = outside_bit
                    continue
                out_variance[row, i] = variance[y, x]
                m = mask[y, x]
                t = total[y, x]
                if t <= 0.0:
                    out_image[row, i] = image[y, x]
                    out_mask[row, i] = m
                    continue
                own = np.float32(0.0)
                if x >= x0[k] and x < x1[k] and y >= y0[k] and y < y1[k]:
                    own = spectrum[k] * templates[first[k] + (y - y0[k]) * width + x - x0[k]]
                share = min(own / t, np.float32(1.0))
                # The noise that the neighbours' share takes away is put back.
                lost = np.float32(np.sqrt(max(1.0 - share * share, 0.0)))
                out_image[row, i] = share * image[y, x] + lost * noise[y, x]
                out_mask[row, i] = m

"""Effects of the CCD and its electronics: numba only, one family, self-contained."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def add_shot_noise(image, normal):
    """Poisson noise by the first Cornish-Fisher terms: mean + sqrt(mean) z + (z^2 - 1) / 6."""
    ny, nx = image.shape
    for j in range(ny):
        row, z = image[j], normal[j]
        for i in range(nx):
            mean = max(row[i], np.float32(0.0))
            value = (
                mean + math.sqrt(mean) * z[i] + (z[i] * z[i] - np.float32(1.0)) / np.float32(6.0)
            )
            row[i] = max(value, np.float32(0.0)) if mean > 0.0 else np.float32(0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def brighter_fatter(image, kernel, out):
    """Charge repelled by its neighbours: Q + 1/2 div(Q grad(K * Q)); conserves charge."""
    ny, nx = image.shape
    r = kernel.shape[0] // 2
    potential = np.zeros((ny, nx), np.float32)
    # Beyond the edge the charge goes on as at the edge.
    for j in range(ny):
        row = potential[j]
        for dj in range(-r, r + 1):
            src = image[min(max(j + dj, 0), ny - 1)]
            for di in range(-r, r + 1):
                w = kernel[dj + r, di + r]
                lo, hi = max(0, -di), min(nx, nx - di)
                a = row[lo:hi]
                b = src[lo + di : hi + di]
                for i in range(hi - lo):
                    a[i] += w * b[i]
                for i in range(lo):
                    row[i] += w * src[0]
                for i in range(nx - hi):
                    row[hi + i] += w * src[nx - 1]
    for j in range(ny):
        for i in range(nx):
            out[j, i] = image[j, i]
    quarter = np.float32(0.25)
    for j in range(ny):
        for i in range(nx - 1):
            move = (
                quarter * (image[j, i] + image[j, i + 1]) * (potential[j, i] - potential[j, i + 1])
            )
            out[j, i] -= move
            out[j, i + 1] += move
    for j in range(ny - 1):
        for i in range(nx):
            move = (
                quarter * (image[j, i] + image[j + 1, i]) * (potential[j, i] - potential[j + 1, i])
            )
            out[j, i] -= move
            out[j + 1, i] += move


@njit(cache=True, nogil=True, error_model="numpy")
def bleed(image, full_well):
    """Spill charge above the full well (nx,) up and down its column; return the full pixels."""
    ny, nx = image.shape
    full = 0
    excess = np.zeros(ny)
    for i in range(nx):
        well = full_well[i]
        over = False
        for j in range(ny):
            excess[j] = max(image[j, i] - well, 0.0)
            over = over or excess[j] > 0.0
        if not over:
            continue
        for j in range(ny):
            image[j, i] = min(image[j, i], well)
        # Half of each excess goes up, half goes down; what reaches an end is lost.
        for direction in range(2):
            carry = 0.0
            for n in range(ny):
                j = n if direction == 0 else ny - 1 - n
                take = min(max(well - image[j, i], 0.0), carry)
                image[j, i] += take
                carry += 0.5 * excess[j] - take
        for j in range(ny):
            if image[j, i] >= well * 0.999:
                full += 1
    return full


@njit(cache=True, nogil=True, error_model="numpy")
def cosmic_rays(image, x, y, angle, length, charge, wander, normal):
    """Tracks: charge electrons per pixel of path, wander radians of turning per step."""
    ny, nx = image.shape
    used = 0
    for t in range(x.size):
        px, py, direction = x[t], y[t], angle[t]
        steps = max(1, int(length[t] * 4.0))
        each = charge[t] * max(length[t], 0.25) / steps
        for _ in range(steps):
            a = normal[used % normal.size]
            b = normal[(used + 1) % normal.size]
            c = normal[(used + 2) % normal.size]
            used += 3
            i = math.floor(px + 0.35 * a + 0.5)
            j = math.floor(py + 0.35 * b + 0.5)
            if 0 <= i < nx and 0 <= j < ny:
                image[j, i] += max(each * (1.0 + 0.3 * b), 0.0)
            direction += wander[t] * c
            px += 0.25 * math.cos(direction)
            py += 0.25 * math.sin(direction)


@njit(cache=True, nogil=True, error_model="numpy")
def add_line(image, x0, y0, direction, peak, sigma):
    """A straight trail of Gaussian profile through (x0, y0) [pixel]."""
    ny, nx = image.shape
    s, c = math.sin(direction), math.cos(direction)
    for j in range(ny):
        for i in range(nx):
            d = ((i - x0) * s - (j - y0) * c) / sigma
            if d * d < 30.0:
                image[j, i] += peak * math.exp(-0.5 * d * d)


@njit(cache=True, nogil=True, error_model="numpy")
def to_adu(electrons, gain, inverse, out):
    """ADU above the bias as measured: electrons / gain through the non-linearity."""
    ny, nx = electrons.shape
    last = inverse.size - 2
    inv_gain = np.float32(1.0 / gain)
    for j in range(ny):
        row, target = electrons[j], out[j]
        for i in range(nx):
            value = row[i] * inv_gain
            k = int(value)
            if k < 0:
                target[i] = value
            elif k > last:
                target[i] = inverse[last + 1]
            else:
                f = value - np.float32(k)
                target[i] = inverse[k] + f * (inverse[k + 1] - inverse[k])


@njit(cache=True, nogil=True, error_model="numpy")
def add_crosstalk(victim, source, flip_x, flip_y, coefficient, onset, p0, p1, p2):
    """Add the leak of a source amplifier, pixels matched by their time of read-out.

    It is linear up to the onset; above, the polynomial of the excess over the onset is added.
    """
    ny, nx = victim.shape
    for j in range(ny):
        src = source[ny - 1 - j] if flip_y else source[j]
        row = victim[j]
        if flip_x:
            for i in range(nx):
                s = src[nx - 1 - i]
                if s > onset:
                    d = s - onset
                    row[i] += coefficient * onset + d * (p0 + d * (p1 + d * p2))
                else:
                    row[i] += coefficient * s
        else:
            for i in range(nx):
                s = src[i]
                if s > onset:
                    d = s - onset
                    row[i] += coefficient * onset + d * (p0 + d * (p1 + d * p2))
                else:
                    row[i] += coefficient * s


@njit(cache=True, nogil=True, error_model="numpy")
def quantise(values, normal, read_noise, out):
    """Add the read noise [ADU], round and clip to 16 bits."""
    ny, nx = values.shape
    for j in range(ny):
        row, z, target = values[j], normal[j], out[j]
        for i in range(nx):
            v = row[i] + read_noise * z[i] + np.float32(0.5)
            v = min(max(v, np.float32(0.0)), np.float32(65535.0))
            target[i] = np.uint16(v)

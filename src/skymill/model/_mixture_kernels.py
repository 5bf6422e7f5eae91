"""Numba loops of `galaxy`: mixtures of concentric Gaussians that describe PSF stamps."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_FAST = {"reassoc", "contract", "arcp", "nsz"}


@njit(cache=True, nogil=True, error_model="numpy")
def _first_guess(stamp, weight, cov):
    """Widths from the area above half maximum, 2 pi ln 2 sigma2 for a Gaussian."""
    half = stamp.shape[0] // 2
    n_component = weight.size
    area = 0.0
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            if stamp[j, i] > 0.5 * stamp[half, half]:
                area += 1.0
    width = max(area / (2.0 * math.pi * math.log(2.0)), 0.3)
    for c in range(n_component):
        weight[c] = 0.6 if c == 0 else 0.4 / (n_component - 1)
        cov[c, 0] = width * (0.8 if c == 0 else 1.8 * 3.0 ** (c - 1))
        cov[c, 1], cov[c, 2] = cov[c, 0], 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse(weight, cov, inv):
    """Rows (a, 2 b, c, height) of each component: height exp(-(a x2 + 2 b x y + c y2)/2)."""
    for c in range(weight.size):
        det = cov[c, 0] * cov[c, 1] - cov[c, 2] * cov[c, 2]
        inv[c, 0], inv[c, 1], inv[c, 2] = cov[c, 1] / det, -2.0 * cov[c, 2] / det, cov[c, 0] / det
        inv[c, 3] = weight[c] / (2.0 * math.pi * math.sqrt(det))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _exp(t):
    """exp(t) for -25 <= t <= 0 to 1e-8: Taylor series of t/64, squared six times."""
    z = max(t, -25.0) * 0.015625
    p = 1.0 + z * (
        1.0 + z * (0.5 + z * (1.0 / 6.0 + z * (1.0 / 24.0 + z * (1.0 / 120.0 + z / 720.0))))
    )
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p * p


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _row(out, half, a, b_dy, c_dy2, height):
    """A component along a row of pixels."""
    for i in range(out.size):
        dx = i - half
        out[i] = height * _exp(-0.5 * ((a * dx + b_dy) * dx + c_dy2))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _row_moments(values, norm, share, half):
    """Sums of values share/norm times 1, dx, dx2."""
    s0, s1, s2 = 0.0, 0.0, 0.0
    for i in range(values.size):
        dx = i - half
        r = values[i] * share[i] / norm[i]
        s0 += r
        s1 += r * dx
        s2 += r * dx * dx
    return s0, s1, s2


@njit(cache=True, nogil=True, error_model="numpy")
def _em_step(stamp, weight, cov, inv, share, norm, values, new):
    """One step of expectation maximisation on the pixels above 1e-5 of the peak."""
    size = stamp.shape[0]
    half = size // 2
    floor = 1e-5 * stamp[half, half]
    n_component = weight.size
    _inverse(weight, cov, inv)
    new[:, :] = 0.0
    for j in range(size):
        dy = j - half
        norm[:] = 1e-300
        for i in range(size):
            values[i] = stamp[j, i] if stamp[j, i] > floor else 0.0
        for c in range(n_component):
            _row(share[c], half, inv[c, 0], inv[c, 1] * dy, inv[c, 2] * dy * dy, inv[c, 3])
            for i in range(size):
                norm[i] += share[c, i]
        for c in range(n_component):
            s0, s1, s2 = _row_moments(values, norm, share[c], half)
            new[c, 0] += s0
            new[c, 1] += s2
            new[c, 2] += s0 * dy * dy
            new[c, 3] += s1 * dy
    total = 0.0
    for c in range(n_component):
        total += new[c, 0]
    for c in range(n_component):
        weight[c] = new[c, 0] / total
        if new[c, 0] > 1e-6 * total:
            cov[c, 0] = max(new[c, 1] / new[c, 0], 0.2)
            cov[c, 1] = max(new[c, 2] / new[c, 0], 0.2)
            bound = 0.95 * math.sqrt(cov[c, 0] * cov[c, 1])
            cov[c, 2] = max(-bound, min(bound, new[c, 3] / new[c, 0]))


@njit(cache=True, nogil=True, error_model="numpy")
def fit_mixture(stamps, n_component, iterations, amplitudes, covariances, scale):
    """Mixture of concentric Gaussians for each PSF stamp, by expectation maximisation.

    Each stamp starts from the mixture of the one before and then needs a third of the steps.
    ``scale`` receives the flux that the mixture, fitted linearly, finds in the stamp of a star of
    unit flux.
    """
    n, size, _ = stamps.shape
    half = size // 2
    share, weight = np.empty((n_component, size)), np.empty(n_component)
    norm, values = np.empty(size), np.empty(size)
    cov, inv, new = (
        np.empty((n_component, 3)),
        np.empty((n_component, 4)),
        np.empty((n_component, 4)),
    )
    for s in range(n):
        stamp = stamps[s]
        similar = s > 0 and abs(stamp[half, half] / stamps[s - 1, half, half] - 1.0) < 0.2
        if not similar:
            _first_guess(stamp, weight, cov)
        for _ in range(iterations // 3 if similar else iterations):
            _em_step(stamp, weight, cov, inv, share, norm, values, new)
        _inverse(weight, cov, inv)
        total = 0.0
        for j in range(size):
            for i in range(size):
                total += stamp[j, i]
        mm, m_p = 0.0, 0.0
        for j in range(size):
            for i in range(size):
                dx, dy = i - half, j - half
                m = 0.0
                for c in range(n_component):
                    q = (inv[c, 0] * dx + inv[c, 1] * dy) * dx + inv[c, 2] * dy * dy
                    m += inv[c, 3] * math.exp(-0.5 * q)
                m *= total
                mm += m * m
                m_p += m * stamp[j, i]
        for c in range(n_component):
            amplitudes[s, c] = weight[c] * total
            covariances[s, c, 0], covariances[s, c, 1] = cov[c, 0], cov[c, 1]
            covariances[s, c, 2] = cov[c, 2]
        scale[s] = m_p / mm

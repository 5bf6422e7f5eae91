"""Numba loops of `galaxy`: mixtures of concentric Gaussians that describe PSF stamps."""

from __future__ import annotations

import math

import numpy as np
from numba import njit


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


@njit(cache=True, nogil=True, error_model="numpy")
def _em_step(stamp, weight, cov, inv, share, new):
    """One step of expectation maximisation on the pixels above 1e-5 of the peak."""
    size = stamp.shape[0]
    half = size // 2
    floor = 1e-5 * stamp[half, half]
    n_component = weight.size
    _inverse(weight, cov, inv)
    new[:, :] = 0.0
    for j in range(size):
        dy = j - half
        for i in range(size):
            v = stamp[j, i]
            if v <= floor:
                continue
            dx = i - half
            norm = 1e-300
            for c in range(n_component):
                q = (inv[c, 0] * dx + inv[c, 1] * dy) * dx + inv[c, 2] * dy * dy
                share[c] = inv[c, 3] * math.exp(-0.5 * q)
                norm += share[c]
            v /= norm
            for c in range(n_component):
                r = v * share[c]
                new[c, 0] += r
                new[c, 1] += r * dx * dx
                new[c, 2] += r * dy * dy
                new[c, 3] += r * dx * dy
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
    share, weight = np.empty(n_component), np.empty(n_component)
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
            _em_step(stamp, weight, cov, inv, share, new)
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

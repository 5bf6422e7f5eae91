"""Numba kernel of the stellar locus: each star against each point of it."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def score_stars(start, weight, locus, density, floor, score, member, place, along):
    """Gradient of the log likelihood of each star, summed over its place on the locus.

    ``start``, ``weight`` (n, b): magnitudes less the offsets, inverse variances (zero where
    missing). ``locus`` (t, b), ``density`` (t,). ``floor``: likelihood of an outlier. Filled:
    ``score`` (n, b); ``member`` (n,): probability to be on the locus; ``place`` (n, b): expected
    locus and brightness; ``along`` (t,): sum of the posteriors of the members.
    """
    n, nb = start.shape
    nt = density.size
    chi2 = np.empty(nt)
    bright = np.empty(nt)
    posterior = np.empty(nt)
    along[:] = 0.0
    for g in range(n):
        total = 0.0
        for b in range(nb):
            total += weight[g, b]
        for t in range(nt):
            mean = 0.0
            for b in range(nb):
                mean += weight[g, b] * (start[g, b] - locus[t, b])
            mean /= total
            value = 0.0
            for b in range(nb):
                d = start[g, b] - locus[t, b] - mean
                value += weight[g, b] * d * d
            chi2[t] = value
            bright[t] = mean
        summed = 0.0
        for t in range(nt):
            posterior[t] = density[t] * math.exp(-0.5 * chi2[t])
            summed += posterior[t]
        member[g] = summed / (summed + floor)
        for b in range(nb):
            place[g, b] = 0.0
        if summed > 1e-300:
            for t in range(nt):
                p = posterior[t] / summed
                along[t] += member[g] * p
                for b in range(nb):
                    place[g, b] += p * (locus[t, b] + bright[t])
        for b in range(nb):
            score[g, b] = weight[g, b] * (start[g, b] - place[g, b]) * member[g]

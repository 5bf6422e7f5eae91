"""Posterior of redshift for many galaxies (numba only)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def posterior(flux, weight, model, prior, anchor, block, out, ref, ml_index, ml_chi2):
    """Sum over templates of prior times exp(-chi2/2) at each redshift, and the least chi2.

    ``flux``, ``weight`` (n, n_band): fluxes and inverse variances, weight zero where missing.
    ``model`` (n_band, n_template, n_z), ``prior`` (n_template, n_z), all float32.
    ``anchor`` (n,): band in which the brightness is known beforehand to be anything alike; the
    amplitude is integrated over, which gives ``model[anchor] sqrt(w[anchor] / sum w model^2)``.
    Below zero the best amplitude stands for all.
    ``out`` (n, n_z): unnormalised; ``ref`` (n, n_block) scratch; ``ml_index`` (n, 2): template, z.
    chi2 is computed from residuals, so that single precision suffices at any signal to noise.
    """
    n, n_band = flux.shape
    n_template, n_z = prior.shape
    n_block = (n_z + block - 1) // block
    chi2 = np.empty((n_template, block), np.float32)
    fot = np.empty(block, np.float32)
    ftt = np.empty(block, np.float32)
    best = np.empty(block, np.float32)
    allowed = np.empty(block, np.float32)
    acc = np.empty(block, np.float32)
    share = np.ones((n_template, block), np.float32)
    poly = np.empty(block, np.float32)
    bits = np.empty(block, np.int32)
    scale = bits.view(np.float32)
    huge = np.float32(1e30)
    zero = np.float32(0.0)
    half_log2e = np.float32(0.5 * 1.4426950408889634)
    for g in range(n):
        ml_chi2[g] = huge
        ml_index[g, 0] = 0
        ml_index[g, 1] = 0
    for k in range(n_block):
        start = k * block
        m = min(block, n_z - start)
        for g in range(n):
            for i in range(m):
                best[i] = huge
                allowed[i] = huge
                acc[i] = zero
            for t in range(n_template):
                row = chi2[t, :m]
                for i in range(m):
                    fot[i] = zero
                    ftt[i] = zero
                    row[i] = zero
                for b in range(n_band):
                    w = weight[g, b]
                    if w > 0:
                        wf = w * flux[g, b]
                        cells = model[b, t, start : start + m]
                        for i in range(m):
                            v = cells[i]
                            fot[i] += wf * v
                            ftt[i] += w * v * v
                for i in range(m):
                    ftt[i] = np.float32(1.0) / (ftt[i] + np.float32(1e-37))
                    a = fot[i] * ftt[i]
                    fot[i] = a if a > zero else zero
                if anchor[g] >= 0:
                    root = np.sqrt(weight[g, anchor[g]])
                    cells = model[anchor[g], t, start : start + m]
                    part = share[t, :m]
                    for i in range(m):
                        part[i] = root * cells[i] * np.sqrt(ftt[i])
                for b in range(n_band):
                    w = weight[g, b]
                    if w > 0:
                        f = flux[g, b]
                        cells = model[b, t, start : start + m]
                        for i in range(m):
                            d = f - fot[i] * cells[i]
                            row[i] += w * d * d
                p = prior[t, start : start + m]
                for i in range(m):
                    c = row[i]
                    best[i] = c if c < best[i] else best[i]
                    c = c if p[i] > zero else huge
                    allowed[i] = c if c < allowed[i] else allowed[i]
            reference = huge
            for i in range(m):
                if allowed[i] < reference:
                    reference = allowed[i]
                if best[i] < ml_chi2[g]:
                    ml_chi2[g] = best[i]
                    ml_index[g, 1] = start + i
                    for t in range(n_template):
                        if chi2[t, i] == best[i]:
                            ml_index[g, 0] = t
            ref[g, k] = reference
            for t in range(n_template):
                row = chi2[t, :m]
                p = prior[t, start : start + m]
                for i in range(m):
                    y = (reference - row[i]) * half_log2e
                    y = y if y > np.float32(-120.0) else np.float32(-120.0)
                    y = y if y < zero else zero
                    whole = np.floor(y)
                    f = y - whole
                    # 2^f on [0, 1), relative error below 2e-7.
                    q = np.float32(1.8775767e-3)
                    q = q * f + np.float32(8.9893397e-3)
                    q = q * f + np.float32(5.5826318e-2)
                    q = q * f + np.float32(2.4015361e-1)
                    q = q * f + np.float32(6.9315308e-1)
                    poly[i] = (q * f + np.float32(0.99999994)) * p[i]
                    bits[i] = np.int32((whole + np.float32(127.0)) * np.float32(8388608.0))
                if anchor[g] >= 0:
                    part = share[t, :m]
                    for i in range(m):
                        acc[i] += poly[i] * scale[i] * part[i]
                else:
                    for i in range(m):
                        acc[i] += poly[i] * scale[i]
            for i in range(m):
                out[g, start + i] = acc[i]
    for g in range(n):
        least = ref[g, 0]
        for k in range(n_block):
            if ref[g, k] < least:
                least = ref[g, k]
        for k in range(n_block):
            start = k * block
            m = min(block, n_z - start)
            factor = np.float32(np.exp(-0.5 * (ref[g, k] - least)))
            for i in range(m):
                out[g, start + i] *= factor


@njit(cache=True, nogil=True, error_model="numpy")
def summarise(p, z, kernel, odds_width, per_bin, smooth, numbers, bins):
    """Normalise each p(z), smooth it, and find its mode, median, mean, spread and odds.

    ``p`` (n, n_z) is overwritten by the normalised, smoothed probability per cell (zero if empty).
    ``kernel`` (2 k + 1,); ``smooth`` (n_z + 2 k,) scratch; ``numbers`` (n, 7): mode index, median,
    mean, 16th, 84th percentile, odds, ok; ``bins`` (n, n_bin): sums of ``per_bin`` cells.
    """
    n, n_z = p.shape
    taps = kernel.size
    k = taps // 2
    step = z[1] - z[0]
    for g in range(n):
        row = p[g]
        if taps > 1:
            for i in range(n_z + 2 * k):
                smooth[i] = 0
            for j in range(taps):
                c = kernel[j]
                part = smooth[j : j + n_z]
                for i in range(n_z):
                    part[i] += c * row[i]
            inner = smooth[k : k + n_z]
            for i in range(n_z):
                row[i] = inner[i]
        total = 0.0
        for i in range(n_z):
            total += row[i]
        if not (total > 0.0):
            for i in range(n_z):
                row[i] = 0
            for i in range(7):
                numbers[g, i] = np.nan
            numbers[g, 0] = 0
            numbers[g, 6] = 0
            for i in range(bins.shape[1]):
                bins[g, i] = 0
            continue
        inverse = np.float32(1.0 / total)
        mode = 0
        mean = 0.0
        for i in range(n_z):
            row[i] *= inverse
            if row[i] > row[mode]:
                mode = i
            mean += row[i] * z[i]
        numbers[g, 0] = mode
        numbers[g, 2] = mean
        low = z[mode] - odds_width * (1.0 + z[mode])
        high = z[mode] + odds_width * (1.0 + z[mode])
        odds = 0.0
        running = 0.0
        for i in range(n_z):
            before = running
            running += row[i]
            for q in range(3):
                level = 0.5 if q == 0 else (0.15865 if q == 1 else 0.84135)
                if before < level <= running:
                    position = z[i] + step * ((level - before) / (running - before) - 0.5)
                    numbers[g, 1 if q == 0 else (3 if q == 1 else 4)] = position
            # Cells at the ends of the interval count by the part inside.
            inside = (min(high, z[i] + 0.5 * step) - max(low, z[i] - 0.5 * step)) / step
            if inside > 0.0:
                odds += row[i] * inside
        numbers[g, 5] = odds
        numbers[g, 6] = 1
        for i in range(bins.shape[1]):
            bins[g, i] = 0
        for i in range(n_z):
            bins[g, i // per_bin] += row[i]

"""Numba loops of `psf_flux`: linear fit of a stamp to the pixels of each source."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Bits of data.flags.MeasureFlag.
_EDGE, _CENTRE, _PIXELS, _SATURATED, _NO_VARIANCE, _NO_DATA = 1, 2, 4, 8, 16, 1024
_INTERPOLATED, _NO_PSF = 8192, 128


@njit(cache=True, nogil=True, error_model="numpy")
def fit_stamps(
    clean,
    variance,
    mask,
    unusable,
    repaired,
    saturated,
    ix,
    iy,
    stamps,
    flux,
    flux_err,
    chi2,
    n_pixel,
    flags,
):
    """Unweighted least-squares flux of stamp k centred at pixel (ix, iy)[k]."""
    ny, nx = clean.shape
    size = stamps.shape[1]
    half = size // 2
    for k in range(stamps.shape[0]):
        f = 0
        x0, y0 = ix[k] - half, iy[k] - half
        if x0 < 0 or y0 < 0 or x0 + size > nx or y0 + size > ny:
            f |= _EDGE
        s_pp, s_pd, s_ppv, s_dd_v, s_pd_v, s_pp_v = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        n = 0
        for j in range(max(0, -y0), min(size, ny - y0)):
            for i in range(max(0, -x0), min(size, nx - x0)):
                m = mask[y0 + j, x0 + i]
                near = abs(j - half) <= 1 and abs(i - half) <= 1
                if (m & saturated) != 0:
                    f |= _SATURATED
                if (m & repaired) != 0:
                    if near:
                        f |= _INTERPOLATED
                    # What is interpolated across a saturated core is not the star's light.
                    if (m & saturated) != 0:
                        continue
                elif (m & unusable) != 0:
                    f |= _PIXELS
                    if near:
                        f |= _CENTRE
                    continue
                v = variance[y0 + j, x0 + i]
                if not (v > 0.0) or not np.isfinite(v):
                    f |= _NO_VARIANCE
                    continue
                p = np.float64(stamps[k, j, i])
                d = np.float64(clean[y0 + j, x0 + i])
                s_pp += p * p
                s_pd += p * d
                s_ppv += p * p * v
                s_dd_v += d * d / v
                s_pd_v += p * d / v
                s_pp_v += p * p / v
                n += 1
        n_pixel[k] = n
        if not np.isfinite(s_pp):
            f |= _NO_PSF
        if n == 0 or not (s_pp > 0.0):
            flux[k], flux_err[k], chi2[k] = np.nan, np.nan, np.nan
            flags[k] = f | _NO_DATA
            continue
        a = s_pd / s_pp
        flux[k] = a
        flux_err[k] = math.sqrt(s_ppv) / s_pp
        chi2[k] = s_dd_v - 2.0 * a * s_pd_v + a * a * s_pp_v
        flags[k] = f

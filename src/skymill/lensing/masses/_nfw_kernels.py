"""Reduced shear of many galaxies for many halos (numba only)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def reduced_shear_grid(
    log_radius,
    beta,
    beta_ratio,
    log_scale,
    amplitude,
    table_start,
    table_step,
    kappa_tables,
    gamma_tables,
    out,
):
    """Mean reduced shear of each galaxy (columns of ``out``) for each halo (its rows).

    ``out[k, i] = beta gamma / (1 - beta_ratio kappa)`` with kappa and gamma of a source at infinity
    by linear interpolation in ln x; ``beta_ratio`` is <beta^2>/<beta>. ``kappa_tables`` and
    ``gamma_tables`` have one row for all halos or one for each.
    """
    n_mass = log_scale.size
    n = log_radius.size
    inverse = 1.0 / table_step
    last = kappa_tables.shape[1] - 2
    shared = kappa_tables.shape[0] == 1
    for k in range(n_mass):
        shift = (log_scale[k] + table_start) * inverse
        a = amplitude[k]
        kappa_table = kappa_tables[0 if shared else k]
        gamma_table = gamma_tables[0 if shared else k]
        for i in range(n):
            u = log_radius[i] * inverse - shift
            j = int(u)
            j = 0 if j < 0 else (last if j > last else j)
            f = u - j
            kappa = a * (kappa_table[j] + f * (kappa_table[j + 1] - kappa_table[j]))
            gamma = a * (gamma_table[j] + f * (gamma_table[j + 1] - gamma_table[j]))
            out[k, i] = beta[i] * gamma / (1.0 - beta_ratio[i] * kappa)


@njit(cache=True, nogil=True, error_model="numpy")
def chi2_terms(model, shear, weight, reference, out):
    """Terms w [(g - m_k)^2 - (g - m_ref)^2] of chi2 (n_mass, n): small numbers, safe in float32."""
    n_mass, n = model.shape
    for k in range(n_mass):
        for i in range(n):
            m = model[k, i]
            r = reference[i]
            out[k, i] = weight[i] * (m - r) * (m + r - 2.0 * shear[i])


@njit(cache=True, nogil=True, error_model="numpy")
def joint_reduced_shear(
    east,
    north,
    halo_east,
    halo_north,
    mpc_per_arcmin,
    beta,
    beta_ratio,
    log_scale,
    amplitude,
    table_start,
    table_step,
    kappa_tables,
    gamma_tables,
    work,
    out,
):
    """Reduced shear (2, n) of several halos together, in the axes of the plane.

    Shears and convergences add, then ``g = gamma / (1 - kappa)`` with the effective convergence
    sum(beta kappa beta_ratio) / sum over sources as for one halo. ``beta``, ``beta_ratio`` are
    (n_halo, n); ``work`` (3, n) is scratch.
    """
    n_halo = halo_east.size
    n = east.size
    inverse = 1.0 / table_step
    last = kappa_tables.shape[1] - 2
    work[:, :] = 0.0
    for h in range(n_halo):
        shift = (log_scale[h] + table_start) * inverse - np.log(mpc_per_arcmin[h]) * inverse
        a = amplitude[h]
        kappa_table = kappa_tables[h]
        gamma_table = gamma_tables[h]
        for i in range(n):
            dx = east[i] - halo_east[h]
            dy = north[i] - halo_north[h]
            r2 = dx * dx + dy * dy + 1e-12
            u = 0.5 * np.log(r2) * inverse - shift
            j = int(u)
            j = 0 if j < 0 else (last if j > last else j)
            f = u - j
            kappa = a * (kappa_table[j] + f * (kappa_table[j + 1] - kappa_table[j]))
            gamma = a * (gamma_table[j] + f * (gamma_table[j + 1] - gamma_table[j]))
            gamma *= -beta[h, i] / r2
            work[0, i] += gamma * (dx * dx - dy * dy)
            work[1, i] += gamma * 2.0 * dx * dy
            work[2, i] += beta_ratio[h, i] * kappa
    for i in range(n):
        factor = 1.0 / (1.0 - work[2, i])
        out[0, i] = work[0, i] * factor
        out[1, i] = work[1, i] * factor

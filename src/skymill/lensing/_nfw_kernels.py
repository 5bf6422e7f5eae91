"""NFW reduced shear of many galaxies for many masses (numba only)."""

from __future__ import annotations

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
    kappa_table,
    gamma_table,
    out,
):
    """Mean reduced shear of each galaxy (columns of ``out``) for each halo (its rows).

    ``out[k, i] = beta gamma / (1 - beta_ratio kappa)`` with kappa and gamma of a source at infinity
    by linear interpolation in ln x; ``beta_ratio`` is <beta^2>/<beta>.
    """
    n_mass = log_scale.size
    n = log_radius.size
    inverse = 1.0 / table_step
    last = kappa_table.size - 2
    for k in range(n_mass):
        shift = (log_scale[k] + table_start) * inverse
        a = amplitude[k]
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

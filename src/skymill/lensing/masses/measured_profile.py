"""Binned shear around a cluster, in reduced shear and in excess surface density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from skymill.data.tables import load_schema
from skymill.lensing.masses.sources import LensedSources

__all__ = ["ProfileFit", "judge_profile", "make_shear_profile", "ring_edges", "ring_index"]

Float64Array = NDArray[np.float64]


def ring_edges(radius: Float64Array, n_rings: int) -> Float64Array:
    """Edges of rings equally spaced in the logarithm that hold all galaxies.

    Parameters
    ----------
    radius : (n,) float64 [Mpc]
        Distances from the centre.
    n_rings : int
        How many.

    Returns
    -------
    (n_rings + 1,) float64 [Mpc]
        Edges.
    """
    return np.geomspace(float(radius.min()) * 0.999, float(radius.max()) * 1.001, n_rings + 1)


def ring_index(radius: Float64Array, edges: Float64Array) -> NDArray[np.intp]:
    """Number of the ring of each radius.

    Parameters
    ----------
    radius : (n,) float64 [Mpc]
        Distances.
    edges : (m + 1,) float64 [Mpc]
        From `ring_edges`.

    Returns
    -------
    (n,) int
        From 0 to m - 1.
    """
    return np.clip(np.digitize(radius, edges) - 1, 0, len(edges) - 2)


def make_shear_profile(
    sources: LensedSources,
    model: Float64Array,
    *,
    noise2: float,
    sigma_critical: float,
    edges: Float64Array,
    structure: Float64Array | None = None,
) -> Table:
    """Bin the shear about the centre.

    Parameters
    ----------
    sources : LensedSources
        Galaxies.
    model : (n,) float64
        Reduced shear of the best halo at each.
    noise2 : float
        Variance of one component of the shear of a galaxy.
    sigma_critical : float [Msun/Mpc2]
        Critical surface density of a source at infinity.
    edges : (m + 1,) float64 [Mpc]
        Edges of the rings.
    structure : (m, m) float64, optional
        Covariance of the mean shear by large-scale structure.

    Returns
    -------
    astropy.table.Table
        Schema ``massProfile``: the rings that hold a galaxy. Members among the sources are
        corrected by the boost of each galaxy.
    """
    n_rings = len(edges) - 1
    radius = sources.radius
    index = ring_index(radius, edges)
    g_t, g_x = sources.tangential()

    def total(values: Float64Array) -> Float64Array:
        return np.bincount(index, weights=values, minlength=n_rings)

    w, b, boost = sources.weight, sources.beta, sources.boost
    count = np.bincount(index, minlength=n_rings)
    used = count > 0
    sw, swb2 = total(w)[used], total(w * b * b)[used]
    mean_radius = total(w * radius)[used] / sw
    # g of a ring is what was measured times the mean boost; so are its model and error.
    lost = total(w * boost)[used] / sw
    lss = np.zeros(n_rings) if structure is None else np.sqrt(np.diag(structure))
    table = Table(
        {
            "radius": mean_radius,
            "radius_low": edges[:-1][used],
            "radius_high": edges[1:][used],
            "radius_arcmin": mean_radius / sources.mpc_per_arcmin,
            "n_galaxies": count[used],
            "boost": lost,
            "g_t": total(w * boost * g_t)[used] / sw,
            "g_x": total(w * boost * g_x)[used] / sw,
            "g_err": np.sqrt(noise2 * total((w * boost) ** 2)[used]) / sw,
            "g_err_lss": lss[used],
            "g_model": total(w * boost * model)[used] / sw,
            "delta_sigma": sigma_critical * total(w * b * boost * g_t)[used] / swb2,
            "delta_sigma_x": sigma_critical * total(w * b * boost * g_x)[used] / swb2,
            "delta_sigma_err": sigma_critical
            * np.sqrt(noise2 * total((w * b * boost) ** 2)[used])
            / swb2,
            "delta_sigma_model": sigma_critical * total(w * b * boost * model)[used] / swb2,
        }
    )
    return load_schema("massProfile").apply(table)


@dataclass(frozen=True)
class ProfileFit:
    """How well the binned profile agrees with the model.

    Parameters
    ----------
    chi2_profile, p_profile : float
        Tangential shear against the model, and the probability of a larger one.
    dof_profile : int
        Rings less the fitted parameters.
    chi2_cross, p_cross : float
        Cross shear against zero.
    """

    chi2_profile: float
    dof_profile: int
    p_profile: float
    chi2_cross: float
    p_cross: float


def judge_profile(
    profile: Table, *, structure: Float64Array | None = None, n_parameters: int = 1
) -> ProfileFit:
    """Chi2 of the binned profile against the model and of the cross shear against zero.

    Parameters
    ----------
    profile : astropy.table.Table
        From `make_shear_profile`.
    structure : (m, m) float64, optional
        Covariance by large-scale structure of the rings in the table; it has no cross shear.
    n_parameters : int
        Fitted parameters.

    Returns
    -------
    ProfileFit
        Both chi2 with their probabilities.
    """
    bins = len(profile)
    error = np.asarray(profile["g_err"])
    covariance = np.diag(error**2)
    if structure is not None:
        covariance = covariance + structure
    difference = np.asarray(profile["g_t"]) - np.asarray(profile["g_model"])
    tangential = float(difference @ np.linalg.solve(covariance, difference))
    cross = float(np.sum((np.asarray(profile["g_x"]) / error) ** 2))
    dof = max(bins - n_parameters, 1)
    return ProfileFit(
        chi2_profile=tangential,
        dof_profile=dof,
        p_profile=float(chi2_distribution.sf(tangential, dof)),
        chi2_cross=cross,
        p_cross=float(chi2_distribution.sf(cross, bins)),
    )

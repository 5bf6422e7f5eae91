"""The mass of a cluster from the shear of the galaxies behind it.

Maximum likelihood on a grid of masses, errors by bootstrap of the galaxies: chi2 is linear in how
often each galaxy is drawn, so that all bootstrap samples are one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import chi2 as chi2_distribution

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.flags import MeasureFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing._nfw_kernels import chi2_terms, reduced_shear_grid
from skymill.lensing.catalogue import ShearSample, tangential_shear
from skymill.lensing.cosmology import (
    FIDUCIAL,
    FIDUCIAL_OPTIONS,
    Cosmology,
    CosmologyOptions,
)
from skymill.lensing.nfw import NfwHalo, convergence_shape, mean_convergence_shape

__all__ = ["LensedSources", "MassFit", "MassFitOptions", "fit_nfw_mass", "mean_efficiency",
           "select_sources"]  # fmt: skip

Float64Array = NDArray[np.float64]
_ARCMIN = np.pi / 10800.0
_LN_X = np.linspace(np.log(1e-4), np.log(1e3), 16384)


@dataclass(frozen=True, kw_only=True)
class MassFitOptions:
    """Sources, radial range and search of a mass fit."""

    radius_min_mpc: float = option(0.2, "Inner end of the radial range", unit="Mpc")
    radius_max_mpc: float = option(3.0, "Outer end of the radial range", unit="Mpc")
    z_margin: float = option(0.1, "Sources have a point redshift above the lens's by more than it")
    concentration: float = option(0.0, "Concentration; 0 takes the mass-concentration relation")
    log_mass_min: float = option(12.0, "Lower end of the search", unit="log10 Msun")
    log_mass_max: float = option(16.5, "Upper end of the search", unit="log10 Msun")
    n_mass: int = option(226, "Masses of the grid, equally spaced in the logarithm")
    n_bootstrap: int = option(2000, "Bootstrap samples")
    n_radial_bins: int = option(10, "Radial bins of the profile, equally spaced in the logarithm")
    min_galaxies: int = option(10, "Galaxies that a fit needs")

    def __post_init__(self) -> None:
        check_range(self, "radius_min_mpc", low=0.0)
        check_range(self, "radius_max_mpc", low=0.0, low_open=True)
        if self.radius_max_mpc <= self.radius_min_mpc:
            raise ConfigError(
                f"radius_max_mpc must be > radius_min_mpc = {self.radius_min_mpc} Mpc; "
                f"got {self.radius_max_mpc}"
            )
        check_range(self, "z_margin", low=0.0, high=2.0)
        check_range(self, "concentration", low=0.0, high=100.0)
        check_range(self, "log_mass_min", low=8.0, high=15.0)
        check_range(self, "log_mass_max", low=15.0, high=18.0)
        check_range(self, "n_mass", low=20, high=5000)
        check_range(self, "n_bootstrap", low=20, high=1_000_000)
        check_range(self, "n_radial_bins", low=2, high=200)
        check_range(self, "min_galaxies", low=2)


@dataclass(frozen=True, kw_only=True)
class LensedSources:
    """Galaxies behind a lens, seen from its centre.

    Parameters
    ----------
    radius : (n,) float64 [Mpc]
        Projected distance at the lens.
    g_t, g_x : (n,) float64
        Tangential and cross shear.
    weight : (n,) float64
        Weights with mean one.
    beta, beta_ratio : (n,) float64
        <D_LS/D_S> and <(D_LS/D_S)^2>/<D_LS/D_S> over each galaxy's p(z).
    mpc_per_arcmin : float
        Scale at the lens.
    """

    radius: Float64Array
    g_t: Float64Array
    g_x: Float64Array
    weight: Float64Array
    beta: Float64Array
    beta_ratio: Float64Array
    mpc_per_arcmin: float


@dataclass(frozen=True, kw_only=True)
class MassFit:
    """A fitted mass.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``massFit``: one row.
    profile : astropy.table.Table
        Schema ``massProfile``.
    bootstrap : (n_bootstrap,) float64 [Msun]
        The best mass of each bootstrap sample.
    masses, chi2 : (n_mass,) float64
        The likelihood: chi2 above its minimum at each mass [Msun] of the grid.
    """

    table: Table
    profile: Table
    bootstrap: Float64Array
    masses: Float64Array
    chi2: Float64Array


def mean_efficiency(
    sample: ShearSample, *, z_lens: float, cosmology: Cosmology = FIDUCIAL
) -> tuple[Float64Array, Float64Array]:
    """Mean lensing efficiency of each galaxy over its p(z), or at its point redshift.

    Parameters
    ----------
    sample : ShearSample
        Galaxies with ``pz`` or ``z``.
    z_lens : float
        Redshift of the lens.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    beta, beta_ratio : (n,) float64
        <beta> and <beta^2>/<beta>; both zero in front of the lens.

    Raises
    ------
    DataError
        If the sample has no redshifts.
    """
    if sample.pz is not None:
        grid = cosmology.lensing_efficiency(sample.z_grid, z_lens=z_lens)  # type: ignore[arg-type]
        norm = sample.pz.sum(axis=1, dtype=np.float64)
        beta = sample.pz @ grid.astype(np.float32) / norm
        beta2 = sample.pz @ (grid**2).astype(np.float32) / norm
    elif sample.z is not None:
        beta = cosmology.lensing_efficiency(sample.z, z_lens=z_lens)
        beta2 = beta**2
    else:
        raise DataError("the galaxies have no redshifts; give a column of them or one for all")
    positive = beta > 0
    ratio = np.where(positive, beta2 / np.where(positive, beta, 1.0), 0.0)
    return np.asarray(beta, np.float64), np.asarray(ratio, np.float64)


def select_sources(
    sample: ShearSample,
    *,
    z_lens: float,
    centre: tuple[float, float],
    options: MassFitOptions = MassFitOptions(),
    cosmology: Cosmology = FIDUCIAL,
) -> LensedSources:
    """The galaxies behind a lens in the radial range.

    Parameters
    ----------
    sample : ShearSample
        All galaxies.
    z_lens : float
        Redshift of the lens.
    centre : (ra, dec) [deg]
        Its centre.
    options : MassFitOptions
        Radial range, redshift margin.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    LensedSources
        What the fit needs.

    Raises
    ------
    NoDataError
        If too few galaxies remain, with the number left by each cut.
    """
    if not 0.001 < z_lens < 5:
        raise ConfigError(f"z_lens must be in (0.001, 5); got {z_lens}")
    scale = float(cosmology.angular_distance(z_lens)) * _ARCMIN
    east, north, g1, g2 = sample.in_plane(centre)
    radius = np.hypot(east, north) * scale
    inside = (radius >= options.radius_min_mpc) & (radius <= options.radius_max_mpc) & (radius > 0)
    if not inside.any():
        raise NoDataError(
            f"no galaxy lies {options.radius_min_mpc} to {options.radius_max_mpc} Mpc from the "
            f"centre ra={centre[0]:.5f}, dec={centre[1]:.5f} deg (nearest "
            f"{np.nanmin(radius) if np.isfinite(radius).any() else np.inf:.2f} Mpc); "
            "is the centre off the field?"
        )
    beta, ratio = mean_efficiency(sample, z_lens=z_lens, cosmology=cosmology)
    behind = beta > 0
    if sample.z is not None:
        behind &= sample.z > z_lens + options.z_margin
    keep = inside & behind
    if keep.sum() < options.min_galaxies:
        raise NoDataError(
            f"{int(keep.sum())} galaxies lie behind z_lens = {z_lens} (by {options.z_margin}) and "
            f"in the radial range ({int(inside.sum())} in range, {int(behind.sum())} behind, of "
            f"{len(sample)}); at least {options.min_galaxies} are needed"
        )
    g_t, g_x = tangential_shear(east=east[keep], north=north[keep], g1=g1[keep], g2=g2[keep])
    weight = sample.weight[keep]
    return LensedSources(
        radius=radius[keep],
        g_t=g_t,
        g_x=g_x,
        weight=weight / weight.mean(),
        beta=beta[keep],
        beta_ratio=ratio[keep],
        mpc_per_arcmin=scale,
    )


def _model_grid(
    sources: LensedSources, masses: Float64Array, *, z: float, c: float, cosmology: Cosmology
) -> Float64Array:
    """Reduced shear (n_mass, n) of each galaxy for each mass."""
    kappa = convergence_shape(np.exp(_LN_X))
    gamma = mean_convergence_shape(np.exp(_LN_X)) - kappa
    halos = [NfwHalo(mass=float(m), z=z, c=c or None, cosmology=cosmology) for m in masses]
    sigma_critical = float(cosmology.critical_surface_density(z_lens=z))  # type: ignore[arg-type]
    out = np.empty((len(masses), len(sources.radius)))
    reduced_shear_grid(
        np.log(sources.radius), sources.beta, sources.beta_ratio,
        np.log([h.scale_radius for h in halos]),
        np.array([h.surface_density_scale / sigma_critical for h in halos]),
        _LN_X[0], _LN_X[1] - _LN_X[0], kappa, gamma, out,
    )  # fmt: skip
    return out


def _minimum(
    log_mass: Float64Array, chi2: NDArray[np.floating[Any]]
) -> tuple[Float64Array, NDArray[np.bool_]]:
    """Minimum of each column of chi2 (n_mass, m) by a parabola; and whether it is at an end."""
    k = chi2.argmin(axis=0)
    at_end = (k == 0) | (k == len(log_mass) - 1)
    inner = np.clip(k, 1, len(log_mass) - 2)
    column = np.arange(chi2.shape[1])
    low, mid, high = (chi2[inner + d, column].astype(np.float64) for d in (-1, 0, 1))
    curvature = low - 2 * mid + high
    shift = np.where(curvature > 0, 0.5 * (low - high) / np.where(curvature > 0, curvature, 1), 0)
    step = log_mass[1] - log_mass[0]
    best = log_mass[inner] + np.clip(shift, -1, 1) * step
    return np.where(at_end, log_mass[k], best), at_end


def _bootstrap(
    terms: NDArray[np.float32],
    log_mass: Float64Array,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[Float64Array, NDArray[np.bool_]]:
    n = terms.shape[1]
    block = 250
    best, at_end = [], []
    for start in range(0, n_bootstrap, block):
        rows = min(block, n_bootstrap - start)
        counts = np.empty((n, rows), dtype=np.float32, order="F")
        for b in range(rows):
            counts[:, b] = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n)
        found, ends = _minimum(log_mass, terms @ counts)
        best.append(found)
        at_end.append(ends)
    return 10.0 ** np.concatenate(best), np.concatenate(at_end)


def _likelihood_interval(
    log_mass: Float64Array, chi2: Float64Array, best: float
) -> tuple[float, float]:
    """Where chi2 rises by one on both sides of the minimum, by linear interpolation."""
    excess = chi2 - chi2.min()
    k = int(excess.argmin())
    low, high = log_mass[0], log_mass[-1]
    below = np.flatnonzero(excess[: k + 1] > 1.0)
    if len(below):
        i = below[-1]
        low = np.interp(1.0, excess[[i + 1, i]], log_mass[[i + 1, i]])
    above = np.flatnonzero(excess[k:] > 1.0)
    if len(above):
        i = k + above[0]
        high = np.interp(1.0, excess[[i - 1, i]], log_mass[[i - 1, i]])
    return 10.0 ** float(min(low, best)), 10.0 ** float(max(high, best))


def _profile(
    sources: LensedSources,
    model: Float64Array,
    *,
    noise2: float,
    sigma_critical: float,
    options: MassFitOptions,
) -> Table:
    """Binned shear; each component of a galaxy scatters with the variance ``noise2``."""
    low = max(options.radius_min_mpc, float(sources.radius.min()) * 0.999)
    high = min(options.radius_max_mpc, float(sources.radius.max()) * 1.001)
    edges = np.geomspace(low, high, options.n_radial_bins + 1)
    index = np.digitize(sources.radius, edges) - 1
    index = np.clip(index, 0, options.n_radial_bins - 1)

    def total(values: Float64Array) -> Float64Array:
        return np.bincount(index, weights=values, minlength=options.n_radial_bins)

    w, b = sources.weight, sources.beta
    count = np.bincount(index, minlength=options.n_radial_bins)
    used = count > 0
    sw, swb2 = total(w)[used], total(w * b * b)[used]
    radius = total(w * sources.radius)[used] / sw
    table = Table(
        {
            "radius": radius,
            "radius_low": edges[:-1][used],
            "radius_high": edges[1:][used],
            "radius_arcmin": radius / sources.mpc_per_arcmin,
            "n_galaxies": count[used],
            "g_t": total(w * sources.g_t)[used] / sw,
            "g_x": total(w * sources.g_x)[used] / sw,
            "g_err": np.sqrt(noise2 * total(w * w)[used]) / sw,
            "g_model": total(w * model)[used] / sw,
            "delta_sigma": sigma_critical * total(w * b * sources.g_t)[used] / swb2,
            "delta_sigma_x": sigma_critical * total(w * b * sources.g_x)[used] / swb2,
            "delta_sigma_err": sigma_critical * np.sqrt(noise2 * total((w * b) ** 2)[used]) / swb2,
            "delta_sigma_model": sigma_critical * total(w * b * model)[used] / swb2,
        }
    )
    return load_schema("massProfile").apply(table)


def fit_nfw_mass(
    sample: ShearSample,
    *,
    z_lens: float,
    centre: tuple[float, float],
    rng: np.random.Generator,
    options: MassFitOptions = MassFitOptions(),
    cosmology: CosmologyOptions = FIDUCIAL_OPTIONS,
) -> MassFit:
    """Fit the mass of an NFW halo to the reduced shear around a centre.

    Parameters
    ----------
    sample : ShearSample
        Galaxies, with p(z) or point redshifts. Weights are taken as inverse variances up to a
        factor, which is measured from the scatter about the fit.
    z_lens : float
        Redshift of the cluster.
    centre : (ra, dec) [deg]
        Its centre.
    rng : numpy.random.Generator
        For the bootstrap.
    options : MassFitOptions
        Radial range, search, bootstrap.
    cosmology : CosmologyOptions
        The universe.

    Returns
    -------
    MassFit
        Mass with errors, profile, bootstrap, likelihood.

    Raises
    ------
    NoDataError
        If too few galaxies lie behind the cluster.

    References
    ----------
    Wright & Brainerd 2000, ApJ 534, 34; Seitz & Schneider 1997, A&A 318, 687 (mean reduced shear
    of a redshift distribution).
    """
    universe = Cosmology(cosmology)
    src = select_sources(sample, z_lens=z_lens, centre=centre, options=options, cosmology=universe)
    n = len(src.radius)
    log_mass: Float64Array = np.asarray(
        np.linspace(options.log_mass_min, options.log_mass_max, options.n_mass), np.float64
    )
    halo_args = {"z": z_lens, "c": options.concentration, "cosmology": universe}
    model = _model_grid(src, 10.0**log_mass, **halo_args)  # type: ignore[arg-type]
    raw = np.einsum("i,ki->k", src.weight, (src.g_t - model) ** 2)
    k = int(raw.argmin())
    terms = np.empty(model.shape, dtype=np.float32)
    chi2_terms(model, src.g_t, src.weight, model[k].copy(), terms)
    best, at_end = _minimum(log_mass, raw[:, None])
    if not at_end[0]:
        # The grid serves the bootstrap; the mass itself deserves an exact minimum.
        best[0] = minimize_scalar(
            lambda m: np.sum(
                src.weight * (src.g_t - _model_grid(src, np.array([10.0**m]), **halo_args)[0]) ** 2  # type: ignore[arg-type]
            ),
            bounds=(log_mass[max(k - 1, 0)], log_mass[min(k + 1, len(log_mass) - 1)]),
            method="bounded",
            options={"xatol": 1e-7},
        ).x
    mass = float(10.0 ** best[0])
    best_model = _model_grid(src, np.array([mass]), **halo_args)[0]  # type: ignore[arg-type]
    # Weights need not be inverse variances: scale chi2 so that its width is that of the scatter.
    scatter2 = src.weight**2 * ((src.g_t - best_model) ** 2 + src.g_x**2)
    total2 = float(np.sum(scatter2)) * n / (2.0 * n - 1.0)
    sigma2 = total2 / float(np.sum(src.weight))
    noise2 = total2 / float(np.sum(src.weight**2))
    realizations, ends = _bootstrap(terms, log_mass, n_bootstrap=options.n_bootstrap, rng=rng)
    chi2 = raw / sigma2
    null = float(np.sum(src.weight * src.g_t**2) / sigma2)
    profile = _profile(
        src, best_model, noise2=noise2, options=options,
        sigma_critical=float(universe.critical_surface_density(z_lens=z_lens)),  # type: ignore[arg-type]
    )  # fmt: skip
    halo = NfwHalo(mass=mass, z=z_lens, c=options.concentration or None, cosmology=universe)
    lower, median, upper = np.percentile(realizations, [15.865, 50.0, 84.135])
    like_low, like_high = _likelihood_interval(log_mass, chi2, float(best[0]))
    at_best = float(np.sum(src.weight * (src.g_t - best_model) ** 2) / sigma2)
    row = {
        "ra": centre[0], "dec": centre[1], "z_lens": z_lens, "m200": mass,
        "m200_err": 0.5 * (upper - lower), "m200_lower": lower, "m200_upper": upper,
        "m200_median": median, "m200_like_lower": like_low, "m200_like_upper": like_high,
        "snr": np.sqrt(max(null - at_best, 0.0)), "c200": halo.c200, "r200": halo.r200,
        **_goodness(profile),
        "n_galaxies": n, "mean_beta": float(np.average(src.beta, weights=src.weight)),
        "sigma_g": np.sqrt(noise2), "radius_min": options.radius_min_mpc,
        "radius_max": options.radius_max_mpc, "n_bootstrap": options.n_bootstrap,
        "limit_fraction": float(ends.mean()),
        "flags": int(MeasureFlag.AT_LIMIT) if at_end[0] else 0,
    }  # fmt: skip
    return MassFit(
        table=load_schema("massFit").apply(Table([row])),
        profile=profile,
        bootstrap=realizations,
        masses=10.0**log_mass,
        chi2=chi2 - chi2.min(),
    )


def _goodness(profile: Table) -> dict[str, float | int]:
    """Chi2 of the binned profile against the model and of the cross shear against zero."""
    bins = len(profile)
    error = np.asarray(profile["g_err"])
    tangential = float(np.sum(((profile["g_t"] - profile["g_model"]) / error) ** 2))
    cross = float(np.sum((profile["g_x"] / error) ** 2))
    dof = max(bins - 1, 1)
    return {
        "chi2_profile": tangential,
        "dof_profile": dof,
        "p_profile": float(chi2_distribution.sf(tangential, dof)),
        "chi2_cross": cross,
        "p_cross": float(chi2_distribution.sf(cross, bins)),
    }

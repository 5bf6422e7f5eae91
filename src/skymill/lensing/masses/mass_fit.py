"""The mass of a cluster from the shear of the galaxies behind it.

Maximum likelihood on a grid of masses, errors by bootstrap of the galaxies: chi2 is linear in how
often each galaxy is drawn, so that all bootstrap samples are one matrix product. Shear by matter
along the line of sight is constant within a ring and correlated between rings; the likelihood is
marginalised over it in closed form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from skymill.data.flags import MeasureFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.cosmology import (
    FIDUCIAL_OPTIONS,
    Cosmology,
    CosmologyOptions,
)
from skymill.lensing.masses._nfw_kernels import chi2_terms, reduced_shear_grid
from skymill.lensing.masses.halo_profiles import LN_X_MIN, HaloOptions, make_halo_tables
from skymill.lensing.masses.large_scale_structure import convergence_power, shear_covariance
from skymill.lensing.masses.measured_profile import (
    judge_profile,
    make_shear_profile,
    ring_edges,
    ring_index,
)
from skymill.lensing.masses.sources import LensedSources, SourceOptions, select_sources
from skymill.lensing.nfw import NfwHalo

__all__ = ["MassFit", "MassFitOptions", "fit_nfw_mass", "structure_covariance"]

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]
_BLOCK = 250


@dataclass(frozen=True, kw_only=True)
class MassFitOptions:
    """Search, errors and profile of a mass fit."""

    log_mass_min: float = option(12.0, "Lower end of the search", unit="log10 Msun")
    log_mass_max: float = option(16.5, "Upper end of the search", unit="log10 Msun")
    n_mass: int = option(226, "Masses of the grid, equally spaced in the logarithm")
    n_bootstrap: int = option(2000, "Bootstrap samples")
    n_radial_bins: int = option(10, "Radial bins of the profile, equally spaced in the logarithm")
    large_scale_structure: bool = option(
        False,
        "Weigh by the noise of matter along the line of sight and add it to the error; it is "
        "always told beside it",
    )
    intrinsic_scatter: float = option(
        0.0,
        "Scatter of real clusters about the profile, as a fraction of the shear of each ring",
    )

    def __post_init__(self) -> None:
        check_range(self, "log_mass_min", low=8.0, high=15.0)
        check_range(self, "log_mass_max", low=15.0, high=18.0)
        check_range(self, "n_mass", low=20, high=5000)
        check_range(self, "n_bootstrap", low=20, high=1_000_000)
        check_range(self, "n_radial_bins", low=2, high=200)
        check_range(self, "intrinsic_scatter", low=0.0, high=1.0)


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


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """One cluster: its sources sorted by ring, and how to model them."""

    sources: LensedSources
    g_t: Float64Array
    g_x: Float64Array
    z_lens: float
    halo: HaloOptions
    cosmology: Cosmology
    edges: Float64Array
    starts: NDArray[np.intp]

    def model(self, log_mass: Float64Array) -> Float64Array:
        """Tangential reduced shear (n_mass, n) that each galaxy should show."""
        src = self.sources
        tables = make_halo_tables(
            10.0**log_mass, z=self.z_lens, options=self.halo, cosmology=self.cosmology
        )
        out = np.empty((len(log_mass), len(src.east)))
        reduced_shear_grid(
            src.ln_radius, src.beta, src.beta_ratio, tables.log_scale, tables.amplitude,
            LN_X_MIN, tables.step, tables.kappa, tables.gamma, out,
        )  # fmt: skip
        if src.dilution.amplitude > 0:
            out /= src.boost
        return out

    def ring_sums(self, values: Float64Array) -> Float64Array:
        """Sums over the galaxies of each ring, of the last axis."""
        padded = np.concatenate([values, np.zeros((*values.shape[:-1], 1))], axis=-1)
        sums = np.add.reduceat(padded, self.starts[:-1], axis=-1)
        return np.where(np.diff(self.starts) > 0, sums, 0.0)


def _make_problem(
    src: LensedSources,
    *,
    z_lens: float,
    halo: HaloOptions,
    cosmology: Cosmology,
    n_rings: int,
) -> _Problem:
    edges = ring_edges(src.radius, n_rings)
    index = ring_index(src.radius, edges)
    src = src.reordered(np.argsort(index, kind="stable"))
    g_t, g_x = src.tangential()
    starts = np.concatenate([[0], np.cumsum(np.bincount(index, minlength=n_rings))])
    return _Problem(
        sources=src, g_t=g_t, g_x=g_x, z_lens=z_lens, halo=halo, cosmology=cosmology,
        edges=edges, starts=starts,
    )  # fmt: skip


def structure_covariance(
    sources: LensedSources, edges: Float64Array, *, cosmology: Cosmology
) -> Float64Array:
    """Covariance of the mean shear in rings by matter along the line of sight.

    Parameters
    ----------
    sources : LensedSources
        Galaxies, for the distribution of their redshifts.
    edges : (n + 1,) float64 [Mpc]
        Edges of the rings.
    cosmology : Cosmology
        The universe.

    Returns
    -------
    (n, n) float64
        Covariance of g_t.
    """
    ell = np.geomspace(10.0, 3e5, 300)
    power = convergence_power(
        ell, z_source=sources.z_source, weight=sources.z_weight, cosmology=cosmology
    )
    return shear_covariance(edges / sources.mpc_per_arcmin, ell=ell, power=power)


def _square_root(covariance: Float64Array) -> Float64Array:
    value, vector = np.linalg.eigh(covariance)
    return np.asarray(vector * np.sqrt(np.maximum(value, 0.0)))


def _minimum(
    log_mass: Float64Array, chi2: NDArray[np.floating]
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


class _Likelihood:
    """Chi2 of a mass, marginalised over one amplitude of shear in each ring.

    With residuals r, weights w / sigma2 and the covariance C = L L^T of the rings,
    ``chi2 = sum w r^2 / sigma2 - v^T (1 + L^T D L)^-1 v``, ``v = L^T u``, where u and D are the
    sums of w r / sigma2 and w / sigma2 over each ring (Woodbury).
    """

    def __init__(self, problem: _Problem, sigma2: float, covariance: Float64Array | None) -> None:
        self.problem, self.sigma2 = problem, sigma2
        self.root = None if covariance is None else _square_root(covariance)
        self.weight = problem.sources.weight / sigma2

    def gain(self, u: Float64Array, d: Float64Array) -> Float64Array:
        """The subtracted term of each column of u (..., n_ring, n_mass); d is (..., n_ring)."""
        assert self.root is not None
        v = self.root.T @ u
        inner = np.eye(len(self.root)) + self.root.T @ (d[..., :, None] * self.root)
        return np.asarray(np.sum(v * np.linalg.solve(inner, v), axis=-2))

    def chi2(self, model: Float64Array) -> Float64Array:
        """Chi2 of each row of a model (n_mass, n)."""
        residual = self.problem.g_t - model
        out = np.einsum("i,ki->k", self.weight, residual**2)
        if self.root is not None:
            u = self.problem.ring_sums(self.weight * residual).T
            out -= self.gain(u, self.problem.ring_sums(self.weight))
        return out

    def information(self, log_mass: float) -> float:
        """Fisher information of ln M: its inverse is the variance to be expected."""
        step, problem = 1e-3, self.problem
        ends = problem.model(np.array([log_mass - step, log_mass + step]))
        slope = (ends[1] - ends[0]) / (2.0 * step * np.log(10.0))
        total = float(np.sum(self.weight * slope**2))
        if self.root is None:
            return total
        u = problem.ring_sums(self.weight * slope)[:, None]
        return total - float(self.gain(u, problem.ring_sums(self.weight))[0])


def _bootstrap(
    likelihood: _Likelihood,
    model: Float64Array,
    log_mass: Float64Array,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[Float64Array, NDArray[np.bool_]]:
    """Best mass of each resampled catalogue, with new matter along the line of sight each time."""
    problem, weight = likelihood.problem, likelihood.weight
    n = model.shape[1]
    middle = model[int(likelihood.chi2(model).argmin())].copy()
    terms = np.empty(model.shape, dtype=np.float32)
    chi2_terms(model, problem.g_t, weight, middle, terms)
    rings = _RingTerms(likelihood, model) if likelihood.root is not None else None
    best, at_end = [], []
    for start in range(0, n_bootstrap, _BLOCK):
        rows = min(_BLOCK, n_bootstrap - start)
        counts = np.empty((n, rows), dtype=np.float32, order="F")
        for b in range(rows):
            counts[:, b] = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n)
        chi2 = (terms @ counts).astype(np.float64)
        if rings is not None:
            chi2 += rings.correction(counts, rng)
        found, ends = _minimum(log_mass, chi2)
        best.append(found)
        at_end.append(ends)
    return 10.0 ** np.concatenate(best), np.concatenate(at_end)


class _RingTerms:
    """What matter along the line of sight adds to chi2 of resampled catalogues."""

    def __init__(self, likelihood: _Likelihood, model: Float64Array) -> None:
        problem = likelihood.problem
        self.likelihood, self.starts = likelihood, problem.starts
        self.residual = (likelihood.weight * (problem.g_t - model)).astype(np.float32)
        self.weight = likelihood.weight.astype(np.float32)

    def correction(self, counts: Float32Array, rng: np.random.Generator) -> Float64Array:
        """Difference of chi2 (n_mass, n_sample) to that without structure."""
        root = self.likelihood.root
        assert root is not None
        n_ring, rows = len(root), counts.shape[1]
        u = np.zeros((rows, n_ring, self.residual.shape[0]))
        d = np.zeros((rows, n_ring))
        for ring in range(n_ring):
            part = slice(self.starts[ring], self.starts[ring + 1])
            u[:, ring] = (self.residual[:, part] @ counts[part]).T
            d[:, ring] = self.weight[part] @ counts[part]
        shift = rng.normal(size=(rows, n_ring)) @ root.T
        # Shear s in a ring changes the residuals: sum w (r + s)^2 and u + D s.
        linear = 2.0 * np.einsum("br,brk->bk", shift, u)
        moved = u + (d * shift)[:, :, None]
        return (linear - self.likelihood.gain(moved, d)).T


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


def _best_mass(
    likelihood: _Likelihood, log_mass: Float64Array, chi2: Float64Array
) -> tuple[float, bool]:
    """Exact minimum of chi2 in log10 M, and whether it is at the end of the search."""
    start, at_end = _minimum(log_mass, chi2[:, None])
    if at_end[0]:
        return float(start[0]), True
    k = int(chi2.argmin())
    found = minimize_scalar(
        lambda m: likelihood.chi2(likelihood.problem.model(np.array([m])))[0],
        bounds=(log_mass[max(k - 1, 0)], log_mass[min(k + 1, len(log_mass) - 1)]),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(found.x), False


def _shape_scatter(problem: _Problem, model: Float64Array) -> tuple[float, float]:
    """Variance of a galaxy of mean weight as the fit needs it, and of a component as it is.

    Weights need not be inverse variances: chi2 is scaled so that its width is that of the scatter.
    """
    weight, n = problem.sources.weight, len(problem.g_t)
    scatter2 = weight**2 * ((problem.g_t - model) ** 2 + problem.g_x**2)
    total = float(np.sum(scatter2)) * n / (2.0 * n - 1.0)
    return total / float(np.sum(weight)), total / float(np.sum(weight**2))


def _covariance(
    problem: _Problem, model: Float64Array, options: MassFitOptions, structure: Float64Array
) -> Float64Array | None:
    """Covariance of the rings beyond the shapes: line of sight, scatter of clusters."""
    if not options.large_scale_structure and options.intrinsic_scatter == 0:
        return None
    out = structure.copy() if options.large_scale_structure else np.zeros_like(structure)
    if options.intrinsic_scatter > 0:
        weight = problem.sources.weight
        mean = problem.ring_sums(weight * model) / np.maximum(problem.ring_sums(weight), 1e-30)
        out += np.diag((options.intrinsic_scatter * mean) ** 2)
    return out


def fit_nfw_mass(
    sample: ShearSample,
    *,
    z_lens: float,
    centre: tuple[float, float],
    rng: np.random.Generator,
    options: MassFitOptions = MassFitOptions(),
    sources: SourceOptions = SourceOptions(),
    halo: HaloOptions = HaloOptions(),
    cosmology: CosmologyOptions = FIDUCIAL_OPTIONS,
) -> MassFit:
    """Fit the mass of a halo to the reduced shear around a centre.

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
        Search, errors.
    sources : SourceOptions
        Radial range, redshifts, dilution by members.
    halo : HaloOptions
        Concentration, truncation, miscentring.
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
    src = select_sources(sample, z_lens=z_lens, centre=centre, options=sources, cosmology=universe)
    problem = _make_problem(
        src, z_lens=z_lens, halo=halo, cosmology=universe, n_rings=options.n_radial_bins
    )
    log_mass: Float64Array = np.asarray(
        np.linspace(options.log_mass_min, options.log_mass_max, options.n_mass), np.float64
    )
    model = problem.model(log_mass)
    first = _Likelihood(problem, 1.0, None).chi2(model)
    start = model[int(first.argmin())]
    sigma2, noise2 = _shape_scatter(problem, start)
    structure = structure_covariance(problem.sources, problem.edges, cosmology=universe)
    covariance = _covariance(problem, start, options, structure)
    likelihood = _Likelihood(problem, sigma2, covariance)
    chi2 = likelihood.chi2(model) if covariance is not None else first / sigma2
    best, at_end = _best_mass(likelihood, log_mass, chi2)
    realizations, ends = _bootstrap(
        likelihood, model, log_mass, n_bootstrap=options.n_bootstrap, rng=rng
    )
    row = _mass_row(likelihood, log_mass, chi2, best, realizations, structure)
    best_model = problem.model(np.array([best]))[0]
    profile = make_shear_profile(
        problem.sources, best_model, noise2=noise2, edges=problem.edges, structure=covariance,
        sigma_critical=float(universe.critical_surface_density(z_lens=z_lens)),  # type: ignore[arg-type]
    )  # fmt: skip
    full = np.diff(problem.starts) > 0
    used = None if covariance is None else covariance[np.ix_(full, full)]
    null = likelihood.chi2(np.zeros((1, len(problem.g_t))))[0]
    row |= {
        "ra": centre[0], "dec": centre[1],
        "snr": np.sqrt(max(null - likelihood.chi2(best_model[None])[0], 0.0)),
        **asdict(judge_profile(profile, structure=used)),
        "sigma_g": np.sqrt(noise2), "radius_min": sources.radius_min_mpc,
        "radius_max": sources.radius_max_mpc, "n_bootstrap": options.n_bootstrap,
        "limit_fraction": float(ends.mean()),
        "flags": int(MeasureFlag.AT_LIMIT) if at_end else 0,
    }  # fmt: skip
    return MassFit(
        table=load_schema("massFit").apply(Table([row])),
        profile=profile,
        bootstrap=realizations,
        masses=10.0**log_mass,
        chi2=chi2 - chi2.min(),
    )


def _mass_row(
    likelihood: _Likelihood,
    log_mass: Float64Array,
    chi2: Float64Array,
    best: float,
    realizations: Float64Array,
    structure: Float64Array,
) -> dict[str, float | int]:
    """The mass, its errors and what it was measured from."""
    problem = likelihood.problem
    src, mass = problem.sources, 10.0**best
    halo = NfwHalo(
        mass=mass, z=problem.z_lens, c=problem.halo.concentration or None,
        cosmology=problem.cosmology,
    )  # fmt: skip
    lower, median, upper = np.percentile(realizations, [15.865, 50.0, 84.135])
    like_low, like_high = _likelihood_interval(log_mass, chi2, best)
    fisher = likelihood.information(best) ** -0.5
    shapes, both = (
        _Likelihood(problem, likelihood.sigma2, covariance).information(best) ** -0.5
        for covariance in (None, structure)
    )
    return {
        "z_lens": problem.z_lens, "m200": mass, "m200_err": 0.5 * (upper - lower),
        "m200_lower": lower, "m200_upper": upper, "m200_median": median,
        "m200_like_lower": like_low, "m200_like_upper": like_high,
        "m200_fisher_err": mass * fisher,
        "m200_lss_err": mass * np.sqrt(max(both**2 - shapes**2, 0.0)),
        "c200": halo.c200, "r200": halo.r200,
        "n_galaxies": len(src.east), "n_without_z": src.n_without_z,
        "dilution": src.dilution.amplitude, "dilution_err": src.dilution.error,
        "mean_beta": float(np.average(src.beta, weights=src.weight)),
    }  # fmt: skip

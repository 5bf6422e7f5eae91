"""One or several halos at once: masses, concentrations and centres, with priors.

Maximum of the posterior by least squares, errors by its curvature, by bootstrap of the galaxies and
by Markov chains. All parameters of all halos are fitted together, so that neighbours do not
borrow each other's shear.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import chi2 as chi2_distribution

from skymill.data.errors import ConfigError, NoDataError
from skymill.data.flags import MeasureFlag
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import ShearSample, plane_to_sky, sky_to_plane, tangential_shear
from skymill.lensing.cosmology import FIDUCIAL_OPTIONS, Cosmology, CosmologyOptions
from skymill.lensing.masses._nfw_kernels import joint_reduced_shear
from skymill.lensing.masses.halo_profiles import LN_X_MIN, HaloOptions, HaloTables, make_halo_tables
from skymill.lensing.masses.measured_profile import ring_edges, ring_index
from skymill.lensing.masses.sources import SourceOptions, mean_efficiency, rows_behind
from skymill.lensing.nfw import concentration

__all__ = ["HaloFit", "HaloFitOptions", "LensPosition", "fit_halos"]

Float64Array = NDArray[np.float64]
_ARCMIN = np.pi / 10800.0
_LN10 = float(np.log(10.0))
_RINGS = 10
_NODES = 2048
_STEP = {"mass": 1e-4, "c": 1e-4, "east": 1e-3, "north": 1e-3}


@dataclass(frozen=True)
class LensPosition:
    """Where a halo is thought to be.

    Parameters
    ----------
    ra, dec : float [deg]
        Centre.
    z : float
        Redshift.
    """

    ra: float
    dec: float
    z: float


@dataclass(frozen=True, kw_only=True)
class HaloFitOptions:
    """Free parameters, priors and sampling of a fit of halos."""

    concentration_scatter: float = option(
        0.16,
        "Gaussian prior of log10 c about the mass-concentration relation (or about a fixed "
        "concentration); 0 keeps c on it",
        unit="dex",
    )
    centre_scatter_arcmin: float = option(
        0.0,
        "Gaussian prior of each coordinate of the centres; 0 keeps them where they are",
        unit="arcmin",
    )
    log_mass_min: float = option(12.0, "Lower end of the flat prior", unit="log10 Msun")
    log_mass_max: float = option(16.5, "Upper end of the flat prior", unit="log10 Msun")
    n_bootstrap: int = option(200, "Bootstrap samples; 0 for none")
    n_steps: int = option(600, "Steps of each Markov chain, a third of them to settle; 0 for none")

    def __post_init__(self) -> None:
        check_range(self, "concentration_scatter", low=0.0, high=2.0)
        check_range(self, "centre_scatter_arcmin", low=0.0, high=60.0)
        check_range(self, "log_mass_min", low=8.0, high=15.0)
        check_range(self, "log_mass_max", low=15.0, high=18.0)
        check_range(self, "n_bootstrap", low=0, high=1_000_000)
        check_range(self, "n_steps", low=0, high=1_000_000)


@dataclass(frozen=True, kw_only=True)
class HaloFit:
    """Fitted halos.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``massHalos``: one row a halo; its metadata hold the covariance of all parameters.
    names : tuple of str
        Parameters, as ``log_mass_0``, ``ln_c_0``, ``east_0``, ``north_0``.
    best : (n_par,) float64
        Maximum of the posterior.
    covariance : (n_par, n_par) float64
        From its curvature.
    bootstrap : (n_bootstrap, n_par) float64
        Maxima of resampled catalogues.
    chain : (n_sample, n_par) float64
        Markov chains after settling.
    """

    table: Table
    names: tuple[str, ...]
    best: Float64Array
    covariance: Float64Array
    bootstrap: Float64Array
    chain: Float64Array


class _Posterior:
    """Residuals of shears and priors for a vector of parameters."""

    def __init__(
        self,
        sample: ShearSample,
        lenses: Sequence[LensPosition],
        options: HaloFitOptions,
        sources: SourceOptions,
        halo: HaloOptions,
        cosmology: Cosmology,
    ) -> None:
        self.lenses, self.options, self.halo = lenses, options, halo
        self.cosmology = cosmology
        self.scale = np.array([float(cosmology.angular_distance(k.z)) * _ARCMIN for k in lenses])
        self.origin = (lenses[0].ra, lenses[0].dec)
        places = [sky_to_plane(ra=k.ra, dec=k.dec, centre=self.origin) for k in lenses]
        self.places = np.array(places, np.float64)
        self._select(sample, sources)
        self._name_parameters()
        self.low, self.high = self._limits()
        self._work = np.empty((3, len(self.east)))
        self._out = np.empty((2, len(self.east)))
        self.sigma2 = 1.0

    def _select(self, sample: ShearSample, sources: SourceOptions) -> None:
        east, north, g1, g2 = sample.in_plane(self.origin)
        distance = np.array(
            [
                np.hypot(east - e, north - n) * s
                for (e, n), s in zip(self.places, self.scale, strict=True)
            ]
        )
        with np.errstate(invalid="ignore"):
            keep = (distance >= sources.radius_min_mpc).all(axis=0)
            keep &= (distance <= sources.radius_max_mpc).any(axis=0)
        nearest = min(k.z for k in self.lenses)
        pairs = [mean_efficiency(sample, z_lens=k.z, cosmology=self.cosmology) for k in self.lenses]
        behind = rows_behind(
            sample, np.max(np.stack([b for b, _ in pairs]), axis=0), z_lens=nearest, options=sources
        )
        in_range = int(keep.sum())
        keep &= behind
        if keep.sum() < sources.min_galaxies:
            raise NoDataError(
                f"{int(keep.sum())} galaxies lie behind z = {nearest} and within "
                f"{sources.radius_max_mpc} Mpc of a halo ({in_range} in range, "
                f"{int(behind.sum())} behind, of {len(sample)}); at least "
                f"{sources.min_galaxies} are needed; is a centre off the field?"
            )
        self.east, self.north = np.ascontiguousarray(east[keep]), np.ascontiguousarray(north[keep])
        self.shear = np.stack([g1[keep], g2[keep]])
        self.beta = np.stack([b[keep] for b, _ in pairs])
        self.ratio = np.stack([r[keep] for _, r in pairs])
        self.weight = sample.weight[keep] / sample.weight[keep].mean()
        for i, lens in enumerate(self.lenses):
            if not (distance[i][keep] <= sources.radius_max_mpc).any():
                raise NoDataError(
                    f"no galaxy behind the halo at ra={lens.ra:.5f}, dec={lens.dec:.5f} deg lies "
                    f"within {sources.radius_max_mpc} Mpc of it; is the centre off the field?"
                )

    def _name_parameters(self) -> None:
        names: list[str] = []
        for i in range(len(self.lenses)):
            names.append(f"log_mass_{i}")
            if self.options.concentration_scatter > 0:
                names.append(f"ln_c_{i}")
            if self.options.centre_scatter_arcmin > 0:
                names += [f"east_{i}", f"north_{i}"]
        self.names = tuple(names)
        self.steps = np.array([_STEP[n.rsplit("_", 1)[0].split("_")[-1]] for n in names])

    def unpack(self, p: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Masses (n,) [Msun], concentrations (n,) and places (n, 2) [arcmin] of the halos."""
        n = len(self.lenses)
        rows = p.reshape(n, -1)
        log_mass = rows[:, 0]
        free = self.options.concentration_scatter > 0
        c = np.exp(rows[:, 1]) if free else self._relation(log_mass)
        column = 2 if free else 1
        places = self.places
        if self.options.centre_scatter_arcmin > 0:
            places = places + rows[:, column : column + 2]
        return 10.0**log_mass, c, places

    def _relation(self, log_mass: Float64Array) -> Float64Array:
        if self.halo.concentration > 0:
            return np.full(len(self.lenses), self.halo.concentration)
        return np.array(
            [
                float(concentration(10.0**m, z=k.z))
                for m, k in zip(log_mass, self.lenses, strict=True)
            ]
        )

    def start(self) -> Float64Array:
        """Halos of 10^14.5 Msun on the relation, at their places."""
        out = []
        for name in self.names:
            kind, index = name.rsplit("_", 1)
            relation = self._relation(np.full(len(self.lenses), 14.5))[int(index)]
            out.append({"log_mass": 14.5, "ln_c": float(np.log(relation))}.get(kind, 0.0))
        return np.array(out)

    def _limits(self) -> tuple[Float64Array, Float64Array]:
        """Flat limits of the parameters."""
        low, high = np.full((2, len(self.names)), np.inf)
        low = -low
        for i, name in enumerate(self.names):
            if name.startswith("log_mass"):
                low[i], high[i] = self.options.log_mass_min, self.options.log_mass_max
            if name.startswith("ln_c"):
                low[i], high[i] = np.log(0.1), np.log(100.0)
        return low, high

    def model(self, p: Float64Array) -> Float64Array:
        """Reduced shear (2, n)."""
        mass, c, places = self.unpack(p)
        tables = self._tables(mass, c)
        joint_reduced_shear(
            self.east, self.north, np.ascontiguousarray(places[:, 0]),
            np.ascontiguousarray(places[:, 1]), self.scale, self.beta, self.ratio,
            tables.log_scale, tables.amplitude, LN_X_MIN, tables.step, tables.kappa, tables.gamma,
            self._work, self._out,
        )  # fmt: skip
        return self._out

    def _tables(self, mass: Float64Array, c: Float64Array) -> HaloTables:
        parts = [
            make_halo_tables(
                [m], z=k.z, options=self.halo, concentrations=[cc], cosmology=self.cosmology,
                n_nodes=_NODES,
            )
            for m, cc, k in zip(mass, c, self.lenses, strict=True)
        ]  # fmt: skip
        return HaloTables(
            log_scale=np.concatenate([t.log_scale for t in parts]),
            amplitude=np.concatenate([t.amplitude for t in parts]),
            kappa=np.concatenate([t.kappa for t in parts]),
            gamma=np.concatenate([t.gamma for t in parts]),
        )

    def priors(self, p: Float64Array) -> Float64Array:
        """Deviations from the Gaussian priors in their units."""
        rows = p.reshape(len(self.lenses), -1)
        out: list[Float64Array] = []
        column = 1
        if self.options.concentration_scatter > 0:
            width = self.options.concentration_scatter * _LN10
            out.append((rows[:, 1] - np.log(self._relation(rows[:, 0]))) / width)
            column = 2
        if self.options.centre_scatter_arcmin > 0:
            out.append((rows[:, column:] / self.options.centre_scatter_arcmin).ravel())
        return np.concatenate(out) if out else np.zeros(0)

    def residuals(self, p: Float64Array) -> Float64Array:
        """All deviations: 2 n shears, then the priors."""
        scale = np.sqrt(self.weight / self.sigma2)
        return np.concatenate([((self.shear - self.model(p)) * scale).ravel(), self.priors(p)])

    def jacobian(self, p: Float64Array) -> Float64Array:
        """Derivatives of the residuals, by central differences."""
        columns = []
        for i, step in enumerate(self.steps):
            d = np.zeros_like(p)
            d[i] = step
            columns.append((self.residuals(p + d) - self.residuals(p - d)) / (2.0 * step))
        return np.stack(columns, axis=1)

    def log_probability(self, p: Float64Array) -> float:
        """Posterior up to a constant; -inf beyond the flat limits."""
        if (p < self.low).any() or (p > self.high).any():
            return -np.inf
        left = self.shear - self.model(p)
        chi2 = float(np.einsum("j,ij,ij->", self.weight, left, left)) / self.sigma2
        return -0.5 * (chi2 + float(np.sum(self.priors(p) ** 2)))


def _maximise(posterior: _Posterior, start: Float64Array) -> Float64Array:
    low, high = posterior.low, posterior.high
    found = least_squares(
        posterior.residuals, np.clip(start, low, high), jac=posterior.jacobian,
        bounds=(low, high), x_scale="jac",
    )  # fmt: skip
    return np.asarray(found.x, np.float64)


def _bootstrap(
    posterior: _Posterior, best: Float64Array, n_bootstrap: int, rng: np.random.Generator
) -> Float64Array:
    """Maxima of resampled catalogues by Gauss-Newton steps from the best fit."""
    n = len(posterior.east)
    low, high = posterior.low, posterior.high
    out = np.empty((n_bootstrap, len(best)))
    weight = posterior.weight
    for b in range(n_bootstrap):
        posterior.weight = weight * np.bincount(rng.integers(0, n, n), minlength=n)
        p = best
        for _ in range(4):
            jacobian, residual = posterior.jacobian(p), posterior.residuals(p)
            step = np.linalg.lstsq(jacobian, -residual, rcond=None)[0]
            p = np.clip(p + np.clip(step, -0.5, 0.5), low, high)
            if np.abs(step).max() < 1e-3:
                break
        out[b] = p
    posterior.weight = weight
    return out


def _sample(
    posterior: _Posterior,
    best: Float64Array,
    covariance: Float64Array,
    n_steps: int,
    rng: np.random.Generator,
) -> tuple[Float64Array, dict[str, float]]:
    """Markov chains of the affine-invariant sampler (Goodman & Weare 2010), and how they went."""
    import emcee

    n_par = len(best)
    n_walker = max(4 * n_par, 16)
    low, high = posterior.low, posterior.high
    start = rng.multivariate_normal(best, covariance, size=n_walker, method="svd")
    start = np.clip(start, np.where(np.isfinite(low), low + 1e-6, low), high - 1e-6)
    sampler = emcee.EnsembleSampler(n_walker, n_par, posterior.log_probability)
    sampler.random_state = np.random.RandomState(int(rng.integers(2**31))).get_state()
    sampler.run_mcmc(start, n_steps, progress=False)
    tau = float(np.max(sampler.get_autocorr_time(quiet=True, tol=0, discard=n_steps // 3)))
    chain = sampler.get_chain(discard=n_steps // 3, flat=True)
    n_kept = n_steps - n_steps // 3
    return np.asarray(chain), {
        "acceptance": float(np.mean(sampler.acceptance_fraction)),
        "autocorrelation": tau,
        "effective_samples": n_kept * n_walker / tau if tau > 0 else 0.0,
    }


def fit_halos(
    sample: ShearSample,
    lenses: Sequence[LensPosition],
    *,
    rng: np.random.Generator,
    options: HaloFitOptions = HaloFitOptions(),
    sources: SourceOptions = SourceOptions(),
    halo: HaloOptions = HaloOptions(),
    cosmology: CosmologyOptions = FIDUCIAL_OPTIONS,
) -> HaloFit:
    """Fit the masses of halos together, with free concentrations and centres if asked for.

    Parameters
    ----------
    sample : ShearSample
        Galaxies, with p(z) or point redshifts.
    lenses : sequence of LensPosition
        The halos; the first is the origin of the tangent plane.
    rng : numpy.random.Generator
        For bootstrap and chains.
    options : HaloFitOptions
        Free parameters, priors, sampling.
    sources : SourceOptions
        Galaxies used: those at least ``radius_min_mpc`` from every halo and within
        ``radius_max_mpc`` of one.
    halo : HaloOptions
        Truncation; a fixed concentration. Centres are free by ``options`` instead of
        ``miscentring_mpc``.
    cosmology : CosmologyOptions
        The universe.

    Returns
    -------
    HaloFit
        Maximum of the posterior with errors three ways.

    Raises
    ------
    NoDataError
        If too few galaxies lie behind the halos.
    ConfigError
        If there is no halo, or miscentring is asked for.
    """
    if not lenses:
        raise ConfigError("fit_halos needs the position of at least one halo; got none")
    if halo.miscentring_mpc > 0:
        raise ConfigError(
            "miscentring_mpc belongs to the fit of one mean profile; here set "
            "centre_scatter_arcmin, which lets the centres go"
        )
    for lens in lenses:
        if not 0.001 < lens.z < 5:
            raise ConfigError(f"the redshift of a halo must be in (0.001, 5); got {lens.z}")
    posterior = _Posterior(sample, lenses, options, sources, halo, Cosmology(cosmology))
    best = _maximise(posterior, posterior.start())
    weighted = posterior.weight**2 * (posterior.shear - posterior.model(best)) ** 2
    # Weights need not be inverse variances: scale them by the scatter about the fit.
    posterior.sigma2 = float(np.sum(weighted)) / (2.0 * float(np.sum(posterior.weight)))
    best = _maximise(posterior, best)
    jacobian = posterior.jacobian(best)
    covariance = np.linalg.pinv(jacobian.T @ jacobian)
    n_par = len(best)
    bootstrap = np.empty((0, n_par))
    if options.n_bootstrap:
        bootstrap = _bootstrap(posterior, best, options.n_bootstrap, rng)
    chain = np.empty((0, n_par))
    notes: dict[str, float] = {}
    if options.n_steps:
        chain, notes = _sample(posterior, best, covariance, options.n_steps, rng)
    table = _tabulate(posterior, best, covariance, bootstrap, chain)
    table.meta["parameters"] = json.dumps(posterior.names)
    table.meta["covariance"] = json.dumps(np.round(covariance, 8).tolist())
    table.meta["chains"] = json.dumps(notes)
    return HaloFit(
        table=table, names=posterior.names, best=best, covariance=covariance,
        bootstrap=bootstrap, chain=chain,
    )  # fmt: skip


def _interval(values: Float64Array) -> tuple[float, float, float]:
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    low, mid, high = np.percentile(values, [15.865, 50.0, 84.135])
    return float(low), float(mid), float(high)


def _significance(posterior: _Posterior, best: Float64Array, index: int) -> float:
    """Square root of the rise of chi2 when one halo is taken away and the others are refitted."""
    full = float(np.sum(posterior.residuals(best) ** 2))
    step = len(best) // len(posterior.lenses)
    free = np.ones(len(best), dtype=bool)
    free[index * step] = False
    low, high = posterior.low, posterior.high

    def residuals(q: Float64Array) -> Float64Array:
        p = best.copy()
        p[free] = q
        p[index * step] = 8.0  # 10^8 Msun: no shear
        return posterior.residuals(p)

    if not free.any():
        return float(np.sqrt(max(np.sum(residuals(np.empty(0)) ** 2) - full, 0.0)))
    found = least_squares(residuals, best[free], bounds=(low[free], high[free]), x_scale="jac")
    return float(np.sqrt(max(2.0 * found.cost - full, 0.0)))


def _ring_chi2(posterior: _Posterior, best: Float64Array, place: Float64Array) -> tuple[float, int]:
    """Chi2 of the tangential residual in rings about a place, and how many rings there are."""
    east, north = posterior.east - place[0], posterior.north - place[1]
    left = posterior.shear - posterior.model(best)
    tangential, _ = tangential_shear(east=east, north=north, g1=left[0], g2=left[1])
    radius = np.hypot(east, north)
    index = ring_index(radius, ring_edges(radius, _RINGS))
    weight = posterior.weight / posterior.sigma2
    total = np.bincount(index, weights=weight * tangential, minlength=_RINGS)
    # The variance of the sum; weights need not be inverse variances.
    variance = np.bincount(index, weights=weight**2, minlength=_RINGS) * float(
        np.sum(posterior.weight**2 * left**2) / (2.0 * np.sum(posterior.weight**2))
    )
    used = variance > 0
    return float(np.sum(total[used] ** 2 / variance[used])), int(used.sum())


def _tabulate(
    posterior: _Posterior,
    best: Float64Array,
    covariance: Float64Array,
    bootstrap: Float64Array,
    chain: Float64Array,
) -> Table:
    mass, c, places = posterior.unpack(best)
    error = np.sqrt(np.diag(covariance))
    rows = []
    step = len(best) // len(posterior.lenses)
    low, high = posterior.low, posterior.high
    for i, lens in enumerate(posterior.lenses):
        k = i * step
        ra, dec = plane_to_sky(east=places[i, 0], north=places[i, 1], centre=posterior.origin)
        free_c = posterior.options.concentration_scatter > 0
        free_centre = posterior.options.centre_scatter_arcmin > 0
        boot, mcmc = _interval(10.0 ** bootstrap[:, k]), _interval(10.0 ** chain[:, k])
        c_low, c_mid, c_high = _interval(np.exp(chain[:, k + 1])) if free_c else (np.nan,) * 3
        chi2, rings = _ring_chi2(posterior, best, places[i])
        dof = max(rings - (2 if free_c else 1), 1)
        at_limit = best[k] - low[k] < 1e-3 or high[k] - best[k] < 1e-3
        rows.append(
            {
                "halo": i, "ra": float(ra), "dec": float(dec), "z_lens": lens.z,
                "centre_err": float(error[k + step - 1]) if free_centre else 0.0,
                "m200": mass[i], "m200_err": mass[i] * _LN10 * error[k],
                "m200_boot_lower": boot[0], "m200_boot_median": boot[1], "m200_boot_upper": boot[2],
                "m200_mcmc_lower": mcmc[0], "m200_mcmc_median": mcmc[1], "m200_mcmc_upper": mcmc[2],
                "c200": c[i], "c200_err": c[i] * error[k + 1] if free_c else 0.0,
                "c200_mcmc_lower": c_low, "c200_mcmc_median": c_mid, "c200_mcmc_upper": c_high,
                "snr": _significance(posterior, best, i),
                "chi2_profile": chi2, "dof_profile": dof,
                "p_profile": float(chi2_distribution.sf(chi2, dof)),
                "n_galaxies": len(posterior.east),
                "flags": int(MeasureFlag.AT_LIMIT) if at_limit else 0,
            }
        )  # fmt: skip
    return load_schema("massHalos").apply(Table(rows))

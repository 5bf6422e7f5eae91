"""Cluster masses are unbiased on shears that an independent library (pyccl) has made.

1000 clusters of each of two masses, redshifts 0.05 to 0.2, 25 and 15 shapes per arcmin2 behind
the cluster. The shears never come from our own halo.
"""

import numpy as np
import pyccl
import pytest
from scipy.interpolate import CubicSpline

from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.masses.mass_fit import MassFitOptions, fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions
from skymill.lensing.nfw import concentration

pytestmark = pytest.mark.slow

N_CLUSTER = 1000
# Shapes per arcmin2 and outer radius [Mpc] for each mass: the mean of 1000 clusters has to be known
# to half a per cent, and more would only take longer.
DENSITY = {5e14: 25.0, 1e15: 15.0}
R_MAX = {5e14: 3.0, 1e15: 2.0}
SIGMA = 0.26
CENTRE = (30.0, 40.0)
R_MIN = 0.2
CRITICAL = pyccl.halos.MassDef200c
COSMOLOGY = pyccl.Cosmology(
    Omega_c=0.25, Omega_b=0.05, h=0.7, sigma8=0.8, n_s=0.96, Neff=0.0, T_CMB=1e-3,
    transfer_function="eisenstein_hu",
)  # fmt: skip
RADII = np.geomspace(0.02, 12.0, 300)  # Mpc


def halo_shapes(mass, z):
    """Surface densities [Msun/Mpc2] of a halo at `RADII`, by pyccl: Sigma and its mean inside."""
    c = pyccl.halos.ConcentrationConstant(float(concentration(mass, z=z)), mass_def=CRITICAL)
    profile = pyccl.halos.HaloProfileNFW(
        mass_def=CRITICAL, concentration=c, truncated=False,
        projected_analytic=True, cumul2d_analytic=True,
    )  # fmt: skip
    a = 1.0 / (1.0 + z)
    comoving = RADII / a
    sigma = profile.projected(COSMOLOGY, comoving, mass, a) / a**2
    mean = profile.cumul2d(COSMOLOGY, comoving, mass, a) / a**2
    return CubicSpline(np.log(RADII), sigma), CubicSpline(np.log(RADII), mean)


def halo_shear(mass, z, radius, z_source):
    """Shear and convergence at a distance [Mpc], by pyccl."""
    sigma, mean = halo_shapes(mass, z)
    critical = pyccl.sigma_critical(
        COSMOLOGY, a_lens=1.0 / (1.0 + z), a_source=1.0 / (1.0 + z_source)
    )
    ln = np.log(radius)
    return (mean(ln) - sigma(ln)) / critical, sigma(ln) / critical


def draw_cluster(rng, mass):
    """A catalogue around a cluster, its redshift, and the Fisher error of ln M."""
    z = rng.uniform(0.05, 0.2)
    scale = float(pyccl.angular_diameter_distance(COSMOLOGY, 1.0 / (1.0 + z))) * np.pi / 10800
    low, high = R_MIN / scale, R_MAX[mass] / scale
    n = rng.poisson(DENSITY[mass] * np.pi * (high**2 - low**2))
    r, phi = np.sqrt(rng.uniform(low**2, high**2, n)), rng.uniform(0, 2 * np.pi, n)
    z_source = np.clip(z + 0.11 + rng.gamma(3.0, 0.25, n), None, 4.0)
    gamma, kappa = halo_shear(mass, z, r * scale, z_source)
    g = gamma / (1 - kappa)
    ends = []
    for factor in (0.99, 1.01):
        gamma, kappa = halo_shear(factor * mass, z, r * scale, z_source)
        ends.append(gamma / (1 - kappa))
    fisher = np.sum(((ends[1] - ends[0]) / 0.02) ** 2) / SIGMA**2
    ra, dec = plane_to_sky(east=r * np.cos(phi), north=r * np.sin(phi), centre=CENTRE)
    sample, _ = ShearSample.from_columns(
        ra=ra, dec=dec, z=z_source,
        g1=-g * np.cos(2 * phi) + rng.normal(0, SIGMA, n),
        g2=-g * np.sin(2 * phi) + rng.normal(0, SIGMA, n),
    )  # fmt: skip
    return sample, z, fisher**-0.5


def fit_many(mass, clusters, seed):
    options = MassFitOptions(
        n_bootstrap=600, log_mass_min=14.0, log_mass_max=15.7, n_mass=52,
        large_scale_structure=False,
    )  # fmt: skip
    sources = SourceOptions(radius_min_mpc=R_MIN, radius_max_mpc=R_MAX[mass], z_margin=0.0)
    joint, rows = np.zeros(options.n_mass), []
    for k in clusters:
        rng = np.random.default_rng([seed, int(mass / 1e14), k])
        sample, z, fisher = draw_cluster(rng, mass)
        fit = fit_nfw_mass(
            sample, z_lens=z, centre=CENTRE, rng=rng, options=options, sources=sources
        )
        joint += fit.chi2
        row = fit.table[0]
        upward = row["m200"] < mass
        side = row["m200_upper"] - row["m200"] if upward else row["m200"] - row["m200_lower"]
        rows.append(
            (row["m200"], row["m200_err"], (row["m200"] - mass) / side, fisher,
             row["p_profile"], row["p_cross"], row["m200_fisher_err"])
        )  # fmt: skip
    return np.log(fit.masses), joint, np.array(rows)


def summarise(mass, ln_m, joint, rows):
    k = int(joint.argmin())
    near = slice(k - 2, k + 3)
    # The joint chi2 is a parabola of width sem: five points of the coarse grid would miss it.
    curve = np.polyfit(ln_m[near] - np.log(mass), joint[near], 4)
    grid = np.linspace(ln_m[k - 1], ln_m[k + 1], 20001) - np.log(mass)
    value = np.polyval(curve, grid)
    best = int(value.argmin())
    return {
        "bias": float(np.expm1(grid[best])),
        "sem": float(np.polyval(np.polyder(curve, 2), grid[best]) / 2) ** -0.5,
        "mean": float(np.average(rows[:, 0] / mass - 1, weights=rows[:, 3] ** -2)),
        "pull": float(np.std(rows[:, 2])),
        "pull_mean": float(np.mean(rows[:, 2])),
        "fisher": float(np.median(rows[:, 1] / rows[:, 0] / rows[:, 3])),
        "own_fisher": float(np.median(rows[:, 6] / rows[:, 0] / rows[:, 3])),
        "scatter": float(np.std(np.log(rows[:, 0] / mass) / rows[:, 3])),
        "p_profile": rows[:, 4],
        "p_cross": rows[:, 5],
    }


@pytest.mark.parametrize("mass", [5e14, 1e15])
def test_bias_pulls_and_errors(mass):
    found = summarise(mass, *fit_many(mass, range(N_CLUSTER), seed=5))
    numbers = {k: round(v, 4) for k, v in found.items() if np.ndim(v) == 0}
    print(f"M200 = {mass:.0e} Msun, {N_CLUSTER} clusters: {numbers}")  # noqa: T201
    assert abs(found["bias"]) + 2 * found["sem"] < 0.02
    assert found["sem"] < 0.007
    # 1000 clusters: the width is known to 2.2 per cent.
    assert 0.95 < found["pull"] < 1.05
    # Errors of single clusters against what the geometry allows, by finite differences of pyccl.
    assert abs(found["fisher"] - 1) < 0.1
    assert abs(found["scatter"] - 1) < 0.1
    # Goodness of fit means something: both probabilities are uniform (0.5 +- 0.009).
    for name in ("p_profile", "p_cross"):
        assert abs(np.mean(found[name]) - 0.5) < 0.04
        assert 0.03 < np.mean(found[name] < 0.05) < 0.075

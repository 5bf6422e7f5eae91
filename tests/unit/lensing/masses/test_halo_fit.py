import json

import galsim
import numpy as np
import pytest

from skymill.data.errors import ConfigError, NoDataError
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.masses.halo_fit import HaloFitOptions, LensPosition, fit_halos
from skymill.lensing.masses.halo_profiles import HaloOptions
from skymill.lensing.masses.mass_fit import MassFitOptions, fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions
from skymill.lensing.nfw import concentration
from skymill.qa.mass_figures import draw_halo_fit

pytestmark = pytest.mark.filterwarnings("ignore:'where' used without 'out'")

CENTRE, Z = (40.0, -30.0), 0.2
#: Two halos five arcminutes apart.
TRUTH = ((1e15, (-2.5, 0.0)), (6e14, (2.5, 0.0)))
FAST = HaloFitOptions(n_bootstrap=0, n_steps=0)


def draw(seed, *, n=4000, side=24.0, sigma=0.25, halos=TRUTH, c=None):
    """Shears by galsim; convergences and shears of several halos add."""
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    z = np.clip(rng.gamma(3.0, 0.3, n), 0.32, 3.0)
    gamma, kappa = np.zeros(n, complex), np.zeros(n)
    for mass, (x, y) in halos:
        halo = galsim.NFWHalo(
            mass * 0.7, c or float(concentration(mass, z=Z)), Z, omega_m=0.3, omega_lam=0.7,
            halo_pos=galsim.PositionD(x * 60, y * 60),
        )  # fmt: skip
        g1, g2 = halo.getShear((east * 60, north * 60), z, reduced=False)
        gamma += g1 + 1j * g2
        kappa += halo.getConvergence((east * 60, north * 60), z)
    g = gamma / (1 - kappa) + rng.normal(0, sigma, n) + 1j * rng.normal(0, sigma, n)
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    sample, _ = ShearSample.from_columns(ra=ra, dec=dec, g1=g.real, g2=g.imag, z=z, max_shear=5)
    return sample


def lenses(halos=TRUTH, z=Z):
    out = []
    for _, (x, y) in halos:
        ra, dec = plane_to_sky(east=x, north=y, centre=CENTRE)
        out.append(LensPosition(float(ra), float(dec), z))
    return out


def test_two_halos_come_back_without_noise():
    fit = fit_halos(
        draw(1, sigma=1e-6, n=1500), lenses(), rng=np.random.default_rng(1), options=FAST
    )
    for row, (mass, _) in zip(fit.table, TRUTH, strict=True):
        # galsim's rounded constants: 0.15 %.
        assert row["m200"] == pytest.approx(mass, rel=0.003)
        assert row["c200"] == pytest.approx(float(concentration(mass, z=Z)), rel=0.003)
    assert load_schema("massHalos").problems(fit.table) == []


@pytest.mark.slow
def test_two_halos_five_arcminutes_apart_are_both_recovered():
    rows = []
    for seed in range(30):
        fit = fit_halos(
            draw(seed, n=8000), lenses(), rng=np.random.default_rng(seed),
            options=HaloFitOptions(concentration_scatter=0.0, n_bootstrap=0, n_steps=0),
        )  # fmt: skip
        rows.append([(r["m200"], r["m200_err"], r["snr"], r["p_profile"]) for r in fit.table])
    table = np.array(rows)
    for k, (mass, _) in enumerate(TRUTH):
        m, err, snr, p = table[:, k].T
        sem = err.mean() / np.sqrt(30)
        # The mean mass of a skewed likelihood, sem 3 %: a bias of a tenth would show.
        assert abs(m.mean() - mass) < 3 * sem
        assert np.std(np.log(m / mass) / (err / m)) == pytest.approx(1.0, abs=0.4)
        assert (snr > 4).all()
        assert np.mean(p) == pytest.approx(0.5, abs=0.2)
    # A fit of one halo alone takes its neighbour's shear.
    alone = fit_nfw_mass(
        draw(0, sigma=1e-3, n=11500), z_lens=Z, centre=(lenses()[1].ra, lenses()[1].dec),
        rng=np.random.default_rng(1), options=MassFitOptions(n_bootstrap=20),
    )  # fmt: skip
    assert abs(alone.table["m200"][0] / TRUTH[1][0] - 1) > 0.2


@pytest.mark.slow
def test_errors_three_ways_agree():
    fit = fit_halos(
        draw(3, n=6000), lenses(), rng=np.random.default_rng(1),
        options=HaloFitOptions(concentration_scatter=0.0, n_bootstrap=100, n_steps=300),
    )  # fmt: skip
    for row in fit.table:
        curvature = row["m200_err"]
        boot = 0.5 * (row["m200_boot_upper"] - row["m200_boot_lower"])
        chain = 0.5 * (row["m200_mcmc_upper"] - row["m200_mcmc_lower"])
        # 100 bootstraps: 10 %; some 200 independent samples: 7 %.
        assert boot == pytest.approx(curvature, rel=0.3)
        assert chain == pytest.approx(curvature, rel=0.3)
    assert json.loads(fit.table.meta["parameters"]) == ["log_mass_0", "log_mass_1"]
    assert np.array(json.loads(fit.table.meta["covariance"])).shape == (2, 2)
    assert 0.2 < json.loads(fit.table.meta["chains"])["acceptance"] < 0.9
    assert draw_halo_fit(fit).startswith(b"\x89PNG")


def test_free_concentration_and_centre():
    one = ((1e15, (0.0, 0.0)),)
    off = ((1e15, (0.5, -0.4)),)
    sample = draw(5, n=6000, sigma=0.02, halos=one, c=6.0)
    fit = fit_halos(
        sample, lenses(off), rng=np.random.default_rng(1),
        options=HaloFitOptions(
            concentration_scatter=1.0, centre_scatter_arcmin=1.0, n_bootstrap=0, n_steps=0
        ),
    )  # fmt: skip
    row = fit.table[0]
    assert row["c200"] == pytest.approx(6.0, abs=4 * row["c200_err"])
    assert row["m200"] == pytest.approx(1e15, abs=4 * row["m200_err"])
    d_ra = (row["ra"] - CENTRE[0]) * np.cos(np.radians(CENTRE[1]))
    assert np.hypot(d_ra, row["dec"] - CENTRE[1]) * 60 < 5 * row["centre_err"] < 0.2
    # A narrow prior keeps the concentration on the relation.
    tight = fit_halos(
        sample, lenses(one), rng=np.random.default_rng(1),
        options=HaloFitOptions(concentration_scatter=0.001, n_bootstrap=0, n_steps=0),
    )  # fmt: skip
    assert tight.table["c200"][0] == pytest.approx(float(concentration(1e15, z=Z)), rel=0.1)


def test_one_halo_is_the_fit_of_one_cluster():
    one = ((1e15, (0.0, 0.0)),)
    sample = draw(6, n=3000, halos=one)
    joint = fit_halos(
        sample, lenses(one), rng=np.random.default_rng(1),
        options=HaloFitOptions(concentration_scatter=0.0, n_bootstrap=0, n_steps=0),
    )  # fmt: skip
    single = fit_nfw_mass(
        sample, z_lens=Z, centre=CENTRE, rng=np.random.default_rng(1),
        options=MassFitOptions(n_bootstrap=20, large_scale_structure=False),
    )  # fmt: skip
    # The cross component and the sums agree; tables of 2048 nodes against 8192.
    assert joint.table["m200"][0] == pytest.approx(single.table["m200"][0], rel=1e-3)
    assert joint.table["m200_err"][0] == pytest.approx(single.table["m200_fisher_err"][0], rel=0.02)


def test_truncated_halos_are_fitted():
    sample = draw(1, sigma=1e-6, n=1500)
    fit = fit_halos(
        sample, lenses(), rng=np.random.default_rng(1), halo=HaloOptions(truncation=2.0),
        options=FAST,
    )  # fmt: skip
    assert fit.table["m200"][0] == pytest.approx(1e15, rel=0.4)


def test_clear_sentences():
    sample, rng = draw(1, n=300), np.random.default_rng(1)
    with pytest.raises(ConfigError, match="at least one halo"):
        fit_halos(sample, [], rng=rng)
    with pytest.raises(ConfigError, match=r"redshift of a halo must be in \(0\.001, 5\)"):
        fit_halos(sample, [LensPosition(*CENTRE, -0.2)], rng=rng)
    with pytest.raises(ConfigError, match="set centre_scatter_arcmin"):
        fit_halos(sample, lenses(), rng=rng, halo=HaloOptions(miscentring_mpc=0.1))
    with pytest.raises(NoDataError, match="is a centre off the field"):
        fit_halos(sample, [LensPosition(50.0, -30.0, Z)], rng=rng)
    with pytest.raises(NoDataError, match=r"0 galaxies lie behind z = 4\.0"):
        fit_halos(sample, lenses(z=4.0), rng=rng, sources=SourceOptions(radius_max_mpc=8.0))

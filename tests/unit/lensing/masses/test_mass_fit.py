import numpy as np
import pytest

from skymill.data.errors import ConfigError, NoDataError
from skymill.data.flags import MeasureFlag
from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.masses.halo_profiles import HaloOptions
from skymill.lensing.masses.mass_fit import MassFitOptions, _make_problem, fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions, mean_efficiency, select_sources
from skymill.lensing.nfw import NfwHalo

CENTRE = (200.0, 5.0)
Z = 0.2


def make_sample(*, mass=1e15, n=4000, seed=1, sigma=0.25, z_source=1.0):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-15, 15, (2, n))
    radius, phi = np.hypot(east, north), np.arctan2(north, east)
    beta = FIDUCIAL.lensing_efficiency(z_source, z_lens=Z)
    g = NfwHalo(mass=mass, z=Z).reduced_shear(radius, beta=beta) if mass else 0 * radius
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    return ShearSample(
        ra=ra, dec=dec, g1=-g * np.cos(2 * phi) + rng.normal(0, sigma, n),
        g2=-g * np.sin(2 * phi) + rng.normal(0, sigma, n), weight=rng.uniform(0.5, 2, n),
        z=np.full(n, z_source),
    )  # fmt: skip


def test_without_noise_the_mass_comes_back():
    for mass in (3e13, 5e14, 2e15):
        fit = fit_nfw_mass(
            make_sample(mass=mass, sigma=0.0, n=400), z_lens=Z, centre=CENTRE,
            rng=np.random.default_rng(1), options=MassFitOptions(n_bootstrap=20),
        )  # fmt: skip
        # The tables of the profile are interpolated to 1e-6.
        assert fit.table["m200"][0] == pytest.approx(mass, rel=1e-5)


def test_model_kernel_agrees_with_the_closed_form():
    sample = make_sample(n=300)
    src = select_sources(sample, z_lens=Z, centre=CENTRE)
    problem = _make_problem(src, z_lens=Z, halo=HaloOptions(), cosmology=FIDUCIAL, n_rings=5)
    src, got = problem.sources, problem.model(np.log10([2e14, 1e15]))
    for row, mass in zip(got, (2e14, 1e15), strict=True):
        halo = NfwHalo(mass=mass, z=Z)
        expected = halo.reduced_shear(src.radius / src.mpc_per_arcmin, beta=src.beta)
        assert np.allclose(row, expected, rtol=1e-6)  # linear interpolation in a fine table


def test_distribution_of_redshifts_is_averaged():
    grid = np.array([0.1, 0.5, 1.5])
    pz = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], np.float32)
    sample = ShearSample(
        ra=np.zeros(2), dec=np.zeros(2), g1=np.zeros(2), g2=np.zeros(2), weight=np.ones(2),
        pz=pz, z_grid=grid,
    )  # fmt: skip
    beta, ratio = mean_efficiency(sample, z_lens=0.3)
    b = [float(FIDUCIAL.lensing_efficiency(z, z_lens=0.3)) for z in (0.5, 1.5)]
    assert beta[0] == pytest.approx(0.3 * b[0] + 0.5 * b[1], rel=1e-6)
    assert ratio[0] == pytest.approx((0.3 * b[0] ** 2 + 0.5 * b[1] ** 2) / beta[0], rel=1e-6)
    assert (beta[1], ratio[1]) == (0.0, 0.0)


def test_bootstrap_agrees_with_refitting_resampled_catalogues():
    sample = make_sample(n=1500)
    options = MassFitOptions(n_bootstrap=400, large_scale_structure=False)
    fit = fit_nfw_mass(
        sample, z_lens=Z, centre=CENTRE, rng=np.random.default_rng(5), options=options
    )
    rng = np.random.default_rng(6)
    brute = []
    for _ in range(60):
        rows = rng.integers(0, len(sample), len(sample))
        again = fit_nfw_mass(
            sample.select(rows), z_lens=Z, centre=CENTRE, rng=np.random.default_rng(1),
            options=MassFitOptions(n_bootstrap=20, large_scale_structure=False),
        )  # fmt: skip
        brute.append(again.table["m200"][0])
    # 60 samples: a central interval is known to 12 per cent.
    widths = [np.diff(np.percentile(np.log(m), [16, 84]))[0] for m in (fit.bootstrap, brute)]
    assert widths[0] == pytest.approx(widths[1], rel=0.35)
    assert np.median(fit.bootstrap) == pytest.approx(np.median(brute), rel=0.15)


def test_pulls_and_goodness_of_fit():
    pulls, p_values, crosses = [], [], []
    for seed in range(60):
        fit = fit_nfw_mass(
            make_sample(seed=seed, n=2500), z_lens=Z, centre=CENTRE,
            rng=np.random.default_rng(seed),
            options=MassFitOptions(n_bootstrap=200, large_scale_structure=False),
        )  # fmt: skip
        row = fit.table[0]
        pulls.append((row["m200"] - 1e15) / row["m200_err"])
        p_values.append(row["p_profile"])
        crosses.append(row["p_cross"])
    # 60 clusters: mean 0 +- 0.13, width 1 +- 0.09; p-values uniform: mean 0.5 +- 0.037.
    assert abs(np.mean(pulls)) < 0.4
    assert np.std(pulls) == pytest.approx(1.0, abs=0.28)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.12)
    assert np.mean(crosses) == pytest.approx(0.5, abs=0.12)


def test_no_lens_is_an_upper_limit_with_a_flag():
    # Antisymmetric signal: the best mass is the smallest one searched.
    sample = make_sample(mass=1e15, sigma=0.0)
    flipped = ShearSample(
        ra=sample.ra, dec=sample.dec, g1=-sample.g1, g2=-sample.g2, weight=sample.weight, z=sample.z
    )
    fit = fit_nfw_mass(
        flipped, z_lens=Z, centre=CENTRE, rng=np.random.default_rng(1),
        options=MassFitOptions(n_bootstrap=50),
    )  # fmt: skip
    assert fit.table["flags"][0] == int(MeasureFlag.AT_LIMIT)
    assert fit.table["limit_fraction"][0] == 1.0


def test_no_galaxies_behind():
    with pytest.raises(NoDataError, match=r"0 galaxies lie behind z_lens = 0\.9"):
        fit_nfw_mass(
            make_sample(z_source=0.5), z_lens=0.9, centre=CENTRE, rng=np.random.default_rng(1)
        )


def test_centre_off_the_field():
    with pytest.raises(NoDataError, match="is the centre off the field"):
        fit_nfw_mass(make_sample(), z_lens=Z, centre=(220.0, 5.0), rng=np.random.default_rng(1))


def test_bad_radii():
    with pytest.raises(ConfigError, match="radius_max_mpc must be > radius_min_mpc"):
        SourceOptions(radius_min_mpc=3.0, radius_max_mpc=1.0)

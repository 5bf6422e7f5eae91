import numpy as np
import pytest
from scipy.integrate import quad

from skymill.data.errors import ConfigError
from skymill.lensing.masses.halo_profiles import (
    LN_X_MAX,
    LN_X_MIN,
    N_X,
    HaloOptions,
    make_halo_tables,
    miscentred_shapes,
    truncated_shapes,
)
from skymill.lensing.nfw import NfwHalo, convergence_shape, mean_convergence_shape

LN_X = np.linspace(LN_X_MIN, LN_X_MAX, N_X)
TAU = 7.0


def density(x):
    return TAU**2 / (TAU**2 + x * x) / (x * (1 + x) ** 2)


@pytest.mark.parametrize("x", [1e-3, 0.05, 0.999999, 1.0, 3.0, 30.0])
def test_truncated_halo_is_the_projection_of_its_density(x):
    kappa, mean = truncated_shapes(np.array([x]), tau=TAU)
    expected, _ = quad(lambda t: x * np.cosh(t) * density(x * np.cosh(t)), 0, 30, epsrel=1e-11)
    # Below 2e-3 the logarithmic centre of NFW takes over: 2.4e-8 there.
    assert kappa[0] == pytest.approx(expected, rel=1e-7)
    inside, _ = quad(
        lambda ln: 2 * np.exp(2 * ln) * float(truncated_shapes(np.exp(ln), tau=TAU)[0]),
        np.log(1e-9), np.log(x), epsrel=1e-10,
    )  # fmt: skip
    assert mean[0] == pytest.approx(inside / x**2, rel=1e-7)


def test_a_far_truncation_is_no_truncation():
    x = np.array([0.01, 1.5, 20.0])
    kappa, mean = truncated_shapes(x, tau=1e5)
    assert kappa == pytest.approx(convergence_shape(x), rel=1e-3)
    assert mean == pytest.approx(mean_convergence_shape(x), rel=1e-3)


def test_a_truncated_halo_holds_its_mass():
    tables = make_halo_tables([5e14], z=0.2, options=HaloOptions(truncation=2.0))
    halo = NfwHalo(mass=5e14, z=0.2)
    c, tau = halo.c200, 2.0 * halo.c200
    sigma_critical = halo.cosmology.critical_surface_density(z_lens=0.2)
    rho_s = tables.amplitude[0] * sigma_critical / (2 * halo.scale_radius)
    integral, _ = quad(lambda x: 4 * np.pi * x**2 * tau**2 / (tau**2 + x**2) / (x * (1 + x) ** 2),
                       0, c)  # fmt: skip
    assert rho_s * halo.scale_radius**3 * integral == pytest.approx(5e14, rel=1e-8)


def test_miscentred_halo_is_the_mean_over_centres():
    scatter = 0.4
    kappa, mean = miscentred_shapes(LN_X, convergence_shape(np.exp(LN_X)), scatter=scatter)

    def average(x):
        # Mean over the angle, then over a Rayleigh distribution of offsets.
        angle = (np.arange(2000) + 0.5) * np.pi / 2000

        def ring(r):
            d = np.sqrt(x * x + r * r + 2 * x * r * np.cos(angle))
            return np.mean(convergence_shape(d)) * r / scatter**2 * np.exp(-(r**2) / 2 / scatter**2)

        return quad(ring, 0, 8 * scatter, points=[x], limit=200, epsrel=1e-7)[0]

    for x in (0.05, 0.3, 1.0, 3.0):
        # The cusp of the centred profile within Gauss-Legendre nodes: 1e-3.
        assert np.interp(np.log(x), LN_X, kappa) == pytest.approx(average(x), rel=2e-3)
    inside, _ = quad(lambda ln: 2 * np.exp(2 * ln) * np.interp(ln, LN_X, kappa), -9, 0, limit=200)
    assert np.interp(0.0, LN_X, mean) == pytest.approx(inside, rel=1e-4)
    # Far away the offset does not matter.
    assert kappa[-1] == pytest.approx(convergence_shape(np.exp(LN_X[-1])), rel=1e-3)


def test_half_of_the_centres_may_be_right():
    halo = {"z": 0.2, "n_nodes": 512}
    plain = make_halo_tables([5e14], **halo)
    off = make_halo_tables([5e14], options=HaloOptions(miscentring_mpc=0.2), **halo)
    half = make_halo_tables(
        [5e14], options=HaloOptions(miscentring_mpc=0.2, miscentred_fraction=0.5), **halo
    )
    assert half.gamma == pytest.approx(0.5 * (plain.gamma + off.gamma), rel=1e-12)
    assert off.gamma[0, 300] < plain.gamma[0, 300]


def test_bad_halos():
    with pytest.raises(ConfigError, match=r"miscentred_fraction must be >= 0\.0"):
        HaloOptions(miscentred_fraction=1.5)


@pytest.mark.parametrize("z", [0.05, 0.2, 0.6])
def test_profiles_agree_with_an_independent_library(z):
    pyccl = pytest.importorskip("pyccl")
    critical = pyccl.halos.MassDef200c
    universe = pyccl.Cosmology(
        Omega_c=0.25, Omega_b=0.05, h=0.7, sigma8=0.8, n_s=0.96, Neff=0.0, T_CMB=1e-3,
        transfer_function="eisenstein_hu",
    )  # fmt: skip
    halo = NfwHalo(mass=7e14, z=z)
    profile = pyccl.halos.HaloProfileNFW(
        mass_def=critical, truncated=False, projected_analytic=True, cumul2d_analytic=True,
        concentration=pyccl.halos.ConcentrationConstant(halo.c200, mass_def=critical),
    )  # fmt: skip
    a = 1 / (1 + z)
    arcmin = np.geomspace(0.1, 60, 40)
    mpc = arcmin * np.pi / 10800 * pyccl.angular_diameter_distance(universe, a)
    sigma = profile.projected(universe, mpc / a, 7e14, a) / a**2
    mean = profile.cumul2d(universe, mpc / a, 7e14, a) / a**2
    # The requirement; measured 3e-5, from the constants of both sides.
    assert halo.delta_sigma(arcmin) == pytest.approx(mean - sigma, rel=1e-4)
    z_source = np.full(40, 1.2)
    sigma_critical = pyccl.sigma_critical(universe, a_lens=a, a_source=1 / (1 + z_source))
    beta = halo.cosmology.lensing_efficiency(z_source, z_lens=z)
    g = (mean - sigma) / sigma_critical / (1 - sigma / sigma_critical)
    weak = sigma / sigma_critical < 0.5
    assert halo.reduced_shear(arcmin, beta=beta)[weak] == pytest.approx(g[weak], rel=1e-4)

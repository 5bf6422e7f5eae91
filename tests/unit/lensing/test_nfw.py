import astropy.units as u
import galsim
import numpy as np
import pytest
from astropy.cosmology import FlatLambdaCDM
from scipy.integrate import quad

from skymill.data.errors import ConfigError
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.nfw import NfwHalo, concentration, convergence_shape, mean_convergence_shape


def test_surface_density_is_the_projection_of_the_profile():
    # Sigma / (2 r_s rho_s) = integral of 1 / (r (1 + r)^2) along the line of sight.
    for x in (0.01, 0.3, 0.999, 1.0, 1.0002, 3.0, 40.0):
        expected, _ = quad(
            lambda t, x=x: x * np.cosh(t) / (x * np.cosh(t) * (1 + x * np.cosh(t)) ** 2), 0, 40
        )
        assert convergence_shape(x) == pytest.approx(expected, rel=1e-7)


def test_mean_inside_is_the_integral_of_the_surface_density():
    for x in (1e-3, 0.0049, 0.0051, 0.5, 1.0, 7.0):
        inner, _ = quad(lambda y: 2 * y * float(convergence_shape(y)), 0, x, epsrel=1e-10)
        assert mean_convergence_shape(x) == pytest.approx(inner / x**2, rel=1e-6)


def test_mass_inside_r200_of_the_sphere():
    halo = NfwHalo(mass=7e14, z=0.3)
    rho = FlatLambdaCDM(70, 0.3).critical_density(0.3).to_value("Msun / Mpc3")
    assert 800 / 3 * np.pi * rho * halo.r200**3 == pytest.approx(7e14, rel=1e-4)
    rho_s = halo.surface_density_scale / (2 * halo.scale_radius)
    mass, _ = quad(
        lambda r: 4 * np.pi * r**2 * rho_s / (r / halo.scale_radius)
        / (1 + r / halo.scale_radius) ** 2, 0, halo.r200,
    )  # fmt: skip
    assert mass == pytest.approx(7e14, rel=1e-8)


@pytest.mark.filterwarnings("ignore:'where' used without 'out'")
@pytest.mark.parametrize("z", [0.0555, 0.2, 0.5])
def test_reduced_shear_agrees_with_galsim(z):
    halo = NfwHalo(mass=1e15, z=z)
    other = galsim.NFWHalo(1e15 * 0.7, halo.c200, z, omega_m=0.3, omega_lam=0.7)
    radius = np.array([0.5, 1.0, 3.0, 10.0, 30.0])
    g1, _ = other.getShear((radius * 60, 0 * radius), 1.2, reduced=True)
    beta = FIDUCIAL.lensing_efficiency(1.2, z_lens=z)
    # galsim rounds its constants of nature to three digits: 1e-3.
    assert np.allclose(halo.reduced_shear(radius, beta=beta), -g1, rtol=1.5e-3)


def test_relation_of_the_specification():
    assert concentration(1e15, z=0.2) == pytest.approx(75.4 * 1.2**-0.422 * 1e15**-0.089)


def test_bad_halo_is_refused():
    with pytest.raises(ConfigError, match="mass must be > 0 Msun; got -1"):
        NfwHalo(mass=-1.0, z=0.2)
    with pytest.raises(ConfigError, match="redshift of the lens"):
        NfwHalo(mass=1e15, z=0.0)


def test_distances_are_those_of_astropy():
    model = FlatLambdaCDM(70, 0.3)
    z = np.array([0.02, 0.1, 0.7, 3.0])
    assert np.allclose(
        FIDUCIAL.angular_distance(z), model.angular_diameter_distance(z).value, rtol=1e-6
    )
    beta = model.angular_diameter_distance(0.3, 1.1) / model.angular_diameter_distance(1.1)
    assert FIDUCIAL.lensing_efficiency(1.1, z_lens=0.3) == pytest.approx(float(beta), rel=1e-6)
    assert FIDUCIAL.lensing_efficiency([0.1, 0.3], z_lens=0.3).tolist() == [0.0, 0.0]
    rho = model.critical_density(0.3).to_value(u.Msun / u.Mpc**3)
    assert FIDUCIAL.critical_density(0.3) == pytest.approx(rho, rel=1e-4)  # G to 5 digits

"""The lens against an integral of its density and against galsim."""

from __future__ import annotations

import warnings

import galsim
import numpy as np
import pytest
from astropy import constants, units
from scipy.integrate import quad

from skymill.data.errors import ConfigError
from skymill.sims.halo import COSMOLOGY, NfwHalo, concentration_of_mass, lensing_efficiency

HALO = NfwHalo(10.0, -20.0, 0.2, 1e15, 4.0)


def projected(radius_mpc, halo):
    """Surface density [Msun/Mpc2] by integrating the NFW density along the line of sight."""
    rho_c = COSMOLOGY.critical_density(halo.redshift).to_value(units.Msun / units.Mpc**3)
    r200 = (halo.mass / (800 / 3 * np.pi * rho_c)) ** (1 / 3)
    rs, c = r200 / halo.concentration, halo.concentration
    rho_s = 200 / 3 * rho_c * c**3 / (np.log(1 + c) - c / (1 + c))

    def density(los):
        x = np.hypot(los, radius_mpc) / rs
        return rho_s / (x * (1 + x) ** 2)

    return 2 * (quad(density, 0, radius_mpc)[0] + quad(density, radius_mpc, np.inf)[0])


@pytest.mark.parametrize("arcsec", [30.0, 150.0, 600.0])
def test_kappa_and_shear_are_the_integrated_profile(arcsec):
    zs = 0.9
    d_l = COSMOLOGY.angular_diameter_distance(0.2).value
    d_s = COSMOLOGY.angular_diameter_distance(zs).value
    d_ls = d_s - d_l * 1.2 / (1 + zs)  # flat universe: comoving distances subtract
    critical = (constants.c**2 / (4 * np.pi * constants.G)).to_value(units.Msun / units.Mpc)
    critical *= d_s / d_l / d_ls
    radius = np.radians(arcsec / 3600) * d_l
    sigma = projected(radius, HALO)
    mean = quad(lambda r: 2 * r * projected(r, HALO), 1e-6, radius)[0] / radius**2
    kappa, gamma1, gamma2 = HALO.kappa_gamma(east=[arcsec], north=[0.0], source_redshift=[zs])
    # Closed form against quadrature: 1e-5; the efficiency is interpolated on a grid: 1e-4.
    assert kappa[0] == pytest.approx(sigma / critical, rel=3e-4)
    assert gamma1[0] == pytest.approx(-(mean - sigma) / critical, rel=3e-4)
    assert gamma2[0] == pytest.approx(0.0, abs=1e-12)


def test_agrees_with_galsim():
    """GalSim rounds its constants (3000 Mpc/h, exponent 0.3333): it is good to 0.3 %."""
    east, north = np.array([40.0, -200.0, 333.0]), np.array([70.0, 30.0, -500.0])
    halo = galsim.NFWHalo(1e15 * 0.7, 4.0, 0.2, omega_m=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        g1, g2 = halo.getShear((east, north), 1.1, reduced=False)
        kappa = halo.getConvergence((east, north), 1.1)
    mine = HALO.kappa_gamma(east=east, north=north, source_redshift=1.1)
    np.testing.assert_allclose(mine[0], kappa, rtol=3e-3)
    np.testing.assert_allclose(mine[1], g1, rtol=3e-3)
    np.testing.assert_allclose(mine[2], g2, rtol=3e-3)


def test_shear_is_tangential():
    """The convention of docs/conventions.md: g_t = -(g1 cos 2phi + g2 sin 2phi) > 0, g_x = 0."""
    phi = np.linspace(0, 2 * np.pi, 17)
    _, g1, g2 = HALO.kappa_gamma(
        east=200 * np.cos(phi), north=200 * np.sin(phi), source_redshift=np.full(17, 1.0)
    )
    tangential = -(g1 * np.cos(2 * phi) + g2 * np.sin(2 * phi))
    assert (tangential > 0).all()
    np.testing.assert_allclose(g1 * np.sin(2 * phi) - g2 * np.cos(2 * phi), 0, atol=1e-15)


def test_no_lensing_in_front_and_no_mass():
    kappa, g1, _ = HALO.kappa_gamma(east=[50.0], north=[0.0], source_redshift=[0.15])
    assert kappa[0] == 0
    assert g1[0] == 0
    empty = NfwHalo(0.0, 0.0, 0.2, 0.0, 4.0)
    assert not np.any(empty.kappa_gamma(east=[50.0], north=[1.0], source_redshift=[1.0]))
    assert lensing_efficiency(0.2, [0.1, 0.2])[0] == 0


def test_smooth_through_the_scale_radius():
    x = HALO.scale_arcsec * np.array([1 - 1e-4, 1.0, 1 + 1e-4])
    kappa, g1, _ = HALO.kappa_gamma(east=x, north=0 * x, source_redshift=1.0)
    assert np.abs(np.diff(kappa, 2))[0] < 1e-6
    assert np.abs(np.diff(g1, 2))[0] < 1e-6


def test_bad_halos():
    with pytest.raises(ConfigError, match="redshift of a halo must be > 0 and < 6; got -1"):
        NfwHalo(0, 0, -1.0, 1e14, 3)
    with pytest.raises(ConfigError, match="mass of a halo must be >= 0 Msun; got nan"):
        NfwHalo(0, 0, 0.2, float("nan"), 3)
    assert 3.0 < concentration_of_mass(1e15, 0.2) < 3.5

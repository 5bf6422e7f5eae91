"""Shear and magnification of Navarro-Frenk-White halos, for making the truth.

Written from the formulas of Wright & Brainerd (2000, ApJ 534, 34) and tested against an
integration of the density and against `galsim.NFWHalo`; shares no code with `skymill.lensing`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from astropy import constants, units
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError

__all__ = ["COSMOLOGY", "NfwHalo", "concentration_of_mass", "lensing_efficiency"]

Float64Array = NDArray[np.float64]

COSMOLOGY = FlatLambdaCDM(H0=70.0, Om0=0.3)
_GRID_Z = np.linspace(0.0, 6.0, 1201)


def concentration_of_mass(mass: float, redshift: float) -> float:
    """Mean concentration c200 of a halo: 75.4 (1 + z)^-0.422 M^-0.089 (after Child et al. 2018).

    Parameters
    ----------
    mass : float [Msun]
        M200 with respect to the critical density.
    redshift : float
        Redshift of the halo.

    Returns
    -------
    float
        Concentration.
    """
    return float(75.4 * (1.0 + redshift) ** -0.422 * mass**-0.089)


@functools.lru_cache(maxsize=16)
def _efficiency_grid(redshift: float) -> Float64Array:
    source = np.maximum(_GRID_Z, 1e-4)
    d_s = COSMOLOGY.angular_diameter_distance(source).value
    comoving = COSMOLOGY.comoving_distance(source).value
    lens = COSMOLOGY.comoving_distance(redshift).value
    d_ls = (comoving - lens) / (1.0 + source)
    return np.where(redshift < _GRID_Z, np.maximum(d_ls / d_s, 0.0), 0.0)


def lensing_efficiency(redshift: float, source_redshift: ArrayLike) -> Float64Array:
    """D_ls / D_s of a lens and its sources.

    Parameters
    ----------
    redshift : float
        Redshift of the lens.
    source_redshift : (n,) float64
        Redshifts of the sources.

    Returns
    -------
    (n,) float64
        Zero in front of the lens.
    """
    return np.interp(np.asarray(source_redshift, float), _GRID_Z, _efficiency_grid(redshift))


@dataclass(frozen=True)
class NfwHalo:
    """A spherical NFW halo.

    Parameters
    ----------
    ra, dec : float [deg]
        Centre.
    redshift : float
        Redshift.
    mass : float [Msun]
        M200 with respect to the critical density.
    concentration : float
        r200 over the scale radius.
    """

    ra: float
    dec: float
    redshift: float
    mass: float
    concentration: float

    def __post_init__(self) -> None:
        if not 0.0 < self.redshift < 6.0:
            raise ConfigError(f"the redshift of a halo must be > 0 and < 6; got {self.redshift}")
        if not self.mass >= 0.0:
            raise ConfigError(f"the mass of a halo must be >= 0 Msun; got {self.mass}")

    @property
    def r200(self) -> float:
        """Radius within which the mean density is 200 times the critical one [Mpc]."""
        rho = COSMOLOGY.critical_density(self.redshift).to_value(units.Msun / units.Mpc**3)
        return float((3.0 * self.mass / (800.0 * np.pi * rho)) ** (1.0 / 3.0))

    @property
    def scale_arcsec(self) -> float:
        """Scale radius on the sky [arcsec]."""
        distance = COSMOLOGY.angular_diameter_distance(self.redshift).to_value(units.Mpc)
        return float(np.degrees(self.r200 / self.concentration / distance) * 3600.0)

    def kappa_gamma(
        self, *, east: ArrayLike, north: ArrayLike, source_redshift: ArrayLike
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Convergence and shear at offsets from the centre.

        Parameters
        ----------
        east, north : (n,) float64 [arcsec]
            Observed positions relative to the centre.
        source_redshift : (n,) float64
            Redshifts of the sources.

        Returns
        -------
        kappa, gamma1, gamma2 : (n,) float64
            Sky axes, x to the East and y to the North.
        """
        east, north = np.asarray(east, float), np.asarray(north, float)
        if self.mass == 0.0:
            zero = np.zeros(np.broadcast(east, north).shape)
            return zero, zero.copy(), zero.copy()
        x = np.maximum(np.hypot(east, north) / self.scale_arcsec, 1e-4)
        sigma, mean_sigma = _nfw_sigma(x)
        c = self.concentration
        rho = COSMOLOGY.critical_density(self.redshift).to_value(units.Msun / units.Mpc**3)
        delta = 200.0 / 3.0 * c**3 / (np.log1p(c) - c / (1.0 + c))
        amplitude = self.r200 / c * delta * rho
        factor = amplitude * lensing_efficiency(self.redshift, source_redshift) / self._sigma_unit
        kappa, mean_kappa = sigma * factor, mean_sigma * factor
        tangential = mean_kappa - kappa
        angle = 2.0 * np.arctan2(north, east)
        return kappa, -tangential * np.cos(angle), -tangential * np.sin(angle)

    @property
    def _sigma_unit(self) -> float:
        """Critical surface density for D_ls / D_s = 1 [Msun/Mpc2]."""
        distance = COSMOLOGY.angular_diameter_distance(self.redshift)
        unit = constants.c**2 / (4.0 * np.pi * constants.G * distance)
        return float(unit.to_value(units.Msun / units.Mpc**2))


def _nfw_sigma(x: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Surface density at x = r/rs and its mean within, in units of rs delta_c rho_c."""
    below, above = x < 1.0 - 1e-5, x > 1.0 + 1e-5
    safe = np.where(below | above, x, 0.5)
    root = np.sqrt(np.abs(safe**2 - 1.0))
    inner = np.arctanh(np.clip(root / (1.0 + safe), 0.0, 1.0 - 1e-16))
    outer = np.arctan(root / (1.0 + safe))
    part = 2.0 / root * np.where(below, inner, outer)
    sigma = 2.0 / (safe**2 - 1.0) * (1.0 - part)
    mean = 4.0 / safe**2 * (part + np.log(0.5 * safe))
    one = ~(below | above)
    return np.where(one, 2.0 / 3.0, sigma), np.where(one, 4.0 * (1.0 + np.log(0.5)), mean)

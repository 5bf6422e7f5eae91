"""The lens of Navarro, Frenk & White: surface density, shear, concentration.

Masses are M200 with respect to the critical density at the lens, in solar masses without little h.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import ConfigError
from skymill.lensing.cosmology import FIDUCIAL, Cosmology

__all__ = [
    "NfwHalo",
    "concentration",
    "convergence_shape",
    "inverse_hyperbolic",
    "mean_convergence_shape",
]

Float64Array = NDArray[np.float64]
_ARCMIN = np.pi / 10800.0


def inverse_hyperbolic(x: Float64Array) -> Float64Array:
    """The function of Wright & Brainerd 2000 for all radii.

    Parameters
    ----------
    x : (...) float64
        Projected radius over the scale radius, > 0.

    Returns
    -------
    (...) float64
        ``acosh(1/x) / sqrt(1 - x^2)``, continued to x > 1 as ``acos(1/x) / sqrt(x^2 - 1)``; 1 at
        x = 1.
    """
    t = np.sqrt(np.abs(1.0 - x) / (1.0 + x))
    root = np.sqrt(np.abs(1.0 - x * x))
    near = root < 1e-6
    safe = np.where(near, 1.0, root)
    angle = np.where(x < 1.0, np.arctanh(np.where(x < 1.0, t, 0.0)), np.arctan(t))
    return np.where(near, 1.0, 2.0 * angle / safe)


def convergence_shape(x: ArrayLike) -> Float64Array:
    """Surface density of an NFW halo in units of ``2 r_s delta_c rho_c``.

    Parameters
    ----------
    x : (...) float64
        Projected radius over the scale radius, > 0.

    Returns
    -------
    (...) float64
        f(x) of Wright & Brainerd 2000, equation 11; 1/3 at x = 1.
    """
    x_ = np.asarray(x, np.float64)
    d = x_ - 1.0
    near = np.abs(d) < 1e-4
    safe = np.where(near, 2.0, x_)
    value = (1.0 - inverse_hyperbolic(safe)) / (safe * safe - 1.0)
    return np.where(near, 1.0 / 3.0 - 0.4 * d, value)


def mean_convergence_shape(x: ArrayLike) -> Float64Array:
    """Mean surface density inside a radius in units of ``2 r_s delta_c rho_c``.

    Parameters
    ----------
    x : (...) float64
        Projected radius over the scale radius, > 0.

    Returns
    -------
    (...) float64
        2 h(x) / x^2 with h of Wright & Brainerd 2000, equation 13.
    """
    x_ = np.asarray(x, np.float64)
    small = x_ < 5e-3
    safe = np.where(small, 1.0, x_)
    value = 2.0 * (np.log(safe / 2.0) + inverse_hyperbolic(safe)) / (safe * safe)
    # The two logarithms cancel at the centre: series to the fourth order.
    xs = np.where(small, np.maximum(x_, 1e-300), 1e-3)
    log = np.log(2.0 / xs)
    series = log - 0.5 + xs * xs * (0.75 * log - 7.0 / 16.0)
    return np.where(small, series, value)


def concentration(mass: ArrayLike, *, z: float) -> Float64Array:
    """Concentration c200 of a halo.

    Parameters
    ----------
    mass : (...) float64 [Msun]
        M200 with respect to the critical density.
    z : float
        Redshift of the halo.

    Returns
    -------
    (...) float64
        ``75.4 (1 + z)^-0.422 (M200/Msun)^-0.089``.

    References
    ----------
    Child et al. 2018, ApJ 859, 55, in the fit that the published pipeline uses.
    """
    return np.asarray(75.4 * (1.0 + z) ** -0.422 * np.asarray(mass, np.float64) ** -0.089)


@dataclass(frozen=True, kw_only=True)
class NfwHalo:
    """One halo.

    Parameters
    ----------
    mass : float [Msun]
        M200 with respect to the critical density.
    z : float
        Redshift.
    c : float, optional
        Concentration; from `concentration` if omitted.
    cosmology : Cosmology
        Distances.
    """

    mass: float
    z: float
    c: float | None = None
    cosmology: Cosmology = FIDUCIAL

    def __post_init__(self) -> None:
        if not self.mass > 0:
            raise ConfigError(f"mass must be > 0 Msun; got {self.mass}")
        if not 0 < self.z < 10:
            raise ConfigError(f"the redshift of the lens must be in (0, 10); got {self.z}")

    @property
    def c200(self) -> float:
        """Concentration."""
        return float(concentration(self.mass, z=self.z)) if self.c is None else self.c

    @property
    def r200(self) -> float:
        """Radius that encloses 200 times the critical density [Mpc]."""
        rho = self.cosmology.critical_density(self.z)
        return float((3.0 * self.mass / (800.0 * np.pi * rho)) ** (1.0 / 3.0))

    @property
    def scale_radius(self) -> float:
        """Scale radius r_s [Mpc]."""
        return self.r200 / self.c200

    @property
    def surface_density_scale(self) -> float:
        """``2 r_s delta_c rho_c`` [Msun/Mpc2]."""
        c = self.c200
        delta_c = 200.0 / 3.0 * c**3 / (np.log1p(c) - c / (1.0 + c))
        return float(2.0 * self.scale_radius * delta_c * self.cosmology.critical_density(self.z))

    def convergence(self, radius: ArrayLike, *, beta: ArrayLike = 1.0) -> Float64Array:
        """Convergence at a projected distance.

        Parameters
        ----------
        radius : (...) float64 [arcmin]
            Distance from the centre, > 0.
        beta : (...) float64
            D_LS / D_S of the source; 1 is a source at infinity.

        Returns
        -------
        (...) float64
            kappa.
        """
        scale = self.surface_density_scale / self._sigma_critical(beta)
        return np.asarray(scale * convergence_shape(self._x(radius)))

    def shear(self, radius: ArrayLike, *, beta: ArrayLike = 1.0) -> Float64Array:
        """Tangential shear at a projected distance.

        Parameters
        ----------
        radius : (...) float64 [arcmin]
            Distance from the centre, > 0.
        beta : (...) float64
            D_LS / D_S of the source.

        Returns
        -------
        (...) float64
            gamma_t.
        """
        x = self._x(radius)
        scale = self.surface_density_scale / self._sigma_critical(beta)
        return np.asarray(scale * (mean_convergence_shape(x) - convergence_shape(x)))

    def reduced_shear(self, radius: ArrayLike, *, beta: ArrayLike = 1.0) -> Float64Array:
        """Tangential reduced shear g = gamma / (1 - kappa).

        Parameters
        ----------
        radius : (...) float64 [arcmin]
            Distance from the centre, > 0.
        beta : (...) float64
            D_LS / D_S of the source.

        Returns
        -------
        (...) float64
            g_t.
        """
        return np.asarray(
            self.shear(radius, beta=beta) / (1.0 - self.convergence(radius, beta=beta))
        )

    def delta_sigma(self, radius: ArrayLike) -> Float64Array:
        """Excess surface density at a projected distance.

        Parameters
        ----------
        radius : (...) float64 [arcmin]
            Distance from the centre, > 0.

        Returns
        -------
        (...) float64 [Msun/Mpc2]
            Mean surface density inside the radius minus the one at it.
        """
        x = self._x(radius)
        return np.asarray(
            self.surface_density_scale * (mean_convergence_shape(x) - convergence_shape(x))
        )

    def _x(self, radius: ArrayLike) -> Float64Array:
        mpc = np.asarray(radius, np.float64) * _ARCMIN * self.cosmology.angular_distance(self.z)
        return np.asarray(mpc / self.scale_radius)

    def _sigma_critical(self, beta: ArrayLike) -> Float64Array:
        return np.asarray(self.cosmology.critical_surface_density(z_lens=self.z, beta=beta))

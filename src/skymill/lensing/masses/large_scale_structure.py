"""Shear by the matter along the line of sight: noise of a cluster's profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import jv

from skymill.data.options import check_range, option
from skymill.lensing.cosmology import FIDUCIAL, SPEED_OF_LIGHT, Cosmology

__all__ = ["MatterPower", "PowerOptions", "convergence_power", "shear_covariance"]

Float64Array = NDArray[np.float64]
_ARCMIN = np.pi / 10800.0


@dataclass(frozen=True, kw_only=True)
class PowerOptions:
    """Fluctuations of the matter."""

    sigma8: float = option(0.8, "Rms of the linear density in spheres of 8 Mpc/h today")
    spectral_index: float = option(0.965, "Slope of the primordial power")
    omega_baryon: float = option(0.048, "Baryon density over the critical density today")

    def __post_init__(self) -> None:
        check_range(self, "sigma8", low=0.1, high=2.0)
        check_range(self, "spectral_index", low=0.5, high=1.5)
        check_range(self, "omega_baryon", low=0.001, high=0.2)


class MatterPower:
    """Power spectrum of the matter: linear (Eisenstein & Hu 1998, without wiggles) and non-linear.

    Parameters
    ----------
    cosmology : Cosmology
        The universe.
    options : PowerOptions
        Amplitude and slope.

    References
    ----------
    Eisenstein & Hu 1998, ApJ 496, 605, section 4.2; Takahashi et al. 2012, ApJ 761, 152.
    """

    def __init__(
        self, cosmology: Cosmology = FIDUCIAL, options: PowerOptions = PowerOptions()
    ) -> None:
        self._h = cosmology.options.hubble_constant / 100.0
        self._om = cosmology.options.omega_matter
        self._options = options
        k = np.geomspace(1e-4, 1e2, 2000)
        x = 8.0 * k
        window = 3.0 * (np.sin(x) - x * np.cos(x)) / x**3
        power = self._unnormalised(k)
        variance = np.trapezoid(k**3 * power * window**2 / (2 * np.pi**2), np.log(k))
        self._norm = options.sigma8**2 / variance

    def _unnormalised(self, k: Float64Array) -> Float64Array:
        om, h, fb = self._om, self._h, self._options.omega_baryon / self._om
        omh2, obh2 = om * h * h, self._options.omega_baryon * h * h
        sound = 44.5 * np.log(9.83 / omh2) / np.sqrt(1.0 + 10.0 * obh2**0.75)  # [Mpc]
        alpha = 1.0 - 0.328 * np.log(431.0 * omh2) * fb + 0.38 * np.log(22.3 * omh2) * fb**2
        gamma = om * h * (alpha + (1.0 - alpha) / (1.0 + (0.43 * k * h * sound) ** 4))
        q = k * (2.7255 / 2.7) ** 2 / gamma
        log = np.log(2.0 * np.e + 1.8 * q)
        transfer = log / (log + (14.2 + 731.0 / (1.0 + 62.5 * q)) * q * q)
        return np.asarray(k**self._options.spectral_index * transfer**2)

    def growth(self, z: float) -> float:
        """Linear growth since redshift z, one today.

        Parameters
        ----------
        z : float
            Redshift.

        Returns
        -------
        float
            D(z) / D(0), by the integral over 1 / (a H)^3.
        """

        def unnormalised(zz: float) -> float:
            a = np.linspace(1e-4, 1.0 / (1.0 + zz), 2001)
            e = np.sqrt(self._om / a**3 + 1.0 - self._om)
            return float(e[-1] * np.trapezoid((a * e) ** -3.0, a))

        return unnormalised(z) / unnormalised(0.0)

    def linear(self, k: Float64Array, z: float = 0.0) -> Float64Array:
        """Linear power.

        Parameters
        ----------
        k : (n,) float64 [h/Mpc]
            Comoving wave numbers.
        z : float
            Redshift.

        Returns
        -------
        (n,) float64 [(Mpc/h)^3]
            P(k).
        """
        return np.asarray(self._norm * self.growth(z) ** 2 * self._unnormalised(k))

    def nonlinear(self, k: Float64Array, z: float = 0.0) -> Float64Array:
        """Non-linear power (halofit as revised by Takahashi et al.).

        Parameters
        ----------
        k : (n,) float64 [h/Mpc]
            Comoving wave numbers.
        z : float
            Redshift.

        Returns
        -------
        (n,) float64 [(Mpc/h)^3]
            P(k).
        """
        grid = np.geomspace(1e-4, 1e3, 3000)
        ln_k = np.log(grid)
        d2 = grid**3 * self.linear(grid, z) / (2 * np.pi**2)

        def variance(ln_r: float) -> float:
            return float(np.trapezoid(d2 * np.exp(-((grid * np.exp(ln_r)) ** 2)), ln_k))

        ln_r = float(brentq(lambda v: variance(v) - 1.0, np.log(1e-3), np.log(50.0)))
        y2 = (grid * np.exp(ln_r)) ** 2
        e = d2 * np.exp(-y2)
        first = float(np.trapezoid(2.0 * y2 * e, ln_k))
        second = float(np.trapezoid((4.0 * y2 - 4.0 * y2**2) * e, ln_k))
        n_eff, curvature = first - 3.0, first**2 + second
        linear = self.linear(k, z)
        d2_linear = k**3 * linear / (2 * np.pi**2)
        om_z = self._om * (1 + z) ** 3 / (self._om * (1 + z) ** 3 + 1.0 - self._om)
        d2_all = _halofit(d2_linear, k * np.exp(ln_r), n_eff, curvature, om_z)
        return np.asarray(d2_all * 2 * np.pi**2 / k**3)


def _halofit(d2: Float64Array, y: Float64Array, n: float, c: float, om: float) -> Float64Array:
    """Two-halo and one-halo terms with the coefficients of Takahashi et al. 2012, equation A6."""
    lam = 1.0 - om
    a = 10 ** (
        1.5222 + 2.8553 * n + 2.3706 * n**2 + 0.9903 * n**3 + 0.2250 * n**4 - 0.6038 * c
    )  # w = -1
    b = 10 ** (-0.5642 + 0.5864 * n + 0.5716 * n**2 - 1.5474 * c)
    cc = 10 ** (0.3698 + 2.0404 * n + 0.8161 * n**2 + 0.5869 * c)
    gamma = 0.1971 - 0.0843 * n + 0.8460 * c
    alpha = abs(6.0835 + 1.3373 * n - 0.1959 * n**2 - 5.5274 * c)
    beta = 2.0379 - 0.7354 * n + 0.3157 * n**2 + 1.2490 * n**3 + 0.3980 * n**4 - 0.1682 * c
    nu = 10 ** (5.2105 + 3.6902 * n)
    f1, f2, f3 = om**-0.0307, om**-0.0585, om**0.0743
    if lam <= 0:
        f1 = f2 = f3 = 1.0
    damping = np.exp(-(y / 4.0 + y**2 / 8.0))
    quasi = d2 * (1.0 + d2) ** beta / (1.0 + alpha * d2) * damping
    halo = a * y ** (3.0 * f1) / (1.0 + b * y**f2 + (cc * f3 * y) ** (3.0 - gamma))
    return np.asarray(quasi + halo / (1.0 + nu / y**2))


def convergence_power(
    ell: Float64Array,
    *,
    z_source: Float64Array,
    weight: Float64Array,
    cosmology: Cosmology = FIDUCIAL,
    options: PowerOptions = PowerOptions(),
    n_planes: int = 40,
) -> Float64Array:
    """Power of the convergence of a distribution of sources (Limber, Born).

    Parameters
    ----------
    ell : (n,) float64
        Multipoles.
    z_source, weight : (m,) float64
        Redshifts of the sources and how much each counts.
    cosmology : Cosmology
        Distances.
    options : PowerOptions
        Matter.
    n_planes : int
        Steps along the line of sight.

    Returns
    -------
    (n,) float64
        C_ell.
    """
    h = cosmology.options.hubble_constant / 100.0
    matter = MatterPower(cosmology, options)
    z_source = np.asarray(z_source, np.float64)
    weight = np.asarray(weight, np.float64)
    top = float(z_source[weight > 0].max())
    z = top * (np.arange(n_planes) + 0.5) / n_planes
    chi = cosmology.comoving_distance(z)
    edges = cosmology.comoving_distance(np.linspace(0.0, top, n_planes + 1))
    chi_s = cosmology.comoving_distance(z_source)
    out = np.zeros_like(ell)
    prefactor = 1.5 * cosmology.options.omega_matter * (100.0 * h / SPEED_OF_LIGHT) ** 2
    k_grid = np.geomspace(1e-4, 300.0, 400)
    for i in range(n_planes):
        ratio = np.clip(1.0 - chi[i] / np.maximum(chi_s, 1e-9), 0.0, None)
        efficiency = prefactor * chi[i] * (1.0 + z[i]) * np.average(ratio, weights=weight)
        k = (ell + 0.5) / chi[i] / h
        power = matter.nonlinear(k_grid, float(z[i]))
        p = np.exp(np.interp(np.log(k), np.log(k_grid), np.log(power), right=-np.inf)) / h**3
        p = np.where(k < k_grid[0], 0.0, p)
        out += (edges[i + 1] - edges[i]) * efficiency**2 / chi[i] ** 2 * p
    return out


def shear_covariance(
    edges: Float64Array, *, ell: Float64Array, power: Float64Array
) -> Float64Array:
    """Covariance of the mean tangential shear in rings by uncorrelated structure.

    Parameters
    ----------
    edges : (n + 1,) float64 [arcmin]
        Edges of the rings.
    ell, power : (m,) float64
        Convergence power, at multipoles equally spaced in the logarithm.

    Returns
    -------
    (n, n) float64
        Covariance of g_t between the rings; that of g_x vanishes.

    References
    ----------
    Hoekstra 2003, MNRAS 339, 1155, equation 11, with J2 averaged over each ring.
    """
    theta = edges * _ARCMIN
    argument = ell[None, :] * theta[:, None]
    # The antiderivative of x J2(x) is -x J1(x) - 2 J0(x).
    integral = -argument * jv(1, argument) - 2.0 * jv(0, argument)
    area = 0.5 * (theta[1:] ** 2 - theta[:-1] ** 2)
    mean = (integral[1:] - integral[:-1]) / ell[None, :] ** 2 / area[:, None]
    measure = power * ell**2 * np.gradient(np.log(ell)) / (2 * np.pi)
    return np.asarray((mean * measure) @ mean.T)

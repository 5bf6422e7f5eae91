"""Surface density and shear of a halo as tables: NFW, truncated, with an uncertain centre.

All shapes are in units of ``2 r_s rho_s`` and of the scale radius, as in `skymill.lensing.nfw`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.special import i0e

from skymill.data.options import check_range, option
from skymill.lensing.cosmology import FIDUCIAL, Cosmology
from skymill.lensing.nfw import (
    NfwHalo,
    convergence_shape,
    inverse_hyperbolic,
    mean_convergence_shape,
)

__all__ = ["HaloOptions", "HaloTables", "make_halo_tables", "miscentred_shapes", "truncated_shapes"]

Float64Array = NDArray[np.float64]
#: Nodes of the tables: ln of the projected radius over the scale radius.
LN_X_MIN, LN_X_MAX, N_X = float(np.log(1e-4)), float(np.log(1e3)), 8192
_GAUSS_NODES, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(64)
_CENTRE = 2e-3


@dataclass(frozen=True, kw_only=True)
class HaloOptions:
    """Shape of the halos of a fit."""

    concentration: float = option(0.0, "Concentration; 0 takes the mass-concentration relation")
    truncation: float = option(
        0.0, "Truncation radius over r200 (Baltz et al. 2009, n = 1); 0 does not truncate"
    )
    miscentring_mpc: float = option(
        0.0, "Scatter of the centre in each axis (Rayleigh distribution of offsets)", unit="Mpc"
    )
    miscentred_fraction: float = option(
        1.0, "Probability that the centre is off at all, by miscentring_mpc"
    )

    def __post_init__(self) -> None:
        check_range(self, "concentration", low=0.0, high=100.0)
        check_range(self, "truncation", low=0.0, high=1000.0)
        check_range(self, "miscentring_mpc", low=0.0, high=10.0)
        check_range(self, "miscentred_fraction", low=0.0, high=1.0)


def _truncated_mass(c: float, tau: float) -> float:
    """Mass inside of c scale radii over 4 pi rho_s r_s^3."""
    a = tau * tau
    first = (a - 1.0) / (a + 1.0) ** 2
    return float(
        a
        * (
            first * (np.log1p(c) - 0.5 * np.log1p(c * c / a))
            - c / ((1.0 + c) * (a + 1.0))
            + 2.0 * tau / (a + 1.0) ** 2 * np.arctan(c / tau)
        )
    )


def truncated_shapes(x: ArrayLike, *, tau: float) -> tuple[Float64Array, Float64Array]:
    """Surface density, and its mean inside a radius, of an NFW halo with a smooth end.

    Parameters
    ----------
    x : (...) float64
        Projected radius over the scale radius, > 0.
    tau : float
        Truncation radius over the scale radius: the density is that of NFW times
        ``tau^2 / (tau^2 + x^2)``.

    Returns
    -------
    kappa, mean_kappa : (...) float64
        In units of ``2 r_s rho_s``.

    References
    ----------
    Baltz, Marshall & Oguri 2009, JCAP 01, 015, appendix A (n = 1).
    """
    x_ = np.asarray(x, np.float64)
    safe = np.maximum(x_, _CENTRE)
    t2 = tau * tau
    root = np.sqrt(t2 + safe * safe)
    f = inverse_hyperbolic(safe)
    log = np.log(safe / (root + tau))
    factor = t2 / (t2 + 1.0) ** 2
    kappa = factor * (
        (t2 + 1.0) * convergence_shape(safe)
        + 2.0 * f
        - np.pi / root
        + (t2 - 1.0) / (tau * root) * log
    )
    inside = factor * (
        (t2 + 1.0 + 2.0 * (safe * safe - 1.0)) * f
        + tau * np.pi
        + (t2 - 1.0) * np.log(tau)
        + root * (-np.pi + (t2 - 1.0) / tau * log)
    )
    mean = 2.0 * inside / (safe * safe)
    # At the centre the difference to NFW is a constant, while the closed form cancels.
    shift = np.maximum(x_, 1e-300)
    kappa = kappa + np.where(x_ < _CENTRE, convergence_shape(shift) - convergence_shape(safe), 0.0)
    mean = mean + np.where(
        x_ < _CENTRE, mean_convergence_shape(shift) - mean_convergence_shape(safe), 0.0
    )
    return kappa, mean


def miscentred_shapes(
    ln_x: Float64Array, kappa: Float64Array, *, scatter: float
) -> tuple[Float64Array, Float64Array]:
    """Mean profile about centres that scatter around the true one.

    Parameters
    ----------
    ln_x : (n,) float64
        Equally spaced ln of the radius over the scale radius.
    kappa : (n,) float64
        Surface density of the centred halo there.
    scatter : float
        Gaussian scatter of each coordinate of the centre, over the scale radius.

    Returns
    -------
    kappa, mean_kappa : (n,) float64
        Averages over the centres; that of kappa is its convolution with a Gaussian.
    """
    # Smooth functions by now: few nodes, and a spline to all of the table's.
    x = np.concatenate([[0.0], np.geomspace(0.02 * scatter, np.exp(ln_x[-1]), 240)])
    low, high = np.maximum(x - 7.0 * scatter, 0.0), x + 7.0 * scatter
    half = 0.5 * (high - low)[:, None]
    r = low[:, None] + half * (1.0 + _GAUSS_NODES)
    value = np.interp(np.log(np.maximum(r, 1e-12)), ln_x, kappa)
    u = (x[:, None] - r) / scatter
    weight = r * np.exp(-0.5 * u * u) * i0e(x[:, None] * r / scatter**2)
    smooth = np.sum(weight * value * half * _GAUSS_WEIGHTS, axis=1) / scatter**2
    spline = CubicSpline(x, smooth * x)
    inside = 2.0 * spline.antiderivative()(x)
    mean = np.concatenate([smooth[:1], inside[1:] / x[1:] ** 2])
    grid = np.exp(ln_x)
    inner = grid < x[1]
    nodes = np.log(x[1:])
    out = []
    for values in (smooth, mean):
        spread = CubicSpline(nodes, values[1:])(np.maximum(ln_x, nodes[0]))
        out.append(
            np.where(inner, values[0] + (values[1] - values[0]) * (grid / x[1]) ** 2, spread)
        )
    return out[0], out[1]


@dataclass(frozen=True, kw_only=True)
class HaloTables:
    """Halos of several masses, ready for interpolation.

    Parameters
    ----------
    log_scale : (n,) float64
        ln of the scale radius [Mpc].
    amplitude : (n,) float64
        ``2 r_s rho_s`` over the critical surface density of a source at infinity.
    kappa, gamma : (1 or n, N_X) float64
        Shapes at ``LN_X_MIN + i LN_X_STEP``.
    """

    log_scale: Float64Array
    amplitude: Float64Array
    kappa: Float64Array
    gamma: Float64Array

    @property
    def step(self) -> float:
        """Distance of the nodes in ln x."""
        return (LN_X_MAX - LN_X_MIN) / (self.kappa.shape[1] - 1)


@functools.lru_cache(maxsize=4)
def _plain_tables(n: int) -> tuple[Float64Array, Float64Array]:
    x = np.exp(np.linspace(LN_X_MIN, LN_X_MAX, n))
    kappa = convergence_shape(x)
    return kappa, mean_convergence_shape(x) - kappa


def make_halo_tables(
    masses: ArrayLike,
    *,
    z: float,
    options: HaloOptions = HaloOptions(),
    concentrations: ArrayLike | None = None,
    cosmology: Cosmology = FIDUCIAL,
    n_nodes: int = N_X,
) -> HaloTables:
    """Tabulate halos.

    Parameters
    ----------
    masses : (n,) float64 [Msun]
        M200 with respect to the critical density: the mass that a sphere of r200 holds, truncated
        or not.
    z : float
        Their redshift.
    options : HaloOptions
        Truncation and miscentring; the concentration unless ``concentrations`` are given.
    concentrations : (n,) float64, optional
        Concentrations.
    cosmology : Cosmology
        Distances.
    n_nodes : int
        Nodes of each table.

    Returns
    -------
    HaloTables
        One table for all if the shape does not depend on the mass, else one each.
    """
    masses_ = np.atleast_1d(np.asarray(masses, np.float64))
    fixed = options.concentration or None
    c = [fixed] * len(masses_) if concentrations is None else list(np.atleast_1d(concentrations))
    halos = [
        NfwHalo(mass=float(m), z=z, c=None if k is None else float(k), cosmology=cosmology)
        for m, k in zip(masses_, c, strict=True)
    ]
    sigma_critical = float(cosmology.critical_surface_density(z_lens=z))  # type: ignore[arg-type]
    log_scale = np.log([h.scale_radius for h in halos])
    amplitude = np.array([h.surface_density_scale for h in halos]) / sigma_critical
    miscentred = options.miscentring_mpc > 0 and options.miscentred_fraction > 0
    if not miscentred and options.truncation == 0:
        kappa, gamma = _plain_tables(n_nodes)
        return HaloTables(
            log_scale=log_scale, amplitude=amplitude, kappa=kappa[None], gamma=gamma[None]
        )
    ln_x = np.linspace(LN_X_MIN, LN_X_MAX, n_nodes)
    kappas, gammas = np.empty((2, len(halos), n_nodes))
    for i, halo in enumerate(halos):
        if options.truncation > 0:
            c200 = halo.c200
            tau = options.truncation * c200
            kappa, mean = truncated_shapes(np.exp(ln_x), tau=tau)
            amplitude[i] *= (np.log1p(c200) - c200 / (1.0 + c200)) / _truncated_mass(c200, tau)
        else:
            kappa, mean = convergence_shape(np.exp(ln_x)), mean_convergence_shape(np.exp(ln_x))
        if miscentred:
            off = options.miscentred_fraction
            scatter = options.miscentring_mpc / halo.scale_radius
            kappa_off, mean_off = miscentred_shapes(ln_x, kappa, scatter=scatter)
            kappa, mean = (1 - off) * kappa + off * kappa_off, (1 - off) * mean + off * mean_off
        kappas[i], gammas[i] = kappa, mean - kappa
    return HaloTables(log_scale=log_scale, amplitude=amplitude, kappa=kappas, gamma=gammas)

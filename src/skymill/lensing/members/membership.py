"""Probabilities of membership: a cluster over its field in radius, magnitude and colour.

The field is measured, not modelled, in the space of magnitude and of t = chi^k, where chi^2 is
the distance from the ridge in k colours: t is a volume in colour space, in which a field without
structure is flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.special import erfc, gamma

from skymill.lensing.nfw import convergence_shape

__all__ = ["Completeness", "Mixture", "characteristic_magnitude", "cluster_density",
           "field_density", "fit_completeness", "luminosity_function", "radial_profile",
           "solve_richness"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: Scale radius and core of the galaxies' profile [Mpc]: 0.15 and 0.1 Mpc/h.
_SCALE_RADIUS, _CORE = 0.15 / 0.7, 0.1 / 0.7
#: Bins of the field's density in magnitude and in chi.
_STEP = 0.1
#: Share of the brightest galaxies, which a Schechter function lacks, for each magnitude.
_BRIGHTEST = 0.02


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A cluster on its field.

    Parameters
    ----------
    richness, richness_err : float
        Members to the faint limit within the radius, and the error of the likelihood.
    significance : float
        Square root of twice the gain of the log-likelihood over no cluster.
    probability : (n,) float64
        Of membership.
    """

    richness: float
    richness_err: float
    significance: float
    probability: Float64Array


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """Share of the galaxies of a magnitude that a catalogue holds.

    Parameters
    ----------
    limit : float [mag]
        Where it holds half; infinite if no end is seen.
    width : float [mag]
        Standard deviation of the limit over galaxies and places.
    """

    limit: float
    width: float

    def share(self, mag: Float64Array) -> Float64Array:
        """Share of the galaxies that are there.

        Parameters
        ----------
        mag : (n,) float64 [mag]
            Magnitudes.

        Returns
        -------
        (n,) float64
            From 0 to 1.
        """
        return np.asarray(0.5 * erfc((mag - self.limit) / (np.sqrt(2.0) * self.width)))


def fit_completeness(mag: Float64Array) -> Completeness:
    """Find where a catalogue ends, from the counts of its last three magnitudes.

    Parameters
    ----------
    mag : (n,) float64 [mag]
        Magnitudes, at least one; a sharp cut at the faint end is no loss.

    Returns
    -------
    Completeness
        The counts rise as a power law and fall off; without an end if a power law alone is as
        likely within 3 sigma.
    """
    top = float(mag.max())
    edges = top - 3.0 + _STEP * np.arange(31)
    counts = np.histogram(mag, edges)[0].astype(np.float64)
    middle = 0.5 * (edges[1:] + edges[:-1])
    # Axes: slope of the counts, limit, width, magnitude.
    slopes = np.arange(0.15, 0.66, 0.025)[:, None, None, None]
    limits = np.append(np.arange(top - 1.5, top + 1.0, 0.5 * _STEP), np.inf)
    widths = np.arange(0.1, 0.55, 0.1)
    fall = np.stack([[Completeness(limit=a, width=b).share(middle) for b in widths]
                     for a in limits])  # fmt: skip
    model = 10.0 ** (slopes * (middle - top)) * fall
    model *= (counts.sum() / model.sum(axis=-1))[..., None]
    deviance = 2.0 * np.sum(model - counts * np.log(model + 1e-12), axis=-1).min(axis=0)
    if deviance[-1].min() - deviance.min() < 9.0:
        return Completeness(limit=float("inf"), width=float(widths[0]))
    i, j = np.unravel_index(deviance.argmin(), deviance.shape)
    return Completeness(limit=float(limits[i]), width=float(widths[j]))


def characteristic_magnitude(z: float, distance_modulus_from_01: float) -> float:
    """m* of red cluster galaxies in i.

    Parameters
    ----------
    z : float
        Redshift.
    distance_modulus_from_01 : float [mag]
        Distance modulus less that of z = 0.1.

    Returns
    -------
    float [mag]
        16.27 at z = 0.1; redshifting and passive evolution nearly cancel in i. Within 0.06 mag of
        the polynomial of Rykoff et al. 2012, ApJ 746, 178, for z from 0.05 to 0.35.
    """
    return 16.27 + distance_modulus_from_01 - 0.3 * (z - 0.1)


def luminosity_function(
    mag: Float64Array, *, m_star: float, bright: float, faint: float
) -> Float64Array:
    """Share of the members for each magnitude.

    Parameters
    ----------
    mag : (n,) float64 [mag]
        Magnitudes.
    m_star : float [mag]
        Of the Schechter function, whose faint slope is -1.
    bright, faint : float [mag]
        Where it is one in all.

    Returns
    -------
    (n,) float64 [1/mag]
        Zero outside of the limits.
    """

    def shape(m: Float64Array) -> Float64Array:
        luminosity = 10.0 ** (-0.4 * (m - m_star))
        return np.exp(-luminosity) + _BRIGHTEST

    grid = np.linspace(bright, faint, 400)
    inside = (mag >= bright) & (mag <= faint)
    return np.where(inside, shape(mag) / np.trapezoid(shape(grid), grid), 0.0)


def radial_profile(radius: Float64Array, *, limit: float) -> Float64Array:
    """Share of the members for each square megaparsec.

    Parameters
    ----------
    radius : (n,) float64 [Mpc]
        Projected distance from the centre.
    limit : float [Mpc]
        Within it lie all.

    Returns
    -------
    (n,) float64 [1/Mpc2]
        A projected NFW profile, flat inside of the core, zero beyond the limit.
    """

    def shape(r: Float64Array) -> Float64Array:
        return convergence_shape(np.maximum(r, _CORE) / _SCALE_RADIUS)

    grid = np.linspace(0.0, limit, 1000)
    total = np.trapezoid(2 * np.pi * grid * shape(grid), grid)
    return np.where(radius < limit, shape(radius) / total, 0.0)


def cluster_density(chi2: Float64Array, n_colours: int) -> Float64Array:
    """Share of the members for each unit of t.

    Parameters
    ----------
    chi2 : (n,) float64
        Distance from the ridge.
    n_colours : int
        Colours behind it.

    Returns
    -------
    (n,) float64
        Chi-square distribution over d(chi^k)/d(chi^2).
    """
    return np.exp(-0.5 * chi2) / (2.0 ** (0.5 * n_colours) * gamma(0.5 * n_colours + 1.0))


def field_density(
    chi2: Float64Array,
    mag: Float64Array,
    weight: Float64Array,
    *,
    area: float,
    n_colours: int,
    chi2_max: float,
) -> Float64Array:
    """Density of field galaxies at each galaxy's place.

    Parameters
    ----------
    chi2, mag : (n,) float64 [1, mag]
        Distance from the ridge, magnitude.
    weight : (n,) float64
        How much of each galaxy is field; zero where it is not in the area.
    area : float [Mpc2]
        Of the weighted galaxies.
    n_colours : int
        Colours behind chi2.
    chi2_max : float
        Beyond it nothing is asked.

    Returns
    -------
    (n,) float64 [1/Mpc2/mag/t]
        Galaxies over volume, both under a Gaussian of 0.3 in chi (red galaxies of the field crowd
        about the ridge too) and of 0.5 mag, or wider where galaxies are few.
    """
    chi = np.sqrt(np.minimum(chi2, 4.0 * chi2_max))
    chi_edges = np.arange(0.0, np.sqrt(chi2_max) + 2.0 * _STEP, _STEP)
    low = float(mag.min())
    mag_edges = low + _STEP * np.arange(int((mag.max() - low) / _STEP) + 2)
    counts, _, _ = np.histogram2d(mag, chi, bins=(mag_edges, chi_edges), weights=weight)
    volume = np.tile(np.diff(chi_edges**n_colours) * _STEP * area, (len(counts), 1))
    width = float(np.clip(0.5 * np.sqrt(400.0 / max(counts.sum(), 1.0)), 0.5, 1.0))
    sigma = np.array([width, 0.3]) / _STEP

    def smooth(values: Float64Array, by: Float64Array) -> Float64Array:
        return np.asarray(gaussian_filter(values, by, mode="constant"))

    under = smooth(volume, sigma)
    # What one galaxy adds: the kernel squared is a kernel narrower by sqrt(2). Half of one keeps
    # an empty place from being certain (the median of a Poisson mean is above its count).
    one = smooth(volume, sigma / np.sqrt(2.0)) / (4.0 * np.pi * sigma.prod()) / under**2
    density = smooth(counts, sigma) / under + 0.5 * one
    i = np.clip(((mag - low) / _STEP).astype(int), 0, len(mag_edges) - 2)
    j = np.clip((chi / _STEP).astype(int), 0, len(chi_edges) - 2)
    return np.asarray(density[i, j], np.float64)


def solve_richness(ratio: Float64Array, *, covered: float = 1.0) -> Mixture:
    """The richness of the greatest likelihood, and each galaxy's probability.

    Parameters
    ----------
    ratio : (n,) float64
        Density of one member over that of the field at each galaxy; zero if it cannot be one.
    covered : float
        Share of the members that lies where the catalogue has galaxies.

    Returns
    -------
    Mixture
        Richness 0 if there is no excess over the field.

    Notes
    -----
    The extended likelihood sum log(1 + L ratio) - L covered has its maximum where the
    probabilities L ratio / (L ratio + 1) add up to L covered (Rozo et al. 2009).
    """

    def slope(richness: float) -> float:
        return float(np.sum(ratio / (1.0 + richness * ratio)) - covered)

    found = 0.0
    if slope(0.0) > 0:
        high = max(1.0, float((ratio > 0).sum())) / covered + 1.0
        found = float(brentq(slope, 0.0, high, xtol=1e-4))
    curvature = float(np.sum((ratio / (1.0 + found * ratio)) ** 2))
    gain = float(np.sum(np.log1p(found * ratio)) - found * covered)
    return Mixture(
        richness=found,
        richness_err=curvature**-0.5 if curvature > 0 else float("nan"),
        significance=float(np.sqrt(max(2.0 * gain, 0.0))),
        probability=found * ratio / (1.0 + found * ratio),
    )

"""Masses of clusters: the galaxies behind them, halo profiles, fits of one and of several."""

from __future__ import annotations

from skymill.lensing.masses.halo_fit import HaloFit, HaloFitOptions, LensPosition, fit_halos
from skymill.lensing.masses.halo_profiles import HaloOptions
from skymill.lensing.masses.large_scale_structure import convergence_power
from skymill.lensing.masses.mass_fit import MassFit, MassFitOptions, fit_nfw_mass
from skymill.lensing.masses.sources import LensedSources, SourceOptions, select_sources

__all__ = [
    "HaloFit",
    "HaloFitOptions",
    "HaloOptions",
    "LensPosition",
    "LensedSources",
    "MassFit",
    "MassFitOptions",
    "SourceOptions",
    "convergence_power",
    "fit_halos",
    "fit_nfw_mass",
    "select_sources",
]

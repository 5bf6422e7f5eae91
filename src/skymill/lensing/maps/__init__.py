"""Maps of mass: aperture mass, convergence, peaks, and what noise alone would show."""

from __future__ import annotations

from skymill.lensing.maps.aperture_mass import (
    ApertureMassMap,
    ApertureMassOptions,
    make_aperture_mass_map,
)
from skymill.lensing.maps.convergence import (
    ConvergenceMap,
    ConvergenceOptions,
    make_convergence_map,
)
from skymill.lensing.maps.filters import FILTER_NAMES, aperture_filter
from skymill.lensing.maps.peaks import PeakOptions, best_peak, distinct_peaks, find_peaks
from skymill.lensing.maps.rotation import (
    RotatedMaps,
    RotationOptions,
    judge_peaks,
    make_rotated_maps,
    turn_shapes,
)

__all__ = [
    "FILTER_NAMES",
    "ApertureMassMap",
    "ApertureMassOptions",
    "ConvergenceMap",
    "ConvergenceOptions",
    "PeakOptions",
    "RotatedMaps",
    "RotationOptions",
    "aperture_filter",
    "best_peak",
    "distinct_peaks",
    "find_peaks",
    "judge_peaks",
    "make_aperture_mass_map",
    "make_convergence_map",
    "make_rotated_maps",
    "turn_shapes",
]

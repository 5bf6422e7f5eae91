"""Galaxies behind a lens: which, how far behind, and how many members are among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import check_choice, check_range, option
from skymill.lensing.catalogue import ShearSample, tangential_shear
from skymill.lensing.cosmology import FIDUCIAL, Cosmology
from skymill.lensing.masses.contamination import Dilution, covered_radii, fit_dilution

__all__ = ["LensedSources", "SourceOptions", "mean_efficiency", "rows_behind", "select_sources"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_ARCMIN = np.pi / 10800.0
_UNKNOWN = ("drop", "ensemble")
_DILUTION = ("none", "measured")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which galaxies enter a mass fit."""

    radius_min_mpc: float = option(0.2, "Inner end of the radial range", unit="Mpc")
    radius_max_mpc: float = option(3.0, "Outer end of the radial range", unit="Mpc")
    z_margin: float = option(0.1, "Sources have a point redshift above the lens's by more than it")
    unknown_z: str = option(
        "ensemble",
        "Galaxies without a redshift: drop, or ensemble (the mean efficiency of the galaxies of "
        "their magnitude that have one)",
    )
    dilution: str = option(
        "none",
        "Members among the sources: none, or measured (from the excess of sources towards the "
        "centre)",
    )
    member_scale_mpc: float = option(0.4, "Scale radius of the members' profile", unit="Mpc")
    min_galaxies: int = option(10, "Galaxies that a fit needs")

    def __post_init__(self) -> None:
        check_range(self, "radius_min_mpc", low=0.0)
        check_range(self, "radius_max_mpc", low=0.0, low_open=True)
        if self.radius_max_mpc <= self.radius_min_mpc:
            raise ConfigError(
                f"radius_max_mpc must be > radius_min_mpc = {self.radius_min_mpc} Mpc; "
                f"got {self.radius_max_mpc}"
            )
        check_range(self, "z_margin", low=0.0, high=2.0)
        check_choice(self, "unknown_z", _UNKNOWN)
        check_choice(self, "dilution", _DILUTION)
        check_range(self, "member_scale_mpc", low=0.01, high=5.0)
        check_range(self, "min_galaxies", low=2)


@dataclass(frozen=True, kw_only=True)
class LensedSources:
    """Galaxies behind a lens, seen from its centre.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        Positions in the tangent plane of the centre.
    g1, g2 : (n,) float64
        Shear in the axes of that plane.
    weight : (n,) float64
        Weights with mean one.
    beta, beta_ratio : (n,) float64
        <D_LS/D_S> and <(D_LS/D_S)^2>/<D_LS/D_S> over each galaxy's p(z).
    mpc_per_arcmin : float
        Scale at the lens.
    boost : (n,) float64
        Factor by which members lower the mean shear at each galaxy's radius.
    dilution : Dilution
        The model behind ``boost``.
    z_source, z_weight : (m,) float64
        Distribution of the sources' redshifts.
    n_without_z : int
        Sources without a redshift of their own.
    """

    east: Float64Array
    north: Float64Array
    g1: Float64Array
    g2: Float64Array
    weight: Float64Array
    beta: Float64Array
    beta_ratio: Float64Array
    mpc_per_arcmin: float
    boost: Float64Array
    dilution: Dilution
    z_source: Float64Array
    z_weight: Float64Array
    n_without_z: int = 0

    @cached_property
    def radius(self) -> Float64Array:
        """Projected distances from the centre (n,) [Mpc]."""
        return np.hypot(self.east, self.north) * self.mpc_per_arcmin

    @cached_property
    def ln_radius(self) -> Float64Array:
        """Logarithms of `radius` (n,)."""
        return np.log(self.radius)

    def reordered(self, order: NDArray[np.intp]) -> LensedSources:
        """The same galaxies in another order (n,)."""
        names = ("east", "north", "g1", "g2", "weight", "beta", "beta_ratio", "boost")
        return replace(self, **{name: getattr(self, name)[order] for name in names})

    def tangential(self) -> tuple[Float64Array, Float64Array]:
        """Tangential and cross shear (n,) about the centre."""
        return tangential_shear(east=self.east, north=self.north, g1=self.g1, g2=self.g2)


def _known(sample: ShearSample) -> BoolArray:
    """Rows that have a redshift of any kind."""
    if sample.pz is not None:
        return np.asarray(sample.pz.sum(axis=1) > 0)
    if sample.z is not None:
        return np.isfinite(sample.z)
    raise DataError("the galaxies have no redshifts; give a column of them or one for all")


def _ensemble_means(
    values: list[Float64Array], known: BoolArray, sample: ShearSample
) -> list[Float64Array]:
    """Values of the unknown rows: weighted means over 200 known galaxies of their magnitude."""
    weight = sample.weight[known]
    if sample.mag is None or len(weight) < 400:
        return [np.where(known, v, np.average(v[known], weights=weight)) for v in values]
    order = np.argsort(sample.mag[known])
    mag = sample.mag[known][order]
    n_block = len(mag) // 200
    blocks = np.array_split(np.arange(len(mag)), n_block)
    middle = np.array([np.median(mag[b]) for b in blocks])
    out = []
    for v in values:
        sorted_v, w = v[known][order], weight[order]
        mean = np.array([np.average(sorted_v[b], weights=w[b]) for b in blocks])
        out.append(np.where(known, v, np.interp(sample.mag, middle, mean)))
    return out


def mean_efficiency(
    sample: ShearSample, *, z_lens: float, cosmology: Cosmology = FIDUCIAL
) -> tuple[Float64Array, Float64Array]:
    """Mean lensing efficiency of each galaxy over its p(z), or at its point redshift.

    Parameters
    ----------
    sample : ShearSample
        Galaxies with ``pz`` or ``z``; those without a redshift get the means of the others of
        their magnitude.
    z_lens : float
        Redshift of the lens.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    beta, beta_ratio : (n,) float64
        <beta> and <beta^2>/<beta>; both zero in front of the lens.

    Raises
    ------
    DataError
        If the sample has no redshifts.
    """
    known = _known(sample)
    if not known.any():
        raise DataError("no galaxy has a redshift; give a column of them or one for all")
    if sample.pz is not None:
        grid = cosmology.lensing_efficiency(sample.z_grid, z_lens=z_lens)  # type: ignore[arg-type]
        norm = np.maximum(sample.pz.sum(axis=1, dtype=np.float64), 1e-30)
        beta = sample.pz @ grid.astype(np.float32) / norm
        beta2 = sample.pz @ (grid**2).astype(np.float32) / norm
    else:
        assert sample.z is not None
        beta = cosmology.lensing_efficiency(np.where(known, sample.z, 0.0), z_lens=z_lens)
        beta2 = beta**2
    if not known.all():
        beta, beta2 = _ensemble_means([beta, beta2], known, sample)
    positive = beta > 0
    ratio = np.where(positive, beta2 / np.where(positive, beta, 1.0), 0.0)
    return np.asarray(beta, np.float64), np.asarray(ratio, np.float64)


def _redshift_distribution(
    sample: ShearSample, keep: BoolArray
) -> tuple[Float64Array, Float64Array]:
    if sample.pz is not None:
        assert sample.z_grid is not None
        stack = sample.weight[keep] @ sample.pz[keep]
        return np.asarray(sample.z_grid, np.float64), np.asarray(stack, np.float64)
    assert sample.z is not None
    use = keep & np.isfinite(sample.z)
    counts, edges = np.histogram(sample.z[use], bins=60, weights=sample.weight[use])
    return 0.5 * (edges[1:] + edges[:-1]), counts.astype(np.float64)


def _require_in_range(
    radius: Float64Array, inside: BoolArray, centre: tuple[float, float], options: SourceOptions
) -> None:
    if inside.any():
        return
    nearest = np.nanmin(radius) if np.isfinite(radius).any() else np.inf
    raise NoDataError(
        f"no galaxy lies {options.radius_min_mpc} to {options.radius_max_mpc} Mpc from the "
        f"centre ra={centre[0]:.5f}, dec={centre[1]:.5f} deg (nearest {nearest:.2f} Mpc); "
        "is the centre off the field?"
    )


def rows_behind(
    sample: ShearSample, beta: Float64Array, *, z_lens: float, options: SourceOptions
) -> BoolArray:
    """Galaxies that count as being behind a lens.

    Parameters
    ----------
    sample : ShearSample
        All galaxies.
    beta : (n,) float64
        Their mean efficiency from `mean_efficiency`.
    z_lens : float
        Redshift of the lens.
    options : SourceOptions
        Redshift margin; what to do with unknown redshifts.

    Returns
    -------
    (n,) bool
        Which.
    """
    behind = beta > 0
    known = _known(sample)
    if sample.z is not None:
        far = sample.z > z_lens + options.z_margin
        behind &= np.where(np.isfinite(sample.z), far, ~known)
    if options.unknown_z == "drop":
        behind &= known
    return np.asarray(behind)


def select_sources(
    sample: ShearSample,
    *,
    z_lens: float,
    centre: tuple[float, float],
    options: SourceOptions = SourceOptions(),
    cosmology: Cosmology = FIDUCIAL,
) -> LensedSources:
    """The galaxies behind a lens in the radial range.

    Parameters
    ----------
    sample : ShearSample
        All galaxies.
    z_lens : float
        Redshift of the lens.
    centre : (ra, dec) [deg]
        Its centre.
    options : SourceOptions
        Radial range, redshift margin, dilution.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    LensedSources
        What the fit needs.

    Raises
    ------
    NoDataError
        If too few galaxies remain, with the number left by each cut.
    """
    if not 0.001 < z_lens < 5:
        raise ConfigError(f"z_lens must be in (0.001, 5); got {z_lens}")
    scale = float(cosmology.angular_distance(z_lens)) * _ARCMIN
    east, north, g1, g2 = sample.in_plane(centre)
    radius = np.hypot(east, north) * scale
    inside = (radius >= options.radius_min_mpc) & (radius <= options.radius_max_mpc) & (radius > 0)
    _require_in_range(radius, inside, centre, options)
    beta, ratio = mean_efficiency(sample, z_lens=z_lens, cosmology=cosmology)
    behind = rows_behind(sample, beta, z_lens=z_lens, options=options)
    keep = inside & behind
    if keep.sum() < options.min_galaxies:
        raise NoDataError(
            f"{int(keep.sum())} galaxies lie behind z_lens = {z_lens} (by {options.z_margin}) and "
            f"in the radial range ({int(inside.sum())} in range, {int(behind.sum())} behind, of "
            f"{len(sample)}); at least {options.min_galaxies} are needed"
        )
    dilution = Dilution(0.0, 0.0, options.member_scale_mpc)
    if options.dilution == "measured":
        finite = np.isfinite(radius)
        covered, _ = covered_radii(east[finite], north[finite])
        counted = behind & finite
        dilution = fit_dilution(
            radius[counted],
            covered * scale,
            radius_max=2.0 * options.radius_max_mpc,
            scale_mpc=options.member_scale_mpc,
            weight=(sample.weight * beta**2)[counted],
        )
    z_source, z_weight = _redshift_distribution(sample, keep)
    weight = sample.weight[keep]
    return LensedSources(
        east=east[keep],
        north=north[keep],
        g1=g1[keep],
        g2=g2[keep],
        weight=weight / weight.mean(),
        beta=beta[keep],
        beta_ratio=ratio[keep],
        mpc_per_arcmin=scale,
        boost=dilution.boost(radius[keep]),
        dilution=dilution,
        z_source=z_source,
        z_weight=z_weight,
        n_without_z=int((~_known(sample)[keep]).sum()),
    )

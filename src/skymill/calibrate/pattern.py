"""First match of a star list to a reference list under an unknown shift and rotation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.stats import poisson

from skymill.calibrate import _match_kernels as kernels
from skymill.calibrate.match import SkyMatch, match_plane
from skymill.data.errors import FitError
from skymill.data.options import check_range, option
from skymill.data.statistics import robust_sigma

__all__ = ["PatternOptions", "Similarity", "match_pattern"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PatternOptions:
    """How the first match is sought."""

    max_offset: float = option(70.0, "Largest pointing error along an axis.", unit="arcsec")
    max_rotation: float = option(1.0, "Largest rotation.", unit="deg")
    rotation_step: float = option(0.2, "Step of the rotations tried.", unit="deg")
    bin_size: float = option(2.0, "Width of the bins of offsets.", unit="arcsec")
    n_bright: int = option(200, "Brightest sources in the first attempt.")
    max_chance: float = option(1e-4, "Largest probability that the match is by chance.")
    min_pairs: int = option(5, "Fewest pairs of a match.")

    def __post_init__(self) -> None:
        check_range(self, "max_offset", low=0.0, low_open=True)
        check_range(self, "max_rotation", low=0.0, high=10.0)
        check_range(self, "rotation_step", low=0.0, low_open=True)
        check_range(self, "bin_size", low=0.0, low_open=True)
        check_range(self, "n_bright", low=5)
        check_range(self, "max_chance", low=0.0, high=1.0, low_open=True)
        check_range(self, "min_pairs", low=3)


@dataclass(frozen=True)
class Similarity:
    """Affine map of the plane and the pairs that gave it.

    Parameters
    ----------
    matrix : (2, 2) float64
        ``reference = matrix @ source + shift``.
    shift : (2,) float64
        In the unit of the input.
    pairs : SkyMatch
        Source (first) and reference (second) of each pair.
    chance : float
        Probability that so many pairs coincide by chance anywhere in the search.
    """

    matrix: Float64Array
    shift: Float64Array
    pairs: SkyMatch
    chance: float

    def apply(self, x: Float64Array, y: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Move points of the source's plane to the reference's.

        Parameters
        ----------
        x, y : (n,) float64
            Points.

        Returns
        -------
        x, y : (n,) float64
            Moved points.
        """
        moved = self.matrix @ np.stack([x, y]) + self.shift[:, None]
        return moved[0], moved[1]


def _rotate(x: Float64Array, y: Float64Array, degrees: float) -> tuple[Float64Array, Float64Array]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return c * x - s * y, s * x + c * y


def _vote(
    source: tuple[Float64Array, Float64Array],
    reference: tuple[Float64Array, Float64Array],
    options: PatternOptions,
) -> tuple[float, float, float, float]:
    """Best rotation [deg], offsets and the probability of its peak by chance."""
    limit = options.max_offset + 1.5 * options.bin_size
    size = max(int(2 * limit / options.bin_size), 3)
    steps = round(options.max_rotation / options.rotation_step)
    angles = options.rotation_step * np.arange(-steps, steps + 1)
    best = (0.0, 0.0, 0.0, 1.0)
    lowest = np.inf
    for angle in angles[np.argsort(np.abs(angles), kind="stable")]:
        votes = np.zeros((size, size), np.int64)
        kernels.vote_offsets(
            *_rotate(*source, float(angle)), *reference, limit, 1.0 / options.bin_size, size, votes
        )
        box = 9.0 * uniform_filter(votes.astype(np.float64), 3, mode="constant")
        # What a place without a match would hold: the mean over a wide surrounding.
        expected = np.maximum(9.0 * votes.mean(), uniform_filter(box, 21, mode="nearest"))
        iy, ix = np.unravel_index(int(np.argmax(box - 3.0 * np.sqrt(expected))), box.shape)
        peak = box[iy, ix]
        log_chance = float(poisson.logsf(round(peak) - 1, expected[iy, ix]))
        if log_chance < lowest - 1e-9:
            lowest = log_chance
            tries = angles.size * size * size / 9.0
            chance = float(min(1.0, np.exp(min(log_chance + np.log(tries), 0.0))))
            dx = (ix + 0.5) * options.bin_size - limit
            dy = (iy + 0.5) * options.bin_size - limit
            best = (float(angle), dx, dy, chance)
    return best


def _brightest(flux: Float64Array, count: int) -> NDArray[np.int64]:
    order = np.argsort(np.where(np.isfinite(flux), -flux, np.inf), kind="stable")
    return np.asarray(order[:count])


def match_pattern(
    *,
    x: Float64Array,
    y: Float64Array,
    flux: Float64Array,
    ref_x: Float64Array,
    ref_y: Float64Array,
    ref_flux: Float64Array,
    options: PatternOptions = PatternOptions(),
) -> Similarity:
    """Find the shift and rotation that lay a star list onto a reference list.

    All differences between the brightest stars of both lists vote for an offset, for each of a
    few rotations; the highest peak over what chance gives wins and is refined by an affine fit
    to nearest pairs in shrinking radii.

    Parameters
    ----------
    x, y : (n,) float64 [arcsec]
        Sources in a tangent plane by the approximate mapping.
    flux : (n,) float64
        Their fluxes, any unit.
    ref_x, ref_y : (m,) float64 [arcsec]
        Reference stars in the same plane.
    ref_flux : (m,) float64
        Their fluxes, any unit.
    options : PatternOptions
        Range of the search.

    Returns
    -------
    Similarity
        The map from the source's to the reference's positions, and the pairs.

    Raises
    ------
    FitError
        If no offset stands out.
    """
    margin = options.max_offset + 30.0
    inside = np.flatnonzero(
        (ref_x > x.min() - margin)
        & (ref_x < x.max() + margin)
        & (ref_y > y.min() - margin)
        & (ref_y < y.max() + margin)
    )
    chance = 1.0
    if inside.size >= options.min_pairs and x.size >= options.min_pairs:
        for factor in (1, 3, 10):
            s = _brightest(flux, factor * options.n_bright)
            density = max((np.ptp(ref_x[inside]) * np.ptp(ref_y[inside])), 1.0)
            ratio = density / max(float(np.ptp(x) * np.ptp(y)), 1.0)
            r = inside[_brightest(ref_flux[inside], int(factor * options.n_bright * ratio * 1.5))]
            angle, dx, dy, chance = _vote((x[s], y[s]), (ref_x[r], ref_y[r]), options)
            if chance <= options.max_chance:
                found = _refine((x, y), (ref_x, ref_y), (angle, dx, dy, chance), options)
                if found is not None:
                    return found
    raise FitError(
        f"no match of {x.size} sources to {inside.size} reference stars within "
        f"{options.max_offset:g} arcsec and {options.max_rotation:g} deg (probability of the best "
        f"offset by chance {chance:.2g}, allowed {options.max_chance:g}); the pointing in the "
        "header is further off, or the sources are not stars"
    )


def _refine(
    source: tuple[Float64Array, Float64Array],
    reference: tuple[Float64Array, Float64Array],
    start: tuple[float, float, float, float],
    options: PatternOptions,
) -> Similarity | None:
    angle, dx, dy, chance = start
    x, y = source
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    found = Similarity(
        np.array([[c, -s], [s, c]]), np.array([dx, dy]), match_plane(0, 0, 0, 0, radius=1), chance
    )
    for radius in (3.0 * options.bin_size, 2.0 * options.bin_size, 2.0, 1.0, 1.0):
        pairs = match_plane(*found.apply(x, y), *reference, radius=radius)
        if len(pairs) < options.min_pairs:
            return None
        a = np.stack([x[pairs.first], y[pairs.first]])
        b = np.stack([reference[0][pairs.second], reference[1][pairs.second]])
        fitted = _fit_affine(a, b, full=len(pairs) >= 12)
        if fitted is None:
            return None
        found = Similarity(*fitted, pairs, chance)
    return found


def _fit_affine(
    a: Float64Array, b: Float64Array, *, full: bool
) -> tuple[Float64Array, Float64Array] | None:
    """Map from a to b by clipped least squares: affine, or a rotation and shift if few pairs."""
    keep = np.ones(a.shape[1], bool)
    matrix, shift = np.eye(2), np.zeros(2)
    for _ in range(6):
        if keep.sum() < 3:
            return None
        mean_a, mean_b = a[:, keep].mean(axis=1), b[:, keep].mean(axis=1)
        da, db = a[:, keep] - mean_a[:, None], b[:, keep] - mean_b[:, None]
        if full:
            matrix = np.linalg.lstsq(da.T, db.T, rcond=None)[0].T
        else:
            cross = da[0] @ db[1] - da[1] @ db[0]
            dot = np.sum(da * db)
            norm = np.hypot(cross, dot)
            matrix = np.array([[dot, -cross], [cross, dot]]) / norm
        shift = mean_b - matrix @ mean_a
        residual = b - matrix @ a - shift[:, None]
        sigma = max(robust_sigma(residual[:, keep].ravel()), 1e-9)
        new = np.all(np.abs(residual) < 4.0 * sigma, axis=0)
        if np.array_equal(new, keep):
            break
        keep = new
    return matrix, shift

"""Maps of the same galaxies turned at random: noise, look-elsewhere effect, false peaks.

Turning every shape by its own angle removes all lensing and keeps places, weights and moduli. What
such maps show by chance, over all apertures and places, is what a real peak must exceed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import gumbel_r

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.maps._aperture_kernels import turned_histograms
from skymill.lensing.maps.aperture_mass import (
    ApertureMassMap,
    filter_matrix,
    sort_into_cells,
    sum_over_grid,
)
from skymill.lensing.maps.peaks import PeakOptions, peaks_of_plane

__all__ = ["RotatedMaps", "RotationOptions", "judge_peaks", "make_rotated_maps", "turn_shapes"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
_TURNS = 8


@dataclass(frozen=True, kw_only=True)
class RotationOptions:
    """How many catalogues of turned shapes, and how finely they are mapped."""

    n_rotations: int = option(
        64, "Catalogues of turned shapes; each gives two maps (E and B); 0 for none"
    )
    radial_bins: int = option(256, "Radial bins of these maps")

    def __post_init__(self) -> None:
        check_range(self, "n_rotations", low=0, high=100_000)
        check_range(self, "radial_bins", low=64, high=16384)


@dataclass(frozen=True, kw_only=True)
class RotatedMaps:
    """What the maps of turned shapes show.

    Parameters
    ----------
    n_maps : int
        Maps made: two of each catalogue.
    variance : (n_aperture, ny, nx) float32
        Variance of the aperture mass over these maps.
    maxima : (n_maps,) float64
        Highest S/N of each over all apertures and usable places.
    peak_snr : (n_peaks,) float64
        S/N of all their peaks together.
    peak_aperture : (n_peaks,) int
        Number of the aperture of each.
    """

    n_maps: int
    variance: Float32Array
    maxima: Float64Array
    peak_snr: Float64Array
    peak_aperture: NDArray[np.int64]

    def global_probability(self, snr: Float64Array) -> Float64Array:
        """Probability that noise alone has a peak as high anywhere in any aperture.

        Parameters
        ----------
        snr : (n,) float64
            Signal to noise of peaks.

        Returns
        -------
        (n,) float64
            From a Gumbel distribution fitted to `maxima`.
        """
        place, scale = gumbel_r.fit(self.maxima)
        return np.asarray(gumbel_r.sf(snr, loc=place, scale=scale))

    def false_peaks(self, snr: Float64Array) -> Float64Array:
        """Mean number of noise peaks at least as high, over all apertures.

        Parameters
        ----------
        snr : (n,) float64
            Signal to noise of peaks.

        Returns
        -------
        (n,) float64
            Counted in the maps of turned shapes.
        """
        ordered = np.sort(self.peak_snr)
        return (len(ordered) - np.searchsorted(ordered, snr, side="left")) / self.n_maps


def turn_shapes(sample: ShearSample, rng: np.random.Generator) -> ShearSample:
    """Turn each galaxy's shape by an angle of its own.

    Parameters
    ----------
    sample : ShearSample
        Galaxies.
    rng : numpy.random.Generator
        Source of the angles.

    Returns
    -------
    ShearSample
        The same with other g1, g2.
    """
    g = (sample.g1 + 1j * sample.g2) * np.exp(1j * rng.uniform(0.0, 2.0 * np.pi, len(sample)))
    return replace(sample, g1=g.real.copy(), g2=g.imag.copy())


def make_rotated_maps(
    sample: ShearSample,
    mass_map: ApertureMassMap,
    *,
    rng: np.random.Generator,
    options: RotationOptions = RotationOptions(),
    peaks: PeakOptions = PeakOptions(),
) -> RotatedMaps:
    """Map many catalogues of turned shapes on the grid of a map.

    Parameters
    ----------
    sample : ShearSample
        The galaxies of the map.
    mass_map : ApertureMassMap
        The map.
    rng : numpy.random.Generator
        Source of the angles.
    options : RotationOptions
        How many.
    peaks : PeakOptions
        What counts as a peak, and where.

    Returns
    -------
    RotatedMaps
        Noise, maxima and peaks.

    Raises
    ------
    DataError
        If no rotation is asked for, or the map is not of this catalogue.
    """
    if options.n_rotations < 1:
        raise DataError("make_rotated_maps needs n_rotations >= 1; got 0")
    if mass_map.n_galaxies != len(sample):
        raise DataError(
            f"the map was made of {mass_map.n_galaxies} galaxies, but the catalogue has "
            f"{len(sample)}; give the same catalogue"
        )
    grid = _Grid(sample, mass_map, options.radial_bins)
    usable = (mass_map.coverage >= peaks.min_coverage) & (grid.noise > 0)
    square = np.zeros(mass_map.variance.shape)
    maxima: list[float] = []
    heights: list[float] = []
    apertures: list[int] = []
    for start in range(0, options.n_rotations, _TURNS):
        n_turn = min(_TURNS, options.n_rotations - start)
        for cube in grid.turned_maps(rng.uniform(0.0, 2.0 * np.pi, (len(sample), n_turn))):
            square += cube * cube
            cube[~usable] = -np.inf
            maxima.append(float(cube.max()))
            for k, plane in enumerate(cube):
                found = [float(plane[iy, ix]) for iy, ix, _ in peaks_of_plane(plane, peaks)]
                heights += found
                apertures += [k] * len(found)
    n_maps = 2 * options.n_rotations
    return RotatedMaps(
        n_maps=n_maps,
        variance=(mass_map.variance * square / n_maps).astype(np.float32),
        maxima=np.array(maxima),
        peak_snr=np.array(heights),
        peak_aperture=np.array(apertures, np.int64),
    )


class _Grid:
    """Galaxies sorted for the grid of a map, and the noise of the sums at each point."""

    def __init__(self, sample: ShearSample, mass_map: ApertureMassMap, n_bins: int) -> None:
        half = (mass_map.e_mode.shape[1] - 1) / 2.0
        ra, dec = mass_map.wcs.pixel_to_sky(x=[half], y=[half])
        east, north, g1, g2 = sample.in_plane((float(ra[0]), float(dec[0])))
        step = mass_map.step_arcmin
        self.offsets = (np.arange(mass_map.e_mode.shape[1]) - half) * step
        w = sample.weight / sample.weight.mean()
        rows = np.arange(len(sample), dtype=np.float64)
        columns = np.stack([east, north, w * g1, w * g2, 0.5 * w * w * (g1**2 + g2**2), w])
        self.apertures, self.n_bins = mass_map.apertures, n_bins
        edges = (np.arange(n_bins + 1) / n_bins) ** 2 * mass_map.apertures.max()
        self.matrix = filter_matrix(mass_map.filter, edges, mass_map.apertures)
        cubes = sum_over_grid(
            columns.astype(np.float32), self.offsets, mass_map.apertures, mass_map.filter, n_bins
        )
        self.noise = cubes[2]
        self.r_max = float(mass_map.apertures.max())
        self.size = max(self.r_max / 6.0, float(np.ptp(east)) / 200.0, 1e-3)
        tagged = np.stack([columns[0], columns[1], columns[2], columns[3], rows])
        self.cells = sort_into_cells(tagged, self.size)

    def turned_maps(self, angles: Float64Array) -> list[Float32Array]:
        """S/N cubes (n_aperture, ny, nx) of each column of angles (n, n_turn), E then B."""
        galaxies, start, ncx, ncy, x0, y0 = self.cells
        order = galaxies[4].astype(np.int64)
        turned = (galaxies[2] + 1j * galaxies[3])[:, None] * np.exp(1j * angles[order])
        shears = np.ascontiguousarray(
            np.stack([turned.real, turned.imag], axis=1).astype(np.float32)
        )
        n_turn, n_grid = angles.shape[1], len(self.offsets)
        east, north = (np.ascontiguousarray(galaxies[i], np.float32) for i in (0, 1))
        hist = np.empty((n_grid, self.n_bins, 2, n_turn), np.float32)
        out = np.empty((2 * n_turn, len(self.apertures), n_grid, n_grid), np.float32)
        matrix = np.ascontiguousarray(self.matrix.T, np.float32)
        for j, row_north in enumerate(self.offsets):
            turned_histograms(
                row_north, -self.offsets, start, ncx, ncy, self.size, x0, y0, east, north, shears,
                self.r_max, self.n_bins, hist,
            )  # fmt: skip
            sums = matrix @ hist.reshape(n_grid, self.n_bins, 2 * n_turn)
            out[:, :, j, :] = sums.transpose(2, 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = np.where(self.noise > 0, out / np.sqrt(self.noise), np.float32(0.0))
        return [snr[i] for i in range(2 * n_turn)]


def judge_peaks(peaks: Table, mass_map: ApertureMassMap, rotated: RotatedMaps) -> Table:
    """Say of each peak how often noise alone reaches it anywhere.

    Parameters
    ----------
    peaks : astropy.table.Table
        Schema ``massMapPeaks``, from `skymill.lensing.maps.peaks.find_peaks`.
    mass_map : ApertureMassMap
        The map.
    rotated : RotatedMaps
        Maps of turned shapes.

    Returns
    -------
    astropy.table.Table
        With ``snr_rotated``, ``p_local``, ``p_global``, ``n_false``.
    """
    out = peaks.copy()
    if len(out) == 0:
        return out
    snr = np.asarray(out["snr"], np.float64)
    k = np.abs(
        np.asarray(out["aperture"])[:, None] - np.asarray(mass_map.apertures)[None, :]
    ).argmin(axis=1)
    iy = np.clip(np.rint(out["y"]).astype(int), 0, mass_map.e_mode.shape[1] - 1)
    ix = np.clip(np.rint(out["x"]).astype(int), 0, mass_map.e_mode.shape[2] - 1)
    sigma = np.sqrt(rotated.variance[k, iy, ix].astype(np.float64))
    mass = np.asarray(out["aperture_mass"], np.float64)
    out["snr_rotated"] = np.where(sigma > 0, mass / np.where(sigma > 0, sigma, 1.0), 0.0)
    out["p_local"] = ndtr(-snr)
    out["p_global"] = rotated.global_probability(snr)
    out["n_false"] = rotated.false_peaks(snr)
    out.meta["n_rotated_maps"] = str(rotated.n_maps)
    return load_schema("massMapPeaks").apply(out)

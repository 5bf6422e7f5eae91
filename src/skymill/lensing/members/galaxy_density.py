"""Where a catalogue has galaxies, and maps of their density with holes and edges corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.errors import NoDataError
from skymill.data.geometry import make_tan_wcs

__all__ = ["Footprint", "make_density_map", "make_footprint"]

Float64Array = NDArray[np.float64]
#: Largest map: pixels from its centre to its edge.
_MAX_HALF = 2000


@dataclass(frozen=True)
class Footprint:
    """Where a catalogue has galaxies, around a centre; North up, East left.

    Parameters
    ----------
    coverage : (n, n) float64
        1 where there are galaxies, 0 in holes and beyond the edge.
    offsets : (n,) float64 [arcmin]
        Centres of the pixels, to the West and to the North.
    """

    coverage: Float64Array
    offsets: Float64Array

    @property
    def step(self) -> float:
        """Side of a pixel [arcmin]."""
        return float(self.offsets[1] - self.offsets[0])

    @property
    def radius(self) -> Float64Array:
        """Distance of each pixel from the centre, (n, n) [arcmin]."""
        return np.hypot(self.offsets[:, None], self.offsets[None, :])

    def area(self, where: NDArray[np.bool_]) -> float:
        """Covered area of chosen pixels.

        Parameters
        ----------
        where : (n, n) bool
            The pixels.

        Returns
        -------
        float [arcmin2]
            At least one pixel's.
        """
        return max(float(self.coverage[where].sum()), 1.0) * self.step**2

    def covered_share(self, weight: Callable[[Float64Array], Float64Array]) -> float:
        """Share of a round profile that lies where there are galaxies.

        Parameters
        ----------
        weight : callable
            Profile of the radius in arcmin.

        Returns
        -------
        float
            At least 0.01.
        """
        value = weight(self.radius)
        # A profile that reaches beyond the map is not covered there.
        reach = np.linspace(0.0, 1.5 * float(self.radius.max()), 4000)
        total = np.trapezoid(2 * np.pi * reach * weight(reach), reach)
        return max(float((value * self.coverage).sum()) * self.step**2 / float(total), 0.01)


def make_footprint(east: Float64Array, north: Float64Array, *, step: float) -> Footprint:
    """Find where a catalogue has galaxies.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        Offsets from the centre; NaN is left out.
    step : float [arcmin]
        Side of a pixel.

    Returns
    -------
    Footprint
        The gaps between galaxies are filled, holes wider than some ten galaxies are not.

    Raises
    ------
    NoDataError
        If there is no galaxy with a position, or none within the largest map.
    """
    known = np.isfinite(east) & np.isfinite(north)
    if not known.any():
        raise NoDataError("no galaxy of the catalogue has a position on this half of the sky")
    east, north = east[known], north[known]
    far = float(np.max(np.abs(np.concatenate([east, north]))))
    half = min(int(np.ceil(far / step)) + 1, _MAX_HALF)
    edges = (np.arange(2 * half + 2) - half - 0.5) * step
    counts, _, _ = np.histogram2d(north, -east, bins=(edges, edges))
    if not counts.any():
        raise NoDataError(
            f"no galaxy lies within {half * step:.0f} arcmin of the centre: is the centre that of "
            "this catalogue?"
        )
    covered = _fill(counts > 0, float(counts.sum()) / counts.size)
    # The density where there are galaxies: the first is that of the whole square, holes included.
    for _ in range(2):
        covered = _fill(counts > 0, float(counts.sum()) / float(covered.sum()))
    return Footprint(
        covered.astype(np.float64), np.arange(-half, half + 1, dtype=np.float64) * step
    )


def _fill(occupied: NDArray[np.bool_], density: float) -> NDArray[np.bool_]:
    """Close the gaps in which less than some ten galaxies are missing, given those of a pixel."""
    size = int(np.clip(2 * np.ceil(np.sqrt(10.0 / density) / 2) + 1, 3, 51))
    # Two passes of a line are one of a square.
    padded = np.pad(occupied, size)
    for operation in (ndimage.binary_dilation, ndimage.binary_erosion):
        for shape in ((size, 1), (1, size)):
            padded = operation(padded, structure=np.ones(shape))
    return padded[size:-size, size:-size]


def make_density_map(
    east: Float64Array,
    north: Float64Array,
    footprint: Footprint,
    *,
    weight: Float64Array,
    sigma: float,
    background: tuple[float, float],
    centre: tuple[float, float],
) -> fits.HDUList:
    """Kernel density of galaxies less that of the field.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        The galaxies.
    footprint : Footprint
        Where they could be seen.
    weight : (n,) float64
        What each counts.
    sigma : float [arcmin]
        Standard deviation of the Gaussian kernel.
    background : (float, float) [1/arcmin2]
        Density of the weights in the field, and of their squares.
    centre : (ra, dec) [deg]
        Of the footprint.

    Returns
    -------
    astropy.io.fits.HDUList
        ``DENSITY`` [arcmin-2], divided by the covered share of the kernel, zero where less than a
        tenth is covered; ``SNR``, the density over the Poisson noise that the field has there;
        ``COVERAGE``, the covered share of the kernel.
    """
    o, step = footprint.offsets, footprint.step
    edges = np.append(o - 0.5 * step, o[-1] + 0.5 * step)
    counts, _, _ = np.histogram2d(north, -east, bins=(edges, edges), weights=weight)
    smooth = ndimage.gaussian_filter(counts / step**2, sigma / step, mode="constant")
    cover = ndimage.gaussian_filter(footprint.coverage, sigma / step, mode="constant")
    inside = cover > 0.1
    safe = np.where(inside, cover, 1.0)
    density = np.where(inside, smooth / safe - background[0], 0.0)
    # A Gaussian kernel averages over 4 pi sigma^2, of which the covered share counts.
    noise = np.sqrt(max(background[1], 1e-9) / (4.0 * np.pi * sigma**2 * safe))
    half = (len(o) - 1) / 2
    header = make_tan_wcs(ra=centre[0], dec=centre[1], scale=60.0 * step, x=half, y=half).header
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for name, plane, unit in (
        ("DENSITY", density, "arcmin-2"),
        ("SNR", density / noise, ""),
        ("COVERAGE", cover, ""),
    ):
        hdu = fits.ImageHDU(plane.astype(np.float32), name=name)
        hdu.header.extend(header, update=True)
        hdu.header["BUNIT"] = unit
        hdus.append(hdu)
    return hdus

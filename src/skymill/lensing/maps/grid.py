"""The square of sky that a map covers, and its planes on disk: one for all kinds of maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError
from skymill.data.geometry import FitsWcs, make_tan_wcs

__all__ = ["MapGrid", "choose_grid", "image_hdus", "require_planes"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MapGrid:
    """Points of a square about a place of the sky, North up and East left.

    Parameters
    ----------
    middle : (ra, dec) [deg]
        The place.
    step_arcsec : float [arcsec]
        Distance of the points.
    half : int
        Points from the middle to each side.
    """

    middle: tuple[float, float]
    step_arcsec: float
    half: int

    @property
    def size(self) -> int:
        """Points of a side."""
        return 2 * self.half + 1

    @property
    def step(self) -> float:
        """Distance of the points [arcmin]."""
        return self.step_arcsec / 60.0

    @property
    def offsets(self) -> Float64Array:
        """Places along North (size,) [arcmin]; those along East are their negatives."""
        return np.arange(-self.half, self.half + 1, dtype=np.float64) * self.step

    @property
    def wcs(self) -> FitsWcs:
        """Mapping of the points to the sky."""
        ra, dec = self.middle
        return make_tan_wcs(
            ra=ra, dec=dec, scale=self.step_arcsec, x=float(self.half), y=float(self.half)
        )


def choose_grid(
    east: Float64Array,
    north: Float64Array,
    *,
    middle: tuple[float, float],
    step_arcsec: float,
    extent_arcmin: float,
    half_limits: tuple[int, int],
) -> MapGrid:
    """The grid that holds a catalogue.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        Galaxies in the tangent plane of the middle; NaN on the other half of the sky.
    middle : (ra, dec) [deg]
        Middle of the map.
    step_arcsec : float [arcsec]
        Distance of the points.
    extent_arcmin : float [arcmin]
        Side of the map; 0 takes the extent of the catalogue.
    half_limits : (int, int)
        Least and most points from the middle to a side.

    Returns
    -------
    MapGrid
        The grid.

    Raises
    ------
    DataError
        If the middle lies outside the catalogue.
    ConfigError
        If there would be too many points.
    """
    inside = np.isfinite(east) & np.isfinite(north)
    if not inside.any():
        raise DataError(
            f"all galaxies lie more than 89 deg from the centre ra={middle[0]:.5f}, "
            f"dec={middle[1]:.5f}; give a centre inside the field"
        )
    e, n = east[inside], north[inside]
    if not (e.min() <= 0 <= e.max() and n.min() <= 0 <= n.max()):
        raise DataError(
            f"the centre ra={middle[0]:.5f}, dec={middle[1]:.5f} deg lies outside the catalogue "
            f"(East {e.min():.1f} to {e.max():.1f}, North {n.min():.1f} to {n.max():.1f} arcmin "
            "from it); give a centre inside the field"
        )
    extent = extent_arcmin or 2.0 * max(np.abs(e).max(), np.abs(n).max())
    half = max(int(np.ceil(0.5 * extent / (step_arcsec / 60.0))), half_limits[0])
    if half > half_limits[1]:
        raise ConfigError(
            f"the map would have {2 * half + 1} pixels a side; step_arcsec = {step_arcsec} is too "
            f"fine for {extent:.1f} arcmin"
        )
    return MapGrid(middle=middle, step_arcsec=step_arcsec, half=half)


def image_hdus(
    planes: Mapping[str, NDArray[np.generic]], header: fits.Header
) -> list[fits.ImageHDU]:
    """Images with a header in common.

    Parameters
    ----------
    planes : mapping of str to array
        Pixels by the name of the extension.
    header : astropy.io.fits.Header
        Cards that each gets, those of a WCS.

    Returns
    -------
    list of astropy.io.fits.ImageHDU
        In the order given.
    """
    out = []
    for name, pixels in planes.items():
        hdu = fits.ImageHDU(np.ascontiguousarray(pixels), name=name)
        hdu.header.extend(header, update=True)
        out.append(hdu)
    return out


def require_planes(hdus: fits.HDUList, names: Iterable[str], *, what: str) -> None:
    """Refuse a file that lacks an extension.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        The open file.
    names : iterable of str
        Extensions needed.
    what : str
        What the file should be.

    Raises
    ------
    DataError
        If one is missing.
    """
    present = {h.name for h in hdus}
    missing = [n for n in names if n not in present]
    if missing:
        raise DataError(f"this is no {what}: it has no extension {', '.join(missing)}")

"""The pixels of a brick: its tangent plane, its cut-out and its primary area."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skymill.coadd.bricks import Brick, brick_from_name
from skymill.data.errors import ConfigError, DataError
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.release.survey.bricks import is_primary

__all__ = ["BrickGrid", "custom_grid", "named_grid"]


@dataclass(frozen=True)
class BrickGrid:
    """Pixels of a brick or of a cut-out of it.

    Parameters
    ----------
    name : str
        ``1867p255``, or ``custom-009122p03397`` for any other place.
    index : int
        ``brickid``; -1 for a custom place.
    ra, dec : float [deg]
        Centre of the whole brick.
    ra_low, ra_high, dec_low, dec_high : float [deg]
        Edges of the primary area; the whole grid is primary at a custom place.
    wcs : FitsWcs
        Mapping of the cut-out's pixels.
    width, height : int [pixel]
        Of the cut-out.
    pixel_scale : float [arcsec]
        Width of a pixel.
    """

    name: str
    index: int
    ra: float
    dec: float
    ra_low: float
    ra_high: float
    dec_low: float
    dec_high: float
    wcs: FitsWcs
    width: int
    height: int
    pixel_scale: float

    @property
    def is_custom(self) -> bool:
        """True for a place that is no brick of the tiling."""
        return self.index < 0

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the cut-out."""
        return self.height, self.width

    @property
    def folder(self) -> str:
        """First three characters of the name: the folder of its files."""
        return self.name[:3]

    def is_primary(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether positions lie in the brick's own area.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            Positions.

        Returns
        -------
        (n,) bool
            ``ra_low <= ra < ra_high and dec_low <= dec < dec_high``; all of a custom place.
        """
        if self.is_custom:
            return np.ones(np.shape(ra), bool)
        return is_primary(self, ra=ra, dec=dec)

    def part(self, zoom: tuple[int, int, int, int]) -> BrickGrid:
        """A cut-out.

        Parameters
        ----------
        zoom : (x0, x1, y0, y1) [pixel]
            Its pixels among those of this grid.

        Returns
        -------
        BrickGrid
            With the same name and primary area.

        Raises
        ------
        ConfigError
            If it is empty or reaches beyond this grid.
        """
        x0, x1, y0, y1 = zoom
        if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
            raise ConfigError(
                f"zoom must be X0 X1 Y0 Y1 with 0 <= X0 < X1 <= {self.width} and 0 <= Y0 < Y1 <= "
                f"{self.height}; got {' '.join(map(str, zoom))}"
            )
        return replace(self, wcs=self.wcs.shifted(dx=x0, dy=y0), width=x1 - x0, height=y1 - y0)

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether pixel positions lie on the cut-out."""
        with np.errstate(invalid="ignore"):
            return (x >= -0.5) & (x < self.width - 0.5) & (y >= -0.5) & (y < self.height - 0.5)

    def primary_pixels(self) -> NDArray[np.bool_]:
        """The pixels (ny, nx) whose centres lie in the brick's own area."""
        out = np.ones(self.shape, bool)
        x = np.arange(self.width, dtype=float)
        # Some rows at a time: the positions of all pixels of a brick take 400 MB.
        for first in range(0, 0 if self.is_custom else self.height, 64):
            rows = np.arange(first, min(first + 64, self.height), dtype=float)
            ra, dec = self.wcs.pixel_to_sky(x=np.tile(x, rows.size), y=np.repeat(rows, x.size))
            out[first : first + rows.size] = self.is_primary(ra, dec).reshape(rows.size, x.size)
        return out

    @functools.cached_property
    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Right ascension and declination (4,) [deg] of the centres of the corner pixels."""
        x = np.array([0.0, self.width - 1.0, self.width - 1.0, 0.0])
        y = np.array([0.0, 0.0, self.height - 1.0, self.height - 1.0])
        return self.wcs.pixel_to_sky(x=x, y=y)

    @property
    def centre(self) -> tuple[float, float]:
        """Right ascension and declination [deg] of the middle of the cut-out."""
        ra, dec = self.wcs.pixel_to_sky(
            x=np.array([(self.width - 1) / 2]), y=np.array([(self.height - 1) / 2])
        )
        return float(ra[0]), float(dec[0])


def _make(
    brick: Brick | None,
    name: str,
    ra: float,
    dec: float,
    width: int,
    height: int,
    pixel_scale: float,
    zoom: tuple[int, int, int, int] | None,
) -> BrickGrid:
    wcs = make_tan_wcs(ra=ra, dec=dec, scale=pixel_scale, x=(width - 1) / 2.0, y=(height - 1) / 2.0)
    grid = BrickGrid(
        name=name,
        index=-1 if brick is None else brick.index,
        ra=ra,
        dec=dec,
        ra_low=0.0 if brick is None else brick.ra_low,
        ra_high=0.0 if brick is None else brick.ra_high,
        dec_low=0.0 if brick is None else brick.dec_low,
        dec_high=0.0 if brick is None else brick.dec_high,
        wcs=wcs,
        width=width,
        height=height,
        pixel_scale=pixel_scale,
    )
    return grid if zoom is None else grid.part(zoom)


def named_grid(
    name: str,
    *,
    width: int = 3600,
    height: int = 3600,
    pixel_scale: float = 0.262,
    zoom: tuple[int, int, int, int] | None = None,
) -> BrickGrid:
    """The pixels of a brick of the tiling.

    Parameters
    ----------
    name : str
        For example ``1867p255``.
    width, height : int [pixel]
        Size of the image around the brick's centre.
    pixel_scale : float [arcsec]
        Width of a pixel.
    zoom : (x0, x1, y0, y1) [pixel], optional
        Only this cut-out of it.

    Returns
    -------
    BrickGrid
        The pixels.

    Raises
    ------
    DataError
        If no brick has this name.
    """
    try:
        brick = brick_from_name(name)
    except DataError as err:
        raise DataError(f"{err}; bricks are named like 1867p255 (skymill release bricks)") from err
    return _make(brick, brick.name, brick.ra, brick.dec, width, height, pixel_scale, zoom)


def custom_grid(
    ra: float,
    dec: float,
    *,
    width: int = 3600,
    height: int = 3600,
    pixel_scale: float = 0.262,
    zoom: tuple[int, int, int, int] | None = None,
) -> BrickGrid:
    """The pixels of any place of the sky.

    Parameters
    ----------
    ra, dec : float [deg]
        Centre.
    width, height, pixel_scale, zoom
        As in `named_grid`.

    Returns
    -------
    BrickGrid
        The pixels; the name is ``custom-`` and the position in thousandths of a degree.
    """
    if not (np.isfinite(ra) and -90 <= dec <= 90):
        raise ConfigError(f"dec must be in [-90, 90] degree and ra finite; got {ra}, {dec}")
    sign = "p" if dec >= 0 else "m"
    ra %= 360.0
    name = f"custom-{int(1000 * ra):06d}{sign}{int(1000 * abs(dec)):05d}"
    return _make(None, name, ra, dec, width, height, pixel_scale, zoom)

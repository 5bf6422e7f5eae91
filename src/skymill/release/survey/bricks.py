"""Bricks of a survey: by name, in a region, touched by CCDs; their pixels; the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.coadd.bricks import Brick, brick_at, bricks_in_box, bricks_near
from skymill.data.errors import ConfigError
from skymill.data.files import atomic_path
from skymill.data.geometry import FitsWcs, make_tan_wcs

__all__ = [
    "BRICK_SIZE",
    "PIXEL_SCALE",
    "REGIONS",
    "Area",
    "Brick",
    "brick_at",
    "brick_table",
    "brick_wcs",
    "bricks_in",
    "bricks_near",
    "is_primary",
    "write_brick_table",
]

#: Pixels on a side of a brick's images.
BRICK_SIZE = 3600

#: Width of a brick's pixel [arcsec].
PIXEL_SCALE = 0.262

#: Parts of the sky by name: (south, north) limit of declination [deg].
REGIONS: dict[str, tuple[float, float]] = {"mzls": (-10.0, 90.0), "decals": (-25.0, 40.0)}


def bricks_in(ra_min: float, ra_max: float, dec_min: float, dec_max: float) -> list[Brick]:
    """Bricks whose centres lie in a box.

    Parameters
    ----------
    ra_min, ra_max : float [deg]
        West and East limit; 359, 1 spans the origin of right ascension.
    dec_min, dec_max : float [deg]
        South and North limit.

    Returns
    -------
    list of Brick
        In the order of right ascension, then declination, as the worked example lists them.

    Raises
    ------
    ConfigError
        If a limit is not finite or the declinations are no range within [-90, 90].
    """
    limits = (ra_min, ra_max, dec_min, dec_max)
    if not np.isfinite(limits).all():
        raise ConfigError(f"the limits of a region must be finite degrees; got {limits}")
    if not -90.0 <= dec_min <= dec_max <= 90.0:
        raise ConfigError(
            f"declinations must be a range within -90 to 90 degree; got {dec_min} to {dec_max}"
        )
    found = bricks_in_box(ra_range=(ra_min, ra_max), dec_range=(dec_min, dec_max))
    return sorted(found, key=lambda brick: ((brick.ra - ra_min) % 360.0, brick.dec))


def brick_wcs(brick: Brick, *, size: int = BRICK_SIZE, scale: float = PIXEL_SCALE) -> FitsWcs:
    """World coordinates of a brick's images: a TAN projection about its centre.

    Parameters
    ----------
    brick : Brick
        The brick.
    size : int [pixel]
        Width and height.
    scale : float [arcsec/pixel]
        Width of a pixel.

    Returns
    -------
    FitsWcs
        North up, East left; the brick's centre is the centre of the image.
    """
    middle = (size - 1) / 2
    return make_tan_wcs(ra=brick.ra, dec=brick.dec, scale=scale, x=middle, y=middle)


class Area(Protocol):
    """Edges of a brick's own area [deg]."""

    @property
    def ra_low(self) -> float:
        """West edge."""

    @property
    def ra_high(self) -> float:
        """East edge."""

    @property
    def dec_low(self) -> float:
        """South edge."""

    @property
    def dec_high(self) -> float:
        """North edge."""


def is_primary(
    brick: Area, *, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether positions belong to a brick and not to a neighbour that overlaps it.

    Parameters
    ----------
    brick : Brick or Area
        The brick, or its pixels.
    ra, dec : (...) float64 [deg]
        Positions.

    Returns
    -------
    (...) bool
        True where ra_low <= ra < ra_high and dec_low <= dec < dec_high.
    """
    width = brick.ra_high - brick.ra_low
    inside = np.mod(np.asarray(ra) - brick.ra_low, 360.0) < width
    upper = np.asarray(dec) < brick.dec_high if brick.dec_high < 90.0 else True
    return np.asarray(inside & (np.asarray(dec) >= brick.dec_low) & upper)


def brick_table(bricks: Iterable[Brick]) -> Table:
    """The columns of ``survey-bricks.fits.gz``.

    Parameters
    ----------
    bricks : iterable of Brick
        Bricks.

    Returns
    -------
    Table
        ``brickname brickid brickq brickrow brickcol ra dec ra1 ra2 dec1 dec2``.
    """
    rows = list(bricks)
    table = Table()
    table["brickname"] = np.array([b.name for b in rows], "U8")
    for name, word, kind in (
        ("brickid", "index", np.int32),
        ("brickq", "quadrant", np.int16),
        ("brickrow", "row", np.int32),
        ("brickcol", "column", np.int32),
        ("ra", "ra", np.float64),
        ("dec", "dec", np.float64),
        ("ra1", "ra_low", np.float64),
        ("ra2", "ra_high", np.float64),
        ("dec1", "dec_low", np.float64),
        ("dec2", "dec_high", np.float64),
    ):
        table[name] = np.array([getattr(b, word) for b in rows], kind)
    for name in ("ra", "dec", "ra1", "ra2", "dec1", "dec2"):
        table[name].unit = "deg"
    return table


def write_brick_table(path: str | Path, bricks: Iterable[Brick]) -> None:
    """Write ``survey-bricks.fits.gz``.

    Parameters
    ----------
    path : path
        The file, ``.fits`` or ``.fits.gz``.
    bricks : iterable of Brick
        Bricks.
    """
    with atomic_path(path) as draft:
        brick_table(bricks).write(draft, format="fits")

"""The Legacy Surveys' tiling of the sky into bricks of about 0.25 degrees.

Rows have a height of 0.25 degrees; the number of bricks in a row is even, so that the width stays
near to 0.25 degrees. The whole sky has 662174 bricks, numbered from 1 at the South pole.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError

__all__ = ["N_BRICKS", "Brick", "brick_at", "brick_from_name", "bricks_in_box", "bricks_near"]

_STEP = 0.25
_N_ROWS = 721


@functools.cache
def _columns() -> NDArray[np.int64]:
    """Number of bricks in each row."""
    dec = -90.0 + _STEP * np.arange(_N_ROWS)
    nearest = np.maximum(0.0, np.abs(dec) - _STEP / 2)
    # Rounded before the ceiling: cos(60 deg) = 0.5 + 1 ulp must not add a pair of bricks.
    wanted = np.round(360.0 / _STEP * np.cos(np.radians(nearest)) / 2, 9)
    columns = 2 * np.ceil(wanted).astype(np.int64)
    columns[[0, -1]] = 1
    return columns


@functools.cache
def _before() -> NDArray[np.int64]:
    """Number of bricks in all rows below each row."""
    return np.concatenate([[0], np.cumsum(_columns())])


#: Bricks on the whole sky.
N_BRICKS = 662174


@dataclass(frozen=True, kw_only=True)
class Brick:
    """One brick: identifier, name, centre and edges.

    Parameters
    ----------
    index, row, column : int
        ``brickid`` (from 1), row from the South pole and column from ra = 0.
    ra, dec : float [deg]
        Centre.
    ra_low, ra_high, dec_low, dec_high : float [deg]
        Edges: the brick has ra_low <= ra < ra_high and dec_low <= dec < dec_high.
    """

    index: int
    row: int
    column: int
    ra: float
    dec: float
    ra_low: float
    ra_high: float
    dec_low: float
    dec_high: float

    @property
    def name(self) -> str:
        """Name such as ``1867p255``."""
        sign = "p" if self.dec >= 0 else "m"
        return f"{1e4 * self.ra:07.0f}"[:4] + sign + f"{1e4 * abs(self.dec):06.0f}"[:3]

    @property
    def quadrant(self) -> int:
        """``brickq``: 0 to 3, no two neighbours alike."""
        return (self.column % 2) + 2 * (self.row % 2)


def _brick(row: int, column: int) -> Brick:
    n = int(_columns()[row])
    dec = -90.0 + _STEP * row
    return Brick(
        index=int(_before()[row]) + column + 1,
        row=row,
        column=column,
        ra=360.0 * (column + 0.5) / n,
        dec=dec,
        ra_low=360.0 * column / n,
        ra_high=360.0 * (column + 1) / n,
        dec_low=max(-90.0, dec - _STEP / 2),
        dec_high=min(90.0, dec + _STEP / 2),
    )


def brick_at(*, ra: float, dec: float) -> Brick:
    """The brick that a position belongs to.

    Parameters
    ----------
    ra, dec : float [deg]
        ICRS position.

    Returns
    -------
    Brick
        The brick.
    """
    if not (np.isfinite(ra) and -90 <= dec <= 90):
        raise ConfigError(f"dec must be in [-90, 90] degree and ra finite; got {ra}, {dec}")
    row = min(_N_ROWS - 1, int(np.floor((dec + 90.0 + _STEP / 2) / _STEP)))
    n = int(_columns()[row])
    return _brick(row, min(n - 1, int(np.floor((ra % 360.0) / 360.0 * n))))


def brick_from_name(name: str) -> Brick:
    """The brick of a name such as ``1867p255``.

    Parameters
    ----------
    name : str
        Name of the brick.

    Returns
    -------
    Brick
        The brick.

    Raises
    ------
    DataError
        If the name is malformed or no brick has it.
    """
    well_formed = len(name) == 8 and name[4] in "pm" and (name[:4] + name[5:]).isdigit()
    if not well_formed:
        raise DataError(f"a brick's name is 4 digits, p or m, 3 digits; got {name!r}")
    dec = float(name[5:]) / 10 * (1 if name[4] == "p" else -1)
    for row in range(_N_ROWS):
        if abs(-90.0 + _STEP * row - dec) > 0.11:
            continue
        n = int(_columns()[row])
        guess = int(float(name[:4]) / 10 / 360.0 * n)
        for column in range(max(0, guess - 1), min(n, guess + 2)):
            if _brick(row, column).name == name:
                return _brick(row, column)
    raise DataError(f"no brick is named {name!r}")


def bricks_in_box(*, ra_range: tuple[float, float], dec_range: tuple[float, float]) -> list[Brick]:
    """Bricks whose centres lie in a box.

    Parameters
    ----------
    ra_range : (float, float) [deg]
        West and East limit; (359, 1) spans the origin of right ascension.
    dec_range : (float, float) [deg]
        South and North limit.

    Returns
    -------
    list of Brick
        In the order of their identifiers.
    """
    low, high = dec_range
    if not low <= high:
        raise ConfigError(f"dec_range must be (south, north) in degree; got {dec_range}")
    width = ra_range[1] - ra_range[0]
    if width < 0 or width > 360:
        width %= 360.0
    out = []
    for row in range(_N_ROWS):
        if not low <= -90.0 + _STEP * row <= high:
            continue
        n = int(_columns()[row])
        centres = 360.0 * (np.arange(n) + 0.5) / n
        inside = (centres - ra_range[0]) % 360.0 <= width
        out += [_brick(row, int(c)) for c in np.flatnonzero(inside)]
    return out


def bricks_near(*, ra: float, dec: float, radius_deg: float) -> list[Brick]:
    """Bricks of which a part may lie within a circle.

    Parameters
    ----------
    ra, dec, radius_deg : float [deg]
        Centre and radius.

    Returns
    -------
    list of Brick
        In the order of their identifiers: those whose centre is nearer than the radius plus half
        a diagonal.
    """
    if not 0 <= radius_deg <= 90:
        raise ConfigError(f"radius_deg must be >= 0 and <= 90 degree; got {radius_deg}")
    home = brick_at(ra=ra, dec=dec)
    reach = radius_deg + _STEP / np.sqrt(2.0)
    ra0, dec0 = np.radians(ra), np.radians(dec)
    out = []
    for row in range(_N_ROWS):
        centre = -90.0 + _STEP * row
        if abs(centre - dec) > reach:
            continue
        n = int(_columns()[row])
        centres = np.radians(360.0 * (np.arange(n) + 0.5) / n)
        dec_row = np.radians(centre)
        haversine = (
            np.sin((dec_row - dec0) / 2) ** 2
            + np.cos(dec_row) * np.cos(dec0) * np.sin((centres - ra0) / 2) ** 2
        )
        near = 2 * np.arcsin(np.sqrt(np.minimum(1.0, haversine))) <= np.radians(reach)
        if row == home.row:
            near[home.column] = True
        out += [_brick(row, int(c)) for c in np.flatnonzero(near)]
    return out

"""Tiles of a survey: the planned pointings, from an optional file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from skymill.data.errors import DataError, MissingInputError
from skymill.release.survey.ccd_table import read_fits_table
from skymill.release.survey.overlap import unit_vectors

__all__ = ["Tiles"]

#: A pointing further from a tile's centre is no exposure of it [deg].
_REACH = 0.05


class Tiles:
    """The table ``*-tiles_obstatus.fits``.

    Parameters
    ----------
    path : path
        A FITS table with ``tileid``, ``ra``, ``dec`` and, as far as known, ``pass`` and
        ``ebv_med``.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file, or it lacks a column.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise MissingInputError(f"there is no file of tiles {path}")
        self._table = read_fits_table(path)
        missing = [n for n in ("tileid", "ra", "dec") if n not in self._table.colnames]
        if missing:
            raise DataError(f"{path} lacks the column {', '.join(missing)}")
        self._vectors = unit_vectors(self._table["ra"], self._table["dec"])

    def find(self, title: str, *, ra: float, dec: float) -> dict[str, Any]:
        """The tile of an exposure: by the number in its title, else the nearest pointing.

        Parameters
        ----------
        title : str
            Card OBJECT, such as ``DECaLS_31037_z``.
        ra, dec : float [deg]
            Boresight.

        Returns
        -------
        dict
            ``tileid``, ``tilepass``, ``tileebv``; all 0 if no tile is within 0.05 degrees or has
            the number.
        """
        ids = np.asarray(self._table["tileid"])
        match = re.search(r"_(\d+)_[a-zA-Z]+$", title)
        row: int | None = None
        if match and (found := np.flatnonzero(ids == int(match.group(1)))).size:
            row = int(found[0])
        elif len(ids):
            step = np.sqrt(((self._vectors - unit_vectors(ra, dec)) ** 2).sum(axis=1))
            nearest = int(np.argmin(step))
            row = nearest if np.degrees(step[nearest]) <= _REACH else None
        if row is None:
            return {"tileid": 0, "tilepass": 0, "tileebv": 0.0}
        names = self._table.colnames
        return {
            "tileid": int(ids[row]),
            "tilepass": int(self._table["pass"][row]) if "pass" in names else 0,
            "tileebv": float(self._table["ebv_med"][row]) if "ebv_med" in names else 0.0,
        }

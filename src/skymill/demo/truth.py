"""The truth beside the products. Only the report reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.match import match_sky
from skymill.data.errors import MissingInputError
from skymill.sims.survey import read_truth as read_table

__all__ = ["Truth", "match_truth", "read_truth"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What was simulated.

    Parameters
    ----------
    galaxies, stars, halos, exposures : astropy.table.Table
        Tables of the simulation.
    """

    galaxies: Table
    stars: Table
    halos: Table
    exposures: Table


def read_truth(folder: Path) -> Truth:
    """Read the truth tables.

    Parameters
    ----------
    folder : Path
        ``truth`` of a demonstration.

    Returns
    -------
    Truth
        The tables.

    Raises
    ------
    MissingInputError
        If a table is missing.
    """
    tables = {}
    for name in ("galaxies", "stars", "halos", "exposures"):
        path = folder / f"{name}.parquet"
        if not path.exists():
            raise MissingInputError(
                f"the report compares with the truth, but {path} does not exist; run the same "
                "skymill demo again to make it"
            )
        tables[name] = read_table(folder.parent, name)
    return Truth(**tables)


def match_truth(
    table: Table, truth: Table, *, ra: str = "ra", dec: str = "dec", radius_arcsec: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One-to-one matches on the sky.

    Parameters
    ----------
    table, truth : astropy.table.Table
        Measured and true objects.
    ra, dec : str
        Columns of ``table``.
    radius_arcsec : float [arcsec]
        Largest separation.

    Returns
    -------
    index, truth_index : (n,) int64
        Rows that belong together.
    """
    found = match_sky(
        np.asarray(table[ra], np.float64),
        np.asarray(table[dec], np.float64),
        np.asarray(truth["ra"], np.float64),
        np.asarray(truth["dec"], np.float64),
        radius_arcsec=radius_arcsec,
    )
    return np.asarray(found.first), np.asarray(found.second)

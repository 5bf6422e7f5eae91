"""Maps of photometric residuals over the field."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.statistics import robust_sigma
from skymill.data.tables import load_schema

__all__ = ["map_residuals"]

Float64Array = NDArray[np.float64]


def map_residuals(stars: Table, *, cell_arcmin: float = 6.0, min_stars: int = 3) -> Table:
    """Median residual of each band in square cells of the sky.

    Parameters
    ----------
    stars : astropy.table.Table
        Schema ``zeroPointStars``; stars that did not count are left out.
    cell_arcmin : float [arcmin]
        Side of a cell.
    min_stars : int
        Cells of fewer stars are left out.

    Returns
    -------
    astropy.table.Table
        Schema ``residualMap``, one row for each band and cell: centre, stars, median residual, its
        error from the scatter of the stars inside, and from the stars' own errors. Where the
        calibration is uniform the median over its error has a width of one.

    Raises
    ------
    DataError
        If the size of a cell is not positive.
    """
    if not cell_arcmin > 0:
        raise DataError(f"cell_arcmin must be > 0 arcmin; got {cell_arcmin}")
    schema = load_schema("residualMap")
    used = stars[np.asarray(stars["used"], bool)]
    if not len(used):
        return schema.empty()
    ra, dec = np.asarray(used["ra"], np.float64), np.asarray(used["dec"], np.float64)
    # Right ascension from the middle of the field, so that no cell is cut at 0 h.
    unit = np.exp(1j * np.radians(ra))
    middle = float(np.degrees(np.angle(unit.mean())))
    cosine = np.cos(np.radians(np.median(dec)))
    x = ((ra - middle + 180.0) % 360.0 - 180.0) * cosine * 60.0
    y = dec * 60.0
    ix, iy = np.floor(x / cell_arcmin).astype(int), np.floor(y / cell_arcmin).astype(int)
    band = np.asarray(used["band"]).astype(str)
    values = np.asarray(used["residual"], np.float64)
    errors = np.asarray(used["residual_err"], np.float64)
    names, which = np.unique(band, return_inverse=True)
    rows = []
    cells, member = np.unique(np.stack([which, ix, iy]), axis=1, return_inverse=True)
    member = np.ravel(member)
    order = np.argsort(member, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(member[order])) + 1):
        if len(part) < min_stars:
            continue
        b, cx, cy = (int(v) for v in cells[:, member[part[0]]])
        median = float(np.median(values[part]))
        spread = robust_sigma(values[part], centre=median)
        rows.append(
            {
                "band": str(names[b]),
                "ra": ((cx + 0.5) * cell_arcmin / 60.0 / cosine + middle) % 360.0,
                "dec": (cy + 0.5) * cell_arcmin / 60.0,
                "n_star": len(part),
                "residual": median,
                # 1.25: the efficiency of a median.
                "scatter_err": 1.25 * spread / np.sqrt(len(part)),
                "residual_err": 1.25 * float(np.sqrt(np.mean(errors[part] ** 2) / len(part))),
            }
        )
    return schema.apply(Table(rows=rows)) if rows else schema.empty()

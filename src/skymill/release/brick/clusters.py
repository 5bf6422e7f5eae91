"""Star clusters: within them everything is a point, and blobs are fitted in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.options import BrickOptions
from skymill.release.survey.ccd_table import read_fits_table

__all__ = ["cluster_mask"]

#: Columns that tell the size of a cluster, and the degrees of radius of their unit.
_SIZES = (("radius", 1.0), ("majax", 0.5 / 60.0), ("diam", 0.5 / 60.0), ("diameter", 0.5 / 60.0))


def cluster_mask(grid: BrickGrid, options: BrickOptions) -> NDArray[np.bool_]:
    """Pixels of a brick within star clusters.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    options : BrickOptions
        ``clusters_path``, else the survey's ``*star-clusters*.fits``.

    Returns
    -------
    (ny, nx) bool
        False everywhere without such a table.

    Raises
    ------
    MissingInputError, DataError
        If the table that was named is not there; if it lacks a column.
    """
    mask = np.zeros(grid.shape, bool)
    path = _path(options)
    if path is None:
        return mask
    table = read_fits_table(path)
    size = next(((name, unit) for name, unit in _SIZES if name in table.colnames), None)
    missing = [name for name in ("ra", "dec") if name not in table.colnames]
    if missing or size is None:
        raise DataError(
            f"{path} lacks the column {', '.join(missing) or 'radius [degree] or majax [arcmin]'} "
            "of star clusters"
        )
    radius = np.asarray(table[size[0]], float) * size[1] * 3600.0 / grid.pixel_scale
    with np.errstate(invalid="ignore"):
        x, y = grid.wcs.sky_to_pixel(
            ra=np.asarray(table["ra"], float), dec=np.asarray(table["dec"], float)
        )
        near = (x + radius > 0) & (x - radius < grid.width)
        near &= (y + radius > 0) & (y - radius < grid.height)
    rows, columns = np.ogrid[: grid.height, : grid.width]
    for k in np.flatnonzero(near):
        mask |= (columns - x[k]) ** 2 + (rows - y[k]) ** 2 <= radius[k] ** 2
    return mask


def _path(options: BrickOptions) -> Path | None:
    if options.clusters_path:
        path = Path(options.clusters_path)
        if not path.is_file():
            raise MissingInputError(f"there is no table of star clusters {path}")
        return path
    found = sorted(Path(options.survey_dir).glob("*star-clusters*.fits*"))
    return found[0] if found else None

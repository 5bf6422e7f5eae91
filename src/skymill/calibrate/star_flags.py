"""Which objects of a coadd are stars that the visits' PSF models have seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from skymill.calibrate.match import match_sky

__all__ = ["psf_star_flags"]


def psf_star_flags(
    ra: ArrayLike, dec: ArrayLike, stars: Sequence[Table], *, radius_arcsec: float = 0.5
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find the stars of the visits' PSF models among objects by position.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        The objects.
    stars : sequence of Table
        ``finalized_src_table`` of each visit.
    radius_arcsec : float [arcsec]
        Largest separation; of each visit's stars and the objects, each is used once.

    Returns
    -------
    used, reserved : (n,) bool
        Some visit fitted its PSF model to the object; some visit kept it out to test the model.
        An object can be both: each visit draws its own test stars.
    """
    a, d = np.asarray(ra, np.float64), np.asarray(dec, np.float64)
    used, reserved = np.zeros(a.size, bool), np.zeros(a.size, bool)
    placed = np.flatnonzero(np.isfinite(a) & np.isfinite(d))
    for table in stars:
        if len(table) == 0 or placed.size == 0:
            continue
        pairs = match_sky(
            a[placed],
            d[placed],
            np.asarray(table["ra"], np.float64),
            np.asarray(table["dec"], np.float64),
            radius_arcsec=radius_arcsec,
        )
        rows = placed[pairs.first]
        used[rows] |= np.asarray(table["calib_psf_used"], bool)[pairs.second]
        reserved[rows] |= np.asarray(table["calib_psf_reserved"], bool)[pairs.second]
    return used, reserved

"""Offsets on the sky from the middle of a field, for figures that may cross RA = 0 or a pole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skymill.lensing.catalogue import sky_to_plane

__all__ = ["field_centre", "field_offsets"]

Float64Array = NDArray[np.float64]


def field_centre(ra: Float64Array, dec: Float64Array) -> tuple[float, float]:
    """Mean direction of positions.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions; NaN is left out.

    Returns
    -------
    ra, dec : float [deg]
        (0, 0) without a position.
    """
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        return 0.0, 0.0
    a, d = np.radians(ra[known]), np.radians(dec[known])
    x, y, z = (np.cos(d) * np.cos(a)).mean(), (np.cos(d) * np.sin(a)).mean(), np.sin(d).mean()
    return float(np.degrees(np.arctan2(y, x)) % 360), float(
        np.degrees(np.arctan2(z, np.hypot(x, y)))
    )


def field_offsets(
    ra: Float64Array, dec: Float64Array, centre: tuple[float, float] | None = None
) -> tuple[Float64Array, Float64Array]:
    """Offsets in the tangent plane of a field.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    centre : (ra, dec), optional [deg]
        Tangent point; the mean direction if omitted.

    Returns
    -------
    east, north : (n,) float64 [arcmin]
        Offsets; NaN for the other half of the sky.
    """
    return sky_to_plane(ra=ra, dec=dec, centre=centre or field_centre(ra, dec))

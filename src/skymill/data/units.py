"""Units and physical constants that every folder shares.

Fluxes of calibrated products are in nanojansky, magnitudes are AB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "AB_ZERO_POINT_NJY",
    "MAG_ERR_FACTOR",
    "magnitude_error",
    "magnitude_from_njy",
    "njy_from_magnitude",
]

#: AB magnitude of 1 nJy: -2.5 log10(1e-9 / 3631) (Oke & Gunn 1983: 3631 Jy at AB = 0).
AB_ZERO_POINT_NJY = 2.5 * np.log10(3631e9)

#: dm = MAG_ERR_FACTOR * dF / F.
MAG_ERR_FACTOR = 2.5 / np.log(10.0)


def magnitude_from_njy(flux: ArrayLike) -> NDArray[np.float64]:
    """AB magnitude of a flux.

    Parameters
    ----------
    flux : (...) [nJy]
        Fluxes. Zero and negative values have no magnitude.

    Returns
    -------
    (...) float64 [mag]
        NaN where the flux is not positive; callers keep the flux and its flag.
    """
    values = np.asarray(flux, dtype=np.float64)
    positive = values > 0
    return np.where(
        positive, AB_ZERO_POINT_NJY - 2.5 * np.log10(np.where(positive, values, 1.0)), np.nan
    )


def njy_from_magnitude(magnitude: ArrayLike) -> NDArray[np.float64]:
    """Flux of an AB magnitude.

    Parameters
    ----------
    magnitude : (...) [mag]
        AB magnitudes.

    Returns
    -------
    (...) float64 [nJy]
        Fluxes.
    """
    return 10.0 ** (-0.4 * (np.asarray(magnitude, dtype=np.float64) - AB_ZERO_POINT_NJY))


def magnitude_error(flux: ArrayLike, flux_err: ArrayLike) -> NDArray[np.float64]:
    """Error of a magnitude to first order.

    Parameters
    ----------
    flux, flux_err : (...) [nJy]
        Flux and its standard deviation.

    Returns
    -------
    (...) float64 [mag]
        NaN where the flux is not positive.
    """
    values = np.asarray(flux, dtype=np.float64)
    positive = values > 0
    ratio = np.asarray(flux_err, dtype=np.float64) / np.where(positive, values, 1.0)
    return np.where(positive, MAG_ERR_FACTOR * ratio, np.nan)

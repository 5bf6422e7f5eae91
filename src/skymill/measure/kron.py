"""Kron fluxes: an ellipse as large as the source's own light asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.options import check_range, option
from skymill.measure._kron_kernels import ellipse_fluxes, kron_radius
from skymill.measure.pixels import REPAIRED, SATURATED, UNUSABLE_BITS

__all__ = ["KronFluxes", "KronOptions", "kron_fluxes"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class KronOptions:
    """The ellipse."""

    factor: float = option(2.5, "radius of the aperture over the Kron radius")
    reach: float = option(6.0, "extent of the first moment", unit="sigma")
    low: float = option(1.2, "smallest Kron radius", unit="sigma")
    high: float = option(5.0, "largest Kron radius", unit="sigma")

    def __post_init__(self) -> None:
        check_range(self, "factor", low=0.5, high=5.0)
        check_range(self, "reach", low=2.0)
        check_range(self, "low", low=0.0, low_open=True)
        check_range(self, "high", low=self.low)


@dataclass
class KronFluxes:
    """Kron fluxes of n sources.

    Parameters
    ----------
    radius : (n,) float64 [pixel]
        Kron radius as a geometric mean of the ellipse's axes; NaN without moments.
    flux, flux_err : (n,) float64 [image unit]
        Flux within ``factor`` times that.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    radius: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    flags: NDArray[np.uint32]


def kron_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: Float64Array,
    y: Float64Array,
    moments: Float64Array,
    half: NDArray[np.int64],
    radius: Float64Array | None = None,
    options: KronOptions = KronOptions(),
) -> KronFluxes:
    """Fluxes in elliptical Kron apertures.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Finite pixels, or a sheet of stamps, and their variance.
    mask : (ny, nx) int32
        Mask bits; they set flags.
    x, y : (n,) float64 [pixel]
        Centres.
    moments : (n, 3) float64 [pixel2]
        Second moments xx, yy, xy that give the ellipse.
    half : (n,) int64 [pixel]
        Half width of the window of each source.
    radius : (n,) float64 [pixel], optional
        Kron radii to use as they are; measured if omitted.
    options : KronOptions
        Aperture and limits.

    Returns
    -------
    KronFluxes
        Radii, fluxes, errors, flags.

    References
    ----------
    Kron 1980, ApJS 43, 305; Bertin & Arnouts 1996, A&AS 117, 393.
    """
    n = x.size
    flags = np.zeros(n, np.uint32)
    moments = np.ascontiguousarray(moments)
    det = moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2
    scale = np.where(det > 0, np.abs(det), np.nan) ** 0.25
    units = np.empty(n)
    reach = half.astype(np.float64)
    if radius is None:
        kron_radius(
            image, x, y, moments, options.reach, options.low, options.high, reach, units, flags
        )
    else:
        units[:] = radius / scale
    flux, flux_err = np.empty(n), np.empty(n)
    ellipse_fluxes(
        image,
        variance,
        mask,
        UNUSABLE_BITS,
        REPAIRED,
        SATURATED,
        x,
        y,
        moments,
        options.factor * units,
        reach,
        flux,
        flux_err,
        flags,
    )
    return KronFluxes(radius=units * scale, flux=flux, flux_err=flux_err, flags=flags)

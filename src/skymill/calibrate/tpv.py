"""Tangent planes and polynomial (TPV) world coordinates made from any smooth mapping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError, FitError
from skymill.data.geometry import FitsWcs
from skymill.data.protocols import Wcs

__all__ = [
    "TPV_MAX_ORDER",
    "exponents",
    "from_tangent",
    "monomials",
    "to_tangent",
    "tpv_from_mapping",
]

Float64Array = NDArray[np.float64]

#: Highest order of the TPV convention.
TPV_MAX_ORDER = 7


def to_tangent(
    ra: ArrayLike, dec: ArrayLike, *, ra0: float, dec0: float
) -> tuple[Float64Array, Float64Array]:
    """Gnomonic projection.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Sky positions.
    ra0, dec0 : float [deg]
        Tangent point.

    Returns
    -------
    xi, eta : (n,) float64 [deg]
        Towards East and North; NaN on the far hemisphere.
    """
    a = np.radians(np.asarray(ra, np.float64) - ra0)
    d = np.radians(np.asarray(dec, np.float64))
    sin0, cos0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    # 1 - cos(a) without cancellation keeps full precision near the tangent point.
    versine = 2.0 * np.sin(0.5 * a) ** 2
    depth = np.cos(d - np.radians(dec0)) - cos0 * np.cos(d) * versine
    depth = np.where(depth > 0, depth, np.nan)
    xi = np.cos(d) * np.sin(a) / depth
    eta = (np.sin(d - np.radians(dec0)) + sin0 * np.cos(d) * versine) / depth
    return np.degrees(xi), np.degrees(eta)


def from_tangent(
    xi: ArrayLike, eta: ArrayLike, *, ra0: float, dec0: float
) -> tuple[Float64Array, Float64Array]:
    """Inverse of the gnomonic projection.

    Parameters
    ----------
    xi, eta : (n,) float64 [deg]
        Positions in the tangent plane.
    ra0, dec0 : float [deg]
        Tangent point.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Sky positions, ra in [0, 360).
    """
    x, y = np.radians(np.asarray(xi, np.float64)), np.radians(np.asarray(eta, np.float64))
    sin0, cos0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    across = cos0 - y * sin0
    ra = ra0 + np.degrees(np.arctan2(x, across))
    dec = np.degrees(np.arctan2(sin0 + y * cos0, np.hypot(x, across)))
    return ra % 360.0, dec


def exponents(order: int) -> list[tuple[int, int]]:
    """Powers (i, j) of u^i v^j up to a total order, in the order of TPV: 1, u, v, u2, uv, v2...

    Parameters
    ----------
    order : int
        Highest total order.

    Returns
    -------
    list of (int, int)
        (order + 1) (order + 2) / 2 pairs.
    """
    return [(n - j, j) for n in range(order + 1) for j in range(n + 1)]


def monomials(u: Float64Array, v: Float64Array, order: int) -> Float64Array:
    """Values of all monomials.

    Parameters
    ----------
    u, v : (n,) float64
        Coordinates, best within [-1, 1].
    order : int
        Highest total order.

    Returns
    -------
    (n, (order + 1) (order + 2) / 2) float64
        In the order of `exponents`.
    """
    powers_u = [np.ones_like(u)]
    powers_v = [np.ones_like(v)]
    for _ in range(order):
        powers_u.append(powers_u[-1] * u)
        powers_v.append(powers_v[-1] * v)
    return np.stack([powers_u[i] * powers_v[j] for i, j in exponents(order)], axis=-1)


def _tpv_number(total: int, second: int) -> int:
    """Number m of PVi_m for a term of this total order with this power of its second variable."""
    first_of_order = {0: 0, 1: 1, 2: 4, 3: 7, 4: 12, 5: 17, 6: 24, 7: 31}
    return first_of_order[total] + second


Mapping = Callable[[Float64Array, Float64Array], tuple[Float64Array, Float64Array]]


def tpv_from_mapping(
    mapping: Mapping | Wcs,
    *,
    shape: tuple[int, int],
    order: int = 5,
    tolerance_mas: float = 0.1,
) -> FitsWcs:
    """Write any smooth mapping of a CCD's pixels to the sky as a TPV header.

    The tangent point lies at the centre of the CCD, and the polynomial is fitted to the mapping
    on a grid of Chebyshev nodes with the corners; its order rises to 7 if that is needed.

    Parameters
    ----------
    mapping : callable or Wcs
        ``mapping(x, y) -> (ra, dec)`` in 0-based pixels and degrees.
    shape : (ny, nx)
        Size of the CCD.
    order : int
        Lowest order of the polynomial, <= 7.
    tolerance_mas : float [mas]
        Largest difference allowed on the grid.

    Returns
    -------
    FitsWcs
        The TPV mapping.

    Raises
    ------
    FitError
        If order 7 misses the tolerance.
    """
    if not 1 <= order <= TPV_MAX_ORDER:
        raise DataError(f"the order of a TPV polynomial must be 1 to {TPV_MAX_ORDER}; got {order}")
    function = mapping if callable(mapping) else lambda x, y: mapping.pixel_to_sky(x=x, y=y)
    ny, nx = shape
    centre_x, centre_y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    half = 0.5 * max(nx, ny)
    ra0, dec0 = (float(v[0]) for v in function(np.array([centre_x]), np.array([centre_y])))
    nodes = np.cos(np.pi * np.arange(17) / 16)
    gx, gy = np.meshgrid(centre_x + 0.5 * nx * nodes, centre_y + 0.5 * ny * nodes)
    x, y = gx.ravel(), gy.ravel()
    xi, eta = to_tangent(*function(x, y), ra0=ra0, dec0=dec0)
    step = 8.0
    cd = _local_matrix(function, centre_x, centre_y, step, ra0, dec0)
    u, v = cd @ np.stack([x - centre_x, y - centre_y])
    scale = half * np.sqrt(np.abs(np.linalg.det(cd)))
    worst = np.inf
    for n in range(order, TPV_MAX_ORDER + 1):
        design = monomials(u / scale, v / scale, n)
        fit, *_ = np.linalg.lstsq(design, np.stack([xi, eta], axis=1), rcond=None)
        worst = float(np.abs(design @ fit - np.stack([xi, eta], axis=1)).max()) * 3.6e6
        if worst <= tolerance_mas:
            unscaled = fit / np.array([scale ** (i + j) for i, j in exponents(n)])[:, None]
            return _header_wcs(ra0, dec0, centre_x, centre_y, cd, unscaled, n)
    raise FitError(
        f"a polynomial of order {TPV_MAX_ORDER} differs from the mapping by {worst:.3g} mas; "
        f"allowed are {tolerance_mas} mas: the mapping is not smooth over the CCD"
    )


def _local_matrix(
    function: Mapping, x: float, y: float, step: float, ra0: float, dec0: float
) -> Float64Array:
    xs = x + step * np.array([-1.0, 1.0, 0.0, 0.0])
    ys = y + step * np.array([0.0, 0.0, -1.0, 1.0])
    xi, eta = to_tangent(*function(xs, ys), ra0=ra0, dec0=dec0)
    return np.array([[xi[1] - xi[0], xi[3] - xi[2]], [eta[1] - eta[0], eta[3] - eta[2]]]) / (
        2.0 * step
    )


def _header_wcs(
    ra0: float,
    dec0: float,
    x: float,
    y: float,
    cd: Float64Array,
    coefficients: Float64Array,
    order: int,
) -> FitsWcs:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["RADESYS"] = "ICRS"
    header["CRVAL1"], header["CRVAL2"] = ra0, dec0
    header["CRPIX1"], header["CRPIX2"] = x + 1.0, y + 1.0
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = float(cd[i, j])
    for (i, j), (for_xi, for_eta) in zip(exponents(order), coefficients, strict=True):
        header[f"PV1_{_tpv_number(i + j, j)}"] = float(for_xi)
        header[f"PV2_{_tpv_number(i + j, i)}"] = float(for_eta)
    return FitsWcs(header)

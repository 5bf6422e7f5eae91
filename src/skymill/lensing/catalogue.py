"""What lensing asks of a shear catalogue: positions, reduced shears, weights, redshifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError, NoDataError

__all__ = ["ShearSample", "plane_to_sky", "sky_to_plane", "tangential_shear"]

Float64Array = NDArray[np.float64]
_DEG = np.pi / 180.0
_ARCMIN = np.pi / 10800.0


def sky_to_plane(
    *, ra: ArrayLike, dec: ArrayLike, centre: tuple[float, float]
) -> tuple[Float64Array, Float64Array]:
    """Gnomonic projection around a centre.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    centre : (ra, dec) [deg]
        Tangent point.

    Returns
    -------
    east, north : (n,) float64 [arcmin]
        Offsets in the tangent plane; NaN for the other half of the sky.
    """
    a = (np.asarray(ra, np.float64) - centre[0]) * _DEG
    d, d0 = np.asarray(dec, np.float64) * _DEG, centre[1] * _DEG
    cos_c = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    cos_c = np.where(cos_c > 1e-3, cos_c, np.nan)
    east = np.cos(d) * np.sin(a) / cos_c
    north = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / cos_c
    return east / _ARCMIN, north / _ARCMIN


def plane_to_sky(
    *, east: ArrayLike, north: ArrayLike, centre: tuple[float, float]
) -> tuple[Float64Array, Float64Array]:
    """Inverse of `sky_to_plane`.

    Parameters
    ----------
    east, north : (n,) float64 [arcmin]
        Offsets in the tangent plane.
    centre : (ra, dec) [deg]
        Tangent point.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions, ra in [0, 360).
    """
    x, y = np.asarray(east, np.float64) * _ARCMIN, np.asarray(north, np.float64) * _ARCMIN
    d0 = centre[1] * _DEG
    ra = centre[0] + np.arctan2(x, np.cos(d0) - y * np.sin(d0)) / _DEG
    dec = np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, np.cos(d0) - y * np.sin(d0)))
    return np.asarray(ra % 360.0), np.asarray(dec / _DEG)


def tangential_shear(
    *, east: Float64Array, north: Float64Array, g1: Float64Array, g2: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Tangential and cross shear about the origin.

    Parameters
    ----------
    east, north : (n,) float64
        Positions relative to the centre, x to East and y to North.
    g1, g2 : (n,) float64
        Shear in the same axes.

    Returns
    -------
    g_t, g_x : (n,) float64
        ``-(g1 cos 2phi + g2 sin 2phi)`` and ``g1 sin 2phi - g2 cos 2phi``; zero at the centre.
    """
    r2 = east * east + north * north
    safe = np.where(r2 > 0, r2, 1.0)
    cos2 = (east * east - north * north) / safe
    sin2 = 2.0 * east * north / safe
    return -(g1 * cos2 + g2 * sin2), g1 * sin2 - g2 * cos2


@dataclass(frozen=True, kw_only=True)
class ShearSample:
    """Galaxies with a shear estimate each.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    g1, g2 : (n,) float64
        Reduced shear with x to the East and y to the North.
    weight : (n,) float64
        Weights >= 0; ones if omitted at `from_columns`.
    z : (n,) float64, optional
        Point redshifts.
    pz : (n, nz) float32, optional
        Probability in each bin of ``z_grid``; each row sums to one.
    z_grid : (nz,) float64, optional
        Centres of the redshift bins.
    mag : (n,) float64, optional
        Magnitudes: the redshifts of galaxies that have none are those of others as bright.
    axes : str
        ``"plane"``: the axes of a tangent plane near the field's centre, as catalogues of coadds
        have them. ``"local"``: East and North at each galaxy.
    """

    ra: Float64Array
    dec: Float64Array
    g1: Float64Array
    g2: Float64Array
    weight: Float64Array
    z: Float64Array | None = None
    pz: NDArray[np.float32] | None = None
    z_grid: Float64Array | None = None
    mag: Float64Array | None = None
    axes: Literal["plane", "local"] = "plane"

    def __post_init__(self) -> None:
        n = len(self.ra)
        for name in ("dec", "g1", "g2", "weight", "z", "pz", "mag"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise DataError(f"{name} has {len(value)} rows, but ra has {n}")
        if (self.pz is None) != (self.z_grid is None):
            raise DataError("pz and z_grid must be given together")
        if self.pz is not None and self.pz.shape != (n, len(self.z_grid)):  # type: ignore[arg-type]
            raise DataError(
                f"pz must be (n, nz) = ({n}, {len(self.z_grid)}); got {self.pz.shape}"  # type: ignore[arg-type]
            )

    def __len__(self) -> int:
        return len(self.ra)

    @classmethod
    def from_columns(
        cls,
        *,
        ra: ArrayLike,
        dec: ArrayLike,
        g1: ArrayLike,
        g2: ArrayLike,
        weight: ArrayLike | None = None,
        z: ArrayLike | None = None,
        pz: NDArray[np.float32] | None = None,
        z_grid: Float64Array | None = None,
        mag: ArrayLike | None = None,
        axes: Literal["plane", "local"] = "plane",
        max_shear: float = 2.0,
        keep_unknown_z: bool = False,
    ) -> tuple[ShearSample, int]:
        """Build a sample from columns and leave out the rows that cannot be used.

        Parameters
        ----------
        ra, dec, g1, g2, weight, z, pz, z_grid, mag, axes
            As in `ShearSample`.
        max_shear : float
            Rows with abs(g) at or above this are left out.
        keep_unknown_z : bool
            Keep rows without a finite redshift or p(z).

        Returns
        -------
        ShearSample
            Usable rows.
        int
            How many rows were left out (not finite, weight <= 0, or abs(g) too large).

        Raises
        ------
        NoDataError
            If fewer than two rows remain.
        """
        cols = {
            "ra": np.asarray(ra, np.float64),
            "dec": np.asarray(dec, np.float64),
            "g1": np.asarray(g1, np.float64),
            "g2": np.asarray(g2, np.float64),
        }
        n = len(cols["ra"])
        cols["weight"] = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        if z is not None:
            cols["z"] = np.asarray(z, np.float64)
        if mag is not None:
            cols["mag"] = np.nan_to_num(np.asarray(mag, np.float64), nan=99.0)
        good = np.ones(n, dtype=bool)
        for name, column in cols.items():
            if len(column) != n:
                raise DataError(f"{name} has {len(column)} rows, but ra has {n}")
            if name != "z" or not (keep_unknown_z or pz is not None):
                good &= np.isfinite(column)
        good &= cols["weight"] > 0
        good &= np.hypot(cols["g1"], cols["g2"]) < max_shear
        if pz is not None and not keep_unknown_z:
            good &= np.asarray(pz).sum(axis=1) > 0
        if good.sum() < 2:
            raise NoDataError(
                f"at least 2 galaxies with finite position, shear and weight > 0 are needed; "
                f"{int(good.sum())} of {n} rows are usable"
            )
        sample = cls(
            **{name: column[good] for name, column in cols.items()},
            pz=None if pz is None else np.asarray(pz)[good],
            z_grid=z_grid,
            axes=axes,
        )
        return sample, int(n - good.sum())

    def select(self, keep: NDArray[np.bool_]) -> ShearSample:
        """The rows where ``keep`` (n,) is true."""
        return ShearSample(
            ra=self.ra[keep],
            dec=self.dec[keep],
            g1=self.g1[keep],
            g2=self.g2[keep],
            weight=self.weight[keep],
            z=None if self.z is None else self.z[keep],
            pz=None if self.pz is None else self.pz[keep],
            z_grid=self.z_grid,
            mag=None if self.mag is None else self.mag[keep],
            axes=self.axes,
        )

    def middle(self) -> tuple[float, float]:
        """Centre (ra, dec) [deg] of the smallest box in the tangent plane with all galaxies."""
        a, d = self.ra * _DEG, self.dec * _DEG
        vector = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]).mean(axis=1)
        start = (
            float(np.degrees(np.arctan2(vector[1], vector[0])) % 360.0),
            float(np.degrees(np.arctan2(vector[2], np.hypot(vector[0], vector[1])))),
        )
        east, north = sky_to_plane(ra=self.ra, dec=self.dec, centre=start)
        mid = [0.5 * (np.nanmin(v) + np.nanmax(v)) for v in (east, north)]
        ra, dec = plane_to_sky(east=mid[0], north=mid[1], centre=start)
        return float(ra), float(dec)

    def in_plane(
        self, centre: tuple[float, float]
    ) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
        """Positions and shears in the tangent plane of a centre.

        Parameters
        ----------
        centre : (ra, dec) [deg]
            Tangent point.

        Returns
        -------
        east, north : (n,) float64 [arcmin]
            Positions.
        g1, g2 : (n,) float64
            Shear in the axes of that plane.
        """
        east, north = sky_to_plane(ra=self.ra, dec=self.dec, centre=centre)
        if self.axes == "plane":
            return east, north, self.g1, self.g2
        # Direction of a short step towards the pole, seen in the plane.
        step = np.where(self.dec < 89.999, 1e-4, -1e-4)
        e2, n2 = sky_to_plane(ra=self.ra, dec=self.dec + step, centre=centre)
        angle = np.arctan2((e2 - east) * np.sign(step), (n2 - north) * np.sign(step))
        # North at the galaxy lies `angle` from the plane's y axis towards East.
        cos2, sin2 = np.cos(2 * angle), np.sin(2 * angle)
        return east, north, self.g1 * cos2 + self.g2 * sin2, self.g2 * cos2 - self.g1 * sin2

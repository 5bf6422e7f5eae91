"""One source of a blob while it is fitted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skymill.model.forward import Placement
from skymill.model.multi_fit import EAST, NORTH, SOFT1, SOFT2, SourceFit, Stamps

__all__ = ["FIRST_RADIUS", "BlobSource", "internal_shape", "round_shape"]

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: First radius of galaxies [arcsec].
FIRST_RADIUS = float(np.exp(-1.0))


@dataclass(eq=False)
class BlobSource:
    """One source while its blob is fitted.

    Parameters
    ----------
    origin : int
        Place in the blob's list; -1 if it was found in the residuals.
    ra, dec : float [deg]
        Where it was placed: internal positions are offsets from here.
    kind : int
        `SourceType`.
    parameters : (6,) float64
        Internal parameters, see `skymill.model.multi_fit`.
    flux : (n_band,) float64 [nanomaggy]
        Fluxes.
    x, y : float [pixel]
        Place in the blob's box.
    to_brick : (2, 2) float64 [pixel / arcsec]
        Local affine map to pixels of the brick.
    places : list of Placement
        Where it was placed on each exposure (entry ``row`` of each).
    row : int
        See ``places``.
    psf : list of (n, n) float32
        PSF on each exposure; None where it is not known.
    reach : (m, k) float64
        Largest value of the PSF outside of each radius, on each exposure.
    magnification : (m,) float64 [pixel / arcsec]
        Largest scale there.
    far : (m,) float64 [pixel]
        Distance of the farthest pixel of the part.
    seen : (m,) bool
        The PSF is known there.
    choice_variance : (n_band,) float64 [nanomaggy2]
        Variance of the fluxes because the model may be the wrong one.
    """

    origin: int
    ra: float
    dec: float
    kind: int
    parameters: Float64Array
    flux: Float64Array
    x: float
    y: float
    to_brick: Float64Array
    places: list[Placement]
    row: int
    psf: list[NDArray[np.float32] | None]
    reach: Float64Array = field(default_factory=lambda: np.zeros((0, 1)))
    magnification: Float64Array = field(default_factory=lambda: np.zeros(0))
    far: Float64Array = field(default_factory=lambda: np.zeros(0))
    seen: BoolArray = field(default_factory=lambda: np.zeros(0, bool))
    fixed_position: bool = False
    fixed_type: bool = False
    is_reference: bool = False
    force_point: bool = False
    frozen: bool = False
    is_large_galaxy: bool = False
    fit_background: bool = False
    kept: bool = True
    forced_keep: bool = False
    at_radius_limit: bool = False
    at_index_limit: bool = False
    first_flux: Float64Array = field(default_factory=lambda: np.zeros(0))
    first_radius: float = 0.0
    choice_variance: Float64Array = field(default_factory=lambda: np.zeros(0))
    dchisq: Float64Array = field(default_factory=lambda: np.zeros(5))
    drawn: tuple[Stamps, NDArray[np.float32], Float64Array] | None = None
    spectra: dict[int, dict[int, NDArray[np.complex128]]] = field(default_factory=dict)

    def sky(self) -> tuple[float, float]:
        """Right ascension and declination now [deg]."""
        east, north = float(self.parameters[EAST]), float(self.parameters[NORTH])
        ra = self.ra + east / 3600.0 / np.cos(np.radians(self.dec))
        return float(ra % 360.0), self.dec + north / 3600.0

    def pixel(self, east: float, north: float) -> tuple[int, int]:
        """Pixel of the blob's box at an offset."""
        x = self.x + self.to_brick[0, 0] * east + self.to_brick[0, 1] * north
        y = self.y + self.to_brick[1, 0] * east + self.to_brick[1, 1] * north
        return int(np.floor(x + 0.5)), int(np.floor(y + 0.5))

    def here(self) -> tuple[int, int]:
        """Pixel of the blob's box now."""
        return self.pixel(float(self.parameters[EAST]), float(self.parameters[NORTH]))

    def shape_fit(self) -> SourceFit:
        """Type and shape as a `SourceFit` without data."""
        empty = np.zeros(0)
        return SourceFit(
            kind=self.kind, parameters=self.parameters, flux=self.flux, gain=empty, chi2=0.0,
            hessian=empty, mixed=empty, gradient=empty, planes=empty.astype(np.float32),
        )  # fmt: skip


def internal_shape(radius: float, e1: float, e2: float, sersic: float) -> Float64Array:
    """Internal parameters at rest for a shape of the catalogue.

    Parameters
    ----------
    radius : float [arcsec]
        Half-light radius of the major axis.
    e1, e2 : float
        Ellipticity.
    sersic : float
        Index.

    Returns
    -------
    (6,) float64
        See `skymill.model.multi_fit`.
    """
    e = min(float(np.hypot(e1, e2)), 0.98)
    soft = -np.log1p(-e)
    ratio = soft / e if e > 0 else 0.0
    size = np.log(max(radius, 0.01) / (1.0 + e))
    return np.array([0.0, 0.0, size, e1 * ratio, e2 * ratio, sersic if sersic > 0 else 1.0])


def round_shape(parameters: Float64Array) -> Float64Array:
    """The same internal parameters without ellipticity.

    Parameters
    ----------
    parameters : (6,) float64
        Internal parameters.

    Returns
    -------
    (6,) float64
        A copy.
    """
    out = parameters.copy()
    out[SOFT1 : SOFT2 + 1] = 0.0
    return out

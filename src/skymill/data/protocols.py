"""The three small protocols through which science meets geometry, PSF and calibration."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["PhotoCalib", "Psf", "Wcs"]

Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@runtime_checkable
class Psf(Protocol):
    """A point-spread function that may vary over its image."""

    @property
    def stamp_size(self) -> int:
        """Natural width of a stamp, odd [pixel]."""
        ...

    def draw(
        self,
        *,
        x: Float64Array,
        y: Float64Array,
        size: int | None = None,
        offset_x: Float64Array | None = None,
        offset_y: Float64Array | None = None,
    ) -> Float32Array:
        """Draw the PSF of many positions in one call.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Where in the image the PSF is wanted.
        size : int, optional
            Odd width of the stamps [pixel]; `stamp_size` if omitted.
        offset_x, offset_y : (n,) float64 [pixel], optional
            Position of the star relative to the centre of the stamp's central pixel; zero if
            omitted.

        Returns
        -------
        (n, size, size) float32
            Unit total flux (of the whole profile: a smaller stamp sums to less).
        """
        ...


@runtime_checkable
class Wcs(Protocol):
    """A mapping between pixels and the sky; the first pixel's centre is (0, 0)."""

    def pixel_to_sky(
        self, *, x: Float64Array, y: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Right ascension and declination (n,) [deg, ICRS] of pixels."""
        ...

    def sky_to_pixel(
        self, *, ra: Float64Array, dec: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Pixel positions x, y (n,) of sky positions [deg, ICRS]; NaN where undefined."""
        ...


@runtime_checkable
class PhotoCalib(Protocol):
    """A mapping between the counts of an image and nanojansky."""

    def scale(self, *, x: Float64Array, y: Float64Array) -> Float64Array:
        """NanoJansky per count (n,) at pixel positions."""
        ...

"""A camera: detectors on a focal plane and their amplifiers, as plain values.

The focal plane is in mm. The axes of every DECam CCD are parallel to it: pixel x along focal-plane
x and pixel y along focal-plane y, but for the small rotation of each CCD.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.images import Box

__all__ = ["Amplifier", "Camera", "Detector"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Amplifier:
    """One amplifier of a CCD.

    Parameters
    ----------
    name : str
        Name within the CCD.
    box : Box
        Its pixels in the trimmed image.
    data_box, overscan_box : Box
        Its data and its serial overscan in the raw frame, 0-based.
    prescan_box, parallel_overscan_box : Box, optional
        Further sections of the raw frame.
    gain : float [electron/adu]
        Gain.
    read_noise : float [electron]
        Read noise.
    saturation : float [adu]
        Raw value at which pixels saturate.
    readout_corner : str
        LL, LR, UR or UL: the corner of the CCD where it reads out.
    """

    name: str
    box: Box
    data_box: Box
    overscan_box: Box
    prescan_box: Box | None = None
    parallel_overscan_box: Box | None = None
    gain: float
    read_noise: float
    saturation: float
    readout_corner: str


@dataclass(frozen=True, kw_only=True)
class Detector:
    """One CCD and where it sits.

    Parameters
    ----------
    id : int
        Number, as in the Butler's dimension ``detector``.
    name, serial : str
        Name of its place, and serial number of the silicon.
    box : Box
        Pixels of the trimmed image.
    raw_shape : (ny, nx)
        Shape of the raw frame.
    centre : (x, y) [mm]
        Centre of the trimmed image in the focal plane.
    rotation : float [deg]
        From focal-plane x to pixel x, counter-clockwise.
    pixel_size : float [mm]
        Width of a pixel.
    amplifiers : tuple of Amplifier
        Its amplifiers.
    """

    id: int
    name: str
    serial: str = ""
    box: Box
    raw_shape: tuple[int, int]
    centre: tuple[float, float]
    rotation: float = 0.0
    pixel_size: float
    amplifiers: tuple[Amplifier, ...]

    @property
    def _middle(self) -> tuple[float, float]:
        return 0.5 * (self.box.x0 + self.box.x1 - 1), 0.5 * (self.box.y0 + self.box.y1 - 1)

    def amplifier(self, name: str) -> Amplifier:
        """The amplifier of a name.

        Parameters
        ----------
        name : str
            Its name within the CCD.

        Returns
        -------
        Amplifier
            The amplifier.

        Raises
        ------
        DataError
            If there is none.
        """
        for amplifier in self.amplifiers:
            if amplifier.name == name:
                return amplifier
        known = ", ".join(a.name for a in self.amplifiers)
        raise DataError(f"CCD {self.name} has no amplifier {name!r}; known: {known}")

    def pixel_to_focal_plane(
        self, *, x: ArrayLike, y: ArrayLike
    ) -> tuple[Float64Array, Float64Array]:
        """Focal-plane position of pixels.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Positions in the trimmed image; the first pixel's centre is (0, 0).

        Returns
        -------
        x, y : (n,) float64 [mm]
            Positions in the focal plane.
        """
        angle = np.radians(self.rotation)
        middle_x, middle_y = self._middle
        u = (np.asarray(x, np.float64) - middle_x) * self.pixel_size
        v = (np.asarray(y, np.float64) - middle_y) * self.pixel_size
        return (
            self.centre[0] + np.cos(angle) * u - np.sin(angle) * v,
            self.centre[1] + np.sin(angle) * u + np.cos(angle) * v,
        )

    def focal_plane_to_pixel(
        self, *, x: ArrayLike, y: ArrayLike
    ) -> tuple[Float64Array, Float64Array]:
        """The inverse of `pixel_to_focal_plane`.

        Parameters
        ----------
        x, y : (n,) float64 [mm]
            Positions in the focal plane.

        Returns
        -------
        x, y : (n,) float64 [pixel]
            Positions in the trimmed image, maybe outside of it.
        """
        angle = np.radians(self.rotation)
        middle_x, middle_y = self._middle
        u = (np.asarray(x, np.float64) - self.centre[0]) / self.pixel_size
        v = (np.asarray(y, np.float64) - self.centre[1]) / self.pixel_size
        return (
            middle_x + np.cos(angle) * u + np.sin(angle) * v,
            middle_y - np.sin(angle) * u + np.cos(angle) * v,
        )

    def corners(self) -> tuple[Float64Array, Float64Array]:
        """Outer corners of the corner pixels, counter-clockwise from the first [pixel]."""
        box = self.box
        x = np.array([box.x0, box.x1, box.x1, box.x0], np.float64) - 0.5
        y = np.array([box.y0, box.y0, box.y1, box.y1], np.float64) - 0.5
        return x, y


@dataclass(frozen=True, kw_only=True)
class Camera:
    """All CCDs of an instrument.

    Parameters
    ----------
    name : str
        Name of the instrument, as in the Butler.
    detectors : tuple of Detector
        Its CCDs.
    radial : tuple of float
        Field angle [rad] as a polynomial of the distance from the axis [mm], from order 0.
    """

    name: str
    detectors: tuple[Detector, ...]
    radial: tuple[float, ...] = field(default=(0.0, 1.0))

    @cached_property
    def _by_id(self) -> dict[int, Detector]:
        return {d.id: d for d in self.detectors}

    def __iter__(self) -> Iterator[Detector]:
        return iter(self.detectors)

    def __len__(self) -> int:
        return len(self.detectors)

    def __getitem__(self, detector: int | str) -> Detector:
        """The CCD of a number or name; `DataError` if there is none."""
        if isinstance(detector, str):
            found = next((d for d in self.detectors if d.name == detector), None)
        else:
            found = self._by_id.get(int(detector))
        if found is None:
            numbers = sorted(self._by_id)
            raise DataError(
                f"{self.name} has no detector {detector!r}; allowed: {numbers[0]} to {numbers[-1]} "
                f"or a name such as {self.detectors[0].name}"
            )
        return found

    def __contains__(self, detector: object) -> bool:
        return detector in self._by_id or any(d.name == detector for d in self.detectors)

    @property
    def plate_scale(self) -> float:
        """Scale on the axis [arcsec/mm]."""
        return float(np.degrees(self.radial[1]) * 3600.0)

    def focal_plane_to_field_angle(
        self, *, x: ArrayLike, y: ArrayLike
    ) -> tuple[Float64Array, Float64Array]:
        """Direction on the sky relative to the axis, with the optics' nominal distortion.

        Parameters
        ----------
        x, y : (n,) float64 [mm]
            Positions in the focal plane.

        Returns
        -------
        x, y : (n,) float64 [deg]
            Angles along the same axes.
        """
        x_, y_ = np.asarray(x, np.float64), np.asarray(y, np.float64)
        radius = np.hypot(x_, y_)
        # Dividing the polynomial by the radius (order 0 is zero) keeps the axis itself exact.
        ratio = np.degrees(np.polynomial.polynomial.polyval(radius, self.radial[1:]))
        return x_ * ratio, y_ * ratio

    def field_angle_to_focal_plane(
        self, *, x: ArrayLike, y: ArrayLike
    ) -> tuple[Float64Array, Float64Array]:
        """The inverse of `focal_plane_to_field_angle`, by Newton's method.

        Parameters
        ----------
        x, y : (n,) float64 [deg]
            Angles.

        Returns
        -------
        x, y : (n,) float64 [mm]
            Positions in the focal plane.
        """
        x_, y_ = np.radians(np.asarray(x, np.float64)), np.radians(np.asarray(y, np.float64))
        angle = np.hypot(x_, y_)
        slope = np.polynomial.polynomial.polyder(np.array(self.radial))
        radius = angle / self.radial[1]
        for _ in range(6):
            value = np.polynomial.polynomial.polyval(radius, self.radial)
            radius = radius - (value - angle) / np.polynomial.polynomial.polyval(radius, slope)
        ratio = np.where(angle > 0, radius / np.where(angle > 0, angle, 1.0), 1 / self.radial[1])
        return x_ * ratio, y_ * ratio

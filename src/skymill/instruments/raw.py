"""A raw CCD frame in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, ExposureInfo
from skymill.instruments.camera import Amplifier

__all__ = ["RawCcd"]


@dataclass(kw_only=True)
class RawCcd:
    """One CCD as the camera read it.

    Parameters
    ----------
    image : (ny, nx) uint16 or int32 [adu]
        All pixels, pre- and overscan included.
    amplifiers : tuple of Amplifier
        Its amplifiers, with the sections, gains, noises and saturations of this frame's header.
    header : astropy.io.fits.Header
        Primary header and the CCD's own, merged.
    info : ExposureInfo
        Identity and circumstances.
    wcs : FitsWcs, optional
        First guess of the mapping, in pixels of the *trimmed* image; None where the frame does
        not look at the sky.
    observation_type : str
        ``science``, ``zero``, ``dome flat`` ...
    """

    image: NDArray[Any]
    amplifiers: tuple[Amplifier, ...]
    header: fits.Header
    info: ExposureInfo
    wcs: FitsWcs | None = None
    observation_type: str = "science"

    def __post_init__(self) -> None:
        ny, nx = self.image.shape
        frame = Box(x0=0, y0=0, x1=nx, y1=ny)
        for amplifier in self.amplifiers:
            for box in (amplifier.data_box, amplifier.overscan_box):
                if box.intersection(frame) != box:
                    raise DataError(
                        f"{self.info.instrument} exposure {self.info.visit} detector "
                        f"{self.info.detector}: a section of amplifier {amplifier.name} leaves the "
                        f"frame of {nx} x {ny} pixels; is the file truncated or of another camera?"
                    )

    @property
    def trimmed_shape(self) -> tuple[int, int]:
        """(ny, nx) of the image without pre- and overscan."""
        return max(a.box.y1 for a in self.amplifiers), max(a.box.x1 for a in self.amplifiers)

"""Images in memory: pixel planes, one CCD's exposure, one patch's coadd.

Science functions take bare arrays where a few are enough, and these where many travel together.
How they lie on disk is known to `skymill.store` alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from astropy.time import Time
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.photometry import FluxScale
from skymill.data.protocols import Psf

__all__ = ["Box", "Coadd", "Exposure", "ExposureInfo", "PixelPlanes"]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of pixels, half open: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def is_empty(self) -> bool:
        """True without a pixel."""
        return self.x1 <= self.x0 or self.y1 <= self.y0

    def intersection(self, other: Box) -> Box:
        """The pixels in both; maybe empty."""
        return Box(
            x0=max(self.x0, other.x0),
            y0=max(self.y0, other.y0),
            x1=min(self.x1, other.x1),
            y1=min(self.y1, other.y1),
        )

    def slices(self, *, within: Box) -> tuple[slice, slice]:
        """Index of this box in an array that covers ``within``."""
        return (
            slice(self.y0 - within.y0, self.y1 - within.y0),
            slice(self.x0 - within.x0, self.x1 - within.x0),
        )


@dataclass
class PixelPlanes:
    """Image, variance and mask of the same pixels.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixel values in ``unit``.
    variance : (ny, nx) float32
        Variance in the square of ``unit``; not positive and finite where unknown.
    mask : (ny, nx) int32
        Bits of `skymill.data.masks.MaskPlane`.
    unit : str
        Astropy name of the image's unit: ``"adu"``, ``"electron"`` or ``"nJy"``.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    unit: str = "electron"

    def __post_init__(self) -> None:
        if not self.image.shape == self.variance.shape == self.mask.shape:
            raise DataError(
                "image, variance and mask must have one shape; got "
                f"{self.image.shape}, {self.variance.shape}, {self.mask.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.image.shape
        return ny, nx

    def copy(self) -> PixelPlanes:
        """A deep copy."""
        return PixelPlanes(
            self.image.copy(), self.variance.copy(), self.mask.copy(), unit=self.unit
        )


@dataclass(frozen=True, kw_only=True)
class ExposureInfo:
    """What is known of an exposure besides its pixels.

    Parameters
    ----------
    instrument, physical_filter, band : str
        As in the Butler's dimensions ("DECam", "r DECam SDSS c0002 6415.0 1480.0", "r").
    visit, detector : int
        Numbers of the exposure and of the CCD.
    exposure_time : float [s]
        Open-shutter time.
    mjd_mid : float [day]
        Middle of the exposure, MJD in TAI.
    airmass : float
        At the middle of the exposure.
    boresight_ra, boresight_dec : float [deg]
        Where the telescope pointed, ICRS.
    """

    instrument: str
    visit: int
    detector: int
    physical_filter: str
    band: str
    exposure_time: float
    mjd_mid: float
    airmass: float = float("nan")
    boresight_ra: float = float("nan")
    boresight_dec: float = float("nan")

    @property
    def epoch(self) -> float:
        """Julian year of the middle of the exposure."""
        return float(Time(self.mjd_mid, format="mjd", scale="tai").jyear)


@dataclass(kw_only=True)
class Exposure:
    """One CCD of one visit, with everything that later steps ask of it.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels in electrons; ``photo_calib`` turns them into nJy.
    info : ExposureInfo
        Identity and circumstances.
    wcs : FitsWcs, optional
        Mapping to the sky.
    psf : Psf, optional
        Point-spread function.
    photo_calib : FluxScale, optional
        NanoJansky per electron.
    aperture_correction : dict of str to float
        PSF flux over the flux of each other algorithm, for stars.
    summary : dict of str to float
        Numbers of this CCD: columns of the ``visitSummary`` table.
    """

    planes: PixelPlanes
    info: ExposureInfo
    wcs: FitsWcs | None = None
    psf: Psf | None = None
    photo_calib: FluxScale | None = None
    aperture_correction: dict[str, float] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)

    def replace(self, **changes: object) -> Exposure:
        """A shallow copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Coadd:
    """One band of one patch of the sky map.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels in nJy.
    box : Box
        Where they lie in the pixels of the tract.
    wcs : FitsWcs
        Mapping of the *tract's* pixels (add ``box.x0, box.y0`` to array indices).
    psf : Psf
        PSF as a function of the *tract's* pixel.
    band, skymap : str
        Identity.
    tract, patch : int
        Identity; the patch is the sequential number ``nx * iy + ix``.
    inner_box : Box
        The pixels that belong to this patch alone.
    n_image : (ny, nx) uint16, optional
        Number of exposures in each pixel.
    noise : (ny, nx) float32, optional
        A noise realisation that went through the same warps [nJy].
    inputs : list of (visit, detector)
        The CCDs that went in.
    """

    planes: PixelPlanes
    box: Box
    wcs: FitsWcs
    psf: Psf
    band: str
    skymap: str
    tract: int
    patch: int
    inner_box: Box
    n_image: NDArray[np.uint16] | None = None
    noise: NDArray[np.float32] | None = None
    inputs: list[tuple[int, int]] = field(default_factory=list)

"""One exposure (or a cut-out of it) as the release fits it: nanomaggies, noise, quality, PSF."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.protocols import Psf

__all__ = ["FitImage"]


@dataclass
class FitImage:
    """Pixels of one CCD exposure with all that a fit needs to know about them.

    Parameters
    ----------
    image : (ny, nx) float32 [nanomaggy]
        Sky-subtracted flux of each pixel.
    inverse_error : (ny, nx) float32 [1 / nanomaggy]
        1 / standard deviation; 0 where a pixel is masked or unknown.
    quality : (ny, nx) int32
        Bits of the releases: 1 bad, 2 saturated, 4 interpolated, 16 cosmic ray, 64 bleed,
        128 transient, 256 edge, 512 edge of weights, 2048 outlier.
    band : str
        Name of the filter, such as ``g``.
    wcs : FitsWcs
        Of this cut-out: its first pixel is (0, 0). The astrometric offset is applied.
    psf : Psf
        Drawn at pixels of the cut-out, of unit flux.
    sigma1 : float [nanomaggy]
        Typical noise of a pixel.
    fwhm : float [pixel]
        Width of the PSF.
    x0, y0 : int [pixel]
        First pixel of the cut-out in its CCD.
    camera, ccd : str
        Where it comes from.
    exposure : int
        Number of the exposure.
    mjd : float [d]
        Middle of the exposure.
    row : dict
        Its row of the ``survey-ccds`` table.
    """

    image: NDArray[np.float32]
    inverse_error: NDArray[np.float32]
    quality: NDArray[np.int32]
    band: str
    wcs: FitsWcs
    psf: Psf
    sigma1: float
    fwhm: float
    x0: int = 0
    y0: int = 0
    camera: str = ""
    exposure: int = 0
    ccd: str = ""
    mjd: float = float("nan")
    row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.image.shape
        if len(shape) != 2 or self.inverse_error.shape != shape or self.quality.shape != shape:
            raise DataError(
                "image, inverse_error and quality must have one two-dimensional shape; got "
                f"{shape}, {self.inverse_error.shape} and {self.quality.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.image.shape[0]), int(self.image.shape[1])

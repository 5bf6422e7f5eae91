"""Fluxes of point sources: linear fit of the PSF at each position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf
from skymill.measure._psf_flux_kernels import fit_stamps
from skymill.measure.pixels import (
    REPAIRED,
    SATURATED,
    UNUSABLE_BITS,
    check_planes,
    check_positions,
    clean_image,
)

__all__ = ["GaussianPsf", "PsfFluxOptions", "PsfFluxes", "draw_at", "psf_fluxes"]

#: Stamps drawn at once, so that memory stays bounded.
_BATCH = 2048


@dataclass(frozen=True, kw_only=True)
class PsfFluxOptions:
    """The fit."""

    size: int = option(0, "width of the fitted square, odd (0: that of the PSF)", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "size", low=0)
        if self.size and self.size % 2 == 0:
            raise DataError(f"size must be odd; got {self.size} pixel")


@dataclass(frozen=True)
class GaussianPsf:
    """A round Gaussian, the guess before a PSF has been measured.

    Parameters
    ----------
    sigma : float [pixel]
        Its width, the pixel included.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            raise DataError(f"the width of a PSF must be > 0 pixel; got {self.sigma}")

    @property
    def stamp_size(self) -> int:
        """Odd width of five sigma to each side [pixel]."""
        return 2 * int(np.ceil(5.0 * self.sigma)) + 1

    def draw(
        self,
        *,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        size: int | None = None,
        offset_x: NDArray[np.float64] | None = None,
        offset_y: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float32]:
        """Stamps of the Gaussian.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Where; it is the same everywhere.
        size : int, optional
            Odd width of the stamps.
        offset_x, offset_y : (n,) float64 [pixel], optional
            Position within the central pixel.

        Returns
        -------
        (n, size, size) float32
            Unit total flux.
        """
        n = np.atleast_1d(x).size
        size = self.stamp_size if size is None else size
        grid = np.arange(size) - size // 2
        dx = np.zeros(n) if offset_x is None else np.asarray(offset_x, np.float64)
        dy = np.zeros(n) if offset_y is None else np.asarray(offset_y, np.float64)
        along_x = np.exp(-0.5 * ((grid - dx[:, None]) / self.sigma) ** 2)
        along_y = np.exp(-0.5 * ((grid - dy[:, None]) / self.sigma) ** 2)
        norm = 1.0 / (2.0 * np.pi * self.sigma**2)
        return np.asarray(norm * along_y[:, :, None] * along_x[:, None, :], dtype=np.float32)


@dataclass
class PsfFluxes:
    """PSF fluxes of n sources.

    Parameters
    ----------
    flux, flux_err : (n,) float64 [image unit]
        Amplitude of the PSF and its error from the variance; NaN where ``flags`` has NO_DATA.
    chi2 : (n,) float64
        Squared residuals over the variance.
    n_pixel : (n,) int64
        Pixels used.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    chi2: NDArray[np.float64]
    n_pixel: NDArray[np.int64]
    flags: NDArray[np.uint32]


def draw_at(
    psf: Psf,
    *,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    size: int,
    origin: tuple[int, int] = (0, 0),
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Stamps of the PSF aligned with the pixels of an image.

    Parameters
    ----------
    psf : Psf
        The model.
    x, y : (n,) float64 [pixel]
        Positions in the image.
    size : int [pixel]
        Odd width of the stamps.
    origin : (int, int) [pixel]
        Position (x, y) of the image's first pixel in the coordinates of the PSF.

    Returns
    -------
    stamps : (n, size, size) float32
        Stamp k lies on the image with its middle at pixel (ix, iy)[k].
    ix, iy : (n,) int64
        Nearest pixels.
    """
    ix, iy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    stamps = psf.draw(x=x + origin[0], y=y + origin[1], size=size, offset_x=x - ix, offset_y=y - iy)
    return np.ascontiguousarray(stamps, np.float32), ix, iy


def psf_fluxes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    x: ArrayLike,
    y: ArrayLike,
    psf: Psf,
    options: PsfFluxOptions = PsfFluxOptions(),
    origin: tuple[int, int] = (0, 0),
) -> PsfFluxes:
    """Fit the PSF to the pixels around each position.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Background-subtracted pixels and their variance.
    mask : (ny, nx) int32
        Mask bits; unusable pixels are left out and set a flag.
    x, y : (n,) float64 [pixel]
        Positions.
    psf : Psf
        The model.
    options : PsfFluxOptions
        Size of the fit.
    origin : (int, int) [pixel]
        Position (x, y) of the first pixel in the coordinates of the PSF.

    Returns
    -------
    PsfFluxes
        ``sum(P I)/sum(P P)``: pixels weigh the same, so that a wrong PSF biases bright and faint
        stars alike; the error is that of this sum for the given variance.
    """
    image, variance, mask = check_planes(image, variance, mask)
    clean, mask = clean_image(image, mask)
    x_, y_ = check_positions(x, y)
    size = options.size or psf.stamp_size
    n = x_.size
    out = PsfFluxes(
        flux=np.empty(n),
        flux_err=np.empty(n),
        chi2=np.empty(n),
        n_pixel=np.empty(n, np.int64),
        flags=np.zeros(n, np.uint32),
    )
    for first in range(0, n, _BATCH):
        part = slice(first, first + _BATCH)
        stamps, ix, iy = draw_at(psf, x=x_[part], y=y_[part], size=size, origin=origin)
        fit_stamps(
            clean,
            variance,
            mask,
            UNUSABLE_BITS,
            REPAIRED,
            SATURATED,
            ix,
            iy,
            stamps,
            out.flux[part],
            out.flux_err[part],
            out.chi2[part],
            out.n_pixel[part],
            out.flags[part],
        )
    return out

"""PSFs of CCDs as they appear in the pixels of a tract."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from skymill.coadd._warp_kernels import resample_stamps
from skymill.coadd.interpolation import interpolation_transfer, interpolation_weights
from skymill.data.protocols import Psf, Wcs

__all__ = ["resample_psf"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@functools.cache
def _weight_table() -> Float64Array:
    """Weights of order 5 at 4097 fractions, and once more the last: linear between them."""
    weights = interpolation_weights(np.linspace(0.0, 1.0, 4097), 5)
    return np.concatenate([weights, weights[-1:]])


def resample_psf(
    psf: Psf,
    wcs: Wcs,
    tract_wcs: Wcs,
    *,
    x: Float64Array,
    y: Float64Array,
    shape: tuple[int, int],
    size: int,
    order: int,
) -> Float32Array:
    """A CCD's PSF as it appears in the pixels of the tract.

    Parameters
    ----------
    psf : Psf
        PSF in CCD pixels.
    wcs, tract_wcs : Wcs
        Mappings of the CCD and of the tract.
    x, y : (n,) float64 [pixel]
        Positions in the tract.
    shape : (ny, nx)
        Shape of the CCD; positions outside of it take the PSF of its nearest pixel.
    size : int [pixel]
        Odd width of the stamps.
    order : int [pixel]
        Half width of the kernel that the image is interpolated with. It sharpens stars a little
        (0.4 % in size at order 3 and FWHM 3.5 pixel), on average over their places between the
        pixels, and so does this.

    Returns
    -------
    (n, size, size) float32
        Stamps of unit sum.
    """
    n = x.size
    half = 0.5
    all_x = np.concatenate([x, x - half, x + half, x, x])
    all_y = np.concatenate([y, y, y, y - half, y + half])
    ra, dec = tract_wcs.pixel_to_sky(x=all_x, y=all_y)
    in_x, in_y = wcs.sky_to_pixel(ra=ra, dec=dec)
    in_x, in_y = np.asarray(in_x).reshape(5, n), np.asarray(in_y).reshape(5, n)
    jacobian = np.empty((n, 2, 2))
    jacobian[:, 0, 0] = in_x[2] - in_x[1]
    jacobian[:, 0, 1] = in_x[4] - in_x[3]
    jacobian[:, 1, 0] = in_y[2] - in_y[1]
    jacobian[:, 1, 1] = in_y[4] - in_y[3]
    stamps = psf.draw(x=np.clip(in_x[0], 0, shape[1] - 1), y=np.clip(in_y[0], 0, shape[0] - 1))
    fine = _interpolated(np.asarray(stamps, np.float32), order)
    out = np.empty((n, size, size), np.float32)
    resample_stamps(fine, 2.0 * jacobian, _weight_table(), out)
    return out


def _interpolated(stamps: Float32Array, order: int) -> Float32Array:
    """Stamps as a kernel of this order leaves them, on average over the places of the pixels.

    Twice as finely sampled, (n, 2 s - 1, 2 s - 1), so that reading them adds no more of that.
    """
    size = stamps.shape[-1]
    n = fft.next_fast_len(size + 2 * order, real=True)
    keep = (n + 1) // 2
    rows = np.arange(1 - keep, keep)
    across = interpolation_transfer(order, n)[:keep]
    transfer = (4.0 * across[np.abs(rows)][:, None] * across[None, :]).astype(np.float32)
    wide = np.zeros((len(stamps), 2 * n, n + 1), np.complex64)
    wide[:, rows % (2 * n), :keep] = fft.rfft2(stamps, (n, n))[:, rows % n, :keep] * transfer
    fine: Float32Array = fft.irfft2(wide, (2 * n, 2 * n), overwrite_x=True)
    return np.ascontiguousarray(fine[:, : 2 * size - 1, : 2 * size - 1])

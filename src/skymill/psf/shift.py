"""Move the content of stamps by a fraction of a pixel."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["shift_stamps"]

_CHUNK = 4096


def shift_stamps(
    stamps: NDArray[np.float32], *, dx: NDArray[np.float64], dy: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Move each stamp's content, exactly for what the pixels sample.

    A phase in Fourier space on a padded stamp: for a Moffat star of FWHM 3.6 pixel the largest
    error is 7e-5 of the peak (Lanczos of order 5: 2e-3).

    Parameters
    ----------
    stamps : (n, ny, nx) float32
        Stamps; zero is assumed beyond their edges.
    dx, dy : (n,) float64 [pixel]
        Shifts, best below one pixel.

    Returns
    -------
    (n, ny, nx) float32
        The moved stamps.
    """
    n, ny, nx = stamps.shape
    my, mx = scipy.fft.next_fast_len(ny + 6, real=True), scipy.fft.next_fast_len(nx + 6, real=True)
    ky = (-2j * np.pi * np.fft.fftfreq(my)).astype(np.complex64)
    kx = (-2j * np.pi * np.fft.rfftfreq(mx)).astype(np.complex64)
    if my % 2 == 0:
        ky[my // 2] = 0
    if mx % 2 == 0:
        kx[-1] = 0
    out = np.empty((n, ny, nx), np.float32)
    for start in range(0, n, _CHUNK):
        part = slice(start, min(start + _CHUNK, n))
        spectrum = scipy.fft.rfft2(stamps[part].astype(np.float32, copy=False), s=(my, mx))
        spectrum *= np.exp(ky[None, :] * dy[part, None].astype(np.float32))[:, :, None]
        spectrum *= np.exp(kx[None, :] * dx[part, None].astype(np.float32))[:, None, :]
        out[part] = scipy.fft.irfft2(spectrum, s=(my, mx), overwrite_x=True)[:, :ny, :nx]
    return out

"""PSF models of PSFEx as polynomials over the CCD."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.psf.models import PolynomialPsf

__all__ = ["from_psfex"]

#: Half width of PSFEx's interpolating function [sample].
_LANCZOS = 4


def from_psfex(
    stamps: ArrayLike,
    *,
    degree: int,
    zero: tuple[float, float],
    scale: tuple[float, float],
    sampling: float = 1.0,
    normalize: bool = True,
) -> PolynomialPsf:
    """The polynomial model that a PSFEx file describes.

    PSFEx writes one stamp for each term x^i y^j with j slow and i fast, in the coordinates
    ``(X - zero) / scale`` with X = 1 at the first pixel. The order of the terms and the first
    pixel change; for a sampling of one pixel the model stays exactly the same.

    Parameters
    ----------
    stamps : (n_basis, n, n) float
        ``PSF_MASK``; n odd.
    degree : int
        ``POLDEG1``: highest total order.
    zero, scale : (x, y) [pixel]
        ``POLZERO1``, ``POLZERO2`` and ``POLSCAL1``, ``POLSCAL2``.
    sampling : float [pixel]
        ``PSF_SAMP``: width of a sample. Other samplings are interpolated to pixels with a Lanczos
        function of order 4, as PSFEx prescribes.
    normalize : bool
        Give the stamps unit flux. The flux of a PSFEx model is one in the aperture that the model
        was normalised with, not over its stamp.

    Returns
    -------
    PolynomialPsf
        The model; with ``normalize`` its flux is one up to the square of its variation over the
        CCD.

    Raises
    ------
    DataError
        If the number of stamps does not fit the degree, the sampling is not positive (PSFEx's
        sign of a failed fit) or the model has no flux.

    References
    ----------
    Bertin 2011, ASP Conf. Ser. 442, 435; PSFEx manual, "The PSF file format".
    """
    given = np.asarray(stamps, np.float64)
    pairs = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    theirs = [(i, j) for j in range(degree + 1) for i in range(degree + 1 - j)]
    if given.ndim != 3 or given.shape[0] != len(pairs) or given.shape[1] != given.shape[2]:
        raise DataError(
            f"a PSFEx model of degree {degree} needs {len(pairs)} square stamps; "
            f"got an array of shape {given.shape}"
        )
    if not (np.isfinite(sampling) and sampling > 0):
        raise DataError(
            f"the sampling of a PSFEx model must be > 0 pixel; got {sampling} "
            "(PSFEx writes 0 when it found too few stars)"
        )
    ordered = np.stack([given[theirs.index(pair)] for pair in pairs])
    if not np.isclose(sampling, 1.0, rtol=0, atol=1e-6):
        ordered = _resample(ordered, sampling)
    if normalize:
        ordered = _normalize(ordered)
    return PolynomialPsf(ordered, degree, (zero[0] - 1.0, zero[1] - 1.0), scale)


def _normalize(stamps: NDArray[np.float64]) -> NDArray[np.float64]:
    flux = stamps.sum(axis=(1, 2))
    if not (np.isfinite(flux).all() and flux[0] > 0):
        raise DataError(f"the PSFEx model has no positive finite flux; got {flux[0]}")
    out = stamps - (flux / flux[0])[:, None, None] * stamps[0]
    out[0] = stamps[0]
    return np.asarray(out / flux[0])


def _resample(stamps: NDArray[np.float64], sampling: float) -> NDArray[np.float64]:
    """Values at the centres of pixels from samples of another width."""
    n = stamps.shape[-1]
    half = int((n // 2) * sampling)
    pixel = np.arange(-half, half + 1) / sampling
    sample = np.arange(n) - n // 2
    distance = pixel[:, None] - sample[None, :]
    weight = np.sinc(distance) * np.sinc(distance / _LANCZOS)
    weight[np.abs(distance) >= _LANCZOS] = 0.0
    weight /= weight.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("ai,kij,bj->kab", weight, stamps, weight) / sampling**2)

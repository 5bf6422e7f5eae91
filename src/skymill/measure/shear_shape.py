"""PSF-corrected shapes: re-Gaussianization."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.measure import _regauss_kernels as kernels

__all__ = ["RegaussShapes", "regauss_shapes"]

Float64Array = NDArray[np.float64]


@dataclass
class RegaussShapes:
    """PSF-corrected distortions of n sources; NaN where ``flags`` is not zero.

    Parameters
    ----------
    e1, e2 : (n,) float64
        Distortion (a2 - b2)/(a2 + b2) in pixel axes.
    sigma_e : (n,) float64
        Standard deviation of each component.
    resolution : (n,) float64
        1 - T_psf/T_galaxy.
    flags : (n,) uint32
        `MeasureFlag`.
    """

    e1: Float64Array
    e2: Float64Array
    sigma_e: Float64Array
    resolution: Float64Array
    flags: NDArray[np.uint32]


def regauss_shapes(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    *,
    x: Float64Array,
    y: Float64Array,
    half: NDArray[np.int64],
    moments: Float64Array,
    psf_stamps: NDArray[np.float32],
    psf_moments: Float64Array,
) -> RegaussShapes:
    """Correct the shapes of sources for their PSF.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels, or a sheet of stamps.
    good : (ny, nx) bool
        Pixels that may be used; the others count as zero.
    x, y : (n,) float64 [pixel]
        Centres.
    half : (n,) int64 [pixel]
        Half width of the window of each source; no more than six times its width is used, and at
        least 12 pixel.
    moments : (n, 3) float64 [pixel2]
        Adaptive moments xx, yy, xy of each source, to start from; not finite where there are none.
    psf_stamps : (n, size, size) float32
        PSF of each source, centred.
    psf_moments : (n, 3) float64 [pixel2]
        Their adaptive moments, to start from.

    Returns
    -------
    RegaussShapes
        Shapes equal to those of GalSim's ``hsm.EstimateShear`` to 1e-4.

    References
    ----------
    Hirata & Seljak 2003, MNRAS 343, 459; Mandelbaum et al. 2005, MNRAS 361, 1287.
    """
    n = x.size
    start = np.ascontiguousarray(moments, np.float64)
    det = start[:, 0] * start[:, 1] - start[:, 2] ** 2
    sigma = np.where(det > 0, np.abs(det), np.nan) ** 0.25
    reach = np.maximum(12.0, np.ceil(6.0 * np.nan_to_num(sigma, nan=2.0)))
    out, flags = np.empty((n, 4)), np.zeros(n, np.uint32)
    kernels.regauss_all(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(good),
        np.ascontiguousarray(x, np.float64),
        np.ascontiguousarray(y, np.float64),
        start,
        np.minimum(half, reach.astype(np.int64)),
        np.ascontiguousarray(psf_stamps, np.float32),
        np.ascontiguousarray(psf_moments, np.float64),
        out,
        flags,
    )
    return RegaussShapes(
        e1=out[:, kernels.E1],
        e2=out[:, kernels.E2],
        sigma_e=out[:, kernels.SIGMA_E],
        resolution=out[:, kernels.RESOLUTION],
        flags=flags,
    )

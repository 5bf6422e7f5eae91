"""Values for masked pixels: linear prediction across short gaps, a line across long ones."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.detrend._interpolate_kernels import fill_masked

__all__ = ["interpolate_masked", "prediction_weights"]

_MAX_GAP = 5


@functools.cache
def prediction_weights(psf_sigma: float, max_gap: int = _MAX_GAP) -> NDArray[np.float32]:
    """Weights of the two good pixels on each side of a gap, for an image seen through a PSF.

    Parameters
    ----------
    psf_sigma : float [pixel]
        Width of a Gaussian PSF.
    max_gap : int [pixel]
        Widest gap.

    Returns
    -------
    (max_gap, max_gap, 4) float32
        ``[gap - 1, place in the gap, neighbour]``: the linear prediction of least error for a
        field of stars (covariance of a Gaussian of twice the PSF's variance) with 0.2 % of noise,
        scaled so that a constant background stays what it is.

    References
    ----------
    Rybicki & Press 1992, ApJ 398, 169.
    """
    out = np.zeros((max_gap, max_gap, 4), np.float32)

    def covariance(d: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(-(d**2) / (4.0 * psf_sigma**2))

    for gap in range(1, max_gap + 1):
        near = np.array([-2.0, -1.0, gap, gap + 1.0])
        matrix = covariance(near[:, None] - near[None, :]) + 0.002 * np.eye(4)
        inverse = np.linalg.inv(matrix)
        for place in range(gap):
            right = covariance(near - place)
            # Lagrange multiplier: the weights sum to one.
            excess = (1.0 - np.sum(inverse @ right)) / np.sum(inverse)
            out[gap - 1, place] = inverse @ (right + excess)
    return out


def interpolate_masked(
    planes: PixelPlanes, bad: MaskPlane, *, psf_sigma: float = 1.6, mark: bool = True
) -> int:
    """Replace masked pixels by values predicted from their neighbours.

    Parameters
    ----------
    planes : PixelPlanes
        Changed in place: image, variance (mean of the two ends of the gap) and mask (INTRP).
    bad : MaskPlane
        Planes to replace.
    psf_sigma : float [pixel]
        Width of the PSF.
    mark : bool
        Set INTRP.

    Returns
    -------
    int
        Number of pixels replaced; a pixel without any good neighbour in its row and column stays.

    Notes
    -----
    Each pixel is filled along the axis on which its gap is shorter. Gaps of up to 5 pixels with
    two good pixels on each side take the linear prediction; others a straight line; gaps that
    reach the edge the nearest good value.
    """
    weights = prediction_weights(round(float(psf_sigma), 3))
    done = np.int32(int(MaskPlane.INTRP)) if mark else np.int32(0)
    return int(
        fill_masked(planes.image, planes.variance, planes.mask, np.int32(int(bad)), done, weights)
    )

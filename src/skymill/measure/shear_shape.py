"""PSF-corrected shapes: re-Gaussianization."""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray

from skymill.data.flags import MeasureFlag

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
    psf_stamps: NDArray[np.float32],
    sigma: Float64Array,
    psf_sigma: float,
) -> RegaussShapes:
    """Correct the shapes of sources for their PSF.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels, or a sheet of stamps.
    good : (ny, nx) bool
        Pixels that may be used.
    x, y : (n,) float64 [pixel]
        Centres.
    half : (n,) int64 [pixel]
        Half width of the window of each source.
    psf_stamps : (n, size, size) float32
        PSF of each source.
    sigma : (n,) float64 [pixel]
        Width of each source from its adaptive moments; not finite where there is none.
    psf_sigma : float [pixel]
        Width of the PSF.

    Returns
    -------
    RegaussShapes
        Shapes by the implementation of GalSim.

    References
    ----------
    Hirata & Seljak 2003, MNRAS 343, 459; Mandelbaum et al. 2005, MNRAS 361, 1287.
    """
    n = x.size
    out = RegaussShapes(
        e1=np.full(n, np.nan),
        e2=np.full(n, np.nan),
        sigma_e=np.full(n, np.nan),
        resolution=np.full(n, np.nan),
        flags=np.zeros(n, np.uint32),
    )
    for k in range(n):
        if not np.isfinite(sigma[k]):
            out.flags[k] = int(MeasureFlag.BAD_MOMENTS)
            continue
        out.flags[k] = _measure(out, k, image, variance, good, x, y, half, psf_stamps, sigma,
                                psf_sigma)  # fmt: skip
    return out


def _measure(
    out: RegaussShapes,
    k: int,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    x: Float64Array,
    y: Float64Array,
    half: NDArray[np.int64],
    psf_stamps: NDArray[np.float32],
    sigma: Float64Array,
    psf_sigma: float,
) -> int:
    """Shape of one source; returns its flags."""
    ix, iy = int(np.floor(x[k] + 0.5)), int(np.floor(y[k] + 0.5))
    reach = int(min(half[k], max(12.0, np.ceil(6.0 * sigma[k]))))
    rows = slice(max(0, iy - reach), iy + reach + 1)
    columns = slice(max(0, ix - reach), ix + reach + 1)
    usable = good[rows, columns]
    if not usable.any():
        return int(MeasureFlag.NO_DATA)
    stamp = galsim.Image(
        np.ascontiguousarray(image[rows, columns]), xmin=columns.start, ymin=rows.start
    )
    weight = (
        None
        if usable.all()
        else galsim.Image(usable.astype(np.int32), xmin=columns.start, ymin=rows.start)
    )
    psf_size = psf_stamps.shape[1]
    star = galsim.Image(psf_stamps[k], xmin=-(psf_size // 2), ymin=-(psf_size // 2))
    shape = galsim.hsm.EstimateShear(
        stamp,
        star,
        weight=weight,
        sky_var=float(np.median(variance[rows, columns][usable])),
        shear_est="REGAUSS",
        guess_centroid=galsim.PositionD(x[k], y[k]),
        guess_sig_gal=float(sigma[k]),
        guess_sig_PSF=psf_sigma,
        strict=False,
    )
    if shape.error_message or shape.correction_status != 0:
        return int(MeasureFlag.NOT_CONVERGED)
    out.e1[k], out.e2[k] = shape.corrected_e1, shape.corrected_e2
    # GalSim gives the error of a shear, half of that of a distortion.
    out.sigma_e[k] = 2.0 * shape.corrected_shape_err
    out.resolution[k] = shape.resolution_factor
    if not np.isfinite(out.e1[k]) or not np.isfinite(out.e2[k]):
        return int(MeasureFlag.NOT_CONVERGED)
    return 0

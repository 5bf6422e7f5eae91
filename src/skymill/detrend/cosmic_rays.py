"""Cosmic rays in a single exposure: Laplacian edge detection, told how sharp a star can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.options import check_choice, check_range, option
from skymill.detrend._cosmic_ray_kernels import (
    block_floor,
    bright_laplacian,
    clean_hits,
    find_hits,
    near_hits,
)
from skymill.detrend.interpolate import interpolate_masked

__all__ = ["CosmicRayOptions", "find_cosmic_rays", "remove_cosmic_rays"]

_BLOCK = 64
_REACH = 5  # A changed pixel alters the statistic of pixels up to this far away.
_IGNORED = MaskPlane.BAD | MaskPlane.SAT | MaskPlane.NO_DATA | MaskPlane.UNMASKEDNAN


@dataclass(frozen=True, kw_only=True)
class CosmicRayOptions:
    """Limits of the cosmic-ray finder."""

    sigma_clip: float = option(4.5, "Laplacian S/N of a hit", unit="sigma")
    sigma_fraction: float = option(0.3, "of sigma_clip that neighbours of a hit need")
    object_limit: float = option(5.0, "least contrast between Laplacian and fine structure")
    max_iterations: int = option(4, "most iterations")
    fine_structure: str = option("median", "median or convolve (with the PSF)")
    sharpness: float = option(
        0.4, "a hit's neighbours are below this fraction of what the PSF gives; 0 is no test"
    )
    sharpness_margin: float = option(1.0, "sigma by which they have to be below", unit="sigma")
    max_pixels: int = option(1_000_000, "more hit pixels than this is not cosmic rays")

    def __post_init__(self) -> None:
        check_range(self, "sigma_clip", low=0.0, low_open=True)
        check_range(self, "sigma_fraction", low=0.0, high=1.0)
        check_range(self, "object_limit", low=0.0)
        check_range(self, "max_iterations", low=1, high=100)
        check_choice(self, "fine_structure", ("median", "convolve"))
        check_range(self, "sharpness", low=0.0, high=1.0)
        check_range(self, "sharpness_margin", low=0.0)
        check_range(self, "max_pixels", low=1)


def _block_levels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of each square block, from every fourth pixel."""
    ny, nx = image.shape
    rows, columns = -(-ny // _BLOCK), -(-nx // _BLOCK)
    out = np.zeros((rows, columns), np.float32)
    full_y, full_x = ny // _BLOCK, nx // _BLOCK
    if full_y and full_x:
        step = image[: full_y * _BLOCK : 4, : full_x * _BLOCK : 4]
        n = _BLOCK // 4
        parts = step.reshape(full_y, n, full_x, n).transpose(0, 2, 1, 3).reshape(full_y, full_x, -1)
        out[:full_y, :full_x] = np.median(parts, axis=-1)
    for j in range(rows):
        for i in range(columns):
            if j >= full_y or i >= full_x:
                part = image[j * _BLOCK : (j + 1) * _BLOCK, i * _BLOCK : (i + 1) * _BLOCK]
                out[j, i] = np.median(part)
    return out


def _psf_weights(options: CosmicRayOptions, psf_sigma: float | None) -> NDArray[np.float32]:
    """Weights of the smoothing of the fine structure; shape (1, 1) stands for the 3 x 3 median."""
    if options.fine_structure == "median" or psf_sigma is None:
        return np.zeros((1, 1), np.float32)
    grid = np.arange(-3, 4)
    profile = np.exp(-0.5 * (grid / psf_sigma) ** 2)
    return np.asarray(np.outer(profile, profile) / profile.sum() ** 2, dtype=np.float32)


def find_cosmic_rays(
    planes: PixelPlanes,
    *,
    psf_sigma: float | None = None,
    options: CosmicRayOptions | None = None,
) -> NDArray[np.bool_]:
    """Which pixels are hit by cosmic rays.

    Parameters
    ----------
    planes : PixelPlanes
        Flat pixels, with or without their sky; the variance is that of photons and read noise.
        Pixels with BAD, SAT, NO_DATA or UNMASKEDNAN are never hits. Not changed.
    psf_sigma : float, optional
        Width of the PSF as a Gaussian [pixel]. Without it stars are told from hits by LA-Cosmic's
        fine structure alone, which under good seeing (FWHM below 3 pixels) eats their cores.
    options : CosmicRayOptions, optional
        Limits.

    Returns
    -------
    (ny, nx) bool
        Hit pixels.

    Raises
    ------
    DataError
        If more than ``max_pixels`` are hit.

    Notes
    -----
    LA-Cosmic (van Dokkum 2001, PASP 113, 1420) with its statistic evaluated where a lower bound
    of the noise lets it pass: S = L / (2 sigma), minus its 5 x 5 median, above ``sigma_clip`` and
    above ``object_limit`` times the fine structure; neighbours above ``sigma_fraction`` of it.
    sigma is the square root of the 5 x 5 median of the variance. A hit must also be sharper than
    the PSF: in one of the four directions the mean of the two neighbours lies below
    ``sharpness`` times the least that a star of this PSF would have there,
    ``exp(-d**2 / (2 psf_sigma**2))`` times the pixel.
    """
    options = options or CosmicRayOptions()
    if psf_sigma is not None and not (np.isfinite(psf_sigma) and psf_sigma > 0):
        raise DataError(f"psf_sigma must be > 0 pixel; got {psf_sigma}")
    ny, nx = planes.shape
    state = np.zeros((ny, nx), np.uint8)
    if min(ny, nx) < 5:
        return state.astype(bool)
    bad = np.int32(int(_IGNORED))
    image = np.ascontiguousarray(planes.image, np.float32).copy()
    variance = np.ascontiguousarray(planes.variance, np.float32).copy()
    image[~np.isfinite(image)] = 0.0
    levels = _block_levels(image)
    floor = np.empty(levels.shape, np.float32)
    block_floor(variance, _BLOCK, planes.mask, bad, floor)
    candidates = np.empty(max(ny * nx // 50, 10_000), np.int64)
    args = (image, floor, _BLOCK, options.sigma_clip, planes.mask, bad)
    n = bright_laplacian(*args, candidates)
    if n > candidates.size:
        candidates = np.empty(n, np.int64)
        bright_laplacian(*args, candidates)
    candidates = candidates[:n]
    noise = np.zeros((ny, nx), np.float32)
    seen = np.zeros((ny, nx), np.uint8)
    hits = np.empty(options.max_pixels, np.int64)
    sharp = np.zeros(4)
    if psf_sigma is not None and options.sharpness > 0:
        near = np.exp(-0.5 / psf_sigma**2)
        sharp[:] = near, near**2, options.sharpness, options.sharpness_margin
    weights = _psf_weights(options, psf_sigma)
    low = options.sigma_clip * options.sigma_fraction
    for iteration in range(1, options.max_iterations + 1):
        n_hits = find_hits(
            image, variance, planes.mask, bad, noise, state, candidates, levels, _BLOCK,
            np.float32(options.sigma_clip), np.float32(low), np.float32(options.object_limit),
            weights, sharp.astype(np.float32), hits,
        )  # fmt: skip
        if n_hits == 0:
            break
        if n_hits >= hits.size:
            raise DataError(
                f"more than max_pixels = {hits.size} pixels look like cosmic rays; the variance or "
                "the PSF width is wrong, or raise max_pixels"
            )
        clean_hits(image, variance, planes.mask, bad, noise, state, hits, n_hits, levels, _BLOCK)
        around = np.empty(min(n_hits * (2 * _REACH + 1) ** 2, ny * nx), np.int64)
        n_near = near_hits(ny, nx, hits, n_hits, _REACH, seen, np.uint8(iteration), around)
        candidates = around[:n_near]
    return state.astype(bool)


def remove_cosmic_rays(
    planes: PixelPlanes,
    *,
    psf_sigma: float | None = None,
    options: CosmicRayOptions | None = None,
) -> int:
    """Find cosmic rays, set CR, and interpolate over them (INTRP), in place.

    Parameters
    ----------
    planes : PixelPlanes
        Flat pixels; changed in place.
    psf_sigma : float, optional
        Width of the PSF as a Gaussian [pixel].
    options : CosmicRayOptions, optional
        Limits.

    Returns
    -------
    int
        Number of hit pixels.
    """
    hit = find_cosmic_rays(planes, psf_sigma=psf_sigma, options=options)
    planes.mask[hit] |= np.int32(int(MaskPlane.CR))
    ignored = MaskPlane.CR | _IGNORED
    if hit.any():
        # Neighbours that are bad are no ground to stand on, but they keep their own values.
        work = PixelPlanes(planes.image.copy(), planes.variance.copy(), planes.mask.copy())
        interpolate_masked(work, ignored, psf_sigma=psf_sigma or 1.6)
        planes.image[hit], planes.variance[hit] = work.image[hit], work.variance[hit]
        planes.mask[hit] |= work.mask[hit] & np.int32(int(MaskPlane.INTRP))
    return int(np.count_nonzero(hit))

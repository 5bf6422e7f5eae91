"""PSF matching: convolve a warp so that its PSF becomes one common model PSF everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import uniform_filter

from skymill.coadd.warp import Warp
from skymill.data.errors import ConfigError, FitError
from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane, is_set
from skymill.data.options import check_range, option
from skymill.psf.models import CellPsf

__all__ = ["MatchOptions", "ModelPsfOptions", "match_psf", "matching_kernels", "model_psf"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_GRID = 96  # pixels of the Fourier grid of kernels: stamps and kernels fit without wrapping
_TILE = 256  # pixels of the Fourier grid of image tiles
_GROUP = 2  # tiles along each side of a square that shares a kernel
_BLOCK = 4  # pixels of the blocks in which the variance is smoothed
_BLOCKS_AROUND = 5  # blocks along each side of the square whose mean a block takes
_SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True, kw_only=True)
class ModelPsfOptions:
    """The common PSF: a circular Gaussian with a wing."""

    defaultFwhm: float = option(7.7, "full width at half maximum of the core", unit="pixel")
    wing_amplitude: float = option(0.03, "peak of the wing Gaussian relative to the core")
    wing_factor: float = option(2.0, "width of the wing Gaussian in units of the core's")

    def __post_init__(self) -> None:
        check_range(self, "defaultFwhm", low=1.0, high=30.0)
        check_range(self, "wing_amplitude", low=0.0, high=1.0)
        check_range(self, "wing_factor", low=1.0, high=10.0)


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """The kernel that leads to the common PSF."""

    matchingKernelSize: int = option(29, "odd width of the matching kernel", unit="pixel")
    damping: float = option(1e-5, "regularisation relative to the squared PSF spectrum")
    iterations: int = option(12, "rounds of the constrained deconvolution")
    max_filled: float = option(0.1, "kernel weight on unusable pixels above which a pixel is void")

    def __post_init__(self) -> None:
        check_range(self, "matchingKernelSize", low=5, high=51)
        check_range(self, "damping", low=0.0, low_open=True, high=1.0)
        check_range(self, "iterations", low=1)
        check_range(self, "max_filled", low=0.0, high=1.0)
        if self.matchingKernelSize % 2 == 0:
            raise ConfigError(
                f"matchingKernelSize must be odd; got {self.matchingKernelSize} pixel"
            )


def model_psf(size: int, *, model: ModelPsfOptions = ModelPsfOptions()) -> Float32Array:
    """The common PSF on a stamp.

    Parameters
    ----------
    size : int [pixel]
        Odd width of the stamp.
    model : ModelPsfOptions
        Its shape.

    Returns
    -------
    (size, size) float32
        Unit sum.
    """
    axis = np.arange(size) - size // 2
    radius2 = axis[:, None] ** 2.0 + axis[None, :] ** 2.0
    sigma = model.defaultFwhm / _SIGMA_TO_FWHM
    stamp = np.exp(-0.5 * radius2 / sigma**2)
    stamp += model.wing_amplitude * np.exp(-0.5 * radius2 / (sigma * model.wing_factor) ** 2)
    return (stamp / stamp.sum()).astype(np.float32)


def _embed(stamps: Float32Array, grid: int) -> Float32Array:
    """Stamps on a larger grid, their centres at index (0, 0)."""
    size = stamps.shape[-1]
    half = size // 2
    out = np.zeros((*stamps.shape[:-2], grid, grid), np.float32)
    out[..., :size, :size] = stamps
    return np.roll(out, (-half, -half), axis=(-2, -1))


def matching_kernels(
    stamps: Float32Array,
    *,
    model: ModelPsfOptions = ModelPsfOptions(),
    options: MatchOptions = MatchOptions(),
) -> tuple[Float32Array, Float64Array]:
    """Kernels that turn PSFs into the common one.

    Parameters
    ----------
    stamps : (n, s, s) float32
        PSFs of unit sum.
    model : ModelPsfOptions
        The common PSF.
    options : MatchOptions
        The kernel.

    Returns
    -------
    kernels : (n, k, k) float32
        Kernels of unit sum.
    residual : (n,) float64
        Largest difference between the convolved and the common PSF, relative to its peak.

    Notes
    -----
    Minimises ``|K * P - M|^2`` over kernels of the given width by projected steepest descent
    that is preconditioned with the regularised inverse of the PSF's spectrum.
    """
    size = options.matchingKernelSize
    target = model_psf(_GRID - size, model=model)
    target_hat = fft.rfft2(_embed(target, _GRID))
    psf_hat = fft.rfft2(_embed(stamps, _GRID))
    inverse = np.conj(psf_hat) / (np.abs(psf_hat) ** 2 + options.damping)
    kernel = np.zeros((len(stamps), _GRID, _GRID), np.float32)
    allowed = _embed(np.ones((size, size), np.float32), _GRID)
    for _ in range(options.iterations):
        missing = target_hat - fft.rfft2(kernel) * psf_hat
        kernel += fft.irfft2(missing * inverse, s=(_GRID, _GRID)) * allowed
    kernel /= kernel.sum(axis=(1, 2), keepdims=True)
    achieved = fft.irfft2(fft.rfft2(kernel) * psf_hat, s=(_GRID, _GRID))
    residual = np.abs(achieved - _embed(target, _GRID)).max(axis=(1, 2)) / target.max()
    half = size // 2
    centred = np.roll(kernel, (half, half), axis=(-2, -1))[:, :size, :size]
    return np.ascontiguousarray(centred), residual.astype(np.float64)


def match_psf(
    warp: Warp,
    *,
    model: ModelPsfOptions = ModelPsfOptions(),
    options: MatchOptions = MatchOptions(),
) -> Warp:
    """Convolve a warp to the common PSF.

    Parameters
    ----------
    warp : Warp
        A direct warp.
    model : ModelPsfOptions
        The common PSF.
    options : MatchOptions
        The kernel.

    Returns
    -------
    Warp
        Of the common PSF. The kernel is constant within squares of about 400 pixels. The variance
        is that of one pixel; pixels whose kernel weighs unusable pixels by more than
        ``max_filled`` have NO_DATA.

    Raises
    ------
    FitError
        If no cell of the warp has a PSF.
    """
    half = options.matchingKernelSize // 2
    tiles = _tile_stamps(warp, max(1, (_TILE - 2 * half) // warp.psf.cell))
    kernels = _kernels(tiles, model, options)
    planes = warp.planes
    bad = is_set(planes.mask, UNUSABLE)
    ny, nx = planes.shape
    image = np.empty((ny, nx), np.float32)
    filled = np.empty((ny, nx), np.float32)
    power = np.zeros((ny, nx), np.float32)
    # Mirrored at the edges of the patch: the mirror image is the same in all epochs, so that
    # artifacts are found up to the edge.
    clean = np.where(np.isfinite(planes.image), planes.image, 0)
    source = np.pad(clean, half, mode="symmetric").astype(np.complex64)
    source.imag = np.pad(bad, half, mode="symmetric")
    for tile in tiles:
        rows, columns = slice(tile.y0, tile.y1), slice(tile.x0, tile.x1)
        if tile.stamp is None:
            image[rows, columns], filled[rows, columns] = 0.0, 1.0
            continue
        spectrum_of_kernel, squared = kernels[tile.group]
        block = np.zeros((_TILE, _TILE), np.complex64)
        part = source[tile.y0 : tile.y1 + 2 * half, tile.x0 : tile.x1 + 2 * half]
        block[: part.shape[0], : part.shape[1]] = part
        spectrum = fft.fft2(block, overwrite_x=True)
        spectrum *= spectrum_of_kernel
        result = fft.ifft2(spectrum, overwrite_x=True)
        inner = slice(half, half + tile.y1 - tile.y0), slice(half, half + tile.x1 - tile.x0)
        image[rows, columns] = result.real[inner]
        filled[rows, columns] = result.imag[inner]
        power[rows, columns] = squared
    return _finish(warp, image, filled, power, bad, model, options)


def _kernels(
    tiles: list[_Tile], model: ModelPsfOptions, options: MatchOptions
) -> dict[tuple[int, int], tuple[NDArray[np.complex64], float]]:
    """For each group of tiles the spectrum of its kernel and the sum of the squared weights."""
    members: dict[tuple[int, int], list[Float32Array]] = {}
    for tile in tiles:
        if tile.stamp is not None:
            members.setdefault(tile.group, []).append(tile.stamp)
    if not members:
        return {}
    stamps = np.stack([np.mean(found, axis=0) for found in members.values()])
    kernels, _ = matching_kernels(stamps, model=model, options=options)
    return {
        group: (fft.fft2(_embed(kernel, _TILE)), float(np.sum(kernel.astype(np.float64) ** 2)))
        for group, kernel in zip(members, kernels, strict=True)
    }


def _finish(
    warp: Warp,
    image: Float32Array,
    filled: Float32Array,
    power: Float32Array,
    bad: NDArray[np.bool_],
    model: ModelPsfOptions,
    options: MatchOptions,
) -> Warp:
    smooth = _smooth_variance(warp.planes.variance, bad)
    void = (np.abs(filled) > options.max_filled) | (smooth <= 0)
    mask = warp.planes.mask & ~np.int32(int(UNUSABLE))
    mask[void] |= int(MaskPlane.NO_DATA)
    image[void] = 0.0
    variance = np.where(void, 0, smooth * power).astype(np.float32)
    ncy, ncx, size, _ = warp.psf.stamps.shape
    stamps = np.broadcast_to(model_psf(size, model=model), (ncy, ncx, size, size))
    # One stamp would do, but a warp's PSF has the grid of its patch; NaN where nothing lies.
    matched = np.where(np.isfinite(warp.psf.stamps), stamps, np.float32(np.nan))
    return Warp(
        planes=PixelPlanes(image, variance, mask, unit=warp.planes.unit),
        box=warp.box,
        wcs=warp.wcs,
        psf=CellPsf(matched, warp.psf.x0, warp.psf.y0, warp.psf.cell),
        visit=warp.visit,
        band=warp.band,
        inputs=warp.inputs,
        psf_matched=True,
        psf_fwhm=model.defaultFwhm,
    )


def _smooth_variance(variance: Float32Array, bad: NDArray[np.bool_]) -> Float32Array:
    """Mean variance of the usable pixels around each block of 4 pixels."""
    ny, nx = variance.shape
    rows, columns = np.arange(0, ny, _BLOCK), np.arange(0, nx, _BLOCK)

    def sums(values: Float32Array) -> Float32Array:
        blocks = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
        return np.asarray(uniform_filter(blocks, _BLOCKS_AROUND, mode="constant"))

    total = sums(np.where(bad, np.float32(0.0), variance))
    number = sums((~bad).astype(np.float32))
    mean = total / np.maximum(number, np.float32(1e-3))
    whole = np.repeat(np.repeat(mean, _BLOCK, axis=0)[:ny], _BLOCK, axis=1)[:, :nx]
    return np.asarray(whole, np.float32)


class _Tile(NamedTuple):
    """Whole cells of a warp: their pixels, their mean PSF, and the tiles that share a kernel."""

    y0: int
    y1: int
    x0: int
    x1: int
    group: tuple[int, int]
    stamp: Float32Array | None


def _tile_stamps(warp: Warp, per_tile: int) -> list[_Tile]:
    psf, box = warp.psf, warp.box
    has = np.isfinite(psf.stamps[..., 0, 0])
    if not has.any():
        raise FitError(f"the warp of visit {warp.visit} has no PSF in any cell")
    width = per_tile * psf.cell
    dx, dy = box.x0 - int(psf.x0), box.y0 - int(psf.y0)
    ny, nx = box.shape
    out: list[_Tile] = []
    for row in range(dy // width, (dy + ny - 1) // width + 1):
        for column in range(dx // width, (dx + nx - 1) // width + 1):
            y0, y1 = max(0, row * width - dy), min(ny, (row + 1) * width - dy)
            x0, x1 = max(0, column * width - dx), min(nx, (column + 1) * width - dx)
            cells = (
                slice(row * per_tile, (row + 1) * per_tile),
                slice(column * per_tile, (column + 1) * per_tile),
            )
            inside = has[cells]
            stamp = psf.stamps[cells][inside].mean(axis=0) if inside.any() else None
            out.append(_Tile(y0, y1, x0, x1, (row // _GROUP, column // _GROUP), stamp))
    return out

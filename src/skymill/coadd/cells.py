"""Cells of a coadd: squares of sky small enough for one PSF, ready to be deconvolved.

A patch is cut into cells that do not overlap, each with a rim of its neighbours' sky. In each band
a cell has the mean of the coadd's PSF over it, its typical variance, and the noise spectrum of the
patch. Holes (saturated stars, missing data, bright stars of a catalogue) are filled with noise of
that spectrum, with a soft edge. A cell in which the PSF changes too much, because an input ends
there, is not used.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skymill.coadd.noise_spectrum import (
    NoiseSpectrum,
    NoiseSpectrumOptions,
    measure_noise_spectrum,
)
from skymill.data.errors import DataError, NoDataError
from skymill.data.images import Box, Coadd
from skymill.data.masks import UNUSABLE, MaskPlane, is_set
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf

__all__ = ["CellCut", "CellOptions", "CellPlan", "cut_cells", "plan_cells", "star_radius"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SQUARE = ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """How a patch is cut into cells, and which of them are used."""

    size: int = option(250, "width of a cell, about", unit="pixel")
    rim: int = option(35, "sky around a cell that is sheared with it", unit="pixel")
    max_size_change: float = option(0.1, "largest relative change of the PSF's size T in a cell")
    max_shape_change: float = option(0.05, "largest change of the PSF's distortion in a cell")
    max_widening: float = option(
        1.1,
        "a band joins the sum that gives shapes where its PSF is not wider than that of the "
        "first of them by more than this factor",
    )
    max_masked: float = option(0.7, "largest share of a cell that may be masked")
    grow_hole: int = option(8, "distance from a hole within which no source counts", unit="pixel")
    grow_defect: int = option(
        2, "distance from a thin interpolated defect within which no source counts", unit="pixel"
    )
    grow_detected: int = option(
        8, "distance from detected light within which the noise is not measured", unit="pixel"
    )

    def __post_init__(self) -> None:
        check_range(self, "size", low=32)
        check_range(self, "rim", low=10)
        check_range(self, "max_size_change", low=0.0, low_open=True)
        check_range(self, "max_shape_change", low=0.0, low_open=True)
        check_range(self, "max_widening", low=0.1)
        check_range(self, "max_masked", low=0.0, high=1.0)
        check_range(self, "grow_hole", low=0)
        check_range(self, "grow_defect", low=0)
        check_range(self, "grow_detected", low=0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CellPlan:
    """The cells of a patch and what is needed to shear them.

    Parameters
    ----------
    bands, shear_bands : list of str
        Bands with a coadd, and those that give shapes, the most trusted first.
    boxes : (n, 4) int64 [tract pixel]
        x0, y0, x1, y1 of the cells, half open; every pixel of the patch is in one.
    usable : (n, n_band) bool
        Whether the cell can be measured in the band.
    gives_shapes : (n, n_band) bool
        Whether the band is part of the sum that is searched and gives shapes.
    psfs : (n, n_band, s, s) float32
        Mean PSF over the cell; zero where there is none.
    size_change, shape_change : (n, n_band) float64
        Largest change of the PSF's size (relative) and distortion over the cell; NaN without PSF.
    variances : (n, n_band) float64 [nJy2]
        Median variance of the cell; zero without data.
    holes, lost : (n_band,) list of (m,) uint8
        Filled pixels, and pixels without sources of their own: one bit each, rows padded to whole
        bytes, compressed by zlib.
    covariances : dict of str to (2 m + 1, 2 m + 1) float64
        Noise of each band, for `NoiseSpectrum`.
    stars : (3, n_star) float64 [tract pixel]
        x, y and radius of masked circles around bright stars.
    options : CellOptions
        With which the cells were planned.
    """

    bands: list[str]
    shear_bands: list[str]
    boxes: NDArray[np.int64]
    usable: BoolArray
    gives_shapes: BoolArray
    psfs: Float32Array
    size_change: Float64Array
    shape_change: Float64Array
    variances: Float64Array
    holes: list[NDArray[np.uint8]]
    lost: list[NDArray[np.uint8]]
    covariances: dict[str, Float64Array]
    stars: Float64Array
    options: CellOptions

    def __len__(self) -> int:
        return len(self.boxes)

    def box(self, cell: int) -> Box:
        """The pixels of a cell."""
        x0, y0, x1, y1 = (int(v) for v in self.boxes[cell])
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)

    def in_use(self) -> NDArray[np.int64]:
        """Cells that a band gives shapes in."""
        return np.flatnonzero(self.gives_shapes.any(axis=1))

    def reasons(self) -> str:
        """How many cells each band loses, and why; whether its noise could be measured."""
        parts = []
        for k, band in enumerate(self.bands):
            bare = self.variances[:, k] == 0
            jump = (self.size_change[:, k] > self.options.max_size_change) | (
                self.shape_change[:, k] > self.options.max_shape_change
            )
            masked = ~self.usable[:, k] & ~bare & ~jump
            parts.append(
                f"{band}: {int(bare.sum())} without data or PSF, {int((jump & ~bare).sum())} "
                f"with a changing PSF, {int(masked.sum())} masked"
                + (", noise taken as white" if self.covariances[band].size == 1 else "")
            )
        return "; ".join(parts)


@dataclass(frozen=True, eq=False, kw_only=True)
class CellCut:
    """Pixels of one cell.

    Parameters
    ----------
    index : int
        Number of the cell in its plan.
    bands, shear_bands : tuple of str
        Bands that can be measured here.
    images, noises : (n_band, n, n) float32 [nJy]
        Filled pixels, and white noise of their variance, which `metacal` gives its power.
    variances : (n_band,) float64 [nJy2]
        Typical variance.
    psfs : (n_band, s, s) float32
        PSF.
    spectra : tuple of NoiseSpectrum
        Noise of each band.
    x0, y0 : int [tract pixel]
        Position of pixel (0, 0).
    box : Box
        Pixels of the tract that belong to the cell alone.
    lost : (n_band, n, n) bool
        Where no source can be measured in the band.
    """

    index: int
    bands: tuple[str, ...]
    shear_bands: tuple[str, ...]
    images: Float32Array
    noises: Float32Array
    variances: Float64Array
    psfs: Float32Array
    spectra: tuple[NoiseSpectrum, ...]
    x0: int
    y0: int
    box: Box
    lost: BoolArray


def star_radius(magnitude: Float64Array, *, pixel_scale: float) -> Float64Array:
    """Radius of the masked circle around a star.

    Parameters
    ----------
    magnitude : (n,) float64 [mag]
        Gaia G.
    pixel_scale : float [arcsec]
        Width of a pixel.

    Returns
    -------
    (n,) float64 [pixel]
        The published radius, ``10^(0.004432 G^2 - 0.2257 G + 2.996)`` arcsec and at least 5.
    """
    g = np.asarray(magnitude, np.float64)
    return np.maximum(10.0 ** (0.004432 * g**2 - 0.2257 * g + 2.996), 5.0) / pixel_scale


def _edges(low: int, high: int, size: int) -> NDArray[np.int64]:
    n = max(1, round((high - low) / size))
    return np.rint(np.linspace(low, high, n + 1)).astype(np.int64)


def _shapes(stamps: Float32Array) -> Float64Array:
    """T, e1, e2 (n, 3) of stamps under a fixed Gaussian weight."""
    half = stamps.shape[-1] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    weight = np.exp(-0.5 * (x**2 + y**2) / 3.0**2) * stamps.astype(np.float64)
    flux = weight.sum(axis=(1, 2))
    xx, yy, xy = ((weight * m).sum(axis=(1, 2)) / flux for m in (x * x, y * y, x * y))
    size = xx + yy
    return np.stack([size, (xx - yy) / size, 2 * xy / size], axis=1)


def _mean_psf(psf: Psf, box: Box, step: int = 50) -> tuple[Float32Array | None, float, float]:
    """Mean PSF of a cell and how far it goes from it: relative size and distortion."""
    xs = np.linspace(box.x0, box.x1 - 1, max(2, round((box.x1 - box.x0) / step) + 1))
    ys = np.linspace(box.y0, box.y1 - 1, max(2, round((box.y1 - box.y0) / step) + 1))
    x, y = (a.ravel() for a in np.meshgrid(xs, ys))
    stamps = psf.draw(x=x, y=y)
    stamps = stamps[np.isfinite(stamps).all(axis=(1, 2))]
    if len(stamps) == 0:
        return None, np.nan, np.nan
    mean = stamps.mean(axis=0)
    typical = _shapes(mean[None])[0]
    change = _shapes(stamps) - typical
    size = float(np.abs(change[:, 0]).max() / typical[0])
    return mean, size, float(np.hypot(change[:, 1], change[:, 2]).max())


def _holes(coadd: Coadd, stars: Float64Array) -> BoolArray:
    """Pixels that are filled: thick unusable regions and bright stars."""
    planes = coadd.planes
    bad = _unusable(coadd)
    thick = ndimage.binary_erosion(bad, _SQUARE, border_value=1)
    hole = ndimage.binary_dilation(thick, _SQUARE) & bad
    hole |= is_set(planes.mask, MaskPlane.SAT | MaskPlane.NO_DATA) | ~np.isfinite(planes.image)
    ny, nx = planes.shape
    for x, y, r in stars.T:
        u, v = x - coadd.box.x0, y - coadd.box.y0
        rows = slice(max(0, int(v - r)), min(ny, int(v + r) + 2))
        columns = slice(max(0, int(u - r)), min(nx, int(u + r) + 2))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        j, i = np.ogrid[rows, columns]
        hole[rows, columns] |= (i - u) ** 2 + (j - v) ** 2 <= r * r
    return hole


def _unusable(coadd: Coadd) -> BoolArray:
    planes = coadd.planes
    good = np.isfinite(planes.image) & np.isfinite(planes.variance) & (planes.variance > 0)
    return is_set(planes.mask, UNUSABLE) | ~good


def _lost(coadd: Coadd, hole: BoolArray, options: CellOptions) -> BoolArray:
    """Where no source counts: on holes and near them, and on thin defects."""
    thin = _unusable(coadd) & ~hole
    return _grow(hole, options.grow_hole) | _grow(thin, options.grow_defect)


def _grow(mask: BoolArray, steps: int) -> BoolArray:
    """Add the four neighbours of every pixel, some times."""
    for _ in range(steps):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


def plan_cells(
    coadds: Mapping[str, Coadd],
    *,
    shear_bands: Sequence[str],
    stars: Float64Array | None = None,
    options: CellOptions = CellOptions(),
    noise: NoiseSpectrumOptions = NoiseSpectrumOptions(),
) -> CellPlan:
    """Cut a patch into cells.

    Parameters
    ----------
    coadds : mapping of str to Coadd
        The patch in each band.
    shear_bands : sequence of str
        Bands that give shapes, the most trusted first.
    stars : (3, n_star) float64, optional [tract pixel]
        x, y and radius of circles around bright stars, masked in every band.
    options : CellOptions
        Cells and masks.
    noise : NoiseSpectrumOptions
        Measurement of the noise.

    Returns
    -------
    CellPlan
        The cells.

    Raises
    ------
    NoDataError
        If no band that gives shapes has a coadd.
    """
    bands = list(coadds)
    present = [b for b in shear_bands if b in coadds]
    if not present:
        raise NoDataError(
            f"the patch has no coadd in a band that gives shapes ({', '.join(shear_bands)}); it "
            f"has {', '.join(bands) or 'none'}"
        )
    first = coadds[bands[0]]
    if any(c.box != first.box for c in coadds.values()):
        raise DataError("the coadds of a patch must cover the same pixels in every band")
    circles = np.zeros((3, 0)) if stars is None else np.asarray(stars, np.float64)
    boxes = _cell_boxes(first.inner_box, options.size)
    found = [_plan_band(coadds[b], boxes, circles, options, noise) for b in bands]
    columns = {
        name: np.stack([getattr(f, name) for f in found], axis=1)
        for name in ("psfs", "size_change", "shape_change", "variances", "share")
    }
    share = columns.pop("share")
    usable = (columns["variances"] > 0) & (share <= options.max_masked)
    usable &= columns["size_change"] <= options.max_size_change
    usable &= columns["shape_change"] <= options.max_shape_change
    return CellPlan(
        bands=bands,
        shear_bands=present,
        boxes=np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes], np.int64),
        usable=usable,
        gives_shapes=_choose_sum(columns["psfs"], usable, bands, present, options.max_widening),
        holes=[_pack(f.hole) for f in found],
        lost=[_pack(f.lost) for f in found],
        covariances={b: f.covariance for b, f in zip(bands, found, strict=True)},
        stars=circles,
        options=options,
        **columns,
    )


def _pack(mask: BoolArray) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(np.packbits(mask, axis=1).tobytes(), 1), np.uint8)


def _unpack(packed: NDArray[np.uint8], shape: tuple[int, int]) -> BoolArray:
    ny, nx = shape
    rows = np.frombuffer(zlib.decompress(packed.tobytes()), np.uint8).reshape(ny, -1)
    return np.unpackbits(rows, axis=1, count=nx).astype(bool)


def _choose_sum(
    psfs: Float32Array, usable: BoolArray, bands: list[str], shear_bands: list[str], factor: float
) -> BoolArray:
    """Bands that are summed in each cell: the first that can be measured, and as sharp ones."""
    area = 1.0 / np.maximum((psfs.astype(np.float64) ** 2).sum(axis=(2, 3)), 1e-30)
    out = np.zeros_like(usable)
    limit = np.zeros(len(psfs))
    for band in shear_bands:
        k = bands.index(band)
        first = usable[:, k] & (limit == 0)
        limit[first] = factor * np.sqrt(area[first, k])
        out[:, k] = usable[:, k] & (np.sqrt(area[:, k]) <= limit)
    return out


def _cell_boxes(inner: Box, size: int) -> list[Box]:
    """Boxes of about a size that tile another."""
    xs, ys = _edges(inner.x0, inner.x1, size), _edges(inner.y0, inner.y1, size)
    return [
        Box(x0=int(a), y0=int(c), x1=int(b), y1=int(d))
        for c, d in itertools.pairwise(ys)
        for a, b in itertools.pairwise(xs)
    ]


@dataclass(frozen=True, eq=False)
class _Band:
    """What is found in one band, one entry a cell; ``lost`` are pixels of the patch."""

    psfs: Float32Array
    size_change: Float64Array
    shape_change: Float64Array
    variances: Float64Array
    share: Float64Array
    hole: BoolArray
    lost: BoolArray
    covariance: Float64Array


def _plan_band(
    coadd: Coadd,
    boxes: list[Box],
    stars: Float64Array,
    options: CellOptions,
    noise: NoiseSpectrumOptions,
) -> _Band:
    hole = _holes(coadd, stars)
    lost = _lost(coadd, hole, options)
    n, size = len(boxes), coadd.psf.stamp_size
    psfs, changes = np.zeros((n, size, size), np.float32), np.full((2, n), np.nan)
    variances, share = np.zeros(n), np.ones(n)
    for c, box in enumerate(boxes):
        cut = box.slices(within=coadd.box)
        share[c] = lost[cut].mean()
        good = ~hole[cut] & (coadd.planes.variance[cut] > 0)
        mean, *changes[:, c] = _mean_psf(coadd.psf, box)
        if mean is not None and good.any():
            psfs[c] = mean
            variances[c] = np.median(coadd.planes.variance[cut][good])
    covariance = _measure_noise(coadd, hole, options, noise).covariance
    return _Band(psfs, changes[0], changes[1], variances, share, hole, lost, covariance)


def _measure_noise(
    coadd: Coadd, hole: BoolArray, options: CellOptions, noise: NoiseSpectrumOptions
) -> NoiseSpectrum:
    taken = hole | _unusable(coadd) | is_set(coadd.planes.mask, MaskPlane.DETECTED)
    empty = ~_grow(taken, options.grow_detected)
    try:
        return measure_noise_spectrum(
            coadd.planes.image, coadd.planes.variance, empty, options=noise
        )
    except NoDataError:
        return NoiseSpectrum.white()


def _cut(plane: NDArray[np.generic], square: Box, within: Box, fill: float) -> NDArray:
    """A square of a plane; ``fill`` outside of it."""
    out = np.full((square.y1 - square.y0, square.x1 - square.x0), fill, plane.dtype)
    part = square.intersection(within)
    if not part.is_empty:
        out[part.slices(within=square)] = plane[part.slices(within=within)]
    return out


def cut_cells(
    coadds: Mapping[str, Coadd],
    plan: CellPlan,
    *,
    seed: Sequence[int],
) -> Iterator[CellCut]:
    """The pixels of each cell that is in use.

    Parameters
    ----------
    coadds : mapping of str to Coadd
        The patch in each band, as planned.
    plan : CellPlan
        Its cells.
    seed : sequence of int
        Seed of the noise, with the numbers of cell and band: the same for every shear.

    Yields
    ------
    CellCut
        One cell.

    Raises
    ------
    DataError
        If a band of the plan is not there.
    """
    missing = [b for b in plan.bands if b not in coadds]
    if missing:
        raise DataError(f"the cells were planned with band {', '.join(missing)}: no coadd of it")
    options, first = plan.options, coadds[plan.bands[0]]
    shape = first.planes.shape
    windows = [_window(_unpack(packed, shape)) for packed in plan.holes]
    lost_pixels = [_unpack(packed, shape) for packed in plan.lost]
    spectra = {b: NoiseSpectrum(covariance=plan.covariances[b]) for b in plan.bands}
    widest = int((plan.boxes[:, 2:] - plan.boxes[:, :2]).max())
    n = 2 * (-(-widest // 2) + options.rim)
    for c in plan.in_use():
        box = plan.box(c)
        x0, y0 = ((low + high) // 2 - n // 2 for low, high in ((box.x0, box.x1), (box.y0, box.y1)))
        square = Box(x0=x0, y0=y0, x1=x0 + n, y1=y0 + n)
        used = [k for k in range(len(plan.bands)) if plan.usable[c, k]]
        filled = [
            _fill_cell(
                coadds[plan.bands[k]], windows[k], square, float(plan.variances[c, k]),
                spectrum=spectra[plan.bands[k]], rng=np.random.default_rng([*seed, int(c), k]),
            )
            for k in used
        ]  # fmt: skip
        bands = tuple(plan.bands[k] for k in used)
        yield CellCut(
            index=int(c),
            bands=bands,
            shear_bands=tuple(plan.bands[k] for k in used if plan.gives_shapes[c, k]),
            images=np.array([image for image, _ in filled], np.float32),
            noises=np.array([noise for _, noise in filled], np.float32),
            variances=plan.variances[c, used],
            psfs=plan.psfs[c, used],
            spectra=tuple(spectra[b] for b in bands),
            x0=x0,
            y0=y0,
            box=box,
            lost=np.array([_cut(lost_pixels[k], square, first.box, True) for k in used]),
        )


def _fill_cell(
    coadd: Coadd,
    window: Float32Array,
    square: Box,
    variance: float,
    *,
    spectrum: NoiseSpectrum,
    rng: np.random.Generator,
) -> tuple[Float32Array, Float32Array]:
    """Pixels with holes filled, and white noise of their variance."""
    n = square.x1 - square.x0
    w = _cut(window, square, coadd.box, 0.0)
    level = _cut(coadd.planes.variance, square, coadd.box, variance)
    deviation = np.sqrt(np.where((level > 0) & (w > 0), level, np.float32(variance)))
    noise = rng.standard_normal((n, n), dtype=np.float32) * deviation
    image = _cut(coadd.planes.image, square, coadd.box, 0.0)
    if w.min() < 1:
        filler = spectrum.draw(n, rng=rng) * deviation
        image = w * np.nan_to_num(image) + np.sqrt(1.0 - w * w) * filler
    return image, noise


def _window(hole: BoolArray, width: int = 3) -> Float32Array:
    """One away from holes, zero on them, a smooth step of about ``width`` pixels between."""
    grown = _grow(hole, width)
    open_sky = ndimage.uniform_filter(1.0 - grown.astype(np.float32), 2 * width - 1)
    open_sky[hole] = 0.0
    return np.asarray(np.clip(open_sky, 0.0, 1.0), np.float32)

"""Warps: the CCDs of one visit, calibrated and resampled onto the pixels of a tract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skymill.coadd._warp_kernels import STEP, fill_unusable, resample
from skymill.coadd.interpolation import weight_polynomials
from skymill.coadd.warped_psf import resample_psf
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, Exposure, PixelPlanes
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_choice, check_range, option
from skymill.data.photometry import FluxScale
from skymill.data.protocols import Psf, Wcs
from skymill.psf.models import CellPsf

__all__ = [
    "CellGrid",
    "Warp",
    "WarpInput",
    "WarpOptions",
    "footprint",
    "mapping_nodes",
    "warp_exposures",
]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_ORDERS = {"lanczos3": 3, "lanczos5": 5}


@dataclass(frozen=True, kw_only=True)
class WarpOptions:
    """How CCDs are resampled."""

    warpingKernelName: str = option("lanczos3", "interpolation: lanczos3 or lanczos5")
    psf_cell: int = option(100, "width of the cells in which the PSF is constant", unit="pixel")
    psf_size: int = option(41, "odd width of the PSF stamps", unit="pixel")
    fill_reach: int = option(
        64, "how far usable pixels are looked for to fill others", unit="pixel"
    )
    edge_width: int = option(8, "width of the SENSOR_EDGE frame of a CCD", unit="pixel")
    variance: str = option(
        "flux",
        "flux: variance that gives the right errors of sums over several pixels, as of PSF and "
        "aperture fluxes; pixel: variance of single pixels, which the resampling correlates",
    )
    noise: bool = option(True, "carry a noise realisation through the same resampling")

    def __post_init__(self) -> None:
        check_choice(self, "warpingKernelName", tuple(_ORDERS))
        check_choice(self, "variance", ("flux", "pixel"))
        check_range(self, "psf_cell", low=8)
        check_range(self, "psf_size", low=5, high=201)
        check_range(self, "fill_reach", low=1)
        check_range(self, "edge_width", low=0)
        if self.psf_size % 2 == 0:
            raise ConfigError(f"psf_size must be odd; got {self.psf_size} pixel")

    @property
    def order(self) -> int:
        """Half width of the kernel [pixel]."""
        return _ORDERS[self.warpingKernelName]


@dataclass(frozen=True, kw_only=True)
class WarpInput:
    """One CCD that went into a warp.

    Parameters
    ----------
    visit, detector : int
        Identity.
    x, y : tuple of 4 float [pixel]
        Outer corners of the CCD in the tract.
    n_pixel : int
        Pixels that it covers in the warp.
    """

    visit: int
    detector: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    n_pixel: int


@dataclass(kw_only=True)
class Warp:
    """One visit on the pixels of one patch.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels in nJy; zero with variance zero and NO_DATA where no CCD covers them.
    box : Box
        Where they lie in the tract; only the covered part of the patch.
    wcs : FitsWcs
        Mapping of the tract's pixels.
    psf : CellPsf
        PSF in tract pixels.
    visit : int
        The visit.
    band : str
        Its band.
    inputs : list of WarpInput
        The CCDs.
    noise : (ny, nx) float32, optional
        A noise realisation with the variance of the inputs that went through the same resampling
        [nJy].
    psf_matched : bool
        True after `skymill.coadd.psf_match.match_psf`.
    psf_fwhm : float [pixel]
        Median full width at half maximum of ``psf``; NaN if unknown.
    """

    planes: PixelPlanes
    box: Box
    wcs: FitsWcs
    psf: CellPsf
    visit: int
    band: str
    inputs: list[WarpInput] = field(default_factory=list)
    noise: Float32Array | None = None
    psf_matched: bool = False
    psf_fwhm: float = float("nan")

    def __post_init__(self) -> None:
        if self.planes.shape != self.box.shape:
            raise DataError(
                f"the planes of a warp have shape {self.planes.shape}, its box {self.box.shape}"
            )


@dataclass(frozen=True, kw_only=True)
class CellGrid:
    """The cells of a patch in which the PSF is constant.

    Parameters
    ----------
    box : Box
        Outer box of the patch.
    cell : int [pixel]
        Width of a cell; the last row and column may be narrower.
    """

    box: Box
    cell: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        ny, nx = self.box.shape
        return -(-ny // self.cell), -(-nx // self.cell)

    def centres(self) -> tuple[Float64Array, Float64Array]:
        """Tract positions x, y (rows, columns) of the cells' centres."""
        rows, columns = self.shape
        x = self.box.x0 + (np.arange(columns) + 0.5) * self.cell - 0.5
        y = self.box.y0 + (np.arange(rows) + 0.5) * self.cell - 0.5
        x = np.minimum(x, self.box.x1 - 1)
        y = np.minimum(y, self.box.y1 - 1)
        return tuple(np.meshgrid(x, y))  # type: ignore[return-value]

    def count(self, flags: NDArray[np.bool_], part: Box) -> Float64Array:
        """Number of set pixels of a part of the patch in each cell.

        Parameters
        ----------
        flags : (ny, nx) bool
            Pixels of ``part``.
        part : Box
            Where they lie in the tract.

        Returns
        -------
        (rows, columns) float64
            Counts.
        """
        out = np.zeros(self.shape)
        if part.is_empty:
            return out
        dy, dx = part.y0 - self.box.y0, part.x0 - self.box.x0
        first_y, first_x = dy // self.cell, dx // self.cell
        edges_y = np.arange(first_y * self.cell - dy, flags.shape[0], self.cell).clip(min=0)
        edges_x = np.arange(first_x * self.cell - dx, flags.shape[1], self.cell).clip(min=0)
        rows = np.add.reduceat(flags, edges_x, axis=1, dtype=np.int32)
        cells = np.add.reduceat(rows, edges_y, axis=0)
        out[first_y : first_y + cells.shape[0], first_x : first_x + cells.shape[1]] = cells
        return out


class _Canvas:
    """The patch while the CCDs of a visit are written into it."""

    def __init__(self, box: Box, wcs: FitsWcs, options: WarpOptions) -> None:
        shape = box.shape
        self.box, self.wcs, self.options = box, wcs, options
        self.planes = np.zeros((2 if options.noise else 1, *shape), np.float32)
        self.variance = np.zeros(shape, np.float32)
        self.mask = np.full(shape, int(MaskPlane.NO_DATA), np.int32)
        self.grid = CellGrid(box=box, cell=options.psf_cell)
        size = options.psf_size
        self.stamps = np.zeros((*self.grid.shape, size, size), np.float32)
        self.weight = np.zeros(self.grid.shape)
        self.inputs: list[WarpInput] = []

    def add(self, exposure: Exposure, rng: np.random.Generator | None) -> None:
        """Resample one CCD into the patch."""
        wcs, psf, scale = exposure.wcs, exposure.psf, exposure.photo_calib
        name = f"visit {exposure.info.visit} detector {exposure.info.detector}"
        if wcs is None or psf is None or scale is None:
            missing = [
                word
                for word, part in (("wcs", wcs), ("psf", psf), ("photo_calib", scale))
                if part is None
            ]
            raise DataError(f"{name} cannot be warped: it has no {', '.join(missing)}")
        part, corners = footprint(wcs, exposure.planes.shape, self.wcs, self.box)
        if part.is_empty:
            return
        nodes = mapping_nodes(wcs, scale, self.wcs, part, self.options.variance == "pixel")
        if not np.isfinite(nodes).all():
            raise DataError(f"{name} cannot be warped: its WCS has no inverse at some positions")
        before = self.grid.count(self._covered(part), part)
        written = self._resample(exposure.planes, nodes, part, rng)
        if written == 0:
            return
        self._add_psf(psf, wcs, exposure.planes.shape, part, before)
        self.inputs.append(
            WarpInput(
                visit=exposure.info.visit,
                detector=exposure.info.detector,
                x=tuple(float(v) for v in corners[0]),
                y=tuple(float(v) for v in corners[1]),
                n_pixel=int(written),
            )
        )

    def _covered(self, part: Box) -> NDArray[np.bool_]:
        window = self.mask[part.slices(within=self.box)]
        return (window & int(MaskPlane.NO_DATA)) == 0

    def _resample(
        self, source: PixelPlanes, nodes: Float64Array, part: Box, rng: np.random.Generator | None
    ) -> int:
        prepared = _prepare(source, nodes, self.options, rng)
        if prepared is None:
            return 0
        planes, variance, mask, shifted = prepared
        rows, columns = part.shape
        return int(
            resample(
                planes,
                variance,
                mask,
                shifted,
                weight_polynomials(self.options.order),
                self.options.variance == "pixel",
                (part.y0 - self.box.y0, part.x0 - self.box.x0, rows, columns),
                self.planes,
                self.variance,
                self.mask,
                np.int32(int(MaskPlane.NO_DATA)),
            )
        )

    def _add_psf(
        self, psf: Psf, wcs: Wcs, shape: tuple[int, int], part: Box, before: Float64Array
    ) -> None:
        gained = self.grid.count(self._covered(part), part) - before
        rows, columns = np.nonzero(gained > 0)
        centre_x, centre_y = self.grid.centres()
        stamps = resample_psf(
            psf,
            wcs,
            self.wcs,
            x=centre_x[rows, columns],
            y=centre_y[rows, columns],
            shape=shape,
            size=self.options.psf_size,
            order=self.options.order,
        )
        share = gained[rows, columns]
        self.stamps[rows, columns] += stamps * share[:, None, None].astype(np.float32)
        self.weight[rows, columns] += share

    def finish(self, visit: int, band: str) -> Warp:
        """The warp, cropped to what is covered."""
        covered = (self.mask & int(MaskPlane.NO_DATA)) == 0
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        crop = Box(
            x0=self.box.x0 + int(columns[0]),
            y0=self.box.y0 + int(rows[0]),
            x1=self.box.x0 + int(columns[-1]) + 1,
            y1=self.box.y0 + int(rows[-1]) + 1,
        )
        cut = crop.slices(within=self.box)
        with np.errstate(invalid="ignore", divide="ignore"):
            stamps = np.divide(self.stamps, self.weight[..., None, None], dtype=np.float32)
        stamps[self.weight == 0] = np.nan
        psf = CellPsf(stamps, float(self.box.x0), float(self.box.y0), self.options.psf_cell)
        return Warp(
            planes=PixelPlanes(
                np.ascontiguousarray(self.planes[0][cut]),
                np.ascontiguousarray(self.variance[cut]),
                np.ascontiguousarray(self.mask[cut]),
                unit="nJy",
            ),
            box=crop,
            wcs=self.wcs,
            psf=psf,
            visit=visit,
            band=band,
            inputs=self.inputs,
            noise=np.ascontiguousarray(self.planes[1][cut]) if self.options.noise else None,
            psf_fwhm=_median_fwhm(stamps),
        )


def _median_fwhm(stamps: Float32Array) -> float:
    """Median over the cells of the width of the circle as large as the half-maximum area."""
    size = stamps.shape[-1]
    flat = stamps.reshape(-1, size * size)
    flat = flat[np.isfinite(flat[:, 0])]
    if not flat.size:
        return float("nan")
    flat = flat[:: max(1, len(flat) // 50)]
    peak = flat.max(axis=1, keepdims=True)
    # A soft step of the width of one pixel's slope counts fractions of pixels.
    area = np.clip(0.5 + (flat - 0.5 * peak) / (0.35 * peak), 0, 1).sum(axis=1)
    return float(2 * np.sqrt(np.median(area) / np.pi))


def footprint(
    wcs: Wcs, shape: tuple[int, int], tract_wcs: Wcs, box: Box
) -> tuple[Box, tuple[Float64Array, Float64Array]]:
    """The part of a patch that a CCD may cover, and the CCD's outer corners in the tract.

    Parameters
    ----------
    wcs : Wcs
        Mapping of the CCD.
    shape : (ny, nx)
        Shape of the CCD.
    tract_wcs : Wcs
        Mapping of the tract.
    box : Box
        Pixels of the patch in the tract.

    Returns
    -------
    part : Box
        Pixels of the tract; maybe empty.
    corners : (x, y)
        Each (4,) float64 [pixel].
    """
    ny, nx = shape
    t = np.linspace(0.0, 1.0, 9)
    zero, one = np.zeros(9), np.ones(9)
    x = np.concatenate([t, one, t[::-1], zero]) * nx - 0.5
    y = np.concatenate([zero, t, one, t[::-1]]) * ny - 0.5
    ra, dec = wcs.pixel_to_sky(x=x, y=y)
    tract_x, tract_y = tract_wcs.sky_to_pixel(ra=ra, dec=dec)
    corners = tract_x[[0, 9, 18, 27]], tract_y[[0, 9, 18, 27]]
    if not (np.isfinite(tract_x).all() and np.isfinite(tract_y).all()):
        return Box(x0=0, y0=0, x1=0, y1=0), corners
    around = Box(
        x0=int(np.floor(tract_x.min())) - 1,
        y0=int(np.floor(tract_y.min())) - 1,
        x1=int(np.ceil(tract_x.max())) + 2,
        y1=int(np.ceil(tract_y.max())) + 2,
    )
    return around.intersection(box), corners


def mapping_nodes(
    wcs: Wcs, scale: FluxScale, tract_wcs: Wcs, part: Box, exact: bool
) -> Float64Array:
    """The mapping from a part of the tract to a CCD on a coarse grid.

    Parameters
    ----------
    wcs : Wcs
        Mapping of the CCD.
    scale : FluxScale
        Flux scale of the CCD.
    tract_wcs : Wcs
        Mapping of the tract.
    part : Box
        Pixels of the tract.
    exact : bool
        Variance factor of single pixels, not of sums of many.

    Returns
    -------
    (4, my, mx) float64
        Input x and y [pixel], factors of flux and variance at the positions STEP (m - 1) from the
        part's first pixel.
    """
    rows, columns = part.shape
    x = part.x0 + STEP * (np.arange((columns - 1) // STEP + 4) - 1.0)
    y = part.y0 + STEP * (np.arange((rows - 1) // STEP + 4) - 1.0)
    grid_x, grid_y = np.meshgrid(x, y)
    ra, dec = tract_wcs.pixel_to_sky(x=grid_x.ravel(), y=grid_y.ravel())
    in_x, in_y = (v.reshape(grid_x.shape) for v in wcs.sky_to_pixel(ra=ra, dec=dec))
    dx_dy, dx_dx = np.gradient(in_x, STEP, edge_order=2)
    dy_dy, dy_dx = np.gradient(in_y, STEP, edge_order=2)
    # Flux is conserved: an output pixel holds the light of the input area that it covers.
    njy = scale.scale(x=in_x, y=in_y)
    factor = np.abs(dx_dx * dy_dy - dx_dy * dy_dx) * njy
    # The noise of the sum of many output pixels is that of the input pixels that they cover.
    return np.stack([in_x, in_y, factor, factor * (factor if exact else njy)])


def _prepare(
    source: PixelPlanes,
    nodes: Float64Array,
    options: WarpOptions,
    rng: np.random.Generator | None,
) -> tuple[Float32Array, Float32Array, NDArray[np.int32], Float64Array] | None:
    """Cut the needed part of a CCD, turn it towards the tract and fill its unusable pixels."""
    ny, nx = source.shape
    margin = options.order + 1
    x0 = max(0, int(np.floor(nodes[0].min())) - margin)
    x1 = min(nx, int(np.ceil(nodes[0].max())) + margin + 1)
    y0 = max(0, int(np.floor(nodes[1].min())) - margin)
    y1 = min(ny, int(np.ceil(nodes[1].max())) + margin + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    cut = slice(y0, y1), slice(x0, x1)
    mask = source.mask[cut].copy()
    _mark_edge(mask, options.edge_width, (x0 == 0, y0 == 0, x1 == nx, y1 == ny))
    image, variance = source.image[cut], source.variance[cut]
    u, v = nodes[0] - x0, nodes[1] - y0
    middle = u.shape[0] // 2, u.shape[1] // 2
    along = middle[0], middle[1] - 1
    if abs(v[middle] - v[along]) > abs(u[middle] - u[along]):
        image, variance, mask = image.T, variance.T, mask.T
        u, v = v, u
    if u[middle] < u[along]:
        image, variance, mask = image[:, ::-1], variance[:, ::-1], mask[:, ::-1]
        u = image.shape[1] - 1 - u
    planes = np.empty((2 if options.noise else 1, *image.shape), np.float32)
    planes[0] = image
    # A fresh copy: the pixels of the exposure must stay as they are.
    variance = np.array(variance, dtype=np.float32, order="C")
    mask = np.array(mask, dtype=np.int32, order="C")
    if options.noise:
        if rng is None:
            raise DataError("a noise realisation needs a random generator: pass rng")
        draw = rng.standard_normal(image.shape, dtype=np.float32)
        known = (variance > 0) & np.isfinite(variance)
        np.multiply(draw, np.sqrt(np.where(known, variance, 0)), out=planes[1])
    bits = np.int32(int(UNUSABLE)), np.int32(int(MaskPlane.UNMASKEDNAN))
    fill_unusable(planes, variance, mask, *bits, options.fill_reach)
    return planes, variance, mask, np.stack([u, v, nodes[2], nodes[3]])


def _mark_edge(mask: NDArray[np.int32], width: int, at: tuple[bool, bool, bool, bool]) -> None:
    """Set SENSOR_EDGE on the frame of a CCD: left, bottom, right, top."""
    if width == 0:
        return
    bit = np.int32(int(MaskPlane.SENSOR_EDGE))
    left, bottom, right, top = at
    if left:
        mask[:, :width] |= bit
    if right:
        mask[:, -width:] |= bit
    if bottom:
        mask[:width] |= bit
    if top:
        mask[-width:] |= bit


def warp_exposures(
    exposures: Iterable[Exposure],
    *,
    wcs: FitsWcs,
    box: Box,
    options: WarpOptions = WarpOptions(),
    rng: np.random.Generator | None = None,
) -> Warp:
    """Resample the CCDs of one visit onto a patch, in nJy.

    Parameters
    ----------
    exposures : iterable of Exposure
        The CCDs, background-subtracted, each with wcs, psf and photo_calib; they are taken one
        after the other, so that they can be read lazily.
    wcs : FitsWcs
        Mapping of the tract.
    box : Box
        Pixels of the patch in the tract.
    options : WarpOptions
        Kernel, cells of the PSF, filling of unusable pixels.
    rng : numpy.random.Generator, optional
        For the noise realisation.

    Returns
    -------
    Warp
        The image is interpolated with a Lanczos kernel (corrected to reproduce quadratic
        surfaces, see `skymill.coadd.interpolation`) and multiplied by the area
        ratio and the flux scale. The variance is that of the input per area, so that the errors of
        fluxes summed over a few pixels or more are right although the resampling correlates the
        pixels; ``variance="pixel"`` sums the squares of the weights instead.
        Unusable pixels are filled from their neighbours before, and their bits are kept in the
        pixels whose four nearest input pixels hold one.

    Raises
    ------
    NoDataError
        If no CCD covers a pixel of the patch.
    """
    canvas = _Canvas(box, wcs, options)
    visit, band = -1, ""
    for exposure in exposures:
        info = exposure.info
        if visit not in (-1, info.visit):
            raise DataError(f"a warp holds one visit; got {visit} and {info.visit}")
        visit, band = info.visit, info.band
        canvas.add(exposure, rng)
    if not canvas.inputs:
        raise NoDataError(f"no CCD of visit {visit} covers a pixel of the patch")
    return canvas.finish(visit, band)

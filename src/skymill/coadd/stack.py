"""Stacks: the weighted mean of warps, with its mask, its PSF in cells and what went in."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.coadd._stack_kernels import accumulate, normalise
from skymill.coadd.artifacts import Artifacts
from skymill.coadd.warp import CellGrid, Warp, WarpInput
from skymill.data.errors import DataError, NoDataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.masks import MaskPlane, is_set
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.psf.models import CellPsf

__all__ = ["InputPixels", "StackOptions", "Stacker", "input_map", "stack_warps"]

Float32Array = NDArray[np.float32]

#: Bits of used inputs that a coadd does not inherit.
_FORGOTTEN = MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE | MaskPlane.EDGE | MaskPlane.CROSSTALK


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What goes into a stack and how it is weighted."""

    badMaskPlanes: tuple[str, ...] = option(
        ("NO_DATA", "BAD", "SAT", "CR", "UNMASKEDNAN", "SUSPECT", "STREAK"),
        "mask planes whose pixels are left out",
    )
    sat_fraction: float = option(0.1, "saturated share of the weight above which SAT is set")
    weight_sample: int = option(7, "every n-th pixel tells the variance of a warp", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "sat_fraction", low=0.0, high=1.0)
        check_range(self, "weight_sample", low=1)
        unknown = [p for p in self.badMaskPlanes if p not in MaskPlane.__members__]
        if unknown:
            raise DataError(
                f"badMaskPlanes names unknown planes {', '.join(unknown)}; "
                f"known: {', '.join(MaskPlane.__members__)}"
            )

    @property
    def bad(self) -> MaskPlane:
        """The planes whose pixels are left out, NO_DATA always among them."""
        out = MaskPlane.NO_DATA
        for plane in self.badMaskPlanes:
            out |= MaskPlane[plane]
        return out


@dataclass(frozen=True, kw_only=True)
class InputPixels:
    """Which visits the value of each pixel of a coadd is made of.

    Parameters
    ----------
    visits : list of int
        The visits.
    weights : list of float [nJy^-2]
        Their weights.
    shape : tuple of int
        (ny, nx) of the coadd.
    packed : (n,) uint8
        One bit for each visit and pixel, rows padded to whole bytes, compressed by zlib.
    """

    visits: list[int]
    weights: list[float]
    shape: tuple[int, int]
    packed: NDArray[np.uint8]

    def bits(self) -> dict[int, NDArray[np.uint8]]:
        """For each visit (ny, nx) uint8, 1 where the coadd holds it."""
        ny, nx = self.shape
        flat = np.frombuffer(zlib.decompress(self.packed.tobytes()), np.uint8)
        rows = flat.reshape(len(self.visits), ny, -(-nx // 8))
        return {v: np.unpackbits(rows[k], axis=1, count=nx) for k, v in enumerate(self.visits)}


@dataclass
class Stacker:
    """A stack while warps are added to it one after the other.

    Parameters
    ----------
    box : Box
        Pixels of the patch in the tract.
    wcs : FitsWcs
        Mapping of the tract.
    options : StackOptions
        Masks and weights.
    """

    box: Box
    wcs: FitsWcs
    options: StackOptions = field(default_factory=StackOptions)

    def __post_init__(self) -> None:
        shape = self.box.shape
        self._sums = np.zeros((9, *shape), np.float32)
        self._count = np.zeros((3, *shape), np.uint16)
        self._bits = np.zeros((2, *shape), np.int32)
        self._stamps: Float32Array | None = None
        self._stamp_weight: NDArray[np.float64] | None = None
        self._grid: CellGrid | None = None
        self._scale = 0.0
        self._noise = True
        self.band = ""
        self.inputs: list[WarpInput] = []
        self.weights: dict[int, float] = {}
        self._used: dict[int, NDArray[np.uint8]] = {}
        self._covered: dict[int, NDArray[np.uint8]] = {}

    def add(self, warp: Warp, artifacts: Artifacts | None = None) -> float:
        """Add a warp.

        Parameters
        ----------
        warp : Warp
            A direct warp within the box.
        artifacts : Artifacts, optional
            Pixels to clip.

        Returns
        -------
        float [nJy^-2]
            Its weight, the inverse of its median variance; 0 if it has no usable pixel in the box
            and was left out.
        """
        part = warp.box.intersection(self.box)
        bad = self.options.bad
        if warp.visit in self.weights:
            raise DataError(f"visit {warp.visit} is in the stack already")
        if self.band not in ("", warp.band):
            raise DataError(f"a stack has one band; got {self.band} and {warp.band}")
        weight = _weight(warp, bad, self.options.weight_sample)
        if part.is_empty or weight == 0.0:
            return 0.0
        if self._scale == 0.0:
            # Weights near one keep their sums within float32.
            self._scale = 1.0 / weight
        cut = part.slices(within=warp.box)
        clipped = (
            np.zeros((0, 0), np.uint8) if artifacts is None else artifacts.mask(warp.visit, part)
        )
        mask = np.ascontiguousarray(warp.planes.mask[cut])
        noise = np.zeros((0, 0), np.float32)
        if warp.noise is not None and self._noise:
            noise = np.ascontiguousarray(warp.noise[cut])
        else:
            self._noise = False
        accumulate(
            np.ascontiguousarray(warp.planes.image[cut]),
            np.ascontiguousarray(warp.planes.variance[cut]),
            mask,
            noise,
            clipped,
            np.float32(weight * self._scale),
            part.y0 - self.box.y0,
            part.x0 - self.box.x0,
            np.int32(int(bad)),
            np.int32(int(MaskPlane.SAT)),
            np.int32(int(MaskPlane.NO_DATA)),
            self._sums,
            self._count,
            self._bits,
        )
        used = ~is_set(mask, bad)
        if clipped.size:
            used &= clipped == 0
        self._add_psf(warp, used, part, weight)
        self._used[warp.visit] = self._pack(used, part)
        self._covered[warp.visit] = self._pack(~is_set(mask, MaskPlane.NO_DATA), part)
        self.band = warp.band
        self.weights[warp.visit] = weight
        self.inputs += warp.inputs
        return weight

    def _pack(self, flags: NDArray[np.bool_], part: Box) -> NDArray[np.uint8]:
        whole = np.zeros(self.box.shape, bool)
        whole[part.slices(within=self.box)] = flags
        return np.packbits(whole, axis=1)

    def input_pixels(self) -> InputPixels:
        """Which visits the value of each pixel is made of."""
        none = np.packbits(self._count[0] == 0, axis=1)
        visits = sorted(self.weights)
        rows = [self._used[v] | (none & self._covered[v]) for v in visits]
        packed = zlib.compress(b"".join(r.tobytes() for r in rows), 1)
        return InputPixels(
            visits=visits,
            weights=[self.weights[v] for v in visits],
            shape=self.box.shape,
            packed=np.frombuffer(packed, np.uint8),
        )

    def _add_psf(self, warp: Warp, used: NDArray[np.bool_], part: Box, weight: float) -> None:
        psf = warp.psf
        if self._stamps is None or self._stamp_weight is None or self._grid is None:
            self._grid = CellGrid(box=self.box, cell=psf.cell)
            self._stamps = np.zeros(psf.stamps.shape, np.float32)
            self._stamp_weight = np.zeros(psf.stamps.shape[:2])
        same = psf.stamps.shape == self._stamps.shape and psf.cell == self._grid.cell
        if not same or (psf.x0, psf.y0) != (self.box.x0, self.box.y0):
            raise DataError(
                f"the PSF cells of visit {warp.visit} differ from those of the stack: make all "
                "warps of a patch with the same psf_cell and psf_size"
            )
        share = self._grid.count(used, part) * weight
        share[~np.isfinite(psf.stamps[..., 0, 0])] = 0.0
        rows, columns = np.nonzero(share)
        parts = psf.stamps[rows, columns] * share[rows, columns, None, None].astype(np.float32)
        self._stamps[rows, columns] += parts
        self._stamp_weight += share

    @property
    def n_image(self) -> NDArray[np.uint16]:
        """Number of visits used in each pixel (ny, nx)."""
        return self._count[0]

    def finish(self, *, skymap: str, tract: int, patch: int, inner_box: Box | None = None) -> Coadd:
        """The coadd of what was added.

        Parameters
        ----------
        skymap : str
            Name of the sky map.
        tract, patch : int
            Identity.
        inner_box : Box, optional
            Pixels that belong to this patch alone; the whole box if omitted.

        Returns
        -------
        Coadd
            Weighted mean; a pixel that all inputs reject holds their mean over filled pixels with
            their bits and INTRP, one that no input covers NO_DATA, zero and variance zero.

        Raises
        ------
        NoDataError
            If nothing was added.
        """
        if self._stamps is None or self._stamp_weight is None or self._grid is None:
            raise NoDataError(f"no warp has a usable pixel in tract {tract} patch {patch}")
        shape = self.box.shape
        image, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
        mask = np.empty(shape, np.int32)
        noise = np.empty(shape if self._noise else (0, 0), np.float32)
        keep = ~int(self.options.bad | _FORGOTTEN)
        planes = (
            keep,
            ~int(_FORGOTTEN | MaskPlane.NO_DATA),
            *(int(MaskPlane[p]) for p in ("SAT", "INTRP", "CLIPPED", "REJECTED", "INEXACT_PSF")),
            int(MaskPlane.NO_DATA),
            int(MaskPlane.SENSOR_EDGE),
        )
        normalise(
            self._sums,
            self._count,
            self._bits,
            np.array(planes, np.int32),
            np.float32(self.options.sat_fraction),
            image,
            variance,
            mask,
            noise,
        )
        covered = self._stamp_weight > 0
        stamps = np.full_like(self._stamps, np.nan)
        divisor = self._stamp_weight[covered][:, None, None].astype(np.float32)
        stamps[covered] = self._stamps[covered] / divisor
        psf = CellPsf(stamps, float(self.box.x0), float(self.box.y0), self._grid.cell)
        return Coadd(
            planes=PixelPlanes(image, variance, mask, unit="nJy"),
            box=self.box,
            wcs=self.wcs,
            psf=psf,
            band=self.band,
            skymap=skymap,
            tract=tract,
            patch=patch,
            inner_box=self.box if inner_box is None else inner_box,
            n_image=self._count[0].copy(),
            noise=noise if self._noise else None,
            inputs=[(i.visit, i.detector) for i in self.inputs],
        )


def _weight(warp: Warp, bad: MaskPlane, step: int) -> float:
    """Inverse of the median variance of the usable pixels; 0 without any."""
    sample = (slice(None, None, step), slice(None, None, step))
    variance = warp.planes.variance[sample]
    good = ~is_set(warp.planes.mask[sample], bad) & (variance > 0) & np.isfinite(variance)
    if not good.any():
        variance = warp.planes.variance
        good = ~is_set(warp.planes.mask, bad) & (variance > 0) & np.isfinite(variance)
    return 1.0 / float(np.median(variance[good])) if good.any() else 0.0


def stack_warps(
    warps: Iterable[Warp],
    *,
    box: Box,
    wcs: FitsWcs,
    artifacts: Artifacts | None = None,
    options: StackOptions = StackOptions(),
) -> Stacker:
    """Stack direct warps of one band and patch.

    Parameters
    ----------
    warps : iterable of Warp
        Taken one after the other, so that they can be read lazily.
    box : Box
        Pixels of the patch in the tract.
    wcs : FitsWcs
        Mapping of the tract.
    artifacts : Artifacts, optional
        Pixels to clip, from `skymill.coadd.artifacts.find_artifacts`.
    options : StackOptions
        Masks and weights.

    Returns
    -------
    Stacker
        Its ``finish`` makes the coadd.
    """
    stacker = Stacker(box=box, wcs=wcs, options=options)
    for warp in warps:
        stacker.add(warp, artifacts)
    return stacker


def input_map(stacker: Stacker) -> Table:
    """The CCDs that a coadd is made of.

    Parameters
    ----------
    stacker : Stacker
        A stack.

    Returns
    -------
    astropy.table.Table
        Schema ``deepCoadd_inputMap``: one row for each CCD with the weight of its visit, its
        corners in tract pixels and the pixels that it covers.
    """
    rows = stacker.inputs
    table = Table()
    table["visit"] = np.array([r.visit for r in rows], np.int64)
    table["detector"] = np.array([r.detector for r in rows], np.int32)
    table["weight"] = np.array([stacker.weights[r.visit] for r in rows], np.float64)
    table["x_corners"] = np.array([r.x for r in rows], np.float64).reshape(len(rows), 4)
    table["y_corners"] = np.array([r.y for r in rows], np.float64).reshape(len(rows), 4)
    table["n_pixel"] = np.array([r.n_pixel for r in rows], np.int64)
    return load_schema("deepCoadd_inputMap").apply(table)

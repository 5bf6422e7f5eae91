"""The sky background of an image: a mesh of clipped modes and the spline through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import median_filter

from skymill.data.errors import DataError, NoDataError
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.options import check_range, option
from skymill.measure._background_kernels import box_statistics

__all__ = ["Background", "BackgroundList", "BackgroundOptions", "estimate_background"]

#: Pixels that say nothing about the sky.
NOT_SKY = UNUSABLE | MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE | MaskPlane.EDGE


@dataclass(frozen=True, kw_only=True)
class BackgroundOptions:
    """How the background is estimated."""

    box: int = option(128, "width of the boxes of the mesh", unit="pixel")
    filter_size: int = option(3, "width of the median filter over the mesh (1: none)")
    clip_sigma: float = option(3.0, "clipping about the median of a box", unit="sigma")
    min_fraction: float = option(0.1, "unmasked fraction below which a box is filled from others")

    def __post_init__(self) -> None:
        check_range(self, "box", low=4)
        check_range(self, "filter_size", low=1, high=15)
        check_range(self, "clip_sigma", low=1.0, high=10.0)
        check_range(self, "min_fraction", low=0.0, high=1.0)


@dataclass(frozen=True)
class Background:
    """A smooth surface given by its values at the centres of a mesh of boxes.

    Parameters
    ----------
    mesh : (my, mx) float32 [image unit]
        Level in each box, already filtered and without gaps.
    rms : (my, mx) float32 [image unit]
        Width of the sky noise in each box.
    shape : (ny, nx)
        Pixels that the surface covers; the boxes share them evenly.
    box : int [pixel]
        Nominal width of a box.
    """

    mesh: NDArray[np.float32]
    rms: NDArray[np.float32]
    shape: tuple[int, int]
    box: int

    def __post_init__(self) -> None:
        if self.mesh.ndim != 2 or self.mesh.shape != self.rms.shape:
            raise DataError(
                "mesh and rms must be two-dimensional and of one shape; got "
                f"{self.mesh.shape}, {self.rms.shape}"
            )

    def evaluate(self) -> NDArray[np.float32]:
        """The level at each pixel.

        Returns
        -------
        (ny, nx) float32 [image unit]
            Natural bicubic spline through the mesh, linear outside of the outermost centres.
        """
        return _evaluate_spline(self.mesh, self.shape)

    def evaluate_rms(self) -> NDArray[np.float32]:
        """The width of the sky noise at each pixel.

        Returns
        -------
        (ny, nx) float32 [image unit]
            Spline through the rms mesh, never below its smallest value.
        """
        return np.maximum(_evaluate_spline(self.rms, self.shape), self.rms.min())


@dataclass
class BackgroundList:
    """The sum of backgrounds that were subtracted one after the other.

    Parameters
    ----------
    parts : list of Background
        In the order of subtraction.
    """

    parts: list[Background] = field(default_factory=list)

    def append(self, part: Background) -> None:
        """Add the next one.

        Parameters
        ----------
        part : Background
            Of the same shape as those before.

        Raises
        ------
        DataError
            If it covers other pixels.
        """
        if self.parts and tuple(part.shape) != tuple(self.parts[0].shape):
            raise DataError(
                f"a background of shape {tuple(part.shape)} cannot be added to one of "
                f"{tuple(self.parts[0].shape)}"
            )
        self.parts.append(part)

    def evaluate(self) -> NDArray[np.float32]:
        """The summed level at each pixel.

        Returns
        -------
        (ny, nx) float32 [image unit]
            The sum of all parts.

        Raises
        ------
        NoDataError
            If the list is empty, so that no shape is known.
        """
        if not self.parts:
            raise NoDataError("a list without backgrounds has no level")
        total = self.parts[0].evaluate()
        for part in self.parts[1:]:
            total += part.evaluate()
        return total

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the pixels; (0, 0) for an empty list."""
        return self.parts[0].shape if self.parts else (0, 0)

    def __iter__(self) -> Iterator[Background]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


def estimate_background(
    image: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    options: BackgroundOptions = BackgroundOptions(),
    ignore: MaskPlane = NOT_SKY,
) -> Background:
    """Estimate the sky level on a mesh of boxes.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels; not finite ones are left out.
    mask : (ny, nx) int32
        Mask bits.
    options : BackgroundOptions
        Boxes, clipping and filter.
    ignore : MaskPlane
        Pixels with any of these planes are left out.

    Returns
    -------
    Background
        In each box: iterative clipping about the median, then ``2.5 median - 1.5 mean`` (the
        median where the two differ by more than 0.3 sigma); boxes with too few pixels are filled
        from their neighbours; then a median filter over the mesh.

    Raises
    ------
    NoDataError
        If no box has enough pixels.

    References
    ----------
    Bertin & Arnouts 1996, A&AS 117, 393, section 3.1.
    """
    if image.shape != mask.shape:
        raise DataError(f"image and mask must have one shape; got {image.shape}, {mask.shape}")
    ny, nx = image.shape
    y_edges, x_edges = _box_edges(ny, options.box), _box_edges(nx, options.box)
    shape = y_edges.size - 1, x_edges.size - 1
    level, rms = np.empty(shape), np.empty(shape)
    used = np.empty(shape, np.int64)
    area = (ny / shape[0]) * (nx / shape[1])
    box_statistics(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(mask, np.int32),
        np.int32(int(ignore)),
        y_edges,
        x_edges,
        options.clip_sigma,
        max(1, int(options.min_fraction * area)),
        level,
        rms,
        used,
    )
    if not np.isfinite(level).any():
        raise NoDataError(
            f"no box of {options.box} pixel has a fraction of {options.min_fraction} of "
            "unmasked pixels: the background cannot be estimated"
        )
    level, rms = _fill_gaps(level), _fill_gaps(rms)
    if options.filter_size > 1:
        level = _filter_mesh(level, options.filter_size)
        rms = np.maximum(_filter_mesh(rms, options.filter_size), rms.min())
    return Background(
        mesh=level.astype(np.float32), rms=rms.astype(np.float32), shape=(ny, nx), box=options.box
    )


def _box_edges(n: int, box: int) -> NDArray[np.int64]:
    """Edges of boxes of nearly equal width, as near to ``box`` as an even division gives."""
    count = max(1, round(n / box))
    return np.round(np.linspace(0, n, count + 1)).astype(np.int64)


def _fill_gaps(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace NaN by the mean of the filled boxes, weighted by the distance to the power -4."""
    bad = ~np.isfinite(mesh)
    if not bad.any():
        return mesh
    good_y, good_x = np.nonzero(~bad)
    out = mesh.copy()
    for y, x in zip(*np.nonzero(bad), strict=True):
        weight = ((good_y - y) ** 2.0 + (good_x - x) ** 2.0) ** -2.0
        out[y, x] = np.sum(weight * mesh[good_y, good_x]) / np.sum(weight)
    return out


def _filter_mesh(mesh: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Median filter whose border continues the trend, so that a tilted plane passes unchanged."""
    half = size // 2
    half_y, half_x = min(half, mesh.shape[0] - 1), min(half, mesh.shape[1] - 1)
    padded = np.pad(mesh, ((half_y, half_y), (half_x, half_x)), "reflect", reflect_type="odd")
    out = median_filter(padded, size=size, mode="nearest")
    return np.asarray(out[half_y : half_y + mesh.shape[0], half_x : half_x + mesh.shape[1]])


def _spline_weights(n_pixel: int, n_box: int) -> NDArray[np.float32]:
    """(n_pixel, n_box) weights of the natural cubic spline with linear ends."""
    if n_box == 1:
        return np.ones((n_pixel, 1), np.float32)
    edges = np.round(np.linspace(0, n_pixel, n_box + 1))
    centres = 0.5 * (edges[1:] + edges[:-1]) - 0.5
    pixel = np.arange(n_pixel, dtype=np.float64)
    spline = CubicSpline(centres, np.eye(n_box), bc_type="natural")
    inside = np.clip(pixel, centres[0], centres[-1])
    slope = spline(inside, 1)
    return (spline(inside) + slope * (pixel - inside)[:, None]).astype(np.float32)


def _evaluate_spline(mesh: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Separable spline through the mesh at each pixel."""
    rows = _spline_weights(shape[0], mesh.shape[0])
    columns = _spline_weights(shape[1], mesh.shape[1])
    if not np.isfinite(mesh).all():
        raise DataError("the mesh of a background must be finite")
    return np.ascontiguousarray((rows @ mesh.astype(np.float32)) @ columns.T, dtype=np.float32)

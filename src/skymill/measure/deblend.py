"""Deblending: templates and spectra of the children of each footprint, in all bands at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.data.options import check_range, option
from skymill.measure import _deblend_kernels as kernels
from skymill.measure._detection_kernels import footprint_boxes

__all__ = [
    "ChildStamps",
    "Children",
    "DeblendOptions",
    "cut_stamps",
    "deblend_sources",
    "total_model",
]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DeblendOptions:
    """How footprints are taken apart."""

    iterations: int = option(8, "alternations between templates and spectra")
    relaxed: int = option(2, "steps after them in which templates need not be symmetric")
    limit: float = option(0.3, "height at which a template ends", unit="sigma of the white image")
    max_radius: int = option(250, "largest radius of a secondary template", unit="pixel")

    def __post_init__(self) -> None:
        check_range(self, "iterations", low=1, high=1000)
        check_range(self, "relaxed", low=0, high=1000)
        check_range(self, "limit", low=0.0, low_open=True)
        check_range(self, "max_radius", low=2)


@dataclass
class Children:
    """The leaves of all footprints: one for each peak.

    Parameters
    ----------
    peak : (n,) int64
        Index of the peak that each child belongs to.
    label : (n,) int32
        Footprint.
    n_siblings : (n,) int64
        Children in the same footprint, this one included.
    x0, y0, x1, y1 : (n,) int64 [pixel]
        Box of the template (half open), within the image.
    first : (n,) int64
        Position of the template's first pixel in ``templates``; rows follow one another.
    spectra : (n, n_band) float32 [image unit]
        Height of each child in each band.
    templates : (m,) float32
        Pixels of all templates, with unit peak.
    bands : tuple of str
        Names of the columns of ``spectra``.
    """

    peak: IntArray
    label: NDArray[np.int32]
    n_siblings: IntArray
    x0: IntArray
    y0: IntArray
    x1: IntArray
    y1: IntArray
    first: IntArray
    spectra: NDArray[np.float32]
    templates: NDArray[np.float32]
    bands: tuple[str, ...]

    def __len__(self) -> int:
        return self.peak.size


@dataclass
class ChildStamps:
    """Stamps of children, one above the other, for measurements that take one image.

    Parameters
    ----------
    image, variance : (n size, size) float32
        Stamp k occupies the rows k size ... (k + 1) size - 1.
    mask : (n size, size) int32
        Mask bits; NO_DATA outside of the image.
    offset_x, offset_y : (n,) int64 [pixel]
        Add to a position in the image to get the position on the sheet.
    size : int [pixel]
        Odd width of a stamp.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    offset_x: IntArray
    offset_y: IntArray
    size: int


def deblend_sources(
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    labels: NDArray[np.int32],
    *,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    bands: tuple[str, ...],
    options: DeblendOptions = DeblendOptions(),
) -> Children:
    """Find the share of each peak in the pixels of its footprint.

    Parameters
    ----------
    images, variances : (n_band, ny, nx) float32
        Aligned pixels of all bands, not finite or without variance where unknown.
    labels : (ny, nx) int32
        Footprints, numbered from 1.
    x, y : (n,) float64 [pixel]
        Peaks, each inside of a footprint.
    bands : tuple of str
        Names of the bands.
    options : DeblendOptions
        Iteration and extent of the templates.

    Returns
    -------
    Children
        One child for each peak. A footprint with one peak is its own template. Else each child is
        a spectrum times a template that is not negative, symmetric about its peak and falls
        monotonically from it; pixels are shared in proportion to the models, so that the
        children of a footprint add up to its flux. Any number of peaks is treated.

    Raises
    ------
    DataError
        If shapes differ or a peak lies outside of all footprints.

    References
    ----------
    Lupton 2005 (SDSS deblender); Melchior et al. 2018, A&C 24, 129 (factorised models).
    """
    if images.shape != variances.shape or images.shape[1:] != labels.shape:
        raise DataError(
            "images, variances and labels must cover the same pixels; got "
            f"{images.shape}, {variances.shape}, {labels.shape}"
        )
    ix, iy = _nearest(x), _nearest(y)
    label = labels[iy, ix] if x.size else np.empty(0, np.int32)
    if np.any(label <= 0):
        k = int(np.argmax(label <= 0))
        raise DataError(f"peak {k} at ({x[k]:.1f}, {y[k]:.1f}) pixel lies in no footprint")
    count = int(labels.max()) if labels.size else 0
    boxes, area = np.empty((count, 4), np.int32), np.empty(count, np.int64)
    footprint_boxes(np.ascontiguousarray(labels), count, boxes, area)
    siblings = np.bincount(label, minlength=count + 1)[label]
    order = np.argsort(label, kind="stable")
    n = x.size
    out = Children(
        peak=np.arange(n),
        label=label.astype(np.int32),
        n_siblings=siblings.astype(np.int64),
        x0=np.zeros(n, np.int64),
        y0=np.zeros(n, np.int64),
        x1=np.zeros(n, np.int64),
        y1=np.zeros(n, np.int64),
        first=np.zeros(n, np.int64),
        spectra=np.ones((n, images.shape[0]), np.float32),
        templates=np.empty(0, np.float32),
        bands=tuple(bands),
    )
    parts = [_isolated(out, labels, boxes)]
    position = parts[0].size
    blended = order[siblings[order] > 1]
    starts = np.flatnonzero(np.diff(label[blended], prepend=-1))
    for members in np.split(blended, starts[1:]) if blended.size else []:
        part = _split_parent(
            out, members, images, variances, labels, boxes[label[members[0]] - 1], ix, iy, options
        )
        out.first[members] += position
        position += part.size
        parts.append(part)
    out.templates = np.concatenate(parts)
    return out


def cut_stamps(
    children: Children,
    index: IntArray,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    mask: NDArray[np.int32],
    *,
    band: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    size: int,
    noise: NDArray[np.float32],
    total: NDArray[np.float32],
) -> ChildStamps:
    """Stamps in which each child stands alone.

    Parameters
    ----------
    children : Children
        The deblended sources.
    index : (m,) int64
        Which of them.
    image, variance : (ny, nx) float32
        Pixels of one band.
    mask : (ny, nx) int32
        Mask bits.
    band : str
        Which column of the spectra.
    x, y : (n,) float64 [pixel]
        Position of every child (not only those of ``index``).
    size : int [pixel]
        Odd width of a stamp.
    noise : (ny, nx) float32
        A realisation of the pixel noise that takes the place of other sources.
    total : (ny, nx) float32
        Sum of all models, from `total_model`.

    Returns
    -------
    ChildStamps
        The child's share of each pixel of its template; noise where other sources were; the
        image as it is elsewhere.
    """
    n = index.size
    sheet = np.empty((n * size, size), np.float32)
    sheet_variance, sheet_mask = np.empty_like(sheet), np.empty(sheet.shape, np.int32)
    ix, iy = _nearest(x), _nearest(y)
    kernels.cut_children(
        image,
        variance,
        mask,
        noise,
        total,
        index,
        ix,
        iy,
        children.x0,
        children.y0,
        children.x1,
        children.y1,
        children.first,
        np.ascontiguousarray(children.spectra[:, children.bands.index(band)]),
        children.templates,
        np.int32(int(MaskPlane.NO_DATA)),
        size,
        sheet,
        sheet_variance,
        sheet_mask,
    )
    return ChildStamps(
        image=sheet,
        variance=sheet_variance,
        mask=sheet_mask,
        offset_x=size // 2 - ix[index],
        offset_y=size // 2 + size * np.arange(n) - iy[index],
        size=size,
    )


def total_model(children: Children, *, band: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Sum of all children's models in one band.

    Parameters
    ----------
    children : Children
        The deblended sources.
    band : str
        Which column of the spectra.
    shape : (ny, nx)
        Pixels of the image.

    Returns
    -------
    (ny, nx) float32
        Zero where there is no source.
    """
    total = np.zeros(shape, np.float32)
    kernels.model_total(
        children.x0,
        children.y0,
        children.x1,
        children.y1,
        children.first,
        np.ascontiguousarray(children.spectra[:, children.bands.index(band)]),
        children.templates,
        total,
    )
    return total


def _nearest(v: NDArray[np.float64]) -> IntArray:
    return np.floor(np.asarray(v) + 0.5).astype(np.int64)


def _isolated(
    out: Children, labels: NDArray[np.int32], boxes: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Boxes and templates of the footprints with one peak."""
    alone = np.flatnonzero(out.n_siblings == 1)
    box = boxes[out.label[alone] - 1].astype(np.int64).reshape(-1, 4)
    out.x0[alone], out.y0[alone], out.x1[alone], out.y1[alone] = box.T
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    first = np.concatenate([[0], np.cumsum(area)])
    out.first[alone] = first[:-1]
    templates = np.empty(first[-1], np.float32)
    kernels.footprint_templates(
        labels,
        out.label[alone],
        out.x0[alone],
        out.y0[alone],
        out.x1[alone],
        out.y1[alone],
        out.first[alone],
        templates,
    )
    return templates


def _split_parent(
    out: Children,
    members: IntArray,
    images: NDArray[np.float32],
    variances: NDArray[np.float32],
    labels: NDArray[np.int32],
    box: NDArray[np.int32],
    ix: IntArray,
    iy: IntArray,
    options: DeblendOptions,
) -> NDArray[np.float32]:
    """Templates and spectra of one footprint's children; writes into ``out``."""
    x0, y0, x1, y1 = (int(v) for v in box)
    cut = (slice(y0, y1), slice(x0, x1))
    inside = labels[cut] == out.label[members[0]]
    pixels, variance = images[:, *cut], variances[:, *cut]
    known = np.isfinite(pixels) & np.isfinite(variance) & (variance > 0)
    pixels = np.where(known & inside, pixels, np.float32(0.0)).astype(np.float32)
    weights = np.array(
        [1.0 / np.median(v[k]) if k.any() else 0.0 for v, k in zip(variance, known, strict=True)],
        np.float32,
    )
    # Weighting with 1/sigma gives each band the same noise in the sum.
    scale = np.sqrt(weights)
    white = np.tensordot(scale, pixels, axes=1).astype(np.float32)
    sigma = max(float(np.count_nonzero(weights)), 1.0) ** 0.5
    # The brightest comes first: it takes what is left over.
    members = members[np.argsort(-white[iy[members] - y0, ix[members] - x0], kind="stable")]
    cx, cy = ix[members] - x0, iy[members] - y0
    reach = np.maximum.reduce([cx, cy, x1 - x0 - 1 - cx, y1 - y0 - 1 - cy])
    radii = np.empty(members.size, np.int64)
    limit = np.float32(options.limit * sigma)
    kernels.template_radii(
        white, inside, cx, cy, limit, np.minimum(reach, options.max_radius), radii
    )
    radii[0] = reach[0]
    first = np.concatenate([[0], np.cumsum((2 * radii + 1) ** 2)])
    templates = np.zeros(first[-1], np.float32)
    spectra = np.zeros((members.size, images.shape[0]), np.float32)
    kernels.factorise(
        pixels,
        weights,
        white,
        inside,
        cx,
        cy,
        radii,
        first[:-1],
        options.iterations,
        options.relaxed,
        templates,
        spectra,
    )
    kernels.finish(inside, cx, cy, radii, first[:-1], templates)
    out.spectra[members] = spectra
    return _crop(out, members, x0 + cx, y0 + cy, radii, first, templates)


def _crop(
    out: Children,
    members: IntArray,
    cx: IntArray,
    cy: IntArray,
    radii: IntArray,
    first: IntArray,
    templates: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Cut the squares to the pixels that are not zero; writes boxes and places into ``out``."""
    parts = []
    position = 0
    for k, member in enumerate(members):
        size = 2 * radii[k] + 1
        square = templates[first[k] : first[k + 1]].reshape(size, size)
        rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
        part = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        out.y0[member] = cy[k] - radii[k] + rows[0]
        out.y1[member] = cy[k] - radii[k] + rows[-1] + 1
        out.x0[member] = cx[k] - radii[k] + columns[0]
        out.x1[member] = cx[k] - radii[k] + columns[-1] + 1
        out.first[member] = position
        position += part.size
        parts.append(part.ravel())
    return np.concatenate(parts)

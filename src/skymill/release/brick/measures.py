"""Models of all sources on all exposures, and the measures of the catalogue that need them.

For each source and band: chi-squared weighted with its profile, the light of neighbours in it, the
masked part of it, the part within the blob, and noise-equivalent areas.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from skymill.data.geometry import local_jacobian
from skymill.model.fit_image import FitImage
from skymill.model.forward import draw_patches
from skymill.model.sources import Sources
from skymill.release.brick._brick_kernels import nearest_numbers
from skymill.release.brick.mapping import STEP, PixelMap

__all__ = ["SourceMeasures", "brick_blobs", "model_images"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_NAMES = (
    "chi2_profile", "profile", "neighbours", "inside_share", "masked", "inside", "counts",
    "inverse_area", "inverse_blob_area", "area_weight",
)  # fmt: skip


@dataclass
class SourceMeasures:
    """Measures (n, n_band) of each source.

    Parameters
    ----------
    rchisq : float64
        Chi-squared a pixel, weighted with the profile.
    fracflux : float64
        Flux of others over the own one, weighted with the profile: 1 for an equal twin at the
        same place.
    fracmasked : float64
        Part of the profile in masked pixels, or outside of the blob.
    fracin : float64
        Part of the flux within the box of the blob.
    nea, blob_nea : float64 [arcsec2]
        Noise-equivalent area of the profile within the blob's box, and of the whole flux.
    """

    rchisq: Float64Array
    fracflux: Float64Array
    fracmasked: Float64Array
    fracin: Float64Array
    nea: Float64Array
    blob_nea: Float64Array


@dataclass
class _Patch:
    source: int
    x0: int
    y0: int
    pixels: Float32Array


class _Sums:
    """Sums over the exposures of a band, one column of each source."""

    def __init__(self, n: int, n_band: int) -> None:
        self.values = {name: np.zeros((n, n_band)) for name in _NAMES}

    def add(self, name: str, source: int, band: int, value: float) -> None:
        self.values[name][source, band] += value

    def measures(self) -> SourceMeasures:
        def ratio(upper: str, lower: str) -> Float64Array:
            low = self.values[lower]
            return np.divide(self.values[upper], low, out=np.zeros_like(low), where=low > 0)

        counts = np.maximum(self.values["counts"], 1e-9)
        return SourceMeasures(
            rchisq=ratio("chi2_profile", "profile"),
            fracflux=ratio("neighbours", "inside_share"),
            fracmasked=ratio("masked", "inside_share"),
            fracin=self.values["inside"] / counts,
            nea=ratio("area_weight", "inverse_area"),
            blob_nea=ratio("area_weight", "inverse_blob_area"),
        )


def brick_blobs(image: FitImage, blobs: NDArray[np.int32], mapping: PixelMap) -> NDArray[np.int32]:
    """Blob of each pixel of an exposure: that of the nearest pixel of the brick.

    Parameters
    ----------
    image : FitImage
        The exposure.
    blobs : (ny, nx) int32
        Number of the blob of each pixel of the brick; -1 outside of all.
    mapping : PixelMap
        Of the exposure.

    Returns
    -------
    (ny, nx) int32
        Numbers; -1 outside.
    """
    out = np.full(image.image.shape, -1, np.int32)
    if mapping:
        nearest_numbers(blobs, mapping.inverse, STEP, out)
    return out


def model_images(
    images: Sequence[FitImage],
    maps: Sequence[PixelMap],
    blobs: NDArray[np.int32],
    sources: Sources,
    blob_of: NDArray[np.int64],
    bands: Sequence[str],
) -> tuple[list[Float32Array], list[Float32Array], SourceMeasures]:
    """Models of all exposures, and the measures of all sources.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures.
    maps : sequence of PixelMap
        Of each exposure.
    blobs : (ny, nx) int32
        Number of the blob of each pixel of the brick.
    sources : Sources
        Fitted sources.
    blob_of : (n,) int64
        Their blobs.
    bands : sequence of str
        Columns of their fluxes.

    Returns
    -------
    models : list of (ny, nx) float32 [nanomaggy]
        All sources on each exposure.
    blob_models : list of (ny, nx) float32 [nanomaggy]
        Each source only within its own blob.
    measures : SourceMeasures
        The measures.
    """
    sums = _Sums(len(sources), len(bands))
    models, blob_models = [], []
    for image, mapping in zip(images, maps, strict=True):
        numbers = brick_blobs(image, blobs, mapping)
        total = np.zeros(image.image.shape, np.float32)
        limited = np.zeros_like(total)
        by_blob: dict[int, list[_Patch]] = defaultdict(list)
        for source, x0, y0, patch in draw_patches(sources, image, bands=bands):
            pixels = patch.astype(np.float32)
            h, w = pixels.shape
            at = np.s_[y0 : y0 + h, x0 : x0 + w]
            total[at] += pixels
            limited[at] += pixels * (numbers[at] == blob_of[source])
            by_blob[int(blob_of[source])].append(_Patch(source, x0, y0, pixels))
        _measure(image, numbers, by_blob, sources, list(bands).index(image.band), sums)
        models.append(total)
        blob_models.append(limited)
    return models, blob_models, sums.measures()


def _measure(
    image: FitImage,
    numbers: NDArray[np.int32],
    by_blob: dict[int, list[_Patch]],
    sources: Sources,
    band: int,
    sums: _Sums,
) -> None:
    """Add one exposure to the sums of its sources."""
    ny, nx = image.image.shape
    area = abs(float(np.linalg.det(local_jacobian(image.wcs, x=(nx - 1) / 2, y=(ny - 1) / 2)[0])))
    boxes = find_objects(numbers + 1)
    for blob, patches in by_blob.items():
        box = boxes[blob] if 0 <= blob < len(boxes) else None
        if box is None:
            continue
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        model = np.zeros((height, width))
        cut = []
        for patch in patches:
            found = _clip(patch, box)
            if found is not None:
                place, pixels = found
                model[place] += pixels
                cut.append((patch.source, place, pixels))
        error = image.inverse_error[box] * (numbers[box] == blob)
        chi = (image.image[box] - model) * error
        for source, place, pixels in cut:
            counts = abs(float(sources.flux[source, band]))
            _add_source(
                sums, source, band, pixels.astype(np.float64), counts,
                model[place], error[place], chi[place], area, image.sigma1,
            )  # fmt: skip


def _clip(
    patch: _Patch, box: tuple[slice, slice]
) -> tuple[tuple[slice, slice], Float32Array] | None:
    """The part of a patch within a box, and its place there."""
    h, w = patch.pixels.shape
    x0, x1 = max(patch.x0, box[1].start), min(patch.x0 + w, box[1].stop)
    y0, y1 = max(patch.y0, box[0].start), min(patch.y0 + h, box[0].stop)
    if x0 >= x1 or y0 >= y1:
        return None
    pixels = patch.pixels[y0 - patch.y0 : y1 - patch.y0, x0 - patch.x0 : x1 - patch.x0]
    top, left = box[0].start, box[1].start
    return (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)), pixels


def _add_source(
    sums: _Sums,
    source: int,
    band: int,
    pixels: Float64Array,
    counts: float,
    model: Float64Array,
    error: NDArray[np.float32],
    chi: Float64Array,
    area: float,
    sigma1: float,
) -> None:
    if counts <= 0:
        return
    size = np.abs(pixels)
    inside = abs(float(pixels.sum()))
    square = float((pixels**2).sum())
    if square <= 0 or inside <= 0:
        return
    share = inside / counts
    sums.add("chi2_profile", source, band, float((chi**2 * size).sum()) / counts)
    sums.add("profile", source, band, float((size * (error > 0)).sum()) / counts)
    sums.add("neighbours", source, band, share * float(((model - pixels) * size).sum()) / square)
    sums.add("inside_share", source, band, share)
    sums.add("masked", source, band, float(size[error == 0].sum()) / counts)
    sums.add("inside", source, band, inside)
    sums.add("counts", source, band, counts)
    weight = 1.0 / sigma1**2 if math.isfinite(sigma1) else 0.0
    sums.add("inverse_area", source, band, weight * square / inside**2 / area)
    sums.add("inverse_blob_area", source, band, weight * square / counts**2 / area)
    sums.add("area_weight", source, band, weight)

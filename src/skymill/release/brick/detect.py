"""Detection of sources on maps that are matched to a spectrum.

Each exposure is smoothed with its PSF and averaged into one map a band: the flux of a point source
at each pixel, with its inverse variance. Maps for single bands, a flat and a red spectrum are then
searched in turn; a peak counts if it rises above the saddle towards every source found before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_fill_holes,
    find_objects,
    label,
)

from skymill.model.fit_image import FitImage
from skymill.release.brick._brick_kernels import add_detection
from skymill.release.brick._detect_kernels import local_maxima, select_peaks
from skymill.release.brick.bits import Quality
from skymill.release.brick.filters import blurred, grow_mask
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.mapping import STEP, PixelMap

__all__ = ["DetectionMaps", "Detections", "detect", "detection_maps", "spectra"]

Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

#: Flux in r over the flux in a band, for a red spectrum.
_RED = {"u": 6.0, "g": 2.5, "r": 1.0, "i": 0.632, "z": 0.4, "Y": 0.35}
#: Pixels of the edge of an exposure that lose weight gradually.
_APODIZED = 10
#: Growth of the detected pixels, and distance between two sources [pixel].
_GROW, _EXCLUSION = 8, 4
_SADDLE_FRACTION, _SADDLE_MIN, _REACH = 0.1, 2.0, 50
_RING = (10, 20)


@dataclass
class DetectionMaps:
    """Flux of a point source at each pixel of the brick.

    Parameters
    ----------
    bands : tuple of str
        Bands.
    flux : (n_band, ny, nx) float32 [nanomaggy]
        Flux of a point source.
    weight : (n_band, ny, nx) float32 [1/nanomaggy2]
        Its inverse variance.
    saturated : (n_band, ny, nx) bool
        Pixels near saturated ones and bleed trails.
    """

    bands: tuple[str, ...]
    flux: Float32Array
    weight: Float32Array
    saturated: BoolArray


@dataclass
class Detections:
    """Sources that were found, and the pixels that they cover.

    Parameters
    ----------
    x, y : (n,) int64 [pixel]
        Places of the peaks.
    significance : (n,) float64
        Of the peak in the map that found it.
    flux : (n, n_band) float64 [nanomaggy]
        Values of the maps there.
    hot : (ny, nx) bool
        Pixels above the threshold in any map, grown and without holes.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    significance: NDArray[np.float64]
    flux: NDArray[np.float64]
    hot: BoolArray


def spectra(bands: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
    """Spectra to search for, in their order.

    Parameters
    ----------
    bands : sequence of str
        Bands that have exposures, from blue to red.

    Returns
    -------
    list of (str, dict of str to float)
        Name, and the flux of the reference band over that of each band.
    """
    out: list[tuple[str, dict[str, float]]] = [(b, {b: 1.0}) for b in reversed(bands)]
    if len(bands) > 1:
        out.append(("flat", dict.fromkeys(bands, 1.0)))
        out.append(("red", {b: _RED.get(b, 1.0) for b in bands}))
    return out


def detection_maps(
    images: Sequence[FitImage], grid: BrickGrid, maps: Sequence[PixelMap], bands: Sequence[str]
) -> DetectionMaps:
    """Average the smoothed exposures of each band.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures.
    grid : BrickGrid
        The brick.
    maps : sequence of PixelMap
        Of each exposure.
    bands : sequence of str
        Bands in their order; those without exposures are left out.

    Returns
    -------
    DetectionMaps
        The maps.
    """
    own = tuple(b for b in bands if any(im.band == b for im in images))
    total = np.zeros((len(own), *grid.shape), np.float32)
    weights = np.zeros_like(total)
    saturated = np.zeros(total.shape, bool)
    for image, mapping in zip(images, maps, strict=True):
        if not mapping:
            continue
        k = own.index(image.band)
        sigma = image.fwhm / 2.35
        norm = 1.0 / (2.0 * math.sqrt(math.pi) * sigma)
        flux, share = blurred(image.image, image.inverse_error > 0, sigma)
        core = (image.quality & int(Quality.SATUR | Quality.BLEED)) != 0
        grow_mask(core, 4)
        add_detection(
            flux, share, 1.0 / norm**2, (norm / image.sigma1) ** 2, image.inverse_error, core,
            float(_APODIZED), mapping.nodes, STEP, mapping.x0, mapping.y0, mapping.width,
            mapping.height, total[k], weights[k], saturated[k],
        )  # fmt: skip
    np.divide(total, weights, out=total, where=weights > 0)
    return DetectionMaps(own, total, weights, saturated)


def _matched(maps: DetectionMaps, ratio: Mapping[str, float]) -> Float32Array:
    """Significance of a source of one spectrum."""
    total = np.zeros(maps.flux.shape[1:], np.float32)
    weight = np.zeros_like(total)
    for k, band in enumerate(maps.bands):
        if band in ratio:
            total += maps.flux[k] * maps.weight[k] / np.float32(ratio[band])
            weight += maps.weight[k] / np.float32(ratio[band] ** 2)
    np.sqrt(weight, out=weight)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _disc(mask: BoolArray, x: float, y: float, radius: float) -> None:
    ny, nx = mask.shape
    x0, x1 = max(0, math.floor(x - radius)), min(nx, math.ceil(x + radius) + 1)
    y0, y1 = max(0, math.floor(y - radius)), min(ny, math.ceil(y + radius) + 1)
    if x0 < x1 and y0 < y1:
        dx, dy = np.arange(x0, x1)[None, :] - x, np.arange(y0, y1)[:, None] - y
        mask[y0:y1, x0:x1] |= dx**2 + dy**2 <= radius**2


def _merge_saturated(sn: Float32Array, saturated: BoolArray) -> Float32Array:
    """Make each saturated region one hill, as high as its surroundings, with its top inside."""
    labels, n = label(saturated, np.ones((3, 3)))
    if n == 0:
        return sn
    out = sn.copy()
    for k, box in enumerate(find_objects(labels), start=1):
        inside = labels[box] == k
        rows, columns = np.nonzero(inside)
        distance = np.hypot(rows - rows.mean(), columns - columns.mean())
        height = float(sn[box][inside].max())
        if height > 0:
            slope = 1.0 + 1e-3 * (1.0 - distance / (distance.max() + 1.0))
            out[box][inside] = height * slope
    return out


def detect(
    maps: DetectionMaps,
    *,
    n_sigma: float,
    known_x: NDArray[np.float64],
    known_y: NDArray[np.float64],
    avoid: BoolArray,
) -> Detections:
    """Find the sources of a brick.

    Parameters
    ----------
    maps : DetectionMaps
        The maps.
    n_sigma : float
        Threshold.
    known_x, known_y : (n,) float64 [pixel]
        Sources that are known already.
    avoid : (ny, nx) bool
        Where nothing is looked for.

    Returns
    -------
    Detections
        New sources, without the known ones.
    """
    shape = maps.flux.shape[1:]
    known = np.zeros(shape, bool)
    blocked = avoid.copy()
    for x, y in zip(known_x, known_y, strict=True):
        _disc(known, float(x), float(y), 0.75)
        _disc(blocked, float(x), float(y), _EXCLUSION)
    hot = np.zeros(shape, bool)
    saturated = maps.saturated.any(axis=0)
    found: list[tuple[int, int, float]] = []
    for _, ratio in spectra(maps.bands):
        sn = _matched(maps, ratio)
        hot |= sn > n_sigma
        sn = _merge_saturated(sn, saturated)
        found += _new_peaks(sn, n_sigma, known, blocked)
    x = np.array([f[0] for f in found], np.int64)
    y = np.array([f[1] for f in found], np.int64)
    return Detections(
        x=x,
        y=y,
        significance=np.array([f[2] for f in found]),
        flux=maps.flux[:, y, x].T.astype(np.float64).reshape(len(found), len(maps.bands)),
        hot=grow_hot(hot),
    )


def grow_hot(hot: BoolArray) -> BoolArray:
    """Detected pixels grown by 8 pixels, with their holes filled."""
    if not hot.any():
        return hot
    grown = hot.copy()
    grow_mask(grown, _GROW)
    return np.asarray(binary_fill_holes(grown))


def _new_peaks(
    sn: Float32Array, n_sigma: float, known: BoolArray, blocked: BoolArray
) -> list[tuple[int, int, float]]:
    peaks = np.empty((max(16, sn.size // 9 + 1), 2), np.int64)
    n = local_maxima(sn, n_sigma, peaks)
    peaks = peaks[:n]
    order = np.argsort(-sn[peaks[:, 0], peaks[:, 1]], kind="stable")
    peaks = np.ascontiguousarray(peaks[order])
    kept = np.zeros(n, bool)
    select_peaks(
        sn, peaks, known, blocked, _SADDLE_FRACTION, _SADDLE_MIN, _REACH, *_RING, n_sigma, kept
    )
    out = [(int(x), int(y), float(sn[y, x])) for y, x in peaks[kept]]
    for x, y, _ in out:
        _disc(blocked, x, y, _EXCLUSION)
    return out

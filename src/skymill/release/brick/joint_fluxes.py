"""Fluxes of all sources of a brick at once, when all of them have their models.

The fits of a blob know nothing of the light that reaches it from other blobs, and the flux of a
source is that of a time when its neighbours had other models. Positions and shapes stay; the fluxes
take one step of Gauss and Newton with the light of all other sources on the exposures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import spsolve

from skymill.model.fit_image import FitImage
from skymill.model.forward import draw_patches
from skymill.model.sources import Sources
from skymill.release.brick._flux_kernels import normal_terms
from skymill.release.brick.mapping import PixelMap
from skymill.release.brick.measures import brick_blobs

__all__ = ["expected_weights", "joint_fluxes"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

#: Part of the diagonal that is added to it: sources at nearly one place do not run away.
_DAMPING = 0.2
#: Models above this multiple of the typical noise tell the photon noise of their counts.
_BRIGHT = 3.0
#: Residuals beyond this multiple of the noise are none of photons.
_LARGEST = 5.0


def expected_weights(image: FitImage, model: Float32Array) -> Float32Array:
    """Weights with the photon noise of the model instead of that of the counts.

    The variance of the community pipelines holds the counts of its own pixel: of a star's core,
    pixels that are low by chance weigh more, and its flux comes out too low.

    Parameters
    ----------
    image : FitImage
        An exposure.
    model : (ny, nx) float32 [nanomaggy]
        All sources on it.

    Returns
    -------
    (ny, nx) float32 [1/nanomaggy2]
        Inverse variances; 0 where masked.
    """
    good = image.inverse_error > 0
    weight = image.inverse_error**2
    bright = good & (model > _BRIGHT * image.sigma1)
    if not bright.any():
        return weight
    variance = np.divide(1.0, weight, out=np.zeros_like(weight), where=good)
    light, plain = model[bright].astype(np.float64), float(np.median(variance[good]))
    slope = max(0.0, float((light * (variance[bright] - plain)).sum() / (light**2).sum()))
    photons = bright & (np.abs(image.image - model) * image.inverse_error < _LARGEST)
    expected = plain + np.float32(slope) * model[photons]
    variance[photons] = np.clip(expected, 0.25 * variance[photons], 4.0 * variance[photons])
    return np.divide(1.0, variance, out=np.zeros_like(weight), where=good)


def joint_fluxes(
    images: Sequence[FitImage],
    maps: Sequence[PixelMap],
    blobs: NDArray[np.int32],
    sources: Sources,
    blob_of: NDArray[np.int64],
    bands: Sequence[str],
    *,
    fixed: NDArray[np.bool_],
) -> Float64Array:
    """Fluxes with the light of all other sources taken into account.

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
    fixed : (n,) bool
        Sources that keep their fluxes.

    Returns
    -------
    (n, n_band) float64 [nanomaggy]
        The fluxes; zero where they were zero.
    """
    out = sources.flux.copy()
    for k, band in enumerate(bands):
        rows, columns, values = [], [], []
        gradient = np.zeros(len(sources))
        for image, mapping in zip(images, maps, strict=True):
            if image.band == band:
                numbers = brick_blobs(image, blobs, mapping)
                pairs, sums = _add(image, numbers, sources, blob_of, bands, gradient)
                rows.append(pairs[:, 0])
                columns.append(pairs[:, 1])
                values.append(sums)
        if rows:
            upper = csc_array(
                (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
                shape=(len(sources), len(sources)),
            )
            out[:, k] += _step(upper, gradient, fixed)
    return out


def _add(
    image: FitImage,
    numbers: NDArray[np.int32],
    sources: Sources,
    blob_of: NDArray[np.int64],
    bands: Sequence[str],
    gradient: Float64Array,
) -> tuple[NDArray[np.int64], Float64Array]:
    """One exposure's part of the normal equations."""
    flux = sources.flux[:, list(bands).index(image.band)]
    model = np.zeros(image.shape, np.float32)
    index, boxes, patches = [], [], []
    for source, x0, y0, patch in draw_patches(sources, image, bands=bands):
        height, width = patch.shape
        model[y0 : y0 + height, x0 : x0 + width] += patch.astype(np.float32)
        index.append(source)
        boxes.append((x0, y0, width, height))
        patches.append((patch / flux[source]).ravel())
    if not index:
        return np.empty((0, 2), np.int64), np.empty(0)
    order = np.argsort(blob_of[index], kind="stable")
    own = np.array(index, np.int64)[order]
    sizes = np.array([patches[i].size for i in order], np.int64)
    part = np.empty(len(index))
    pairs, sums = normal_terms(
        np.concatenate([patches[i] for i in order]), np.cumsum(sizes) - sizes,
        np.array(boxes, np.int64)[order], blob_of[own], numbers, image.image - model,
        expected_weights(image, model), part,
    )  # fmt: skip
    gradient[own] += part
    return own[pairs], sums


def _step(upper: csc_array, gradient: Float64Array, fixed: NDArray[np.bool_]) -> Float64Array:
    """Changes of the fluxes; 0 where nothing is known or wanted."""
    out = np.zeros(gradient.size)
    free = np.flatnonzero((upper.diagonal() > 0) & ~fixed)
    if free.size:
        half = upper[free][:, free]
        diagonal = half.diagonal()
        matrix = half + half.T
        # The diagonal was counted twice.
        matrix.setdiag((1.0 + _DAMPING) * diagonal)
        out[free] = spsolve(matrix.tocsc(), gradient[free])
    return out

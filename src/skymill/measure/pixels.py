"""Which pixels a measurement may use, the same for every measurement."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError
from skymill.data.masks import UNUSABLE, MaskPlane

__all__ = [
    "REPAIRED",
    "SATURATED",
    "UNUSABLE_BITS",
    "check_planes",
    "check_positions",
    "clean_image",
]

#: Bits as numba wants them.
UNUSABLE_BITS = np.int32(int(UNUSABLE))
REPAIRED = np.int32(int(MaskPlane.INTRP))
SATURATED = np.int32(int(MaskPlane.SAT))


def check_planes(
    image: NDArray[np.float32], variance: NDArray[np.float32], mask: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Contiguous planes of the types that the kernels take.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels and their variance.
    mask : (ny, nx) int32
        Mask bits.

    Returns
    -------
    image, variance, mask
        The same arrays, converted only where needed.

    Raises
    ------
    DataError
        If the shapes differ.
    """
    if not image.shape == variance.shape == mask.shape:
        raise DataError(
            "image, variance and mask must have one shape; got "
            f"{image.shape}, {variance.shape}, {mask.shape}"
        )
    return (
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(mask, np.int32),
    )


def check_positions(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions as the kernels take them.

    Parameters
    ----------
    x, y : (n,) or scalar float [pixel]
        Positions.

    Returns
    -------
    x, y : (n,) float64 [pixel]
        Contiguous.

    Raises
    ------
    DataError
        If the shapes differ.
    """
    x_ = np.ascontiguousarray(np.atleast_1d(x), np.float64)
    y_ = np.ascontiguousarray(np.atleast_1d(y), np.float64)
    if x_.shape != y_.shape or x_.ndim != 1:
        raise DataError(f"x and y must have one shape (n,); got {x_.shape}, {y_.shape}")
    return x_, y_


def clean_image(
    image: NDArray[np.float32], mask: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The image with zeros where a pixel has no value that a fit may use.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels.
    mask : (ny, nx) int32
        Mask bits. A pixel that was interpolated has a value.

    Returns
    -------
    clean : (ny, nx) float32
        Zero at unusable pixels.
    mask : (ny, nx) int32
        The mask, with UNMASKEDNAN set at values that are not finite.
    """
    finite = np.isfinite(image)
    if not finite.all():
        mask = np.where(
            finite, mask, (mask | np.int32(int(MaskPlane.UNMASKEDNAN))) & ~REPAIRED
        ).astype(np.int32)
    bad = ((mask & UNUSABLE_BITS) != 0) & ((mask & REPAIRED) == 0)
    return np.where(bad, np.float32(0.0), image), mask

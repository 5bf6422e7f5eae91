"""Saturated stars: one peak for each of them, and their centres from the light around the core."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label

from skymill.data.masks import MaskPlane
from skymill.data.protocols import Psf
from skymill.measure.psf_flux import draw_at

__all__ = ["fill_saturated", "fit_centres"]

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

_SAT = np.int32(int(MaskPlane.SAT))
_ABSENT = np.int32(int(MaskPlane.INTRP | MaskPlane.NO_DATA | MaskPlane.UNMASKEDNAN))
_EIGHT = np.ones((3, 3), np.int32)
#: A core is at least so thick; trails that bleed out of it are thinner.
_LEAST_RADIUS = 2.0
_MORE_CORES = 0.7


def fill_saturated(image: Float32Array, mask: NDArray[np.int32]) -> Float32Array:
    """Give the cores of saturated stars a summit, so that each of them is one peak.

    Parameters
    ----------
    image : (ny, nx) float32
        Pixels.
    mask : (ny, nx) int32
        Mask bits. A pixel belongs to a core if it is saturated and has no value of its own.

    Returns
    -------
    (ny, nx) float32
        The image itself if nothing is saturated, else a copy in which a cone stands on each core,
        with its foot at the brightest pixel of the core's rim and its top where the core is
        thickest. For finding peaks, not for measuring.
    """
    core = ((mask & _SAT) != 0) & ((mask & _ABSENT) != 0)
    labels, count = label(core, structure=_EIGHT)
    if count == 0:
        return image
    out = image.copy()
    ny, nx = image.shape
    for number, box in enumerate(find_objects(labels), start=1):
        rows = slice(max(0, box[0].start - 3), min(ny, box[0].stop + 3))
        columns = slice(max(0, box[1].start - 3), min(nx, box[1].stop + 3))
        _raise_core(out[rows, columns], labels[rows, columns] == number)
    return out


def _raise_core(image: Float32Array, core: NDArray[np.bool_]) -> None:
    """Put a cone on each thick part of one connected core, in place."""
    # The frame counts as unsaturated: a core cut by the edge of the image has its top inside.
    depth = distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1]
    first = float(depth.max())
    v, u = np.mgrid[: core.shape[0], : core.shape[1]]
    rest = depth.copy()
    while rest.max() >= max(_LEAST_RADIUS, _MORE_CORES * first):
        radius = float(rest.max())
        top = rest >= radius - 0.5
        # Only the top's own surroundings: two cores of one thickness are two.
        top_y, top_x = np.unravel_index(int(np.argmax(rest)), rest.shape)
        top &= np.hypot(v - top_y, u - top_x) <= radius
        y, x = float(v[top].mean()), float(u[top].mean())
        distance = np.hypot(v - y, u - x)
        reach = 1.5 * radius + 2.0
        near = distance <= reach
        rim = image[near & np.isfinite(image)]
        foot = float(rim.max()) if rim.size else 0.0
        cone = (foot * (1.0 + (1.0 - distance / reach))).astype(np.float32)
        raised = near & core
        image[raised] = np.fmax(image[raised], cone[raised])
        rest[distance <= 2.0 * radius] = 0.0


def fit_centres(
    image: Float32Array,
    variance: Float32Array,
    good: NDArray[np.bool_],
    *,
    x: Float64Array,
    y: Float64Array,
    stamp_x: Float64Array,
    stamp_y: Float64Array,
    psf: Psf,
    reach: int = 15,
    max_shift: float = 4.0,
    iterations: int = 12,
) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array, NDArray[np.bool_]]:
    """Centres of stars whose core has no pixel, by fitting the PSF to those around it.

    Parameters
    ----------
    image, variance : (ny, nx) float32
        Pixels and their variance, or a sheet of stamps.
    good : (ny, nx) bool
        Pixels that may be used.
    x, y : (n,) float64 [pixel]
        First guesses in the coordinates of the PSF.
    stamp_x, stamp_y : (n,) float64 [pixel]
        The same in ``image``.
    psf : Psf
        The model.
    reach : int [pixel]
        Half width of the fit.
    max_shift : float [pixel]
        Distance from the first guess that is believed.
    iterations : int
        Gauss-Newton steps.

    Returns
    -------
    dx, dy, dx_err, dy_err : (n,) float64 [pixel]
        Shifts from the first guesses and their errors.
    done : (n,) bool
        Whether the fit converged; the shift is zero where it did not.
    """
    n = x.size
    size = 2 * min(reach, psf.stamp_size // 2) + 1
    shift, error = np.zeros((n, 2)), np.full((n, 2), np.nan)
    done = np.zeros(n, bool)
    shift_x, shift_y = np.round(stamp_x - x), np.round(stamp_y - y)
    active = np.arange(n)
    for _ in range(iterations):
        if active.size == 0:
            break
        px, py = x[active] + shift[active, 0], y[active] + shift[active, 1]
        stamps, ix, iy = draw_at(psf, x=px, y=py, size=size)
        ix, iy = ix + shift_x[active].astype(int), iy + shift_y[active].astype(int)
        still = np.ones(active.size, bool)
        for i, k in enumerate(active):
            step, step_err = _step(image, variance, good, stamps[i], int(ix[i]), int(iy[i]))
            moved = shift[k] + np.clip(step, -1.0, 1.0)
            if not np.hypot(moved[0], moved[1]) <= max_shift:
                still[i] = False
                continue
            shift[k], error[k] = moved, step_err
            if np.abs(step).max() < 1e-2:
                done[k], still[i] = True, False
        active = active[still]
    shift[~done], error[~done] = 0.0, np.nan
    return shift[:, 0], shift[:, 1], error[:, 0], error[:, 1], done


def _step(
    image: Float32Array,
    variance: Float32Array,
    good: NDArray[np.bool_],
    stamp: Float32Array,
    ix: int,
    iy: int,
) -> tuple[Float64Array, Float64Array]:
    """Least-squares shift (x, y) of a star from its model, and its error; NaN if undefined."""
    undefined = np.full(2, np.nan), np.full(2, np.nan)
    half = stamp.shape[0] // 2
    if not np.isfinite(stamp).all():
        return undefined
    y0, x0 = iy - half, ix - half
    rows = slice(max(0, y0), min(image.shape[0], y0 + stamp.shape[0]))
    columns = slice(max(0, x0), min(image.shape[1], x0 + stamp.shape[1]))
    inside = (
        slice(rows.start - y0, rows.stop - y0),
        slice(columns.start - x0, columns.stop - x0),
    )
    used = good[rows, columns] & (variance[rows, columns] > 0)
    slope_y, slope_x = (np.asarray(a)[inside][used] for a in np.gradient(stamp.astype(float)))
    model = stamp[inside][used].astype(np.float64)
    data, noise = image[rows, columns][used].astype(np.float64), variance[rows, columns][used]
    if data.size < 20 or not (model @ model > 0):
        return undefined
    flux = float(model @ data / (model @ model))
    if not flux > 0:
        return undefined
    # No PSF is known to better than some per cent: the rim of the core must not decide alone.
    weight = 1.0 / np.sqrt(noise + (0.05 * flux * model) ** 2)
    design = np.stack([model, -flux * slope_x, -flux * slope_y], axis=1) * weight[:, None]
    normal = design.T @ design
    if np.linalg.cond(normal / np.outer(*(np.sqrt(np.diag(normal)),) * 2)) > 1e8:
        return undefined
    covariance = np.linalg.inv(normal)
    solution = covariance @ (design.T @ (data * weight))
    return solution[1:], np.sqrt(np.diag(covariance))[1:]

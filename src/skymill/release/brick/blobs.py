"""Blobs: connected pixels with the sources in them, and their fits one by one or in parallel."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label

import skymill
from skymill.data.errors import NoDataError, SkymillError
from skymill.model.blob import Blob, BlobFit, FitOptions, fit_blob
from skymill.model.fit_image import FitImage
from skymill.model.sources import Sources, SourceType
from skymill.release.brick.checkpoint import Checkpoint, digest
from skymill.release.brick.detect import DetectionMaps, Detections, detect, detection_maps
from skymill.release.brick.filters import grow_mask
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.halos import epoch_mjd
from skymill.release.brick.mapping import map_pixels
from skymill.release.brick.options import BrickOptions
from skymill.release.brick.reference_sources import ReferenceMasks
from skymill.release.brick.sub_blobs import MARGIN, Division

__all__ = [
    "BlobRun",
    "StartSources",
    "StoppedError",
    "blob_jobs",
    "find_more",
    "fit_blobs",
    "label_blobs",
    "start_sources",
]

_LOG = logging.getLogger(__name__)

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: A source of the second search must have this part of the signal-to-noise ratio of the models.
_RESIDUAL_FRACTION = 0.2
#: Version of the fit: a change makes old checkpoints stale.
_FIT_VERSION = 2


class StoppedError(SkymillError, RuntimeError):
    """A signal asked the brick to stop; its finished blobs are kept."""


@dataclass
class StartSources:
    """Sources of a brick before the fit.

    Parameters
    ----------
    x, y : (n,) float64 [pixel]
        Places on the brick.
    reference : (n,) int64
        Row of the reference sources; -1 for detected ones.
    blob : (n,) int64
        Number of the blob.
    sources : Sources
        Positions, first fluxes and shapes.
    """

    x: Float64Array
    y: Float64Array
    reference: NDArray[np.int64]
    blob: NDArray[np.int64]
    sources: Sources

    def at(self, index: Any) -> StartSources:
        """Some of the sources."""
        return StartSources(
            self.x[index], self.y[index], self.reference[index], self.blob[index],
            self.sources.at(index),
        )  # fmt: skip


def label_blobs(
    hot: BoolArray, x: Float64Array, y: Float64Array
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the connected regions that hold a source.

    Parameters
    ----------
    hot : (ny, nx) bool
        Detected pixels; those of the sources are added.
    x, y : (n,) float64 [pixel]
        Sources on the image.

    Returns
    -------
    blobs : (ny, nx) int32
        Number of the blob of each pixel, the largest is 0; -1 outside.
    number : (n,) int64
        Blob of each source.
    """
    ny, nx = hot.shape
    column = np.clip(np.floor(x + 0.5).astype(int), 0, nx - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, ny - 1)
    lonely = ~hot[row, column]
    if lonely.any():
        seeds = np.zeros_like(hot)
        seeds[row[lonely], column[lonely]] = True
        grow_mask(seeds, 8)
        hot = hot | seeds
    labels, n = label(hot)
    used = np.unique(labels[row, column])
    size = np.bincount(labels.ravel(), minlength=n + 1)
    order = used[np.lexsort((used, -size[used]))]
    number = np.full(n + 1, -1, np.int32)
    number[order] = np.arange(order.size)
    number[0] = -1
    blobs = number[labels]
    return blobs, blobs[row, column].astype(np.int64)


def start_sources(
    grid: BrickGrid,
    bands: Sequence[str],
    found_bands: Sequence[str],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    flux: Float64Array,
    references: Table,
) -> StartSources:
    """Detected and reference sources as the fit begins.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    bands, found_bands : sequence of str
        Bands of the catalogue; bands of ``flux``.
    x, y : (n,) int64 [pixel]
        Detected peaks.
    flux : (n, n_found) float64 [nanomaggy]
        Their fluxes.
    references : Table
        Reference sources; those on the image that are fitted come first.

    Returns
    -------
    StartSources
        All of them; blobs are -1.
    """
    rows = np.flatnonzero(
        np.asarray(references["in_bounds"], bool) & ~np.asarray(references["do_not_fit"], bool)
    )
    m, n = rows.size, x.size
    fluxes = np.zeros((m + n, len(bands)))
    for k, band in enumerate(found_bands):
        fluxes[m:, list(bands).index(band)] = flux[:, k]
    kind = np.zeros(m + n, np.int8)
    radius, e1, e2 = np.zeros(m + n), np.zeros(m + n), np.zeros(m + n)
    for k, row in enumerate(rows):
        entry = references[int(row)]
        for j, band in enumerate(bands):
            magnitude = float(entry[f"mag_{band}"]) if f"mag_{band}" in references.colnames else 20
            fluxes[k, j] = 10.0 ** (0.4 * (22.5 - min(magnitude, 25.0)))
        if entry["is_galaxy"]:
            kind[k] = int(SourceType.EXP)
            radius[k] = max(0.5, float(entry["radius"]) * 3600.0 / 2.0)
            ratio, angle = float(entry["axis_ratio"]), np.radians(float(entry["position_angle"]))
            e = (1.0 - ratio) / (1.0 + ratio)
            e1[k], e2[k] = e * np.cos(2 * angle), e * np.sin(2 * angle)
    px = np.concatenate([np.asarray(references["x"])[rows], x.astype(float)])
    py = np.concatenate([np.asarray(references["y"])[rows], y.astype(float)])
    ra, dec = grid.wcs.pixel_to_sky(x=px, y=py)
    if m:
        ra[:m] = np.asarray(references["ra"])[rows]
        dec[:m] = np.asarray(references["dec"])[rows]
    moving = {name: np.zeros(m + n) for name in ("pm_ra", "pm_dec", "epoch")}
    if m:
        moving["pm_ra"][:m] = np.asarray(references["pmra"], float)[rows]
        moving["pm_dec"][:m] = np.asarray(references["pmdec"], float)[rows]
        moving["epoch"][:m] = epoch_mjd(np.asarray(references["ref_epoch"], float)[rows])
    return StartSources(
        x=px,
        y=py,
        reference=np.concatenate([rows, np.full(n, -1)]).astype(np.int64),
        blob=np.full(m + n, -1, np.int64),
        sources=Sources.create(
            ra=ra, dec=dec, flux=fluxes, kind=kind, radius=radius, e1=e1, e2=e2, **moving
        ),
    )


def blob_jobs(
    grid: BrickGrid,
    division: Division,
    start: StartSources,
    references: Table,
    masks: ReferenceMasks,
) -> Iterator[tuple[Blob, NDArray[np.int64]]]:
    """The blobs of a brick, the largest first.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    division : Division
        Blobs of `label_blobs`, and the parts of large ones.
    start : StartSources
        With their blobs or parts.
    references : Table
        Reference sources.
    masks : ReferenceMasks
        Where bright stars and large galaxies are.

    Yields
    ------
    blob : Blob
        Pixels and sources.
    index : (k,) int64
        Rows of ``start`` of these sources; for a part with those of its margin.
    """
    blobs = division.numbers
    # Once: a view of an own array would keep it for each blob.
    avoid = masks.bright | masks.medium | masks.galaxy
    by_blob = np.argsort(start.blob, kind="stable")
    numbers, first = np.unique(start.blob[by_blob], return_index=True)
    groups = np.split(by_blob, first[1:])
    boxes = find_objects(blobs + 1)
    column = np.clip(np.floor(start.x + 0.5).astype(int), 0, grid.width - 1)
    row = np.clip(np.floor(start.y + 0.5).astype(int), 0, grid.height - 1)
    bright, medium = masks.bright[row, column], masks.medium[row, column]
    galaxy, cluster = masks.galaxy[row, column], masks.cluster[row, column]
    is_reference = start.reference >= 0
    point = np.zeros(start.x.size, bool)
    large = np.zeros(start.x.size, bool)
    if is_reference.any():
        rows = start.reference[is_reference]
        point[is_reference] = np.asarray(references["is_point"], bool)[rows]
        large[is_reference] = np.asarray(references["is_galaxy"], bool)[rows]
    for number, index in zip(numbers, groups, strict=True):
        box = boxes[number] if number >= 0 else None
        if box is None:
            continue
        inside = blobs[box] == number
        if division.is_part(int(number)):
            box = _with_margin(box, blobs.shape)
            inside = division.whole(blobs[box]) == division.parent[number]
            near = (row >= box[0].start) & (row < box[0].stop)
            near &= (column >= box[1].start) & (column < box[1].stop)
            near &= division.whole(start.blob) == division.parent[number]
            index = np.flatnonzero(near)
        yield (
            Blob(
                id=int(number),
                brick_wcs=grid.wcs,
                x0=box[1].start,
                y0=box[0].start,
                mask=inside,
                sources=start.sources.at(index),
                # Gaia knows positions better, also that of the core of a galaxy.
                fixed_position=(is_reference & ~large)[index],
                fixed_type=point[index],
                is_reference=is_reference[index],
                force_point=(bright | galaxy | cluster)[index] & ~large[index],
                is_large_galaxy=large[index],
                fit_background=(bright | medium | galaxy | cluster)[index] & ~large[index],
                # Residuals of bright stars and large galaxies are no sources.
                avoid=avoid[box],
            ),
            index,
        )


def _with_margin(box: tuple[slice, slice], shape: tuple[int, int]) -> tuple[slice, slice]:
    rows, columns = (
        slice(max(0, side.start - MARGIN), min(n, side.stop + MARGIN))
        for side, n in zip(box, shape, strict=True)
    )
    return rows, columns


def _box_grid(grid: BrickGrid, blob: Blob) -> BrickGrid:
    height, width = blob.mask.shape
    return replace(grid, wcs=grid.wcs.shifted(dx=blob.x0, dy=blob.y0), width=width, height=height)


def _highest(maps: DetectionMaps, found: Detections) -> Float64Array:
    """Largest signal-to-noise ratio (or 0) of any band at the places of sources."""
    flux, weight = (plane[:, found.y, found.x] for plane in (maps.flux, maps.weight))
    # No band at all where a reference star lies beside the exposures.
    return np.asarray((flux * np.sqrt(weight)).max(axis=0, initial=0.0), np.float64)


def find_more(
    grid: BrickGrid, bands: Sequence[str], n_sigma: float
) -> Callable[[Sequence[FitImage], Sequence[FitImage], Blob], Sources]:
    """The search for sources in the residuals of a blob.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    bands : sequence of str
        Bands of the catalogue.
    n_sigma : float
        Threshold.

    Returns
    -------
    callable
        As `skymill.model.blob.FindMore` describes.
    """

    def search(residuals: Sequence[FitImage], models: Sequence[FitImage], blob: Blob) -> Sources:
        own = _box_grid(grid, blob)
        maps = [map_pixels(image, own) for image in residuals]
        rest = detection_maps(residuals, own, maps, bands)
        light = detection_maps(models, own, maps, bands)
        x, y = own.wcs.sky_to_pixel(ra=blob.sources.ra, dec=blob.sources.dec)
        on = own.contains(x, y)
        avoid = ~blob.mask if blob.avoid is None else ~blob.mask | blob.avoid
        found = detect(
            rest, n_sigma=n_sigma, known_x=x[on], known_y=y[on],
            avoid=avoid | rest.saturated.any(axis=0),
        )  # fmt: skip
        keep = _highest(rest, found) > _RESIDUAL_FRACTION * np.maximum(_highest(light, found), 1.0)
        ra, dec = own.wcs.pixel_to_sky(x=found.x[keep].astype(float), y=found.y[keep].astype(float))
        flux = np.zeros((int(keep.sum()), len(bands)))
        for k, band in enumerate(rest.bands):
            flux[:, list(bands).index(band)] = found.flux[keep, k]
        return Sources.create(ra=ra, dec=dec, flux=flux)

    return search


@dataclass
class BlobRun:
    """Results of all blobs of a brick.

    Parameters
    ----------
    fits : dict of int to BlobFit
        By number of the blob.
    origins : dict of int to (k,) int64
        Rows of the start sources that were given to each blob.
    skipped : list of int
        Blobs that were not fitted.
    n_resumed : int
        Blobs that came from the checkpoint.
    notes : list of str
        Sentences about what went wrong.
    """

    fits: dict[int, BlobFit] = field(default_factory=dict)
    origins: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    skipped: list[int] = field(default_factory=list)
    n_resumed: int = 0
    notes: list[str] = field(default_factory=list)


def blob_key(grid: BrickGrid, blob: Blob, options: BrickOptions, images: bytes) -> bytes:
    """What the result of a blob depends on, as 32 bytes."""
    flags = [
        np.asarray(getattr(blob, name))
        for name in ("fixed_position", "fixed_type", "is_reference", "force_point",
                     "is_large_galaxy", "fit_background", "avoid")
    ]  # fmt: skip
    start = blob.sources
    return digest(
        skymill.__version__, _FIT_VERSION, grid.name, blob.id, blob.x0, blob.y0, blob.mask,
        json.dumps(options.science(), sort_keys=True), images,
        start.kind, start.ra, start.dec, start.flux, start.radius, start.e1, start.e2,
        start.pm_ra, start.pm_dec, start.epoch, *flags,
    )  # fmt: skip


def images_digest(images: Sequence[FitImage]) -> bytes:
    """A key of the exposures: their names, places and calibration."""
    parts: list[Any] = []
    for image in images:
        parts += [image.camera, image.exposure, image.ccd, image.x0, image.y0, image.image.shape]
        parts += [round(image.sigma1, 9), float(image.inverse_error.sum(dtype=np.float64))]
        parts.append(float(image.image.sum(dtype=np.float64)))
    return digest(*parts)


_WORK: dict[str, Any] = {}


def _fit_one(blob: Blob) -> dict[str, NDArray[Any]]:
    fit = fit_blob(_WORK["images"], blob, _WORK["options"], find_more=_WORK["search"])
    return fit.to_arrays()


class _Stop:
    """Notes SIGTERM and SIGUSR1, so that the fits end between two blobs."""

    def __init__(self) -> None:
        self.signal = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGUSR1):
                self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        self.signal = number


def fit_blobs(
    images: Sequence[FitImage],
    grid: BrickGrid,
    jobs: Sequence[tuple[Blob, NDArray[np.int64]]],
    options: BrickOptions,
    checkpoint: Checkpoint,
) -> BlobRun:
    """Fit every blob that the checkpoint does not hold.

    Parameters
    ----------
    images : sequence of FitImage
        Exposures.
    grid : BrickGrid
        The brick.
    jobs : sequence of (Blob, index)
        Of `blob_jobs`.
    options : BrickOptions
        Threads, bail-out.
    checkpoint : Checkpoint
        Receives each blob when it is finished.

    Returns
    -------
    BlobRun
        The results; they do not depend on the number of threads.

    Raises
    ------
    StoppedError
        After SIGTERM or SIGUSR1.
    """
    run = BlobRun()
    key_of_images = images_digest(images)
    waiting: list[tuple[bytes, Blob]] = []
    for blob, index in jobs:
        run.origins[blob.id] = index
        key = blob_key(grid, blob, options, key_of_images)
        known = checkpoint.get(key)
        if known is not None:
            run.fits[blob.id] = BlobFit.from_arrays(known)
            run.n_resumed += 1
        elif options.bail_out or 0 < options.max_blob_pixels < int(blob.mask.sum()):
            run.skipped.append(blob.id)
        else:
            waiting.append((key, blob))
    if checkpoint.notes:
        run.notes += checkpoint.notes
    if not waiting:
        return run
    _WORK.update(
        images=images,
        options=FitOptions(bands=options.bands, iterate=options.iterative),
        search=find_more(grid, options.bands, options.n_sigma) if options.iterative else None,
    )
    try:
        with _Stop() as stop:
            work = _in_turn if options.threads == 1 else _at_once
            for key, blob, arrays in work(waiting, options.threads, stop):
                checkpoint.add(key, arrays)
                run.fits[blob.id] = BlobFit.from_arrays(arrays)
            if stop.signal:
                raise StoppedError(
                    f"stopped by {signal.Signals(stop.signal).name}: {len(run.fits)} of "
                    f"{len(jobs)} blobs of {grid.name} are kept in {checkpoint.path}; the same "
                    "command goes on there"
                )
    finally:
        _WORK.clear()
    return run


_Result = Iterator[tuple[bytes, Blob, dict[str, NDArray[Any]]]]


def _in_turn(waiting: Sequence[tuple[bytes, Blob]], _: int, stop: _Stop) -> _Result:
    for key, blob in waiting:
        if stop.signal:
            return
        yield key, blob, _fit_one(blob)


def _ignore_signals() -> None:
    """Workers leave signals of the whole group to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _at_once(waiting: Sequence[tuple[bytes, Blob]], threads: int, stop: _Stop) -> _Result:
    """Fit in processes that share the exposures with this one."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    pool = ProcessPoolExecutor(
        threads, mp_context=multiprocessing.get_context("fork"), initializer=_ignore_signals
    )
    try:
        with warnings.catch_warnings():
            # The other threads belong to numerical libraries that are idle here.
            warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
            futures = {pool.submit(_fit_one, blob): (key, blob) for key, blob in waiting}
        left = set(futures)
        while left and not stop.signal:
            done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                key, blob = futures[future]
                yield key, blob, future.result()
    except BrokenProcessPool as err:
        raise NoDataError(
            "a process that fitted a blob was killed, most likely for lack of memory; the finished "
            "blobs are kept: run the same command again with fewer --threads"
        ) from err
    finally:
        if stop.signal:
            _end_workers(pool)
        pool.shutdown(wait=True, cancel_futures=True)


def _end_workers(pool: ProcessPoolExecutor) -> None:
    """End the processes of this pool; what they were fitting is fitted again later."""
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        process.terminate()
    time.sleep(0.1)

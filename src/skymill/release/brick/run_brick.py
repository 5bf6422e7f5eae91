"""Run-brick: from the exposures that touch a brick to its catalogue, coadds and metrics."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

import skymill
from skymill.data.errors import DataError, MissingInputError, NoDataError
from skymill.model.blob import Blob
from skymill.model.fit_image import FitImage
from skymill.model.sources import Sources
from skymill.release.brick.bits import FitBit
from skymill.release.brick.blobs import (
    BlobRun,
    StartSources,
    blob_jobs,
    fit_blobs,
    images_digest,
    label_blobs,
    start_sources,
)
from skymill.release.brick.catalogue import assemble, catalogue, columns
from skymill.release.brick.checkpoint import Checkpoint, digest
from skymill.release.brick.clusters import cluster_mask
from skymill.release.brick.coadds import BandCoadd, coadd_bands, mean_image
from skymill.release.brick.detect import detect, detection_maps
from skymill.release.brick.files import (
    write_blobs,
    write_catalogue,
    write_ccds,
    write_checksums,
    write_coadds,
    write_depth_table,
    write_maskbits,
    write_outliers,
    write_pictures,
)
from skymill.release.brick.grid import BrickGrid, custom_grid, named_grid
from skymill.release.brick.halos import subtract_halos
from skymill.release.brick.images import ImageSet, covered_part, read_images, touching
from skymill.release.brick.joint_fluxes import joint_fluxes
from skymill.release.brick.mapping import PixelMap, map_pixels
from skymill.release.brick.masks import mask_bits
from skymill.release.brick.measures import model_images
from skymill.release.brick.options import STAGES, BrickOptions
from skymill.release.brick.outliers import find_outliers, mask_outliers
from skymill.release.brick.reference_sources import ReferenceMasks, masks_of, read_references
from skymill.release.brick.stages import read_stage, write_stage
from skymill.release.brick.sub_blobs import Division, divide_blobs, own_sources
from skymill.release.survey.calibrations import calibrate_image
from skymill.release.survey.layout import release_path
from skymill.release.survey.survey_dir import SurveyDir

__all__ = ["BrickReport", "brick_is_done", "grid_of", "run_brick"]

_LOG = logging.getLogger(__name__)

#: Fewer pixels between the blobs do not tell the level of the sky.
_SKY_PIXELS = 50


@dataclass
class BrickReport:
    """What became of a brick.

    Parameters
    ----------
    brick : str
        Its name.
    state : str
        ``done``, ``skipped`` (it was done before), ``nothing`` (no image overlaps it) or
        ``stopped`` (at the stage that was asked for).
    n_images, n_sources, n_blobs, n_resumed, n_bailed_out : int
        Exposures, objects of the catalogue, blobs, those of them from the checkpoint, and those
        that were not fitted.
    types : dict of str to int
        Objects of each type.
    files : list of Path
        What was written.
    seconds : dict of str to float [s]
        Processor time of each stage, without that of other processes.
    notes : list of str
        Sentences about exposures that were left out, catalogues that are missing, and so on.
    """

    brick: str
    state: str = "done"
    n_images: int = 0
    n_sources: int = 0
    n_blobs: int = 0
    n_resumed: int = 0
    n_bailed_out: int = 0
    types: dict[str, int] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.state == "skipped":
            return f"brick {self.brick}: done before"
        if self.state == "nothing":
            return f"brick {self.brick}: nothing to do: {'; '.join(self.notes)}"
        if self.state == "stopped":
            return f"brick {self.brick}: stopped after the stage that was asked for"
        types = ", ".join(f"{n} {word}" for word, n in self.types.items())
        extra = f", {self.n_resumed} of them from the checkpoint" if self.n_resumed else ""
        bail = f", {self.n_bailed_out} not fitted" if self.n_bailed_out else ""
        return (
            f"brick {self.brick}: {self.n_sources} objects ({types}) in {self.n_blobs} blobs"
            f"{extra}{bail}, from {self.n_images} images; {sum(self.seconds.values()):.1f} s of "
            "processor time"
        )


@dataclass
class _State:
    """What the stages hand on."""

    grid: BrickGrid
    options: BrickOptions
    survey: SurveyDir
    report: BrickReport
    images: list[FitImage] = field(default_factory=list)
    ccds: Table = field(default_factory=Table)
    maps: list[PixelMap] = field(default_factory=list)
    references: Table = field(default_factory=Table)
    masks: ReferenceMasks | None = None
    outliers: list[NDArray[np.uint8]] = field(default_factory=list)
    start: StartSources | None = None
    division: Division = field(
        default_factory=lambda: Division(np.zeros((0, 0), np.int32), np.zeros(0, np.int32))
    )
    sky: dict[str, float] = field(default_factory=dict)
    run: BlobRun = field(default_factory=BlobRun)
    coadds: dict[str, BandCoadd] = field(default_factory=dict)
    catalogue: dict[str, NDArray[Any]] = field(default_factory=dict)
    maskbits: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))
    key: bytes = b""


def grid_of(options: BrickOptions) -> BrickGrid:
    """The pixels that the options ask for.

    Parameters
    ----------
    options : BrickOptions
        Options.

    Returns
    -------
    BrickGrid
        The brick, or the custom region.
    """
    width, height, scale = options.width, options.height, options.pixel_scale
    if options.ra_dec is not None:
        return custom_grid(
            *options.ra_dec, width=width, height=height, pixel_scale=scale, zoom=options.zoom
        )
    return named_grid(
        options.brick, width=width, height=height, pixel_scale=scale, zoom=options.zoom
    )


def brick_is_done(options: BrickOptions, grid: BrickGrid) -> bool:
    """Whether the catalogue of a brick exists and can be read.

    Parameters
    ----------
    options : BrickOptions
        For the folder.
    grid : BrickGrid
        The brick.

    Returns
    -------
    bool
        False too for a file that is truncated.
    """
    path = release_path(options.out_dir, "tractor", brick=grid.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hdus = fits.open(path, memmap=False)
        with hdus:
            return hdus[1].data is not None and "brick_primary" in hdus[1].columns.names
    except (OSError, IndexError, TypeError, ValueError, AttributeError):
        return False


def run_brick(options: BrickOptions) -> BrickReport:
    """Make the catalogue, the coadds and the metrics of one brick.

    Parameters
    ----------
    options : BrickOptions
        What and how.

    Returns
    -------
    BrickReport
        What became of it. A brick without images has the state ``nothing``.

    Raises
    ------
    DataError, MissingInputError
        With one sentence: a bad name, a missing or corrupt calibration or image.
    skymill.release.brick.blobs.StoppedError
        After SIGTERM or SIGUSR1; the finished blobs are kept.
    """
    grid = grid_of(options)
    report = BrickReport(grid.name)
    if options.skip and not options.force and brick_is_done(options, grid):
        report.state = "skipped"
        return report
    survey = SurveyDir(options.survey_dir)
    if options.covered:
        grid = covered_part(survey, grid, options)
    state = _State(grid, options, survey, report)
    steps = {
        "tims": _read, "refs": _refs, "outliers": _outliers, "srcs": _srcs,
        "fitblobs": _fitblobs, "coadds": _coadds, "writecat": _writecat,
    }  # fmt: skip
    for name in STAGES:
        started = time.process_time()
        try:
            steps[name](state)
        except NoDataError as err:
            if name != "tims":
                raise
            report.state, report.notes = "nothing", [str(err)]
            return report
        report.seconds[name] = time.process_time() - started
        _LOG.info("stage %s of %s: %.2f s", name, grid.name, report.seconds[name])
        if name == options.stage and name != STAGES[-1]:
            report.state = "stopped"
            return report
    return report


def _stage_path(state: _State, name: str) -> Path:
    file = f"runbrick-{state.grid.name}-{name}.npz"
    if state.options.stage_dir:
        return Path(state.options.stage_dir) / file
    return release_path(state.options.out_dir, "stage", brick=state.grid.name, name=f"{name}.npz")


def _load(state: _State, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
    return None if state.options.force else read_stage(_stage_path(state, name), state.key)


def _save(
    state: _State, name: str, arrays: dict[str, NDArray[Any]], words: dict[str, Any] | None = None
) -> None:
    if name in state.options.write_stages:
        write_stage(_stage_path(state, name), state.key, arrays, words or {})


def _read(state: _State) -> None:
    """Stage tims: the exposures."""
    try:
        found: ImageSet = read_images(state.survey, state.grid, state.options)
    except MissingInputError:
        if state.options.skip_calibs or not _make_calibrations(state):
            raise
        found = read_images(state.survey, state.grid, state.options)
    state.images, state.ccds = found.images, found.table
    state.report.notes += found.notes
    state.report.n_images = len(found.images)
    state.maps = [map_pixels(image, state.grid) for image in state.images]
    grid = state.grid
    state.key = digest(
        skymill.__version__, grid.name, grid.shape, grid.wcs.header["CRPIX1"],
        grid.wcs.header["CRPIX2"], json.dumps(state.options.science(), sort_keys=True),
        images_digest(state.images),
    )  # fmt: skip
    _save(
        state, "tims",
        {f"image_{k}": image.image for k, image in enumerate(state.images)}
        | {f"inverse_error_{k}": image.inverse_error for k, image in enumerate(state.images)}
        | {f"quality_{k}": image.quality for k, image in enumerate(state.images)},
        {"exposures": [f"{im.camera}-{im.exposure}-{im.ccd}" for im in state.images]},
    )  # fmt: skip


def _make_calibrations(state: _State) -> bool:
    """Make the PSF and sky of the exposures that have none; whether any was made."""
    survey, made = state.survey, False
    for row in touching(survey, state.grid, state.options):
        folder, path = survey.folder(str(row["camera"])), survey.image_path(row)
        expnum, ccd = int(row["expnum"]), str(row["ccdname"]).strip()
        kinds = ("psfex", "splinesky")
        if all(folder.calibration_words(k, path, expnum, ccd) is not None for k in kinds):
            continue
        for name, said in calibrate_image(path, folder, ccds=[ccd]).items():
            for kind, word in said.items():
                if word not in ("made", "kept"):
                    raise DataError(
                        f"exposure {expnum} CCD {name} has no {kind} calibration, and making it "
                        f"failed: {word}"
                    )
                made = made or word == "made"
                state.report.notes.append(f"exposure {expnum} CCD {name}: {kind} {word}")
    return made


def _refs(state: _State) -> None:
    """Stage refs: reference stars and large galaxies."""
    state.references, notes = read_references(state.grid, state.options)
    state.report.notes += notes
    state.masks = masks_of(state.references, state.grid)
    state.masks.cluster |= cluster_mask(state.grid, state.options)
    names = ("ra", "dec", "x", "y", "radius", "mag", "ref_id")
    _save(state, "refs", {n: np.asarray(state.references[n]) for n in names})


def _outliers(state: _State) -> None:
    """Stage outliers: pixels that differ between exposures; then the halos of stars go."""
    known = _load(state, "outliers")
    masks = [np.zeros(image.image.shape, np.uint8) for image in state.images]
    if known is not None:
        masks = [known[0][f"mask_{k}"] for k in range(len(masks))]
    elif state.options.outliers:
        for band in dict.fromkeys(image.band for image in state.images):
            own = [k for k, image in enumerate(state.images) if image.band == band]
            found = find_outliers(
                [state.images[k] for k in own], state.grid, [state.maps[k] for k in own],
                state.references,
            )  # fmt: skip
            for k, mask in zip(own, found, strict=True):
                masks[k] = mask
    for image, mask in zip(state.images, masks, strict=True):
        mask_outliers(image, mask)
    state.outliers = masks
    _save(state, "outliers", {f"mask_{k}": mask for k, mask in enumerate(masks)})
    subtract_halos(state.images, state.references)


def _sky_of(state: _State, blobs: NDArray[np.int32]) -> dict[str, float]:
    """Median of each band's coadd outside of the blobs."""
    sky = {}
    for band in dict.fromkeys(image.band for image in state.images):
        own = [k for k, image in enumerate(state.images) if image.band == band]
        image, weight = mean_image(
            [state.images[k] for k in own], state.grid, [state.maps[k] for k in own]
        )
        empty = (blobs < 0) & (weight > 0)
        known = int(empty.sum()) >= _SKY_PIXELS
        sky[band] = float(np.median(image[empty])) if known else 0.0
    return sky


def _srcs(state: _State) -> None:
    """Stage srcs: detection, blobs, and the level of the sky between them."""
    known = _load(state, "srcs")
    if known is not None:
        arrays, words = known
        state.division = Division(arrays["blobs"], arrays["parent"])
        state.sky = dict(words["sky"])
        state.start = StartSources(
            arrays["x"], arrays["y"], arrays["reference"], arrays["blob"],
            Sources.from_arrays(arrays),
        )  # fmt: skip
    else:
        _detect(state)
    assert state.start is not None
    for image in state.images:
        level = np.float32(state.sky.get(image.band, 0.0))
        # Filled pixels keep their zero: they have no weight.
        image.image[image.inverse_error > 0] -= level
    start = state.start
    _save(
        state, "srcs",
        {"blobs": state.division.numbers, "parent": state.division.parent,
         "x": start.x, "y": start.y, "reference": start.reference,
         "blob": start.blob, **start.sources.to_arrays()},
        {"sky": state.sky},
    )  # fmt: skip


def _detect(state: _State) -> None:
    grid, options = state.grid, state.options
    maps = detection_maps(state.images, grid, state.maps, options.bands)
    references = state.references
    fitted = np.asarray(references["in_bounds"], bool) & ~np.asarray(references["do_not_fit"], bool)
    found = detect(
        maps,
        n_sigma=options.n_sigma,
        known_x=np.asarray(references["x"], float)[fitted],
        known_y=np.asarray(references["y"], float)[fitted],
        avoid=np.zeros(grid.shape, bool),
    )
    start = start_sources(grid, options.bands, maps.bands, found.x, found.y, found.flux, references)
    blobs = np.full(grid.shape, -1, np.int32)
    if start.x.size:
        blobs, start.blob = label_blobs(found.hot, start.x, start.y)
    state.sky = _sky_of(state, blobs) if options.subtract_sky else {}
    assert state.masks is not None
    state.division = divide_blobs(
        blobs, larger_than=options.sub_blobs, touching=state.masks.cluster
    )
    if start.x.size:
        column = np.clip(np.floor(start.x + 0.5).astype(int), 0, grid.width - 1)
        row = np.clip(np.floor(start.y + 0.5).astype(int), 0, grid.height - 1)
        start.blob = state.division.numbers[row, column].astype(np.int64)
    state.start = start


def _jobs(state: _State) -> Sequence[tuple[Blob, NDArray[np.int64]]]:
    assert state.start is not None
    assert state.masks is not None
    if not state.start.x.size:
        return []
    return list(blob_jobs(state.grid, state.division, state.start, state.references, state.masks))


def _fitblobs(state: _State) -> None:
    """Stage fitblobs: all exposures at once, blob by blob."""
    options = state.options
    path = (
        Path(options.checkpoint)
        if options.checkpoint
        else release_path(options.out_dir, "checkpoint", brick=state.grid.name)
    )
    if path.is_dir():
        raise DataError(f"the checkpoint {path} must be a file; it is a folder")
    jobs = _jobs(state)
    checkpoint = Checkpoint(path, force=options.force)
    state.run = fit_blobs(state.images, state.grid, jobs, options, checkpoint)
    _drop_margins(state)
    report = state.report
    report.n_blobs, report.n_resumed = len(jobs), state.run.n_resumed
    report.n_bailed_out = len(state.run.skipped)
    report.notes += state.run.notes


def _drop_margins(state: _State) -> None:
    """Each part of a divided blob keeps the sources of its own pixels."""
    assert state.start is not None
    run, division = state.run, state.division
    for number, index in run.origins.items():
        if not division.is_part(number):
            continue
        began = state.start.blob[index]
        if number in run.fits:
            fit = run.fits[number]
            run.fits[number] = own_sources(fit, number, began, division, state.grid)
        else:
            run.origins[number] = index[began == number]


def _coadds(state: _State) -> None:
    """Stage coadds: models on all exposures, coadds and the columns of the catalogue."""
    if state.options.ebv is None and not state.options.dust_map:
        state.report.notes.append("ebv is 0: no map of E(B-V) was given (--dust-map or --ebv)")
    assert state.start is not None
    assert state.masks is not None
    grid, options = state.grid, state.options
    found = assemble(state.run, state.start, state.references, len(options.bands), grid)
    whole = state.division.whole(state.division.numbers)
    bailed = np.isin(state.division.numbers, state.run.skipped)
    fitted = ~np.isin(found.blob, state.run.skipped) & ~found.duplicate
    # Sources of blobs that were not fitted have no flux that could be drawn.
    found.sources.flux[~fitted] = 0.0
    blob_of = state.division.whole(found.blob).astype(np.int64)
    if options.joint_fluxes:
        # Where a constant was fitted beside them, the light of a bright star is no source's.
        fixed = (found.sources.fitbits & (FitBit.FIT_BACKGROUND | FitBit.FROZEN)) != 0
        found.sources.flux = joint_fluxes(
            state.images, state.maps, whole, found.sources, blob_of, options.bands, fixed=fixed
        )
    models, blob_models, measures = model_images(
        state.images, state.maps, whole, found.sources, blob_of, options.bands
    )  # fmt: skip
    state.coadds = dict(
        coadd_bands(state.images, grid, models=models, blob_models=blob_models, maps=state.maps)
    )
    state.maskbits = mask_bits(grid, state.coadds, state.masks, bailed, state.division.divided())
    state.catalogue = catalogue(
        found, state.run, state.division.numbers, grid, options, state.images, state.maps,
        state.references, state.coadds, measures, state.maskbits,
    )  # fmt: skip


def _writecat(state: _State) -> None:
    """Stage writecat: all files; the catalogue comes last and marks the brick as done."""
    grid, options, images = state.grid, state.options, state.images
    files: list[Path] = []
    state.ccds["co_sky"] = np.array([state.sky.get(im.band, 0.0) for im in images], np.float32)
    if options.write_images:
        files += write_coadds(state.coadds, grid, options, images, state.sky)
        files.append(write_maskbits(state.maskbits, grid, options, images))
        files.append(write_depth_table(state.coadds, grid, options))
        files.append(write_ccds(state.ccds, grid, options, images))
        files += write_pictures(state.coadds, grid, options)
        files.append(write_outliers(state.outliers, grid, options, images))
        files.append(
            write_blobs(state.division.whole(state.division.numbers), grid, options, images)
        )
    values = state.catalogue
    everything = columns(options, intermediate=True)
    files.append(write_catalogue("tractor-i", everything, values, grid, options, images))
    inside = values["in_bounds"]
    final = {name: column[inside] for name, column in values.items()}
    # The reference to the rest of the survey: it exists only when all others do.
    tractor = write_catalogue("tractor", columns(options), final, grid, options, images)
    files.append(tractor)
    files.append(write_checksums(files, grid, options))
    state.report.files = files
    state.report.n_sources = int(inside.sum())
    words, counts = np.unique(final["type"], return_counts=True)
    state.report.types = {w.decode(): int(n) for w, n in zip(words, counts, strict=True)}

"""The exposures that touch a brick, as images to fit: nanomaggies, noise, PSF and position.

Images, weights and data quality are those of the community pipelines of DECam, 90prime and
Mosaic-3. Their sky, PSF, zero point and astrometric offset are the survey's.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.table import Row, Table
from numpy.typing import NDArray

from skymill.data.errors import DataError, MissingInputError, NoDataError, SkymillError
from skymill.data.geometry import FitsWcs
from skymill.instruments.community_ccd import CommunityCcd, read_ccd, read_ccd_header
from skymill.model.fit_image import FitImage
from skymill.psf.models import PolynomialPsf
from skymill.release.brick.bits import Quality
from skymill.release.brick.filters import blurred
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.options import BrickOptions
from skymill.release.survey.overlap import MARGIN, ccd_corners
from skymill.release.survey.survey_dir import SurveyDir

__all__ = ["ImageSet", "covered_part", "read_image", "read_images", "touching"]

_LOG = logging.getLogger(__name__)

Float32Array = NDArray[np.float32]

#: Zero point of a nanomaggy.
_NANOMAGGY = 22.5
#: Weights below this fraction of the median, and above this multiple of 1 / sigma1^2, are wrong.
_LOW_WEIGHT, _HIGH_WEIGHT = 0.1, 1.3
#: A variance below this multiple of that of sky and source is explained by them.
_PHOTON_EXCESS = 4.0
#: Width of the local mean of the counts [pixel].
_LOCAL = 3.0


@dataclass
class ImageSet:
    """The images of a brick, with what was left out and why.

    Parameters
    ----------
    images : list of FitImage
        In the order of bands, then of time.
    table : Table
        Their rows of survey-ccds, with ``ccd_x0 ... brick_y1``, versions of sky and PSF.
    notes : list of str
        A sentence for each exposure that was left out, and each band without images.
    """

    images: list[FitImage]
    table: Table
    notes: list[str]


def touching(survey: SurveyDir, grid: BrickGrid, options: BrickOptions) -> Table:
    """The rows of survey-ccds whose CCDs overlap a brick.

    Parameters
    ----------
    survey : SurveyDir
        The survey.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For bands and times.

    Returns
    -------
    Table
        Rows without cuts, sorted by band, time, exposure and CCD.
    """
    near = survey.ccds_touching(wcs=grid.wcs, shape=grid.shape)
    if not len(near):
        return near
    filters = np.char.strip(np.asarray(near["filter"]).astype(str))
    time = np.asarray(near["mjd_obs"], float)
    keep = np.isin(filters, list(options.bands))
    keep &= (time >= options.min_mjd) & (time <= options.max_mjd)
    near, filters, time = near[keep], filters[keep], time[keep]
    place = {band: k for k, band in enumerate(options.bands)}
    names = np.array([str(v).strip() for v in near["ccdname"]])
    keys = (names, np.asarray(near["expnum"]), time, np.array([place[f] for f in filters]))
    return near[np.lexsort(keys)] if len(near) else near


def covered_part(survey: SurveyDir, grid: BrickGrid, options: BrickOptions) -> BrickGrid:
    """The part of a brick that its CCDs cover.

    Parameters
    ----------
    survey : SurveyDir
        The survey.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For bands and times.

    Returns
    -------
    BrickGrid
        The smallest cut-out with all CCDs, as far as the table tells their places; the whole
        grid if none touches it by more than a pixel.
    """
    rows = touching(survey, grid, options)
    if not len(rows):
        return grid
    ra, dec = ccd_corners(rows)
    x, y = grid.wcs.sky_to_pixel(ra=ra.ravel(), dec=dec.ravel())
    margin = MARGIN / grid.pixel_scale
    low_x, high_x = (int(np.clip(v, 0, grid.width)) for v in (x.min() - margin, x.max() + margin))
    low_y, high_y = (int(np.clip(v, 0, grid.height)) for v in (y.min() - margin, y.max() + margin))
    if low_x >= high_x or low_y >= high_y:
        return grid
    return grid.part((low_x, high_x, low_y, high_y))


def _brick_box(
    wcs: FitsWcs, grid: BrickGrid, shape: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """The part (x0, x1, y0, y1) of a CCD that the brick covers; None without overlap."""
    t = np.linspace(-0.5, 0.5, 9)
    w, h = grid.width, grid.height
    cx, cy = (w - 1) / 2.0, (h - 1) / 2.0
    xs = np.concatenate([cx + t * w, cx + t * w, np.full(9, -0.5), np.full(9, w - 0.5)])
    ys = np.concatenate([np.full(9, -0.5), np.full(9, h - 0.5), cy + t * h, cy + t * h])
    ra, dec = grid.wcs.pixel_to_sky(x=xs, y=ys)
    x, y = wcs.sky_to_pixel(ra=ra, dec=dec)
    ok = np.isfinite(x) & np.isfinite(y)
    if not ok.any():
        return None
    ny, nx = shape
    x0, x1 = int(max(0, np.floor(x[ok].min()))), int(min(nx, np.ceil(x[ok].max()) + 1))
    y0, y1 = int(max(0, np.floor(y[ok].min()))), int(min(ny, np.ceil(y[ok].max()) + 1))
    # One or two rows of pixels have no inner pixel for interpolation.
    return (x0, x1, y0, y1) if x1 - x0 > 4 and y1 - y0 > 4 else None


def _moved_psf(psf: PolynomialPsf, x0: int, y0: int) -> PolynomialPsf:
    """The PSF of a CCD in pixels of its cut-out."""
    return replace(psf, centre=(psf.centre[0] - x0, psf.centre[1] - y0))


def read_image(
    row: Row, survey: SurveyDir, grid: BrickGrid, *, unbiased: bool = True
) -> tuple[FitImage | None, str]:
    """Read the part of one CCD that overlaps a brick.

    Parameters
    ----------
    row : Row
        Of survey-ccds.
    survey : SurveyDir
        Where its files are.
    grid : BrickGrid
        The brick.
    unbiased : bool
        Take the pixel's own noise out of its weight.

    Returns
    -------
    image : FitImage or None
        None if nothing of it can be used.
    note : str
        Why not; empty otherwise.

    Raises
    ------
    DataError, MissingInputError
        If a file is missing or corrupt.
    """
    ccd = str(row["ccdname"]).strip()
    path = survey.image_path(row)
    where = f"exposure {int(row['expnum'])} CCD {ccd} ({path.name})"
    hdu, camera = int(row["image_hdu"]), str(row["camera"]).strip()
    try:
        info = read_ccd_header(path, hdu=hdu, ccd=ccd, camera=camera)
    except SkymillError:
        raise
    except (OSError, EOFError) as err:
        raise DataError(f"{path} is truncated or no FITS image ({err})") from err
    wcs = info.wcs(ra_offset=_finite(row["ccdraoff"]), dec_offset=_finite(row["ccddecoff"]))
    box = _brick_box(wcs, grid, info.shape)
    if box is None:
        return None, f"{where} does not reach the pixels of the brick"
    pixels = read_ccd(path, box=box, info=info)
    image = _calibrated(row, survey, pixels, wcs, box, where, unbiased)
    if not (image.inverse_error > 0).any():
        zero = not (pixels.quality == 0).any()
        why = "is masked everywhere" if zero else "has no weight above zero"
        return None, f"{where} {why} on the brick and was left out"
    return image, ""


def _finite(value: Any) -> float:
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _counts_of_nanomaggy(row: Row, pixels: CommunityCcd, where: str) -> float:
    """Counts of the image that a nanomaggy gives."""
    exposure_time, zero_point = float(row["exptime"]), float(row["ccdzpt"])
    if not exposure_time > 0:
        raise DataError(f"{where} has the exposure time {exposure_time} s; it must be > 0")
    if not (math.isfinite(zero_point) and zero_point > 0):
        raise DataError(f"{where} has no zero point: ccdzpt is {zero_point}")
    if not pixels.info.camera.unit_is_electrons_per_second:
        zero_point += 2.5 * math.log10(exposure_time)
    return float(10.0 ** (0.4 * (zero_point - _NANOMAGGY)))


def _without_low_weights(pixels: CommunityCcd, weight: Float32Array) -> Float32Array:
    """Weights far below the typical one are none, unless the photons of a star explain them."""
    good = weight > 0
    # Weights of cameras in electrons a second got the photons of stars when they were read.
    if not good.any() or pixels.info.camera.unit_is_electrons_per_second:
        return weight
    median = float(np.median(weight[good]))
    level = float(np.median(pixels.image[good]))
    photons = np.maximum(pixels.image - level, 0.0) / pixels.info.gain
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1.0 / weight < _PHOTON_EXCESS * (1.0 / median + photons)
    keep = good & ((weight >= _LOW_WEIGHT * median) | explained)
    return np.where(keep, weight, np.float32(0.0)).astype(np.float32)


def _unbiased_weights(image: Float32Array, weight: Float32Array) -> Float32Array:
    """Weights that do not know the noise of their own pixel.

    The pipeline's variance is that of sky and electronics plus the pixel's own counts over the
    gain: a pixel that is low by chance weighs more, and every weighted mean comes out too low.
    Where no source is significant, the counts are replaced by their local mean.

    Parameters
    ----------
    image : (ny, nx) float32 [count]
        Sky-subtracted pixels.
    weight : (ny, nx) float32 [1/count2]
        Weights; 0 where masked.

    Returns
    -------
    (ny, nx) float32 [1/count2]
        The new weights.
    """
    good = weight > 0
    if int(good.sum()) < 100:
        return weight
    variance = np.divide(1.0, weight, out=np.zeros(weight.shape), where=good)
    level, typical = float(np.median(image[good])), float(np.median(variance[good]))
    blank = good & (np.abs(image - level) < 3.0 * math.sqrt(typical))
    blank &= np.abs(variance - typical) < 0.5 * typical
    if int(blank.sum()) < 100:
        return weight
    counts = image[blank].astype(np.float64)
    counts -= counts.mean()
    slope = float((counts * variance[blank]).sum() / (counts**2).sum())
    if slope <= 0:
        return weight
    mean, share = blurred(image, good, _LOCAL)
    mean = np.divide(mean, share, out=np.zeros_like(mean), where=share > 0.05)
    # The core of a star has its own photons: only what may be noise is replaced.
    faint = good & (np.abs(image - mean) < 5.0 * np.sqrt(variance))
    new = variance - slope * np.where(faint, image - mean, 0.0)
    new = np.maximum(new, 0.25 * variance)
    return np.divide(1.0, new, out=np.zeros(weight.shape), where=good).astype(np.float32)


def _calibrated(
    row: Row,
    survey: SurveyDir,
    pixels: CommunityCcd,
    wcs: FitsWcs,
    box: tuple[int, int, int, int],
    where: str,
    unbiased: bool,
) -> FitImage:
    """Pixels in nanomaggies without their sky."""
    x0, x1, y0, y1 = box
    scale = np.float32(_counts_of_nanomaggy(row, pixels, where))
    sky = survey.sky(row, shape=(y1, x1))
    if sky is None:
        raise MissingInputError(
            f"{where} has no sky below {survey.root}/calib; make it with: skymill release calibs"
        )
    quality = pixels.quality.astype(np.int32)
    broken = ~np.isfinite(pixels.image)
    quality[broken] |= np.int32(Quality.BADPIX)
    image = (np.where(broken, np.float32(0), pixels.image) - sky[y0:y1, x0:x1]) / scale
    image[broken] = 0.0
    weight = np.where(broken | (quality != 0), np.float32(0), pixels.weight)
    weight = _without_low_weights(pixels, weight)
    if unbiased:
        weight = _unbiased_weights(image * scale, weight)
    error = np.sqrt(weight) * scale
    sigma1 = float(row["sig1"])
    if not (math.isfinite(sigma1) and sigma1 > 0):
        sigma1 = float(1.0 / np.median(error[error > 0])) if (error > 0).any() else math.inf
    return FitImage(
        image=image.astype(np.float32),
        # A pixel with far less noise than the rest is an empty one.
        inverse_error=np.minimum(error, np.float32(math.sqrt(_HIGH_WEIGHT) / sigma1)),
        quality=quality,
        band=str(row["filter"]).strip(),
        wcs=wcs.shifted(dx=x0, dy=y0),
        psf=_moved_psf(survey.psf(row), x0, y0),
        sigma1=sigma1,
        fwhm=float(row["fwhm"]),
        x0=x0,
        y0=y0,
        camera=str(row["camera"]).strip(),
        exposure=int(row["expnum"]),
        ccd=str(row["ccdname"]).strip(),
        mjd=float(row["mjd_obs"]),
        row={name: row[name] for name in row.colnames},
    )


def read_images(survey: SurveyDir, grid: BrickGrid, options: BrickOptions) -> ImageSet:
    """Read every exposure that touches a brick.

    Parameters
    ----------
    survey : SurveyDir
        The survey.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For bands and times.

    Returns
    -------
    ImageSet
        The images, their table and the reasons of those that were left out.

    Raises
    ------
    NoDataError
        If no image overlaps the brick, or none has a usable pixel.
    """
    rows = touching(survey, grid, options)
    if not len(rows):
        raise NoDataError(
            f"no image of the bands {','.join(options.bands)} in {survey.root} overlaps the brick "
            f"{grid.name}"
        )
    images, kept, notes = [], [], []
    for k, row in enumerate(rows):
        image, note = read_image(row, survey, grid, unbiased=options.unbiased_weights)
        if image is None:
            notes.append(note)
            _LOG.info("%s", note)
            continue
        images.append(image)
        kept.append(k)
    if not images:
        raise NoDataError(
            f"no image has a usable pixel on the brick {grid.name}: {'; '.join(notes)}"
        )
    for band in options.bands:
        if not any(im.band == band for im in images):
            notes.append(f"no image of band {band} touches the brick {grid.name}")
    table = rows[kept]
    _add_boxes(table, images, grid)
    return ImageSet(images, table, notes)


def _add_boxes(table: Table, images: list[FitImage], grid: BrickGrid) -> None:
    """Columns of the pixels that a CCD and the brick share."""
    boxes = np.zeros((len(images), 8), np.int64)
    for k, image in enumerate(images):
        ny, nx = image.image.shape
        boxes[k, :4] = image.x0, image.y0, image.x0 + nx, image.y0 + ny
        ra, dec = image.wcs.pixel_to_sky(
            x=np.array([0.0, nx - 1, nx - 1, 0.0]), y=np.array([0.0, 0.0, ny - 1, ny - 1])
        )
        x, y = grid.wcs.sky_to_pixel(ra=ra, dec=dec)
        boxes[k, 4:] = np.floor(x.min()), np.ceil(x.max()), np.floor(y.min()), np.ceil(y.max())
    boxes[:, 4:6] = np.clip(boxes[:, 4:6], 0, grid.width - 1)
    boxes[:, 6:] = np.clip(boxes[:, 6:], 0, grid.height - 1)
    names = ("ccd_x0", "ccd_y0", "ccd_x1", "ccd_y1", "brick_x0", "brick_x1", "brick_y0", "brick_y1")
    for k, name in enumerate(names):
        table[name] = boxes[:, k].astype(np.int16)

"""Blobs that reach over the edge of a brick into a bright star's mask of the neighbour.

A pixel with BRIGHT in the ring of one pixel around a neighbour's primary area lies in our brick.
Every blob of ours that it touches gets BRIGHT as a whole: its pixels in maskbits, its objects in
the catalogue. Originals are kept in a backup and are what neighbours look at, so that the order of
the bricks does not matter and a repetition changes nothing.
"""

from __future__ import annotations

import functools
import math
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from skymill.coadd.bricks import Brick, brick_from_name, bricks_near
from skymill.data.errors import DataError, MissingInputError
from skymill.data.files import atomic_path
from skymill.data.geometry import FitsWcs
from skymill.release.brick.bits import MaskBit
from skymill.release.finish.checksums import file_hash, update_brick_checksums
from skymill.release.finish.folder import (
    Problem,
    ReleaseFolder,
    each,
    is_brick_name,
    open_fits,
    pixels_of,
)

__all__ = ["NeighbourResult", "backup_brick", "mark_neighbours", "neighbours_of", "ring"]

#: Card of a file that was changed.
_CARD = "BRNEIGHB"
_RADIUS_DEG = math.sqrt(2) * 0.25 * 1.01

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class NeighbourResult:
    """What was marked in a brick: numbers of blobs, pixels and objects."""

    brick: str
    n_blobs: int = 0
    n_pixels: int = 0
    n_objects: int = 0


def neighbours_of(brick: Brick) -> list[Brick]:
    """Bricks that a brick's images may overlap.

    Parameters
    ----------
    brick : Brick
        The brick.

    Returns
    -------
    list of Brick
        Those whose centres are within sqrt(2) x 0.25 x 1.01 degree, without itself.
    """
    near = bricks_near(ra=brick.ra, dec=brick.dec, radius_deg=_RADIUS_DEG)
    here = _vector(brick)
    limit = 2 * math.sin(math.radians(_RADIUS_DEG) / 2)
    return [
        b for b in near
        if b.index != brick.index and float(np.linalg.norm(_vector(b) - here)) <= limit
    ]  # fmt: skip


def _vector(brick: Brick) -> NDArray[np.float64]:
    ra, dec = math.radians(brick.ra), math.radians(brick.dec)
    return np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])


def ring(primary: BoolArray) -> BoolArray:
    """Pixels just outside of an area.

    Parameters
    ----------
    primary : (ny, nx) bool
        The area.

    Returns
    -------
    (ny, nx) bool
        Pixels that are not in it and touch it, also at a corner.
    """
    return ndimage.binary_dilation(primary, np.ones((3, 3), bool)) & ~primary


def _image(path: Path) -> fits.ImageHDU | fits.CompImageHDU | fits.PrimaryHDU:
    for hdu in open_fits(path):
        if getattr(hdu, "data", None) is not None and hdu.data.ndim == 2:
            return hdu
    raise DataError(f"{path} has no image")


def _backup_path(backup: Path, folder: ReleaseFolder, path: Path) -> Path:
    return backup / path.relative_to(folder.root)


def _files(folder: ReleaseFolder, brick: str) -> tuple[Path, Path]:
    """Mask and catalogue of a brick."""
    mask = folder.find("maskbits", brick=brick)
    if mask is None:
        raise MissingInputError(f"it has no {folder.path('maskbits', brick=brick)}")
    catalogue = folder.path("tractor", brick=brick)
    if not catalogue.is_file():
        raise MissingInputError(f"it has no {catalogue}")
    return mask, catalogue


def _is_marked(path: Path) -> bool:
    return any(_CARD in hdu.header for hdu in open_fits(path))


def backup_brick(folder: ReleaseFolder, brick: str, backup: Path) -> list[Path]:
    """Copy mask and catalogue of a brick, unless they are changed ones already.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    brick : str
        Name of the brick.
    backup : Path
        Folder of the copies, in which they have the same paths.

    Returns
    -------
    list of Path
        The copies.

    Raises
    ------
    DataError
        If a changed file has no copy, or a copy is not like its original.
    """
    copies = []
    for path in _files(folder, brick):
        copy = _backup_path(backup, folder, path)
        copies.append(copy)
        if _is_marked(path):
            if not copy.is_file():
                raise DataError(f"{path} was changed already and its backup {copy} is gone")
            continue
        value = file_hash(path)
        if copy.is_file() and file_hash(copy) == value:
            continue
        # The brick is new or was made again since the last backup.
        with atomic_path(copy) as draft:
            shutil.copy2(path, draft)
        if file_hash(copy) != value:
            raise DataError(f"the backup {copy} is not like {path}")
    return copies


def _original_mask(folder: ReleaseFolder, brick: str, backup: Path) -> Path | None:
    """The mask of a brick as the fit left it; None if there is no such brick."""
    path = folder.find("maskbits", brick=brick)
    if path is None:
        return None
    if not _is_marked_mask(path):
        return path
    copy = _backup_path(backup, folder, path)
    if not copy.is_file():
        raise DataError(f"{path} was changed already and its backup {copy} is gone")
    return copy


def _is_marked_mask(path: Path) -> bool:
    """As `_is_marked`, without unpacking the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                return any(_CARD in hdu.header for hdu in hdus)
    except (OSError, ValueError, TypeError) as exc:
        raise DataError(f"{path} is truncated or no FITS file ({exc})") from exc


@functools.lru_cache(maxsize=1024)
def _bright_ring(path: Path, _changed: int) -> tuple[Float64Array, Float64Array]:
    """Positions of the BRIGHT pixels just outside of the primary area of a mask.

    Each mask is wanted by eight neighbours; unpacking it is the work.
    """
    mask = _image(path)
    bits = np.asarray(mask.data)
    secondary = (bits & int(MaskBit.NPRIMARY)) > 0
    bright = secondary & ((bits & int(MaskBit.BRIGHT)) > 0)
    if not bright.any():
        return np.empty(0), np.empty(0)
    y, x = np.nonzero(ring(~secondary) & bright)
    if x.size == 0:
        return np.empty(0), np.empty(0)
    return FitsWcs(mask.header).pixel_to_sky(x=x, y=y)


def _touched_blobs(
    folder: ReleaseFolder, brick: Brick, blobs: NDArray[np.int32], wcs: FitsWcs, backup: Path
) -> set[int]:
    found: set[int] = set()
    for other in neighbours_of(brick):
        path = _original_mask(folder, other.name, backup)
        if path is None:
            continue
        ra, dec = _bright_ring(path, path.stat().st_mtime_ns)
        if ra.size == 0:
            continue
        x, y, inside = pixels_of(*wcs.sky_to_pixel(ra=ra, dec=dec), blobs.shape)
        found.update(np.unique(blobs[y[inside], x[inside]]).tolist())
    return {b for b in found if b >= 0}


def _mark_brick(brick: str, *, root: Path, backup: Path) -> NeighbourResult:
    folder = ReleaseFolder(root)
    if not is_brick_name(brick):
        raise DataError("it is a region of its own, without neighbours")
    backup_brick(folder, brick, backup)
    mask_path, catalogue_path = _files(folder, brick)
    blob_path = folder.find("blobs", brick=brick)
    if blob_path is None:
        raise MissingInputError(f"it has no map of blobs {folder.path('blobs', brick=brick)}")
    blobs = np.asarray(_image(blob_path).data)
    mask = _image(_backup_path(backup, folder, mask_path))
    if mask.data.shape != blobs.shape:
        raise DataError(f"{mask_path} and {blob_path} have different shapes")
    touched = _touched_blobs(folder, brick_from_name(brick), blobs, FitsWcs(mask.header), backup)
    if not touched and not _is_marked(mask_path):
        return NeighbourResult(brick)
    pixels = np.isin(blobs, sorted(touched))
    n_pixels = _write_mask(mask_path, mask, pixels)
    source = _backup_path(backup, folder, catalogue_path)
    n_objects = _write_catalogue(catalogue_path, source, pixels)
    update_brick_checksums(folder, brick, [mask_path, catalogue_path])
    return NeighbourResult(brick, len(touched), n_pixels, n_objects)


def _write_mask(
    path: Path, mask: fits.ImageHDU | fits.CompImageHDU | fits.PrimaryHDU, pixels: BoolArray
) -> int:
    bits = np.array(mask.data)
    new = pixels & ((bits & int(MaskBit.BRIGHT)) == 0)
    bits[pixels] |= bits.dtype.type(int(MaskBit.BRIGHT))
    header = mask.header.copy()
    header[_CARD] = (True, "BRIGHT also from neighbouring bricks")
    hdus: list[fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU]
    if isinstance(mask, fits.CompImageHDU):
        kind = mask.compression_type
        # A tile of a whole row is none for HCOMPRESS; scale 0 is without loss.
        packed = fits.CompImageHDU(
            bits, header, name=mask.name, compression_type=kind, tile_shape=mask.tile_shape,
            hcomp_scale=0.0, hcomp_smooth=0,
        )  # fmt: skip
        hdus = [fits.PrimaryHDU(), packed]
    elif isinstance(mask, fits.PrimaryHDU):
        hdus = [fits.PrimaryHDU(bits, header)]
    else:
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(bits, header)]
    with atomic_path(path) as draft:
        fits.HDUList(hdus).writeto(draft)
    return int(new.sum())


def _write_catalogue(path: Path, source: Path, pixels: BoolArray) -> int:
    hdus = open_fits(source)
    table = next(h for h in hdus if isinstance(h, fits.BinTableHDU))
    names = {c.lower(): c for c in table.columns.names}
    missing = [n for n in ("bx", "by", "maskbits") if n not in names]
    if missing:
        raise DataError(f"{source} has no column {', '.join(missing)}")
    data = table.data
    x, y, inside = pixels_of(data[names["bx"]], data[names["by"]], pixels.shape)
    hit = inside & pixels[y, x]
    bits = data[names["maskbits"]]
    new = hit & ((bits & int(MaskBit.BRIGHT)) == 0)
    bits[hit] |= int(MaskBit.BRIGHT)
    if "brightstarinblob" in names:
        data[names["brightstarinblob"]][hit] = True
    table.header[_CARD] = (True, "BRIGHT also from neighbouring bricks")
    with atomic_path(path) as draft:
        fits.HDUList([h.copy() for h in hdus]).writeto(draft)
    return int(new.sum())


def mark_neighbours(
    folder: ReleaseFolder,
    backup: Path,
    *,
    bricks: Iterable[str] | None = None,
    workers: int = 1,
) -> tuple[list[NeighbourResult], list[Problem]]:
    """Mark the blobs of bricks that reach into bright stars' masks of their neighbours.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    backup : Path
        Folder of the originals.
    bricks : iterable of str, optional
        The bricks to mark; all of the release if absent.
    workers : int
        Processes.

    Returns
    -------
    tuple
        Results, and bricks that could not be marked.
    """
    names = sorted(set(bricks)) if bricks is not None else folder.bricks()
    results, problems = [], []
    work = functools.partial(_mark_brick, root=folder.root, backup=backup)
    for brick, found in each(work, names, workers=workers):
        if isinstance(found, Problem):
            problems.append(Problem(brick, found.text))
        else:
            results.append(found)
    return results, problems

"""Quality check of a release: every file of every brick exists, opens, and says what it must."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skymill.coadd.bricks import brick_from_name
from skymill.data.errors import DataError, SkymillError
from skymill.release.brick.bits import MaskBit
from skymill.release.finish.checksums import brick_checksum_path, file_hash, read_checksums
from skymill.release.finish.folder import (
    Catalogue,
    Problem,
    ReleaseFolder,
    each,
    is_brick_name,
    open_fits,
    pixels_of,
    read_catalogue,
)
from skymill.release.survey.bricks import is_primary

__all__ = ["BrickCheck", "CheckReport", "check_release"]

#: Files that there are for each band.
_BAND_FILES = ("image", "invvar", "model", "blobmodel", "chi2", "depth", "galdepth", "nexp",
               "psfsize")  # fmt: skip
_PICTURES = ("image-jpeg", "model-jpeg", "resid-jpeg")
_NEEDED = ("release", "brickid", "brickname", "objid", "brick_primary", "maskbits", "type", "ra",
           "dec", "ra_ivar", "dec_ivar", "bx", "by", "dchisq", "ebv", "ref_cat", "ref_id",
           "shape_r", "shape_e1", "shape_e2", "sersic")  # fmt: skip
_NEEDED_BAND = ("flux", "flux_ivar", "fiberflux", "mw_transmission", "nobs", "rchisq", "fracflux",
                "fracmasked", "fracin", "allmask", "anymask", "psfsize", "psfdepth",
                "galdepth")  # fmt: skip
_TYPES = {b"PSF", b"REX", b"EXP", b"DEV", b"SER", b"DUP", b"COMP", b"SIMP"}


@dataclass
class BrickCheck:
    """What was found in one brick.

    Parameters
    ----------
    brick : str
        Its name.
    faults : list of str
        One sentence each.
    n_files, n_objects, n_primary, n_bailout : int
        Files that open; rows; primary rows; rows that were given up (BAILOUT).
    """

    brick: str
    faults: list[str] = field(default_factory=list)
    n_files: int = 0
    n_objects: int = 0
    n_primary: int = 0
    n_bailout: int = 0


@dataclass
class CheckReport:
    """The bricks of a release, and faults that belong to none."""

    bricks: list[BrickCheck] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(b.faults for b in self.bricks)

    def table(self) -> Table:
        """One row a brick.

        Returns
        -------
        Table
            Brick, numbers, and its faults in one text.
        """
        table = Table()
        table["brickname"] = np.array([b.brick for b in self.bricks], "U")
        for name in ("n_files", "n_objects", "n_primary", "n_bailout"):
            table[name] = np.array([getattr(b, name) for b in self.bricks], np.int64)
        table["n_faults"] = np.array([len(b.faults) for b in self.bricks], np.int64)
        table["faults"] = np.array(["; ".join(b.faults) for b in self.bricks], "U")
        return table


class _Brick:
    """One brick under examination."""

    def __init__(self, folder: ReleaseFolder, brick: str) -> None:
        self.folder, self.result = folder, BrickCheck(brick)
        self.name = brick
        self.shape: tuple[int, ...] | None = None

    def fault(self, text: str) -> None:
        self.result.faults.append(text)

    def open(self, kind: str, band: str | None = None) -> fits.HDUList | None:
        """A file of the brick; its absence or damage is a fault."""
        path = self.folder.find(kind, brick=self.name, band=band)
        what = kind if band is None else f"{kind} ({band})"
        if path is None:
            self.fault(f"the file {what} is missing")
            return None
        if path.stat().st_size == 0:
            self.fault(f"the file {what} is empty")
            return None
        try:
            hdus = open_fits(path)
        except SkymillError as exc:
            self.fault(str(exc))
            return None
        self.result.n_files += 1
        return hdus

    def image(self, kind: str, band: str | None = None) -> NDArray[Any] | None:
        """An image of the brick; all have one shape and no NaN."""
        hdus = self.open(kind, band)
        if hdus is None:
            return None
        what = kind if band is None else f"{kind} ({band})"
        hdu = next((h for h in hdus if getattr(h, "data", None) is not None and h.is_image), None)
        if hdu is None or hdu.data.ndim != 2:
            self.fault(f"the file {what} has no image")
            return None
        self.shape = self.shape or hdu.data.shape
        if hdu.data.shape != self.shape:
            self.fault(f"the image {what} is {hdu.data.shape}; others are {self.shape}")
        if hdu.data.dtype.kind == "f" and not np.isfinite(hdu.data).all():
            self.fault(f"the image {what} has pixels that are not finite")
        return hdu.data

    def catalogue(self, kind: str) -> Catalogue | None:
        if self.open(kind) is None:
            return None
        try:
            return read_catalogue(self.folder.path(kind, brick=self.name))
        except SkymillError as exc:
            self.fault(str(exc))
            return None


def _check_brick(brick: str, *, root: Path, pictures: bool) -> BrickCheck:
    folder = ReleaseFolder(root)
    one = _Brick(folder, brick)
    where = None
    if is_brick_name(brick):
        where = brick_from_name(brick)
    elif not brick.startswith("custom-"):
        raise DataError("it is no brick's name")
    catalogue = one.catalogue("tractor")
    if catalogue is not None:
        _check_catalogue(one, catalogue)
        if where is not None:
            _check_place(one, catalogue, where)
    other = one.catalogue("tractor-i")
    if catalogue is not None and other is not None and len(catalogue) != len(other):
        one.fault(f"tractor has {len(catalogue)} rows and tractor-i {len(other)}")
    bands = _bands(one, catalogue)
    _check_images(one, bands, catalogue)
    one.open("ccds")
    if one.folder.find("all-models", brick=brick) is not None:
        one.open("all-models")
    _check_depth(one, bands)
    if pictures:
        for kind in _PICTURES:
            _check_picture(one, kind)
    if where is not None:
        _check_sums(one)
    return one.result


def _bands(one: _Brick, catalogue: Catalogue | None) -> list[str]:
    found = {b for k in _BAND_FILES for b in one.folder.bands(one.name, k)}
    if catalogue is not None:
        found |= {
            b
            for b in catalogue.bands()
            if f"nobs_{b}" in catalogue and np.any(catalogue[f"nobs_{b}"] > 0)
        }
    if not found:
        one.fault("it has no coadd of any band")
    return sorted(found, key="ugrizY".find)


def _check_images(one: _Brick, bands: Iterable[str], catalogue: Catalogue | None) -> None:
    mask = one.image("maskbits")
    blobs = one.image("blobs")
    # Masks of outliers have the pixels of their exposures.
    one.open("outlier-mask")
    for band in bands:
        planes = {kind: one.image(kind, band) for kind in _BAND_FILES}
        weight, number = planes["invvar"], planes["nexp"]
        if weight is not None and weight.min() < 0:
            one.fault(f"the image invvar ({band}) has negative pixels")
        if weight is None or number is None or weight.shape != number.shape:
            continue
        if np.any((weight > 0) & (number == 0)):
            one.fault(f"invvar ({band}) is positive where no exposure is (nexp = 0)")
    if mask is None or catalogue is None or "maskbits" not in catalogue:
        return
    _check_bits(one, catalogue, mask)
    if blobs is not None and blobs.shape == mask.shape and np.all(blobs < 0) and len(catalogue):
        one.fault(f"the map of blobs is empty, but the catalogue has {len(catalogue)} rows")


def _check_bits(one: _Brick, catalogue: Catalogue, mask: NDArray[Any]) -> None:
    ny, nx = mask.shape
    x, y, inside = pixels_of(catalogue["bx"], catalogue["by"], mask.shape)
    if not inside.all():
        one.fault(f"{int((~inside).sum())} rows lie outside of the image of {nx} x {ny} pixels")
    bits = mask[y[inside], x[inside]]
    kinds = int(MaskBit.BRIGHT | MaskBit.BAILOUT | MaskBit.MEDIUM | MaskBit.GALAXY)
    differs = (bits & kinds) != (np.asarray(catalogue["maskbits"])[inside] & kinds)
    # Rounding at the edge of a mask moves a row by at most a pixel.
    if differs.sum() > max(2, 0.01 * differs.size):
        one.fault(f"maskbits of {int(differs.sum())} rows are not those of their pixels")


def _check_catalogue(one: _Brick, catalogue: Catalogue) -> None:
    result = one.result
    result.n_objects = len(catalogue)
    bands = catalogue.bands()
    wanted = [*_NEEDED, *(f"{n}_{b}" for n in _NEEDED_BAND for b in bands)]
    missing = [n for n in wanted if n not in catalogue]
    if missing:
        one.fault(f"the catalogue lacks the columns {', '.join(missing)}")
        if any(n in missing for n in ("ra", "dec", "brick_primary", "objid", "brickname", "type")):
            return
    if not bands:
        one.fault("the catalogue has no flux of any band")
    result.n_primary = int(catalogue.primary.sum())
    if "maskbits" in catalogue:
        result.n_bailout = int(((catalogue["maskbits"] & int(MaskBit.BAILOUT)) > 0).sum())
    ra, dec = catalogue["ra"], catalogue["dec"]
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        one.fault("the catalogue has rows without a position")
    elif np.any((ra == 0) & (dec == 0)):
        one.fault(f"{int(((ra == 0) & (dec == 0)).sum())} rows are at RA = Dec = 0")
    if np.unique(catalogue["objid"]).size != len(catalogue):
        one.fault("objid is not unique")
    names = {n.decode().strip() for n in np.unique(catalogue["brickname"])}
    if names - {one.name} and is_brick_name(one.name):
        one.fault(f"the catalogue has rows of the brick {sorted(names - {one.name})[0]}")
    kinds = set(np.char.strip(np.unique(catalogue["type"])).tolist()) - _TYPES
    if kinds:
        one.fault(f"the catalogue has objects of the type {sorted(kinds)[0].decode()!r}")
    for name, values in catalogue.columns.items():
        # Gaia itself has no value for many stars, and the releases keep its columns.
        own = values.dtype.kind == "f" and not name.startswith("gaia_")
        if own and not np.isfinite(values).all():
            one.fault(f"the column {name} has values that are not finite")
        if "ivar" in name and values.dtype.kind == "f" and np.any(values < 0):
            one.fault(f"the column {name} has negative values")


def _check_place(one: _Brick, catalogue: Catalogue, where: Any) -> None:
    if any(n not in catalogue for n in ("ra", "dec", "brick_primary")):
        return
    inside = is_primary(where, ra=catalogue["ra"], dec=catalogue["dec"])
    wrong = int((catalogue.primary & ~inside).sum())
    if wrong:
        one.fault(f"{wrong} rows with brick_primary lie outside of the brick")


def _check_depth(one: _Brick, bands: Iterable[str]) -> None:
    hdus = one.open("depth-table")
    if hdus is None:
        return
    names = hdus[1].columns.names if len(hdus) > 1 else []
    missing = [
        f"counts_{k}_{b}" for b in bands for k in ("ptsrc", "gal") if f"counts_{k}_{b}" not in names
    ]
    if missing:
        one.fault(f"the table of depths lacks {', '.join(missing)}")


def _check_picture(one: _Brick, kind: str) -> None:
    path = one.folder.find(kind, brick=one.name)
    if path is None:
        one.fault(f"the file {kind} is missing")
        return
    try:
        with Image.open(path) as picture:
            picture.load()
        one.result.n_files += 1
    except (OSError, UnidentifiedImageError, SyntaxError) as exc:
        one.fault(f"{path} is no picture ({exc})")


def _check_sums(one: _Brick) -> None:
    listing = brick_checksum_path(one.folder, one.name)
    if not listing.is_file():
        one.fault("it has no list of checksums")
        return
    try:
        rows = read_checksums(listing)
    except SkymillError as exc:
        one.fault(str(exc))
        return
    for name, value in rows:
        path = one.folder.root / name
        path = path if path.is_file() else listing.parent / name
        if not path.is_file():
            one.fault(f"{name} stands in its list of checksums but is missing")
        elif file_hash(path) != value:
            one.fault(f"{name} differs from its checksum")
    if not rows:
        one.fault("its list of checksums is empty")


def check_release(
    folder: ReleaseFolder,
    *,
    bricks: Iterable[str] | None = None,
    pictures: bool = True,
    workers: int = 1,
) -> CheckReport:
    """Check every brick of a release.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    bricks : iterable of str, optional
        Bricks that the release has to have; without it, those of which there is anything.
    pictures : bool
        The bricks have to have their pictures.
    workers : int
        Processes.

    Returns
    -------
    CheckReport
        All faults.
    """
    report = CheckReport()
    present = set(folder.bricks())
    wanted = set(bricks) if bricks is not None else present
    for brick in sorted(wanted - present):
        report.problems.append(Problem(brick, "there is nothing of it"))
    for brick in sorted(present - wanted):
        report.problems.append(Problem(brick, "it is in the release but not in the list of bricks"))
    if not present:
        report.problems.append(Problem(str(folder.root), "it has no bricks"))
    report.problems += _leftovers(folder)
    work = functools.partial(_check_brick, root=folder.root, pictures=pictures)
    for brick, found in each(work, sorted(present), workers=workers):
        if isinstance(found, Problem):
            report.problems.append(Problem(brick, found.text))
        else:
            report.bricks.append(found)
    return report


def _leftovers(folder: ReleaseFolder) -> list[Problem]:
    """Files that an interrupted program left behind."""
    found = []
    for top in ("tractor", "tractor-i", "coadd", "metrics"):
        for path in (folder.root / top).rglob("*tmp*"):
            found.append(Problem(str(path), "an unfinished file"))
    return found

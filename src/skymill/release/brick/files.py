"""Files of a brick in the names, headers and compressions of the releases."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from PIL import Image

import skymill
from skymill.data.files import atomic_path
from skymill.model.fit_image import FitImage
from skymill.release.brick.bits import FIT_BITS, MASK_BITS, QUALITY_BITS, MaskBit
from skymill.release.brick.coadds import BandCoadd
from skymill.release.brick.grid import BrickGrid
from skymill.release.brick.options import BrickOptions
from skymill.release.columns import ReleaseColumn, ordered_columns
from skymill.release.fits_bytes import (
    Card,
    Compression,
    cards_of,
    compressed_image,
    empty_primary,
    image_primary,
    table,
)
from skymill.release.survey.layout import release_path

__all__ = [
    "brick_cards",
    "write_blobs",
    "write_catalogue",
    "write_ccds",
    "write_checksums",
    "write_coadds",
    "write_depth_table",
    "write_maskbits",
    "write_outliers",
    "write_pictures",
]

_LOSSLESS = Compression(algorithm="HCOMPRESS_1")
_FLOATS = Compression(algorithm="GZIP_1", step=0.0)
_PIXELS = Compression(algorithm="RICE_1", step=-1e-4, dither=2)
#: Compression of each kind of image.
_COMPRESSION = {
    "image": _PIXELS, "model": _PIXELS, "blobmodel": _PIXELS,
    "invvar": Compression(algorithm="RICE_1", step=16.0),
    "chi2": Compression(algorithm="RICE_1", step=-0.1),
    "nexp": _LOSSLESS, "maskbits": _LOSSLESS, "outlier": _LOSSLESS,
    "depth": _FLOATS, "galdepth": _FLOATS, "psfsize": _FLOATS,
}  # fmt: skip

_UNITS = {
    "image": "nanomaggy", "model": "nanomaggy", "blobmodel": "nanomaggy",
    "invvar": "1/nanomaggy^2", "depth": "1/nanomaggy^2", "galdepth": "1/nanomaggy^2",
    "psfsize": "arcsec",
}  # fmt: skip

_PRODUCTS = {
    "image": "image", "model": "model", "blobmodel": "blobmodel", "invvar": "wtmap",
    "chi2": "chi2", "nexp": "expmap", "depth": "psfdepth", "galdepth": "galdepth",
    "psfsize": "psfsize",
}  # fmt: skip

#: Lower edges of the depth histogram [mag]; the last bin ends at 100.
_DEPTH_EDGES = np.concatenate([[0.0], 20.1 + 0.1 * np.arange(50), [100.0]])


def brick_cards(
    grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage], *, bands: bool = True
) -> list[Card]:
    """Cards that all files of a brick share.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    options : BrickOptions
        Options.
    images : sequence of FitImage
        Exposures.
    bands : bool
        With the cards about bands and models.

    Returns
    -------
    list of Card
        The cards.
    """
    cards: list[Card] = [
        ("SKYMILLV", skymill.__version__, "version of skymill"),
        ("SURVEY", "DECaLS+BASS+MzLS", "The LegacySurveys"),
        ("DRVERSIO", options.release_number, "LegacySurveys Data Release number"),
        ("OBSTYPE", "object", "Observation type"),
        ("PROCTYPE", "tile", "Processing type"),
        ("BRICK", grid.name, "LegacySurveys brick RRRr[pm]DDd"),
        ("BRICKID", grid.index, "LegacySurveys brick id"),
    ]
    if not grid.is_custom:
        cards += [
            ("RAMIN", grid.ra_low, "Brick RA min (deg)"),
            ("RAMAX", grid.ra_high, "Brick RA max (deg)"),
            ("DECMIN", grid.dec_low, "Brick Dec min (deg)"),
            ("DECMAX", grid.dec_high, "Brick Dec max (deg)"),
        ]
    cards.append(("CENTRA", grid.ra, "Brick center RA (deg)"))
    cards.append(("CENTDEC", grid.dec, "Brick center Dec (deg)"))
    for k, (ra, dec) in enumerate(zip(*grid.corners, strict=True), start=1):
        cards.append((f"CORN{k}RA", float(ra), "Brick corner RA (deg)"))
        cards.append((f"CORN{k}DEC", float(dec), "Brick corner Dec (deg)"))
    if not bands:
        return cards
    for band in options.bands:
        cameras = sorted({im.camera for im in images if im.band == band})
        cards.append(
            (f"BRICK_{band.upper()}", bool(cameras), f"Does band {band} touch this brick?")
        )
        text = f"Cameras contributing band {band}"
        cards.append((f"CAMS_{band.upper()}", " ".join(cameras), text))
    touching = [b for b in options.bands if any(im.band == b for im in images)]
    cards.append(("BANDS", ",".join(touching), "Bands touching this brick"))
    cards.append(("NBANDS", len(options.bands), "Number of bands in this catalog"))
    cards += [(f"BAND{k}", b, "Band name in this catalog") for k, b in enumerate(options.bands)]
    words = ("PSF", "REX", "DEV", "EXP", "SER")
    return cards + [(f"DCHISQ_{k}", word, "") for k, word in enumerate(words)]


def _bit_cards() -> list[Card]:
    cards: list[Card] = []
    for bit, (key, text) in MASK_BITS.items():
        cards.append((key, int(bit), f"maskbits: {text}"[:47]))
    for fit_bit, (key, text) in FIT_BITS.items():
        cards.append((key, int(fit_bit), f"fitbits: {text}"[:47]))
    for quality, word in QUALITY_BITS.items():
        cards.append((f"AM_{word.upper()[:5]}", int(quality), f"allmask/anymask: {word}"))
    return cards


def _wcs_cards(grid: BrickGrid) -> list[Card]:
    own = grid.wcs.header
    scale = grid.pixel_scale / 3600.0
    return [
        ("CTYPE1", "RA---TAN", ""),
        ("CTYPE2", "DEC--TAN", ""),
        *[(key, float(own[key]), "") for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")],
        ("CD1_1", -scale, ""),
        ("CD1_2", 0.0, ""),
        ("CD2_1", 0.0, ""),
        ("CD2_2", scale, ""),
        ("CUNIT1", "deg", ""),
        ("CUNIT2", "deg", ""),
        ("EQUINOX", 2000.0, ""),
        ("RADESYS", "ICRS", ""),
    ]


def _write(path: Path, parts: Sequence[bytes]) -> Path:
    with atomic_path(path) as draft, draft.open("wb") as file:
        file.writelines(parts)
    return path


def _band_cards(images: Sequence[FitImage], band: str, kind: str) -> list[Card]:
    times = [im.mjd for im in images if im.band == band] or [0.0]
    cards: list[Card] = [
        ("FILTER", band, ""),
        ("MJD_MIN", float(min(times)), ""),
        ("MJD_MAX", float(max(times)), ""),
        ("MJD_MEAN", float(np.mean(times)), ""),
        ("IMTYPE", kind, "LegacySurveys image type"),
        ("PRODTYPE", _PRODUCTS.get(kind, kind), ""),
    ]
    if kind in ("image", "model", "blobmodel"):
        cards.append(("MAGZERO", 22.5, ""))
    if kind in _UNITS:
        cards.append(("BUNIT", _UNITS[kind], ""))
    return cards


def write_coadds(
    coadds: Mapping[str, BandCoadd],
    grid: BrickGrid,
    options: BrickOptions,
    images: Sequence[FitImage],
    sky: Mapping[str, float],
) -> list[Path]:
    """Write the images of all bands.

    Parameters
    ----------
    coadds : mapping of str to BandCoadd
        By band.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder.
    images : sequence of FitImage
        Exposures.
    sky : mapping of str to float [nanomaggy]
        Sky that was subtracted from each band.

    Returns
    -------
    list of Path
        The files.
    """
    base = brick_cards(grid, options, images, bands=False) + _wcs_cards(grid)
    out = []
    for band, coadd in coadds.items():
        planes: dict[str, NDArray[Any]] = {
            "image": coadd.image, "invvar": coadd.weight, "model": coadd.model,
            "blobmodel": coadd.blob_model, "chi2": coadd.chi2, "depth": coadd.depth,
            "galdepth": coadd.galaxy_depth, "nexp": coadd.n_exposures, "psfsize": coadd.psf_size,
        }  # fmt: skip
        for kind, data in planes.items():
            level: Card = (f"COSKY_{band.upper()}", float(sky.get(band, 0.0)), "sky subtracted")
            image = compressed_image(
                data, _COMPRESSION[kind], name=f"{kind.upper()}_{band}",
                cards=[*base, *_band_cards(images, band, kind), level],
            )  # fmt: skip
            path = release_path(options.out_dir, kind, brick=grid.name, band=band)
            out.append(_write(path, [empty_primary(), image]))
    return out


def write_maskbits(
    bits: NDArray[np.int32], grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage]
) -> Path:
    """Write the mask bits of the pixels.

    Parameters
    ----------
    bits : (ny, nx) int32
        Bits of `MaskBit`.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.
    images : sequence of FitImage
        The exposures.

    Returns
    -------
    Path
        The file.
    """
    names: list[Card] = [(f"MBIT_{int(b).bit_length() - 1}", str(b.name), "") for b in MaskBit]
    cards = [
        *brick_cards(grid, options, images), *_bit_cards(), *names, *_wcs_cards(grid),
        ("IMTYPE", "maskbits", "LegacySurveys image type"),
    ]  # fmt: skip
    path = release_path(options.out_dir, "maskbits", brick=grid.name)
    image = compressed_image(bits, _COMPRESSION["maskbits"], name="MASKBITS", cards=cards)
    return _write(path, [empty_primary(), image])


def write_outliers(
    masks: Sequence[NDArray[np.uint8]],
    grid: BrickGrid,
    options: BrickOptions,
    images: Sequence[FitImage],
) -> Path:
    """Write the outlier mask of each exposure: 1 above, 2 below the others.

    Parameters
    ----------
    masks : sequence of (ny, nx) uint8
        One an exposure.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.
    images : sequence of FitImage
        The exposures.

    Returns
    -------
    Path
        The file.
    """
    parts = [empty_primary()]
    for image, mask in zip(images, masks, strict=True):
        cards: list[Card] = [
            *cards_of(image.wcs.header),
            ("IMTYPE", "outlier_mask", "LegacySurveys image type"),
            ("CAMERA", image.camera, ""),
            ("EXPNUM", image.exposure, ""),
            ("CCDNAME", image.ccd, ""),
            ("X0", image.x0, ""),
            ("Y0", image.y0, ""),
        ]
        name = f"MASK-{image.camera}-{image.exposure}-{image.ccd}"
        pixels = mask.astype(np.uint8)
        parts.append(compressed_image(pixels, _COMPRESSION["outlier"], name=name, cards=cards))
    return _write(release_path(options.out_dir, "outlier-mask", brick=grid.name), parts)


def write_blobs(
    blobs: NDArray[np.int32], grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage]
) -> Path:
    """Write the number of the blob of each pixel.

    Parameters
    ----------
    blobs : (ny, nx) int32
        Number of the blob; -1 outside of all.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.
    images : sequence of FitImage
        The exposures.

    Returns
    -------
    Path
        The file.
    """
    cards = [
        *brick_cards(grid, options, images), *_wcs_cards(grid),
        ("IMTYPE", "blobmap", "LegacySurveys image type"),
    ]  # fmt: skip
    path = release_path(options.out_dir, "blobs", brick=grid.name)
    # Without name and time in it, equal maps make equal files.
    with (
        atomic_path(path) as draft,
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
    ):
        file.write(image_primary(blobs, cards))
    return path


def write_depth_table(
    coadds: Mapping[str, BandCoadd], grid: BrickGrid, options: BrickOptions
) -> Path:
    """Write the histogram of the 5-sigma depth of the primary pixels.

    Parameters
    ----------
    coadds : mapping of str to BandCoadd
        By band.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.

    Returns
    -------
    Path
        The file.
    """
    primary = grid.primary_pixels()
    columns: dict[str, NDArray[Any]] = {
        "depthlo": _DEPTH_EDGES[:-2].astype(np.float32),
        "depthhi": np.append(_DEPTH_EDGES[1:-2], 100).astype(np.float32),
    }
    edges = np.append(_DEPTH_EDGES[:-2], 100.0)
    for band in options.bands:
        coadd = coadds.get(band)
        for word, plane in (
            ("ptsrc", None if coadd is None else coadd.depth),
            ("gal", None if coadd is None else coadd.galaxy_depth),
        ):
            counts = np.zeros(edges.size - 1, np.int32)
            if plane is not None:
                values = plane[primary].astype(np.float64)
                with np.errstate(divide="ignore"):
                    depth = np.where(values > 0, 22.5 - 2.5 * np.log10(5.0 / np.sqrt(values)), 0.0)
                counts = np.histogram(np.clip(depth, 0, 99.9), edges)[0].astype(np.int32)
            columns[f"counts_{word}_{band}"] = counts
    path = release_path(options.out_dir, "depth-table", brick=grid.name)
    return _write(path, [empty_primary(), table(columns, name="DEPTH")])


def write_ccds(
    ccds: Table, grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage]
) -> Path:
    """Write the rows of survey-ccds of the exposures that were used.

    Parameters
    ----------
    ccds : Table
        Rows of survey-ccds.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.
    images : sequence of FitImage
        The exposures.

    Returns
    -------
    Path
        The file.
    """
    units = {name: str(ccds[name].unit) for name in ccds.colnames if ccds[name].unit is not None}
    hdu = table(
        {name: np.asarray(ccds[name]) for name in ccds.colnames},
        name="CCDS", units=units, cards=brick_cards(grid, options, images),
    )  # fmt: skip
    return _write(release_path(options.out_dir, "ccds", brick=grid.name), [empty_primary(), hdu])


def write_catalogue(
    kind: str,
    columns: Sequence[ReleaseColumn],
    values: Mapping[str, NDArray[Any]],
    grid: BrickGrid,
    options: BrickOptions,
    images: Sequence[FitImage],
) -> Path:
    """Write a table of objects.

    Parameters
    ----------
    kind : str
        ``tractor``, ``tractor-i`` or ``all-models``.
    columns : sequence of ReleaseColumn
        Which ones.
    values : mapping of str to array
        All columns.
    grid, options, images
        As for the other files.

    Returns
    -------
    Path
        The file.
    """
    cards = brick_cards(grid, options, images) + _bit_cards()
    hdu = table(
        ordered_columns(columns, values, name="CATALOG"),
        name="CATALOG",
        units={c.name: c.unit for c in columns if c.unit},
    )
    path = release_path(options.out_dir, kind, brick=grid.name)
    return _write(path, [empty_primary(cards), hdu])


def write_pictures(
    coadds: Mapping[str, BandCoadd], grid: BrickGrid, options: BrickOptions
) -> list[Path]:
    """Write colour pictures of image, model and residual.

    Parameters
    ----------
    coadds : mapping of str to BandCoadd
        By band.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.

    Returns
    -------
    list of Path
        The files.
    """
    planes = {
        "image": [c.image for c in coadds.values()],
        "model": [c.model for c in coadds.values()],
        "resid": [c.image - c.model for c in coadds.values()],
    }
    out = []
    for kind, images in planes.items():
        rgb = _picture(images, [c.weight for c in coadds.values()], list(coadds))
        path = release_path(options.out_dir, f"{kind}-jpeg", brick=grid.name)
        with atomic_path(path) as draft:
            Image.fromarray(rgb[::-1]).save(draft, format="JPEG", quality=90)
        out.append(path)
    return out


#: Flux of a pixel [nanomaggy] that is grey in each band.
_SCALES = {"u": 0.0066, "g": 0.0066, "r": 0.01, "i": 0.02, "z": 0.025, "Y": 0.025}
#: Which channel (blue, green, red) a band belongs to.
_CHANNEL = {"u": 0, "g": 0, "r": 1, "i": 2, "z": 2, "Y": 2}


def _picture(
    images: Sequence[NDArray[np.float32]], weights: Sequence[NDArray[np.float32]],
    bands: Sequence[str],
) -> NDArray[np.uint8]:  # fmt: skip
    """Colours of fixed scale, the same in image, model and residual."""
    shape = images[0].shape
    planes: list[list[NDArray[np.floating[Any]]]] = [[], [], []]
    for image, weight, band in zip(images, weights, bands, strict=True):
        used = np.where(weight > 0, image, np.float32(0.0))
        planes[_CHANNEL.get(band, 1)].append(used / np.float32(_SCALES.get(band, 0.01)))
    blank = np.zeros(shape, np.float32)
    known = [np.mean(p, axis=0) if p else None for p in planes]
    fill = np.mean([k for k in known if k is not None], axis=0) if any(planes) else blank
    blue, green, red = (fill if k is None else k for k in known)
    mean = np.maximum((red + green + blue) / 3.0 + 0.06, 1e-3)
    compressed = np.arcsinh(20.0 * mean * 0.006) / (np.sqrt(20.0) * mean * 0.006)
    rgb = np.stack([(c + 0.06) * compressed * 0.006 for c in (red, green, blue)], axis=-1)
    brightest = rgb.max(axis=-1, keepdims=True)
    rgb = np.where(brightest > 1.0, rgb / np.maximum(brightest, 1e-6), rgb)
    return (255.0 * np.clip(rgb, 0.0, 1.0)).astype(np.uint8)


def write_checksums(paths: Sequence[Path], grid: BrickGrid, options: BrickOptions) -> Path:
    """Write the SHA-256 of every file of the brick, below the folder of the release.

    Parameters
    ----------
    paths : sequence of Path
        The files.
    grid : BrickGrid
        The brick.
    options : BrickOptions
        For the folder and the header.

    Returns
    -------
    Path
        The file.
    """
    root = Path(options.out_dir)
    lines = []
    for path in sorted(set(paths)):
        with path.open("rb") as file:
            value = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{value} *{path.relative_to(root)}\n")
    target = release_path(root, "brick-checksums", brick=grid.name)
    with atomic_path(target) as draft:
        draft.write_text("".join(lines))
    return target

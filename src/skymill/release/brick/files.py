"""Files of a brick in the names, headers and compressions of the releases."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
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
from skymill.release.columns import ReleaseColumn, table_hdu
from skymill.release.survey.layout import release_path

__all__ = [
    "brick_header",
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

#: Compression of each kind of image: algorithm, step of quantization, dither. A negative step is
#: absolute, None is lossless. Dithering of kind 2 keeps zeros.
_COMPRESSION: dict[str, tuple[str, float | None, int]] = {
    "image": ("RICE_1", -1e-4, 2),
    "model": ("RICE_1", -1e-4, 2),
    "blobmodel": ("RICE_1", -1e-4, 2),
    "invvar": ("RICE_1", 16.0, -1),
    "chi2": ("RICE_1", -0.1, -1),
    "nexp": ("HCOMPRESS_1", None, -1),
    "maskbits": ("HCOMPRESS_1", None, -1),
    "outlier": ("HCOMPRESS_1", None, -1),
    "depth": ("GZIP_1", 0.0, -1),
    "galdepth": ("GZIP_1", 0.0, -1),
    "psfsize": ("GZIP_1", 0.0, -1),
}

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


def brick_header(
    grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage], *, table: bool = True
) -> fits.Header:
    """Cards that all files of a brick share.

    Parameters
    ----------
    grid : BrickGrid
        The brick.
    options : BrickOptions
        Options.
    images : sequence of FitImage
        Exposures.
    table : bool
        With the cards about bands and models.

    Returns
    -------
    astropy.io.fits.Header
        The cards.
    """
    header = fits.Header()
    header["SKYMILLV"] = (skymill.__version__, "version of skymill")
    header["SURVEY"] = ("DECaLS+BASS+MzLS", "The LegacySurveys")
    header["DRVERSIO"] = (options.release_number, "LegacySurveys Data Release number")
    header["OBSTYPE"] = ("object", "Observation type")
    header["PROCTYPE"] = ("tile", "Processing type")
    header["BRICK"] = (grid.name, "LegacySurveys brick RRRr[pm]DDd")
    header["BRICKID"] = (grid.index, "LegacySurveys brick id")
    if not grid.is_custom:
        header["RAMIN"] = (grid.ra_low, "Brick RA min (deg)")
        header["RAMAX"] = (grid.ra_high, "Brick RA max (deg)")
        header["DECMIN"] = (grid.dec_low, "Brick Dec min (deg)")
        header["DECMAX"] = (grid.dec_high, "Brick Dec max (deg)")
    header["CENTRA"] = (grid.ra, "Brick center RA (deg)")
    header["CENTDEC"] = (grid.dec, "Brick center Dec (deg)")
    for k, (ra, dec) in enumerate(zip(*grid.corners, strict=True), start=1):
        header[f"CORN{k}RA"] = (float(ra), "Brick corner RA (deg)")
        header[f"CORN{k}DEC"] = (float(dec), "Brick corner Dec (deg)")
    if not table:
        return header
    for band in options.bands:
        cameras = sorted({im.camera for im in images if im.band == band})
        header[f"BRICK_{band.upper()}"] = (bool(cameras), f"Does band {band} touch this brick?")
        header[f"CAMS_{band.upper()}"] = (" ".join(cameras), f"Cameras contributing band {band}")
    touching = [b for b in options.bands if any(im.band == b for im in images)]
    header["BANDS"] = (",".join(touching), "Bands touching this brick")
    header["NBANDS"] = (len(options.bands), "Number of bands in this catalog")
    for k, band in enumerate(options.bands):
        header[f"BAND{k}"] = (band, "Band name in this catalog")
    for k, word in enumerate(("PSF", "REX", "DEV", "EXP", "SER")):
        header[f"DCHISQ_{k}"] = word
    return header


def _bit_cards(header: fits.Header) -> None:
    for bit, (key, text) in MASK_BITS.items():
        header[key] = (int(bit), f"maskbits: {text}"[:47])
    for fit_bit, (key, text) in FIT_BITS.items():
        header[key] = (int(fit_bit), f"fitbits: {text}"[:47])
    for quality, word in QUALITY_BITS.items():
        header[f"AM_{word.upper()[:5]}"] = (int(quality), f"allmask/anymask: {word}")


def _wcs_cards(header: fits.Header, grid: BrickGrid) -> None:
    own = grid.wcs.header
    scale = grid.pixel_scale / 3600.0
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    for key in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        header[key] = own[key]
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -scale, 0.0, 0.0, scale
    header["CUNIT1"], header["CUNIT2"] = "deg", "deg"
    header["EQUINOX"] = 2000.0
    header["RADESYS"] = "ICRS"


def _tile(n: int) -> int:
    """Width of a tile: about 100, such that no rest of fewer than 4 pixels is left."""
    width = min(100, n)
    while 0 < n % width < 4:
        width += 1
    return width


def _compressed(kind: str, data: NDArray[Any], header: fits.Header, name: str) -> fits.CompImageHDU:
    algorithm, step, dither = _COMPRESSION[kind]
    tile = tuple(_tile(n) for n in data.shape)
    words: dict[str, Any] = {"compression_type": algorithm, "tile_shape": tile}
    if algorithm == "HCOMPRESS_1":
        words["hcomp_scale"] = 0.0
        if min(data.shape) < 4:
            words = {"compression_type": "GZIP_1", "tile_shape": tile}
    elif step == 0.0:
        words["quantize_level"] = 0.0
    elif step is not None:
        words |= {"quantize_level": step, "quantize_method": dither}
        if dither > 0:
            words["dither_seed"] = -1
    return fits.CompImageHDU(np.ascontiguousarray(data), header=header, name=name, **words)


def _write(path: Path, hdus: list[Any]) -> Path:
    with atomic_path(path) as draft:
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(draft, checksum=False)
    return path


def _band_header(
    base: fits.Header, grid: BrickGrid, images: Sequence[FitImage], band: str, kind: str
) -> fits.Header:
    header = base.copy()
    _wcs_cards(header, grid)
    times = [im.mjd for im in images if im.band == band]
    header["FILTER"] = band
    header["MJD_MIN"], header["MJD_MAX"] = (min(times), max(times)) if times else (0.0, 0.0)
    header["MJD_MEAN"] = float(np.mean(times)) if times else 0.0
    header["IMTYPE"] = (kind, "LegacySurveys image type")
    header["PRODTYPE"] = _PRODUCTS.get(kind, kind)
    if kind in ("image", "model", "blobmodel"):
        header["MAGZERO"] = 22.5
    if kind in _UNITS:
        header["BUNIT"] = _UNITS[kind]
    return header


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
    base = brick_header(grid, options, images, table=False)
    out = []
    for band, coadd in coadds.items():
        planes: dict[str, NDArray[Any]] = {
            "image": coadd.image, "invvar": coadd.weight, "model": coadd.model,
            "blobmodel": coadd.blob_model, "chi2": coadd.chi2, "depth": coadd.depth,
            "galdepth": coadd.galaxy_depth, "nexp": coadd.n_exposures, "psfsize": coadd.psf_size,
        }  # fmt: skip
        for kind, data in planes.items():
            header = _band_header(base, grid, images, band, kind)
            header[f"COSKY_{band.upper()}"] = (float(sky.get(band, 0.0)), "sky subtracted")
            path = release_path(options.out_dir, kind, brick=grid.name, band=band)
            hdu = _compressed(kind, data, header, f"{kind.upper()}_{band}")
            out.append(_write(path, [hdu]))
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
    header = brick_header(grid, options, images)
    _bit_cards(header)
    for bit in MaskBit:
        header[f"MBIT_{int(bit).bit_length() - 1}"] = bit.name
    _wcs_cards(header, grid)
    header["IMTYPE"] = ("maskbits", "LegacySurveys image type")
    path = release_path(options.out_dir, "maskbits", brick=grid.name)
    return _write(path, [_compressed("maskbits", bits, header, "MASKBITS")])


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
    hdus: list[Any] = []
    for image, mask in zip(images, masks, strict=True):
        header = image.wcs.header
        header["IMTYPE"] = ("outlier_mask", "LegacySurveys image type")
        header["CAMERA"], header["EXPNUM"] = image.camera, image.exposure
        header["CCDNAME"] = image.ccd
        header["X0"], header["Y0"] = image.x0, image.y0
        name = f"MASK-{image.camera}-{image.exposure}-{image.ccd}"
        hdus.append(_compressed("outlier", mask.astype(np.uint8), header, name))
    return _write(release_path(options.out_dir, "outlier-mask", brick=grid.name), hdus)


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
    header = brick_header(grid, options, images)
    _wcs_cards(header, grid)
    header["IMTYPE"] = ("blobmap", "LegacySurveys image type")
    path = release_path(options.out_dir, "blobs", brick=grid.name)
    # Without name and time in it, equal maps make equal files.
    with (
        atomic_path(path) as draft,
        draft.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
    ):
        fits.PrimaryHDU(blobs, header=header).writeto(file)
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
    columns = [
        fits.Column("depthlo", "E", array=_DEPTH_EDGES[:-2].astype(np.float32)),
        fits.Column("depthhi", "E", array=np.append(_DEPTH_EDGES[1:-2], 100).astype(np.float32)),
    ]
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
            columns.append(fits.Column(f"counts_{word}_{band}", "J", array=counts))
    path = release_path(options.out_dir, "depth-table", brick=grid.name)
    return _write(path, [fits.BinTableHDU.from_columns(columns, name="DEPTH")])


def write_ccds(
    table: Table, grid: BrickGrid, options: BrickOptions, images: Sequence[FitImage]
) -> Path:
    """Write the rows of survey-ccds of the exposures that were used.

    Parameters
    ----------
    table : Table
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
    own = Table(table, copy=True)
    own.meta.clear()
    for name in own.colnames:
        if own[name].dtype.kind == "U":
            own[name] = np.asarray(own[name]).astype("S")
    hdu = fits.table_to_hdu(own)
    hdu.name = "CCDS"
    hdu.header.extend(brick_header(grid, options, images), update=True)
    return _write(release_path(options.out_dir, "ccds", brick=grid.name), [hdu])


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
    header = brick_header(grid, options, images)
    _bit_cards(header)
    path = release_path(options.out_dir, kind, brick=grid.name)
    with atomic_path(path) as draft:
        fits.HDUList(
            [fits.PrimaryHDU(header=header), table_hdu(columns, values, name="CATALOG")]
        ).writeto(draft)
    return path


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

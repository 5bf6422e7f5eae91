"""Parts of Rice-compressed images: only the rows that are asked for are decoded.

The compression is that of the FITS standard 4.0 (section 10): one tile a row, Rice coding, floats
quantized with or without subtractive dither.
"""

from __future__ import annotations

import functools
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.instruments._rice_kernels import decode_floats, decode_integers
from skymill.instruments.first_table import COLUMN_TYPES

__all__ = ["read_rice_section"]

#: Bits of the number of split bits of a block, and its largest value, by bytes of a pixel.
_SPLITS = {1: (3, 6), 2: (4, 14), 4: (5, 25)}
_DITHERS = {"NO_DITHER": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}


@functools.cache
def _randoms() -> NDArray[np.float32]:
    """The 10 000 random numbers of the standard, appendix I."""
    out, seed = np.empty(10000), 1
    for k in range(out.size):
        seed = seed * 16807 % 2147483647
        out[k] = seed / 2147483647.0
    return out.astype(np.float32)


def _settings(header: fits.Header) -> dict[str, int]:
    out = {"BLOCKSIZE": 32, "BYTEPIX": 4}
    k = 1
    while f"ZNAME{k}" in header:
        out[str(header[f"ZNAME{k}"]).strip().upper()] = header[f"ZVAL{k}"]
        k += 1
    return out


def _row_type(header: fits.Header) -> np.dtype[Any] | None:
    """Layout of a row of the table; None if it has columns of another kind."""
    fields: list[Any] = []
    for k in range(1, int(header["TFIELDS"]) + 1):
        form = re.fullmatch(r"1?(?:([PQ])([A-Z])\(\d*\)|([A-Z]))", str(header[f"TFORM{k}"]).strip())
        if form is None:
            return None
        name = str(header[f"TTYPE{k}"]).strip()
        if form.group(1):
            fields.append((name, ">i4" if form.group(1) == "P" else ">i8", (2,)))
        elif form.group(3) in COLUMN_TYPES:
            fields.append((name, COLUMN_TYPES[form.group(3)]))
        else:
            return None
    found = np.dtype(fields)
    return found if found.itemsize == header["NAXIS1"] else None


def _is_known(header: fits.Header) -> bool:
    """Rows of Rice-coded pixels, of a kind that is decoded here."""
    shape = header.get("ZNAXIS1"), header.get("ZNAXIS2")
    plain = header.get("BZERO", 0) in (0, 0.0) and header.get("BSCALE", 1) in (1, 1.0)
    return (
        header.get("ZCMPTYPE") in ("RICE_1", "RICE_ONE")
        and header.get("ZNAXIS") == 2
        and header.get("ZTILE1", shape[0]) == shape[0]
        and header.get("ZTILE2", 1) == 1
        and header.get("ZBITPIX") in (8, 16, 32, -32)
        and header.get("ZQUANTIZ", "NO_DITHER") in _DITHERS
        and plain
        and "ZMASKCMP" not in header
        and header.get("NAXIS2") == shape[1]
    )


def read_rice_section(
    path: str | Path, hdu: fits.BinTableHDU, box: tuple[int, int, int, int]
) -> NDArray[Any] | None:
    """Read a part of a Rice-compressed image.

    Parameters
    ----------
    path : path
        The file, not itself compressed.
    hdu : astropy.io.fits.BinTableHDU
        The extension, opened with ``disable_image_compression=True``.
    box : (x0, x1, y0, y1) [pixel]
        The part, 0-based and half open, within the image.

    Returns
    -------
    (ny, nx) float32 or int32, or None
        None if the image is compressed in another way.

    Raises
    ------
    OSError
        If the file is truncated or damaged; without the name of the file.
    """
    header = hdu.header
    row_type = _row_type(header) if _is_known(header) else None
    settings = _settings(header)
    if row_type is None or settings["BYTEPIX"] not in _SPLITS:
        return None
    names = row_type.names or ()
    floats = header["ZBITPIX"] == -32
    if "COMPRESSED_DATA" not in names or floats != ("ZSCALE" in names):
        return None
    if floats and settings["BYTEPIX"] != 4:
        return None
    place = hdu.fileinfo()["datLoc"]
    x0, x1, y0, y1 = box
    with Path(path).open("rb") as file:
        file.seek(place + y0 * row_type.itemsize)
        table = file.read((y1 - y0) * row_type.itemsize)
        if len(table) < (y1 - y0) * row_type.itemsize:
            raise OSError("the table of compressed rows ends early")
        rows = np.frombuffer(table, row_type)
        heap = place + int(header.get("THEAP", header["NAXIS1"] * header["NAXIS2"]))
        sizes = rows["COMPRESSED_DATA"][:, 0].astype(np.int64)
        offsets = rows["COMPRESSED_DATA"][:, 1].astype(np.int64)
        used = sizes > 0
        first = int(offsets[used].min()) if used.any() else 0
        last = int((offsets + sizes)[used].max()) if used.any() else 0
        if not 0 <= first <= last <= int(header["PCOUNT"]):
            raise OSError("a compressed row lies outside of its table")
        file.seek(heap + first)
        data = np.empty(last - first, np.uint8)
        if file.readinto(memoryview(data)) < data.size:
            raise OSError("the compressed pixels end early")
        if floats:
            out = np.empty((y1 - y0, x1 - x0), np.float32)
            bad = _decode_floats(header, rows, data, offsets - first, sizes, y0, x0, out)
            for k in np.flatnonzero(~used):
                out[k] = _other_row(file, heap, rows[k], int(header["ZNAXIS1"]))[x0:x1]
        else:
            out = np.empty((y1 - y0, x1 - x0), np.int32)
            split = _SPLITS[settings["BYTEPIX"]]
            bad = decode_integers(
                data, offsets - first, sizes, x0, settings["BLOCKSIZE"],
                8 * settings["BYTEPIX"], *split, out,
            )  # fmt: skip
    if bad >= 0:
        raise OSError(f"row {y0 + bad} cannot be decompressed")
    return out


def _decode_floats(
    header: fits.Header,
    rows: NDArray[Any],
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    y0: int,
    x0: int,
    out: NDArray[np.float32],
) -> int:
    tiles = np.arange(y0, y0 + out.shape[0], dtype=np.int64)
    scale, zero = (rows[name].astype(np.float64) for name in ("ZSCALE", "ZZERO"))
    dither = _DITHERS[header.get("ZQUANTIZ", "NO_DITHER")]
    return int(
        decode_floats(
            data,
            offsets,
            sizes,
            tiles,
            x0,
            _settings(header)["BLOCKSIZE"],
            scale,
            zero,
            int(header.get("ZBLANK", -2147483648)),
            dither,
            int(header.get("ZDITHER0", 1)),
            _randoms(),
            out,
        )
    )


def _other_row(file: Any, heap: int, row: Any, width: int) -> NDArray[Any]:
    """A row whose pixels could not be quantized: its floats, with gzip or as they are."""
    for name in ("GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"):
        if name in row.dtype.names and row[name][0] > 0:
            size, offset = int(row[name][0]), int(row[name][1])
            file.seek(heap + offset)
            content = file.read(size if name.startswith("GZIP") else 4 * size)
            try:
                if name.startswith("GZIP"):
                    content = zlib.decompress(content, wbits=47)
                return np.frombuffer(content, ">f4", count=width)
            except (ValueError, zlib.error) as err:
                raise OSError(f"a row of floats cannot be decompressed: {err}") from err
    raise OSError("a compressed row has no pixels")

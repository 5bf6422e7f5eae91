"""FITS files of many small pieces: headers, tables and tiled compressed images as plain bytes.

A brick is some thirty files of a few kilobytes. Building each of them card by card takes far longer
than compressing its pixels: here a header is formatted once, and the data are put behind it.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError

try:
    from astropy.io.fits.hdu.compressed._tiled_compression import compress_image_data
except ImportError:  # pragma: no cover - another version of astropy; slower, the same files.
    compress_image_data = None

__all__ = [
    "Card",
    "Compression",
    "cards_of",
    "compressed_image",
    "empty_primary",
    "image_primary",
    "table",
]

#: Keyword, value, comment.
Card = tuple[str, bool | int | float | str, str]

_BLOCK = 2880
_FORMATS = {
    "b1": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D",
}  # fmt: skip
_DITHERS = {-1: "NO_DITHER", 1: "SUBTRACTIVE_DITHER_1", 2: "SUBTRACTIVE_DITHER_2"}


@dataclass(frozen=True, kw_only=True)
class Compression:
    """How the tiles of an image are compressed.

    Parameters
    ----------
    algorithm : str
        ``RICE_1``, ``HCOMPRESS_1`` or ``GZIP_1``; the latter two without loss.
    step : float, optional
        Quantization of floats: a negative step is absolute, a positive one is a part of the noise.
        None or 0 is lossless.
    dither : int
        -1 none, 1 or 2 subtractive; 2 keeps zeros.
    """

    algorithm: str
    step: float | None = None
    dither: int = -1


def _value(value: bool | int | float | str) -> str:
    """A value as the standard's fixed format has it."""
    if isinstance(value, bool | np.bool_):
        return f"{'T' if value else 'F':>20}"
    if isinstance(value, int | np.integer):
        return f"{int(value):>20d}"
    if isinstance(value, float | np.floating):
        number = float(value)
        if not math.isfinite(number):
            raise DataError(f"a FITS header holds finite numbers only; got {number}")
        text = repr(number).replace("e", "E")
        digits = 17
        while len(text) > 20:
            digits -= 1
            text = f"{number:.{digits}G}"
        return f"{text:>20}"
    quoted = str(value).replace("'", "''")
    text = f"'{quoted:<8}'"
    if len(text) > 70 or not text.isascii():
        raise DataError(f"a word of a FITS header has at most 68 ASCII characters; got {value!r}")
    return f"{text:<20}"


def _header(cards: Sequence[Card]) -> bytes:
    """Cards with their end, padded to whole blocks."""
    lines = []
    for key, value, comment in cards:
        line = f"{key:<8}= {_value(value)}"
        lines.append((f"{line} / {comment}" if comment else line)[:80].ljust(80))
    lines.append("END".ljust(80))
    return _padded("".join(lines).encode("ascii"), b" ")


def _padded(data: bytes, filler: bytes = b"\0") -> bytes:
    return data + filler * (-len(data) % _BLOCK)


def cards_of(header: fits.Header) -> list[Card]:
    """The cards of a header that have a value.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Any header.

    Returns
    -------
    list of Card
        Without comments, history and what describes the data.
    """
    structure = {"SIMPLE", "XTENSION", "BITPIX", "EXTEND", "PCOUNT", "GCOUNT", "EXTNAME", "NAXIS"}
    return [
        (card.keyword, card.value, card.comment)
        for card in header.cards
        if card.keyword not in structure | {"", "COMMENT", "HISTORY", "NAXIS1", "NAXIS2"}
    ]


def empty_primary(cards: Sequence[Card] = ()) -> bytes:
    """The first part of a file whose data lie in extensions.

    Parameters
    ----------
    cards : sequence of Card
        More cards.

    Returns
    -------
    bytes
        The header.
    """
    first: list[Card] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 0, "number of array dimensions"),
        ("EXTEND", True, ""),
    ]
    return _header([*first, *cards])


def image_primary(data: NDArray[Any], cards: Sequence[Card] = ()) -> bytes:
    """A file that is one image without compression.

    Parameters
    ----------
    data : (ny, nx) int or float
        The pixels.
    cards : sequence of Card
        More cards.

    Returns
    -------
    bytes
        Header and pixels.
    """
    first: list[Card] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", _bitpix(data), "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", data.shape[1], ""),
        ("NAXIS2", data.shape[0], ""),
        ("EXTEND", True, ""),
    ]
    pixels = data.astype(data.dtype.newbyteorder(">")).tobytes()
    return _header([*first, *cards]) + _padded(pixels)


def _bitpix(data: NDArray[Any]) -> int:
    bits = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
    kind = data.dtype.str[1:]
    if kind not in bits:
        raise DataError(f"an image of a FITS file cannot hold {data.dtype}")
    return bits[kind]


def table(
    columns: Mapping[str, NDArray[Any]],
    *,
    name: str,
    units: Mapping[str, str] | None = None,
    cards: Sequence[Card] = (),
) -> bytes:
    """A binary table.

    Parameters
    ----------
    columns : mapping of str to (n, ...) array
        Booleans, bytes, integers, floats, or words.
    name : str
        ``EXTNAME``.
    units : mapping of str to str, optional
        Units by name of the column.
    cards : sequence of Card
        More cards.

    Returns
    -------
    bytes
        Header and rows.
    """
    fields, own, formats = [], [], []
    n = 0
    for key, values in columns.items():
        array = np.asarray(values)
        n = len(array)
        if array.dtype.kind in "SU":
            array = array.astype("S")
            width = max(1, array.dtype.itemsize)
            fields.append((key, f"S{width}"))
            form = f"{width}A"
        else:
            kind = array.dtype.str[1:]
            if kind not in _FORMATS or array.ndim > 2:
                raise DataError(f"the column {key} cannot be written: it holds {array.dtype}")
            count = array.shape[1] if array.ndim == 2 else 1
            fields.append((key, "S1" if kind == "b1" else ">" + kind, array.shape[1:]))  # type: ignore[arg-type]
            form = (str(count) if count > 1 else "") + _FORMATS[kind]
            if kind == "b1":
                array = np.where(array, b"T", b"F")
        own.append(array)
        formats.append((key, form, (units or {}).get(key, "")))
    rows = np.zeros(n, np.dtype(fields))
    for (key, *_), array in zip(fields, own, strict=True):
        rows[key] = array
    head = _table_cards(rows.dtype.itemsize, n, 0, formats)
    return _header([*head, ("EXTNAME", name, "extension name"), *cards]) + _padded(rows.tobytes())


def _table_cards(
    width: int, rows: int, heap: int, columns: Sequence[tuple[str, str, str]]
) -> list[Card]:
    cards: list[Card] = [
        ("XTENSION", "BINTABLE", "binary table extension"),
        ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", width, "length of dimension 1"),
        ("NAXIS2", rows, "length of dimension 2"),
        ("PCOUNT", heap, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(columns), "number of table fields"),
    ]
    for k, (key, form, unit) in enumerate(columns, start=1):
        cards += [(f"TTYPE{k}", key, ""), (f"TFORM{k}", form, "")]
        if unit:
            cards.append((f"TUNIT{k}", unit, ""))
    return cards


def _tile(n: int) -> int:
    """Width of a tile: about 100, such that no rest of fewer than 4 pixels is left."""
    width = min(100, n)
    while 0 < n % width < 4:
        width += 1
    return width


def _seed(first_tile: NDArray[Any]) -> int:
    """A start of the dither that equal pixels share: the sum of their bytes."""
    return int(np.ascontiguousarray(first_tile).view(np.uint8).sum(dtype=np.uint64) % 10000) + 1


def compressed_image(
    data: NDArray[Any], compression: Compression, *, name: str, cards: Sequence[Card] = ()
) -> bytes:
    """An image in compressed tiles, by the tiled image convention of FITS.

    Parameters
    ----------
    data : (ny, nx) int or float
        The pixels.
    compression : Compression
        How.
    name : str
        ``EXTNAME``.
    cards : sequence of Card
        More cards.

    Returns
    -------
    bytes
        Header, table of tiles and their bytes.

    References
    ----------
    Pence et al. 2010, A&A 524, A42, section 10.
    """
    data = np.ascontiguousarray(data)
    tile = (_tile(data.shape[0]), _tile(data.shape[1]))
    algorithm = compression.algorithm
    if algorithm == "HCOMPRESS_1" and min(data.shape) < 4:
        algorithm = "GZIP_1"
    if compress_image_data is None:  # pragma: no cover
        return _slowly(data, compression, algorithm, tile, name, cards)
    quantized = bool(compression.step) and data.dtype.kind == "f"
    words = _settings(algorithm, compression.step)
    about: list[Card] = [
        ("ZIMAGE", True, "extension contains compressed image"),
        ("ZTENSION", "IMAGE", "Image extension"),
        ("ZBITPIX", _bitpix(data), "array data type"),
        ("ZNAXIS", 2, "number of array dimensions"),
        ("ZNAXIS1", data.shape[1], ""),
        ("ZNAXIS2", data.shape[0], ""),
        ("ZPCOUNT", 0, "number of parameters"),
        ("ZGCOUNT", 1, "number of groups"),
        ("ZTILE1", tile[1], "size of tiles to be compressed"),
        ("ZTILE2", tile[0], "size of tiles to be compressed"),
        ("ZCMPTYPE", algorithm, "compression algorithm"),
    ]
    for k, (key, value) in enumerate(words, start=1):
        about += [(f"ZNAME{k}", key, ""), (f"ZVAL{k}", value, "")]
    if quantized:
        about.append(("ZQUANTIZ", _DITHERS[compression.dither], "pixel quantization algorithm"))
        if compression.dither > 0:
            seed = _seed(data[: tile[0], : tile[1]])
            about.append(("ZDITHER0", seed, "dithering offset when quantizing floats"))
    names = ["COMPRESSED_DATA"]
    if quantized:
        names += ["GZIP_COMPRESSED_DATA", "ZSCALE", "ZZERO"]
    if algorithm == "GZIP_1" and not quantized:
        body, dtype, n_tile = _gzipped(data, tile)
    else:
        body, dtype, n_tile = _encoded(data, algorithm, about, names)
    heap = len(body) - n_tile * dtype.itemsize
    longest = _longest(body, dtype, n_tile)
    forms = [f"1PB({longest[0]})", f"1PB({longest[-1]})", "1D", "1D"]
    columns = [(key, form, "") for key, form in zip(names, forms[: len(names)], strict=True)]
    head = _table_cards(dtype.itemsize, n_tile, heap, columns)
    return _header([*head, *about, ("EXTNAME", name, "extension name"), *cards]) + _padded(body)


def _settings(algorithm: str, step: float | None) -> list[tuple[str, int | float]]:
    if algorithm == "HCOMPRESS_1":
        return [("SCALE", 0.0), ("SMOOTH", 0)]
    words: list[tuple[str, int | float]] = []
    if algorithm == "RICE_1":
        words += [("BLOCKSIZE", 32), ("BYTEPIX", 4)]
    if step is not None:
        words.append(("NOISEBIT", step))
    return words


def _gzipped(data: NDArray[Any], tile: tuple[int, int]) -> tuple[bytes, np.dtype[Any], int]:
    """As `_encoded`, without loss; noise takes a seventh of the time of the highest level."""
    pixels, parts = data.astype(data.dtype.newbyteorder(">"), copy=False), []
    for y in range(0, data.shape[0], tile[0]):
        for x in range(0, data.shape[1], tile[1]):
            packer = zlib.compressobj(level=1, wbits=31)
            own = np.ascontiguousarray(pixels[y : y + tile[0], x : x + tile[1]])
            parts.append(packer.compress(own) + packer.flush())
    dtype = np.dtype([("COMPRESSED_DATA", ">i4", (2,))])
    sizes = np.array([len(part) for part in parts])
    rows = np.stack([sizes, np.cumsum(sizes) - sizes], axis=1).astype(">i4")
    return rows.tobytes() + b"".join(parts), dtype, len(parts)


def _encoded(
    data: NDArray[Any], algorithm: str, about: Sequence[Card], names: Sequence[str]
) -> tuple[bytes, np.dtype[Any], int]:
    """The table of tiles with its heap, its type and its rows."""
    kinds: dict[str, Any] = {
        "COMPRESSED_DATA": (">i4", (2,)),
        "GZIP_COMPRESSED_DATA": (">i4", (2,)),
    }
    dtype = np.dtype([(key, *kinds.get(key, (">f8",))) for key in names])
    # What the compressor looks for in the header and the columns of the table.
    header: dict[str, Any] = {key: value for key, value, _ in about}
    header |= {"NAXIS": 2, "NAXIS1": dtype.itemsize, "NAXIS2": 1, "TFIELDS": len(names)}
    for k, key in enumerate(names, start=1):
        header |= {f"TTYPE{k}": key, f"TFORM{k}": "1PB" if key in kinds else "1D"}
    body = compress_image_data(data, algorithm, header, SimpleNamespace(dtype=dtype))
    rows = -(-data.shape[0] // header["ZTILE2"])
    return body, dtype, rows * -(-data.shape[1] // header["ZTILE1"])


def _longest(body: bytes, dtype: np.dtype[Any], n_tile: int) -> list[int]:
    """Bytes of the longest tile in each column of compressed data."""
    rows = np.frombuffer(body, dtype, n_tile)
    names = [k for k in (dtype.names or ()) if k.endswith("COMPRESSED_DATA")]
    return [int(rows[k][:, 0].max(initial=0)) for k in names]


def _slowly(
    data: NDArray[Any],
    compression: Compression,
    algorithm: str,
    tile: tuple[int, int],
    name: str,
    cards: Sequence[Card],
) -> bytes:  # pragma: no cover
    """The same by the public interface of astropy."""
    words: dict[str, Any] = {"compression_type": algorithm, "tile_shape": tile}
    if algorithm == "HCOMPRESS_1":
        words["hcomp_scale"] = 0.0
    elif compression.step is not None:
        words |= {"quantize_level": compression.step, "quantize_method": compression.dither}
        if compression.dither > 0:
            words["dither_seed"] = -1
    hdu = fits.CompImageHDU(data, header=fits.Header(list(cards)), name=name, **words)
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    return buffer.getvalue()[_BLOCK:]

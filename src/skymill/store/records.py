"""Any plain dataclass of skymill as a few FITS extensions: a JSON tree and its arrays.

The tree is the extension ``SKYMILL``; arrays too long for JSON are extensions ``SKYMILL1``,
``SKYMILL2`` ... after it. Other readers of FITS pass over them.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs

__all__ = ["decode", "encode", "read_record", "record_hdus"]

_TREE = "SKYMILL"
_VERSION = 1
_INLINE = 32
_NATIVE = frozenset(["u1", "i2", "i4", "i8", "f4", "f8"])

Arrays = list[NDArray[Any]]


def encode(value: Any, arrays: Arrays) -> Any:
    """Turn a value into JSON words, moving long arrays aside.

    Parameters
    ----------
    value : object
        None, numbers, strings, arrays, `FitsWcs`, dataclasses of skymill, and lists, tuples and
        dictionaries of these.
    arrays : list of ndarray
        Long arrays are appended here.

    Returns
    -------
    object
        What `json.dumps` takes.

    Raises
    ------
    DataError
        If a part of the value is of another type.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else {"$float": repr(number)}
    if isinstance(value, np.ndarray):
        return _encode_array(value, arrays)
    if isinstance(value, FitsWcs):
        return {"$wcs": [[c.keyword, c.value, c.comment] for c in value.header.cards]}
    if isinstance(value, list):
        return [encode(item, arrays) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, arrays) for item in value]}
    if isinstance(value, dict):
        return {"$items": [[encode(k, arrays), encode(v, arrays)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("skymill."):
        fields = {
            f.name: encode(getattr(value, f.name), arrays)
            for f in dataclasses.fields(value)
            if f.init
        }
        return {"$class": f"{type(value).__module__}:{type(value).__qualname__}", "fields": fields}
    raise DataError(
        f"a value of type {type(value).__name__} cannot be stored; allowed: numbers, strings, "
        "arrays, FitsWcs, dataclasses of skymill, and lists, tuples, dictionaries of these"
    )


def _encode_array(value: NDArray[Any], arrays: Arrays) -> Any:
    words: dict[str, Any] = {"dtype": value.dtype.str, "shape": list(value.shape)}
    if value.dtype.kind not in "buifUS":
        raise DataError(f"an array of dtype {value.dtype} cannot be stored")
    if value.size <= _INLINE and value.dtype.kind != "S":
        words["$values"] = [encode(v, arrays) for v in value.ravel().tolist()]
        return words
    arrays.append(value)
    words["$array"] = len(arrays)
    return words


def decode(words: Any, arrays: Any) -> Any:
    """The inverse of `encode`.

    Parameters
    ----------
    words : object
        The decoded JSON.
    arrays : callable
        Gives the array of a number from 1.

    Returns
    -------
    object
        The value.
    """
    if isinstance(words, list):
        return [decode(item, arrays) for item in words]
    if not isinstance(words, dict):
        return words
    if "$float" in words:
        return float(words["$float"])
    if "$values" in words:
        flat = [decode(v, arrays) for v in words["$values"]]
        return np.array(flat, dtype=words["dtype"]).reshape(words["shape"])
    if "$array" in words:
        return _restore_array(arrays(words["$array"]), words)
    if "$wcs" in words:
        return FitsWcs(fits.Header([tuple(card) for card in words["$wcs"]]))
    if "$tuple" in words:
        return tuple(decode(item, arrays) for item in words["$tuple"])
    if "$items" in words:
        return {decode(k, arrays): decode(v, arrays) for k, v in words["$items"]}
    return _decode_class(words, arrays)


def _decode_class(words: dict[str, Any], arrays: Any) -> Any:
    module, _, name = str(words["$class"]).partition(":")
    if not module.startswith("skymill."):
        raise DataError(f"the file names a class outside of skymill: {module}.{name}")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise DataError(f"the file names {module}.{name}, which this version does not have")
    return found(**{k: decode(v, arrays) for k, v in words["fields"].items()})


def _restore_array(stored: NDArray[Any], words: dict[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(words["dtype"]).newbyteorder("=")
    if stored.dtype.newbyteorder("=") == dtype:
        return np.array(stored, dtype=dtype).reshape(words["shape"])
    raw = np.ascontiguousarray(stored).tobytes()
    return np.frombuffer(raw, dtype=words["dtype"]).astype(dtype).reshape(words["shape"])


def record_hdus(value: Any) -> list[fits.ImageHDU]:
    """FITS extensions that hold a value.

    Parameters
    ----------
    value : object
        What `encode` takes.

    Returns
    -------
    list of astropy.io.fits.ImageHDU
        The tree first, then its arrays.
    """
    arrays: Arrays = []
    tree = json.dumps(encode(value, arrays), allow_nan=False).encode()
    hdus = [fits.ImageHDU(np.frombuffer(tree, dtype=np.uint8), name=_TREE)]
    hdus[0].header["SKYVERS"] = (_VERSION, "layout of this record")
    for number, array in enumerate(arrays, start=1):
        plain = np.ascontiguousarray(array)
        if plain.dtype.newbyteorder("=").str[1:] not in _NATIVE:
            plain = np.frombuffer(plain.tobytes(), dtype=np.uint8)
        hdus.append(fits.ImageHDU(plain, name=f"{_TREE}{number}"))
    return hdus


def read_record(hdus: fits.HDUList) -> Any:
    """The value that `record_hdus` wrote.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        An open file.

    Returns
    -------
    object
        The value.

    Raises
    ------
    DataError
        If the file has no record, or one of a newer version.
    """
    if _TREE not in hdus:
        raise DataError(f"{hdus.filename()} holds no record of skymill (no extension {_TREE})")
    tree = hdus[_TREE]
    version = tree.header.get("SKYVERS", 0)
    if version > _VERSION:
        raise DataError(
            f"{hdus.filename()} was written by a newer skymill (record version {version}; "
            f"this one reads up to {_VERSION}): upgrade skymill"
        )
    return decode(json.loads(tree.data.tobytes()), lambda number: hdus[f"{_TREE}{number}"].data)

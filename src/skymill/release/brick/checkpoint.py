"""Checkpoints: the finished blobs of a brick in one file that only grows.

A record is a fixed head (mark, length, checksum), a key and the arrays of one blob in numpy's npz
format, without pickles. It is written with a single call, so that a killed process leaves at most
one incomplete record at the end; this is cut off when the file is opened again. A record whose
checksum is wrong is skipped, and the next mark is looked for.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Checkpoint", "digest"]

_LOG = logging.getLogger(__name__)

_MARK = b"SKYMILLB"
_HEAD = struct.Struct("<8sQI32s")


def digest(*parts: Any) -> bytes:
    """A key of 32 bytes that is the same only for the same contents.

    Parameters
    ----------
    *parts : str, bytes, number or array
        The contents.

    Returns
    -------
    bytes
        SHA-256.
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype.str}{part.shape}".encode())
            total.update(np.ascontiguousarray(part).tobytes())
        else:
            data = part if isinstance(part, bytes) else repr(part).encode()
            total.update(struct.pack("<Q", len(data)))
            total.update(data)
    return total.digest()


class Checkpoint:
    """The finished blobs of one brick.

    Parameters
    ----------
    path : path
        The file; it is made when the first record is added.
    force : bool
        Forget what it holds.

    Attributes
    ----------
    notes : list of str
        A sentence for each part of the file that could not be read.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        self.notes: list[str] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        if force:
            self.path.unlink(missing_ok=True)
        if self.path.exists():
            self._index()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def _index(self) -> None:
        data = self.path.read_bytes()
        at = end = 0
        lost = 0
        while at < len(data):
            if data[at : at + len(_MARK)] != _MARK:
                found = data.find(_MARK, at)
                lost += 1
                if found < 0:
                    break
                at = found
                continue
            good = self._record(data, at)
            if good is None:
                lost += 1
                at += len(_MARK)
                continue
            key, start, size = good
            self._places[key] = (start, size)
            at = end = start + size
        if lost:
            self.notes.append(
                f"the checkpoint {self.path} is damaged ({len(data)} bytes): {len(self)} blobs "
                "were read from it, the others are fitted again"
            )
            _LOG.warning("%s", self.notes[-1])
        if end < len(data):
            with self.path.open("r+b") as file:
                file.truncate(end)

    @staticmethod
    def _record(data: bytes, at: int) -> tuple[bytes, int, int] | None:
        if at + _HEAD.size > len(data):
            return None
        _, size, checksum, key = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        if start + size > len(data):
            return None
        if zlib.crc32(key + data[start : start + size]) != checksum:
            return None
        return key, start, size

    def add(self, key: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append a blob.

        Parameters
        ----------
        key : bytes
            Of `digest`: 32 bytes that name what the result depends on.
        arrays : mapping of str to array
            The result.
        """
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        payload = buffer.getvalue()
        head = _HEAD.pack(_MARK, len(payload), zlib.crc32(key + payload), key)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            start = file.tell()
            file.write(head + payload)
            os.fsync(file.fileno())
        self._places[key] = (start + _HEAD.size, len(payload))

    def get(self, key: bytes) -> dict[str, NDArray[Any]] | None:
        """The arrays of a blob.

        Parameters
        ----------
        key : bytes
            As given to `add`.

        Returns
        -------
        dict of str to array, or None
            None if the checkpoint has no such blob, or it cannot be read.
        """
        place = self._places.get(key)
        if place is None:
            return None
        with self.path.open("rb") as file:
            file.seek(place[0])
            payload = file.read(place[1])
        try:
            with np.load(io.BytesIO(payload), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (ValueError, OSError, zipfile.BadZipFile, KeyError) as err:
            self.notes.append(f"a blob of the checkpoint {self.path} cannot be read ({err})")
            return None

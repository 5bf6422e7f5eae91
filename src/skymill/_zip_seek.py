"""Cure of CPython gh-127847: random access inside a zip file reads wrong bytes.

CPython 3.12.1-3.12.8 and 3.13.0-3.13.1 move the position that all open members of an archive
share when one of them seeks relative to itself. Quantum graphs are such archives: above about
180 quanta ``butler aggregate-graph`` dies with a bare ``EOFError``. The cure has to be in every
process that reads a graph, so it is applied on ``import skymill`` and travels to processes that
`multiprocessing` spawns (the workers of the aggregator, which import nothing of ours).
"""

from __future__ import annotations

import io
import multiprocessing.spawn
import os
import threading
import zipfile
from typing import Any

__all__ = ["apply", "is_broken"]

_REPOSITION = (
    "Can't reposition in the ZIP file while there is an open writing handle on it. "
    "Close the writing handle before trying to read."
)


def is_broken() -> bool:
    """Whether this interpreter has the fault (and no cure yet).

    Returns
    -------
    bool
        `True` if a member's relative seek starts from the position of another member.
    """
    stream = io.BytesIO(bytes(10))
    member = zipfile._SharedFile(  # type: ignore[attr-defined]
        stream, 2, lambda _: None, threading.RLock(), lambda: False
    )
    stream.seek(7)
    return bool(member.seek(1, os.SEEK_CUR) != 3)


def _seek(self: Any, offset: int, whence: int = 0) -> int:
    with self._lock:
        if self._writing():
            raise ValueError(_REPOSITION)
        if whence == os.SEEK_CUR:
            self._file.seek(self._pos + offset)
        else:
            self._file.seek(offset, whence)
        self._pos = self._file.tell()
        return int(self._pos)


def apply() -> None:
    """Repair this process and the processes that it spawns; nothing on a sound interpreter."""
    if not is_broken():
        return
    zipfile._SharedFile.seek = _seek  # type: ignore[attr-defined]
    original = multiprocessing.spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data: dict[str, Any] = original(name)
        # Unpickling this reference makes the child import this package before anything else.
        data["skymill"] = apply
        return data

    multiprocessing.spawn.get_preparation_data = get_preparation_data


apply()

"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path"]


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A name beside a file that replaces it when all is written.

    Parameters
    ----------
    path : path
        The file; its folder is made.

    Yields
    ------
    Path
        Write here. The name keeps the suffixes of the file. After an error it is removed and the
        old file is untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        yield draft
        if draft.exists():
            with draft.open("rb") as handle:
                os.fsync(handle.fileno())
            draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)

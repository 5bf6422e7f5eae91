"""Copy a release to its final place, and verify every byte there."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from skymill.data.errors import ConfigError, DataError
from skymill.data.files import atomic_path
from skymill.release.finish.checksums import UNPUBLISHED, file_hash
from skymill.release.finish.folder import Problem, ReleaseFolder, each

__all__ = ["PublishReport", "files_to_publish", "publish"]

_RECORD = ".skymill-publish.json"
_CHUNK = 1 << 22


@dataclass
class PublishReport:
    """What is at the final place.

    Parameters
    ----------
    n_copied, n_present : int
        Files that were copied now, and that were there already, all of them verified.
    n_bytes : int
        Size of both.
    extra : list of str
        Files at the final place that the release does not have; they stay.
    problems : list of Problem
        Files that are not there, or are not right.
    """

    n_copied: int = 0
    n_present: int = 0
    n_bytes: int = 0
    extra: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def files_to_publish(folder: ReleaseFolder) -> list[str]:
    """Files of a release that are published.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.

    Returns
    -------
    list of str
        Paths from the folder, in order; no backups, checkpoints, images, hidden files.
    """
    found = []
    for path in folder.root.rglob("*"):
        parts = path.relative_to(folder.root).parts
        if parts[0] in UNPUBLISHED or any(p.startswith(".") for p in parts):
            continue
        if path.is_file():
            found.append("/".join(parts))
    return sorted(found)


def _copy(name: str, *, source: Path, target: Path) -> tuple[bool, str, int]:
    """Copy a file unless it is there; whether it was copied, its sum and size."""
    path, copy = source / name, target / name
    try:
        value, size = file_hash(path), path.stat().st_size
        if copy.is_file() and copy.stat().st_size == size and _hash_on_disk(copy) == value:
            return False, value, size
        with atomic_path(copy) as draft:
            _write(path, draft)
        if _hash_on_disk(copy) != value:
            raise DataError("its copy differs from it")
        if file_hash(path) != value:
            raise DataError("it changed while it was copied")
        return True, value, size
    except OSError as exc:
        raise DataError(f"it cannot be copied: {exc}") from exc


def _write(path: Path, draft: Path) -> None:
    with path.open("rb") as read, draft.open("wb") as write:
        while chunk := read.read(_CHUNK):
            write.write(chunk)
        write.flush()
        os.fsync(write.fileno())
    status = path.stat()
    os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
    draft.chmod(status.st_mode & 0o777)


def _hash_on_disk(path: Path) -> str:
    """The sum of what the disk has, not of what the memory still knows."""
    with contextlib.suppress(OSError, AttributeError), path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file_hash(path)


def publish(
    folder: ReleaseFolder,
    target: Path,
    *,
    workers: int = 1,
    on_file: Callable[[str, bool], None] = lambda name, copied: None,
) -> PublishReport:
    """Copy a release; what is there and right is not copied again.

    Each file is written under another name, read back from the disk, compared with its original
    by its SHA-256 sum and only then counted. An interrupted call is repeated.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    target : Path
        Its final place.
    workers : int
        Processes.
    on_file : callable
        Called with each file and whether it was copied.

    Returns
    -------
    PublishReport
        Numbers, and what is wrong.

    Raises
    ------
    ConfigError
        If one of the two folders lies in the other.
    """
    here, there = folder.root.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ConfigError(
            f"the final place {target} must lie outside of {folder.root}, and not around it"
        )
    report = PublishReport()
    names = files_to_publish(folder)
    sums: dict[str, str] = {}
    target.mkdir(parents=True, exist_ok=True)
    work = functools.partial(_copy, source=here, target=there)
    for name, found in each(work, names, workers=workers):
        if isinstance(found, Problem):
            report.problems.append(Problem(name, found.text))
            continue
        copied, sums[name], size = found
        report.n_copied += copied
        report.n_present += not copied
        report.n_bytes += size
        on_file(name, copied)
    known = set(names)
    report.extra = [n for n in files_to_publish(ReleaseFolder(target)) if n not in known]
    with atomic_path(target / _RECORD) as draft:
        draft.write_text(json.dumps({"complete": not report.problems, "sha256": sums}, indent=0))
    return report

"""Logs of the bricks: one zipped tar-ball for each folder, verified before anything is removed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skymill.data.errors import MissingInputError
from skymill.data.files import atomic_path
from skymill.release.finish.folder import Problem

__all__ = ["LogReport", "tar_logs"]


@dataclass
class LogReport:
    """What was packed.

    Parameters
    ----------
    archives : dict of str to int
        Tar-balls and the number of their logs.
    joined : list of str
        Logs that were put together from several folders.
    problems : list of Problem
        What could not be packed.
    """

    archives: dict[str, int] = field(default_factory=dict)
    joined: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def tar_logs(sources: Sequence[Path], out: Path, *, remove: bool = False) -> LogReport:
    """Pack the logs of each sub-folder into ``SUBFOLDER.tar.gz``.

    A log that is in several source folders (a brick that was worked on by several machines) is
    put together in the order of the times of the files.

    Parameters
    ----------
    sources : sequence of Path
        Folders with ``180/1801p320.log`` and so on.
    out : Path
        Folder of the tar-balls.
    remove : bool
        Remove the logs once their tar-ball has been read back and compared.

    Returns
    -------
    LogReport
        What was packed. The same logs make the same bytes.

    Raises
    ------
    MissingInputError
        If a source folder does not exist.
    """
    for source in sources:
        if not source.is_dir():
            raise MissingInputError(f"there is no folder of logs {source}")
    report = LogReport()
    names = {p.name for s in sources for p in s.iterdir() if p.is_dir() and p.name[0] != "."}
    for name in sorted(names):
        groups: dict[str, list[Path]] = {}
        for source in sources:
            for path in sorted((source / name).rglob("*")):
                if path.is_file():
                    groups.setdefault(str(path.relative_to(source)), []).append(path)
        if not groups:
            continue
        _pack(name, groups, out, report, remove=remove)
    return report


def _pack(
    name: str, groups: dict[str, list[Path]], out: Path, report: LogReport, *, remove: bool
) -> None:
    target = out / f"{name}.tar.gz"
    expected: dict[str, str] = {}
    packed: dict[Path, tuple[int, int]] = {}
    try:
        old = _read_old(target)
        with (
            atomic_path(target) as draft,
            draft.open("wb") as stream,
            gzip.GzipFile("", "wb", 6, stream, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for member, paths in sorted({**{m: [] for m in old}, **groups}.items()):
                paths = sorted(paths, key=lambda p: (p.stat().st_mtime, str(p)))
                for path in paths:
                    status = path.stat()
                    packed[path] = (status.st_size, status.st_mtime_ns)
                content = b"".join(path.read_bytes() for path in paths)
                earlier = old.get(member, (b"", 0))
                # After a removal the tar-ball has the beginning of the log.
                if not content.startswith(earlier[0]):
                    content = earlier[0] + content
                if len(paths) > 1:
                    report.joined.append(member)
                time = max([int(p.stat().st_mtime) for p in paths], default=earlier[1])
                archive.addfile(_member(member, len(content), time), io.BytesIO(content))
                expected[member] = hashlib.sha256(content).hexdigest()
        if _hashes(target) != expected:
            report.problems.append(Problem(str(target), "it does not hold what was packed"))
            return
    except (OSError, tarfile.TarError, EOFError) as exc:
        report.problems.append(Problem(str(target), f"it cannot be packed: {exc}"))
        return
    report.archives[target.name] = len(expected)
    if remove:
        for path, state in packed.items():
            now = path.stat()
            if (now.st_size, now.st_mtime_ns) == state:
                path.unlink()
            else:
                report.problems.append(Problem(str(path), "it grew while it was packed; kept"))


def _member(name: str, size: int, time: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, time, 0o644
    return info


def _read_old(path: Path) -> dict[str, tuple[bytes, int]]:
    """The logs of an earlier tar-ball."""
    if not path.exists():
        return {}
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                found[member.name] = (stream.read(), int(member.mtime))
    return found


def _hashes(path: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            stream = archive.extractfile(member)
            if stream is not None:
                found[member.name] = hashlib.sha256(stream.read()).hexdigest()
    return found

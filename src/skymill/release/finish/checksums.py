"""SHA-256 sums of a release: verify those of the bricks, write one file a folder, verify all.

A brick's own file (``tractor/BRI/brick-BRICK.sha256sum``) has lines ``HASH *PATH`` with paths from
the folder of the release; a folder's file (``legacysurvey_dr9_tractor_180.sha256sum``) has lines
``HASH  NAME``. Both are read wherever they are found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from skymill.data.errors import ConfigError, DataError
from skymill.data.files import atomic_path
from skymill.release.finish.folder import Problem, ReleaseFolder, each, is_brick_name

__all__ = [
    "ChecksumReport",
    "brick_checksum_path",
    "file_hash",
    "read_checksums",
    "update_brick_checksums",
    "verify_checksums",
    "write_checksums",
]

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
#: Folders that are no part of what is published.
UNPUBLISHED = ("backup", "checkpoints", "stages", "queue-logs", "images")
_END = ".sha256sum"


@dataclass
class ChecksumReport:
    """What was found.

    Parameters
    ----------
    n_files : int
        Files whose sums are right.
    n_lists : int
        Lists of sums read or written.
    changed, missing : list of str
        Files that differ from their sum, and files that a list names but that are not there.
    unlisted : list of str
        Files that stand in no list.
    problems : list of Problem
        Lists that cannot be read, files that cannot.
    """

    n_files: int = 0
    n_lists: int = 0
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file is there, is listed and has its sum."""
        return not (self.changed or self.missing or self.unlisted or self.problems)


def file_hash(path: Path) -> str:
    """SHA-256 sum of a file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_checksums(path: Path) -> list[tuple[str, str]]:
    """The lines of a list in either format.

    Parameters
    ----------
    path : Path
        The list.

    Returns
    -------
    list of (str, str)
        Name of the file as it stands there, and sum.

    Raises
    ------
    DataError
        If a line is none of a list.
    """
    rows = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} cannot be read as a list of checksums ({exc})") from exc
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise DataError(f"{path}, line {number} is no checksum: {line[:60]!r}")
        rows.append((match[2], match[1].lower()))
    return rows


def brick_checksum_path(folder: ReleaseFolder, brick: str) -> Path:
    """The list of a brick's own files.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    brick : str
        Name of the brick.

    Returns
    -------
    Path
        The list.
    """
    return folder.path("brick-checksums", brick=brick)


def _locate(folder: ReleaseFolder, listing: Path, name: str) -> Path:
    """The file that a line means: from the release's folder, or beside the list."""
    beside = listing.parent / name
    return folder.root / name if (folder.root / name).exists() or "/" in name else beside


def update_brick_checksums(folder: ReleaseFolder, brick: str, paths: Iterable[Path]) -> None:
    """Put new sums of changed files into a brick's list, if it has one.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    brick : str
        Name of the brick.
    paths : iterable of Path
        The files.
    """
    listing = brick_checksum_path(folder, brick)
    if not listing.is_file():
        return
    new = {p.resolve(): file_hash(p) for p in paths}
    rows = read_checksums(listing)
    lines = [f"{new.get(_locate(folder, listing, n).resolve(), h)} *{n}\n" for n, h in rows]
    with atomic_path(listing) as draft:
        draft.write_text("".join(lines))


def _is_brick_list(path: Path) -> bool:
    return path.name.startswith("brick-")


def _files(folder: ReleaseFolder, *, calib: bool = True) -> dict[Path, list[Path]]:
    """Files that are published, by their folder; lists of sums are none."""
    skip = UNPUBLISHED if calib else (*UNPUBLISHED, "calib")
    found: dict[Path, list[Path]] = {}
    for path in sorted(folder.root.rglob("*")):
        parts = path.relative_to(folder.root).parts
        hidden = any(p.startswith(".") for p in parts)
        if parts[0] in skip or hidden or not path.is_file() or path.name.endswith(_END):
            continue
        found.setdefault(path.parent, []).append(path)
    return found


def list_name(folder: ReleaseFolder, place: Path, *, release: str) -> str:
    """Name of the list of one folder.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    place : Path
        A folder in it.
    release : str
        Word of the release, such as ``dr9``.

    Returns
    -------
    str
        Such as ``legacysurvey_dr9_coadd_180_1801p320.sha256sum``.
    """
    parts = place.relative_to(folder.root).parts
    words = [re.sub(r"[^A-Za-z0-9.+-]", "-", p) for p in parts]
    return "_".join(["legacysurvey", release, *words]) + _END


def write_checksums(folder: ReleaseFolder, *, release: str, workers: int = 1) -> ChecksumReport:
    """Verify the lists of the bricks, then write a list in each folder of the release.

    Nothing is written into a folder of which a brick's list says that a file has changed or is
    missing: a wrong file would get a right sum.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    release : str
        Word of the release in the names, such as ``dr9``.
    workers : int
        Processes.

    Returns
    -------
    ChecksumReport
        ``n_lists`` were written.
    """
    if not re.fullmatch(r"[A-Za-z0-9.+-]+", release):
        raise ConfigError(f"the name of a release has letters, digits, . + -; got {release!r}")
    report = ChecksumReport()
    known: dict[Path, str] = {}
    for listing in sorted(folder.root.glob("tractor/*/brick-*" + _END)):
        _collect(folder, listing, known, report)
    report.missing += _missing_lists(folder)
    bad = {Path(folder.root / n).parent for n in report.missing}
    for place, paths in _files(folder).items():
        sums: list[tuple[str, str]] = []
        for path, value in each(file_hash_of, paths, workers=workers):
            if isinstance(value, Problem):
                report.problems.append(value)
                continue
            if known.get(path.resolve(), value) != value:
                report.changed.append(str(path.relative_to(folder.root)))
                bad.add(place)
            sums.append((path.name, value))
        if place in bad:
            continue
        target = place / list_name(folder, place, release=release)
        for old in place.glob(f"legacysurvey_*{_END}"):
            if old != target:
                report.problems.append(Problem(str(old), "a list of another release is here"))
        with atomic_path(target) as draft:
            draft.write_text("".join(f"{h}  {n}\n" for n, h in sums))
        report.n_lists += 1
        report.n_files += len(sums)
    return report


def file_hash_of(path: Path) -> str:
    """`file_hash` whose failure to read is an error of ours.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        The sum.
    """
    try:
        return file_hash(path)
    except OSError as exc:
        raise DataError(f"it cannot be read ({exc})") from exc


def _missing_lists(folder: ReleaseFolder) -> list[str]:
    """The lists that bricks with a catalogue do not have."""
    paths = [brick_checksum_path(folder, b) for b in folder.catalogues() if is_brick_name(b)]
    return [str(p.relative_to(folder.root)) for p in paths if not p.is_file()]


def _collect(
    folder: ReleaseFolder, listing: Path, known: dict[Path, str], report: ChecksumReport
) -> None:
    """The sums of one list; files that are not there."""
    try:
        rows = read_checksums(listing)
    except DataError as exc:
        report.problems.append(Problem(str(listing), str(exc)))
        return
    if not rows:
        report.problems.append(Problem(str(listing), "the list of checksums is empty"))
    for name, value in rows:
        path = _locate(folder, listing, name)
        if not path.is_file():
            report.missing.append(_relative(path, folder))
            continue
        key = path.resolve()
        if known.setdefault(key, value) != value:
            report.problems.append(
                Problem(_relative(path, folder), "two lists have different sums of it")
            )


def _relative(path: Path, folder: ReleaseFolder) -> str:
    try:
        return str(path.relative_to(folder.root))
    except ValueError:
        return str(path)


def verify_checksums(
    folder: ReleaseFolder, *, paths: Sequence[Path] = (), workers: int = 1
) -> ChecksumReport:
    """Compare every file of a release with its sums in the lists of either format.

    Parameters
    ----------
    folder : ReleaseFolder
        The release.
    paths : sequence of Path
        Only these lists; all of the release if empty. Then files in no list are told, too.
    workers : int
        Processes.

    Returns
    -------
    ChecksumReport
        What is wrong.
    """
    report = ChecksumReport()
    known: dict[Path, str] = {}
    lists = list(paths) or sorted(_lists(folder))
    for listing in lists:
        _collect(folder, listing, known, report)
        report.n_lists += 1
    if not lists:
        report.problems.append(Problem(str(folder.root), "it has no list of checksums"))
    for path, value in each(file_hash_of, sorted(known), workers=workers):
        if isinstance(value, Problem):
            report.problems.append(value)
        elif value != known[path]:
            report.changed.append(_relative(path, ReleaseFolder(folder.root.resolve())))
        else:
            report.n_files += 1
    if not paths:
        everything = (p for group in _files(folder).values() for p in group)
        report.unlisted = [_relative(p, folder) for p in everything if p.resolve() not in known]
    return report


def _lists(folder: ReleaseFolder) -> Iterator[Path]:
    for path in folder.root.rglob("*" + _END):
        if path.relative_to(folder.root).parts[0] not in UNPUBLISHED:
            yield path

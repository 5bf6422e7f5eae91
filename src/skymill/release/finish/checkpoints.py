"""Checkpoints of bricks that are finished: nobody needs them any more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from skymill.data.errors import ConfigError

__all__ = ["PATTERNS", "find_checkpoints", "remove_checkpoints"]

#: Where the bricks' checkpoints and stages are below the folder of the release.
PATTERNS = (
    "checkpoints/{bri}/checkpoint-{brick}",
    "checkpoints/{bri}/checkpoint-{brick}[.-]*",
    "stages/{bri}/runbrick-{brick}-*",
)


def find_checkpoints(
    root: Path, bricks: Iterable[str], *, patterns: Sequence[str] | None = None
) -> list[Path]:
    """Files that bricks kept for going on.

    Parameters
    ----------
    root : Path
        Folder of the release.
    bricks : iterable of str
        Bricks that are finished.
    patterns : sequence of str, optional
        Patterns with ``{brick}``, and ``{bri}`` for its first three digits.

    Returns
    -------
    list of Path
        Files, also those within folders that a pattern names.

    Raises
    ------
    ConfigError
        If a pattern has no ``{brick}``: it would take the files of others as well.
    """
    chosen = tuple(patterns or PATTERNS)
    for pattern in chosen:
        if "{brick}" not in pattern:
            raise ConfigError(f"the pattern must have {{brick}}; got {pattern!r}")
    found: set[Path] = set()
    for brick in bricks:
        if not brick or "/" in brick or any(c in brick for c in "*?["):
            continue
        for pattern in chosen:
            for path in _glob(root, pattern.format(brick=brick, bri=brick[:3])):
                inside = path.rglob("*") if path.is_dir() else [path]
                found.update(p for p in inside if p.is_file())
    return sorted(found)


def _glob(root: Path, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute():
        return list(Path("/").glob(pattern[1:]))
    return list(root.glob(pattern))


def remove_checkpoints(paths: Iterable[Path]) -> None:
    """Remove files, and folders that are empty then.

    Parameters
    ----------
    paths : iterable of Path
        The files.
    """
    for path in paths:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()

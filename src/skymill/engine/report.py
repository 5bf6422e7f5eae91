"""What a run did: counts for each task, the failures, the times."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from skymill.data.files import atomic_path

__all__ = ["QuantumFailure", "RunReport", "TaskCounts", "write_json"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantumFailure:
    """One quantum that failed.

    ``quantum_id`` is its UUID, ``data_id`` a readable data ID, ``exception`` the name of the
    class, ``message`` its text, ``log`` the file with the whole story.
    """

    label: str
    data_id: str
    exception: str
    message: str
    log: str
    quantum_id: str

    def text(self) -> str:
        """Two lines for the user.

        Returns
        -------
        str
            Task, data ID and exception; then the log.
        """
        return (
            f"{self.label} ({self.data_id}): {self.exception}: {self.message}\n    log: {self.log}"
        )


@dataclasses.dataclass(kw_only=True)
class TaskCounts:
    """Quanta of one task by outcome; ``seconds`` is the sum of their durations."""

    label: str
    total: int = 0
    done: int = 0
    skipped: int = 0
    no_work: int = 0
    failed: int = 0
    blocked: int = 0
    seconds: float = 0.0

    @property
    def finished(self) -> int:
        """Quanta that need no more work: done now, done before, or nothing to do."""
        return self.done + self.skipped + self.no_work

    @property
    def remaining(self) -> int:
        """Quanta that were never started."""
        return self.total - self.finished - self.failed - self.blocked


@dataclasses.dataclass(kw_only=True)
class RunReport:
    """Outcome of the execution of one quantum graph.

    Times are in seconds of wall clock. ``output_run`` is the RUN collection, ``graph`` the file
    of the predicted quantum graph (empty when there was nothing to do).
    """

    output_run: str
    graph: str
    tasks: list[TaskCounts]
    failures: list[QuantumFailure]
    build_s: float = 0.0
    execute_s: float = 0.0
    aggregate_s: float = 0.0
    interrupted: bool = False
    retries: int = 0

    @property
    def ok(self) -> bool:
        """Whether every quantum succeeded, or had been done before, or had nothing to do."""
        return not self.interrupted and all(t.finished == t.total for t in self.tasks)

    @property
    def n_quanta(self) -> int:
        """Number of quanta of the graph."""
        return sum(t.total for t in self.tasks)

    def count(self, word: str) -> int:
        """Sum of one count over the tasks.

        Parameters
        ----------
        word : str
            ``total``, ``done``, ``skipped``, ``no_work``, ``failed``, ``blocked``,
            ``finished`` or ``remaining``.

        Returns
        -------
        int
            The sum.
        """
        return sum(int(getattr(t, word)) for t in self.tasks)

    def text(self, *, max_failures: int = 20) -> str:
        """A short account for the user.

        Parameters
        ----------
        max_failures : int
            At most so many failures are listed.

        Returns
        -------
        str
            Several lines.
        """
        words = ("done", "skipped", "no_work", "failed", "blocked", "remaining")
        lines = []
        for task in self.tasks:
            counts = ", ".join(
                f"{getattr(task, w)} {w.replace('_', ' ')}" for w in words if getattr(task, w)
            )
            lines.append(f"{task.label}: {counts or 'nothing'} of {task.total}")
        if not self.tasks:
            lines.append("nothing left to do")
        lines += [failure.text() for failure in self.failures[:max_failures]]
        if len(self.failures) > max_failures:
            lines.append(f"... and {len(self.failures) - max_failures} more failures")
        if self.interrupted:
            lines.append("interrupted; the same command resumes where it stopped")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain types.

        Returns
        -------
        dict
            What `from_dict` reads.
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunReport:
        """The report that `to_dict` wrote.

        Parameters
        ----------
        values : dict
            Plain types.

        Returns
        -------
        RunReport
            The report.
        """
        rest = {k: v for k, v in values.items() if k not in ("tasks", "failures")}
        return cls(
            tasks=[TaskCounts(**t) for t in values["tasks"]],
            failures=[QuantumFailure(**f) for f in values["failures"]],
            **rest,
        )


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file whole or not at all.

    Parameters
    ----------
    path : Path
        The file; a reader sees the old or the new content, never a part.
    values : object
        Plain types.
    """
    with atomic_path(path) as draft, draft.open("w") as stream:
        json.dump(values, stream, indent=1, default=str)

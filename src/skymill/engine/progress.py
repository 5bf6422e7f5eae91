"""What a person sees while quanta run: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TaskID as BarId

from skymill.engine.report import TaskCounts

__all__ = ["ProgressView", "format_duration", "time_left"]


def format_duration(seconds: float | None) -> str:
    """A duration for the eye.

    Parameters
    ----------
    seconds : float or None
        Duration [s]; `None` is unknown.

    Returns
    -------
    str
        ``-:--``, ``m:ss`` or ``h:mm:ss``.
    """
    if seconds is None:
        return "-:--"
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, second = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


def time_left(counts: TaskCounts, n_workers: int) -> float | None:
    """Time that one task still needs if the workers work on nothing else.

    Parameters
    ----------
    counts : TaskCounts
        The task.
    n_workers : int
        Workers.

    Returns
    -------
    float or None
        Time [s]; `None` before the first quantum is done.
    """
    if counts.remaining == 0:
        return 0.0
    if counts.done + counts.no_work == 0:
        return None
    mean = counts.seconds / (counts.done + counts.no_work)
    return mean * counts.remaining / max(1, min(n_workers, counts.remaining))


class ProgressView:
    """Shows counts, rate and time left of each task.

    Parameters
    ----------
    title : str
        Name of the step.
    n_workers : int
        Workers.
    stream : file, optional
        Where to write; standard error by default.
    enabled : bool
        Show nothing if `False`.
    period_s : float
        Time between two plain lines [s].
    """

    def __init__(
        self,
        title: str,
        n_workers: int,
        *,
        stream: TextIO | None = None,
        enabled: bool = True,
        period_s: float = 10.0,
    ) -> None:
        self._title = title
        self._n_workers = n_workers
        self._stream = stream if stream is not None else sys.stderr
        self._enabled = enabled
        self._period_s = period_s
        self._start = time.monotonic()
        self._last = self._start
        self._bars: dict[str, BarId] = {}
        self._progress: Progress | None = None
        if enabled and self._stream.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._stream),
                refresh_per_second=4,
            )
            self._progress.start()

    def _note(self, task: TaskCounts) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-3)
        rate = (task.done + task.no_work) / elapsed
        parts = [f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"]
        if task.remaining:
            parts.append(f"left {format_duration(time_left(task, self._n_workers))}")
        for word in ("skipped", "failed", "blocked"):
            if getattr(task, word):
                parts.append(f"{getattr(task, word)} {word}")
        return ", ".join(parts)

    def update(self, tasks: list[TaskCounts], *, final: bool = False) -> None:
        """Show new counts.

        Parameters
        ----------
        tasks : list of TaskCounts
            Counts of each task.
        final : bool
            Show them even if the last line is young.
        """
        if not self._enabled:
            return
        if self._progress is not None:
            for task in tasks:
                if task.label not in self._bars:
                    self._bars[task.label] = self._progress.add_task(
                        f"{self._title} {task.label}".strip(), total=task.total, note=""
                    )
                self._progress.update(
                    self._bars[task.label],
                    completed=task.total - task.remaining,
                    note=self._note(task),
                )
            return
        now = time.monotonic()
        if not final and now - self._last < self._period_s:
            return
        self._last = now
        for task in tasks:
            started = task.total - task.remaining
            if started and (final or task.remaining):
                line = f"{self._title} {task.label}: {started}/{task.total} ({self._note(task)})"
                print(line.strip(), file=self._stream, flush=True)

    def close(self) -> None:
        """End the display."""
        if self._progress is not None:
            self._progress.stop()

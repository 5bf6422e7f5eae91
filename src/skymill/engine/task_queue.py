"""Named queues of tasks (such as bricks) that many workers on many machines share.

A task is a line of text. It waits for others (``Waiting``), may be taken (``Pending``), is at work
(``Running``) and ends as ``Succeeded`` or ``Failed``. Taking a task is one transaction: no two
workers get the same one. A worker holds its task by a token; when the task was given to another
in the meantime, its result is not accepted.
"""

from __future__ import annotations

import enum
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skymill.data.errors import MissingInputError
from skymill.engine.queue_database import (
    Database,
    QueueError,
    Transaction,
    default_location,
    open_database,
)
from skymill.engine.queue_process import Worker, end_processes, find_processes

__all__ = [
    "QueueCounts",
    "QueueError",
    "QueueTask",
    "Recovery",
    "TaskQueue",
    "TaskState",
    "default_location",
    "list_queues",
]


class TaskState(enum.StrEnum):
    """Where a task is in its life."""

    WAITING = "Waiting"
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True)
class QueueTask:
    """One task; ``worker`` is the process that has or had it, ``token`` its right to it.

    ``attempts`` is how often it was taken, ``lost`` how often its worker died.

    ``started`` and ``ended`` are seconds since 1970 of the last attempt, ``message`` the last
    line of its log.
    """

    id: int
    task: str
    state: TaskState
    attempts: int
    lost: int
    exit_code: int | None
    message: str
    log: str
    token: str | None
    worker: Worker | None
    started: float | None
    ended: float | None


@dataclass(frozen=True, kw_only=True)
class QueueCounts:
    """Number of tasks of a queue in each state."""

    name: str
    counts: dict[TaskState, int]

    def __getitem__(self, state: TaskState) -> int:
        return self.counts[state]

    @property
    def total(self) -> int:
        """All tasks."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What `TaskQueue.recover` did.

    ``recovered`` are pending again, ``given_up`` have failed because they lost too many workers,
    ``alive`` were left alone because their workers live.
    """

    recovered: list[QueueTask]
    given_up: list[QueueTask]
    alive: list[QueueTask]


_COLUMNS = (
    "id, task, state, attempts, lost, exit_code, message, log, token, host, machine, pid, "
    "pid_started, heartbeat, started, ended"
)


def _task(row: tuple) -> QueueTask:
    key, task, state, attempts, lost, exit_code, message, log, token = row[:9]
    host, machine, pid, pid_started, heartbeat, started, ended = row[9:]
    worker = None
    if pid is not None:
        worker = Worker(host, machine, int(pid), float(pid_started), float(heartbeat))
    return QueueTask(
        id=int(key), task=task, state=TaskState(state), attempts=int(attempts), lost=int(lost),
        exit_code=exit_code, message=message, log=log, token=token, worker=worker,
        started=started, ended=ended,
    )  # fmt: skip


def _find(execute: Transaction, name: str) -> int | None:
    rows = execute("SELECT id FROM skymill_queue WHERE name = ?", (name,))
    return int(rows[0][0]) if rows else None


def list_queues(location: str | Path | None = None) -> list[QueueCounts]:
    """All queues with their numbers of tasks.

    Parameters
    ----------
    location : str or Path, optional
        Where the queues are; see `skymill.engine.queue_database`.

    Returns
    -------
    list of QueueCounts
        By name.
    """
    with open_database(location).transaction(write=False) as execute:
        return _count(execute)


def _count(execute: Transaction, name: str | None = None) -> list[QueueCounts]:
    rows = execute(
        "SELECT q.name, t.state, COUNT(t.id) FROM skymill_queue q "
        "LEFT JOIN skymill_task t ON t.queue_id = q.id GROUP BY q.name, t.state ORDER BY q.name"
    )
    found: dict[str, dict[TaskState, int]] = {}
    for queue, state, number in rows:
        counts = found.setdefault(queue, dict.fromkeys(TaskState, 0))
        if state is not None:
            counts[TaskState(state)] = int(number)
    return [QueueCounts(name=n, counts=c) for n, c in found.items() if name in (None, n)]


class TaskQueue:
    """One queue.

    Parameters
    ----------
    name : str
        Its name.
    location : str or Path, optional
        Path of an SQLite file or URL of PostgreSQL; ``SKYMILL_QUEUE_DB`` or the default file
        if absent.
    create : bool
        Make the queue if it is not there.

    Raises
    ------
    MissingInputError
        If there is no such queue.
    """

    def __init__(
        self, name: str, location: str | Path | None = None, *, create: bool = False
    ) -> None:
        self.name = name
        self._database: Database = open_database(location)
        if not name.strip():
            raise QueueError("a queue needs a name")
        with self._database.transaction(write=create) as execute:
            key = _find(execute, name)
            if key is None and create:
                # Another process may do the same at this moment.
                execute(
                    "INSERT INTO skymill_queue (name, created) VALUES (?, ?) "
                    "ON CONFLICT (name) DO NOTHING",
                    (name, time.time()),
                )
                key = _find(execute, name)
            names = ", ".join(c.name for c in _count(execute)) if key is None else ""
        if key is None:
            raise MissingInputError(
                f"there is no queue {name!r} in {self.location}; it has "
                f"{names or 'none: make one with skymill queue load NAME FILE'}"
            )
        self._key = key

    @property
    def location(self) -> str:
        """Path or URL of the database, without a password."""
        return self._database.location

    # -- filling ---------------------------------------------------------------------------

    def add(
        self,
        tasks: Iterable[str],
        *,
        requires: Sequence[int] = (),
        after: TaskQueue | None = None,
        duplicates: bool = False,
    ) -> list[int]:
        """Add tasks.

        Parameters
        ----------
        tasks : iterable of str
            One line of text each.
        requires : sequence of int
            Identifiers of tasks that have to succeed before any of these.
        after : TaskQueue, optional
            Each task waits for the success of the task with the same text in that queue.
        duplicates : bool
            Add also what is in the queue already.

        Returns
        -------
        list of int
            Identifiers of the new tasks.

        Raises
        ------
        MissingInputError
            If the task to wait for does not exist; then none is added.
        """
        texts = [str(t) for t in tasks]
        if any(not t.strip() or "\n" in t for t in texts):
            raise QueueError("a task is one line of text that is not empty")
        new = []
        with self._database.transaction() as execute:
            rows = execute("SELECT task FROM skymill_task WHERE queue_id = ?", (self._key,))
            present = {row[0] for row in rows}
            for text in texts:
                if text in present and not duplicates:
                    continue
                present.add(text)
                needed = [*requires, *self._same_task(execute, text, after)]
                new.append(self._insert(execute, text, needed))
        return new

    def _same_task(self, execute: Transaction, text: str, after: TaskQueue | None) -> list[int]:
        if after is None:
            return []
        if after.location != self.location:
            raise QueueError(f"the queue {after.name!r} is in another database")
        statement = "SELECT id FROM skymill_task WHERE queue_id = ? AND task = ?"
        found = [int(row[0]) for row in execute(statement, (after._key, text))]
        if not found:
            raise MissingInputError(f"the queue {after.name!r} has no task {text!r} to wait for")
        return found

    def _insert(self, execute: Transaction, text: str, needed: Sequence[int]) -> int:
        open_ones = []
        for other in needed:
            rows = execute("SELECT state FROM skymill_task WHERE id = ?", (other,))
            if not rows:
                raise MissingInputError(f"there is no task with the identifier {other}")
            if rows[0][0] != TaskState.SUCCEEDED:
                open_ones.append(other)
        state = TaskState.WAITING if open_ones else TaskState.PENDING
        rows = execute(
            "INSERT INTO skymill_task (queue_id, task, state) VALUES (?, ?, ?) RETURNING id",
            (self._key, text, str(state)),
        )
        key = int(rows[0][0])
        for other in dict.fromkeys(open_ones):
            execute("INSERT INTO skymill_requirement VALUES (?, ?)", (key, other))
        return key

    # -- work ------------------------------------------------------------------------------

    def take(self, worker: Worker | None = None) -> QueueTask | None:
        """Take the first pending task; it is running from now on.

        Parameters
        ----------
        worker : Worker, optional
            Who takes it; this process if absent.

        Returns
        -------
        QueueTask or None
            The task with the token that `finish` wants; None if none is pending.
        """
        worker = worker if worker is not None else Worker.this()
        now = time.time()
        choice = (
            "SELECT id FROM skymill_task WHERE queue_id = ? AND state = 'Pending' "
            f"ORDER BY id LIMIT 1 {self._database.choice}"
        )
        with self._database.transaction() as execute:
            rows = execute(
                "UPDATE skymill_task SET state = 'Running', attempts = attempts + 1, token = ?, "
                "host = ?, machine = ?, pid = ?, pid_started = ?, heartbeat = ?, started = ?, "
                "ended = NULL, exit_code = NULL, message = '', log = '' "
                f"WHERE id = ({choice}) AND state = 'Pending' RETURNING {_COLUMNS}",
                (uuid.uuid4().hex, worker.host, worker.machine, worker.pid, worker.started, now,
                 now, self._key),
            )  # fmt: skip
        return _task(rows[0]) if rows else None

    def beat(self, task: QueueTask, *, log: str | None = None) -> bool:
        """Say that the worker of a task lives.

        Parameters
        ----------
        task : QueueTask
            From `take`.
        log : str, optional
            Path of its log, from now on.

        Returns
        -------
        bool
            False if the task is no longer this worker's: it must stop.
        """
        with self._database.transaction() as execute:
            rows = execute(
                "UPDATE skymill_task SET heartbeat = ?, log = COALESCE(?, log) "
                "WHERE id = ? AND token = ? AND state = 'Running' RETURNING id",
                (time.time(), log, task.id, task.token),
            )
        return bool(rows)

    def finish(
        self, task: QueueTask, state: TaskState, *, exit_code: int | None = None, message: str = ""
    ) -> bool:
        """Give a task back.

        Parameters
        ----------
        task : QueueTask
            From `take`.
        state : TaskState
            Succeeded, Failed, or Pending if it has to be done again.
        exit_code : int, optional
            Of its script.
        message : str
            One line that says why.

        Returns
        -------
        bool
            False if the task is no longer this worker's; nothing is changed then.
        """
        return self._give_back(task, state, exit_code, message, lost=0)

    def _give_back(
        self, task: QueueTask, state: TaskState, exit_code: int | None, message: str, *, lost: int
    ) -> bool:
        with self._database.transaction() as execute:
            rows = execute(
                "UPDATE skymill_task SET state = ?, exit_code = ?, message = ?, ended = ?, "
                "lost = lost + ?, token = NULL "
                "WHERE id = ? AND token = ? AND state = 'Running' RETURNING id",
                (str(state), exit_code, message, time.time(), lost, task.id, task.token),
            )
            if rows and state == TaskState.SUCCEEDED:
                self._release(execute, task.id)
        return bool(rows)

    @staticmethod
    def _release(execute: Transaction, key: int) -> None:
        """Tasks that waited for this one alone may be taken."""
        execute(
            "UPDATE skymill_task SET state = 'Pending' WHERE state = 'Waiting' AND id IN "
            "(SELECT task_id FROM skymill_requirement WHERE required_id = ?) AND NOT EXISTS "
            "(SELECT 1 FROM skymill_requirement r JOIN skymill_task t ON t.id = r.required_id "
            "WHERE r.task_id = skymill_task.id AND t.state != 'Succeeded')",
            (key,),
        )

    def may_get_work(self) -> bool:
        """Whether a pending task can still appear without anybody's action.

        Returns
        -------
        bool
            True if a task waits for one that runs now.
        """
        with self._database.transaction(write=False) as execute:
            rows = execute(
                "SELECT 1 FROM skymill_task w JOIN skymill_requirement r ON r.task_id = w.id "
                "JOIN skymill_task t ON t.id = r.required_id "
                "WHERE w.queue_id = ? AND w.state = 'Waiting' AND t.state = 'Running' LIMIT 1",
                (self._key,),
            )
        return bool(rows)

    # -- looking ---------------------------------------------------------------------------

    def counts(self) -> QueueCounts:
        """Number of tasks in each state.

        Returns
        -------
        QueueCounts
            The numbers.
        """
        with self._database.transaction(write=False) as execute:
            found = _count(execute, self.name)
        none = QueueCounts(name=self.name, counts=dict.fromkeys(TaskState, 0))
        return found[0] if found else none

    def tasks(
        self, *, state: TaskState | str | None = None, exit_code: int | None = None
    ) -> list[QueueTask]:
        """Tasks in the order in which they were added.

        Parameters
        ----------
        state : TaskState or str, optional
            Only those in this state.
        exit_code : int, optional
            Only those that ended so.

        Returns
        -------
        list of QueueTask
            The tasks.
        """
        with self._database.transaction(write=False) as execute:
            rows = execute(
                f"SELECT {_COLUMNS} FROM skymill_task WHERE queue_id = ? ORDER BY id", (self._key,)
            )
        found = [_task(row) for row in rows]
        if state is not None:
            found = [t for t in found if t.state == TaskState(state)]
        return found if exit_code is None else [t for t in found if t.exit_code == exit_code]

    # -- repair ----------------------------------------------------------------------------

    def recover(self, *, max_lost: int | None = None) -> Recovery:
        """Make running tasks pending again whose workers are dead; others are left alone.

        Processes that a dead worker of this machine left behind are ended first.

        Parameters
        ----------
        max_lost : int, optional
            A task that lost so many workers fails instead.

        Returns
        -------
        Recovery
            The tasks by what happened.
        """
        result = Recovery(recovered=[], given_up=[], alive=[])
        for task in self.tasks(state=TaskState.RUNNING):
            worker = task.worker
            if worker is None or task.token is None or worker.is_alive():
                result.alive.append(task)
                continue
            if worker.is_here and find_processes(task.token):
                end_processes(task.token, grace_s=10.0)
            failed = max_lost is not None and task.lost + 1 >= max_lost
            reason = f"its worker ({worker.text()}) ended without a word"
            state = TaskState.FAILED if failed else TaskState.PENDING
            if self._give_back(task, state, None, reason, lost=1):
                (result.given_up if failed else result.recovered).append(task)
        return result

    def retry(self, *, exit_code: int | None = None) -> int:
        """Make failed tasks pending again.

        Parameters
        ----------
        exit_code : int, optional
            Only those that ended so.

        Returns
        -------
        int
            How many.
        """
        query = "UPDATE skymill_task SET state = 'Pending', lost = 0 WHERE queue_id = ? AND state = 'Failed'"  # noqa: E501
        values: list[int] = [self._key]
        if exit_code is not None:
            query, values = f"{query} AND exit_code = ?", [*values, exit_code]
        with self._database.transaction() as execute:
            return len(execute(f"{query} RETURNING id", values))

    def delete(self, *, force: bool = False) -> int:
        """Delete the queue and its tasks.

        Parameters
        ----------
        force : bool
            Also if workers are at work; they end their tasks as soon as they notice.

        Returns
        -------
        int
            How many tasks it had.

        Raises
        ------
        QueueError
            If workers are at work and ``force`` is not set.
        """
        running = self.tasks(state=TaskState.RUNNING)
        alive = [(t.task, t.worker) for t in running if t.worker and t.worker.is_alive()]
        if alive and not force:
            task, worker = alive[0]
            raise QueueError(
                f"{len(alive)} tasks of {self.name!r} run ({task}: {worker.text()}); wait, or "
                "delete with --force"
            )
        with self._database.transaction() as execute:
            number = len(execute("SELECT id FROM skymill_task WHERE queue_id = ?", (self._key,)))
            mine = "SELECT id FROM skymill_task WHERE queue_id = ?"
            execute(
                "UPDATE skymill_task SET state = 'Failed', message = 'the task that it waited for "
                "was deleted' WHERE state = 'Waiting' AND queue_id != ? AND id IN (SELECT task_id "
                f"FROM skymill_requirement WHERE required_id IN ({mine}))",
                (self._key, self._key),
            )
            execute(
                f"DELETE FROM skymill_requirement WHERE task_id IN ({mine}) "
                f"OR required_id IN ({mine})",
                (self._key, self._key),
            )
            execute("DELETE FROM skymill_task WHERE queue_id = ?", (self._key,))
            execute("DELETE FROM skymill_queue WHERE id = ?", (self._key,))
        return number

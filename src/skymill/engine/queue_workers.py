"""Workers of a task queue: they take tasks and run a script for each, until none is pending.

`run_worker` is one worker in this process, `launch` any number on the workers of a Parsl pool, on
this machine or in SLURM jobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from skymill.data.errors import MissingInputError
from skymill.engine import lease
from skymill.engine.queue_process import TOKEN_VARIABLE, die_with_parent, end_processes
from skymill.engine.task_queue import QueueTask, TaskQueue, TaskState

__all__ = [
    "WorkOrder",
    "clean_environment",
    "find_script",
    "log_path",
    "run_function",
    "run_worker",
]

_LOG = logging.getLogger(__name__)

_POLL_S = 0.2
#: Time between two signs of life in the database [s].
_BEAT_S = 10.0
#: Time that a script gets between SIGTERM and SIGKILL [s].
GRACE_S = 20.0

_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")
_BASICS = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TERM", "TMPDIR", "TZ")
_SECRETS = ("PGPASSWORD", "SKYMILL_QUEUE_DB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkOrder:
    """What a worker has to know.

    Parameters
    ----------
    queue, location : str
        Name of the queue and its database (without a password).
    script : tuple of str
        Words of the command that gets the task as its last argument; if empty the task itself is
        a command of the shell.
    log_dir : str
        Folder of the logs of the tasks.
    folder : str
        Folder in which the script runs.
    environment : dict of str to str
        Variables of the script, beside those of the worker.
    clean : bool
        The script gets only ``environment``.
    cores : int
        Cores of the worker, told to the script as ``SKYMILL_CORES_PER_WORKER``.
    walltime_s : float [s], optional
        A worker stops so long after its process began.
    lease : str
        File that says that the driver lives; empty without one.
    """

    queue: str
    location: str
    script: tuple[str, ...] = ()
    log_dir: str = "."
    folder: str = "."
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    clean: bool = False
    cores: int = 1
    walltime_s: float | None = None
    lease: str = ""


def find_script(text: str | None) -> tuple[str, ...]:
    """The command of a script.

    Parameters
    ----------
    text : str or None
        Path of a script, or a command with arguments.

    Returns
    -------
    tuple of str
        Its words; a script that is not executable is run by bash.

    Raises
    ------
    MissingInputError
        If there is no such program.
    """
    if not text:
        return ()
    whole = Path(text).expanduser()
    words = [str(whole)] if whole.is_file() else shlex.split(text)
    first = Path(words[0]).expanduser()
    if first.is_file():
        absolute = str(first.absolute())
        run_by = [] if os.access(first, os.X_OK) else ["bash"]
        return (*run_by, absolute, *words[1:])
    program = shutil.which(words[0])
    if program is None:
        raise MissingInputError(f"there is no script or program {words[0]!r}")
    return (program, *words[1:])


def clean_environment(*, keep: bool) -> dict[str, str]:
    """The variables of this process that scripts get.

    Parameters
    ----------
    keep : bool
        All; else only those of a fresh login.

    Returns
    -------
    dict of str to str
        The variables, without passwords.
    """
    names = [n for n in os.environ if keep or n in _BASICS or n.startswith("LC_")]
    return {n: os.environ[n] for n in names if n not in _SECRETS}


def log_path(folder: str | Path, task: QueueTask) -> Path:
    """The log of a task: ``BRI/BRICK.log`` for a brick.

    Parameters
    ----------
    folder : path
        Folder of the logs.
    task : QueueTask
        The task.

    Returns
    -------
    Path
        The file, of which another task never has the name.
    """
    if re.fullmatch(r"\d{4}[pm]\d{3}", task.task):
        return Path(folder) / task.task[:3] / f"{task.task}.log"
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", task.task).strip("_.")[-80:]
    return Path(folder) / f"{safe or 'task'}-{task.id}.log"


class _Stop:
    """Why a worker has to stop: a signal, the end of its time, or a driver that is gone."""

    def __init__(self, order: WorkOrder) -> None:
        self._signal = ""
        self._lease = Path(order.lease) if order.lease else None
        self._missed = 0
        self._looked = 0.0
        self._limit = None
        if order.walltime_s is not None:
            self._limit = psutil.Process().create_time() + order.walltime_s

    def reason(self) -> str:
        """One clause, or nothing."""
        if self._signal:
            return self._signal
        if self._limit is not None and time.time() > self._limit:
            return "the walltime ended"
        if self._lease is not None and time.monotonic() - self._looked > 1.0:
            self._looked = time.monotonic()
            gone = lease.is_driver_gone(self._lease)
            self._missed = self._missed + 1 if gone else 0
        return "the launch was ended" if self._missed > 1 else ""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C as a wish, not as an end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _frame: FrameType | None) -> None:
            self._signal = f"the worker was ended by {signal.Signals(number).name}"

        kinds = (signal.SIGTERM, signal.SIGINT)
        previous = {k: signal.signal(k, note) for k in kinds}
        try:
            yield
        finally:
            for kind, handler in previous.items():
                signal.signal(kind, handler)


def run_worker(
    queue: TaskQueue,
    order: WorkOrder,
    *,
    on_task: Callable[[QueueTask, TaskState], None] = lambda t, s: None,
) -> str:
    """Run tasks until none is pending.

    Parameters
    ----------
    queue : TaskQueue
        The queue.
    order : WorkOrder
        How to run them.
    on_task : callable
        Called with each task that ended and its state.

    Returns
    -------
    str
        Why it stopped early; empty if nothing was left to do.
    """
    stop = _Stop(order)
    with stop.listening():
        while not (reason := stop.reason()):
            task = queue.take()
            if task is None:
                if not queue.may_get_work():
                    return ""
                time.sleep(1.0)
                continue
            on_task(task, _run_task(queue, task, order, stop))
    return reason


def run_function(queue: TaskQueue, function: Callable[[str], object]) -> int:
    """Call a function of this process for each task until none is pending.

    Parameters
    ----------
    queue : TaskQueue
        The queue.
    function : callable
        Called with the text of a task. Its exception makes the task fail, with the text of the
        exception as message; other tasks go on. KeyboardInterrupt and SystemExit make the task
        pending again.

    Returns
    -------
    int
        How many tasks failed.
    """
    failed = 0
    while (task := queue.take()) is not None:
        end = threading.Event()
        beat = threading.Thread(target=_beat_until, args=(queue, task, end), daemon=True)
        beat.start()
        try:
            function(task.task)
        except Exception as exc:
            failed += 1
            text = f"{type(exc).__name__}: {exc}".splitlines()[0]
            queue.finish(task, TaskState.FAILED, message=text[:500])
        except BaseException as exc:
            reason = f"interrupted by {type(exc).__name__}"
            queue.finish(task, TaskState.PENDING, message=reason)
            raise
        else:
            queue.finish(task, TaskState.SUCCEEDED)
        finally:
            end.set()
            beat.join()
    return failed


def _beat_until(queue: TaskQueue, task: QueueTask, end: threading.Event) -> None:
    while not end.wait(_BEAT_S):
        try:
            queue.beat(task)
        except Exception as exc:
            _LOG.warning("no sign of life could be written: %s", exc)


def _run_task(queue: TaskQueue, task: QueueTask, order: WorkOrder, stop: _Stop) -> TaskState:
    path = log_path(Path(order.folder) / order.log_dir, task)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as log:
            queue.beat(task, log=str(path))
            return _run_logged(queue, task, order, stop, log, path)
    except OSError as exc:
        message = f"the script cannot be started: {exc}"
        queue.finish(task, TaskState.FAILED, message=message)
        return TaskState.FAILED


def _run_logged(
    queue: TaskQueue, task: QueueTask, order: WorkOrder, stop: _Stop, log: Any, path: Path
) -> TaskState:
    words = [*order.script, task.task] if order.script else ["bash", "-c", task.task]
    where = task.worker.text() if task.worker else "?"
    _note(log, f"attempt {task.attempts} on {where}: {shlex.join(words)}")
    begin = log.tell()
    process = subprocess.Popen(
        words, cwd=order.folder, env=_environment(task, order), stdin=subprocess.DEVNULL,
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    reason = _wait(process, queue, task, stop)
    message = _last_line(path, begin)
    if reason is None:
        code = process.returncode
        state = TaskState.SUCCEEDED if code == 0 else TaskState.FAILED
        if code < 0:
            hint = "; was the memory exhausted?" if code == -signal.SIGKILL else ""
            message = f"killed by {_signal_name(-code)}{hint}"
        queue.finish(task, state, exit_code=code, message=message)
        _note(log, f"{state} with exit code {code}")
        return state
    queue.finish(task, TaskState.PENDING, message=reason)
    _note(log, f"stopped: {reason}")
    return TaskState.PENDING


def _wait(
    process: subprocess.Popen[bytes], queue: TaskQueue, task: QueueTask, stop: _Stop
) -> str | None:
    """Wait for the end of the script: None, or why it was ended."""
    last = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return None
        reason = stop.reason()
        if not reason and time.monotonic() - last > _BEAT_S:
            last = time.monotonic()
            try:
                if not queue.beat(task):
                    reason = "the task was taken away: recovered by somebody, or its queue deleted"
            except Exception as exc:
                # The task may well end before the database has to be there again.
                _LOG.warning("no sign of life could be written: %s", exc)
        if reason:
            _end(process, task)
            return reason


def _end(process: subprocess.Popen[bytes], task: QueueTask) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    end_processes(task.token or "", grace_s=1.0)


def _environment(task: QueueTask, order: WorkOrder) -> dict[str, str]:
    result = dict(order.environment) if order.clean else {**os.environ, **order.environment}
    # The cores of a task are its script's to share out; what the user set is kept.
    for name in _THREADS:
        result[f"{name}_NUM_THREADS"] = order.environment.get(f"{name}_NUM_THREADS", "1")
    result[TOKEN_VARIABLE] = task.token or ""
    result["SKYMILL_CORES_PER_WORKER"] = str(order.cores)
    result["SKYMILL_QUEUE"] = order.queue
    result["SKYMILL_TASK_ID"] = str(task.id)
    return result


def _note(log: Any, text: str) -> None:
    log.write(f"# {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())
    log.flush()


def _last_line(path: Path, begin: int) -> str:
    with path.open("rb") as stream:
        stream.seek(max(begin, stream.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:500]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

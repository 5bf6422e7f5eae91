"""Which process works on a task: its identity, whether it lives, and the end of what it started."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from skymill.engine.lease import LIFETIME_S

__all__ = ["TOKEN_VARIABLE", "Worker", "die_with_parent", "end_processes", "find_processes"]

#: Environment variable that marks all processes of a task.
TOKEN_VARIABLE = "SKYMILL_TASK_TOKEN"


@functools.cache
def _machine() -> str:
    """Identity of the machine and its numbering of processes: names of hosts are not unique."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@dataclass(frozen=True)
class Worker:
    """The process that took a task.

    Parameters
    ----------
    host : str
        Name of its host.
    machine : str
        Identity of the host's numbering of processes.
    pid : int
        Number of the process.
    started : float [s]
        When the process began; numbers are used again.
    heartbeat : float [s]
        When it was last heard of (seconds since 1970).
    """

    host: str
    machine: str
    pid: int
    started: float
    heartbeat: float

    @classmethod
    def this(cls) -> Worker:
        """The worker that this process is.

        Returns
        -------
        Worker
            With the time of now.
        """
        started = psutil.Process().create_time()
        return cls(socket.gethostname(), _machine(), os.getpid(), started, time.time())

    def is_alive(self, *, now: float | None = None) -> bool:
        """Whether the process can still be at work.

        Parameters
        ----------
        now : float [s], optional
            Time of the clock.

        Returns
        -------
        bool
            On this machine whether the process is there; elsewhere whether it was heard of within
            two minutes.
        """
        if self.machine == _machine():
            try:
                process = psutil.Process(self.pid)
                same = abs(process.create_time() - self.started) < 2
                return same and process.status() != psutil.STATUS_ZOMBIE
            except psutil.Error:
                return False
        return (time.time() if now is None else now) - self.heartbeat < LIFETIME_S

    @property
    def is_here(self) -> bool:
        """Whether its processes are those of this machine."""
        return self.machine == _machine()

    def text(self) -> str:
        """Host and process for the user.

        Returns
        -------
        str
            Such as ``host node3, process 4711``.
        """
        return f"host {self.host}, process {self.pid}"


def find_processes(token: str) -> list[psutil.Process]:
    """Processes of this machine that belong to a task.

    Parameters
    ----------
    token : str
        The mark of the task.

    Returns
    -------
    list of psutil.Process
        Those whose environment has the mark; never this process itself.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(TOKEN_VARIABLE) == token:
                found.append(process)
    return found


def end_processes(token: str, *, grace_s: float) -> int:
    """End all processes of a task: politely first, so that they can write their checkpoints.

    Parameters
    ----------
    token : str
        The mark of the task.
    grace_s : float [s]
        Time between SIGTERM and SIGKILL.

    Returns
    -------
    int
        How many there were.
    """
    found = find_processes(token)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=grace_s)
    # A child that began in between has the mark as well.
    for process in {*alive, *find_processes(token)}:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(found)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

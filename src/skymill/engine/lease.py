"""A file that says the driver lives, so that workers without a driver stop by themselves.

Parsl leaves its interchange and its workers running when the driver is killed; they would go on
writing beside the workers of the next run. The driver touches the lease each second; a thread of
each worker looks at it, and ends its pool when the driver is gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from skymill.engine.report import write_json

__all__ = ["Lease", "is_driver_gone", "reap", "watch"]

_LOG = logging.getLogger(__name__)

#: A lease untouched for so long has no driver, as seen from another host; shared disks show
#: changes late (NFS keeps attributes for up to a minute).
LIFETIME_S = 120.0


class Lease:
    """The driver's side of a lease.

    Parameters
    ----------
    folder : Path
        Folder of the engine; the lease is ``lease.json`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lease.json"
        self._content: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "interchange": None,
            "jobs": [],
        }
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="skymill-lease", daemon=True)

    def start(self) -> None:
        """Write the lease and keep it fresh."""
        write_json(self.path, self._content)
        self._thread.start()

    def record(self, **values: Any) -> None:
        """Note what a later driver has to clean up.

        Parameters
        ----------
        **values : object
            ``interchange`` (process id) and ``jobs`` (SLURM job ids).
        """
        if any(self._content[name] != value for name, value in values.items()):
            self._content.update(values)
            write_json(self.path, self._content)

    def _beat(self) -> None:
        while not self._end.wait(1.0):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def stop(self) -> None:
        """Withdraw the lease: workers that still run end themselves."""
        self._end.set()
        self.path.unlink(missing_ok=True)


def _is_running(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 2
    except psutil.Error:
        return False


def is_driver_gone(path: Path) -> bool:
    """Whether nobody holds a lease any more.

    Parameters
    ----------
    path : Path
        The lease.

    Returns
    -------
    bool
        `True` if the lease is withdrawn, its process is dead (same host) or it is stale.
    """
    try:
        content = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    if content["host"] == socket.gethostname():
        return not _is_running(content["pid"], content["started"])
    return age > LIFETIME_S


def _register_worker(folder: Path) -> None:
    process = psutil.Process()
    name = f"{socket.gethostname()}.{process.pid}.json"
    content = {"pid": process.pid, "started": process.create_time(), "host": socket.gethostname()}
    with contextlib.suppress(OSError):
        write_json(folder / "workers" / name, content)


def _kill_interchange(path: Path) -> None:
    """End the interchange of a dead driver, if it is on this host; it would stay for ever."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        content = json.loads(path.read_text())
        if content["host"] == socket.gethostname() and content["interchange"]:
            _kill(int(content["interchange"]), None, "interchange")


def watch(path: Path, *, period_s: float = 1.0) -> None:
    """End this worker and its pool when the driver is gone (runs in a thread of the worker).

    Parameters
    ----------
    path : Path
        The lease.
    period_s : float
        Time between two looks [s].
    """
    _register_worker(path.parent)

    def loop() -> None:
        missed = 0
        while missed < 2:
            time.sleep(period_s)
            missed = missed + 1 if is_driver_gone(path) else 0
        _kill_interchange(path)
        with contextlib.suppress(OSError):
            os.kill(os.getppid(), signal.SIGTERM)
        os._exit(75)

    threading.Thread(target=loop, name="skymill-watch", daemon=True).start()


def _kill(pid: int, started: float | None, word: str) -> None:
    """Kill a process if it is still the one that was noted."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        same = (
            abs(process.create_time() - started) < 2
            if started is not None
            else any(word in part for part in process.cmdline())
        )
        if same:
            process.kill()
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(5)


def reap(folder: Path, *, patience_s: float = 10.0) -> None:
    """Wait for, then end, whatever a dead driver left running.

    Parameters
    ----------
    folder : Path
        Folder of the dead driver's engine.
    patience_s : float
        Time that workers on this host get to end by themselves [s].
    """
    lease = folder / "lease.json"
    if lease.exists() and not is_driver_gone(lease):
        return
    content: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(lease.read_text())
    jobs = [str(job) for job in content.get("jobs", [])]
    if jobs:
        _cancel_jobs(jobs)
    workers = []
    for path in (folder / "workers").glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            workers.append(json.loads(path.read_text()))
    here = [w for w in workers if w["host"] == socket.gethostname()]
    limit = time.monotonic() + patience_s
    while time.monotonic() < limit and any(_is_running(w["pid"], w["started"]) for w in here):
        time.sleep(0.1)
    for worker in here:
        _kill(worker["pid"], worker["started"], "")
    _kill_interchange(lease)
    lease.unlink(missing_ok=True)


def _cancel_jobs(jobs: list[str]) -> None:
    import subprocess

    try:
        subprocess.run(["scancel", *jobs], check=False, timeout=60, capture_output=True)
    except (OSError, subprocess.TimeoutExpired) as exc:
        _LOG.warning("could not cancel SLURM jobs %s of an earlier run: %s", ", ".join(jobs), exc)

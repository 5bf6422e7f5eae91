"""Many workers of a task queue on a Parsl pool, local or in SLURM jobs."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from skymill.data.errors import ConfigError
from skymill.engine import lease
from skymill.engine.pool import (
    EngineError,
    record_processes,
    start_kernel,
    terminate_as_interrupt,
)
from skymill.engine.queue_workers import GRACE_S, WorkOrder, run_worker
from skymill.engine.sites import LocalSite, Site, SlurmSite, parse_walltime
from skymill.engine.task_queue import QueueCounts, TaskQueue, TaskState

__all__ = ["LaunchReport", "cores_of_nodes", "launch", "make_site"]

_LOG = logging.getLogger(__name__)

#: A task that loses so many workers has failed.
MAX_LOST = 3
_POLL_S = 0.5
_RECOVER_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchReport:
    """How the queue stands after a launch.

    ``failed`` counts the tasks that failed in it, ``lost`` the workers that died, ``reasons`` say
    why workers stopped before the queue was empty.
    """

    counts: QueueCounts
    failed: int
    lost: int
    reasons: tuple[str, ...]
    interrupted: bool


def cores_of_nodes(partition: str | None) -> int:
    """Cores of the smallest node of a SLURM partition.

    Parameters
    ----------
    partition : str or None
        Its name; the default one if None.

    Returns
    -------
    int
        Cores.

    Raises
    ------
    ConfigError
        If SLURM does not say it.
    """
    words = ["sinfo", "-h", "-o", "%c %P", *(["-p", partition] if partition else [])]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as exc:
        raise ConfigError(
            f"SLURM does not say how many cores its nodes have ({exc}); give --cores-per-node, "
            "or --site local to work on this machine"
        ) from exc
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
    if partition is None:
        rows = [r for r in rows if r[-1].endswith("*")] or rows
    if not rows:
        raise ConfigError(f"SLURM has no partition {partition!r}")
    return min(int(r[0].rstrip("+")) for r in rows)


def make_site(
    kind: str, n_workers: int, *, cores_per_worker: int, cores_per_node: int | None,
    walltime: str | None, batch_queue: str | None, batch_options: tuple[str, ...],
    address: str | None = None,
) -> Site:  # fmt: skip
    """The site for a number of workers.

    Parameters
    ----------
    kind : str
        ``local`` or ``slurm``.
    n_workers, cores_per_worker : int
        Workers, and cores of each.
    cores_per_node : int, optional
        Cores of a node; asked of SLURM if absent.
    walltime : str, optional
        ``HH:MM:SS``.
    batch_queue : str, optional
        Partition of SLURM.
    batch_options : tuple of str
        Options for sbatch, such as ``-C haswell``.
    address : str, optional
        Address of this host as the nodes see it.

    Returns
    -------
    LocalSite or SlurmSite
        With ``ceil(n_workers * cores_per_worker / cores_per_node)`` nodes.
    """
    if n_workers < 1 or cores_per_worker < 1:
        raise ConfigError(
            f"workers and cores of each must be >= 1; got {n_workers}, {cores_per_worker}"
        )
    if kind == "local":
        return LocalSite(workers=n_workers)
    cores = cores_per_node or cores_of_nodes(batch_queue)
    if cores_per_worker > cores:
        raise ConfigError(f"a worker of {cores_per_worker} cores does not fit on a node of {cores}")
    return SlurmSite(
        nodes=math.ceil(n_workers / (cores // cores_per_worker)),
        cores_per_node=cores,
        cores_per_worker=cores_per_worker,
        walltime=walltime or "48:00:00",
        partition=batch_queue,
        scheduler_options="\n".join(f"#SBATCH {text}" for text in batch_options),
        address=address,
    )


def _work(order: WorkOrder) -> str:
    """A worker in a process of the pool."""
    queue = TaskQueue(order.queue, order.location)
    reason = run_worker(queue, order)
    # An idle process of the pool has to notice, too, when its driver dies.
    lease.watch(Path(order.lease))
    return reason


class _Pool:
    """The driver of a launch."""

    def __init__(self, site: Site, folder: Path) -> None:
        from parsl.app.app import python_app

        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if old.is_dir() and lease.is_driver_gone(old / "lease.json"):
                lease.reap(old)
                shutil.rmtree(old, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder))
        self.lease = lease.Lease(self.folder)
        self.lease.start()
        self._site = site
        try:
            self._kernel = start_kernel(site, self.folder)
        except EngineError:
            self.lease.stop()
            raise
        self._submit: Callable[[WorkOrder], Future[str]] = python_app(
            _work, data_flow_kernel=self._kernel
        )
        self.note()

    def submit(self, order: WorkOrder) -> Future[str]:
        """Send a worker into the pool."""
        return self._submit(dataclasses.replace(order, lease=str(self.lease.path)))

    def note(self) -> None:
        """Record what a later launch would have to end."""
        record_processes(self._kernel, self._site, self.lease)

    def close(self, *, keep: bool) -> None:
        """End the pool."""
        self.lease.stop()
        self._kernel.cleanup()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)


def launch(
    queue: TaskQueue, n_workers: int, order: WorkOrder, *, site: Site | None = None,
    on_progress: Callable[[QueueCounts], None] = lambda counts: None,
) -> LaunchReport:  # fmt: skip
    """Work on a queue with many workers until nothing is pending.

    Parameters
    ----------
    queue : TaskQueue
        The queue.
    n_workers : int
        Workers.
    order : WorkOrder
        What they do.
    site : LocalSite or SlurmSite, optional
        Where; this machine if absent.
    on_progress : callable
        Called with the counts when they change.

    Returns
    -------
    LaunchReport
        The end. Ctrl-C ends the scripts and makes their tasks pending again.

    Raises
    ------
    EngineError
        If the workers cannot start.
    """
    site = site if site is not None else LocalSite(workers=n_workers)
    if isinstance(site, SlurmSite):
        # The job is killed at its walltime; before that the worker gives its task back.
        walltime = parse_walltime(site.walltime)
        order = dataclasses.replace(
            order, walltime_s=walltime - max(20.0, min(120.0, 0.1 * walltime))
        )
    before = queue.counts()
    if before[TaskState.PENDING] == 0 and not queue.may_get_work():
        return LaunchReport(counts=before, failed=0, lost=0, reasons=(), interrupted=False)
    pool = _Pool(site, Path(order.folder) / order.log_dir / ".engine")
    loop = _Loop(queue, order, pool, on_progress)
    keep = False
    try:
        with terminate_as_interrupt():
            loop.run(n_workers)
    except EngineError:
        keep = True
        raise
    except KeyboardInterrupt:
        loop.interrupt()
    finally:
        pool.close(keep=keep)
    queue.recover(max_lost=MAX_LOST)
    counts = queue.counts()
    return LaunchReport(
        counts=counts, lost=loop.lost, interrupted=loop.interrupted, reasons=tuple(loop.reasons),
        failed=max(0, counts[TaskState.FAILED] - before[TaskState.FAILED]),
    )  # fmt: skip


class _Loop:
    """Watches the workers and replaces those that died."""

    def __init__(
        self, queue: TaskQueue, order: WorkOrder, pool: _Pool,
        on_progress: Callable[[QueueCounts], None],
    ) -> None:  # fmt: skip
        self._queue, self._order, self._pool = queue, order, pool
        self._on_progress = on_progress
        self._futures: set[Future[str]] = set()
        self._shown: QueueCounts | None = None
        self._recovered = time.monotonic()
        self.lost = 0
        self.reasons: dict[str, None] = {}
        self.interrupted = False

    def run(self, n_workers: int) -> None:
        self._futures = {self._pool.submit(self._order) for _ in range(n_workers)}
        while self._futures:
            time.sleep(_POLL_S)
            for future in [f for f in self._futures if f.done()]:
                self._futures.discard(future)
                self._judge(future)
            if time.monotonic() - self._recovered > _RECOVER_S:
                self._recover()
            self._show()
            self._pool.note()

    def _judge(self, future: Future[str]) -> None:
        from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

        error = future.exception()
        if error is None:
            reason = future.result()
            if reason:
                self.reasons[reason] = None
            return
        if not isinstance(error, WorkerLost | ManagerLost):
            raise EngineError(f"a worker cannot work: {type(error).__name__}: {error}") from error
        self.lost += 1
        self._recover()
        if self._queue.counts()[TaskState.PENDING]:
            self._futures.add(self._pool.submit(self._order))

    def _recover(self) -> None:
        self._recovered = time.monotonic()
        found = self._queue.recover(max_lost=MAX_LOST)
        for task in found.given_up:
            _LOG.warning("%s failed: %d workers died with it", task.task, task.lost + 1)

    def _show(self) -> None:
        counts = self._queue.counts()
        if counts != self._shown:
            self._shown = counts
            self._on_progress(counts)

    def interrupt(self) -> None:
        """End the scripts; their tasks become pending again."""
        self.interrupted = True
        self._pool.lease.stop()
        limit = time.monotonic() + GRACE_S + 10
        while self._futures and time.monotonic() < limit:
            time.sleep(_POLL_S)
            self._futures = {f for f in self._futures if not f.done()}

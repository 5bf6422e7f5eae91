"""The driver: keeps a pool of Parsl workers busy with the quanta of predicted graphs."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from skymill.engine.lease import Lease
from skymill.engine.pool import (
    EngineError,
    record_processes,
    start_kernel,
    terminate_as_interrupt,
)
from skymill.engine.report import QuantumFailure, TaskCounts
from skymill.engine.schedule import Plan, Schedule
from skymill.engine.sites import Limits, LocalSite, Site
from skymill.engine.worker import (
    Chunk,
    QuantumResult,
    SessionError,
    WorkItem,
    run_chunk,
    warm_up,
)

if TYPE_CHECKING:
    from parsl.dataflow.dflow import DataFlowKernel

__all__ = ["Engine", "Execution"]

_LOG = logging.getLogger(__name__)

#: A quantum that loses so many workers is a failure of its own.
MAX_ATTEMPTS = 3
#: Graphs with more quanta are read by the workers task by task.
_WHOLE_GRAPH = 1500
_POLL_S = 0.2


class Execution:
    """State of the execution of one graph; `Engine.execute` fills it.

    Parameters
    ----------
    plan : Plan
        The graph.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counts = {label: TaskCounts(label=label) for label in plan.labels}
        for quantum in plan.quanta.values():
            self.counts[quantum.label].total += 1
        self.failures: list[QuantumFailure] = []
        self.retries = 0
        self.interrupted = False

    @property
    def tasks(self) -> list[TaskCounts]:
        """Counts of the tasks that have quanta, in the order of the pipeline."""
        return [c for c in self.counts.values() if c.total]


class Engine:
    """A pool of persistent workers; use it in a ``with`` block, for any number of graphs.

    Workers start with the first graph and keep their imports, compiled kernels and butlers.

    Parameters
    ----------
    site : LocalSite or SlurmSite
        Where the workers run.
    folder : Path
        Folder for the files of the engine itself; a new one is made below it.
    """

    def __init__(self, site: Site | None = None, *, folder: Path) -> None:
        self.site: Site = site if site is not None else LocalSite()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=folder))
        self._kernel: DataFlowKernel | None = None
        self._submit: Callable[[Chunk], Future[list[QuantumResult]]] | None = None
        self._lease = Lease(self.folder)

    @property
    def n_workers(self) -> int:
        """Number of workers when all are there."""
        return self.site.n_workers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(keep=isinstance(error, EngineError))

    def start(self) -> None:
        """Start the pool; nothing if it runs already."""
        if self._kernel is not None:
            return
        from parsl.app.app import python_app

        self.folder.mkdir(parents=True, exist_ok=True)
        self._lease = Lease(self.folder)
        self._lease.start()
        self._kernel = start_kernel(self.site, self.folder)
        self._submit = python_app(run_chunk, data_flow_kernel=self._kernel)
        self._note_processes()

    def warm(self, modules: Sequence[str] = ()) -> None:
        """Start the pool and let its workers import what they will need, while others work.

        Parameters
        ----------
        modules : sequence of str
            Modules that the first quanta need.
        """
        from parsl.app.app import python_app

        self.start()
        prepare = python_app(warm_up, data_flow_kernel=self._kernel)
        for _ in range(self.n_workers):
            prepare(self.lease_path, tuple(modules))

    def _note_processes(self) -> None:
        if self._kernel is not None:
            record_processes(self._kernel, self.site, self._lease)

    def close(self, *, keep: bool = False) -> None:
        """Stop the pool.

        Parameters
        ----------
        keep : bool
            Keep the files of Parsl, which say why workers did not start.
        """
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            self._lease.stop()
            kernel.cleanup()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def execute(
        self,
        executions: Sequence[Execution],
        *,
        limits: Mapping[str, Limits] | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Run graphs together and fill their executions; returns when nothing more can run.

        Parameters
        ----------
        executions : sequence of Execution
            Graphs; their quanta share the workers.
        limits : mapping of str to Limits, optional
            Limits of the quanta of a task; the key ``"*"`` holds for the others.
        on_progress : callable
            Called often.

        Raises
        ------
        EngineError
            If the workers cannot start, or cannot read the graph, or the disk is full.
        """
        if not any(e.plan.quanta for e in executions):
            return
        with terminate_as_interrupt():
            try:
                self.start()
                _Loop(self, executions, limits or {}, on_progress).run()
            except KeyboardInterrupt:
                for execution in executions:
                    execution.interrupted = True
                self.close()
            except EngineError:
                # Quanta that are still out must not write beside those of the next call.
                self.close(keep=True)
                raise

    def submit(self, chunk: Chunk) -> Future[list[QuantumResult]]:
        """Send a chunk to the workers.

        Parameters
        ----------
        chunk : Chunk
            Quanta.

        Returns
        -------
        Future
            Its results.
        """
        assert self._submit is not None
        return self._submit(chunk)

    @property
    def lease_path(self) -> str:
        """The file that says this driver lives."""
        return str(self._lease.path)


class _Loop:
    """One call of `Engine.execute`."""

    def __init__(
        self,
        engine: Engine,
        executions: Sequence[Execution],
        limits: Mapping[str, Limits],
        on_progress: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.executions = executions
        self.on_progress = on_progress
        self.schedule = Schedule(e.plan for e in executions)
        self.limits = {
            label: (limit.time_s, limit.memory_gb)
            for e in executions
            for label in e.plan.labels
            if (limit := limits.get(label, limits.get("*", Limits())))
        }
        self.attempts: Counter[str] = Counter()
        self.results: queue.SimpleQueue[tuple[list[str], Future[list[QuantumResult]]]] = (
            queue.SimpleQueue()
        )
        self.in_flight = 0

    def run(self) -> None:
        window = 2 * self.engine.n_workers + 1
        noted = time.monotonic()
        while self.schedule.n_open > 0:
            while self.in_flight < window and self.schedule.has_ready:
                self._send(self.schedule.take(self.engine.n_workers))
            try:
                ids, future = self.results.get(timeout=_POLL_S)
            except queue.Empty:
                pass
            else:
                self.in_flight -= 1
                self._receive(ids, future)
            if time.monotonic() - noted > 1.0:
                noted = time.monotonic()
                self.engine._note_processes()
            self.on_progress()

    def _send(self, ids: list[str]) -> None:
        plan = self.schedule.plans[self.schedule.owner[ids[0]]]
        items = tuple(WorkItem(q.quantum_id, q.label, q.log) for q in (plan.quanta[i] for i in ids))
        chunk = Chunk(
            repo=plan.repo,
            graph=plan.graph,
            part="" if len(plan.quanta) <= _WHOLE_GRAPH else items[0].label,
            items=items,
            lease=self.engine.lease_path,
            limits={items[0].label: self.limits[items[0].label]},
        )
        self.in_flight += 1
        future = self.engine.submit(chunk)
        future.add_done_callback(lambda f: self.results.put((ids, f)))

    def _receive(self, ids: list[str], future: Future[list[QuantumResult]]) -> None:
        from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

        error = future.exception()
        if error is None:
            for result in future.result():
                self._note(result)
        elif isinstance(error, (WorkerLost, ManagerLost)):
            for quantum_id in ids:
                self._note_lost(quantum_id, str(error))
        elif isinstance(error, SessionError):
            raise EngineError(str(error))
        else:
            raise EngineError(
                f"the workers cannot work: {type(error).__name__}: {error}; "
                f"their own logs are in {self.engine.folder}"
            ) from error

    def _execution(self, quantum_id: str) -> Execution:
        return self.executions[self.schedule.owner[quantum_id]]

    def _note(self, result: QuantumResult) -> None:
        execution = self._execution(result.quantum_id)
        quantum = self.schedule.quantum(result.quantum_id)
        counts = execution.counts[quantum.label]
        if result.status == "failed":
            self._note_failure(result.quantum_id, result.exception, result.message)
            if "No space left on device" in result.message:
                raise EngineError(
                    f"the disk is full ({result.message}); free some space, then the same "
                    "command goes on where it stopped"
                )
            return
        setattr(counts, result.status, getattr(counts, result.status) + 1)
        if result.status != "skipped":
            counts.seconds += result.seconds
        self.schedule.finish(result.quantum_id, result.seconds)

    def _note_failure(self, quantum_id: str, exception: str, message: str) -> None:
        execution = self._execution(quantum_id)
        quantum = self.schedule.quantum(quantum_id)
        execution.counts[quantum.label].failed += 1
        execution.failures.append(
            QuantumFailure(
                label=quantum.label,
                data_id=quantum.data_id,
                exception=exception,
                message=message,
                log=quantum.log,
                quantum_id=quantum_id,
            )
        )
        for blocked in self.schedule.fail(quantum_id):
            execution.counts[self.schedule.quantum(blocked).label].blocked += 1

    def _note_lost(self, quantum_id: str, message: str) -> None:
        """A worker died: try again unless the quantum itself is to blame."""
        quantum = self.schedule.quantum(quantum_id)
        marker = Path(f"{quantum.log}.timeout")
        if marker.exists() and marker.stat().st_size:
            time_s = self.limits[quantum.label][0]
            self._note_failure(
                quantum_id,
                "TimeLimitError",
                f"ran longer than its limit of {time_s} s and did not stop; where it was is in "
                f"{marker}",
            )
            return
        self.attempts[quantum_id] += 1
        if self.attempts[quantum_id] >= MAX_ATTEMPTS:
            self._note_failure(
                quantum_id,
                "WorkerLost",
                f"its worker was killed {MAX_ATTEMPTS} times (out of memory?): {message}",
            )
            return
        _LOG.warning("worker lost in %s (%s): again", quantum.label, quantum.data_id)
        self._execution(quantum_id).retries += 1
        self.schedule.put_back(quantum_id)

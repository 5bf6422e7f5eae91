"""What runs inside a worker process: one quantum-backed butler, quantum after quantum."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import faulthandler
import functools
import importlib
import logging
import os
import resource
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skymill.data.errors import SkymillError
from skymill.engine import lease

if TYPE_CHECKING:
    from lsst.daf.butler import Quantum
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
    from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

__all__ = ["Chunk", "QuantumResult", "TimeLimitError", "WorkItem", "run_chunk", "warm_up"]

_LOG = logging.getLogger(__name__)
_FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"


class TimeLimitError(SkymillError, TimeoutError):
    """A quantum ran longer than its limit."""


class SessionError(SkymillError, RuntimeError):
    """A worker cannot read the graph or the repository."""


class WorkItem(NamedTuple):
    """One quantum to run: its id, task label and log file."""

    quantum_id: str
    label: str
    log: str


class QuantumResult(NamedTuple):
    """Outcome of a quantum: ``done``, ``skipped``, ``no_work`` or ``failed``."""

    quantum_id: str
    status: str
    seconds: float
    exception: str = ""
    message: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunk:
    """Quanta that one worker runs one after the other.

    ``part`` selects what each worker loads: the quanta of one task, or all when empty.
    ``limits`` holds time [s] and memory [GB] for each task label.
    """

    repo: str
    graph: str
    part: str
    items: tuple[WorkItem, ...]
    lease: str
    limits: dict[str, tuple[float | None, float | None]]


class _Session(NamedTuple):
    graph: PredictedQuantumGraph
    executor: SingleQuantumExecutor
    quanta: dict[uuid.UUID, Quantum]


@functools.lru_cache(maxsize=1)
def _prepare_process(lease_path: str) -> None:
    """Once for each worker process."""
    lease.watch(Path(lease_path))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("parsl").setLevel(logging.WARNING)
    # Dask and numba speak at INFO and DEBUG about their own affairs.
    logging.getLogger("numba").setLevel(logging.WARNING)


def warm_up(lease_path: str, modules: tuple[str, ...]) -> None:
    """Import what quanta need, before there is a graph.

    Parameters
    ----------
    lease_path : str
        File that says that the driver lives.
    modules : tuple of str
        Modules.
    """
    _prepare_process(lease_path)
    for name in ("lsst.pipe.base.quantum_graph", "lsst.pipe.base.single_quantum_executor"):
        importlib.import_module(name)
    for name in modules:
        # What cannot be imported says so when a quantum needs it.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


@functools.lru_cache(maxsize=1)
def _butler_config(repo: str) -> Any:
    from lsst.daf.butler import ButlerConfig

    return ButlerConfig(repo)


@functools.lru_cache(maxsize=8)
def _open_session(repo: str, path: str, part: str) -> _Session:
    """Read (a part of) a graph and make the one butler that serves it."""
    from lsst.daf.butler import QuantumBackedButler
    from lsst.daf.butler.datastore.record_data import DatastoreRecordData
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
    from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

    wanted = None
    if part:
        with PredictedQuantumGraph.open(path) as reader:
            reader.read_thin_graph()
            wanted = [q.quantum_id for q in reader.components.thin_graph.quanta[part]]
    graph = PredictedQuantumGraph.read_execution_quanta(path, wanted)
    quanta = graph.build_execution_quanta(wanted)
    types = {node.name: node.dataset_type for node in graph.pipeline_graph.dataset_types.values()}
    records: dict[str, DatastoreRecordData] = {}
    inputs: set[uuid.UUID] = set()
    outputs: set[uuid.UUID] = set()
    for quantum in quanta.values():
        for name, data in quantum.datastore_records.items():
            records.setdefault(name, DatastoreRecordData()).update(data)
        inputs.update(ref.id for refs in quantum.inputs.values() for ref in refs)
        inputs.update(ref.id for ref in quantum.initInputs.values())
        outputs.update(ref.id for refs in quantum.outputs.values() for ref in refs)
    butler = QuantumBackedButler.from_predicted(
        _butler_config(repo),
        inputs,
        outputs,
        graph.pipeline_graph.universe,
        records,
        dataset_types=types,
    )
    executor = SingleQuantumExecutor(butler=butler, skip_existing=True, clobber_outputs=True)
    return _Session(graph, executor, quanta)


@contextlib.contextmanager
def _log_to(path: str) -> Iterator[None]:
    """Send the log of this process to a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _time_limit(seconds: float | None, log: str) -> Iterator[None]:
    """Raise in the quantum after ``seconds``; kill the process if it does not listen."""
    if seconds is None:
        yield
        return

    def ring(_signal: int, _frame: Any) -> None:
        raise TimeLimitError(f"ran longer than its limit of {seconds:g} s; raise time_s for it")

    previous = signal.signal(signal.SIGALRM, ring)
    # Compiled code that never returns to Python cannot be interrupted: the watchdog ends the
    # process, and leaves its traceback where the driver looks for the reason.
    with open(f"{log}.timeout", "w") as stream:
        faulthandler.dump_traceback_later(1.2 * seconds + 1.0, exit=True, file=stream)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, previous)
            with contextlib.suppress(OSError):
                os.unlink(f"{log}.timeout")


@contextlib.contextmanager
def _memory_limit(gigabytes: float | None) -> Iterator[None]:
    """Make an allocation above the limit a `MemoryError` of the quantum."""
    if gigabytes is None:
        yield
        return
    old = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9), old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)


def _status_of(result: Any) -> str:
    from lsst.pipe.base import QuantumSuccessCaveats

    if result.skipped_existing:
        return "skipped"
    if result.adjusted_no_work:
        return "no_work"
    caveats = QuantumSuccessCaveats(int(result.task_metadata["quantum"]["caveats"]))
    return "no_work" if caveats & QuantumSuccessCaveats.NO_WORK else "done"


def _run_quantum(session: _Session, item: WorkItem, limits: tuple[Any, Any]) -> QuantumResult:
    start = time.perf_counter()
    quantum_id = uuid.UUID(item.quantum_id)
    node = session.graph.quantum_only_xgraph.nodes[quantum_id]["pipeline_node"]
    time_s, memory_gb = limits
    try:
        with _log_to(item.log):
            try:
                with _memory_limit(memory_gb), _time_limit(time_s, item.log):
                    result = session.executor.execute(
                        node, session.quanta[quantum_id], quantum_id=quantum_id
                    )
            except Exception:
                _LOG.exception("quantum %s of %s failed", item.quantum_id, item.label)
                raise
    except MemoryError as exc:
        text = str(exc) or "out of memory"
        if memory_gb is not None:
            text += f"; its limit is {memory_gb:g} GB, raise memory_gb for it"
        return _failure(item, start, "MemoryError", text)
    except Exception as exc:
        return _failure(item, start, *_describe(exc))
    return QuantumResult(item.quantum_id, _status_of(result), time.perf_counter() - start)


def _describe(exc: Exception) -> tuple[str, str]:
    """Name and text of an exception; a full disk is told as such however it is wrapped."""
    chain: list[BaseException] = [exc]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) and inner not in chain:
        chain.append(inner)
    for item in chain:
        if isinstance(item, OSError) and (
            item.errno in (errno.ENOSPC, errno.EDQUOT) or "space on disk" in str(item)
        ):
            return "DiskFull", "the disk is full; free some space and run the same command again"
    text = str(exc)
    if type(exc).__name__ == "FileIntegrityError":
        text += "; the file was changed or cut off after it was ingested: put the original back"
    if exc.__cause__ is not None:
        text += f" ({type(exc.__cause__).__name__}: {exc.__cause__})"
    return type(exc).__name__, text


def _failure(item: WorkItem, start: float, exception: str, message: str) -> QuantumResult:
    seconds = time.perf_counter() - start
    return QuantumResult(item.quantum_id, "failed", seconds, exception, message)


def run_chunk(chunk: Chunk) -> list[QuantumResult]:
    """Run quanta in this worker process.

    Parameters
    ----------
    chunk : Chunk
        What to run.

    Returns
    -------
    list of QuantumResult
        One for each item, in order; a quantum that failed is a result, not an exception.

    Raises
    ------
    SessionError
        If the graph or the repository cannot be read.
    """
    _prepare_process(chunk.lease)
    try:
        session = _open_session(chunk.repo, chunk.graph, chunk.part)
    except Exception as exc:
        raise SessionError(
            f"worker cannot open {chunk.graph} of {chunk.repo}: {type(exc).__name__}: {exc}"
        ) from None
    return [
        _run_quantum(session, item, chunk.limits.get(item.label, (None, None)))
        for item in chunk.items
    ]

"""Parsl's processes: their start, what of them has to be recorded, and what ends them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from skymill.data.errors import SkymillError
from skymill.engine.lease import Lease
from skymill.engine.sites import LocalSite, Site, make_parsl_config

if TYPE_CHECKING:
    from parsl.dataflow.dflow import DataFlowKernel

__all__ = ["EngineError", "record_processes", "start_kernel", "terminate_as_interrupt"]


class EngineError(SkymillError, RuntimeError):
    """The pool of workers cannot work."""


def start_kernel(site: Site, folder: Path) -> DataFlowKernel:
    """Start Parsl's processes, which do not end at the terminal's Ctrl-C.

    Parameters
    ----------
    site : LocalSite or SlurmSite
        Where the workers run.
    folder : Path
        Folder for the files of Parsl.

    Returns
    -------
    parsl.dataflow.dflow.DataFlowKernel
        The pool.

    Raises
    ------
    EngineError
        If it cannot start.
    """
    from parsl.dataflow.dflow import DataFlowKernel

    # Workers must not stop at the terminal's Ctrl-C before the driver has decided; Parsl's
    # processes are children of this one and inherit the disposition.
    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    try:
        return DataFlowKernel(make_parsl_config(site, folder))
    except OSError as exc:
        raise EngineError(f"cannot start workers in {folder}: {exc}") from exc
    finally:
        if in_main:
            signal.signal(signal.SIGINT, previous)


def record_processes(kernel: DataFlowKernel, site: Site, lease: Lease) -> None:
    """Record in a lease what a later driver would have to end.

    Parameters
    ----------
    kernel : parsl.dataflow.dflow.DataFlowKernel
        The pool.
    site : LocalSite or SlurmSite
        Where its workers run.
    lease : Lease
        The lease of its driver.
    """
    is_local = isinstance(site, LocalSite)
    executor: Any = kernel.executors["local" if is_local else "slurm"]
    interchange = getattr(executor, "interchange_proc", None)
    lease.record(
        interchange=interchange.pid if interchange is not None else None,
        jobs=[] if is_local else list(executor.blocks_to_job_id.values()),
    )


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM (end of a batch job) like Ctrl-C.

    Yields
    ------
    None
        In the main thread; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

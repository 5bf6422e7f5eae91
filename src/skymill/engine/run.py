"""Run a pipeline on data: build or resume its graph, execute it, register the results."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from skymill.data.errors import DataError, MissingInputError, SkymillError
from skymill.engine import lease
from skymill.engine.diagnose import explain_empty, explain_failure, inspect_inputs
from skymill.engine.driver import Engine, Execution
from skymill.engine.graph import (
    GraphRequest,
    build_graph,
    butler_config,
    fingerprint,
    flatten_inputs,
    initialize_run,
    load_pipeline,
    read_plan,
)
from skymill.engine.pool import EngineError
from skymill.engine.progress import ProgressView
from skymill.engine.report import RunReport, TaskCounts, write_json
from skymill.engine.sites import Limits, Site

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.pipe.base import Pipeline

__all__ = ["BusyError", "NothingToRunError", "RegistryError", "run", "run_many"]

_LOG = logging.getLogger(__name__)


class NothingToRunError(SkymillError, RuntimeError):
    """The quantum graph is empty; the message says which input is missing."""


class BusyError(SkymillError, RuntimeError):
    """Another process works on the same output."""


class RegistryError(SkymillError, RuntimeError):
    """Results cannot be put into the registry."""


@dataclasses.dataclass(kw_only=True)
class _Work:
    """One request on its way through `run_many`."""

    request: GraphRequest
    folder: Path
    run: str = ""
    graph: Path | None = None
    fingerprint: str = ""
    initialized: bool = False
    build_s: float = 0.0
    inputs: tuple[str, ...] = ()
    execution: Execution | None = None
    error: SkymillError | None = None

    def save(self, *, complete: bool) -> None:
        write_json(
            self.folder / "state.json",
            {
                "fingerprint": self.fingerprint,
                "token": self.request.token,
                "run": self.run,
                "graph": str(self.graph) if self.graph else "",
                "initialized": self.initialized,
                "inputs": self.inputs,
                "complete": complete,
            },
        )


def default_folder(repo: str) -> Path:
    """Where the engine keeps graphs, logs and reports of a repository.

    Parameters
    ----------
    repo : str
        Repository root, or its ``butler.yaml``.

    Returns
    -------
    Path
        The folder ``submit`` beside the repository, as the batch service has it.
    """
    root = Path(repo).absolute()
    if root.suffix == ".yaml":
        root = root.parent
    return root.parent / "submit"


@contextlib.contextmanager
def _lock(folder: Path, engine: Engine) -> Iterator[None]:
    """Hold an output for one driver; end what a dead driver left running on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock.json"
    stream: IO[str] = path.open("a+")
    try:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = _owner(stream)
            raise BusyError(
                f"process {owner.get('pid', '?')} on {owner.get('host', '?')} works on {folder} "
                "already; wait for it or stop it"
            ) from None
        stream.seek(0)
        before = _owner(stream).get("engine")
        if before and before != str(engine.folder):
            lease.reap(Path(before))
            shutil.rmtree(before, ignore_errors=True)
        stream.seek(0)
        stream.truncate()
        content = {"host": socket.gethostname(), "pid": os.getpid(), "engine": str(engine.folder)}
        json.dump(content, stream)
        stream.flush()
        yield
    finally:
        stream.close()


def _owner(stream: IO[str]) -> dict[str, Any]:
    try:
        return dict(json.load(stream))
    except ValueError:
        return {}


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError):
        return {}


def _exists(butler: Butler, collection: str) -> bool:
    from lsst.daf.butler import MissingCollectionError

    try:
        butler.collections.get_info(collection)
    except MissingCollectionError:
        return False
    return True


def _new_run_name(butler: Butler, output: str) -> str:
    from lsst.pipe.base import Instrument

    stamp = Instrument.makeCollectionTimestamp()
    name, n = f"{output}/{stamp}", 1
    while _exists(butler, name):
        n += 1
        name = f"{output}/{stamp}-{n}"
    return name


def _is_same(work: _Work, state: dict[str, Any]) -> bool:
    """Whether the earlier call asked for the same thing of the same input."""
    return (
        state.get("fingerprint") == work.fingerprint
        and state.get("token") == work.request.token
        and tuple(state.get("inputs", ())) == work.inputs
    )


def _resume(work: _Work, state: dict[str, Any]) -> bool:
    """Take up the graph of an earlier call that did not finish."""
    if state.get("complete", True) or not _is_same(work, state):
        return False
    graph = Path(state["graph"])
    try:
        plan = read_plan(work.request.repo, graph, graph.parent / "logs")
    except DataError as exc:
        _LOG.warning("%s; building a new one", exc)
        return False
    work.run, work.graph = state["run"], graph
    work.initialized = bool(state.get("initialized"))
    work.execution = Execution(plan)
    return True


def _salvage(work: _Work, state: dict[str, Any]) -> None:
    """Register what an abandoned graph has made, so that it is not made again."""
    old = dataclasses.replace(work, run=state["run"], graph=Path(state["graph"]))
    assert old.graph is not None
    try:
        read_plan(work.request.repo, old.graph, old.graph.parent / "logs")
        _aggregate(old, complete=False)
    except (OSError, EOFError, ValueError, RuntimeError) as exc:
        _LOG.warning("results of %s cannot be registered: %s", old.graph, exc)


def _build(work: _Work, butler: Butler, pipeline: Pipeline, skip: tuple[str, ...]) -> None:
    """Build a new graph; nothing left to do is no error if the output has something."""
    work.run = _new_run_name(butler, work.request.output)
    work.graph = work.folder / work.run.rsplit("/", 1)[-1] / "graph.qg"
    where = work.request.where
    try:
        n_quanta = build_graph(
            butler,
            work.request,
            pipeline,
            inputs=work.inputs,
            run=work.run,
            path=work.graph,
            skip_existing_in=skip,
        )
    except DataError as exc:
        # The builder also stops when a dataset type was never registered.
        states = inspect_inputs(butler, pipeline, work.inputs, where)
        if all(state.found for state in states):
            raise
        text = explain_empty(butler, pipeline, work.inputs, where)
        raise NothingToRunError(text) from exc
    if n_quanta:
        plan = read_plan(work.request.repo, work.graph, work.graph.parent / "logs")
        work.execution = Execution(plan)
        work.save(complete=False)
        return
    work.graph = None
    old = list(_runs_of(butler, skip[0])) if skip else []
    if not old:
        raise NothingToRunError(explain_empty(butler, pipeline, work.inputs, where))
    work.run = old[0]


def _prepare(work: _Work, *, reuse: bool) -> None:
    """Resume or build the graph of a request."""
    start = time.perf_counter()
    pipeline = load_pipeline(work.request)
    output = work.request.output
    work.fingerprint = fingerprint(work.request, pipeline)
    state = _read_state(work.folder)
    with open_butler(work.request.repo) as butler:
        work.inputs = flatten_inputs(butler, work.request.inputs, output)
    if not _resume(work, state):
        same_config = state.get("fingerprint") == work.fingerprint
        keep = (reuse and same_config) or _is_same(work, state)
        if keep and not state["complete"]:
            _salvage(work, state)
        with open_butler(work.request.repo) as butler:
            skip = (output,) if keep and _exists(butler, output) else ()
            _build(work, butler, pipeline, skip)
    if work.graph is not None and not work.initialized:
        initialize_run(work.request.repo, work.graph)
        work.initialized = True
        work.save(complete=False)
    work.build_s = time.perf_counter() - start


def _runs_of(butler: Butler, output: str) -> Iterator[str]:
    for name in butler.collections.query(output, flatten_chains=True):
        if name.startswith(f"{output}/"):
            yield name


@contextlib.contextmanager
def open_butler(repo: str, *, writeable: bool = False) -> Iterator[Butler]:
    """A butler that is closed at the end, with a clear sentence when there is none.

    Parameters
    ----------
    repo : str
        The repository.
    writeable : bool
        Whether it will be changed.

    Yields
    ------
    lsst.daf.butler.Butler
        The butler.

    Raises
    ------
    MissingInputError
        If there is no repository.
    """
    from lsst.daf.butler import Butler

    try:
        butler = Butler.from_config(butler_config(repo), writeable=writeable)
    except FileNotFoundError as exc:
        raise MissingInputError(
            f"{repo} is not a Butler repository; make one with 'skymill init'"
        ) from exc
    with butler:
        yield butler


@contextlib.contextmanager
def _aggregator_log(path: Path) -> Iterator[Path]:
    """Keep the aggregator's words, tracebacks among them, in a file."""
    logger = logging.getLogger("lsst.pipe.base.quantum_graph.aggregator")
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(levelname)s %(asctime)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield path
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
        handler.close()


def _aggregate(work: _Work, *, complete: bool) -> None:
    """Put what was made into the registry and the run at the head of the output chain."""
    from lsst.daf.butler import CollectionType
    from lsst.pipe.base.quantum_graph.aggregator import AggregatorConfig, aggregate_graph

    config = AggregatorConfig(
        n_processes=1, incomplete=not complete, update_output_chain=False, worker_sleep=0.002
    )
    assert work.graph is not None
    with _aggregator_log(work.graph.parent / "aggregate.log") as log:
        try:
            aggregate_graph(str(work.graph), work.request.repo, config)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:  # The aggregator's own error is no Exception.
            raise RegistryError(
                f"the results of {work.run} are on disk but cannot be put into the registry of "
                f"{work.request.repo}: {explain_failure(exc, log)}; more is in {log}. Mend it, "
                "then run the same command"
            ) from exc
    with open_butler(work.request.repo, writeable=True) as butler:
        output = work.request.output
        old: list[str] = []
        if butler.collections.register(output, CollectionType.CHAINED):
            pass
        else:
            old = list(_runs_of(butler, output))
        chain = dict.fromkeys([work.run, *old, *work.inputs])
        butler.collections.register(work.run)
        butler.collections.redefine_chain(output, list(chain))


def _finish(work: _Work, execute_s: float) -> RunReport:
    if work.execution is None or work.graph is None:
        return RunReport(output_run=work.run, graph="", tasks=[], failures=[], build_s=work.build_s)
    report = RunReport(
        output_run=work.run,
        graph=str(work.graph),
        tasks=work.execution.tasks,
        failures=work.execution.failures,
        build_s=work.build_s,
        execute_s=execute_s,
        interrupted=work.execution.interrupted,
        retries=work.execution.retries,
    )
    start = time.perf_counter()
    if report.count("finished"):
        _aggregate(work, complete=report.ok)
    report.aggregate_s = time.perf_counter() - start
    work.save(complete=report.ok)
    write_json(work.folder / "report.json", report.to_dict())
    write_json(work.graph.parent / "report.json", report.to_dict())
    return report


def _all_counts(works: Sequence[_Work]) -> list[TaskCounts]:
    sums: dict[str, TaskCounts] = {}
    for work in works:
        for task in work.execution.tasks if work.execution else []:
            total = sums.setdefault(task.label, TaskCounts(label=task.label))
            for field in dataclasses.fields(TaskCounts):
                if field.name != "label":
                    value = getattr(total, field.name) + getattr(task, field.name)
                    setattr(total, field.name, value)
    return list(sums.values())


def run_many(
    requests: Iterable[GraphRequest],
    *,
    engine: Engine,
    folder: Path | None = None,
    limits: Mapping[str, Limits] | None = None,
    reuse: bool = False,
    title: str = "",
    show_progress: bool = True,
) -> list[RunReport]:
    """Run several requests together on one pool of workers (the bands of a step).

    Parameters
    ----------
    requests : iterable of GraphRequest
        What to run; their outputs differ.
    engine : Engine
        The workers.
    folder : Path, optional
        Where graphs, logs and reports go; ``submit`` beside the repository by default.
    limits : mapping of str to Limits, optional
        Limits of the quanta of a task; ``"*"`` for the others.
    reuse : bool
        With other input collections or another token, keep what the output has already and make
        only what is missing. Otherwise everything is made anew, in a new RUN. (A changed
        configuration makes everything anew; the same request again makes what is missing.)
    title : str
        Name for the progress display.
    show_progress : bool
        Show progress on standard error.

    Returns
    -------
    list of RunReport
        One for each request, in order. A run that an interrupt or failures cut short is in the
        registry as far as it came; calling again resumes it.

    Raises
    ------
    NothingToRunError
        If a graph is empty.
    BusyError
        If another process works on one of the outputs.
    EngineError
        If the workers cannot work.
    """
    works = []
    for request in requests:
        root = folder if folder is not None else default_folder(request.repo)
        works.append(_Work(request=request, folder=root / request.output))
    with contextlib.ExitStack() as stack:
        for work in works:
            stack.enter_context(_lock(work.folder, engine))
        for work in works:
            _prepare(work, reuse=reuse)
        start = time.perf_counter()
        executions = [w.execution for w in works if w.execution is not None]
        view = ProgressView(title, engine.n_workers, enabled=show_progress)
        try:
            engine.execute(
                executions, limits=limits, on_progress=lambda: view.update(_all_counts(works))
            )
        except EngineError:
            # What is finished is registered all the same, if that is possible.
            for work in works:
                with contextlib.suppress(SkymillError, OSError):
                    _finish(work, time.perf_counter() - start)
            raise
        finally:
            view.update(_all_counts(works), final=True)
            view.close()
        return [_finish(work, time.perf_counter() - start) for work in works]


def run(
    repo: str | Path,
    pipeline: str,
    inputs: Iterable[str],
    output: str,
    where: str = "",
    *,
    config: Iterable[str] = (),
    config_files: Iterable[str] = (),
    site: Site | None = None,
    engine: Engine | None = None,
    folder: Path | None = None,
    limits: Mapping[str, Limits] | None = None,
    reuse: bool = False,
    title: str = "",
    show_progress: bool = True,
) -> RunReport:
    """Run a pipeline on data, as ``pipetask run`` does, in persistent workers.

    Parameters
    ----------
    repo : str or Path
        The repository.
    pipeline : str
        Pipeline file, with ``#subset`` or ``#label``.
    inputs : iterable of str
        Input collections in search order.
    output : str
        Output CHAINED collection; a new RUN ``output/<timestamp>`` holds the results.
    where : str
        Data query.
    config, config_files : iterable of str
        Overrides ``label:field=value`` and ``label:file``.
    site : LocalSite or SlurmSite, optional
        Where to run; this machine by default. Ignored when ``engine`` is given.
    engine : Engine, optional
        A pool of workers that is running already.
    folder, limits, reuse, title, show_progress
        See `run_many`.

    Returns
    -------
    RunReport
        Counts, failures and times.
    """
    request = GraphRequest(
        repo=str(repo),
        pipeline=pipeline,
        inputs=tuple(inputs),
        output=output,
        where=where,
        config=tuple(config),
        config_files=tuple(config_files),
    )
    root = folder if folder is not None else default_folder(request.repo)
    with contextlib.ExitStack() as stack:
        if engine is None:
            engine = stack.enter_context(Engine(site, folder=root / "engine"))
        [report] = run_many(
            [request],
            engine=engine,
            folder=root,
            limits=limits,
            reuse=reuse,
            title=title,
            show_progress=show_progress,
        )
    return report

"""Predicted quantum graphs: build one, write it whole, plan its execution."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.files import atomic_path
from skymill.engine.schedule import Plan, PlannedQuantum

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, ButlerConfig, LimitedButler
    from lsst.pipe.base import Pipeline
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph
    from lsst.utils.packages import Packages

__all__ = [
    "GraphRequest",
    "build_graph",
    "butler_config",
    "fingerprint",
    "flatten_inputs",
    "initialize_run",
    "load_pipeline",
    "read_plan",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphRequest:
    """What to run on which data; the words of ``pipetask run``.

    ``pipeline`` is a file with an optional ``#subset``; ``inputs`` are collections in the order
    of their search; ``output`` is the CHAINED collection; ``where`` the data query; ``config``
    holds overrides ``label:field=value`` and ``config_files`` ``label:file``. ``token`` stands for
    the state of the input: a graph that was built for another token is not resumed.
    """

    repo: str
    pipeline: str
    inputs: tuple[str, ...]
    output: str
    where: str = ""
    config: tuple[str, ...] = ()
    config_files: tuple[str, ...] = ()
    token: str = ""

    def command(self, *, processes: int | None = None) -> list[str]:
        """The ``pipetask run`` command that does the same.

        Parameters
        ----------
        processes : int, optional
            Number of processes.

        Returns
        -------
        list of str
            Words of the command.
        """
        words = ["pipetask", "run", "-b", self.repo, "-p", self.pipeline]
        words += ["-i", ",".join(self.inputs), "-o", self.output]
        if self.where:
            words += ["-d", self.where]
        for item in self.config:
            words += ["-c", item]
        for item in self.config_files:
            words += ["-C", item]
        if processes is not None:
            words += ["-j", str(processes)]
        return [*words, "--register-dataset-types"]


def _split(item: str, sign: str) -> tuple[str, str]:
    left, found, right = item.partition(sign)
    if not found or not left or not right:
        raise ConfigError(
            f"an override must be written label:field=value or label:file; got {item!r}"
        )
    return left, right


def load_pipeline(request: GraphRequest) -> Pipeline:
    """The pipeline of a request, with its overrides.

    Parameters
    ----------
    request : GraphRequest
        The request.

    Returns
    -------
    lsst.pipe.base.Pipeline
        The pipeline.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    ConfigError
        If the subset or a label or the form of an override is unknown.
    """
    from lsst.pipe.base import Pipeline

    name, _, subset = request.pipeline.partition("#")
    if "://" not in name and not Path(name).exists():
        raise MissingInputError(f"pipeline file {name} does not exist")
    try:
        pipeline = Pipeline.from_uri(request.pipeline)
    except (KeyError, ValueError, LookupError) as exc:
        known = ", ".join(sorted(Pipeline.from_uri(name).subsets))
        raise ConfigError(
            f"pipeline {name} has no task or subset {subset!r} ({exc}); its subsets are: {known}"
        ) from exc
    labels = set(pipeline.task_labels)
    for item in request.config_files:
        label, path = _split(item, ":")
        if label in labels:
            pipeline.addConfigFile(label, path)
    for item in request.config:
        label, rest = _split(item, ":")
        field, value = _split(rest, "=")
        if label not in labels:
            raise ConfigError(
                f"override {item!r}: {request.pipeline} has no task {label!r}; "
                f"it has {', '.join(sorted(labels))}"
            )
        pipeline.addConfigOverride(label, field, value)
    return pipeline


def fingerprint(request: GraphRequest, pipeline: Pipeline) -> str:
    """A hash of everything that decides about a graph but its input.

    Parameters
    ----------
    request : GraphRequest
        The request.
    pipeline : lsst.pipe.base.Pipeline
        Its pipeline, with overrides.

    Returns
    -------
    str
        Hexadecimal digest.
    """
    digest = hashlib.sha256()
    content = yaml.safe_load(str(pipeline))
    # Subsets are sets: their order changes from process to process and decides about nothing.
    tasks = {key: content.get(key) for key in ("instrument", "parameters", "tasks", "contracts")}
    files = [Path(item.partition(":")[2]).read_text() for item in request.config_files]
    for part in (json.dumps(tasks, sort_keys=True), *files, request.where):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def flatten_inputs(butler: Butler, inputs: Iterable[str], output: str) -> tuple[str, ...]:
    """Input collections without chains.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        The repository.
    inputs : iterable of str
        Collections.
    output : str
        The output, for the message.

    Returns
    -------
    tuple of str
        Collections that hold datasets, in search order.

    Raises
    ------
    MissingInputError
        If a collection does not exist.
    """
    from lsst.daf.butler import MissingCollectionError

    names: dict[str, None] = {}
    for name in inputs:
        try:
            for child in butler.collections.query([name], flatten_chains=True):
                names[child] = None
        except MissingCollectionError as exc:
            raise MissingInputError(
                f"input collection {name!r} of {output} does not exist; run the step that makes it"
            ) from exc
    if not names:
        raise MissingInputError(f"no input collection for {output}")
    return tuple(names)


def build_graph(
    butler: Butler,
    request: GraphRequest,
    pipeline: Pipeline,
    *,
    inputs: tuple[str, ...],
    run: str,
    path: Path,
    skip_existing_in: tuple[str, ...] = (),
) -> int:
    """Build the quantum graph of a request and write it whole.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        The repository.
    request : GraphRequest
        The request.
    pipeline : lsst.pipe.base.Pipeline
        Its pipeline.
    inputs : tuple of str
        Flattened input collections.
    run : str
        New RUN collection.
    path : Path
        The file, ending in ``.qg``.
    skip_existing_in : tuple of str
        Leave out what these collections have already.

    Returns
    -------
    int
        Number of quanta; with 0 no file is written.

    Raises
    ------
    MissingInputError
        If a prerequisite dataset is absent.
    ConfigError
        If the data query is not valid.
    """
    from lsst.daf.butler import ButlerUserError
    from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder
    from lsst.pipe.base.quantum_graph_builder import QuantumGraphBuilderError

    try:
        pipeline_graph = pipeline.to_graph()
    except (ImportError, AttributeError, ValueError, TypeError) as exc:
        raise ConfigError(f"pipeline {request.pipeline} is not valid: {_one_line(exc)}") from exc
    try:
        builder = AllDimensionsQuantumGraphBuilder(
            pipeline_graph,
            butler,
            where=request.where,
            skip_existing_in=skip_existing_in,
            input_collections=list(inputs),
            output_run=run,
        )
        components = builder.finish(
            request.output,
            metadata={"data_query": request.where, "butler_argument": request.repo},
            attach_datastore_records=True,
        )
    except FileNotFoundError as exc:
        raise MissingInputError(_one_line(exc)) from exc
    except ButlerUserError as exc:
        raise ConfigError(
            f"the data query {request.where!r} is not valid: {_one_line(exc)}"
        ) from exc
    except QuantumGraphBuilderError as exc:
        raise DataError(f"cannot build the graph of {request.output}: {_one_line(exc)}") from exc
    n_quanta = int(components.header.n_quanta)
    if n_quanta:
        with atomic_path(path) as draft:
            components.write(str(draft), zstd_dict_size=0)
    return n_quanta


def _one_line(exc: BaseException) -> str:
    return re.sub(r"\s+", " ", str(exc)).strip()


def initialize_run(repo: str, path: Path) -> None:
    """Write configurations, package versions and init-outputs of a run.

    Parameters
    ----------
    repo : str
        The repository.
    path : Path
        The graph.
    """
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    with PredictedQuantumGraph.open(str(path)) as reader:
        reader.read_init_quanta()
        graph = reader.finish()
    with graph.make_init_qbb(butler_config(repo)) as butler:
        graph.write_configs(butler)
        _write_packages(graph, butler)
        graph.write_init_outputs(butler)


def _write_packages(graph: PredictedQuantumGraph, butler: LimitedButler) -> None:
    """Write the versions of the packages: looking them up takes longer than all else of a run."""
    (ref,) = graph.get_init_outputs("").values()
    if butler.stored_many([ref])[ref]:
        graph.write_packages(butler)
        return
    imported = frozenset(name.partition(".")[0] for name in sys.modules)
    butler.put(_package_versions(imported), ref)


@functools.lru_cache(maxsize=2)
def _package_versions(imported: frozenset[str]) -> Packages:
    """Versions of what has been imported; looked up again when that has grown."""
    from lsst.utils.packages import Packages

    return Packages.fromSystem()


def butler_config(repo: str) -> ButlerConfig:
    """The configuration of a repository, read again when its file has changed.

    Parameters
    ----------
    repo : str
        Repository root, or its ``butler.yaml``.

    Returns
    -------
    lsst.daf.butler.ButlerConfig
        The configuration.

    Raises
    ------
    FileNotFoundError
        If there is no repository.
    """
    path = Path(repo)
    if path.suffix != ".yaml":
        path = path / "butler.yaml"
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    return _read_config(repo, stamp)


@functools.lru_cache(maxsize=4)
def _read_config(repo: str, stamp: int) -> ButlerConfig:
    from lsst.daf.butler import ButlerConfig

    return ButlerConfig(repo)


def _describe(names: Iterable[str], values: Iterable[Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False))


def _log_name(names: Iterable[str], values: Iterable[Any]) -> str:
    text = "_".join(f"{v}" for _, v in zip(names, values, strict=False))
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text) or "all"


def read_plan(repo: str, path: Path, logs: Path) -> Plan:
    """What has to be run of a graph.

    Parameters
    ----------
    repo : str
        The repository.
    path : Path
        The graph.
    logs : Path
        Folder of the log files.

    Returns
    -------
    Plan
        Quanta and their order.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    from lsst.pipe.base.pipeline_graph import TaskImportMode
    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    try:
        with PredictedQuantumGraph.open(
            str(path), import_mode=TaskImportMode.DO_NOT_IMPORT
        ) as reader:
            reader.read_thin_graph()
            components = reader.components
    except (OSError, EOFError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile) as exc:
        raise DataError(f"graph file {path} is damaged ({type(exc).__name__}: {exc})") from exc
    tasks = components.pipeline_graph.tasks
    thin: Mapping[str, Any] = components.thin_graph.quanta
    quanta: dict[str, PlannedQuantum] = {}
    for label, members in thin.items():
        dimensions = tasks[label].dimensions
        names = dimensions.required
        for member in members:
            key = str(member.quantum_id)
            name = _log_name(names, member.data_coordinate)
            quanta[key] = PlannedQuantum(
                quantum_id=key,
                label=label,
                data_id=_describe(names, member.data_coordinate),
                log=str(logs / label / f"{name}.log"),
            )
    return Plan(
        repo=repo,
        graph=str(path),
        labels=tuple(label for label in tasks if label in thin),
        quanta=quanta,
        edges=tuple((str(a), str(b)) for a, b in components.thin_graph.edges),
    )

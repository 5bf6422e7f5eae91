"""Where a dataset is, or why it does not exist: which step makes it and what that step lacks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from skymill.campaign.actions import load_record
from skymill.campaign.campaign import Campaign
from skymill.campaign.cluster import Cluster
from skymill.campaign.state import bands_of
from skymill.campaign.steps import STEPS, PipelineRun, Step, expand_run, pipeline_file, runs_of
from skymill.data.errors import ConfigError, MissingInputError
from skymill.engine.report import RunReport

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

__all__ = ["data_id_words", "explain_dataset", "find_datasets", "find_producers"]

#: Steps that make what no pipeline makes.
_ACTIONS = {
    "raw": "ingest_data",
    "skyMap": "skymap",
    "camera": "initialize_repo",
    "crosstalk": "initialize_repo",
    "linearizer": "initialize_repo",
    "defects": "initialize_repo",
    "ptc": "initialize_repo",
    "bias": "make_calibrations",
    "flat": "make_calibrations",
    "fringe": "make_calibrations",
    "bfk": "make_calibrations",
}
_INTEGERS = ("visit", "exposure", "detector", "tract", "patch", "htm7", "day_obs")
_MAX_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Producer:
    """The task that makes a dataset type.

    ``step`` and ``run`` of the campaign, ``label`` of the task, its ``inputs``, and those of
    them that it can do without.
    """

    step: Step
    run: PipelineRun
    label: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...]


class _Task(NamedTuple):
    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    outputs: tuple[str, ...]


@functools.cache
def _tasks_of(pipeline: str) -> Mapping[str, _Task]:
    """Inputs and outputs of the tasks of a pipeline, by label."""
    from lsst.pipe.base import Pipeline

    graph = Pipeline.from_uri(pipeline).to_graph(visualization_only=True)
    tasks = {}
    for label, task in graph.tasks.items():
        connections = task.config.connections.ConnectionsClass(config=task.config)
        edges = list(task.iter_all_inputs())
        tasks[label] = _Task(
            tuple(edge.parent_dataset_type_name for edge in edges),
            tuple(
                edge.parent_dataset_type_name
                for edge in edges
                if getattr(getattr(connections, edge.connection_name), "minimum", 1) == 0
            ),
            tuple(edge.parent_dataset_type_name for edge in task.outputs.values()),
        )
    return tasks


def find_producers(cluster: Cluster, name: str) -> list[Producer]:
    """The tasks of the campaign that make a dataset type.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    name : str
        Dataset type.

    Returns
    -------
    list of Producer
        In the order of the steps; a type that is made twice (stacks before and after the sky
        correction) has two.
    """
    found = []
    for step in STEPS:
        for run in runs_of(cluster, step):
            tasks = _tasks_of(f"{pipeline_file(cluster, run)}#{run.subset}")
            found += [
                Producer(
                    step=step, run=run, label=label, inputs=task.inputs, optional=task.optional
                )
                for label, task in tasks.items()
                if name in task.outputs
            ]
    return found


def _parse(words: Sequence[str]) -> dict[str, Any]:
    data_id: dict[str, Any] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise ConfigError(
                f"a data ID is written key=value, such as visit=830001 detector=35; got {word!r}"
            )
        if key in _INTEGERS and not value.isdigit():
            raise ConfigError(f"{key} must be a whole number; got {value!r}")
        data_id[key] = int(value) if key in _INTEGERS else value
    return data_id


def _describe(name: str, data_id: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{k}={v}" for k, v in data_id.items())])


def _query(
    butler: Butler, name: str, collections: Sequence[str], data_id: Mapping[str, Any]
) -> list[DatasetRef]:
    """Datasets of a type; a key that the type does not have is left out."""
    from lsst.daf.butler import ButlerUserError, MissingDatasetTypeError

    try:
        dimensions = butler.get_dataset_type(name).dimensions
    except MissingDatasetTypeError:
        return []
    every = set(butler.collections.query("*"))
    there = "*" if list(collections) == ["*"] else [c for c in collections if c in every]
    if not there:
        return []
    # An exposure is the visit of the same number.
    twins = {"visit": "exposure", "exposure": "visit"}
    known = {}
    for key, value in data_id.items():
        own = key if key in dimensions.names else twins.get(key, key)
        if own in dimensions.names:
            known[own] = value
    if "instrument" in dimensions and known:
        known.setdefault("instrument", "DECam")
    try:
        return butler.query_datasets(
            name, collections=there, find_first=False, data_id=known, limit=None, explain=False
        )
    except (ButlerUserError, LookupError):
        pass
    # A patch without its tract: the registry asks for both, a person may know one only.
    refs = butler.query_datasets(
        name, collections=there, find_first=False, limit=None, explain=False
    )
    return [r for r in refs if all(r.dataId.get(k) == v for k, v in known.items())]


def _check_keys(butler: Butler, name: str, data_id: Mapping[str, Any]) -> None:
    from lsst.daf.butler import MissingDatasetTypeError

    try:
        dimensions = butler.get_dataset_type(name).dimensions
    except MissingDatasetTypeError:
        return
    wrong = [key for key in data_id if key not in dimensions.names]
    if wrong:
        raise ConfigError(
            f"{name} has no {', '.join(wrong)}; its data ID is made of "
            f"{', '.join(dimensions.names)}"
        )


class _Inquiry:
    """One question about one cluster."""

    def __init__(self, cluster: Cluster, butler: Butler) -> None:
        self.cluster, self.butler = cluster, butler
        campaign = Campaign(cluster, show_progress=False)
        self.states = {(u.step, u.band): u for u in campaign.status()}
        self.seen: set[str] = set()

    def outputs(self, producer: Producer, data_id: Mapping[str, Any]) -> dict[str, str]:
        """Output chains of a producer by band; of one band if the data ID names it."""
        bands = bands_of(self.cluster, producer.step)
        if data_id.get("band") in bands:
            bands = [data_id["band"]]
        return {band: expand_run(self.cluster, producer.run, band).output for band in bands}

    def explain(
        self,
        name: str,
        data_id: Mapping[str, Any],
        indent: str = "",
        places: Sequence[str] = (),
    ) -> Iterator[str]:
        """Lines about a dataset type; missing inputs are followed upwards.

        With ``places`` only what is made in one of these collections is told.
        """
        producers = [
            p
            for p in find_producers(self.cluster, name)
            if not places or set(places) & set(self.outputs(p, data_id).values())
        ]
        collections = [c for p in producers for c in self.outputs(p, data_id).values()] or ["*"]
        refs = _query(self.butler, name, collections, data_id)
        yield indent + self._found(name, data_id, refs)
        for producer in producers:
            yield from self._about(producer, data_id, refs, indent + "  ")
        if not producers and not refs:
            step = _ACTIONS.get(name)
            yield indent + (
                f"  made by: step {step} ({self._state(step, '')})"
                if step
                else "  no step of this campaign makes it"
            )

    def _found(self, name: str, data_id: Mapping[str, Any], refs: list[DatasetRef]) -> str:
        what = _describe(name, data_id)
        if not refs:
            return f"{what}: does not exist"
        stored = self.butler.stored_many(refs)
        there = [ref for ref in refs if stored[ref]]
        if not there:
            return f"{what}: {len(refs)} were made and their files deleted since"
        text = f"{what}: {len(there)} exist"
        for ref in there[:_MAX_SHOWN]:
            # A file with many datasets has a fragment that tells them apart.
            path = Path(self.butler.getURI(ref).ospath)
            text += f"\n    {ref.run}: {path}"
        return text + ("\n    ..." if len(there) > _MAX_SHOWN else "")

    def _state(self, step: str, band: str) -> str:
        unit = self.states.get((step, band))
        if unit is None:
            return "unknown"
        return f"{unit.state}: {unit.detail.splitlines()[0]}" if unit.detail else unit.state

    def _about(
        self,
        producer: Producer,
        data_id: Mapping[str, Any],
        refs: list[DatasetRef],
        indent: str,
    ) -> Iterator[str]:
        failed = False
        absent = []
        for band, output in self.outputs(producer, data_id).items():
            state = self._state(producer.step.name, band)
            step = f"{producer.step.name} {band}".strip()
            yield f"{indent}made by: step {step} ({state}), task {producer.label}, in {output}"
            if any(ref.run.startswith(f"{output}/") for ref in refs):
                continue
            absent.append(band)
            for text in self._failures(producer, output, data_id, indent + "  "):
                failed = True
                yield text
        if refs or not absent or failed:
            return
        complete = yield from self._inputs(producer, data_id, indent)
        states = {self.states[producer.step.name, band].state for band in absent}
        if complete and states <= {"done", "outdated"}:
            yield (
                f"{indent}the step made none for this data ID: its inputs do not overlap it, "
                "were not selected, or hold nothing to work on"
            )

    def _failures(
        self, producer: Producer, output: str, data_id: Mapping[str, Any], indent: str
    ) -> Iterator[str]:
        """Quanta of the same run that failed on this data ID."""
        values = load_record(self.cluster.folder / "submit" / output / "report.json")
        if not values:
            return
        wanted = {k: str(v) for k, v in data_id.items() if k not in ("band", "instrument")}
        for failure in RunReport.from_dict(values).failures:
            own = dict(part.split(" ", 1) for part in failure.data_id.split(", ") if " " in part)
            # An exposure is the visit of the same number.
            own.setdefault("visit", own.get("exposure", ""))
            if all(own.get(k, v) in (v, "") for k, v in wanted.items()):
                yield indent + f"failed: {failure.text()}".replace("\n", f"\n{indent}")

    def _inputs(
        self, producer: Producer, data_id: Mapping[str, Any], indent: str
    ) -> Generator[str, None, bool]:
        """What the task needs; the first that is missing is explained in turn."""
        places = list(self.outputs(producer, data_id).values())
        for band in self.outputs(producer, data_id):
            places += expand_run(self.cluster, producer.run, band).inputs
        lacking = []
        for name in sorted(set(producer.inputs)):
            if _query(self.butler, name, places, data_id):
                yield f"{indent}needs {name}: there"
            elif name in producer.optional:
                yield f"{indent}would use {name}: not there"
            else:
                lacking.append(name)
        for name in lacking:
            if name in self.seen:
                yield f"{indent}needs {name}: missing"
                continue
            self.seen.update(lacking)
            yield f"{indent}needs:"
            yield from self.explain(name, data_id, indent + "  ", places)
        return not lacking


def _unknown_values(butler: Butler, cluster: Cluster, data_id: Mapping[str, Any]) -> Iterator[str]:
    """Values of a data ID that the repository has never heard of."""
    for key in ("visit", "exposure", "patch"):
        if key not in data_id:
            continue
        fixed = {"skymap": cluster.skymap_name} if key == "patch" else {"instrument": "DECam"}
        records = butler.query_dimension_records(key, limit=None, explain=False, **fixed)
        known = sorted({int(r.id if hasattr(r, "id") else r.dataId[key]) for r in records})
        if data_id[key] not in known:
            shown = ", ".join(str(n) for n in known[:12]) + (", ..." if len(known) > 12 else "")
            yield f"there is no {key} {data_id[key]} in the repository; it has {shown or 'none'}"


def explain_dataset(cluster: Cluster, words: Sequence[str]) -> list[str] | None:
    """Where a dataset is, or why it does not exist.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    words : sequence of str
        Dataset type, then ``key=value`` of a data ID.

    Returns
    -------
    list of str or None
        Lines for the user; None if the first word is no dataset type.

    Raises
    ------
    ConfigError
        If the rest is no data ID, or one that the dataset type does not have.
    """
    if not words:
        return None
    name, *rest = words
    known = name in _ACTIONS or bool(find_producers(cluster, name))
    if not (Path(cluster.repo_path) / "butler.yaml").exists():
        if not known:
            return None
        return [
            f"{name}: does not exist, because there is no repository yet",
            "  next: skymill run cluster.yaml",
        ]
    from lsst.daf.butler import Butler

    with Butler.from_config(cluster.repo_path) as butler:
        if not known and not butler.registry.queryDatasetTypes(name):
            return None
        data_id = _parse(rest)
        _check_keys(butler, name, data_id)
        unknown = list(_unknown_values(butler, cluster, data_id))
        if unknown:
            return [f"{_describe(name, data_id)}: does not exist", *(f"  {u}" for u in unknown)]
        lines = list(_Inquiry(cluster, butler).explain(name, data_id))
    producers = find_producers(cluster, name)
    if "does not exist" in lines[0] and producers:
        lines.append(f"  next: skymill run cluster.yaml --to {producers[0].step.name}")
    return lines


def data_id_words(ref: DatasetRef) -> str:
    """The data ID of a dataset as it is typed.

    Parameters
    ----------
    ref : lsst.daf.butler.DatasetRef
        The dataset.

    Returns
    -------
    str
        ``key=value`` of the required dimensions, without instrument and sky map.
    """
    required = ref.dataId.required.items()
    return " ".join(f"{k}={v}" for k, v in required if k not in ("instrument", "skymap"))


def find_datasets(
    cluster: Cluster, butler: Butler, words: Sequence[str], *, collections: Sequence[str] = ("*",)
) -> list[DatasetRef]:
    """Datasets that a person asks for, of each data ID the one that was made last.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    butler : Butler
        Its repository.
    words : sequence of str
        Dataset type, then ``key=value`` of a data ID, which may be a part of one.
    collections : sequence of str
        Where to look.

    Returns
    -------
    list of DatasetRef
        In the order of their data IDs.

    Raises
    ------
    ConfigError
        If the rest is no data ID, or one that the dataset type does not have.
    MissingInputError
        If the dataset type is unknown, or nothing fits.
    """
    name, *rest = words
    if not butler.registry.queryDatasetTypes(name):
        raise MissingInputError(
            f"no dataset type is named {name!r}; 'butler query-dataset-types {cluster.repo_path}' "
            "lists them"
        )
    data_id = _parse(rest)
    _check_keys(butler, name, data_id)
    newest: dict[str, DatasetRef] = {}
    # Runs are named by the time at which they began.
    for ref in sorted(_query(butler, name, collections, data_id), key=lambda r: str(r.run)):
        newest[str(ref.dataId)] = ref
    if not newest:
        unknown = list(_unknown_values(butler, cluster, data_id))
        others = sorted({data_id_words(ref) for ref in _query(butler, name, collections, {})})
        if not unknown and others:
            unknown = [f"there are {'; '.join(others[:_MAX_SHOWN])}"]
            unknown += [f"and {len(others) - _MAX_SHOWN} more"] if len(others) > _MAX_SHOWN else []
        reason = "; ".join(unknown) or f"'skymill why CLUSTER {' '.join(words)}' says why"
        raise MissingInputError(f"{_describe(name, data_id)} does not exist: {reason}")
    return [newest[key] for key in sorted(newest)]

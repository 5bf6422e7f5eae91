"""Why a quantum graph is empty, and why its results cannot be registered."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsst.daf.butler import Butler
    from lsst.pipe.base import Pipeline

__all__ = ["InputState", "explain_empty", "explain_failure", "inspect_inputs"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputState:
    """How much there is of one overall input of a pipeline.

    ``found`` is 0 if nothing is there at all, 1 if something is there but not for the query,
    2 if there is something for the query.
    """

    label: str
    dataset_type: str
    found: int


def _count(butler: Butler, name: str, collections: list[str], where: str) -> bool:
    from lsst.daf.butler import ButlerUserError, EmptyQueryResultError, MissingDatasetTypeError

    try:
        found = butler.query_datasets(
            name, collections=collections, where=where, find_first=False, limit=1, explain=False
        )
    except (MissingDatasetTypeError, EmptyQueryResultError):
        return False
    except ButlerUserError:
        # The query speaks of a dimension that has no records, or that this type has not.
        return False
    return bool(found)


def _is_anywhere(butler: Butler, name: str, collections: list[str]) -> bool:
    """Whether a collection says that it has such datasets, calibrations among them."""
    from lsst.daf.butler import MissingCollectionError

    try:
        infos = butler.collections.query_info(
            collections, flatten_chains=True, include_summary=True, summary_datasets=[name]
        )
    except (MissingCollectionError, LookupError):
        return False
    return any(name in (info.dataset_types or ()) for info in infos)


def inspect_inputs(
    butler: Butler, pipeline: Pipeline, inputs: Iterable[str], where: str
) -> list[InputState]:
    """Look for every overall input of a pipeline.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        The repository.
    pipeline : lsst.pipe.base.Pipeline
        The pipeline.
    inputs : iterable of str
        Input collections.
    where : str
        Data query.

    Returns
    -------
    list of InputState
        One for each task and overall input.
    """
    graph = pipeline.to_graph(butler.registry)
    collections = list(inputs)
    known: dict[str, int] = {}
    states = []
    for label, node in graph.tasks.items():
        for edge in node.iter_all_inputs():
            name = edge.parent_dataset_type_name
            if graph.producer_of(name) is not None:
                continue
            if name not in known:
                if _is_anywhere(butler, name, collections):
                    calibration = graph.dataset_types[name].is_prerequisite
                    matches = calibration or _count(butler, name, collections, where)
                    known[name] = 2 if matches else 1
                else:
                    known[name] = 0
            states.append(InputState(label=label, dataset_type=name, found=known[name]))
    return states


def explain_empty(butler: Butler, pipeline: Pipeline, inputs: Iterable[str], where: str) -> str:
    """One sentence on why nothing could be predicted.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        The repository.
    pipeline : lsst.pipe.base.Pipeline
        The pipeline.
    inputs : iterable of str
        Input collections.
    where : str
        Data query.

    Returns
    -------
    str
        What is missing, for which task, and where it was looked for.
    """
    collections = list(inputs)
    states = inspect_inputs(butler, pipeline, collections, where)
    places = ", ".join(collections[:6]) + (", ..." if len(collections) > 6 else "")
    absent = [s for s in states if s.found == 0]
    if absent:
        text = "; ".join(f"task {s.label} needs {s.dataset_type}" for s in absent[:5])
        return f"nothing to run: {text}: no such dataset in {places}"
    beside = [s for s in states if s.found == 1]
    if beside:
        text = "; ".join(f"task {s.label} needs {s.dataset_type}" for s in beside[:5])
        return f"nothing to run: {text}: {places} has some, but none where {where!r}"
    return (
        f"nothing to run: every input exists in {places}, but no combination of them belongs "
        f"together{' where ' + repr(where) if where else ''}; check that the bands, detectors, "
        "visits and patches of the inputs agree"
    )


#: The last line of a traceback.
_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)): (.*)")
#: Words of an error -> what they mean.
_CAUSES = (
    (("No space left", "disk is full", "Disk quota"), "the disk is full"),
    (("readonly database", "Read-only file", "Permission denied"), "it may not be written to"),
    (("database is locked",), "another process holds it"),
    (("Connection refused", "could not connect", "server closed"), "its server does not answer"),
)


def _errors_of(exc: BaseException | None, log: Path) -> Iterator[str]:
    """What an exception and its causes say, then the tracebacks in a log, the last one first."""
    while exc is not None:
        if str(exc):
            yield f"{type(exc).__name__}: {exc}"
        exc = exc.__cause__ or exc.__context__
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in reversed(lines):
        if found := _RAISED.match(line):
            yield f"{found[1].rpartition('.')[2]}: {found[2]}"


def explain_failure(exc: BaseException, log: Path) -> str:
    """The cause of a failure whose own exception says nothing.

    Parameters
    ----------
    exc : BaseException
        What was raised.
    log : Path
        The log of what failed, with tracebacks.

    Returns
    -------
    str
        One clause: the meaning, where it is known, and the words of the error.
    """
    errors = list(_errors_of(exc, log))
    for text in errors:
        for words, meaning in _CAUSES:
            if any(word in text for word in words):
                return f"{meaning} ({text})"
    return errors[0] if errors else f"{type(exc).__name__} without a message"

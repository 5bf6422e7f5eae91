"""Register the dataset types of skymill's pipelines."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from lsst.pipe.base import Pipeline

from skymill.store.repository import open_butler

__all__ = ["pipeline_names", "register_dataset_types"]


def pipeline_names() -> list[str]:
    """The pipelines that come with skymill.

    Returns
    -------
    list of str
        Names of files in ``resource://skymill/pipelines``.
    """
    folder = resources.files("skymill") / "pipelines"
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(".yaml"))


def register_dataset_types(repo: str | Path, pipelines: list[str] | None = None) -> list[str]:
    """Register every dataset type that pipelines read or write.

    Parameters
    ----------
    repo : path
        The repository.
    pipelines : list of str, optional
        URIs of pipeline files; all that come with skymill if omitted.

    Returns
    -------
    list of str
        One sentence for each pipeline that could not be loaded.
    """
    uris = pipelines or [f"resource://skymill/pipelines/{n}" for n in pipeline_names()]
    problems = []
    with open_butler(repo) as butler:
        for uri in uris:
            try:
                graph = Pipeline.from_uri(uri).to_graph(registry=butler.registry)
            except (ImportError, OSError, ValueError) as err:
                problems.append(f"{uri} cannot be loaded: {err}")
                continue
            graph.register_dataset_types(butler)
    return problems

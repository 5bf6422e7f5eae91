"""Bias and flat frames of a cluster from its raw zero and flat frames."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import Command
from skymill.data.errors import MissingInputError
from skymill.engine.graph import GraphRequest

__all__ = ["calibration_commands", "certify_for_all_times"]

#: What the camera calls the frames, as its header translation says it.
_ZERO = "zero"
_FLAT = "dome flat"


def _pipeline(name: str) -> str:
    return str(importlib.resources.files("skymill") / "pipelines" / f"{name}.yaml")


def certify_for_all_times(repo: str, source: str, name: str) -> int:
    """Certify calibrations for all times, instead of those of the same detectors and filters.

    Parameters
    ----------
    repo : str
        The repository.
    source : str
        Collection that holds them.
    name : str
        Dataset type.

    Returns
    -------
    int
        Number of calibrations.

    Raises
    ------
    MissingInputError
        If the collection holds none.
    """
    from lsst.daf.butler import Butler, CollectionType, Timespan

    target = "DECam/calib/certified"
    always = Timespan(None, None)
    with Butler.from_config(repo, writeable=True) as butler:
        refs = butler.query_datasets(name, collections=source, limit=None, explain=False)
        if not refs:
            raise MissingInputError(f"{source} holds no {name} to certify")
        butler.collections.register(target, CollectionType.CALIBRATION)
        ids = [ref.dataId for ref in refs]
        with butler.transaction():
            butler.registry.decertify(target, name, always, dataIds=ids)
            butler.registry.certify(target, refs, always)
    return len(refs)


def _combine(cluster: Cluster, name: str, pipeline: str, kind: str) -> list[Command]:
    """Combine frames of one kind and certify the result for all times."""
    repo = cluster.repo_path
    output = f"DECam/calib/made/{name}"
    request = GraphRequest(
        repo=repo,
        pipeline=_pipeline(pipeline),
        inputs=("DECam/raw/all", "DECam/calib/certified", "DECam/calib"),
        output=output,
        where=f"instrument='DECam' AND exposure.observation_type='{kind}'",
    )
    certify = ("butler", "certify-calibrations", repo, output, "DECam/calib/certified", name)
    return [
        Command(words=tuple(request.command()), request=request, note=f"combines {kind} frames"),
        Command(
            words=certify,
            call=functools.partial(certify_for_all_times, repo, output, name),
            note="valid for all times, instead of what was certified before",
        ),
    ]


def calibration_commands(cluster: Cluster) -> list[Command]:
    """Commands that ingest, combine and certify calibration frames.

    Parameters
    ----------
    cluster : Cluster
        The settings; without ``paths.zeros`` and ``paths.flats`` there is nothing to do.

    Returns
    -------
    list of Command
        In order: bias before flat, because flats need the bias.
    """
    commands: list[Command] = []
    kinds: tuple[tuple[Path | None, str, str, str], ...] = (
        (cluster.paths.zeros, "bias", "cpBias", _ZERO),
        (cluster.paths.flats, "flat", "cpFlat", _FLAT),
    )
    for folder, name, pipeline, kind in kinds:
        if folder is None:
            continue
        source = str(cluster.path(folder))
        words = ("butler", "ingest-raws", cluster.repo_path, source, "--transfer", "direct")
        commands.append(Command(words=words))
        commands += _combine(cluster, name, pipeline, kind)
    return commands

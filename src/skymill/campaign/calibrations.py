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
    """Certify the newest calibrations of a chain for all times; delete those they replace.

    Parameters
    ----------
    repo : str
        The repository.
    source : str
        Chain of RUN collections that hold them, the newest first.
    name : str
        Dataset type.

    Returns
    -------
    int
        Number of calibrations that were not certified before.

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
        every = butler.query_datasets(
            name, collections=source, find_first=False, limit=None, explain=False
        )
        # Registry.decertify fails on an assertion in this release of the middleware, so that the
        # frames which these replace are deleted; they can be made again.
        new = {ref.id for ref in refs}
        old = [ref for ref in every if ref.id not in new]
        butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
        butler.collections.register(target, CollectionType.CALIBRATION)
        fresh = []
        for ref in refs:
            there = butler.find_dataset(name, ref.dataId, collections=target, timespan=always)
            if there is None or there.id != ref.id:
                fresh.append(ref)
        butler.registry.certify(target, fresh, always)
    return len(fresh)


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
            note="valid for all times, instead of those made before",
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

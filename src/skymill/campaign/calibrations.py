"""Bias and flat frames of a cluster from its raw zero and flat frames."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import Command
from skymill.engine.graph import GraphRequest

__all__ = ["calibration_commands"]

#: What the camera calls the frames, as its header translation says it.
_ZERO = "zero"
_FLAT = "dome flat"


def _pipeline(name: str) -> str:
    return str(importlib.resources.files("skymill") / "pipelines" / f"{name}.yaml")


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
        Command(words=certify, note="valid for all times"),
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

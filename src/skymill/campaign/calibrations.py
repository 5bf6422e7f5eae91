"""Calibration frames of a cluster from its raw frames, and what is switched off without them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.resources
from pathlib import Path

from skymill.campaign.actions import find_raws
from skymill.campaign.clean_up import FRAME_TYPES, delete_types
from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import Command
from skymill.data.errors import MissingInputError
from skymill.engine.graph import GraphRequest

__all__ = [
    "Switches",
    "calibration_commands",
    "certify_for_all_times",
    "choose_switches",
]

#: What the camera calls the frames, as its header translation says it.
_ZERO = "zero"
_FLAT = "dome flat"
#: Bands in which the sky lines interfere in the CCDs.
_FRINGED = ("z", "y")
_CERTIFIED = "DECam/calib/certified"


def _pipeline(name: str) -> str:
    return str(importlib.resources.files("skymill") / "pipelines" / f"{name}.yaml")


def certify_for_all_times(
    repo: str, source: str, name: str, *, where: str = "", optional: bool = False
) -> int:
    """Certify the newest calibrations of a chain for all times; delete those they replace.

    Parameters
    ----------
    repo : str
        The repository.
    source : str
        Chain of RUN collections that hold them, the newest first.
    name : str
        Dataset type.
    where : str
        Restricts them.
    optional : bool
        That there is none is no error.

    Returns
    -------
    int
        Number of calibrations that were not certified before.

    Raises
    ------
    MissingInputError
        If the collection holds none.
    """
    from lsst.daf.butler import Butler, CollectionType, MissingDatasetTypeError, Timespan

    always = Timespan(None, None)
    query = {"where": where, "limit": None, "explain": False}
    with Butler.from_config(repo, writeable=True) as butler:
        try:
            refs = butler.query_datasets(name, collections=source, **query)
        except MissingDatasetTypeError:
            refs = []
        if not refs and optional:
            return 0
        if not refs:
            raise MissingInputError(f"{source} holds no {name} to certify")
        every = butler.query_datasets(name, collections=source, find_first=False, **query)
        # Registry.decertify fails on an assertion in this release of the middleware, so that the
        # frames which these replace are deleted; they can be made again.
        new = {ref.id for ref in refs}
        old = [ref for ref in every if ref.id not in new]
        butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
        butler.collections.register(_CERTIFIED, CollectionType.CALIBRATION)
        fresh = []
        for ref in refs:
            there = butler.find_dataset(name, ref.dataId, collections=_CERTIFIED, timespan=always)
            if there is None or there.id != ref.id:
                fresh.append(ref)
        butler.registry.certify(_CERTIFIED, fresh, always)
    return len(fresh)


def _make(
    cluster: Cluster,
    name: str,
    pipeline: str,
    where: str,
    *,
    inputs: tuple[str, ...] = (),
    config: tuple[str, ...] = (),
    output: str = "",
    optional: bool = False,
) -> list[Command]:
    """Run a pipeline for calibration frames, and certify what it makes for all times."""
    repo = cluster.repo_path
    output = output or f"DECam/calib/made/{name}"
    request = GraphRequest(
        repo=repo,
        pipeline=pipeline,
        inputs=("DECam/raw/all", *inputs, _CERTIFIED, "DECam/calib"),
        output=output,
        where=where,
        config=config,
        # What was combined of other frames is no result of these.
        token=_frames_token(cluster),
    )
    certify = ("butler", "certify-calibrations", repo, output, _CERTIFIED, name)
    call = functools.partial(certify_for_all_times, repo, output, name, optional=optional)
    return [
        Command(words=tuple(request.command()), request=request, note=f"makes {name}"),
        Command(words=certify, call=call, note="valid for all times, instead of those made before"),
    ]


def _frames_token(cluster: Cluster) -> str:
    """Stands for the frames that can be combined: names, sizes and times of their files."""
    paths = cluster.paths
    digest = hashlib.sha256()
    for folder in dict.fromkeys(p for p in (paths.zeros, paths.flats, paths.raws) if p is not None):
        for file in find_raws(cluster.path(folder)):
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _where(kind: str) -> str:
    return f"instrument='DECam' AND exposure.observation_type='{kind}'"


def calibration_commands(cluster: Cluster) -> list[Command]:
    """Commands that ingest, combine and certify calibration frames.

    Parameters
    ----------
    cluster : Cluster
        The settings; without ``paths.zeros`` and ``paths.flats`` there is nothing to do.

    Returns
    -------
    list of Command
        In order: flats need the bias, the brighter-fatter kernel and fringes need flats.
    """
    commands: list[Command] = []
    folders = dict.fromkeys(p for p in (cluster.paths.zeros, cluster.paths.flats) if p is not None)
    for folder in folders:
        words = ("ingest-raws", cluster.repo_path, str(cluster.path(folder)))
        commands.append(Command(words=("butler", *words, "--transfer", "direct")))
    if cluster.paths.zeros is not None:
        commands += _make(cluster, "bias", _pipeline("cpBias"), _where(_ZERO))
    if cluster.paths.flats is None:
        return commands + _clean_up(cluster, commands)
    commands += _make(cluster, "flat", _pipeline("cpFlat"), _where(_FLAT))
    # The flats of the step before are linear electrons already. Without a pair no kernel is made.
    commands += _make(
        cluster,
        "bfk",
        f"{_pipeline('cpBfk')}#cpBfkMeasure",
        _where(_FLAT),
        inputs=("DECam/calib/made/flat",),
        config=("cpBfkMeasure:connections.inputExps=cpFlatProc",),
        optional=True,
    )
    for band in cluster.bands:
        if band in _FRINGED and _count_frames(cluster, band) >= cluster.min_fringe_frames:
            where = f"{_where('science')} AND band='{band}'"
            output = f"DECam/calib/made/fringe_{band}"
            commands += _make(cluster, "fringe", _pipeline("cpFringe"), where, output=output)
    return commands + _clean_up(cluster, commands)


def _clean_up(cluster: Cluster, commands: list[Command]) -> list[Command]:
    """Delete the frames that went into the calibrations, unless they are to be kept."""
    if cluster.keep_intermediates or not commands:
        return []
    words = ("prune-datasets", cluster.repo_path, "DECam/calib/made/*", "--find-all", "--unstore")
    types = ("--no-confirm", "--datasets", ",".join(FRAME_TYPES))
    call = functools.partial(delete_types, cluster, FRAME_TYPES)
    return [Command(words=("butler", *words, *types), call=call, note="frames of calibrations")]


def _has_repo(cluster: Cluster) -> bool:
    return (Path(cluster.repo_path) / "butler.yaml").exists()


def _count_frames(cluster: Cluster, band: str) -> int:
    """Science frames of a band; before there is a repository, as many as are needed."""
    if not _has_repo(cluster):
        return cluster.min_fringe_frames
    from lsst.daf.butler import Butler

    where = f"{_where('science')} AND band='{band}'"
    with Butler.from_config(cluster.repo_path) as butler:
        return len(butler.query_dimension_records("exposure", where=where, explain=False))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switches:
    """Overrides of a band that follow from the calibrations there are, and what to say of them."""

    config: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_switches(cluster: Cluster, band: str) -> Switches:
    """What ``isr`` does depends on the brighter-fatter kernels and fringes that are certified.

    Parameters
    ----------
    cluster : Cluster
        The settings; their own overrides of ``isr`` come later and win.
    band : str
        The band.

    Returns
    -------
    Switches
        Overrides and sentences. Before any calibration frame is certified: what is expected.
    """
    found = _find_certified(cluster, band)
    own = cluster.overrides.get("isr", {})
    config, notes = [], []
    has_kernel = "bfk" in found if found else cluster.paths.flats is not None
    if has_kernel:
        config.append("isr:doBrighterFatter=True")
    elif "doBrighterFatter" not in own:
        notes.append(
            f"{band}: no brighter-fatter correction, because there is no kernel: it needs two dome "
            "flats of equal level in paths.flats, or one among paths.calibs"
        )
    if band not in _FRINGED or "doFringe" in own:
        return Switches(config=tuple(config), notes=tuple(notes))
    has_fringe = "fringe" in found if found else cluster.paths.flats is not None
    if not has_fringe:
        config.append("isr:doFringe=False")
        notes.append(
            f"{band}: no fringe correction, because there is no fringe frame: it needs "
            f"{cluster.min_fringe_frames} or more exposures in {band} (min_fringe_frames) and "
            "paths.flats, or one among paths.calibs"
        )
    return Switches(config=tuple(config), notes=tuple(notes))


def _find_certified(cluster: Cluster, band: str) -> frozenset[str]:
    """Dataset types of calibration frames that are certified; fringes in this band only."""
    if not _has_repo(cluster):
        return frozenset()
    from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError

    found = set()
    with Butler.from_config(cluster.repo_path) as butler:
        for name in ("bias", "flat", "bfk", "fringe"):
            where = f"instrument='DECam' AND band='{band}'" if name == "fringe" else ""
            try:
                if butler.query_datasets(
                    name,
                    collections=[_CERTIFIED, "DECam/calib"],
                    find_first=False,
                    where=where,
                    limit=1,
                    explain=False,
                ):
                    found.add(name)
            except (MissingDatasetTypeError, MissingCollectionError):
                continue
    return frozenset(found)

"""Steps that are no pipeline: folders, raw frames, repository, selection, clean-up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from skymill.campaign.clean_up import INTERMEDIATE_TYPES, MADE_CHAINS, delete_intermediates
from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import Command
from skymill.data.errors import MissingInputError
from skymill.engine.report import write_json
from skymill.engine.sites import LocalSite, SlurmSite

__all__ = ["ACTIONS", "find_raws", "input_files"]

_ARCHIVE = "https://astroarchive.noirlab.edu/api/adv_search/find/?limit=None"
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz", ".fz")


def find_raws(folder: Path) -> list[Path]:
    """Raw files below a folder, without those that were moved aside as corrupt.

    Parameters
    ----------
    folder : Path
        The folder; need not exist.

    Returns
    -------
    list of Path
        Sorted FITS files.
    """
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.rglob("*")
        if p.name.endswith(_SUFFIXES)
        and p.is_file()
        and "corrupt_raws" not in p.relative_to(folder).parts
    )


def input_files(cluster: Cluster, step: str) -> list[Path]:
    """Files outside of the repository that a step reads.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : str
        Name of the step.

    Returns
    -------
    list of Path
        Files; a change of one makes the step run again.
    """
    paths = cluster.paths
    raws = find_raws(cluster.path(paths.raws))
    if step in ("check_raws", "move_corrupt_raws"):
        return raws
    if step == "ingest_data":
        folder = cluster.path(paths.refcats)
        refcats = sorted(p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else []
        return raws + refcats
    if step == "meta_lensing":
        return [cluster.path(path) for path in cluster.shear.response_from]
    if step == "make_calibrations":
        frames = [p for p in (paths.zeros, paths.flats) if p is not None]
        return [file for folder in frames for file in find_raws(cluster.path(folder))]
    return []


def _self_command(step: str, call: Callable[[], None], note: str) -> Command:
    words = ("skymill", "run", "cluster.yaml", "--step", step)
    return Command(words=words, call=call, note=note)


# -- create_output ---------------------------------------------------------------------------


def bps_settings(cluster: Cluster) -> dict[str, Any]:
    """The batch configuration of the cluster, in the words of the published one.

    Parameters
    ----------
    cluster : Cluster
        The settings.

    Returns
    -------
    dict
        What ``configs/bps_config.yaml`` holds.
    """
    sites: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(["local", *cluster.sites, cluster.site]):
        site = cluster.make_site(name)
        if isinstance(site, LocalSite):
            sites[name] = {"class": "skymill.engine.bps_sites.Local", "cores": site.n_workers}
        else:
            sites[name] = _slurm_keys(site)
    return {
        "wmsServiceClass": "skymill.engine.bps.CheckedParslService",
        "computeSite": cluster.site,
        "site": sites,
        "project": "lovoccs",
        "campaign": cluster.name,
        "requestMemory": 4096,
        "finalJob": {"requestCpus": 1},
        "parsl": {"log_level": "WARN"},
    }


def _slurm_keys(site: SlurmSite) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "class": "skymill.engine.bps_sites.Slurm",
        "nodes": site.nodes,
        "cores_per_node": site.cores_per_node,
        "walltime": site.walltime,
        "retries": 1,
    }
    for name in ("mem_per_node", "partition", "account", "qos", "address"):
        if getattr(site, name) is not None:
            keys[name] = getattr(site, name)
    return keys


def _create_output(cluster: Cluster, band: str) -> list[Command]:
    def call() -> None:
        for name in ("configs", "pipeline_yamls", "submit", "repo", "raws"):
            (cluster.folder / name).mkdir(parents=True, exist_ok=True)
        path = cluster.folder / "configs" / "bps_config.yaml"
        path.write_text(yaml.safe_dump(bps_settings(cluster), sort_keys=False))

    return [_self_command("create_output", call, "folders and configs/bps_config.yaml")]


# -- raw frames ------------------------------------------------------------------------------


def archive_queries(cluster: Cluster, *, box_deg: float = 2.0) -> list[dict[str, Any]]:
    """The queries of the NOIRLab archive for raw frames around the centre.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    box_deg : float
        Half side of the box [deg]; the published one.

    Returns
    -------
    list of dict
        Bodies of POST requests: one, or two for a box that crosses RA 0.
    """
    ra, dec = cluster.position
    half = min(box_deg / max(np.cos(np.radians(dec)), 1e-3), 180.0)
    low, high = ra - half, ra + half
    if half >= 180:
        ranges = [(0.0, 360.0)]
    elif low < 0 or high > 360:
        ranges = [(low % 360, 360.0), (0.0, high % 360)]
    else:
        ranges = [(low, high)]
    search: list[list[Any]] = [
        ["instrument", "decam"],
        ["obs_type", "object"],
        ["proc_type", "raw"],
        ["prod_type", "image"],
        ["exposure", 10, 1000],
        ["dec_center", dec - box_deg, dec + box_deg],
    ]
    fields = "ra_center dec_center exposure dateobs_center caldat ifilter archive_filename url"
    return [
        {
            "outfields": [*fields.split(), "md5sum", "proposal"],
            "search": [*search, ["ra_center", *limits]],
        }
        for limits in ranges
    ]


def _download_raw(cluster: Cluster, band: str) -> list[Command]:
    raws = cluster.path(cluster.paths.raws)
    query = cluster.folder / "configs" / "archive_query.json"

    def call() -> None:
        write_json(query, archive_queries(cluster))
        if not find_raws(raws):
            raise MissingInputError(
                f"no raw frames in {raws}: send each query of {query} to the archive "
                f"(POST {_ARCHIVE}), download the files of its answer to {raws} and check their "
                "md5sum, then run again"
            )

    return [_self_command("download_raw", call, f"writes {query}; needs raw frames in {raws}")]


def _check_raws(cluster: Cluster, band: str) -> list[Command]:
    return [Command(words=("skymill", "check-raws", str(cluster.path(cluster.paths.raws))))]


def _move_corrupt_raws(cluster: Cluster, band: str) -> list[Command]:
    words = ("skymill", "check-raws", str(cluster.path(cluster.paths.raws)), "--move")
    return [Command(words=words, note="moves corrupt files aside")]


# -- repository ------------------------------------------------------------------------------


def _initialize_repo(cluster: Cluster, band: str) -> list[Command]:
    words = ["skymill", "init", cluster.repo_path]
    if cluster.registry:
        words += ["--registry", cluster.registry]
    return [Command(words=tuple(words), note="repository, camera, curated calibrations")]


def _ingest_data(cluster: Cluster, band: str) -> list[Command]:
    repo, paths = cluster.repo_path, cluster.paths
    raws = str(cluster.path(paths.raws))
    commands = []
    if paths.calibs is not None:
        shared = str(cluster.path(paths.calibs))
        words: tuple[str, ...] = ("butler", "import-calibrations", repo, shared)
        commands.append(Command(words=words, note="calibrations shared by many clusters"))
    refcats = cluster.path(paths.refcats)
    for name, columns in _needed_refcats(cluster).items():
        words = ("butler", "ingest-refcat", repo, name, str(_find_refcat(refcats, name)))
        if columns:
            words = (*words, "--require", ",".join(columns))
        commands.append(Command(words=words, note="to refcats"))
    commands.append(Command(words=("butler", "ingest-raws", repo, raws, "--transfer", "direct")))
    commands.append(Command(words=("butler", "define-visits", repo, "DECam")))
    return commands


def _needed_refcats(cluster: Cluster) -> dict[str, list[str]]:
    """Dataset types of the reference catalogues, each with its flux columns that are used."""
    pairs = [(cluster.astrometry, "phot_g_mean")] if cluster.astrometry == "gaia" else []
    pairs += [cluster.reference(band) for band in cluster.bands]
    result: dict[str, list[str]] = {cluster.astrometry: []}
    for name, column in dict.fromkeys(pairs):
        result.setdefault(name, []).append(column)
    if not result[cluster.astrometry]:
        result[cluster.astrometry].append(cluster.lensing_band)
    return result


def _find_refcat(folder: Path, name: str) -> Path:
    """The file ``NAME.*`` or the folder ``NAME`` of a reference catalogue."""
    candidates = [*sorted(folder.glob(f"{name}.*")), folder / name]
    for path in candidates:
        if path.exists():
            return path
    return folder / name


def _make_calibrations(cluster: Cluster, band: str) -> list[Command]:
    from skymill.campaign.calibrations import calibration_commands

    return calibration_commands(cluster)


# -- selection and sky map -------------------------------------------------------------------


def _select_visit(cluster: Cluster, band: str) -> list[Command]:
    cuts = cluster.cuts
    lensing = band == cluster.lensing_band
    ra, dec = cluster.position
    words = (
        "skymill",
        "select-visit",
        cluster.repo_path,
        "--band",
        band,
        "--ra",
        repr(ra),
        "--dec",
        repr(dec),
        "--fwhm",
        repr(cuts.lensing_fwhm_pixel if lensing else cuts.fwhm_pixel),
        "--ellipticity",
        repr(cuts.lensing_ellipticity if lensing else cuts.ellipticity),
        "--max-distance",
        repr(cuts.max_distance_deg),
        "--min-detectors",
        str(cuts.min_detectors),
    )
    note = f"TAGGED collection DECam/processing/quality_detectors_{band}"
    return [Command(words=words, note=note)]


def _register_skymap(cluster: Cluster, band: str) -> list[Command]:
    sky = cluster.skymap
    ra, dec = cluster.position
    words = ["butler", "register-skymap", cluster.repo_path, "--name", cluster.skymap_name]
    words += ["--ra", repr(ra), "--dec", repr(dec), "--radius", repr(sky.radius_deg)]
    words += ["--patch-inner", str(sky.patch_inner), "--patch-border", str(sky.patch_border)]
    words += ["--pixel-scale", repr(sky.pixel_scale)]
    if sky.tract_overlap_deg is not None:
        words += ["--tract-overlap", repr(sky.tract_overlap_deg)]
    return [Command(words=tuple(words), note="collection skymaps")]


def _gotta_blast(cluster: Cluster, band: str) -> list[Command]:
    submit = cluster.folder / "submit"

    def call() -> None:
        delete_intermediates(cluster)
        logs = sorted(submit.rglob("logs"))
        if logs:
            part = submit / ".logs.part"
            archive = shutil.make_archive(str(part), "zip", root_dir=submit)
            os.replace(archive, cluster.folder / "submit.zip")

    types = ",".join(INTERMEDIATE_TYPES)
    words = ["butler", "prune-datasets", cluster.repo_path, *MADE_CHAINS]
    words += ["--find-all"]
    words += ["--unstore", "--no-confirm", "--datasets", types]
    return [Command(words=tuple(words), call=call, note="after the final products are checked")]


ACTIONS: dict[str, Callable[[Cluster, str], list[Command]]] = {
    "create_output": _create_output,
    "download_raw": _download_raw,
    "check_raws": _check_raws,
    "move_corrupt_raws": _move_corrupt_raws,
    "initialize_repo": _initialize_repo,
    "ingest_data": _ingest_data,
    "make_calibrations": _make_calibrations,
    "select_visit": _select_visit,
    "register_skymap": _register_skymap,
    "gotta_blast": _gotta_blast,
}


def load_record(path: Path) -> dict[str, Any]:
    """A JSON record; empty if it is absent or damaged.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        Its content.
    """
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}

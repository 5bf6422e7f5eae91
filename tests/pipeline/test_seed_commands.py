"""The commands of the LoVoCCS handbook on a simulated repository; files on disk count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lsst.daf.butler import Butler
from lsst.pipe.base import Pipeline

pytestmark = pytest.mark.xdist_group("tiny")

BIN = Path(sys.prefix) / "bin"
RAW = "DECam/raw/all,DECam/calib,DECam/calib/certified,DECam/calib/unbounded"
PIPELINE = "resource://skymill/pipelines/DRP-LoVoCCS.yaml"
QUERY = "instrument='DECam' AND band='r' AND exposure.observation_type='science'"


def run(*words, folder, code=0):
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PWD": str(folder)}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(BIN / words[0]), *map(str, words[1:])],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert (done.returncode == 0) == (code == 0), text[-3000:]
    return text


@pytest.fixture(scope="module")
def place(tiny_repository):
    return tiny_repository, tiny_repository / "repo/repo"


def files_of(repo, collection):
    return sorted(p.name for p in (repo / collection).rglob("*") if p.is_file())


def test_queries(place):
    folder, repo = place
    text = run("butler", "query-collections", repo, folder=folder)
    for name in ("DECam/raw/all", "DECam/calib/certified", "refcats"):
        assert name in text
    words = ("--collections", "DECam/raw/all", "--where", QUERY, "raw")
    text = run("butler", "query-datasets", repo, *words, folder=folder)
    assert text.count("DECam/raw/all") == 2
    with Butler.from_config(str(repo)) as butler:
        refs = list(butler.registry.queryDatasets("raw", collections="DECam/raw/all", where=QUERY))
        assert len({r.dataId["exposure"] for r in refs}) == 2
        assert butler.get(refs[0]).image.ndim == 2


def test_build_shows_and_saves(place):
    folder, _ = place
    (folder / "isr.py").write_text("config.doLinearize = False\n")
    words = ["pipetask", "build", "-p", f"{PIPELINE}#step1", "--instrument"]
    words += ["skymill.instruments.decam.DarkEnergyCamera", "-c", "isr:doBias=False"]
    words += ["-C", f"isr:{folder / 'isr.py'}"]
    run(*words, "--pipeline-dot", "step1.dot", "-s", "saved.yaml", folder=folder)
    assert "digraph" in (folder / "step1.dot").read_text()
    tasks = Pipeline.from_uri(str(folder / "saved.yaml")).to_graph().tasks
    assert sorted(tasks) == ["calibrate", "characterizeImage", "isr", "transformPreSourceTable"]
    assert not tasks["isr"].config.doBias
    assert not tasks["isr"].config.doLinearize
    text = run(*words, "--show", "dump-config", folder=folder)
    assert "config.doBias=False" in text
    assert "config.doFlat=True" in text


def test_one_task_pipeline(place):
    """A pipeline of one task with its own configuration, run on two processes."""
    folder, repo = place
    (folder / "test.yaml").write_text(
        "description: one task\ninstrument: skymill.instruments.decam.DarkEnergyCamera\n"
        "tasks:\n  isr:\n    class: skymill.tasks.isr.IsrTask\n"
        "    config: {doInterChipCrosstalk: false, doBias: false}\n"
    )
    run(
        "pipetask", "run", "-b", repo, "-p", "test.yaml", "-i", RAW, "-o", "u/test/isr",
        "-d", QUERY, "-j", "2", "--register-dataset-types", folder=folder,
    )  # fmt: skip
    names = files_of(repo, "u/test")
    assert sum(n.startswith("postISRCCD_") for n in names) == 2
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("postISRCCD", collections="u/test/isr")
        assert butler.get(refs[0]).planes.unit == "electron"


def bps_config(folder, pipeline, output):
    values = {
        "wmsServiceClass": "skymill.engine.bps.CheckedParslService",
        "computeSite": "local",
        "site": {"local": {"class": "skymill.engine.bps_sites.Local", "cores": 2, "retries": 0}},
        "finalJob": {"requestCpus": 1},
        "project": "lovoccs",
        "campaign": "T",
        "parsl": {"log_level": "WARN"},
    }
    path = folder / f"{output.rsplit('/', 1)[-1]}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def submit(folder, repo, pipeline, output, code=0):
    config = bps_config(folder, pipeline, output)
    words = ("-b", repo, "-p", pipeline, "-i", RAW, "-o", output, "-d", QUERY, config)
    return run("bps", "submit", *words, folder=folder, code=code)


def test_build_then_submit(place):
    folder, repo = place
    run("pipetask", "build", "-p", f"{PIPELINE}#step0", "-s", "step0.yaml", folder=folder)
    submit(folder, repo, "step0.yaml", "DECam/processing/bps_step0")
    names = files_of(repo, "DECam/processing/bps_step0")
    assert sum(n.startswith("overscanRaw_") for n in names) == 2


def test_a_failed_quantum_fails_bps(place):
    """One of two raw frames is away: the other is processed, and the command says it."""
    folder, repo = place
    run("pipetask", "build", "-p", f"{PIPELINE}#step0", "-s", "failing.yaml", folder=folder)
    first = min((folder / "raws").glob("*.fits.fz"))
    away = first.rename(folder / "away")
    try:
        text = submit(folder, repo, "failing.yaml", "DECam/processing/bps_fails", code=1)
    finally:
        away.rename(first)
    assert "jobs failed" in text
    names = files_of(repo, "DECam/processing/bps_fails")
    assert sum(n.startswith("overscanRaw_") for n in names) == 1

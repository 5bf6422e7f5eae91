"""skymill run and status on settings, without a repository."""

import json
import re

import pytest
from click.testing import CliRunner

from skymill.campaign import STEPS
from skymill.cli import main

SETTINGS = """
name: A85
centre: [10.46, -9.3]
redshift: 0.0557
bands: [g, r]
photometry: ["ps1,g", "ps1,r"]
sites: {slurm: {nodes: 1, cores_per_node: 4, mem_per_node: 8, walltime: "01:00:00"}}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(SETTINGS)
    return file


def invoke(*words):
    return CliRunner().invoke(main, [str(w) for w in words])


def test_dry_run_has_every_step_and_touches_nothing(path):
    done = invoke("run", path, "--dry-run")
    assert done.exit_code == 0, done.output
    wanted = [s.name for s in STEPS if not s.on_request and s.name != "gotta_blast"]
    headers = re.findall(r"^# \d+ (\w+):", done.output, re.MULTILINE)
    assert headers == wanted
    assert "skymill init" in done.output
    assert "-o DECam/processing/coadd_3a" in done.output
    assert [p.name for p in path.parent.iterdir()] == ["cluster.yaml"]


def test_dry_run_for_slurm_builds_then_submits(path):
    done = invoke("run", path, "--dry-run", "--site", "slurm", "--step", "jointcal")
    lines = [line for line in done.output.splitlines() if not line.startswith("#")]
    assert lines[0].startswith("pipetask build -p ")
    assert "-c jointcal:connections.photometryRefCat=ps1" in lines[0]
    assert lines[1].startswith("bps submit -b ")
    assert lines[1].endswith("configs/bps_config.yaml")


def test_steps_on_request_and_unknown_ones(path):
    done = invoke("run", path, "--dry-run", "--from", "red_sequence", "--to", "meta_4b")
    headers = re.findall(r"^# \d+ (\w+):", done.output, re.MULTILINE)
    assert headers == ["red_sequence", "meta_4a", "meta_4b"]
    assert done.output.count("-c metaMeasure:shear=") == 5
    for name in ("noshear", "1p", "1m", "2p", "2m"):
        assert f"-o DECam/processing/meta_4b_{name}" in done.output
    done = invoke("run", path, "--step", "fly")
    assert done.exit_code == 2
    assert "there is no step 'fly'" in done.output
    done = invoke("run", path, "--site", "moon", "--dry-run")
    assert done.exit_code == 2
    assert "site 'moon' is not among sites: local, slurm" in done.output


def test_no_raw_frames_says_what_to_do(path):
    done = invoke("run", path, "--to", "check_raws")
    assert done.exit_code == 1
    assert "no raw frames in" in done.output
    queries = json.loads((path.parent / "configs" / "archive_query.json").read_text())
    assert ["instrument", "decam"] in queries[0]["search"]
    config = (path.parent / "configs" / "bps_config.yaml").read_text()
    assert "skymill.engine.bps.CheckedParslService" in config
    done = invoke("status", path)
    assert "create_output              done" in done.output
    assert "download_raw               FAILED" in done.output


def test_gotta_blast_asks(path):
    done = CliRunner().invoke(main, ["run", str(path), "--step", "gotta_blast"], input="n\n")
    assert done.exit_code != 0
    assert "delete the intermediate products of A85" in done.output


def test_status_of_many_and_as_json(path, tmp_path):
    other = tmp_path / "b.yaml"
    other.write_text(SETTINGS.replace("A85", "A2029"))
    done = invoke("status", path, other)
    assert done.output.splitlines()[0].startswith("A85")
    assert "missing" in done.output
    values = json.loads(invoke("status", "--json", path).output)
    assert values["A85"][0] == {
        "step": "create_output",
        "band": "",
        "state": "missing",
        "detail": "",
        "seconds": None,
    }

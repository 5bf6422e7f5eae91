"""``bps submit`` with our service: the exit code tells whether quanta failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOY = Path(__file__).parents[1] / "pipeline"
sys.path.insert(0, str(TOY))

import engine_toy  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]

CONFIG = {
    "wmsServiceClass": "skymill.engine.bps.CheckedParslService",
    "computeSite": "local",
    "site": {"local": {"class": "skymill.engine.bps_sites.Local", "cores": 2, "retries": 0}},
    "finalJob": {"requestCpus": 1},
    "project": "toy",
    "campaign": "toy",
    "parsl": {"log_level": "WARN"},
}


def submit(root, pipeline, config):
    (root / "bps.yaml").write_text(yaml.safe_dump({**CONFIG, **config}))
    bin_folder = Path(sys.prefix) / "bin"
    words = [str(bin_folder / "bps"), "submit", "-b", str(root / "repo"), "-p", str(pipeline)]
    words += ["-i", "toy/raw", "-o", "toy/bps", str(root / "bps.yaml")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(TOY),
        "PWD": str(root),  # bps writes its submit folder below it.
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    return subprocess.run(
        words, cwd=root, env=environment, capture_output=True, text=True, check=False
    )


def test_three_hundred_quanta(tmp_path):
    # More than 180 quanta: the size at which an unpatched zipfile breaks the final job.
    repo, pipeline = engine_toy.make_repo(tmp_path, 320)
    cluster = {
        "clusterAlgorithm": "lsst.ctrl.bps.quantum_clustering_funcs.dimension_clustering",
        "cluster": {"toy": {"pipetasks": "toyFirst", "dimensions": "instrument"}},
    }
    done = submit(tmp_path, f"{pipeline}#one", cluster)
    assert done.returncode == 0, done.stderr[-2000:]
    values = engine_toy.read_all(repo, "toyA", "toy/bps")
    assert values == {i: i + 1 for i in range(320)}


def test_failed_quantum_fails_the_command(tmp_path):
    repo, pipeline = engine_toy.make_repo(tmp_path, 3)
    saved = tmp_path / "failing.yaml"
    text = pipeline.read_text().replace(
        "engine_toy.ToyFirstTask}", "engine_toy.ToyFirstTask, config: {fail_on: [1]}}"
    )
    saved.write_text(text)
    done = submit(tmp_path, f"{saved}#one", {})
    assert done.returncode != 0
    assert "1 of" in done.stderr
    assert "jobs failed" in done.stderr
    # What succeeded is in the repository all the same.
    assert engine_toy.read_all(repo, "toyA", "toy/bps") == {0: 1, 2: 3}

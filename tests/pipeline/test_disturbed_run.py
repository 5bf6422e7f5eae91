"""The truth is never read, and a run that was killed twice ends with the same tables."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler

sys.path.insert(0, str(Path(__file__).parent))

from survey_settings import write_settings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tiny")]

P = "DECam/processing"
TABLES = (
    ("src", "calexp_r"),
    ("preSourceTable_visit", "visit_summary_r"),
    ("finalVisitSummary", "final_visit_summary_r"),
    ("deepCoadd_forced_src", "coadd_3c"),
    ("objectTable_tract", "coadd_3c"),
)


def start(folder):
    words = [str(Path(sys.prefix) / "bin/skymill"), "run", "cluster.yaml", "--to", "coadd_3c"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            [*words, "--quiet"], cwd=folder, env=environment, stdout=log, stderr=log
        )


def kill_when(folder, pattern):
    """Kill the driver as soon as a file of a running step is there."""
    process = start(folder)
    deadline = time.monotonic() + 300
    while not any((folder / "repo/repo" / P).rglob(pattern)):
        assert process.poll() is None, (folder / "run.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def finish(folder):
    assert start(folder).wait(timeout=600) == 0, (folder / "run.log").read_text()[-3000:]


def read_tables(folder):
    result = {}
    with Butler.from_config(str(folder / "repo/repo")) as butler:
        for name, collection in TABLES:
            refs = butler.query_datasets(name, collections=f"{P}/{collection}")
            for ref in refs:
                result[name, str(ref.dataId)] = butler.get(ref)
    return result


def test_no_truth_and_two_kills_change_nothing(tiny_survey, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        for name in ("raws", "calib", "refcats"):
            shutil.copytree(tiny_survey / name, folder / name)
        write_settings(folder)
    shutil.copytree(tiny_survey / "truth", one / "truth")
    finish(one)
    assert not (two / "truth").exists()
    kill_when(two, "icExp_*")
    kill_when(two, "deepCoadd_directWarp_*")
    finish(two)
    first, second = read_tables(one), read_tables(two)
    assert set(first) == set(second)
    assert {name for name, _ in first} == {name for name, _ in TABLES}
    for key, table in first.items():
        other = second[key]
        assert table.colnames == other.colnames
        for column in table.colnames:
            a, b = np.asarray(table[column]), np.asarray(other[column])
            np.testing.assert_array_equal(a, b, err_msg=f"{key} {column}")

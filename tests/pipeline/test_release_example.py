"""The worked example, as a user types it: bare images to a published, verified release."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.sims.community import read_patch_truth

_SCRIPT = Path(__file__).parents[2] / "examples" / "release" / "commands.sh"


def run(folder, **words):
    scripts = str(Path(sys.executable).parent)
    environment = {
        **os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"], "PYTHON": sys.executable,
    }  # fmt: skip
    for name in ("LEGACY_SURVEY_DIR", "SKYMILL_QUEUE_DB", "ZOOMS", "REGION", "BRICK", "EXTERNAL"):
        environment.pop(name, None)
    environment.update(words)
    return subprocess.run(
        ["bash", str(_SCRIPT), str(folder)], env=environment, capture_output=True, text=True
    )


def test_the_script_is_valid_shell():
    assert subprocess.run(["bash", "-n", str(_SCRIPT)], check=False).returncode == 0


@pytest.mark.slow
def test_the_example_runs_to_its_end_and_again(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2 of 2 bricks without fault" in done.stdout + done.stderr
    published = tmp_path / "published"
    names = sorted(p.name for p in published.glob("tractor/*/tractor-*.fits"))
    assert names == ["tractor-1501p022.fits", "tractor-1503p022.fits"]
    assert (published / "gallery" / "index.html").is_file()
    # Every zero point within 3 % of the truth, positions within 10 mas.
    truth = read_patch_truth(tmp_path / "patch", "ccds")
    found = Table.read(tmp_path / "merged_zpt.fits")
    order = [int(np.flatnonzero(truth["expnum"] == n)[0]) for n in found["expnum"]]
    truth = truth[order]
    assert len(found) == 15
    assert np.abs(np.asarray(found["ccdzpt"]) - truth["psf_zero_point"]).max() < 0.03
    for name in ("ra", "dec"):
        off = np.asarray(found[f"ccd{name}off"]) - np.asarray(truth[f"{name}_offset"])
        assert np.abs(off).max() < 0.010
    # The sweeps hold the primary objects, exactly.
    primary = sum(
        int(fits.getdata(p, 1)["brick_primary"].sum())
        for p in published.glob("tractor/*/tractor-*.fits")
    )
    swept = sum(len(fits.getdata(p, 1)) for p in published.glob("sweep/9.0/sweep-*.fits"))
    assert swept == primary > 80
    # A second call makes nothing twice and ends well.
    again = run(tmp_path)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "brick", "objects"),
    [
        ("testcase3", "2447p120", 2),
        ("testcase6", "1102p240", 2),
        ("testcase9", "0091p035", 3),
        ("mzlsbass2", "1773p595", 11),
        ("decals_grz", "0285m165", 10),
    ],
)
def test_the_example_runs_on_real_cut_outs_that_it_only_reads(
    case, brick, objects, shared_data, tmp_path
):
    """The counts are those of the reference's catalogues with a flux, less blends."""
    survey = shared_data / "cutouts" / case
    before = {p: p.stat().st_mtime_ns for p in survey.rglob("*")}
    done = run(
        tmp_path,
        LEGACY_SURVEY_DIR=os.path.relpath(survey),
        BRICK="--covered --ebv 0.05",
        WORKERS="1",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 of 1 bricks without fault" in done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in survey.rglob("*")} == before
    with fits.open(tmp_path / f"published/tractor/{brick[:3]}/tractor-{brick}.fits") as hdus:
        assert (hdus[1].data["flux_r"] > 0).sum() >= objects
    # All that was calibrated is in the release's table of CCDs.
    given = [len(fits.getdata(p, 1)) for p in survey.glob("survey-ccds*")]
    found = fits.getdata(tmp_path / "published" / "survey-ccds-example.kd.fits", 1)
    assert len(found) == sum(given)

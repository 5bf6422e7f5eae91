"""The report of a campaign that is not finished, and why a dataset does not exist."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from survey_settings import write_settings

from skymill.cli import main

pytestmark = pytest.mark.xdist_group("tiny")


def ask(*words):
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert "Traceback" not in done.output
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture
def begun(tiny_repository, tmp_path):
    """The campaign that stands before process_ccd, without its truth."""
    for name in ("raws", "calib", "refcats", "repo", "submit"):
        (tmp_path / name).symlink_to(tiny_repository / name)
    write_settings(tmp_path)
    return tmp_path


def test_a_report_tells_what_there_is(begun):
    code, text = ask("report", begun)
    assert code == 0, text
    assert "there is no mass yet" in text
    summary = json.loads((begun / "report" / "summary.json").read_text())
    assert summary["mass"] == {"fit_msun": None, "sigma_msun": None}
    assert summary["timing"]["make_calibrations_s"] > 0
    assert "<title>T</title>" in (begun / "report" / "index.html").read_text()


def test_a_report_needs_a_repository(tmp_path):
    write_settings(tmp_path)
    code, text = ask("report", tmp_path / "cluster.yaml")
    assert code == 1
    assert "has nothing to report: there is no repository" in text
    assert "'skymill run cluster.yaml' makes it" in text


def test_why_follows_a_missing_dataset_to_what_is_there(begun):
    code, text = ask("why", begun / "cluster.yaml", "calexp", "visit=830001", "detector=35")
    assert code == 0, text
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "calexp visit=830001 detector=35: does not exist"
    assert lines[1].startswith("made by: step process_ccd r (missing), task calibrate, in ")
    assert "icExp visit=830001 detector=35: does not exist" in lines
    assert "overscanRaw visit=830001 detector=35: does not exist" in lines
    assert "would use fringe: not there" in lines
    assert "needs raw: there" in lines
    assert "needs bias: there" in lines
    assert lines[-1] == "next: skymill run cluster.yaml --to process_ccd"


def test_why_finds_what_exists_and_refuses_what_cannot_be(begun):
    settings = begun / "cluster.yaml"
    code, text = ask("why", settings, "raw", "exposure=830001")
    assert code == 0
    assert "raw exposure=830001: 1 exist" in text
    assert "DECam_00830001.fits.fz" in text
    assert "there is no visit 7 in the repository; it has 830001" in ask(
        "why", settings, "calexp", "visit=7"
    )[1]  # fmt: skip
    code, text = ask("why", settings, "calexp", "patch=3")
    assert code == 2
    assert "calexp has no patch; its data ID is made of" in text
    code, text = ask("why", settings, "calexp", "visit=x")
    assert code == 2
    assert "visit must be a whole number; got 'x'" in text
    # Words that are no dataset type ask for failures, as before.
    assert "no failure is on record for jointcal" in ask("why", settings, "jointcal")[1]

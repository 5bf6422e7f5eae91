"""``skymill view`` of images, tables and what does not exist, in a repository that has begun."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from survey_settings import write_settings

from skymill.cli.view import view
from skymill.data.errors import SkymillError

pytestmark = pytest.mark.xdist_group("tiny")


@pytest.fixture
def cluster(tiny_repository, tmp_path):
    for name in ("raws", "calib", "refcats", "repo", "submit"):
        (tmp_path / name).symlink_to(tiny_repository / name)
    write_settings(tmp_path)
    return tmp_path / "cluster.yaml"


def ask(cluster, *words):
    return CliRunner().invoke(view, [str(cluster), *(str(w) for w in words)])


def test_images_become_pictures_and_tables_are_printed(cluster, tmp_path):
    listed = ask(cluster, "crosstalk")
    assert isinstance(listed.exception, SkymillError)
    assert "datasets fit; add to the data ID:" in str(listed.exception)
    # The survey has one CCD.
    shown = ask(cluster, "bias", "--output", tmp_path / "first.png")
    detector = shown.output.split("detector=")[1].split()[0]
    picture = tmp_path / "bias.png"
    result = ask(cluster, "bias", f"detector={detector}", "--output", picture)
    assert result.exit_code == 0, (result.output, result.exception)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"written: {picture}" in result.output
    # The first of many raw frames, in the words of the list.
    words = str(ask(cluster, "raw").exception).splitlines()[1].split()
    result = ask(cluster, *words, "--output", tmp_path / "raw.png")
    assert result.exit_code == 0, (result.output, result.exception)
    assert (tmp_path / "raw.png").stat().st_size > 1000
    result = ask(cluster, "crosstalk", f"detector={detector}", "--rows", 2)
    assert result.exit_code == 0, (result.output, result.exception)
    assert " rows, " in result.output
    assert not result.output.count("\n") > 8


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "no dataset type is named 'nothing'"),
        (["raw", "exposure=7"], "there is no exposure 7 in the repository"),
        (["bias", "patch=1"], "bias has no patch; its data ID is made of"),
        (["bias", "detector"], "a data ID is written key=value"),
    ],
)
def test_what_does_not_exist_is_said(cluster, words, sentence):
    result = ask(cluster, *words)
    assert isinstance(result.exception, SkymillError), result.output
    assert sentence in str(result.exception)


def test_a_campaign_without_repository(tmp_path):
    write_settings(tmp_path)
    result = ask(tmp_path / "cluster.yaml", "calexp")
    assert "there is no repository at" in str(result.exception)

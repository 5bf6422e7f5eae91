"""A campaign of toy steps: order, resume, failure, change of settings."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import engine_toy  # noqa: E402

from skymill.campaign import Campaign, StepError, load_cluster, state  # noqa: E402
from skymill.campaign import steps as steps_module  # noqa: E402
from skymill.campaign.steps import PipelineRun, Step  # noqa: E402

pytestmark = pytest.mark.xdist_group("engine")

TOY_STEPS = (
    Step(name="create_output", number="1", doc="Folders.", action="create_output"),
    Step(
        name="ones",
        number="2",
        doc="First.",
        per_band=True,
        tolerant=True,
        runs=(
            PipelineRun(
                subset="one",
                inputs=("toy/raw",),
                output="toy/one_{band}",
                where="instrument='Toy' AND detector < {redshift}",
            ),
        ),
    ),
    Step(
        name="twos",
        number="3",
        doc="Second.",
        runs=(
            PipelineRun(subset="toySecond", inputs=("toy/one_{each}",), output="toy/two"),
            PipelineRun(subset="toySum", inputs=("toy/two",), output="toy/sum"),
        ),
    ),
    Step(
        name="never",
        number="4",
        doc="On request.",
        runs=(PipelineRun(subset="toySum", inputs=("toy/two",), output="toy/more"),),
        on_request="ask for it",
    ),
)

SETTINGS = """
name: Toy
centre: [10.0, 0.0]
redshift: {limit}
bands: [g, r]
photometry: {{g: ps1, r: ps1}}
repo: repo
pipeline: toy.yaml
site: local
sites: {{local: {{workers: 2}}}}
tolerate_failures: {tolerate}
config: {{toyFirst: {config}, other: {{x: 1}}}}
"""


@pytest.fixture(autouse=True)
def toy_steps(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    import skymill.campaign.campaign as campaign_module
    from skymill.campaign import failures, whereabouts

    # Also what a command imports only when it runs: it would keep the toy steps for later tests.
    for module in (steps_module, state, campaign_module, failures, whereabouts):
        monkeypatch.setattr(module, "STEPS", TOY_STEPS)


def write(root, *, config="{}", tolerate=0.1, limit="2.5"):
    path = root / "cluster.yaml"
    path.write_text(SETTINGS.format(config=config, tolerate=tolerate, limit=limit))
    return load_cluster(path)


def run_steps(cluster, **kwargs):
    lines = []
    campaign = Campaign(cluster, say=lines.append, show_progress=False)
    units = campaign.run([s for s in TOY_STEPS if not s.on_request], **kwargs)
    return {f"{u.step} {u.band}".strip(): u.state for u in units}, lines


def test_steps_run_once_and_again_only_after_a_change(tmp_path):
    engine_toy.make_repo(tmp_path, 5)
    cluster = write(tmp_path)
    assert {u.state for u in Campaign(cluster).status(TOY_STEPS)} == {"missing", "optional"}
    states, lines = run_steps(cluster)
    done = {
        "create_output": "done",
        "ones g": "done",
        "ones r": "done",
        "twos": "done",
    }
    assert states == done
    assert (tmp_path / "configs" / "bps_config.yaml").exists()
    assert engine_toy.read_all(tmp_path / "repo", "toySum", "toy/sum") == {-1: 12}
    states, lines = run_steps(cluster)
    assert [line for line in lines if "done before" in line] == [
        "create_output: done before",
        "ones g: done before",
        "ones r: done before",
        "twos: done before",
    ]
    # A changed setting: what depends on it is outdated, then made again.
    cluster = write(tmp_path, config="{seconds: 0.01}")
    states = {u.step: u.state for u in Campaign(cluster).status(TOY_STEPS)}
    assert states["ones"] == "outdated"
    states, lines = run_steps(cluster)
    assert states == done
    assert not [line for line in lines if line.startswith(("ones g: done b", "twos: done b"))]


def test_failure_stops_the_later_steps_and_is_explained(tmp_path):
    engine_toy.make_repo(tmp_path, 5)
    cluster = write(tmp_path, config='{fail_on: "[1]"}')
    with pytest.raises(StepError, match=r"(?s)ones g: .*detector 1 has no stars.*--keep-going"):
        run_steps(cluster)
    states = {u.step: u.state for u in Campaign(cluster).status(TOY_STEPS)}
    assert states["ones"] == "failed"
    assert states["twos"] == "missing"
    from skymill.cli import main

    path = str(tmp_path / "cluster.yaml")
    text = CliRunner().invoke(main, ["why", path, "detector 1"]).output
    assert "ones g: toyFirst (instrument Toy, detector 1): ValueError" in text
    assert "| ValueError: detector 1 has no stars" in text
    text = CliRunner().invoke(main, ["status", path]).output
    assert "FAILED" in text
    assert "1 quanta failed" in text
    # With tolerance the rest goes on.
    states, lines = run_steps(write(tmp_path, config='{fail_on: "[1]"}', tolerate=0.5))
    assert states["twos"] == "done"
    assert any("detector 1 has no stars" in line for line in lines)
    assert engine_toy.read_all(tmp_path / "repo", "toySum", "toy/sum") == {-1: 8}


def test_dry_run_prints_the_commands(tmp_path):
    engine_toy.make_repo(tmp_path, 2)
    write(tmp_path, config="{seconds: 0.01}")
    from skymill.cli import main

    args = ["run", str(tmp_path / "cluster.yaml"), "--step", "ones", "--dry-run"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output
    repo = tmp_path / "repo"
    assert f"pipetask run -b {repo} -p '{tmp_path}/toy.yaml#one' -i toy/raw" in done.output
    assert "-c toyFirst:seconds=0.01" in done.output
    assert "#   out: toy/one_g" in done.output
    assert not (tmp_path / "submit").exists()

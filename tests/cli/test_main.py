"""The skymill command: lazy verbs, clear sentences, exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import skymill
from skymill import cli
from skymill.data.errors import ConfigError, DataError

SKYMILL = Path(sys.prefix) / "bin" / "skymill"


def run_skymill(*words):
    return subprocess.run([str(SKYMILL), *words], capture_output=True, text=True, check=False)


def test_help_imports_no_verb():
    code = (
        "import sys, skymill.cli as c\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(c.main, ['--help']).exit_code == 0\n"
        "bad = [m for m in sys.modules if m.startswith(('lsst', 'astropy', 'numba', 'parsl'))]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_verb():
    text = CliRunner().invoke(cli.main, ["--help"]).output
    for verb in (*cli.VERBS, "version"):
        assert verb in text


def test_version():
    assert run_skymill("version").stdout.strip() == skymill.__version__


def test_unknown_verb_is_usage_error():
    done = run_skymill("fly")
    assert done.returncode == 2
    assert "No such command 'fly'" in done.stderr


def test_broken_verb_does_not_break_the_others(monkeypatch):
    monkeypatch.setitem(cli.VERBS, "broken", ("skymill.cli.no_such_module", "x"))
    assert CliRunner().invoke(cli.main, ["version"]).exit_code == 0
    done = CliRunner().invoke(cli.main, ["broken"])
    assert done.exit_code == 1
    assert "the verb 'broken' cannot be loaded" in done.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x must be > 0; got -1"), 2),
        (DataError("the file is cut"), 1),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "/a/b"), 1),
    ],
)
def test_errors_are_one_sentence(monkeypatch, error, code):
    @click.command("bad")
    def bad():
        raise error

    monkeypatch.setitem(cli.main.commands, "bad", bad)
    done = CliRunner().invoke(cli.main, ["bad"])
    assert done.exit_code == code
    [line] = done.output.strip().splitlines()
    assert line.startswith("skymill: ")


def test_debug_shows_the_traceback(monkeypatch):
    @click.command("bad")
    def bad():
        raise DataError("the file is cut")

    monkeypatch.setitem(cli.main.commands, "bad", bad)
    done = CliRunner().invoke(cli.main, ["--debug", "bad"])
    assert isinstance(done.exception, DataError)


def test_missing_cluster_file():
    done = run_skymill("run", "/nowhere/cluster.yaml")
    assert done.returncode == 1
    assert done.stderr.strip() == "skymill: cluster file /nowhere/cluster.yaml does not exist"

"""``skymill queue`` as a user types it, with the words of the published procedure."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from skymill.cli.queue import queue
from skymill.engine.task_queue import TaskQueue


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv("SKYMILL_QUEUE_DB", str(tmp_path / "queues.sqlite3"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call():
    def run(*words, text=None, code=0):
        result = CliRunner().invoke(queue, list(words), input=text, standalone_mode=False)
        value = result.return_value if isinstance(result.return_value, int) else 0
        if result.exception is not None:
            value = 1
        assert value == code, (result.output, result.exception)
        return result.output + (f"\n{result.exception}" if result.exception else "")

    return run


def test_load_and_list(call, tmp_path):
    (tmp_path / "bricks.txt").write_text("1801p320\n# text\n\n1804p320\n")
    assert "2 tasks added to dr6" in call("load", "dr6", "bricks.txt")
    assert "0 tasks added to dr6; 2 were there already" in call("load", "dr6", "bricks.txt")
    assert "1 task added" in call("load", "dr6", "-", text="1807p320\n1801p320\n")
    lines = call("list").splitlines()
    assert lines[0].split() == ["queue", "Waiting", "Pending", "Running", "Succeeded", "Failed"]
    assert lines[1].split() == ["dr6", "0", "3", "0", "0", "0"]
    assert json.loads(call("list", "--json"))["dr6"]["Pending"] == 3
    assert call("tasks", "dr6", "--plain").split() == ["1801p320", "1804p320", "1807p320"]


def test_after_another_queue(call):
    call("load", "fit", "-", text="a\nb\n")
    call("load", "marks", "-", "--after", "fit", text="a\nb\n")
    assert json.loads(call("list", "--json"))["marks"]["Waiting"] == 2
    assert "no task 'c'" in call("load", "marks", "-", "--after", "fit", text="c\n", code=1)


def test_do_retry_delete(call, tmp_path):
    (tmp_path / "script.sh").write_text('echo "brick $1"; [ "$1" != b ] || exit 4\n')
    call("load", "q", "-", text="a\nb\n")
    assert "Failed    b" in call("do", "q", "--script", "script.sh", code=1)
    text = call("tasks", "q", "--state", "failed")
    assert "exit 4" in text
    assert "brick b" in text
    assert f"log: {tmp_path}/queue-logs/q/b-2.log" in text
    rows = json.loads(call("tasks", "q", "--json"))
    assert [r["exit_code"] for r in rows] == [0, 4]
    assert "token" not in rows[0]
    assert "0 tasks of q pending" in call("retry", "q", "--exitcode", "5")
    assert "1 task of q pending" in call("retry", "q")
    assert "q deleted with 2 tasks" in call("delete", "q", "--force")
    assert "there are no queues" in call("list")


def test_delete_asks(call):
    call("load", "q", "-", text="a\n")
    call("delete", "q", text="n\n", code=1)
    call("delete", "q", text="y\n")


def test_recover_leaves_living_workers_alone(call):
    call("load", "q", "-", text="a\n")
    TaskQueue("q").take()
    text = call("recover", "q")
    assert "0 tasks of q pending again" in text
    assert (
        f"left alone: a: its worker lives (host {os.uname().nodename}, process {os.getpid()}"
        in text
    )


def test_bad_input(call):
    assert "list of tasks is empty" in call("load", "q", "-", text="# x\n", code=1)
    assert "there is no queue 'none'" in call("launch", "none", "2", code=1)
    call("load", "q", "-", text="a\n")
    assert "no script or program 'x.sh'" in call("launch", "q", "2", "--script", "x.sh", code=1)
    assert "HH:MM:SS" in call("launch", "q", "2", "--walltime", "36h", code=1)
    text = call("launch", "q", "2", "--batchqueue", "none", "--cores-per-node", "4",
                "--cores-per-worker", "8", code=1)  # fmt: skip
    assert "does not fit" in text
    assert "may not stand in an argument" in call("--db", "postgresql://u:pw@h/d", "list", code=1)


def test_clean_removes_checkpoints_of_finished_bricks(call, tmp_path):
    for brick in ("1801p320", "1804p320"):
        path = tmp_path / "out" / "checkpoints" / "180" / f"checkpoint-{brick}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 1000)
    call("load", "q", "-", text="1801p320\n1804p320\n")
    call("do", "q", "--script", "sh -c 'test $0 = 1801p320'", code=1)
    text = call("clean", "q", "--outdir", "out", "--dry-run")
    assert "1 checkpoint file of 1 finished brick would be removed" in text
    assert len(list((tmp_path / "out").rglob("checkpoint-*"))) == 2
    call("clean", "q", "--outdir", "out")
    assert [p.name for p in (tmp_path / "out").rglob("checkpoint-*")] == ["checkpoint-1804p320"]


@pytest.mark.xdist_group("engine")
def test_launch_with_the_words_of_the_procedure(call, tmp_path):
    (tmp_path / "pb.sh").write_text(
        'echo "$1 $SKYMILL_CORES_PER_WORKER $OWN"; [ "$1" != bad ] || exit 1\n'
    )
    os.environ["OWN"] = "kept"
    try:
        call("load", "dr6", "-", text="1801p320\nbad\n")
        text = call("launch", "dr6", "2", "--cores_per_worker", "1", "--walltime=36:00:00",
                    "--script", "pb.sh", "--keep_env", "--site", "local",
                    "--batchopts", "-C haswell", code=1)  # fmt: skip
    finally:
        del os.environ["OWN"]
    assert "1 succeeded, 1 failed" in text
    assert "skymill queue tasks dr6 --state failed" in text
    assert "mean nothing on this machine" in text
    assert "1801p320 1 kept" in Path("queue-logs/dr6/180/1801p320.log").read_text()


@pytest.mark.xdist_group("engine")
@pytest.mark.parametrize("kind", ["INT", "TERM"])
def test_ctrl_c_of_a_launch(call, tmp_path, kind):
    call("load", "q", "-", text="sleep 60\nsleep 61\nsleep 62\n")
    words = [sys.executable, "-c", "from skymill.cli import main; main()"]
    words += ["queue", "launch", "q", "2"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        found = TaskQueue("q")
        limit = time.monotonic() + 60
        while not any(t.log for t in found.tasks()) and time.monotonic() < limit:
            time.sleep(0.2)
        if kind == "INT":
            os.killpg(process.pid, signal.SIGINT)  # As a terminal does: to all of them.
        else:
            process.terminate()
        text = process.communicate(timeout=60)[0].decode()
        assert process.returncode == 130, text
        assert "Traceback" not in text
    assert {t.state for t in found.tasks()} == {"Pending"}
    assert not list((tmp_path / "queue-logs" / "q" / ".engine").iterdir())

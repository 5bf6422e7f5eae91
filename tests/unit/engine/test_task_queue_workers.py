"""Workers of a queue: scripts, logs, ends of every kind; the launch on a pool."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from skymill.data.errors import ConfigError, MissingInputError
from skymill.engine import queue_launch, queue_workers
from skymill.engine.queue_launch import LaunchReport, launch, make_site
from skymill.engine.queue_workers import (
    WorkOrder,
    clean_environment,
    find_script,
    log_path,
    run_function,
    run_worker,
)
from skymill.engine.sites import LocalSite
from skymill.engine.task_queue import TaskQueue, TaskState


@pytest.fixture
def queue(tmp_path):
    return TaskQueue("bricks", tmp_path / "queues.sqlite3", create=True)


@pytest.fixture
def order(queue, tmp_path):
    return WorkOrder(queue="bricks", location=queue.location, folder=str(tmp_path), log_dir="logs")


def script(tmp_path, text):
    path = tmp_path / "script.sh"
    path.write_text(text)
    return find_script(str(path))


def wait_for(condition, seconds=30):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.05)
    return False


class TestScripts:
    def test_every_end_of_a_script(self, queue, order, tmp_path):
        words = script(
            tmp_path,
            'echo "got [$1] of $#"\n'
            'case "$1" in bad) echo "no such brick" >&2; exit 3;; mem) kill -9 $$;; esac\n',
        )
        queue.add(["1801p320", "two words", "bad", "mem"])
        assert run_worker(queue, dataclasses.replace(order, script=words)) == ""
        rows = [(t.task, t.state, t.exit_code, t.message) for t in queue.tasks()]
        assert rows == [
            ("1801p320", "Succeeded", 0, "got [1801p320] of 1"),
            ("two words", "Succeeded", 0, "got [two words] of 1"),
            ("bad", "Failed", 3, "no such brick"),
            ("mem", "Failed", -9, "killed by SIGKILL; was the memory exhausted?"),
        ]
        assert queue.tasks()[0].log == str(tmp_path / "logs" / "180" / "1801p320.log")
        text = Path(queue.tasks()[2].log).read_text()
        assert "no such brick" in text
        assert "Failed with exit code 3" in text

    def test_a_task_is_a_command(self, queue, order):
        queue.add(["echo $((40 + 2)); exit 0"])
        run_worker(queue, order)
        assert queue.tasks()[0].message == "42"

    def test_a_second_attempt_appends_to_the_log(self, queue, order):
        queue.add(["echo once; exit 1"])
        run_worker(queue, order)
        queue.retry()
        run_worker(queue, order)
        task = queue.tasks()[0]
        assert task.attempts == 2
        assert Path(task.log).read_text().splitlines().count("once") == 2

    def test_what_the_script_knows(self, queue, order, monkeypatch):
        monkeypatch.setenv("SECRET_OF_THE_WORKER", "x")
        queue.add(["env | sort; echo end"])
        own = dataclasses.replace(
            order, environment={"MINE": "1", "OMP_NUM_THREADS": "3", "PATH": os.environ["PATH"]},
            clean=True, cores=4,
        )  # fmt: skip
        run_worker(queue, own)
        lines = Path(queue.tasks()[0].log).read_text().splitlines()
        assert {"MINE=1", "OMP_NUM_THREADS=3", "MKL_NUM_THREADS=1", "SKYMILL_QUEUE=bricks",
                "SKYMILL_CORES_PER_WORKER=4"} <= set(lines)  # fmt: skip
        assert not any("SECRET" in line for line in lines)

    def test_clean_environment(self, monkeypatch):
        monkeypatch.setenv("PGPASSWORD", "secret")
        monkeypatch.setenv("OWN", "x")
        assert "OWN" in clean_environment(keep=True)
        assert "OWN" not in clean_environment(keep=False)
        assert "PATH" in clean_environment(keep=False)
        assert "secret" not in clean_environment(keep=True).values()

    def test_scripts_are_found_before_anything_runs(self, tmp_path):
        assert find_script(None) == ()
        assert find_script("env -i")[1:] == ("-i",)
        plain = tmp_path / "my script.sh"
        plain.write_text("true")
        assert find_script(str(plain)) == ("bash", str(plain))
        plain.chmod(0o755)
        assert find_script(str(plain)) == (str(plain),)
        with pytest.raises(MissingInputError, match="no script or program 'nothing'"):
            find_script("nothing at all")

    def test_logs_have_names_of_their_own(self, queue):
        queue.add(["a/b", "a b", "..", "1801p320"])
        paths = {log_path("logs", t) for t in queue.tasks()}
        assert len(paths) == 4
        assert all(p.parent in (Path("logs"), Path("logs/180")) for p in paths)

    def test_a_folder_of_logs_that_cannot_be_made(self, queue, order, tmp_path):
        (tmp_path / "logs").write_text("a file")
        queue.add(["true"])
        run_worker(queue, order)
        assert "cannot be started" in queue.tasks()[0].message


class TestEnds:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch):
        monkeypatch.setattr(queue_workers, "_BEAT_S", 0.3)
        monkeypatch.setattr(queue_workers, "GRACE_S", 5.0)

    def test_walltime_gives_the_task_back(self, queue, order):
        queue.add(["sleep 60", "true"])
        age = time.time() - psutil.Process().create_time()
        reason = run_worker(queue, dataclasses.replace(order, walltime_s=age + 1.0))
        assert reason == "the walltime ended"
        assert [t.state for t in queue.tasks()] == ["Pending", "Pending"]

    def test_children_of_the_script_end_with_it(self, queue, order, tmp_path):
        text = f"bash -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; sleep 60 & wait; sleep 60'"
        queue.add([f"{text} & wait"])
        thread = threading.Timer(0, run_worker, (queue, order))
        thread.start()
        assert wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
        queue.delete(force=True)
        thread.join(30)
        assert not thread.is_alive()
        assert wait_for(lambda: not psutil.pid_exists(int((tmp_path / "child").read_text())))

    def test_sigterm_of_a_worker(self, queue, order):
        queue.add(["sleep 60"])
        code = (
            "from skymill.engine.task_queue import TaskQueue\n"
            "from skymill.engine.queue_workers import WorkOrder, run_worker\n"
            f"order = WorkOrder(queue='bricks', location={queue.location!r}, "
            f"folder={order.folder!r}, log_dir='logs')\n"
            "print(run_worker(TaskQueue('bricks', order.location), order))"
        )
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert wait_for(lambda: queue.counts()[TaskState.RUNNING] and queue.tasks()[0].log)
            process.send_signal(signal.SIGTERM)
            assert b"ended by SIGTERM" in process.communicate(timeout=30)[0]
        assert queue.tasks()[0].state == "Pending"

    def test_kill_of_a_worker(self, queue, order, tmp_path):
        queue.add([f"echo $$ > {tmp_path}/pid; exec sleep 60"])
        code = (
            "from skymill.engine.task_queue import TaskQueue\n"
            "from skymill.engine.queue_workers import WorkOrder, run_worker\n"
            f"run_worker(TaskQueue('bricks', {queue.location!r}), WorkOrder(queue='bricks', "
            f"location={queue.location!r}, folder={order.folder!r}, log_dir='logs'))"
        )
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            pid = tmp_path / "pid"
            assert wait_for(lambda: pid.exists() and pid.read_text())
            assert [t.task for t in queue.recover().alive] == [queue.tasks()[0].task]
            process.kill()
        assert len(queue.recover().recovered) == 1
        assert wait_for(lambda: not psutil.pid_exists(int(pid.read_text())))
        assert queue.tasks()[0].state == "Pending"


def test_a_function_instead_of_a_script(queue, monkeypatch):
    monkeypatch.setattr(queue_workers, "_BEAT_S", 0.05)
    queue.add(["a", "bad", "b", "stop"])
    done = []

    def function(task):
        before = queue.tasks(state="Running")[0].worker.heartbeat
        if task == "a":
            assert wait_for(lambda: queue.tasks(state="Running")[0].worker.heartbeat > before)
        if task == "bad":
            raise ValueError("no such brick\nat all")
        if task == "stop":
            raise KeyboardInterrupt
        done.append(task)

    with pytest.raises(KeyboardInterrupt):
        run_function(queue, function)
    assert done == ["a", "b"]
    rows = [(t.state, t.message) for t in queue.tasks()]
    assert rows[1] == ("Failed", "ValueError: no such brick")
    assert rows[3] == ("Pending", "interrupted by KeyboardInterrupt")
    queue.retry()
    assert run_function(queue, done.append) == 0
    assert done == ["a", "b", "bad", "stop"]


class TestSites:
    def test_nodes(self):
        def site(n, cores, node):
            return make_site(
                "slurm", n, cores_per_worker=cores, cores_per_node=node, walltime="36:00:00",
                batch_queue="regular", batch_options=("-C haswell", "-L project"),
            )  # fmt: skip

        assert site(48, 8, 32).nodes == 12
        assert (site(2, 16, 32).nodes, site(5, 1, 4).nodes, site(3, 3, 8).nodes) == (1, 2, 2)
        one = site(48, 8, 32)
        assert (one.workers_per_node, one.partition) == (4, "regular")
        assert one.scheduler_options == "#SBATCH -C haswell\n#SBATCH -L project"
        with pytest.raises(ConfigError, match="16 cores does not fit on a node of 8"):
            site(1, 16, 8)
        with pytest.raises(ConfigError, match=">= 1"):
            site(0, 1, 8)

    def test_cores_of_nodes(self, monkeypatch, tmp_path):
        fake = tmp_path / "sinfo"
        fake.write_text("#!/bin/sh\necho '64 big'; echo '32 regular*'; echo '48+ regular*'\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert queue_launch.cores_of_nodes(None) == 32
        fake.write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(ConfigError, match="--cores-per-node"):
            queue_launch.cores_of_nodes("big")


@pytest.mark.xdist_group("engine")
class TestLaunch:
    def test_nothing_to_do_starts_nothing(self, queue, order, tmp_path):
        report = launch(queue, 2, order)
        assert isinstance(report, LaunchReport)
        assert report.counts.total == 0
        assert not (tmp_path / "logs").exists()

    def test_a_killed_worker_is_replaced(self, queue, order, tmp_path):
        # The first attempt of one task kills the process of the pool that runs it.
        words = script(
            tmp_path,
            f'if [ "$1" = b ] && mkdir {tmp_path}/killed 2>/dev/null\n'
            "then kill -9 $PPID; sleep 5; fi\n"
            'echo "did $1"\n',
        )
        queue.add(["a", "b", "c"])
        seen = []
        report = launch(
            queue, 2, dataclasses.replace(order, script=words), site=LocalSite(workers=2),
            on_progress=seen.append,
        )  # fmt: skip
        assert report.counts[TaskState.SUCCEEDED] == 3
        assert (report.lost, report.failed, report.interrupted) == (1, 0, False)
        assert {t.task: t.attempts for t in queue.tasks()} == {"a": 1, "b": 2, "c": 1}
        assert seen[-1].counts == report.counts.counts
        assert list((tmp_path / "logs" / ".engine").iterdir()) == []

"""Task queues with services of the system: PostgreSQL, and a one-node SLURM."""

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_engine_services import postgres, slurm  # noqa: F401

from skymill.engine import queue_launch
from skymill.engine.queue_database import open_database
from skymill.engine.queue_launch import launch, make_site
from skymill.engine.queue_workers import WorkOrder, find_script
from skymill.engine.task_queue import QueueError, TaskQueue, TaskState

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.xdist_group("engine")]

SPAWN = multiprocessing.get_context("spawn")


def work(location, seed, folder):
    """Take and end tasks; every third worker gets killed while it has one."""
    queue = TaskQueue("bricks", location)
    done = 0
    while (task := queue.take()) is not None:
        if seed % 3 == 0 and done == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / f"{seed}.txt").open("a") as stream:
            stream.write(f"{task.task}\n")
        assert queue.finish(task, TaskState.SUCCEEDED, exit_code=0)
        done += 1


def test_postgresql_gives_each_task_once(tmp_path, postgres):  # noqa: F811
    queue = TaskQueue("bricks", postgres, create=True)
    names = [f"{i:04d}p000" for i in range(300)]
    queue.add(names)
    later = TaskQueue("later", postgres, create=True)
    later.add(names[:1], after=queue)
    number = killed = 0
    while queue.counts()[TaskState.PENDING]:
        seeds = range(number, number + 6)
        number += 6
        processes = [SPAWN.Process(target=work, args=(postgres, s, tmp_path)) for s in seeds]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        killed += sum(p.exitcode == -signal.SIGKILL for p in processes)
        queue.recover()
    performed = [n for f in tmp_path.glob("*.txt") for n in f.read_text().split()]
    assert killed >= 1
    assert sorted(performed) == names
    assert later.take().task == names[0]
    assert queue.delete() == 300


def test_the_password_comes_from_the_environment(tmp_path, postgres, monkeypatch):  # noqa: F811
    parts = urlsplit(postgres)
    with_password = f"postgresql://postgres:hush@{parts.hostname}:{parts.port}{parts.path}"
    monkeypatch.setenv("SKYMILL_QUEUE_DB", with_password)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    database = open_database()
    assert "hush" not in database.location
    assert os.environ["PGPASSWORD"] == "hush"
    monkeypatch.setenv("PGPASSWORD", "")
    with pytest.raises(QueueError) as caught:
        open_database(f"postgresql://nobody@{parts.hostname}:{parts.port}/absent")
    assert "hush" not in str(caught.value)


def test_launch_on_postgresql(tmp_path, postgres):  # noqa: F811
    queue = TaskQueue("bricks", postgres, create=True)
    queue.add(["a", "b", "c"])
    order = WorkOrder(queue="bricks", location=queue.location, script=find_script("echo"),
                      folder=str(tmp_path), log_dir="logs")  # fmt: skip
    report = launch(queue, 2, order)
    assert report.counts[TaskState.SUCCEEDED] == 3


# The daemons of the fixture are killed if they do not end in time; nobody waits for them then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_slurm_job_works_on_the_queue(tmp_path, slurm, monkeypatch):  # noqa: F811
    assert queue_launch.cores_of_nodes("debug") == os.cpu_count()
    queue = TaskQueue("bricks", tmp_path / "queues.sqlite3", create=True)
    queue.add(["a", "b", "c", "bad"])
    script = tmp_path / "script.sh"
    script.write_text('echo "$1 in job $SLURM_JOB_ID"; [ "$1" != bad ] || exit 2\n')
    order = WorkOrder(queue="bricks", location=queue.location, script=find_script(str(script)),
                      folder=str(tmp_path), log_dir="logs")  # fmt: skip
    site = make_site("slurm", 2, cores_per_worker=1, cores_per_node=None, walltime="00:05:00",
                     batch_queue="debug", batch_options=("--comment=bricks",),
                     address="127.0.0.1")  # fmt: skip
    report = launch(queue, 2, order, site=site)
    assert (report.counts[TaskState.SUCCEEDED], report.failed) == (3, 1)
    text = Path(queue.tasks()[0].log).read_text()
    assert "a in job " in text
    assert not text.split("a in job ")[1].startswith("\n")
    jobs = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True)
    assert jobs.stdout.count(" R ") <= 1

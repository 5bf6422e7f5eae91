"""Task queues: states, tokens, recovery, and many processes on one database."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from skymill.data.errors import ConfigError, MissingInputError
from skymill.engine import queue_process
from skymill.engine.queue_database import _split_password, default_location, open_database
from skymill.engine.queue_process import Worker, end_processes, find_processes
from skymill.engine.task_queue import QueueError, TaskQueue, TaskState, list_queues

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def place(tmp_path):
    return tmp_path / "queues.sqlite3"


@pytest.fixture
def queue(place):
    return TaskQueue("bricks", place, create=True)


def dead_worker():
    """A worker of this machine whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    here = Worker.this()
    return Worker(here.host, here.machine, process.pid, here.started - 1000, time.time())


def far_worker():
    return Worker("elsewhere", "elsewhere boot 1", 1, 0.0, time.time())


class TestLife:
    def test_tasks_are_taken_in_order_and_end(self, queue):
        assert queue.add(["a", "b", "c"]) == [1, 2, 3]
        first, second = queue.take(), queue.take()
        assert (first.task, second.task) == ("a", "b")
        assert first.token != second.token
        assert queue.finish(first, TaskState.SUCCEEDED, exit_code=0, message="fine")
        assert queue.finish(second, TaskState.FAILED, exit_code=3)
        counts = queue.counts()
        assert [counts[s] for s in TaskState] == [0, 1, 0, 1, 1]
        assert counts.total == 3
        done = queue.tasks(state="Succeeded")[0]
        assert (done.message, done.exit_code, done.worker.pid) == ("fine", 0, os.getpid())
        assert [t.task for t in queue.tasks(exit_code=3)] == ["b"]

    def test_nothing_to_take(self, queue):
        assert queue.take() is None

    def test_a_result_is_taken_once(self, queue):
        queue.add(["a"])
        task = queue.take()
        assert queue.finish(task, TaskState.PENDING)
        assert not queue.finish(task, TaskState.SUCCEEDED)
        again = queue.take()
        assert again.attempts == 2
        assert not queue.beat(task)
        assert queue.beat(again, log="here.log")
        assert queue.tasks()[0].log == "here.log"

    def test_a_task_that_is_there_is_not_added_again(self, queue):
        queue.add(["a", "b"])
        assert queue.add(["b", "c", "c"]) == [3]
        assert len(queue.add(["a", "a"], duplicates=True)) == 2

    @pytest.mark.parametrize("bad", ["", "  ", "a\nb"])
    def test_a_task_is_one_line(self, queue, bad):
        with pytest.raises(QueueError, match="one line"):
            queue.add(["good", bad])
        assert queue.counts().total == 0

    def test_retry(self, queue):
        queue.add(["a", "b"])
        for code in (1, 2):
            queue.finish(queue.take(), TaskState.FAILED, exit_code=code)
        assert queue.retry(exit_code=2) == 1
        assert [t.task for t in queue.tasks(state="Pending")] == ["b"]
        assert queue.retry() == 1


class TestRequirements:
    def test_a_task_waits_for_all_it_requires(self, queue):
        a, b = queue.add(["a", "b"])
        queue.add(["c"], requires=[a, b])
        queue.finish(queue.take(), TaskState.SUCCEEDED)
        assert [t.task for t in queue.tasks(state="Waiting")] == ["c"]
        task = queue.take()
        assert queue.may_get_work()
        assert queue.take() is None
        queue.finish(task, TaskState.FAILED)
        assert not queue.may_get_work()
        queue.retry()
        queue.finish(queue.take(), TaskState.SUCCEEDED)
        assert queue.take().task == "c"

    def test_same_brick_of_another_queue(self, queue, place):
        queue.add(["a", "b"])
        later = TaskQueue("later", place, create=True)
        later.add(["a", "b"], after=queue)
        assert later.take() is None
        queue.finish(queue.take(), TaskState.SUCCEEDED)
        assert later.take().task == "a"
        with pytest.raises(MissingInputError, match="no task 'x'"):
            later.add(["x"], after=queue)
        queue.delete()
        assert "deleted" in later.tasks(state="Failed")[0].message

    def test_done_requirements_do_not_wait(self, queue):
        (a,) = queue.add(["a"])
        queue.finish(queue.take(), TaskState.SUCCEEDED)
        queue.add(["b"], requires=[a])
        assert queue.take().task == "b"
        with pytest.raises(MissingInputError, match="identifier 99"):
            queue.add(["c"], requires=[99])


class TestRecovery:
    def test_living_workers_are_left_alone(self, queue):
        queue.add(["a", "b", "c"])
        mine = queue.take()
        queue.take(dead_worker())
        queue.take(far_worker())
        found = queue.recover()
        assert [t.task for t in found.recovered] == ["b"]
        assert [t.task for t in found.alive] == ["a", "c"]
        assert str(os.getpid()) in found.alive[0].worker.text()
        assert queue.finish(mine, TaskState.SUCCEEDED)

    def test_silence_of_another_machine(self, queue, monkeypatch):
        queue.add(["a"])
        task = queue.take(far_worker())
        later = time.time() + queue_process.LIFETIME_S + 1
        assert not task.worker.is_alive(now=later)
        monkeypatch.setattr(queue_process.time, "time", lambda: later)
        assert [t.task for t in queue.recover().recovered] == ["a"]
        assert not queue.finish(task, TaskState.SUCCEEDED)

    def test_a_number_of_a_process_that_is_used_again(self):
        here = Worker.this()
        assert here.is_alive()
        assert not Worker(here.host, here.machine, here.pid, here.started - 60, 0.0).is_alive()

    def test_a_task_that_kills_its_workers_fails(self, queue):
        queue.add(["a"])
        for _ in range(2):
            queue.take(dead_worker())
            assert queue.recover(max_lost=3).recovered
        queue.take(dead_worker())
        assert queue.recover(max_lost=3).given_up
        assert queue.tasks()[0].state == TaskState.FAILED

    def test_what_a_dead_worker_left_is_ended(self, queue):
        queue.add(["a"])
        task = queue.take(dead_worker())
        mark = {**os.environ, queue_process.TOKEN_VARIABLE: task.token}
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=mark)
        try:
            limit = time.monotonic() + 20
            while not find_processes(task.token) and time.monotonic() < limit:
                time.sleep(0.05)
            assert queue.recover().recovered
            child.wait(10)  # Else it would sleep for a minute.
        finally:
            child.kill()
        assert end_processes(task.token, grace_s=0.1) == 0


class TestQueues:
    def test_list(self, queue, place):
        TaskQueue("another", place, create=True).add(["x"])
        found = list_queues(place)
        assert [(c.name, c.total) for c in found] == [("another", 1), ("bricks", 0)]

    def test_a_queue_that_is_not_there(self, queue, place):
        with pytest.raises(MissingInputError, match="it has bricks"):
            TaskQueue("brick", place)
        with pytest.raises(QueueError, match="name"):
            TaskQueue(" ", place, create=True)

    def test_delete(self, queue, place):
        queue.add(["a"])
        task = queue.take()
        with pytest.raises(QueueError, match=r"1 tasks of 'bricks' run .*--force"):
            queue.delete()
        assert queue.delete(force=True) == 1
        assert not queue.beat(task)
        assert list_queues(place) == []

    def test_no_database(self, tmp_path):
        (tmp_path / "text").write_text("this is no database, and it is longer than a header")
        with pytest.raises(QueueError, match="cannot be used"):
            open_database(tmp_path / "text")
        with pytest.raises(QueueError, match="folder of the queues"):
            open_database(tmp_path / "text" / "queues.sqlite3")


class TestPlace:
    def test_default(self, monkeypatch, tmp_path):
        monkeypatch.delenv("SKYMILL_QUEUE_DB", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert default_location() == str(tmp_path / "skymill" / "queues.sqlite3")
        TaskQueue("a", create=True)
        assert (tmp_path / "skymill" / "queues.sqlite3").exists()
        monkeypatch.setenv("SKYMILL_QUEUE_DB", str(tmp_path / "own"))
        assert open_database().location == str(tmp_path / "own")

    @pytest.mark.parametrize(
        ("url", "clean"),
        [
            ("postgresql://me:secret@db:5432/q", "postgresql://me@db:5432/q"),
            ("postgresql://me@db/q?password=secret&a=1", "postgresql://me@db/q?a=1"),
            ("postgresql://me:s%40cret@db/q", "postgresql://me@db/q"),
        ],
    )
    def test_a_password_in_an_argument_is_refused(self, monkeypatch, url, clean):
        monkeypatch.delenv("SKYMILL_QUEUE_DB", raising=False)
        assert _split_password(url)[0] == clean
        with pytest.raises(ConfigError) as caught:
            open_database(url)
        assert "cret" not in str(caught.value)
        assert clean in str(caught.value)

    def test_another_database(self):
        with pytest.raises(ConfigError, match="mysql"):
            open_database("mysql://me:secret@db/q")


def work(location, seed, results):
    """Take and end tasks; one worker in five gets killed while it has one."""
    queue = TaskQueue("bricks", location)
    mine = []
    while (task := queue.take()) is not None:
        if seed % 5 == 0 and len(mine) == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        with results.open("a") as stream:
            stream.write(f"{task.task}\n")
        mine.append(task.task)
        assert queue.finish(task, TaskState.SUCCEEDED, exit_code=0)


def run_many(location, folder, n_processes=6):
    """Workers with kills until all is done; the tasks that were performed."""
    killed, number = 0, 0
    while TaskQueue("bricks", location).counts()[TaskState.PENDING]:
        files = [folder / f"{number + i}.txt" for i in range(n_processes)]
        processes = [
            SPAWN.Process(target=work, args=(location, number + i, f)) for i, f in enumerate(files)
        ]
        number += n_processes
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        killed += sum(p.exitcode == -signal.SIGKILL for p in processes)
        TaskQueue("bricks", location).recover()
    return [line for f in folder.glob("*.txt") for line in f.read_text().split()], killed


def test_many_processes_take_each_task_once(place, tmp_path):
    queue = TaskQueue("bricks", place, create=True)
    names = [f"{i:04d}p000" for i in range(1000)]
    queue.add(names)
    performed, killed = run_many(place, tmp_path)
    assert killed >= 1
    assert sorted(performed) == names
    assert queue.counts()[TaskState.SUCCEEDED] == 1000

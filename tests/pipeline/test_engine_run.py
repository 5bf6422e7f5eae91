"""The engine on a toy pipeline: success, failure, limits, death of workers and of the driver."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import engine_toy  # noqa: E402

from skymill.data.errors import ConfigError, MissingInputError  # noqa: E402
from skymill.engine import (  # noqa: E402
    BusyError,
    Engine,
    GraphRequest,
    Limits,
    LocalSite,
    NothingToRunError,
    run,
    run_many,
)

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(autouse=True)
def toy_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    os.environ["PYTHONPATH"] = str(HERE)
    with Engine(LocalSite(workers=2), folder=tmp_path_factory.mktemp("engine")) as pool:
        yield pool


def run_toy(root, engine, config=(), *, output="toy/out", subset="", **kwargs):
    pipeline = f"{root / 'toy.yaml'}{subset}"
    return run(
        root / "repo",
        pipeline,
        ["toy/raw"],
        output,
        config=config,
        engine=engine,
        show_progress=False,
        **kwargs,
    )


def start_driver(root, *config, output="toy/out"):
    words = [sys.executable, str(HERE / "run_toy.py"), str(root), output, *config]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def count_done(root, label="toyFirst"):
    return len(list((root / "repo").rglob(f"{label}_metadata/**/*.*")))


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pool_processes(root):
    """Ids of the workers and the interchange of the runs below a folder."""
    pids = []
    for path in (root / "submit" / "engine").rglob("workers/*.json"):
        pids.append(json.loads(path.read_text())["pid"])
    for path in (root / "submit" / "engine").glob("*/lease.json"):
        pids.append(json.loads(path.read_text())["interchange"])
    return pids


def test_whole_pipeline_then_nothing_left(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 6)
    report = run_toy(tmp_path, engine)
    assert report.ok
    assert [(t.label, t.done) for t in report.tasks] == [
        ("toyFirst", 6),
        ("toySecond", 6),
        ("toySum", 1),
    ]
    assert engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out") == {
        i: 2 * (i + 1) for i in range(6)
    }
    assert engine_toy.read_all(tmp_path / "repo", "toySum", "toy/out") == {-1: 42}
    log = Path(report.graph).parent / "logs" / "toyFirst" / "Toy-3.log"
    assert "toy work on detector 3" in log.read_text()
    again = run_toy(tmp_path, engine)
    assert again.ok
    assert again.n_quanta == 0
    assert again.output_run == report.output_run


def test_changed_configuration_makes_a_new_run(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 2)
    first = run_toy(tmp_path, engine)
    second = run_toy(tmp_path, engine, ["toyFirst:seconds=0.01"])
    assert second.count("done") == 5
    assert second.output_run != first.output_run


def test_one_failure_stops_only_what_depends_on_it(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 5)
    config = ["toyFirst:fail_on=[3]", "toyFirst:nothing_on=[1]"]
    report = run_toy(tmp_path, engine, config)
    assert not report.ok
    by_label = {t.label: t for t in report.tasks}
    assert (by_label["toyFirst"].done, by_label["toyFirst"].no_work) == (3, 1)
    assert (by_label["toyFirst"].failed, by_label["toySecond"].blocked) == (1, 1)
    assert by_label["toySum"].blocked == 1
    [failure] = report.failures
    assert failure.data_id == "instrument Toy, detector 3"
    assert (failure.exception, failure.message) == ("ValueError", "detector 3 has no stars")
    assert "Traceback" in Path(failure.log).read_text()
    # The registry has the rest.
    assert sorted(engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")) == [0, 2, 4]
    # The same command tries only the failed one again.
    again = run_toy(tmp_path, engine, config)
    assert again.output_run == report.output_run
    assert again.count("skipped") == 4 + 4  # toySecond of detector 1 has no work either
    assert again.count("failed") == 1
    saved = json.loads((Path(report.graph).parent / "report.json").read_text())
    assert saved["failures"][0]["message"] == "detector 3 has no stars"


def test_limits_of_time_and_memory(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 4)
    report = run_toy(
        tmp_path,
        engine,
        ["toyFirst:hang_on=[1]", "toyFirst:memory_on=[2]"],
        subset="#one",
        limits={"toyFirst": Limits(time_s=1.0, memory_gb=2.0)},
    )
    errors = {f.data_id[-1]: (f.exception, f.message) for f in report.failures}
    assert errors["1"][0] == "TimeLimitError"
    assert "limit of 1 s" in errors["1"][1]
    assert errors["2"][0] == "MemoryError"
    assert "limit is 2 GB" in errors["2"][1]
    assert report.count("done") == 2


def test_lost_worker_is_retried_and_a_killer_is_not_forever(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 5)
    marker = tmp_path / "marker"
    config = ["toyFirst:die_on=[2]", f"toyFirst:die_marker={marker}"]
    report = run_toy(tmp_path, engine, config, subset="#one")
    assert report.ok
    assert report.count("done") == 5
    assert report.retries >= 1
    report = run_toy(tmp_path, engine, ["toyFirst:die_on=[2]"], output="toy/bad", subset="#one")
    [failure] = report.failures
    assert failure.exception == "WorkerLost"
    assert report.count("done") == 4


def test_two_graphs_share_the_workers(tmp_path, engine):
    repo, pipeline = engine_toy.make_repo(tmp_path, 4)
    requests = [
        GraphRequest(
            repo=str(repo),
            pipeline=str(pipeline),
            inputs=("toy/raw",),
            output=f"toy/{name}",
            where=f"instrument='Toy' AND detector IN ({name})",
        )
        for name in ("0", "1")
    ]
    reports = run_many(requests, engine=engine, show_progress=False)
    assert [r.count("done") for r in reports] == [3, 3]
    assert engine_toy.read_all(repo, "toySum", "toy/1") == {-1: 4}


def test_killed_driver_loses_nothing_and_its_workers_stop(tmp_path):
    engine_toy.make_repo(tmp_path, 12)
    driver = start_driver(tmp_path, "toyFirst:seconds=0.4")
    assert wait_for(lambda: count_done(tmp_path) >= 3)
    pids = pool_processes(tmp_path)
    assert len(pids) == 3
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=60)
    # Orphans end by themselves...
    assert wait_for(lambda: not any(is_alive(pid) for pid in pids))
    done = count_done(tmp_path)
    assert 3 <= done < 12
    time.sleep(1.0)
    assert count_done(tmp_path) == done
    # ... and the same command completes the same run, without doing anything twice.
    again = start_driver(tmp_path, "toyFirst:seconds=0.4")
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    first = next(line for line in text.splitlines() if line.startswith("toyFirst"))
    assert first == f"toyFirst: {12 - done} done, {done} skipped of 12"
    runs = {p.name for p in (tmp_path / "submit" / "toy" / "out").iterdir() if p.is_dir()}
    assert len(runs) == 1
    values = engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")
    assert values == {i: 2 * (i + 1) for i in range(12)}


def test_killed_driver_restarted_at_once(tmp_path):
    engine_toy.make_repo(tmp_path, 12)
    driver = start_driver(tmp_path, "toyFirst:seconds=0.4")
    assert wait_for(lambda: count_done(tmp_path) >= 2)
    pids = pool_processes(tmp_path)
    os.kill(driver.pid, signal.SIGKILL)
    again = start_driver(tmp_path, "toyFirst:seconds=0.4")
    text, _ = again.communicate(timeout=120)
    driver.communicate(timeout=60)
    assert again.returncode == 0, text
    assert not any(is_alive(pid) for pid in pids)
    values = engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")
    assert values == {i: 2 * (i + 1) for i in range(12)}


def test_interrupt_registers_what_is_finished(tmp_path):
    engine_toy.make_repo(tmp_path, 12)
    driver = start_driver(tmp_path, "toyFirst:seconds=0.4")
    assert wait_for(lambda: count_done(tmp_path, "toySecond") >= 2)
    pids = pool_processes(tmp_path)
    os.killpg(driver.pid, signal.SIGINT)  # As a terminal does: the whole process group.
    text, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, text
    assert "the same command resumes" in text
    assert len(engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")) >= 2
    assert wait_for(lambda: not any(is_alive(pid) for pid in pids))
    again = start_driver(tmp_path, "toyFirst:seconds=0.4")
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    assert len(engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")) == 12


def test_second_driver_on_the_same_output_is_refused(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 8)
    driver = start_driver(tmp_path, "toyFirst:seconds=0.5")
    assert wait_for(lambda: count_done(tmp_path) >= 1)
    with pytest.raises(BusyError, match=rf"process {driver.pid} .* works on"):
        run_toy(tmp_path, engine, ["toyFirst:seconds=0.5"])
    text, _ = driver.communicate(timeout=60)
    assert driver.returncode == 0, text


def test_damaged_graph_is_built_again(tmp_path, engine):
    engine_toy.make_repo(tmp_path, 4)
    config = ["toyFirst:fail_on=[3]"]
    first = run_toy(tmp_path, engine, config)
    graph = Path(first.graph)
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    second = run_toy(tmp_path, engine, config)
    assert second.output_run != first.output_run
    assert second.count("failed") == 1
    # What the registry has already is not made again.
    assert second.count("done") == 0
    assert sorted(engine_toy.read_all(tmp_path / "repo", "toyB", "toy/out")) == [0, 1, 2]


def test_new_input_only_adds_quanta(tmp_path, engine):
    from lsst.daf.butler import Butler

    repo, _ = engine_toy.make_repo(tmp_path, 3)
    first = run_toy(tmp_path, engine, subset="#two")
    assert first.count("done") == 6
    with Butler.from_config(str(repo), writeable=True) as butler:
        butler.registry.insertDimensionData(
            "detector", {"instrument": "Toy", "id": 3, "full_name": "d3"}
        )
        butler.put({"value": 3}, "toyRaw", run="toy/raw", instrument="Toy", detector=3)
    second = run_toy(tmp_path, engine, subset="#two")
    assert second.count("done") == 2
    assert second.n_quanta == 2
    assert len(engine_toy.read_all(repo, "toyB", "toy/out")) == 4


def test_clear_sentences(tmp_path, engine):
    repo, pipeline = engine_toy.make_repo(tmp_path, 2)
    with pytest.raises(NothingToRunError, match=r"task toySecond needs toyA: no such dataset in"):
        run(repo, f"{pipeline}#toySecond", ["toy/raw"], "toy/x", engine=engine)
    with pytest.raises(NothingToRunError, match=r"has some, but none where .*detector=77"):
        run(
            repo,
            str(pipeline),
            ["toy/raw"],
            "toy/x",
            "instrument='Toy' AND detector=77",
            engine=engine,
        )
    with pytest.raises(MissingInputError, match="input collection 'toy/nope' of toy/x does not"):
        run(repo, str(pipeline), ["toy/nope"], "toy/x", engine=engine)
    with pytest.raises(MissingInputError, match=r"no\.yaml does not exist"):
        run(repo, str(tmp_path / "no.yaml"), ["toy/raw"], "toy/x", engine=engine)
    with pytest.raises(ConfigError, match=r"no task or subset 'nine'.*one, two"):
        run(repo, f"{pipeline}#nine", ["toy/raw"], "toy/x", engine=engine)
    with pytest.raises(ConfigError, match="has no task 'foo'"):
        run(repo, str(pipeline), ["toy/raw"], "toy/x", config=["foo:a=1"], engine=engine)
    with pytest.raises(ConfigError, match="must be written label:field=value"):
        run(repo, str(pipeline), ["toy/raw"], "toy/x", config=["toyFirst"], engine=engine)
    with pytest.raises(MissingInputError, match="not a Butler repository"):
        run(tmp_path / "none", str(pipeline), ["toy/raw"], "toy/x", engine=engine)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk(tmp_path, engine):
    from skymill.engine import EngineError

    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False
    )
    if done.returncode:
        pytest.skip("no permission to mount a tmpfs here")
    try:
        engine_toy.make_repo(disk, 4)
        report = run_toy(disk, engine)
        ballast = disk / "ballast"
        free = shutil.disk_usage(disk).free
        ballast.write_bytes(bytes(free))
        free -= 90_000
        os.truncate(ballast, max(free, 0))
        with pytest.raises((EngineError, OSError), match=r"disk is full|No space left"):
            run_toy(disk, engine, ["toyFirst:seconds=0.01"])
        ballast.unlink()
        again = run_toy(disk, engine, ["toyFirst:seconds=0.01"])
        assert again.ok
        assert report.ok
        assert engine_toy.read_all(disk / "repo", "toySum", "toy/out") == {-1: 20}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)

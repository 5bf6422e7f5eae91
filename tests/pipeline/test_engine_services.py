"""The engine with services of the system: a one-node SLURM, a PostgreSQL registry."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import engine_toy  # noqa: E402

from skymill.engine import LocalSite, SlurmSite, run  # noqa: E402

pytestmark = [pytest.mark.service, pytest.mark.slow, pytest.mark.xdist_group("engine")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def public_folder(user):
    """A folder that another user of the system may use."""
    folder = Path(tempfile.mkdtemp(prefix="skymill-service-"))
    folder.chmod(0o755)
    inner = folder / user
    inner.mkdir(mode=0o700)
    try:
        shutil.chown(inner, user, user)
        yield folder, inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def need_root_and(*programs):
    if os.geteuid() != 0:
        pytest.skip("starting the service needs root")
    for program in programs:
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{program} is not installed")


def wait_for(condition, seconds=30):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.2)
    return False


# -- PostgreSQL ------------------------------------------------------------------------------


@pytest.fixture
def postgres():
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("PostgreSQL is not installed")
    need_root_and("runuser", "psql")
    pytest.importorskip("psycopg", minversion="3.0")
    port = free_port()
    with public_folder("postgres") as (_, inner):

        def call(*words):
            command = ["runuser", "-u", "postgres", "--", *map(str, words)]
            return subprocess.run(command, check=True, capture_output=True, cwd="/")

        call(binaries[-1] / "initdb", "-D", inner / "data", "-A", "trust")
        options = f"-p {port} -k {inner} -h 127.0.0.1"
        call(binaries[-1] / "pg_ctl", "-D", inner / "data", "-w", "-o", options,
             "-l", inner / "log", "start")  # fmt: skip
        try:
            server = ("-h", "127.0.0.1", "-p", port, "-U", "postgres")
            call("createdb", *server, "toy")
            call("psql", *server, "-d", "toy", "-c", "CREATE EXTENSION btree_gist")
            yield f"postgresql://postgres@127.0.0.1:{port}/toy"
        finally:
            call(binaries[-1] / "pg_ctl", "-D", inner / "data", "-m", "immediate", "stop")


def test_postgresql_registry(tmp_path, monkeypatch, postgres):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    repo, pipeline = engine_toy.make_repo(tmp_path, 5, registry=postgres)
    assert not (repo / "gen3.sqlite3").exists()
    report = run(
        repo, str(pipeline), ["toy/raw"], "toy/out", site=LocalSite(workers=2), show_progress=False
    )
    assert report.ok, report.text()
    assert engine_toy.read_all(repo, "toySum", "toy/out") == {-1: 30}


# -- SLURM -----------------------------------------------------------------------------------

SLURM_CONF = """
ClusterName=toy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port1}
SlurmdPort={port2}
AuthType=auth/munge
AuthInfo=socket={socket}
CryptoType=crypto/munge
SlurmUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(monkeypatch):
    need_root_and("munged", "slurmctld", "slurmd", "sbatch", "runuser")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    host = socket.gethostname()
    with public_folder("munge") as (folder, inner):
        (inner / "key").write_bytes(os.urandom(1024))
        (inner / "key").chmod(0o600)
        shutil.chown(inner / "key", "munge", "munge")
        inner.chmod(0o755)
        pipe = inner / "socket"
        processes = []

        def start(*words):
            processes.append(
                subprocess.Popen(
                    list(map(str, words)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )

        start("runuser", "-u", "munge", "--", "munged", "-F", f"--socket={pipe}",
              f"--key-file={inner}/key", f"--log-file={inner}/log", f"--pid-file={inner}/pid",
              f"--seed-file={inner}/seed")  # fmt: skip
        for name in ("state", "spool"):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(
            SLURM_CONF.format(
                host=host,
                port1=free_port(),
                port2=free_port(),
                socket=pipe,
                folder=folder,
                cpus=os.cpu_count(),
            )
        )
        monkeypatch.setenv("SLURM_CONF", str(conf))
        try:
            if not wait_for(pipe.exists, 10):
                pytest.skip(f"munged does not start: {(inner / 'log').read_text()[-300:]}")
            start("slurmctld", "-D", "-f", conf)
            start("slurmd", "-D", "-f", conf, "-N", host)

            def is_idle():
                done = subprocess.run(
                    ["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False
                )
                return done.stdout.strip() == "idle"

            if not wait_for(is_idle, 40):
                pytest.skip(
                    f"SLURM does not start: {(folder / 'slurmctld.log').read_text()[-500:]}"
                )
            yield folder
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def test_slurm_job_runs_the_quanta(tmp_path, monkeypatch, slurm):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    repo, pipeline = engine_toy.make_repo(tmp_path, 8)
    site = SlurmSite(
        nodes=1,
        cores_per_node=2,
        walltime="00:05:00",
        partition="debug",
        address="127.0.0.1",
    )
    report = run(
        repo,
        str(pipeline),
        ["toy/raw"],
        "toy/out",
        config=["toyFirst:fail_on=[3]"],
        site=site,
        show_progress=False,
    )
    assert (report.count("done"), report.count("failed"), report.count("blocked")) == (14, 1, 2)
    scripts = list((tmp_path / "submit").rglob("*.submit"))
    assert scripts == []  # The files of the engine are gone with it.
    jobs = subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True)
    assert wait_for(lambda: "R" not in jobs.stdout.split(), 20)
    assert sorted(engine_toy.read_all(repo, "toyB", "toy/out")) == [0, 1, 2, 4, 5, 6, 7]

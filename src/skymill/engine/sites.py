"""Where quanta run: this machine, or the nodes of a SLURM cluster."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from skymill.data.errors import ConfigError
from skymill.data.options import check_range, option

if TYPE_CHECKING:
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

__all__ = [
    "Limits",
    "LocalSite",
    "Site",
    "SlurmSite",
    "interchange_command",
    "make_parsl_config",
    "parse_walltime",
    "worker_environment",
]

#: One thread in each worker: the workers are the parallelism.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one quantum."""

    time_s: float | None = option(None, "A quantum that runs longer fails.", unit="s")
    memory_gb: float | None = option(
        None, "A worker that needs more memory in a quantum fails it.", unit="GB"
    )

    def __post_init__(self) -> None:
        check_range(self, "time_s", low=0, low_open=True)
        check_range(self, "memory_gb", low=0, low_open=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalSite:
    """Workers on this machine."""

    workers: int = option(0, "Worker processes; 0 takes one for each usable core.")

    def __post_init__(self) -> None:
        check_range(self, "workers", low=0)

    @property
    def n_workers(self) -> int:
        """Number of worker processes."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlurmSite:
    """Workers in jobs of a SLURM cluster; the folder of the run must be on its shared disk."""

    nodes: int = option(1, "Nodes of each job.")
    cores_per_node: int = option(1, "Cores on each node.")
    cores_per_worker: int = option(1, "Cores of each worker; 1 for quanta.")
    mem_per_node: int | None = option(None, "Memory asked for on each node.", unit="GB")
    walltime: str = option("48:00:00", "Duration of each job, HH:MM:SS.")
    max_jobs: int = option(1, "Jobs at once; a job that ends is followed by another.")
    partition: str | None = option(None, "Partition (queue).")
    account: str | None = option(None, "Account that pays.")
    qos: str | None = option(None, "Quality of service.")
    scheduler_options: str = option("", "More #SBATCH lines.")
    worker_init: str = option("", "Shell lines before the workers start (modules).")
    address: str | None = option(None, "Address of this host as the nodes see it.")
    drain_s: int | None = option(
        None, "Take no new quanta so long before the end of the walltime (default: a tenth).",
        unit="s",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_range(self, "nodes", low=1)
        check_range(self, "cores_per_node", low=1)
        check_range(self, "cores_per_worker", low=1, high=self.cores_per_node)
        check_range(self, "max_jobs", low=1)
        check_range(self, "mem_per_node", low=1)
        check_range(self, "drain_s", low=0)
        parse_walltime(self.walltime)

    @property
    def n_workers(self) -> int:
        """Number of worker processes when every job runs."""
        return self.nodes * self.workers_per_node * self.max_jobs

    @property
    def workers_per_node(self) -> int:
        """Number of worker processes on a node."""
        return self.cores_per_node // self.cores_per_worker


Site = LocalSite | SlurmSite


def parse_walltime(text: str) -> int:
    """Seconds of a walltime.

    Parameters
    ----------
    text : str
        ``HH:MM:SS``.

    Returns
    -------
    int
        Duration [s].

    Raises
    ------
    ConfigError
        If the text is anything else.
    """
    parts = str(text).split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in parts):
        raise ConfigError(f"walltime must be HH:MM:SS in quotes; got {text!r}")
    hours, minutes, seconds = (int(p) for p in parts)
    total = 3600 * hours + 60 * minutes + seconds
    if total < 60:
        raise ConfigError(f"walltime must be at least 00:01:00; got {text!r}")
    return total


def interchange_command() -> list[str]:
    """Parsl's interchange by its full path: the environment need not be activated.

    Returns
    -------
    list of str
        Words of the command.
    """
    return [sys.executable, str(Path(sys.prefix) / "bin" / "interchange.py")]


def worker_environment(extra: str) -> str:
    """Shell lines that a worker needs before it starts.

    Parameters
    ----------
    extra : str
        More lines.

    Returns
    -------
    str
        The lines.
    """
    lines = [f"export PATH={Path(sys.prefix) / 'bin'}:$PATH"]
    lines += [f"export {name}={value}" for name, value in _ENVIRONMENT.items()]
    # What the driver can import the workers can import, with or without an environment module.
    python_path = os.environ.get("PYTHONPATH")
    if python_path:
        lines.append(f"export PYTHONPATH='{python_path}'")
    if extra:
        lines.append(extra)
    return "\n".join(lines)


def _local_executor(site: LocalSite, logs: Path) -> HighThroughputExecutor:
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    return HighThroughputExecutor(
        label="local",
        address="127.0.0.1",
        max_workers_per_node=site.n_workers,
        cores_per_worker=1e-3,
        interchange_launch_cmd=interchange_command(),
        encrypted=False,
        heartbeat_period=5,
        heartbeat_threshold=60,
        worker_logdir_root=str(logs),
        provider=LocalProvider(
            init_blocks=1, min_blocks=1, max_blocks=1, worker_init=worker_environment("")
        ),
    )


def _slurm_executor(site: SlurmSite, logs: Path) -> HighThroughputExecutor:
    from parsl.addresses import address_by_hostname
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SingleNodeLauncher, SrunLauncher
    from parsl.providers import SlurmProvider

    walltime = parse_walltime(site.walltime)
    drain = site.drain_s if site.drain_s is not None else max(10, walltime // 10)
    options = site.scheduler_options
    if site.qos:
        options += f"\n#SBATCH --qos={site.qos}"
    launcher = (
        SrunLauncher(overrides="-K0 -k --cpu-bind=none") if site.nodes > 1 else SingleNodeLauncher()
    )
    return HighThroughputExecutor(
        label="slurm",
        address=site.address or address_by_hostname(),
        max_workers_per_node=site.workers_per_node,
        cores_per_worker=1e-3,
        interchange_launch_cmd=interchange_command(),
        encrypted=False,
        heartbeat_period=10,
        heartbeat_threshold=60,
        drain_period=max(1, walltime - drain),
        worker_logdir_root=str(logs),
        provider=SlurmProvider(
            partition=site.partition,
            account=site.account,
            nodes_per_block=site.nodes,
            cores_per_node=site.cores_per_node,
            mem_per_node=site.mem_per_node,
            exclusive=False,
            init_blocks=site.max_jobs,
            min_blocks=0,
            max_blocks=site.max_jobs,
            walltime=site.walltime,
            scheduler_options=options,
            worker_init=worker_environment(site.worker_init),
            launcher=launcher,
            cmd_timeout=60,
        ),
    )


def make_parsl_config(site: Site, folder: Path) -> Config:
    """The Parsl configuration of a site.

    Parameters
    ----------
    site : LocalSite or SlurmSite
        Where to run.
    folder : Path
        Parsl writes its own files below it.

    Returns
    -------
    parsl.config.Config
        One executor; no retries by Parsl, because the driver decides about them.
    """
    from parsl.config import Config

    logs = folder / "parsl"
    local = isinstance(site, LocalSite)
    executor = (
        _local_executor(site, logs) if isinstance(site, LocalSite) else _slurm_executor(site, logs)
    )
    return Config(
        executors=[executor],
        retries=0,
        strategy="none" if local else "simple",
        strategy_period=0.5 if local else 2,
        max_idletime=300.0,
        run_dir=str(folder / "runinfo"),
        initialize_logging=False,
        usage_tracking=0,
    )

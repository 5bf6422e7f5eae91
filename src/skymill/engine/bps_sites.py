"""Sites for ``bps submit``: this machine, and SLURM without exclusive nodes.

They are used by name in a batch configuration::

    computeSite: slurm
    site:
      slurm:
        class: skymill.engine.bps_sites.Slurm
        nodes: 1
        cores_per_node: 20
        mem_per_node: 100
        walltime: "48:00:00"
"""

from __future__ import annotations

from typing import Any

from lsst.ctrl.bps.parsl.configuration import get_bps_config_value
from lsst.ctrl.bps.parsl.sites.local import Local as _Local
from lsst.ctrl.bps.parsl.sites.slurm import Slurm as _Slurm
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.launchers import SingleNodeLauncher, SrunLauncher
from parsl.providers import LocalProvider

from skymill.engine.sites import interchange_command, worker_environment

__all__ = ["Local", "Slurm"]


class Local(_Local):
    """Workers on this machine; ``cores`` is their number."""

    def get_executors(self) -> list[ParslExecutor]:
        """One executor, on the loopback address.

        Returns
        -------
        list of parsl.executors.base.ParslExecutor
            The executor.
        """
        cores = get_bps_config_value(self.site, "cores", int, required=True)
        return [
            HighThroughputExecutor(
                "local",
                address="127.0.0.1",
                cores_per_worker=1e-3,
                max_workers_per_node=cores,
                interchange_launch_cmd=interchange_command(),
                encrypted=False,
                provider=LocalProvider(
                    init_blocks=1, max_blocks=1, worker_init=worker_environment("")
                ),
            )
        ]

    def get_parsl_config(self) -> Any:
        """Parsl's configuration, which looks for work to do twice a second.

        Returns
        -------
        parsl.config.Config
            The configuration.
        """
        config = super().get_parsl_config()
        config.strategy_period = 0.5
        return config


class Slurm(_Slurm):
    """SLURM jobs that share their nodes with others.

    Keys beside those of the site of `lsst.ctrl.bps.parsl`: ``exclusive`` (false by default, and
    honoured), ``partition``, ``address`` of the submitting host, ``worker_init``.
    """

    def make_executor(self, label: str, **kwargs: Any) -> ParslExecutor:
        """An executor for SLURM jobs.

        Parameters
        ----------
        label : str
            Label of the executor.
        **kwargs : object
            As `lsst.ctrl.bps.parsl.sites.Slurm.make_executor`.

        Returns
        -------
        parsl.executors.base.ParslExecutor
            The executor.
        """
        nodes = get_bps_config_value(self.site, "nodes", int, kwargs.get("nodes"), required=True)
        cores = get_bps_config_value(self.site, "cores_per_node", int, kwargs.get("cores_per_node"))
        extra = get_bps_config_value(self.site, "worker_init", str, "")
        provider: dict[str, Any] = {
            "exclusive": get_bps_config_value(self.site, "exclusive", bool, False),
            "worker_init": worker_environment(extra or ""),
            "launcher": SrunLauncher(overrides="--export=ALL")
            if nodes > 1
            else SingleNodeLauncher(),
            "cmd_timeout": 60,
            **(kwargs.pop("provider_options", None) or {}),
        }
        partition = get_bps_config_value(self.site, "partition", str)
        if partition:
            provider["partition"] = partition
        executor: dict[str, Any] = {
            "cores_per_worker": 1e-3,
            "encrypted": False,
            "interchange_launch_cmd": interchange_command(),
            **(kwargs.pop("executor_options", None) or {}),
        }
        if cores is not None:
            executor["max_workers_per_node"] = cores
        return super().make_executor(
            label, provider_options=provider, executor_options=executor, **kwargs
        )

    def get_address(self) -> str:
        """Address of the submitting host, as the nodes see it.

        Returns
        -------
        str
            The site's ``address``, or that of the host's name.
        """
        address = get_bps_config_value(self.site, "address", str)
        return address or super().get_address()

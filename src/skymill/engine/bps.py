"""The batch service of ``bps submit`` whose command fails when a quantum failed.

``lsst.ctrl.bps.parsl.ParslService`` ends with code 0 whatever happened to the quanta. Ours is
used by one line of the batch configuration::

    wmsServiceClass: skymill.engine.bps.CheckedParslService
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from lsst.ctrl.bps import BaseWmsWorkflow
from lsst.ctrl.bps.parsl import ParslService
from lsst.ctrl.bps.parsl.workflow import ParslWorkflow

from skymill.data.errors import SkymillError

__all__ = ["BatchError", "CheckedParslService"]

_LOG = logging.getLogger(__name__)


class BatchError(SkymillError, RuntimeError):
    """Jobs of a batch run failed."""


def _raise_failures(workflow: ParslWorkflow, futures: Iterable[Any]) -> None:
    from parsl.dataflow.errors import DependencyError

    ends = [f for f in futures if f is not None and f.exception() is not None]
    if not ends:
        return
    failed, blocked = [], 0
    for job in workflow.jobs.values():
        error = job.future.exception() if job.future is not None else None
        if isinstance(error, DependencyError):
            blocked += 1
        elif error is not None:
            failed.append(job)
    for job in failed:
        _LOG.error("job %s failed; its log is %s", job.name, job.stderr)
    names = "; ".join(f"{job.name} ({job.stderr})" for job in failed[:3])
    raise BatchError(
        f"{len(failed)} of {len(workflow.jobs)} jobs failed and {blocked} more depend on them: "
        f"{names}"
    )


class CheckedParslService(ParslService):
    """Runs a workflow with Parsl and raises at the end if a job failed.

    The final job still runs, so that everything that succeeded is in the repository.
    """

    def submit(self, workflow: BaseWmsWorkflow, **kwargs: Any) -> None:
        """Run a workflow to its end.

        Parameters
        ----------
        workflow : lsst.ctrl.bps.BaseWmsWorkflow
            The workflow.
        **kwargs : object
            Not used.

        Raises
        ------
        BatchError
            If a job failed.
        """
        workflow.start()
        _raise_failures(workflow, workflow.run())

    def restart(self, out_prefix: str) -> tuple[str, str, str]:
        """Run what is left of a workflow.

        Parameters
        ----------
        out_prefix : str
            Its submit folder.

        Returns
        -------
        tuple of str
            Id, name, message.

        Raises
        ------
        BatchError
            If a job failed.
        """
        workflow = ParslWorkflow.read(out_prefix)
        workflow.restart()
        _raise_failures(workflow, workflow.run())
        return workflow.name, workflow.name, ""

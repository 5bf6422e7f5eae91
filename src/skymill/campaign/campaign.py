"""Perform the steps of a cluster in order; each is skipped when it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from skymill.campaign.actions import ACTIONS
from skymill.campaign.calibrations import Switches, choose_switches
from skymill.campaign.clean_up import delete_types
from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import Command, perform
from skymill.campaign.public_files import write_public_files
from skymill.campaign.state import Record, UnitStatus, bands_of
from skymill.campaign.steps import STEPS, PipelineRun, Step, expand_run, runs_of
from skymill.data.errors import ConfigError, SkymillError
from skymill.engine import (
    Engine,
    GraphRequest,
    LocalSite,
    RunReport,
    Site,
    SlurmSite,
    run_many,
)

__all__ = ["Campaign", "StepError"]


class StepError(SkymillError, RuntimeError):
    """A step failed; the steps after it were not started."""


#: Actions that keep this process busy for seconds while the workers could start.
_SLOW_ACTIONS = ("initialize_repo", "ingest_data")
#: What the first quanta of a campaign need.
_FIRST_MODULES = (
    "skymill.tasks.isr",
    "skymill.tasks.characterize_image",
    "skymill.tasks.cp_bias_combine",
)


def _silent(_text: str) -> None:
    pass


class Campaign:
    """The steps of one cluster.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    site : LocalSite or SlurmSite, optional
        Where to run; the one of the settings by default.
    say : callable
        Receives each line for the user.
    show_progress : bool
        Show progress of the quanta.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        site: Site | None = None,
        say: Callable[[str], None] = _silent,
        show_progress: bool = True,
    ) -> None:
        self.cluster = cluster
        self.site = site if site is not None else cluster.make_site()
        self.say = say
        self.show_progress = show_progress
        self.submit = cluster.folder / "submit"
        self._labels: dict[str, frozenset[str]] = {}
        self._switches: dict[str, Switches] = {}
        self.record = Record(cluster, self.requests)
        self._engine: Engine | None = None

    # -- looking -----------------------------------------------------------------------------

    def existing_collections(self) -> frozenset[str] | None:
        """Names of the collections of the repository; `None` if there is no repository."""
        if not self._has_repo():
            return None
        from lsst.daf.butler import Butler

        with Butler.from_config(self.cluster.repo_path) as butler:
            return frozenset(butler.collections.query("*"))

    def _has_repo(self) -> bool:
        return (Path(self.cluster.repo_path) / "butler.yaml").exists()

    def status(self, steps: Sequence[Step] | None = None) -> list[UnitStatus]:
        """State of every step and band.

        Parameters
        ----------
        steps : sequence of Step, optional
            The steps; all by default.

        Returns
        -------
        list of UnitStatus
            In order.
        """
        existing = self.existing_collections()
        return [
            self.record.status(step, band, existing)
            for step in (STEPS if steps is None else steps)
            for band in bands_of(self.cluster, step)
        ]

    def requests(self, step: Step, band: str) -> list[GraphRequest]:
        """Pipeline runs of a step with the overrides of the settings.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.

        Returns
        -------
        list of GraphRequest
            In order.
        """
        return [self._request(run, band) for run in runs_of(self.cluster, step)]

    def _request(self, run: PipelineRun, band: str) -> GraphRequest:
        request = expand_run(self.cluster, run, band)
        if run.detrends:
            config = (*request.config, *self._choose_switches(band).config)
            request = dataclasses.replace(request, config=config)
        if not self.cluster.overrides:
            return request
        labels = self._pipeline_labels(request.pipeline)
        extra = [
            f"{label}:{field}={value}"
            for label, fields in self.cluster.overrides.items()
            if label in labels
            for field, value in fields.items()
        ]
        return dataclasses.replace(request, config=(*request.config, *extra))

    def _choose_switches(self, band: str) -> Switches:
        if band not in self._switches:
            self._switches[band] = choose_switches(self.cluster, band)
        return self._switches[band]

    def _pipeline_labels(self, name: str) -> frozenset[str]:
        from lsst.pipe.base import Pipeline

        if name not in self._labels:
            try:
                self._labels[name] = frozenset(Pipeline.from_uri(name).task_labels)
            except (OSError, LookupError, ValueError) as exc:
                raise ConfigError(f"pipeline {name} cannot be read: {exc}") from exc
        return self._labels[name]

    def commands(self, step: Step, band: str) -> list[Command]:
        """Commands of a step, exactly as a user could type them.

        Parameters
        ----------
        step : Step
            The step.
        band : str
            The band.

        Returns
        -------
        list of Command
            In order.
        """
        if step.action:
            return ACTIONS[step.action](self.cluster, band)
        commands = []
        for request in self.requests(step, band):
            if isinstance(self.site, SlurmSite):
                commands += self._batch_commands(request)
            else:
                words = request.command(processes=self.site.n_workers)
                commands.append(Command(words=tuple(words), request=request))
        return commands

    def _batch_commands(self, request: GraphRequest) -> list[Command]:
        """``bps`` has no overrides: they go into a pipeline file first."""
        pipeline = request.pipeline
        commands = []
        if request.config:
            subset = pipeline.partition("#")[2]
            name = f"{subset}_{request.output.rsplit('/', 1)[-1]}.yaml"
            saved = str(self.cluster.folder / "pipeline_yamls" / name)
            words = ["pipetask", "build", "-p", pipeline]
            for item in request.config:
                words += ["-c", item]
            commands.append(Command(words=(*words, "-s", saved)))
            pipeline = saved
        words = ["bps", "submit", "-b", request.repo, "-p", pipeline]
        words += ["-i", ",".join(request.inputs), "-o", request.output, "-d", request.where]
        words.append(str(self.cluster.folder / "configs" / "bps_config.yaml"))
        commands.append(Command(words=tuple(words), request=request))
        return commands

    def describe(self, step: Step) -> str:
        """What a dry run prints of a step.

        Parameters
        ----------
        step : Step
            The step.

        Returns
        -------
        str
            Commands with inputs and outputs.
        """
        lines = [f"# {step.number} {step.name}: {step.doc}"]
        for band in bands_of(self.cluster, step):
            for command in self.commands(step, band):
                lines.append(command.text())
                if command.request is not None:
                    lines.append(f"#   in:  {', '.join(command.request.inputs)}")
                    lines.append(f"#   out: {command.request.output}")
                elif command.note:
                    lines.append(f"#   {command.note}")
        return "\n".join(lines)

    # -- doing -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _workers(self) -> Iterator[Engine]:
        """One pool of workers for all the steps of a call."""
        if self._engine is None:
            self._engine = Engine(self.site, folder=self.submit / "engine")
        yield self._engine

    def close(self) -> None:
        """Stop the workers."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def run(
        self, steps: Sequence[Step], *, keep_going: bool = False, force: bool = False
    ) -> list[UnitStatus]:
        """Perform steps; those that are done and whose input did not change are skipped.

        Parameters
        ----------
        steps : sequence of Step
            The steps, in order.
        keep_going : bool
            Go on with the next step although quanta failed.
        force : bool
            Perform them even if they are done, and make all of their products anew.

        Returns
        -------
        list of UnitStatus
            State of the steps afterwards.

        Raises
        ------
        StepError
            If a step failed; with its failures and what to do next.
        """
        try:
            for k, step in enumerate(steps):
                later = any(other.runs for other in steps[k + 1 :])
                self._run_step(step, keep_going=keep_going, force=force, warm=later)
        finally:
            self.close()
        return self.status(steps)

    def _warm_workers(self) -> None:
        """While this process makes a repository, local workers import what they will need."""
        if self._engine is None and isinstance(self.site, LocalSite):
            with self._workers() as engine:
                engine.warm(_FIRST_MODULES)

    def _run_step(self, step: Step, *, keep_going: bool, force: bool, warm: bool = False) -> None:
        existing = self.existing_collections()
        todo = []
        for band in bands_of(self.cluster, step):
            status = self.record.status(step, band, existing)
            if status.state == "done" and not force:
                self.say(f"{step.name}{' ' + band if band else ''}: done before")
            else:
                todo.append(band)
        if not todo:
            return
        start = time.monotonic()
        if step.action:
            if warm and step.name in _SLOW_ACTIONS:
                self._warm_workers()
            for band in todo:
                self._run_action(step, band)
        else:
            at_once = self.cluster.bands_at_once
            for first in range(0, len(todo), at_once):
                bands = todo[first : first + at_once]
                self._run_pipelines(step, bands, keep_going=keep_going, force=force)
        self.say(f"{step.name}: done in {time.monotonic() - start:.1f} s")

    def _run_action(self, step: Step, band: str) -> None:
        start = time.monotonic()
        signature = self.record.signature(step, band)
        try:
            for command in self.commands(step, band):
                if command.request is not None:
                    self._run_request(command.request)
                else:
                    perform(command)
            write_public_files(self.cluster, step.name)
        except SkymillError as exc:
            self.record.note(step, band, state="failed", detail=str(exc))
            raise
        self._switches.clear()
        # The step may have changed its own input (corrupt files moved aside).
        signature = self.record.signature(step, band)
        self.record.note(
            step,
            band,
            state="done",
            signature=signature,
            stamp=signature,
            seconds=time.monotonic() - start,
        )

    def _run_request(self, request: GraphRequest) -> None:
        """A pipeline inside of an action (calibration frames): all or nothing."""
        request = self._existing_inputs(request, request.inputs[1:])
        with self._workers() as engine:
            [report] = run_many(
                [request], engine=engine, folder=self.submit, show_progress=self.show_progress
            )
        if not report.ok:
            raise StepError(f"{request.output}: {report.text()}")

    def _existing_inputs(self, request: GraphRequest, optional: Sequence[str]) -> GraphRequest:
        existing = self.existing_collections() or frozenset()
        absent = {name for name in optional if name not in existing}
        inputs = tuple(name for name in request.inputs if name not in absent)
        return dataclasses.replace(request, inputs=inputs)

    def _run_pipelines(
        self, step: Step, bands: Sequence[str], *, keep_going: bool, force: bool
    ) -> None:
        """All pipeline runs of a step for some bands together."""
        start = time.monotonic()
        signatures = {band: self.record.signature(step, band) for band in bands}
        # Another token: nothing that was made for the same input is taken up.
        anew = f"+{time.time_ns()}" if force else ""
        reports: dict[str, list[RunReport]] = {band: [] for band in bands}
        runs = runs_of(self.cluster, step)
        if any(run.detrends for run in runs):
            for text in dict.fromkeys(n for b in bands for n in self._choose_switches(b).notes):
                self.say(text)
        for run in runs:
            requests = [
                dataclasses.replace(
                    self._existing_inputs(self._request(run, band), run.optional),
                    token=signatures[band] + anew,
                )
                for band in bands
            ]
            try:
                with self._workers() as engine:
                    done = run_many(
                        requests,
                        engine=engine,
                        folder=self.submit,
                        limits=self.cluster.limits(step.name),
                        reuse=step.reuse and not force,
                        title=step.name,
                        show_progress=self.show_progress,
                    )
            except SkymillError as exc:
                for band in bands:
                    self.record.note(step, band, state="failed", detail=str(exc))
                raise
            for band, report in zip(bands, done, strict=True):
                reports[band].append(report)
            if any(report.interrupted for report in done):
                self._note_reports(step, reports, signatures, start)
                raise KeyboardInterrupt
            if not all(self._is_good(step, report) for report in done) and not keep_going:
                break
        if all(len(done) == len(runs) for done in reports.values()):
            self._publish(step, bands)
        self._note_reports(step, reports, signatures, start)
        self._raise_failures(step, reports, keep_going=keep_going)
        if step.disposable and not self.cluster.keep_intermediates:
            n_deleted = delete_types(self.cluster, step.disposable)
            self.say(f"{step.name}: {n_deleted} intermediate datasets deleted")

    def _publish(self, step: Step, bands: Sequence[str]) -> None:
        """Files for people, before the step counts as done."""
        try:
            write_public_files(self.cluster, step.name)
        except SkymillError as exc:
            for band in bands:
                self.record.note(step, band, state="failed", detail=str(exc))
            raise

    def _is_good(self, step: Step, report: RunReport) -> bool:
        if report.ok:
            return True
        if not step.tolerant or report.interrupted or report.count("remaining"):
            return False
        limit = self.cluster.tolerate_failures
        return all(
            t.failed <= limit * (t.total + self._done_before(report, t.label))
            for t in report.tasks
            if t.failed
        )

    def _done_before(self, report: RunReport, label: str) -> int:
        """Quanta of a task that earlier runs have done, so that the graph did not hold them."""
        from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError

        output, _, _ = report.output_run.rpartition("/")
        with Butler.from_config(self.cluster.repo_path) as butler:
            try:
                refs = butler.query_datasets(
                    f"{label}_metadata",
                    collections=output,
                    find_first=False,
                    limit=None,
                    explain=False,
                )
            except (MissingCollectionError, MissingDatasetTypeError):
                return 0
        return len({ref.dataId for ref in refs if ref.run != report.output_run})

    def _note_reports(
        self,
        step: Step,
        reports: dict[str, list[RunReport]],
        signatures: dict[str, str],
        start: float,
    ) -> None:
        n_runs = len(runs_of(self.cluster, step))
        for band, done in reports.items():
            complete = len(done) == n_runs and all(self._is_good(step, r) for r in done)
            failed = sum(r.count("failed") for r in done)
            stamps = [f"{r.output_run}:{r.count('finished')}" for r in done]
            old = self.record.units.get(f"{step.name}/{band}" if band else step.name, {})
            nothing_new = old.get("stamp") and not any(r.count("done") for r in done)
            self.record.note(
                step,
                band,
                state="done" if complete else "failed",
                signature=signatures[band],
                stamp=old["stamp"] if nothing_new else ",".join(stamps),
                detail=f"{failed} quanta failed" if failed else "",
                seconds=time.monotonic() - start,
                tasks=[dataclasses.asdict(t) for r in done for t in r.tasks],
            )

    def _raise_failures(
        self, step: Step, reports: dict[str, list[RunReport]], *, keep_going: bool
    ) -> None:
        bad = []
        for band, done in reports.items():
            for report in done:
                if report.ok:
                    continue
                where = f"{step.name}{' ' + band if band else ''}"
                text = f"{where}: {report.text()}"
                if self._is_good(step, report) or keep_going:
                    self.say(text)
                else:
                    bad.append(text)
        if bad:
            raise StepError(
                "\n".join(bad)
                + f"\n{step.name} failed; after the cause is mended the same command goes on, "
                "and --keep-going leaves the failures out"
            )

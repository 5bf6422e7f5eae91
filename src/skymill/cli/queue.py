"""``skymill queue``: tasks that many workers share, such as the bricks of a release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from skymill.engine.task_queue import QueueCounts, QueueTask, TaskQueue

_SCRIPT = "Command that gets the task as its last argument; without it the task is the command."
_LOGS = "Folder of the logs (default: queue-logs/NAME)."
_STATES = ("Waiting", "Pending", "Running", "Succeeded", "Failed")


def _open(ctx: click.Context, name: str, *, create: bool = False) -> TaskQueue:
    from skymill.engine.task_queue import TaskQueue

    return TaskQueue(name, ctx.obj, create=create)


def _plural(number: int, word: str = "task") -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


@click.group("queue", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--db",
    metavar="FILE|URL",
    help="Where the queues are: an SQLite file or postgresql://USER@HOST/NAME (the password from "
    "PGPASSWORD or ~/.pgpass). Default: SKYMILL_QUEUE_DB, else ~/.local/share/skymill/"
    "queues.sqlite3.",
)
@click.pass_context
def queue(ctx: click.Context, db: str | None) -> None:
    """Queues of tasks: fill, work, watch, repair."""
    ctx.obj = db


@queue.command("load")
@click.argument("name")
@click.argument("file", type=click.File("r"))
@click.option("--after", metavar="QUEUE", help="Each task waits for the same task of that queue.")
@click.option("--duplicates", is_flag=True, help="Add also tasks that the queue has already.")
@click.pass_context
def load(ctx: click.Context, name: str, file: TextIO, after: str | None, duplicates: bool) -> None:
    """Put the lines of FILE (- for standard input) into the queue NAME, which is made if absent.

    Empty lines and lines that begin with # are no tasks.
    """
    lines = [line.strip() for line in file]
    tasks = [line for line in lines if line and not line.startswith("#")]
    if not tasks:
        raise click.ClickException("the list of tasks is empty; nothing was loaded")
    other = _open(ctx, after) if after else None
    target = _open(ctx, name, create=True)
    added = target.add(tasks, after=other, duplicates=duplicates)
    text = f"{_plural(len(added))} added to {name}"
    if len(added) < len(tasks):
        text += f"; {len(tasks) - len(added)} were there already"
    click.echo(text)


@queue.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_command(ctx: click.Context, as_json: bool) -> None:
    """All queues with their numbers of tasks in each state."""
    import json

    from skymill.engine.task_queue import TaskState, list_queues

    found = list_queues(ctx.obj)
    if as_json:
        rows = {c.name: {s: c[TaskState(s)] for s in _STATES} for c in found}
        click.echo(json.dumps(rows, indent=1))
        return
    if not found:
        click.echo("there are no queues")
        return
    width = max(10, *(len(c.name) for c in found))
    click.echo(f"{'queue':<{width}} " + " ".join(f"{s:>9}" for s in _STATES))
    for counts in found:
        numbers = " ".join(f"{counts[TaskState(s)]:>9}" for s in _STATES)
        click.echo(f"{counts.name:<{width}} {numbers}")


@queue.command("tasks")
@click.argument("name")
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only these.")
@click.option("--exitcode", "--exit-code", "exit_code", type=int, help="Only those that ended so.")
@click.option("--plain", is_flag=True, help="Print the tasks alone, such as for another load.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def tasks(
    ctx: click.Context,
    name: str,
    state: str | None,
    exit_code: int | None,
    plain: bool,
    as_json: bool,
) -> None:
    """The tasks of the queue NAME: state, attempts, exit code, host, last words, log."""
    import dataclasses
    import json

    found = _open(ctx, name).tasks(state=state, exit_code=exit_code)
    if as_json:
        rows = [dataclasses.asdict(t) for t in found]
        for row in rows:
            row.pop("token")
        click.echo(json.dumps(rows, indent=1))
        return
    for task in found:
        click.echo(task.task if plain else _describe(task))


def _describe(task: QueueTask) -> str:
    code = "" if task.exit_code is None else f"exit {task.exit_code}"
    seconds = ""
    if task.started is not None and task.ended is not None:
        seconds = f"{task.ended - task.started:.1f} s"
    host = f"{task.worker.host}:{task.worker.pid}" if task.worker else ""
    first = f"{task.state:<9} {task.task:<20} {task.attempts:>2}x {code:>8} {seconds:>10}  {host}"
    more = [text for text in (task.message, f"log: {task.log}" if task.log else "") if text]
    return "\n".join([first.rstrip(), *(f"          {text}" for text in more)])


@queue.command("recover")
@click.argument("name")
@click.pass_context
def recover(ctx: click.Context, name: str) -> None:
    """Make tasks pending again whose workers died; tasks of living workers are left alone."""
    import time

    found = _open(ctx, name).recover()
    click.echo(f"{_plural(len(found.recovered))} of {name} pending again")
    for task in found.alive:
        if task.worker is not None:
            ago = max(0.0, time.time() - task.worker.heartbeat)
            click.echo(
                f"left alone: {task.task}: its worker lives ({task.worker.text()}, last heard of "
                f"{ago:.0f} s ago)"
            )


@queue.command("retry")
@click.argument("name")
@click.option("--exitcode", "--exit-code", "exit_code", type=int, help="Only those that ended so.")
@click.pass_context
def retry(ctx: click.Context, name: str, exit_code: int | None) -> None:
    """Make failed tasks pending again."""
    number = _open(ctx, name).retry(exit_code=exit_code)
    click.echo(f"{_plural(number)} of {name} pending again")


@queue.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Without a question, and also if tasks are running.")
@click.pass_context
def delete(ctx: click.Context, name: str, force: bool) -> None:
    """Delete the queue NAME with its tasks; their output and logs stay."""
    target = _open(ctx, name)
    if not force:
        click.confirm(f"delete {name} with {_plural(target.counts().total)}?", abort=True)
    click.echo(f"{name} deleted with {_plural(target.delete(force=force))}")


@queue.command("clean")
@click.argument("name")
@click.option(
    "--outdir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Output directory of the bricks; their checkpoints are below it.",
)
@click.option(
    "--pattern",
    multiple=True,
    help="Pattern of the files to remove, with {bri} and {brick}; may be repeated. "
    "Default: checkpoints/{bri}/checkpoint-{brick}* and stages/{bri}/runbrick-{brick}-*.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.pass_context
def clean(
    ctx: click.Context, name: str, outdir: Path, pattern: tuple[str, ...], dry_run: bool
) -> None:
    """Remove the checkpoints of the bricks of the queue NAME that are finished."""
    from skymill.release.finish.checkpoints import find_checkpoints, remove_checkpoints

    bricks = [t.task for t in _open(ctx, name).tasks(state="Succeeded")]
    found = find_checkpoints(outdir, bricks, patterns=pattern or None)
    size = sum(p.stat().st_size for p in found)
    if not dry_run:
        remove_checkpoints(found)
    verb = "would be removed" if dry_run else "removed"
    click.echo(
        f"{_plural(len(found), 'checkpoint file')} of {_plural(len(bricks), 'finished brick')} "
        f"{verb} ({size / 1e6:.1f} MB)"
    )


# -- work ------------------------------------------------------------------------------------


@queue.command("do")
@click.argument("name")
@click.option("--script", help=_SCRIPT)
@click.option("--log-dir", type=click.Path(path_type=Path), help=_LOGS)
@click.pass_context
def do(ctx: click.Context, name: str, script: str | None, log_dir: Path | None) -> int:
    """Work on the queue NAME in this process until no task is pending."""
    from skymill.engine.queue_workers import WorkOrder, find_script, run_worker
    from skymill.engine.task_queue import TaskState

    target = _open(ctx, name)
    order = WorkOrder(
        queue=name, location=target.location, script=find_script(script),
        log_dir=str(log_dir or Path("queue-logs") / name), folder=str(Path.cwd()),
    )  # fmt: skip
    failed = 0

    def show(task: QueueTask, state: TaskState) -> None:
        nonlocal failed
        failed += state == TaskState.FAILED
        click.echo(f"{state:<9} {task.task}")

    reason = run_worker(target, order, on_task=show)
    if reason:
        click.echo(f"skymill: {reason}; its task is pending again", err=True)
        return 130
    return 1 if failed else 0


@queue.command("launch")
@click.argument("name")
@click.argument("workers", type=click.IntRange(min=1))
@click.option(
    "--cores-per-worker",
    "--cores_per_worker",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
)
@click.option(
    "--cores-per-node",
    "--cores_per_node",
    type=click.IntRange(min=1),
    help="Default: what SLURM says.",
)
@click.option("--walltime", help="HH:MM:SS; tasks that run at its end are pending again.")
@click.option("--script", help=_SCRIPT)
@click.option("--batchqueue", "--batch-queue", help="Partition of SLURM.")
@click.option(
    "--batchopts",
    "--batch-opts",
    multiple=True,
    help='Option for sbatch, such as "-C haswell"; may be repeated.',
)
@click.option(
    "--site",
    type=click.Choice(["local", "slurm"]),
    help="Default: slurm if --batchqueue or --batchopts is given.",
)
@click.option(
    "--keep-env/--clean-env",
    "--keep_env/--clean_env",
    default=True,
    show_default=True,
    help="Variables of the scripts: those of this shell, or of a fresh login.",
)
@click.option("--log-dir", type=click.Path(path_type=Path), help=_LOGS)
@click.option("--address", help="Address of this host as the nodes see it.")
@click.option("--detach", is_flag=True, help="Go on in the background; this call returns at once.")
@click.pass_context
def launch(
    ctx: click.Context, name: str, workers: int, cores_per_worker: int, cores_per_node: int | None,
    walltime: str | None, script: str | None, batchqueue: str | None, batchopts: tuple[str, ...],
    site: str | None, keep_env: bool, log_dir: Path | None, address: str | None, detach: bool,
) -> int:  # fmt: skip
    """Work on the queue NAME with WORKERS workers, on this machine or in one SLURM job.

    The number of nodes is ceil(WORKERS x cores per worker / cores per node). The command stays
    until the queue is empty; Ctrl-C makes the running tasks pending again.
    """
    from skymill.engine.queue_launch import launch as launch_workers
    from skymill.engine.queue_launch import make_site
    from skymill.engine.queue_workers import WorkOrder, clean_environment, find_script
    from skymill.engine.sites import LocalSite, SlurmSite, parse_walltime

    target = _open(ctx, name)
    words = find_script(script)
    kind = site or ("slurm" if batchqueue or batchopts else "local")
    place = make_site(
        kind, workers, cores_per_worker=cores_per_worker, cores_per_node=cores_per_node,
        walltime=walltime, batch_queue=batchqueue, batch_options=batchopts, address=address,
    )  # fmt: skip
    folder = log_dir or Path("queue-logs") / name
    if isinstance(place, LocalSite):
        _warn_of_cores(workers * cores_per_worker)
        if batchqueue or batchopts:
            click.echo(
                "skymill: --batchqueue and --batchopts mean nothing on this machine", err=True
            )
    if detach:
        return _detach(folder)
    order = WorkOrder(
        queue=name, location=target.location, script=words, log_dir=str(folder),
        folder=str(Path.cwd()), environment=clean_environment(keep=keep_env), clean=not keep_env,
        cores=cores_per_worker, walltime_s=parse_walltime(walltime) if walltime else None,
    )  # fmt: skip
    if isinstance(place, SlurmSite):
        click.echo(
            f"{_plural(workers, 'worker')} on {_plural(place.nodes, 'node')} of "
            f"{place.cores_per_node} cores"
        )
    report = launch_workers(target, workers, order, site=place, on_progress=_show)
    _summary(name, report.counts, report.reasons, report.lost)
    if report.interrupted:
        return 130
    return 1 if report.failed else 0


def _show(counts: QueueCounts) -> None:
    numbers = ", ".join(f"{n} {s.lower()}" for s, n in counts.counts.items() if n)
    end = "\r" if sys.stderr.isatty() else "\n"
    click.echo(f"{counts.name}: {numbers}{end}", err=True, nl=False)


def _summary(name: str, counts: QueueCounts, reasons: tuple[str, ...], lost: int) -> None:
    numbers = ", ".join(f"{n} {s.lower()}" for s, n in counts.counts.items() if n)
    if sys.stderr.isatty():
        click.echo("", err=True)
    click.echo(f"{name}: {numbers or 'no tasks'}")
    if lost:
        click.echo(f"{_plural(lost, 'worker')} died and were replaced")
    for reason in reasons:
        click.echo(f"workers stopped: {reason}; the same command goes on")
    if counts.counts.get("Failed"):  # type: ignore[call-overload]
        click.echo(f"why: skymill queue tasks {name} --state failed")


def _warn_of_cores(cores: int) -> None:
    import os

    here = len(os.sched_getaffinity(0))
    if cores > here:
        click.echo(f"skymill: the workers want {cores} cores; this machine has {here}", err=True)


def _detach(folder: Path) -> int:
    """Start this command again, without --detach, as a process of its own."""
    import subprocess

    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "launch.log"
    program = "from skymill.cli import main; main()"
    words = [sys.executable, "-c", program, *(w for w in sys.argv[1:] if w != "--detach")]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
    click.echo(f"launched as process {process.pid}; its log: {log}")
    return 0

"""The ``skymill`` command. Verbs are imported only when they are used."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from typing import Any

import click

import skymill
from skymill.data.errors import ConfigError, SkymillError

__all__ = ["VERBS", "main", "run_command"]

#: Verb -> (module, what it does). The module has a click command of that name.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("skymill.cli.demo", "Simulate a lensed field and run it from raw frames to a mass."),
    "run": ("skymill.cli.run", "Perform the steps of a cluster, or go on where they stopped."),
    "status": ("skymill.cli.status", "What is done, running, failed or missing for clusters."),
    "why": ("skymill.cli.why", "Why something failed or is absent, with its log."),
    "view": ("skymill.cli.view", "One dataset as a picture with mask and sources, or a table."),
    "report": ("skymill.cli.report", "Write the report of a campaign or a demo again."),
    "init": ("skymill.cli.init", "Make a Butler repository that is ready for raw frames."),
    "ingest-calibrated": (
        "skymill.cli.ingest_calibrated",
        "Ingest Community-Pipeline images as calibrated exposures.",
    ),
    "check-raws": (
        "skymill.cli.check_raws",
        "Open every extension of raw files, move corrupt ones.",
    ),
    "select-visit": ("skymill.cli.select_visit", "Tag the detectors that are good for lensing."),
    "release": (
        "skymill.cli.release",
        "From community-processed images to bricks, catalogues and a data release.",
    ),
    "queue": ("skymill.cli.queue", "Queues of tasks: load, launch, list, recover, retry, delete."),
    "lens": ("skymill.cli.lens", "Mass maps and masses from any shear catalogue."),
    "zero-points": (
        "skymill.cli.zero_points",
        "Deredden and calibrate any catalogue against references and the stellar locus.",
    ),
    "photo-z": ("skymill.cli.photo_z", "Redshifts with p(z) of any catalogue of magnitudes."),
    "red-sequence": (
        "skymill.cli.red_sequence",
        "Red members of a cluster from any galaxy catalogue.",
    ),
    "quality": ("skymill.cli.quality", "Depth, astrometry, PSF and null tests of any catalogue."),
}


def run_command(words: list[str]) -> None:
    """Run one verb in this process.

    Parameters
    ----------
    words : list of str
        The verb and its arguments.

    Raises
    ------
    skymill.data.errors.SkymillError
        As the verb does.
    """
    main.main(args=list(words), prog_name="skymill", standalone_mode=False)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*VERBS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return super().get_command(ctx, cmd_name)
        module_name, _ = VERBS[cmd_name]
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as exc:
            raise click.ClickException(f"the verb {cmd_name!r} cannot be loaded: {exc}") from exc
        candidate = getattr(module, cmd_name.replace("-", "_"), None)
        if isinstance(candidate, click.Command):
            return candidate
        for value in vars(module).values():
            if isinstance(value, click.Command) and value.name == cmd_name:
                return value
        raise click.ClickException(f"the verb {cmd_name!r} is not in {module_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in VERBS.items()]
        rows += [(n, c.get_short_help_str()) for n, c in self.commands.items()]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        call: Any = super().main
        return call(*args, standalone_mode=False, **kwargs)

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:
            return self._call(*args, **kwargs)
        try:
            result = self._call(*args, **kwargs)
        except click.exceptions.Abort as exc:
            # Click turns Ctrl-C into this too; the answer no to a question is the other cause.
            _stop(_INTERRUPTED if isinstance(exc.__cause__, KeyboardInterrupt) else "stopped", 130)
        except click.ClickException as exc:
            exc.show()
            sys.exit(exc.exit_code)
        except SkymillError as exc:
            if _is_debug():
                raise
            _stop(str(exc), 2 if isinstance(exc, ConfigError) else 1)
        except KeyboardInterrupt:
            _stop(_INTERRUPTED, 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as exc:
            if _is_debug() or exc.errno not in _DISK_FULL + _NO_WRITING:
                raise
            _stop(_disk_sentence(exc), 1)
        sys.exit(result if isinstance(result, int) else 0)


_INTERRUPTED = "interrupted; the same command goes on where it stopped"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EACCES, errno.EROFS, errno.EPERM)


def _disk_sentence(exc: OSError) -> str:
    """What a full disk or a folder without permission means for the person at the terminal."""
    place = f" ({exc.filename})" if exc.filename else ""
    if exc.errno in _DISK_FULL:
        return (
            f"the disk is full{place}: {exc.strerror}; nothing finished is lost: free some space "
            "and run the same command again"
        )
    return (
        f"{exc.filename or 'a file'} may not be read or written: {exc.strerror}; give permission "
        "or name another folder, then run the same command again"
    )


def _is_debug() -> bool:
    return _DEBUG["on"]


_DEBUG = {"on": False}


def _stop(message: str, code: int) -> None:
    click.echo(f"skymill: {message}", err=True)
    sys.exit(code)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option("-v", "--verbose", is_flag=True, help="Show the log on the terminal.")
@click.version_option(skymill.__version__, prog_name="skymill")
def main(debug: bool, verbose: bool) -> None:
    """From raw telescope exposures to coadds, catalogues, shear and mass maps."""
    _DEBUG["on"] = debug
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    # It says at each start that a package manager of the observatory is absent.
    logging.getLogger("lsst.utils.packages").setLevel(logging.ERROR)


@main.command("version")
def version() -> None:
    """The version of skymill."""
    click.echo(skymill.__version__)

"""Commands of a step: what a dry run prints, and how they are performed in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points

from skymill.data.errors import MissingInputError, SkymillError
from skymill.engine.graph import GraphRequest

__all__ = ["Command", "CommandError", "perform"]


class CommandError(SkymillError, RuntimeError):
    """A command of a step failed."""


def _quote(word: str) -> str:
    """A word for a shell; data queries keep their single quotes readable."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    ``words`` is what a user would type; ``call``, if given, does it instead of the command, and
    ``request`` is run by the engine; ``note`` says what it is for.
    """

    words: tuple[str, ...]
    request: GraphRequest | None = None
    call: Callable[[], object] | None = None
    note: str = ""

    def text(self) -> str:
        """The command for a shell.

        Returns
        -------
        str
            Quoted words.
        """
        return " ".join(_quote(word) for word in self.words)


@contextlib.contextmanager
def _quiet_log() -> Iterator[None]:
    """The log as it was: the verbs of the butler leave the level of its loggers at INFO."""
    from lsst.daf.butler.cli.cliLog import CliLog

    loggers = [logging.getLogger(name) for name in (None, "lsst", "lsst.daf.butler._storage_class")]
    levels = [logger.level for logger in loggers]
    # It says of types of pandas that they cannot be imported; nothing of ours uses them.
    loggers[-1].setLevel(logging.ERROR)
    try:
        yield
    finally:
        CliLog.resetLog()
        logging.captureWarnings(False)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _run_butler(words: list[str]) -> None:
    with _quiet_log():
        _call_butler(words)


def _call_butler(words: list[str]) -> None:
    import click
    from lsst.daf.butler.cli.butler import cli

    try:
        cli.main(args=["--log-level", "WARNING", *words], prog_name="butler", standalone_mode=False)
    except click.ClickException as exc:
        raise CommandError(f"butler {words[0]}: {exc.format_message()}") from exc
    except click.exceptions.Exit as exc:
        if exc.exit_code:
            raise CommandError(f"butler {words[0]} ended with code {exc.exit_code}") from exc
    except SystemExit as exc:
        if exc.code:
            raise CommandError(f"butler {words[0]} ended with code {exc.code}") from exc


def _run_skymill(words: list[str]) -> None:
    import click

    [point] = entry_points(group="console_scripts", name="skymill")
    try:
        point.load().main(args=words, prog_name="skymill", standalone_mode=False)
    except click.ClickException as exc:
        raise CommandError(f"skymill {words[0]}: {exc.format_message()}") from exc


def perform(command: Command) -> None:
    """Perform a command in this process: starting a new one costs more than a second.

    Parameters
    ----------
    command : Command
        A ``butler`` or ``skymill`` command, or one with its own call.

    Raises
    ------
    CommandError
        If it fails.
    """
    if command.call is not None:
        command.call()
        return
    program, *words = command.words
    runners = {"butler": _run_butler, "skymill": _run_skymill}
    if program not in runners:
        raise CommandError(f"cannot perform {command.text()!r} here; type it yourself")
    try:
        runners[program](words)
    except SkymillError:
        raise
    except FileNotFoundError as exc:
        raise MissingInputError(f"{command.text()}: {exc}") from exc

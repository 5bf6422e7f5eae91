"""Subcommands of ``butler``, under the names that users of Rubin's software know."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

__all__ = ["get_cli_subcommands"]


def get_cli_subcommands() -> list[click.Command]:
    """The commands that the entry point ``butler.cli`` adds.

    Returns
    -------
    list of click.Command
        ingest-raws, define-visits, write-curated-calibrations, register-skymap, ingest-refcat,
        import-calibrations.
    """
    from skymill.cli.butler.verbs import COMMANDS

    return COMMANDS

"""``skymill release``: from community-processed images to a data release.

The verbs are the click commands of three modules, which are imported when the group is used.
"""

from __future__ import annotations

import importlib
import importlib.util

import click

__all__ = ["release"]

_MODULES = (
    "skymill.cli.release_survey",
    "skymill.cli.release_brick",
    "skymill.cli.release_finish",
)


def _commands(module_name: str) -> dict[str, click.Command]:
    if importlib.util.find_spec(module_name) is None:
        return {}
    module = importlib.import_module(module_name)
    found = [v for v in vars(module).values() if isinstance(v, click.Command)]
    return {c.name: c for c in found if c.name and not isinstance(c, ReleaseGroup)}


class ReleaseGroup(click.Group):
    """The verbs of a release, in the order in which a release needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return [name for module in _MODULES for name in _commands(module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One verb by its name."""
        for module in _MODULES:
            found = _commands(module).get(cmd_name)
            if found is not None:
                return found
        return None


@click.command(
    "release", cls=ReleaseGroup, context_settings={"help_option_names": ["-h", "--help"]}
)
def release() -> None:
    """From community-processed images to bricks, catalogues and a data release.

    The survey directory is the folder that holds images/, calib/ and survey-ccds-*: give it with
    --survey-dir or in the environment variable LEGACY_SURVEY_DIR.
    """

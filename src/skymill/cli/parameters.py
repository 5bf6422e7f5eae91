"""What several verbs have in common: kinds of values, the folder of the products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from skymill.data.errors import DataError

__all__ = ["CENTRE", "make_folder", "option_set"]


class Centre(click.ParamType):
    """``RA,DEC`` in degrees."""

    name = "RA,DEC"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        """Two numbers, checked."""
        if isinstance(value, tuple):
            return value
        try:
            ra, dec = (float(v) for v in value.split(","))
        except ValueError:
            self.fail(f"a centre is RA,DEC in degrees, as 150.1,2.2; got {value!r}", param, ctx)
        if not (-360.0 <= ra <= 360.0 and -90.0 <= dec <= 90.0):
            self.fail(f"RA must be in [0, 360) and Dec in [-90, 90]; got {value!r}", param, ctx)
        return ra % 360.0, dec


#: ``--centre 150.1,2.2``
CENTRE = Centre()


def make_folder(path: Path) -> Path:
    """Make a folder for products, if it is absent."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"the folder {path} cannot be made: {err.strerror}") from err
    return path


def option_set(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Options that several verbs share, as one decorator; help lists them in this order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate

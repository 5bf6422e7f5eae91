"""Options of algorithms: frozen dataclasses whose fields carry their own documentation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from skymill.data.errors import ConfigError

__all__ = ["check_choice", "check_range", "option", "parse_band_values"]


def option(default: Any, doc: str, *, unit: str = "") -> Any:
    """A field of an Options dataclass.

    Parameters
    ----------
    default : object
        Default value.
    doc : str
        One sentence for the user.
    unit : str
        Unit of the value; empty for a pure number.

    Returns
    -------
    dataclasses.Field
        The field, with ``doc`` and ``unit`` in its metadata.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "unit": unit})


def check_range(
    options: object,
    name: str,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
) -> None:
    """Raise unless an option lies in its range.

    Parameters
    ----------
    options : dataclass
        The options.
    name : str
        Field to check.
    low, high : float, optional
        Limits, inclusive.
    low_open : bool
        Exclude ``low`` itself.

    Raises
    ------
    ConfigError
        With the name, the value, the range and the unit.
    """
    value = getattr(options, name)
    if value is None:
        return
    unit = next(f.metadata.get("unit", "") for f in dataclasses.fields(options) if f.name == name)  # type: ignore[arg-type]
    too_low = low is not None and (value < low or (low_open and value == low) or value != value)
    too_high = high is not None and (value > high or value != value)
    if too_low or too_high:
        bounds = []
        if low is not None:
            bounds.append(f"{'>' if low_open else '>='} {low}")
        if high is not None:
            bounds.append(f"<= {high}")
        raise ConfigError(
            f"{name} must be {' and '.join(bounds)}{' ' + unit if unit else ''}; got {value}"
        )


def check_choice(options: object, name: str, allowed: tuple[str, ...]) -> None:
    """Raise unless an option is one of the allowed words.

    Parameters
    ----------
    options : dataclass
        The options.
    name : str
        Field to check.
    allowed : tuple of str
        Words.

    Raises
    ------
    ConfigError
        With the name, the value and the words.
    """
    value = getattr(options, name)
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def parse_band_values(entries: Sequence[str], *, form: str) -> dict[str, float]:
    """Numbers of bands written as ``band=value``.

    Parameters
    ----------
    entries : sequence of str
        For example ``("g=3.2", "r=2.2")``.
    form : str
        How they are written, for the message: ``a coefficient is written band=value``.

    Returns
    -------
    dict of str to float
        By band.

    Raises
    ------
    ConfigError
        If an entry is malformed or not finite.
    """
    out = {}
    for entry in entries:
        band, _, text = entry.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ConfigError(f"{form}; got {entry!r}")
        out[band.strip()] = value
    return out

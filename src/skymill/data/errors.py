"""Errors of skymill. Each also inherits the builtin that a caller would expect."""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "FitError",
    "MissingInputError",
    "NoDataError",
    "SkymillError",
]


class SkymillError(Exception):
    """Base of every error that skymill raises on purpose.

    The message is one sentence that says what is wrong, the value, what is allowed and, where
    known, what to do about it. The command line prints it without a traceback.
    """


class DataError(SkymillError, ValueError):
    """An input (file, array, table) is not what it has to be."""


class ConfigError(SkymillError, ValueError):
    """A setting is outside its allowed range, or two settings contradict each other."""


class MissingInputError(SkymillError, FileNotFoundError):
    """A file, dataset or table that is needed does not exist."""


class NoDataError(SkymillError, RuntimeError):
    """There is nothing to work on: no sources, no stars, no overlap."""


class FitError(SkymillError, RuntimeError):
    """A fit did not converge or is not constrained by its data."""

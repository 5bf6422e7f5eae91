"""A user's own shear algorithm in the place of ours, named by its dotted path.

Two places take one, both as options of steps and of functions:

- ``CalibrateShearOptions.method``: ``calibrate(catalogue, use, options) -> table``. ``catalogue``
  are the galaxies (columns of ``exportCatalog``), ``use`` (n,) bool those that pass the cuts; the
  table has one row for each galaxy with ``g1``, ``g2`` (pixel axes, x to the West) and ``weight``;
  ``e_rms``, ``shear_m``, ``shear_c1``, ``shear_c2`` if they mean something, ``outside`` (bool) for
  galaxies that the method does not hold for.
- ``MetadetectOptions.shapes``: ``measure(image, x, y, sigma, noise) -> dict``. ``image`` (n, n)
  float32 is the sheared sum of the bands, whose PSF is a round Gaussian of ``sigma`` pixels,
  ``x``, ``y`` (m,) float64 are the peaks [pixel], ``noise`` is the scatter of the flux under a
  Gaussian weight of that width. The dict has ``x``, ``y``, ``e1``, ``e2``, ``size_ratio``, ``snr``
  (m,) float64 and ``flags`` (m,) int, 0 for a good shape. It is called for every applied shear and
  must not know which it is.

A class is made without arguments and its instance called.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from skymill.data.errors import ConfigError

__all__ = ["check_algorithm", "load_algorithm"]


def check_algorithm(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless a setting is one of our algorithms or looks like a dotted path.

    Parameters
    ----------
    name : str
        The setting.
    value : str
        Its value.
    known : tuple of str
        Our algorithms.

    Raises
    ------
    ConfigError
        With the value and what is allowed.
    """
    if value not in known and "." not in value:
        raise ConfigError(
            f"{name} must be one of {', '.join(known)} or the dotted path of a function or class "
            f"(my_package.my_module.my_function); got {value!r}"
        )


def load_algorithm(name: str, path: str) -> Callable[..., Any]:
    """Import a function, or a class and make its instance.

    Parameters
    ----------
    name : str
        The setting, for the error message.
    path : str
        Dotted path.

    Returns
    -------
    callable
        What was found.

    Raises
    ------
    ConfigError
        If the module cannot be imported, or has no such callable.
    """
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{name} {path!r} cannot be imported ({error}): it must be a function or class of a "
            "module that this Python finds (install it or set PYTHONPATH)"
        ) from error
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise ConfigError(f"{name} {path!r} is a {type(found).__name__}, not a function or class")
    algorithm: Callable[..., Any] = found
    return algorithm

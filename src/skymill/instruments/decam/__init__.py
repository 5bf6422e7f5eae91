"""The Dark Energy Camera of the Blanco telescope."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skymill.instruments.decam.instrument import DarkEnergyCamera

__all__ = ["DarkEnergyCamera"]


def __getattr__(name: str) -> Any:
    # The instrument needs the middleware; the facts, which simulations import, do not.
    if name == "DarkEnergyCamera":
        module = importlib.import_module("skymill.instruments.decam.instrument")
        return module.DarkEnergyCamera
    raise AttributeError(f"module {__name__} has no attribute {name!r}")

"""Check the docstrings of every public function with numpydoc.

Public is what a module lists in ``__all__``. Functions must document each parameter and what they
return; classes must have a summary. Exits with 1 and one line for each fault.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys

from numpydoc.validate import validate

import skymill

CHECKS = {"GL08", "PR01", "PR02", "PR03", "RT01", "SS01"}
#: Commands are documented by click, tasks' signatures by their connections.
SKIPPED = ("skymill.cli",)


def public_functions() -> list[str]:
    """Dotted names of all public functions and classes, each where it is defined."""
    names = []
    for info in pkgutil.walk_packages(skymill.__path__, "skymill."):
        if info.name.startswith(SKIPPED) or info.name.rsplit(".", 1)[-1].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if getattr(value, "__module__", None) == info.name and inspect.isfunction(value):
                names.append(f"{info.name}.{name}")
    return names


def main() -> int:
    """Print the faults; 1 if there are any."""
    faults = []
    for name in public_functions():
        for code, message in validate(name)["errors"]:
            if code in CHECKS:
                faults.append(f"{name}: {code} {message}")
    print("\n".join(faults) if faults else "docstrings: all public functions are documented")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

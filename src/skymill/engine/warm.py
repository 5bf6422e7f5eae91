"""Compile the numba kernels of all folders once, before the first run: ``python -m
skymill.engine.warm``.

The signatures stand in ``kernel_signatures.txt``, one a line. A kernel that is not there, or whose
signature has changed, is compiled when it is first called, as ever.
"""

from __future__ import annotations

import importlib
import importlib.resources
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

__all__ = ["compile_module", "main", "read_signatures"]


def read_signatures() -> dict[str, list[tuple[str, str]]]:
    """The kernels that the steps call.

    Returns
    -------
    dict of str to list of (str, str)
        For each module its functions with the types of their arguments.
    """
    text = (importlib.resources.files("skymill.engine") / "kernel_signatures.txt").read_text()
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, types = line.partition(" ")
            module, _, function = name.rpartition(".")
            found.setdefault(f"skymill.{module}", []).append((function, types))
    return found


def compile_module(module: str, functions: list[tuple[str, str]]) -> list[str]:
    """Compile the kernels of one module into numba's cache.

    Parameters
    ----------
    module : str
        Its name.
    functions : list of (str, str)
        Functions and their types.

    Returns
    -------
    list of str
        What could not be compiled.
    """
    from numba.core.errors import NumbaError
    from numba.core.sigutils import normalize_signature

    problems = []
    for function, types in functions:
        try:
            # The cache goes by the types themselves: a string would never be found again.
            arguments, _ = normalize_signature(types)
            getattr(importlib.import_module(module), function).compile(arguments)
        except (ImportError, AttributeError, NumbaError) as exc:
            problems.append(f"{module}.{function}: {type(exc).__name__}")
    return problems


def main() -> int:
    """Compile everything, a module for each process at a time.

    Returns
    -------
    int
        0: what cannot be compiled now is compiled when it is needed.
    """
    start = time.monotonic()
    # The large families first, so that no process is left alone with one of them.
    work = sorted(read_signatures().items(), key=lambda item: -sum(len(t) for _, t in item[1]))
    n_processes = min(8, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(compile_module, *item) for item in work]
        problems = [text for future in futures for text in future.result()]
    n = sum(len(functions) for _, functions in work)
    seconds = time.monotonic() - start
    sys.stdout.write(f"{n - len(problems)} compiled kernels ready in {seconds:.0f} s\n")
    for text in problems:
        sys.stderr.write(f"compiled on first use: {text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

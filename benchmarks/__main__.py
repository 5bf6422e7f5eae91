"""Run every benchmark of this folder, or the named ones: ``python -m benchmarks [NAME...]``."""

import importlib
import pkgutil
import sys
import traceback

import benchmarks


def main(names: list[str]) -> int:
    """Run ``main()`` of each module; a benchmark that cannot run is reported, not fatal."""
    found = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name[0] != "_")
    unknown = sorted(set(names) - set(found))
    if unknown:
        print(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(found)}")
        return 2
    failed = 0
    for name in names or found:
        print(f"== {name}", flush=True)
        try:
            importlib.import_module(f"benchmarks.{name}").main()
        except Exception:
            failed += 1
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

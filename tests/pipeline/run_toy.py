"""A driver in a process of its own: run_toy.py ROOT OUTPUT [label:field=value ...]."""

import sys
from pathlib import Path

from skymill.engine import LocalSite, run

if __name__ == "__main__":
    root = Path(sys.argv[1])
    report = run(
        root / "repo",
        str(root / "toy.yaml"),
        ["toy/raw"],
        sys.argv[2],
        config=sys.argv[3:],
        site=LocalSite(workers=2),
        show_progress=False,
    )
    sys.stdout.write(report.text() + "\n")
    sys.exit(130 if report.interrupted else 0 if report.ok else 1)

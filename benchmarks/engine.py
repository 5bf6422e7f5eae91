"""Overhead of the engine for each quantum, against ``pipetask run -j2``.

600 quanta that do nothing, two workers, start-up and registry included.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOY = Path(__file__).parents[1] / "tests" / "pipeline"
N_QUANTA = 600
#: pipetask takes more than a second for each quantum: a part is enough to know the rate.
N_PEER = 24


def _make(root: Path, n_detectors: int) -> tuple[Path, Path]:
    sys.path.insert(0, str(TOY))
    import engine_toy

    return engine_toy.make_repo(root, n_detectors)


def time_engine(root: Path) -> tuple[float, float]:
    """Milliseconds per quantum: execution with start-up; everything with graph and registry."""
    from skymill.engine import LocalSite, run

    repo, pipeline = _make(root, N_QUANTA)
    start = time.perf_counter()
    report = run(
        repo,
        f"{pipeline}#one",
        ["toy/raw"],
        "toy/out",
        site=LocalSite(workers=2),
        show_progress=False,
    )
    total = time.perf_counter() - start
    assert report.count("done") == N_QUANTA
    return 1e3 * report.execute_s / N_QUANTA, 1e3 * total / N_QUANTA


def time_pipetask(root: Path) -> float:
    """Milliseconds per quantum of ``pipetask run -j2``."""
    repo, pipeline = _make(root, N_PEER)
    command = [str(Path(sys.prefix) / "bin" / "pipetask"), "run", "-b", str(repo)]
    command += ["-p", f"{pipeline}#one", "-i", "toy/raw", "-o", "toy/out", "-j", "2"]
    start = time.perf_counter()
    subprocess.run(
        [*command, "--register-dataset-types"],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(TOY)},
    )
    return 1e3 * (time.perf_counter() - start) / N_PEER


def main() -> dict[str, float]:
    """Print the times and their ratio."""
    os.environ["PYTHONPATH"] = str(TOY)
    with tempfile.TemporaryDirectory() as folder:
        execution, total = time_engine(Path(folder) / "ours")
        peer = time_pipetask(Path(folder) / "peer")
    print(f"engine: {execution:.1f} ms/quantum with start-up, {total:.1f} ms with graph, registry")
    print(f"pipetask run -j2: {peer:.0f} ms/quantum; ratio {peer / total:.0f}")
    return {"engine_ms": execution, "engine_total_ms": total, "pipetask_ms": peer}


if __name__ == "__main__":
    main()

"""Make a small simulated survey folder to try the release on, with its truth beside it.

    python make_patch.py FOLDER [--size tiny|small] [--calibrated] [--seed N] [--processes N]

FOLDER/survey is a LEGACY_SURVEY_DIR; FOLDER/truth says what is on the sky.
"""

from __future__ import annotations

import argparse

from skymill.sims.community import PATCH_PRESETS, patch_preset, simulate_release_patch


def main() -> None:
    """Read the arguments and make the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--size", choices=list(PATCH_PRESETS), default="tiny")
    parser.add_argument(
        "--calibrated", action="store_true", help="with true zero points, PSF and sky"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    options = patch_preset(given.size, seed=given.seed, calibrated=given.calibrated)
    simulate_release_patch(given.folder, options, processes=given.processes)


if __name__ == "__main__":
    main()

"""A simulated survey that the tests of this folder share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from survey_settings import write_settings


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory) -> Path:
    """Raw frames of one CCD in r with zero frames, flats and catalogues."""
    from skymill.sims.survey import simulate_survey, survey_preset

    folder = tmp_path_factory.mktemp("tiny")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    simulate_survey(folder, survey_preset("tiny", zeros=2, flats=2), processes=1)
    write_settings(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_repository(tiny_survey) -> Path:
    """The survey with its repository, up to the calibration frames."""
    from skymill.campaign import Campaign, load_cluster, select_steps

    campaign = Campaign(load_cluster(tiny_survey / "cluster.yaml"), show_progress=False)
    campaign.run(select_steps(last="make_calibrations"))
    return tiny_survey

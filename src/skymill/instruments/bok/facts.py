"""Facts about 90prime: zero points, extinction, colour terms against Pan-STARRS1.

Sources: the Legacy Surveys' constants for BASS, DR7 to DR9; Zou et al. 2017, PASP 129, 064101.
"""

from __future__ import annotations

from skymill.instruments.survey_camera import SurveyCamera

__all__ = ["CAMERA"]

CAMERA = SurveyCamera(
    name="90prime",
    prefix="ksb",
    header_words=("90prime",),
    pixel_scale=0.454,
    unit_is_electrons_per_second=True,
    zero_points={"g": 26.93, "r": 27.01},
    extinction={"g": 0.17, "r": 0.10},
    ps1_colour_terms={
        "g": (0.00464, 0.08672, -0.00668, -0.00255),
        "r": (0.00110, -0.06875, 0.02480, -0.00855),
    },
    ignored_codes=frozenset({7, 8}),
    min_stars=20,
    typical_gain=1.4,
)

"""Facts about DECam as a camera of the Legacy Surveys, for images of the Community Pipeline.

Sources: the Legacy Surveys' constants for DECaLS, DR8 and later; Dey et al. 2019, AJ 157, 168.
"""

from __future__ import annotations

from skymill.instruments.survey_camera import SurveyCamera

__all__ = ["CAMERA"]

CAMERA = SurveyCamera(
    name="decam",
    prefix="c4d",
    header_words=("decam",),
    pixel_scale=0.262,
    unit_is_electrons_per_second=False,
    zero_points={
        "u": 23.3205, "g": 25.001, "r": 25.209, "i": 25.149, "z": 24.875, "Y": 23.712,
    },
    extinction={"u": 0.63, "g": 0.173, "r": 0.090, "i": 0.054, "z": 0.060, "Y": 0.058},
    ps1_colour_terms={
        "g": (0.00062, 0.03604, 0.01028, -0.00613),
        "r": (0.00495, -0.08435, 0.03222, -0.01140),
        "i": (0.00904, -0.04171, 0.00566, -0.00829),
        "z": (0.02583, -0.07690, 0.02824, -0.00898),
        "Y": (0.02332, -0.05992, 0.02840, -0.00572),
    },
    ignored_codes=frozenset({8}),
    min_stars=5,
    typical_gain=4.0,
)  # fmt: skip

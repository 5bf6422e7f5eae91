"""Facts about Mosaic-3: zero points, extinction, colour terms against Pan-STARRS1.

Sources: the Legacy Surveys' constants for MzLS, DR6 to DR9; Dey et al. 2019, AJ 157, 168.
"""

from __future__ import annotations

from skymill.instruments.survey_camera import SurveyCamera

__all__ = ["CAMERA"]

CAMERA = SurveyCamera(
    name="mosaic",
    prefix="k4m",
    header_words=("mosaic3", "mosaic"),
    pixel_scale=0.262,
    unit_is_electrons_per_second=True,
    zero_points={"z": 26.552},
    extinction={"z": 0.06},
    ps1_colour_terms={"z": (0.03664, -0.11084, 0.04477, -0.01223)},
    ignored_codes=frozenset({7, 8}),
    min_stars=20,
    typical_gain=1.91,
)

"""Members of clusters: the red sequence, probabilities, density of galaxies, purity."""

from __future__ import annotations

from skymill.lensing.members.purity import grade_members
from skymill.lensing.members.red_sequence import (
    RedSequence,
    RedSequenceOptions,
    find_red_sequence,
)

__all__ = ["RedSequence", "RedSequenceOptions", "find_red_sequence", "grade_members"]

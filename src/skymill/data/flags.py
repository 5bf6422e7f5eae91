"""Flag bits of catalogues, one word (uint32) for each measurement. Append only.

A column ``<measurement>_flags`` holds the bits of the enum named here for it.
"""

from __future__ import annotations

import enum

__all__ = ["FLAG_DOC", "MeasureFlag"]


class MeasureFlag(enum.IntFlag):
    """Why a measurement of one object is unsure or absent."""

    EDGE = 1 << 0
    UNUSABLE_CENTRE = 1 << 1
    UNUSABLE_PIXELS = 1 << 2
    SATURATED = 1 << 3
    NO_VARIANCE = 1 << 4
    NOT_CONVERGED = 1 << 5
    BAD_MOMENTS = 1 << 6
    NO_PSF = 1 << 7
    NEGATIVE_FLUX = 1 << 8
    AT_LIMIT = 1 << 9
    NO_DATA = 1 << 10
    BLENDED = 1 << 11
    CENTROID_SHIFTED = 1 << 12
    INTERPOLATED = 1 << 13
    CLIPPED = 1 << 14


#: What each bit means; written into the table's metadata.
FLAG_DOC: dict[str, str] = {
    "EDGE": "the aperture or stamp leaves the image",
    "UNUSABLE_CENTRE": "an unusable pixel within one pixel of the centre",
    "UNUSABLE_PIXELS": "unusable pixels inside the aperture or stamp",
    "SATURATED": "saturated pixels inside the aperture or stamp",
    "NO_VARIANCE": "variance zero, negative or not finite",
    "NOT_CONVERGED": "the iteration did not converge",
    "BAD_MOMENTS": "second moments are not positive definite",
    "NO_PSF": "the PSF model has no value here",
    "NEGATIVE_FLUX": "the flux is not positive, so that ratios to it are undefined",
    "AT_LIMIT": "a fitted parameter stands at the limit of its range",
    "NO_DATA": "not measured: no pixels in this band",
    "BLENDED": "measured on pixels shared with a neighbour",
    "CENTROID_SHIFTED": "the centroid moved away from its peak by more than the limit",
    "INTERPOLATED": "the centre lies on interpolated pixels",
    "CLIPPED": "an input was clipped within the stamp of a coadd",
}

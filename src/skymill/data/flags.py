"""Flag bits of catalogues, one word (uint32) for each measurement. Append only.

A column ``<measurement>_flags`` holds the bits of the enum named here for it.
"""

from __future__ import annotations

import enum

__all__ = [
    "FLAG_DOC",
    "PHOTOMETRY_FLAG_DOC",
    "PHOTOZ_FLAG_DOC",
    "SHEAR_FLAG_DOC",
    "MeasureFlag",
    "PhotometryFlag",
    "PhotozFlag",
    "ShearFlag",
]


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


class PhotozFlag(enum.IntFlag):
    """Why a photometric redshift is unsure or absent (column ``photoz_flags``)."""

    NO_ESTIMATE = 1 << 0
    FEW_BANDS = 1 << 1
    PRIOR_OTHER_BAND = 1 << 2
    NO_PRIOR = 1 << 3
    AT_LIMIT = 1 << 4


class ShearFlag(enum.IntFlag):
    """Why a galaxy's shear must not be used, or is unsure (column ``shear_flags``)."""

    NO_SHAPE = 1 << 0
    CUT = 1 << 1
    OUTSIDE_CALIBRATION = 1 << 2
    LARGE_SHEAR = 1 << 3


class PhotometryFlag(enum.IntFlag):
    """What is unsure about a calibrated magnitude (column ``photometry_flags``)."""

    NO_EXTINCTION = 1 << 0
    NO_CLASS = 1 << 1


#: What each bit of the three words above means.
PHOTOZ_FLAG_DOC: dict[str, str] = {
    "NO_ESTIMATE": "fewer than two bands, or no template fits at all",
    "FEW_BANDS": "fewer than three bands",
    "PRIOR_OTHER_BAND": "the prior's magnitude is that of another band than asked for",
    "NO_PRIOR": "no positive flux in any band: the prior is flat",
    "AT_LIMIT": "the mode stands at the end of the redshift grid",
}
SHEAR_FLAG_DOC: dict[str, str] = {
    "NO_SHAPE": "the shape or its error is not finite, or its measurement failed",
    "CUT": "rejected by a cut of the shear catalogue",
    "OUTSIDE_CALIBRATION": "outside of the range in which the calibration was determined",
    "LARGE_SHEAR": "the calibrated shear is larger than the limit",
}
PHOTOMETRY_FLAG_DOC: dict[str, str] = {
    "NO_EXTINCTION": "outside of the extinction map: not dereddened",
    "NO_CLASS": "neither star nor galaxy: the classification failed",
}

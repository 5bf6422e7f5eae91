"""Bits of the Legacy Surveys' releases: data quality, mask bits and fit bits, with their words."""

from __future__ import annotations

import enum

__all__ = ["FIT_BITS", "MASK_BITS", "QUALITY_BITS", "FitBit", "MaskBit", "Quality"]


class Quality(enum.IntFlag):
    """Why a pixel of an exposure is not used: bits of ``allmask`` and ``anymask``."""

    BADPIX = 1
    SATUR = 2
    INTERP = 4
    CR = 16
    BLEED = 64
    TRANS = 128
    EDGE = 256
    EDGE2 = 512
    OUTLIER = 2048


class MaskBit(enum.IntFlag):
    """Bits of ``maskbits``: facts about the place of an object, or of a pixel of the brick."""

    NPRIMARY = 1
    BRIGHT = 2
    SATUR_G = 4
    SATUR_R = 8
    SATUR_Z = 16
    ALLMASK_G = 32
    ALLMASK_R = 64
    ALLMASK_Z = 128
    WISEM1 = 256
    WISEM2 = 512
    BAILOUT = 1024
    MEDIUM = 2048
    GALAXY = 4096
    CLUSTER = 8192
    SATUR_I = 16384
    ALLMASK_I = 32768
    SUB_BLOB = 65536


class FitBit(enum.IntFlag):
    """Bits of ``fitbits``: how an object was fitted."""

    FORCED_POINTSOURCE = 1
    FIT_BACKGROUND = 2
    HIT_RADIUS_LIMIT = 4
    HIT_SERSIC_LIMIT = 8
    FROZEN = 16
    BRIGHT = 32
    MEDIUM = 64
    GAIA = 128
    TYCHO2 = 256
    LARGEGALAXY = 512
    WALKER = 1024
    RUNNER = 2048
    GAIA_POINTSOURCE = 4096
    ITERATIVE = 8192


#: Word and comment of each bit, as the headers of the releases give them.
QUALITY_BITS: dict[Quality, str] = {bit: bit.name.lower() for bit in Quality if bit.name}

MASK_BITS: dict[MaskBit, tuple[str, str]] = {
    MaskBit.NPRIMARY: ("MB_NPRIM", "not primary brick area"),
    MaskBit.BRIGHT: ("MB_BRIGH", "bright star nearby"),
    MaskBit.SATUR_G: ("MB_SAT_G", "g band saturated"),
    MaskBit.SATUR_R: ("MB_SAT_R", "r band saturated"),
    MaskBit.SATUR_Z: ("MB_SAT_Z", "z band saturated"),
    MaskBit.ALLMASK_G: ("MB_ALL_G", "any ALLMASK_G bit set"),
    MaskBit.ALLMASK_R: ("MB_ALL_R", "any ALLMASK_R bit set"),
    MaskBit.ALLMASK_Z: ("MB_ALL_Z", "any ALLMASK_Z bit set"),
    MaskBit.WISEM1: ("MB_WISE1", "WISE W1 (all masks)"),
    MaskBit.WISEM2: ("MB_WISE2", "WISE W2 (all masks)"),
    MaskBit.BAILOUT: ("MB_BAIL", "Bailed out processing"),
    MaskBit.MEDIUM: ("MB_MED", "medium-bright star"),
    MaskBit.GALAXY: ("MB_GAL", "SGA large galaxy"),
    MaskBit.CLUSTER: ("MB_CLUST", "Globular cluster"),
    MaskBit.SATUR_I: ("MB_SAT_I", "i band saturated"),
    MaskBit.ALLMASK_I: ("MB_ALL_I", "any ALLMASK_I bit set"),
    MaskBit.SUB_BLOB: ("MB_SUBBL", "large blobs broken up"),
}

FIT_BITS: dict[FitBit, tuple[str, str]] = {
    FitBit.FORCED_POINTSOURCE: ("FB_FPSF", "forced to be PSF"),
    FitBit.FIT_BACKGROUND: ("FB_FITBG", "background levels fit"),
    FitBit.HIT_RADIUS_LIMIT: ("FB_RLIM", "hit radius limit during fit"),
    FitBit.HIT_SERSIC_LIMIT: ("FB_SLIM", "hit Sersic index limit during fit"),
    FitBit.FROZEN: ("FB_FROZE", "parameters were not fit"),
    FitBit.BRIGHT: ("FB_BRITE", "bright star"),
    FitBit.MEDIUM: ("FB_MED", "medium-bright star"),
    FitBit.GAIA: ("FB_GAIA", "Gaia source"),
    FitBit.TYCHO2: ("FB_TYCHO", "Tycho-2 star"),
    FitBit.LARGEGALAXY: ("FB_LGAL", "SGA large galaxy"),
    FitBit.WALKER: ("FB_WALK", "fitting moved pos > 1 arcsec"),
    FitBit.RUNNER: ("FB_RUN", "fitting moved pos > 2.5 arcsec"),
    FitBit.GAIA_POINTSOURCE: ("FB_GPSF", "Gaia source treated as point source"),
    FitBit.ITERATIVE: ("FB_ITER", "source detected during iterative detection"),
}

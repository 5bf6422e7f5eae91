"""Reasons not to use a CCD: the bits of ``ccd_cuts``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.options import check_range, option
from skymill.instruments.survey_camera import SURVEY_CAMERAS, survey_camera

__all__ = ["CUT_BITS", "CUT_DOC", "CutOptions", "apply_cuts", "count_cuts", "read_bad_exposures"]

BoolArray = NDArray[np.bool_]
Float64Array = NDArray[np.float64]

#: Bits of ``ccd_cuts``.
CUT_BITS: dict[str, int] = {
    "err": 0x1, "not_grz": 0x2, "not_third_pix": 0x4, "exptime": 0x8, "ccdnmatch": 0x10,
    "zpt_diff_avg": 0x20, "zpt_small": 0x40, "zpt_large": 0x80, "sky_bright": 0x100,
    "badexp": 0x200, "phrms": 0x400, "radecrms": 0x800, "seeing_bad": 0x1000,
    "early_decam": 0x2000, "depth_cut": 0x4000, "too_many_bad_ccds": 0x8000,
    "flagged_in_des": 0x10000, "phrms_s7": 0x20000, "depth_cut_2": 0x40000, "plver": 0x80000,
}  # fmt: skip

#: What each bit means.
CUT_DOC: dict[str, str] = {
    "err": "no zero point was made",
    "not_grz": "the band is not one of the survey",
    "not_third_pix": "Mosaic-3 without the shift of a third of a pixel, before MJD 57674",
    "exptime": "exposure shorter than the limit",
    "ccdnmatch": "fewer photometric stars than the limit",
    "zpt_diff_avg": "zero point of the CCD far from that of its exposure",
    "zpt_small": "zero point too small: clouds",
    "zpt_large": "zero point too large",
    "sky_bright": "bright sky",
    "badexp": "the exposure is in the list of bad ones",
    "phrms": "stars scatter about the zero point",
    "radecrms": "positions scatter about the reference",
    "seeing_bad": "seeing worse than the limit, or unknown",
    "early_decam": "DECam before its optics and baffles were final",
    "depth_cut": "deep enough without this exposure (depth cut by bricks)",
    "too_many_bad_ccds": "most CCDs of the exposure are bad",
    "flagged_in_des": "flagged by the Dark Energy Survey",
    "phrms_s7": "stars scatter on the CCD S7 of DECam",
    "depth_cut_2": "deep enough without this exposure (depth cut by tiles)",
    "plver": "version of the Community Pipeline below the limit",
}

#: Lowest and highest zero point about the typical one, by camera and band [mag].
_ZERO_POINTS = {
    "decam": {"g": 25.08, "r": 25.29, "i": 25.26, "z": 24.92},
    "mosaic": {"z": 26.20},
    "90prime": {"g": 25.74, "r": 25.52},
}
_WINDOWS = {"decam": (0.5, 0.25), "mosaic": (1.0, 0.8), "90prime": (0.5, 0.18)}

#: Brightest sky [counts/s].
_SKY = {"decam": {"g": 90.0, "r": 150.0, "i": 165.0, "z": 180.0}, "mosaic": {"z": 200.0}}
_FULL_WELL = 35000.0
_RADEC = {"decam": 0.4, "mosaic": 0.1, "90prime": 0.2}
_ZPT_DIFF = {"decam": 0.25, "mosaic": 0.1, "90prime": 0.1}
_THIRD_PIXEL_MJD = 57674.0


@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """The limits, and which cuts are made."""

    skip: tuple[str, ...] = option((), "cuts that are not made")
    bands: tuple[str, ...] = option((), "bands of the survey; those of the camera if empty")
    exptime: float = option(30.0, "shortest exposure", unit="s")
    n_match: int = option(20, "fewest photometric stars")
    zpt_diff: float | None = option(
        None, "largest difference from the exposure's zero point; the camera's if omitted",
        unit="mag",
    )  # fmt: skip
    phrms: float = option(0.1, "largest scatter of the stars", unit="mag")
    radecrms: float | None = option(
        None, "largest scatter of the positions; the camera's if omitted", unit="arcsec"
    )
    max_seeing: float = option(3.0, "worst seeing", unit="arcsec")
    early_mjd: float = option(56516.0, "DECam before this is early", unit="d")
    good_fraction: float = option(0.7, "an exposure with fewer good CCDs is bad as a whole")
    plver: str = option("", "lowest version of the Community Pipeline, such as V4.8; any if empty")
    bad_exposures: Mapping[int, str] = field(default_factory=dict)
    flagged_in_des: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        unknown = [name for name in self.skip if name not in CUT_BITS]
        if unknown:
            raise ConfigError(
                f"there is no cut {', '.join(unknown)}; there are {', '.join(CUT_BITS)}"
            )
        check_range(self, "exptime", low=0.0)
        check_range(self, "n_match", low=0)
        check_range(self, "phrms", low=0.0)
        check_range(self, "max_seeing", low=0.0, low_open=True)
        check_range(self, "good_fraction", low=0.0, high=1.0)


def read_bad_exposures(path: str | Path) -> dict[int, str]:
    """The list of bad exposures: a number and a reason on each line.

    Parameters
    ----------
    path : path
        A text file such as ``bad_expid.txt``; lines from ``#`` on are comments.

    Returns
    -------
    dict of int to str
        Exposure to reason.

    Raises
    ------
    MissingInputError, DataError
        If there is no such file; if a line does not begin with a number (or a range ``a-b``).
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInputError(f"there is no list of bad exposures {path}")
    out: dict[int, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split(None, 1)
        if not words:
            continue
        first, dash, last = words[0].partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError as err:
            raise DataError(
                f"{path} line {number} must begin with the number of an exposure; got {line!r}"
            ) from err
        reason = words[1].strip() if len(words) > 1 else ""
        out.update(dict.fromkeys(range(low, high + 1), reason))
    return out


class _Cuts:
    """The cuts of one camera's rows."""

    def __init__(self, table: Table, camera: str, options: CutOptions) -> None:
        self.options, self.camera, self.facts = options, camera, survey_camera(camera)
        self.table, self.n = table, len(table)
        self.band = np.array([str(b).strip() for b in table["filter"]])

    def column(self, name: str, unknown: float = np.nan) -> Float64Array:
        values = np.asarray(self.table[name], float)
        return np.where(np.isfinite(values), values, unknown)

    def by_band(self, values: Mapping[str, float], default: float) -> Float64Array:
        return np.array([values.get(str(b), default) for b in self.band], float)

    def made(self) -> dict[str, BoolArray]:
        """Every cut by its name."""
        names = ("err", "not_grz", "not_third_pix", "exptime", "ccdnmatch", "zpt_diff_avg",
                 "zpt_small", "zpt_large", "sky_bright", "badexp", "phrms", "radecrms",
                 "seeing_bad", "early_decam", "flagged_in_des", "phrms_s7", "plver")  # fmt: skip
        out = {}
        for name in names:
            if name not in self.options.skip:
                test: Callable[[], BoolArray] = getattr(self, f"_{name}")
                out[name] = test()
        return out

    def _err(self) -> BoolArray:
        already = (np.asarray(self.table["ccd_cuts"], np.int64) & CUT_BITS["err"]) != 0
        return already | ~(self.column("ccdzpt", 0.0) > 0)

    def _not_grz(self) -> BoolArray:
        bands = self.options.bands or tuple(_ZERO_POINTS[self.camera])
        return ~np.isin(self.band, bands)

    def _not_third_pix(self) -> BoolArray:
        if self.camera != "mosaic":
            return np.zeros(self.n, bool)
        shifted = np.asarray(self.table["yshift"], bool)
        return ~shifted & (self.column("mjd_obs") < _THIRD_PIXEL_MJD)

    def _exptime(self) -> BoolArray:
        return ~(self.column("exptime", 0.0) >= self.options.exptime)

    def _ccdnmatch(self) -> BoolArray:
        return np.asarray(self.table["ccdnphotom"], int) < self.options.n_match

    def _zpt_diff_avg(self) -> BoolArray:
        limit = self.options.zpt_diff
        limit = _ZPT_DIFF[self.camera] if limit is None else limit
        difference = np.abs(self.column("ccdzpt", 0.0) - self.column("zpt", 0.0))
        return np.asarray(difference > limit)

    def _zero_point(self) -> Float64Array:
        """At airmass 1 for DECam."""
        value = self.column("ccdzpt", 0.0)
        if self.camera != "decam":
            return value
        slope = self.by_band(self.facts.extinction, 0.0)
        airmass = self.column("airmass", 1.0)
        return np.where(airmass >= 1.0, value + slope * (airmass - 1.0), value)

    def _zpt_small(self) -> BoolArray:
        low = self.by_band(_ZERO_POINTS[self.camera], np.inf) - _WINDOWS[self.camera][0]
        return np.asarray(np.isfinite(low) & (self._zero_point() < low))

    def _zpt_large(self) -> BoolArray:
        high = self.by_band(_ZERO_POINTS[self.camera], np.inf) + _WINDOWS[self.camera][1]
        return np.asarray(self._zero_point() > high)

    def _sky_bright(self) -> BoolArray:
        sky = self.column("ccdskycounts")
        limit = self.by_band(_SKY.get(self.camera, {}), np.inf)
        total = sky * self.column("exptime", 0.0)
        return np.asarray((sky > limit) | (total > _FULL_WELL) | ~np.isfinite(sky))

    def _badexp(self) -> BoolArray:
        return np.isin(np.asarray(self.table["expnum"], int), list(self.options.bad_exposures))

    def _phrms(self) -> BoolArray:
        return np.asarray(self.column("ccdphrms", 1.0) > self.options.phrms)

    def _radecrms(self) -> BoolArray:
        limit = self.options.radecrms
        limit = _RADEC[self.camera] if limit is None else limit
        rms = np.hypot(self.column("ccdrarms", 1.0), self.column("ccddecrms", 1.0))
        return np.asarray(rms > limit)

    def _seeing_bad(self) -> BoolArray:
        scale = 3600.0 * np.sqrt(
            np.abs(self.column("cd1_1") * self.column("cd2_2")
                   - self.column("cd1_2") * self.column("cd2_1"))
        )  # fmt: skip
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, self.facts.pixel_scale)
        seeing = self.column("fwhm", -1.0) * scale
        return np.asarray(~(seeing > 0) | (seeing > self.options.max_seeing))

    def _early_decam(self) -> BoolArray:
        early = self.column("mjd_obs", np.inf) < self.options.early_mjd
        return np.asarray(early & (self.camera == "decam"))

    def _flagged_in_des(self) -> BoolArray:
        if self.camera != "decam":
            return np.zeros(self.n, bool)
        return np.isin(np.asarray(self.table["expnum"], int), list(self.options.flagged_in_des))

    def _phrms_s7(self) -> BoolArray:
        names = np.array([str(name).strip() for name in self.table["ccdname"]])
        return np.asarray(
            (names == "S7") & (self.column("ccdphrms", 1.0) > 0.05) & (self.camera == "decam")
        )

    def _plver(self) -> BoolArray:
        if not self.options.plver:
            return np.zeros(self.n, bool)
        lowest = _version(self.options.plver)
        return np.array([_version(str(v)) < lowest for v in self.table["plver"]], bool)


def _version(text: str) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in text).split()
    return tuple(int(d) for d in digits)


def apply_cuts(ccds: Table, *, options: CutOptions = CutOptions()) -> Table:
    """Set ``ccd_cuts`` of every row.

    Parameters
    ----------
    ccds : Table
        Schema ``survey-ccds``; several cameras may be mixed. The bits that only other steps know
        (``depth_cut``, ``depth_cut_2``) are kept as they are.
    options : CutOptions
        Limits and switches.

    Returns
    -------
    Table
        A copy with the bits.

    Raises
    ------
    DataError
        If a row has an unknown camera.
    """
    out = ccds.copy()
    names = np.array([str(name).strip() for name in ccds["camera"]])
    unknown = sorted(set(names) - set(SURVEY_CAMERAS))
    if unknown:
        raise DataError(
            f"the table of CCDs has the camera {', '.join(unknown)}; known are "
            f"{', '.join(SURVEY_CAMERAS)}"
        )
    kept = CUT_BITS["depth_cut"] | CUT_BITS["depth_cut_2"]
    bits = np.asarray(ccds["ccd_cuts"], np.int64) & kept
    for camera in SURVEY_CAMERAS:
        rows = np.flatnonzero(names == camera)
        if rows.size == 0:
            continue
        part = bits[rows]
        for name, hit in _Cuts(ccds[rows], camera, options).made().items():
            part |= np.where(hit, CUT_BITS[name], 0)
        bits[rows] = part
    if "too_many_bad_ccds" not in options.skip:
        bits |= _bad_exposures(ccds, names, bits, options.good_fraction)
    out["ccd_cuts"] = bits
    return out


def _bad_exposures(
    ccds: Table, cameras: NDArray[np.str_], bits: NDArray[np.int64], fraction: float
) -> NDArray[np.int64]:
    """The bit of exposures of which too few CCDs are good."""
    numbers = np.asarray(ccds["expnum"], np.int64)
    _, index = np.unique(
        np.array([f"{c}-{n}" for c, n in zip(cameras, numbers, strict=True)]), return_inverse=True
    )
    total = np.bincount(index)
    good = np.bincount(index, weights=bits == 0)
    hit = (good < fraction * total)[index] & (numbers > 0)
    return np.where(hit, CUT_BITS["too_many_bad_ccds"], 0).astype(np.int64)


def count_cuts(ccds: Table) -> dict[str, int]:
    """Rows that each cut hits.

    Parameters
    ----------
    ccds : Table
        With ``ccd_cuts``.

    Returns
    -------
    dict of str to int
        Cuts with at least one row.
    """
    bits = np.asarray(ccds["ccd_cuts"], np.int64)
    counts = {name: int(((bits & bit) != 0).sum()) for name, bit in CUT_BITS.items()}
    return {name: count for name, count in counts.items() if count}

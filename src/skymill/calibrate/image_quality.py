"""Width and shape of the stars of a CCD, and the choice of CCDs and visits by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate._moffat_kernels import fit_moffats
from skymill.data.errors import DataError
from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.data.masks import UNUSABLE, is_set
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema

__all__ = [
    "MoffatOptions",
    "check_ccd",
    "check_tables",
    "measure_moffat",
]

Float64Array = NDArray[np.float64]

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_FLAGS = np.array(
    [
        0,
        MeasureFlag.EDGE,
        MeasureFlag.UNUSABLE_PIXELS,
        MeasureFlag.NOT_CONVERGED,
        MeasureFlag.AT_LIMIT,
    ],
    dtype=np.uint32,
)


@dataclass(frozen=True, kw_only=True)
class MoffatOptions:
    """How the widths of the stars are measured."""

    half_width: int = option(10, "Half of the stamp's width.", unit="pixel")
    max_stars: int = option(1000, "Brightest stars that are fitted on a CCD.")

    def __post_init__(self) -> None:
        check_range(self, "half_width", low=4, high=100)
        check_range(self, "max_stars", low=1)


def measure_moffat(
    planes: PixelPlanes, *, x: Float64Array, y: Float64Array, options: MoffatOptions
) -> tuple[Float64Array, Float64Array, NDArray[np.uint32]]:
    """Fit a round Moffat profile with a constant background to each star.

    Parameters
    ----------
    planes : PixelPlanes
        Pixels; the fit weighs them by the inverse variance of the sky, so that the profile's
        width does not depend on the brightness.
    x, y : (n,) float64 [pixel]
        Stars.
    options : MoffatOptions
        Settings.

    Returns
    -------
    fwhm : (n,) float64 [pixel]
        Full width at half maximum; NaN without a fit.
    beta : (n,) float64
        Exponent.
    flags : (n,) uint32
        Bits of MeasureFlag.
    """
    usable = ~is_set(planes.mask, UNUSABLE) & np.isfinite(planes.image) & (planes.variance > 0)
    weight = np.where(usable, np.float32(1.0), np.float32(0.0))
    out = np.full((x.size, 6), np.nan)
    status = np.zeros(x.size, np.int64)
    image = np.where(usable, planes.image, np.float32(0.0))
    first = 4.0
    fit_moffats(image, weight, x, y, options.half_width, first, out, status)
    return out[:, 3], out[:, 4], _FLAGS[status]


def check_ccd(planes: PixelPlanes, sources: Table, *, options: MoffatOptions) -> Table:
    """Widths and shapes of the PSF stars of a CCD.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels.
    sources : Table
        ``preSourceTable`` of the CCD.
    options : MoffatOptions
        Settings.

    Returns
    -------
    Table
        ``check_visit_stars``.
    """
    star = np.flatnonzero(np.asarray(sources["calib_psf_used"], bool))
    flux = np.nan_to_num(np.asarray(sources["psfFlux"], np.float64)[star])
    star = star[np.argsort(-flux, kind="stable")][: options.max_stars]
    chosen = sources[star]
    x, y = np.asarray(chosen["x"], np.float64), np.asarray(chosen["y"], np.float64)
    fwhm, beta, flags = measure_moffat(planes, x=x, y=y, options=options)
    ixx, iyy, ixy = (np.asarray(chosen[n], np.float64) for n in ("ixx", "iyy", "ixy"))
    trace, determinant = ixx + iyy, ixx * iyy - ixy**2
    good = (trace > 0) & (determinant > 0)
    trace, determinant = np.where(good, trace, np.nan), np.where(good, determinant, np.nan)
    table = Table({n: np.asarray(chosen[n]) for n in ("id", "visit", "detector", "ra", "dec")})
    table["x"], table["y"], table["fwhm"], table["beta"] = x, y, fwhm, beta
    table["fwhm_moments"] = _FWHM_PER_SIGMA * determinant**0.25
    table["e1"], table["e2"] = (ixx - iyy) / trace, 2.0 * ixy / trace
    table["fit_flags"] = flags
    return load_schema("check_visit_stars").apply(table)


def _median(values: Float64Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")


def _summary_row(stars: Table, info: dict[str, Any]) -> dict[str, Any]:
    good = np.asarray(stars["fit_flags"]) == 0
    e1, e2 = np.asarray(stars["e1"]), np.asarray(stars["e2"])
    return {
        **info,
        "n_star": len(stars),
        "n_fit": int(good.sum()),
        "fwhm": _median(np.asarray(stars["fwhm"])[good]),
        "fwhm_moments": _median(np.asarray(stars["fwhm_moments"])),
        "beta": _median(np.asarray(stars["beta"])[good]),
        "ellipticity": _median(np.hypot(e1, e2)),
        "e1": _median(e1),
        "e2": _median(e2),
    }


def check_tables(ccds: Sequence[tuple[dict[str, Any], Table]]) -> tuple[Table, Table]:
    """Tables of a visit from those of its CCDs.

    Parameters
    ----------
    ccds : sequence of (dict, Table)
        For each CCD ``visit``, ``detector``, ``band``, ``ra``, ``dec`` of its centre, and its
        stars from `check_ccd`.

    Returns
    -------
    summary : Table
        ``check_visit_summary``: medians over the stars of each CCD.
    stars : Table
        ``check_visit_stars`` of all CCDs.
    """
    if not ccds:
        raise DataError("a visit without a calibrated CCD has nothing to check")
    schema = load_schema("check_visit_summary")
    rows = Table([_summary_row(stars, info) for info, stars in ccds])
    names = ccds[0][1].colnames
    joined = Table({n: np.concatenate([np.asarray(s[n]) for _, s in ccds]) for n in names})
    return (
        schema.apply(rows[[c.name for c in schema.columns]]),
        load_schema("check_visit_stars").apply(joined),
    )

"""What the simulator knows about the CCDs of DECam: geometry, amplifiers, crosstalk, linearity."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.instruments.decam import facts

__all__ = [
    "CCD_SHAPE",
    "PIXEL_MM",
    "RAW_SHAPE",
    "AmpFacts",
    "CcdFacts",
    "CrosstalkTerm",
    "ccd_facts",
    "ccd_number",
    "crosstalk_terms",
    "defect_boxes",
    "linearity_correction",
]

CCD_SHAPE = facts.TRIMMED_SHAPE
RAW_SHAPE = facts.RAW_SHAPE
PIXEL_MM = facts.PIXEL_SIZE


@dataclass(frozen=True)
class AmpFacts:
    """One amplifier; boxes are 0-based (x0, y0, nx, ny)."""

    name: str
    box: tuple[int, int, int, int]
    raw_box: tuple[int, int, int, int]
    overscan_box: tuple[int, int, int, int]
    prescan_x0: int
    parallel_y0: int
    gain: float
    read_noise: float
    saturation: float
    flip_x: bool


@dataclass(frozen=True)
class CcdFacts:
    """One CCD and its place in the focal plane [mm, degrees]."""

    number: int
    name: str
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    rotation: float
    amps: tuple[AmpFacts, AmpFacts]

    def focal_position(
        self, *, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Focal-plane position [mm] of trimmed pixels, without the small rotation."""
        return self.x_min + (x + 0.5) * PIXEL_MM, self.y_min + (y + 0.5) * PIXEL_MM


def _amp(row: Table.Row) -> AmpFacts:
    return AmpFacts(
        name=str(row["amp"]),
        box=(int(row["x0"]), int(row["y0"]), int(row["nx"]), int(row["ny"])),
        raw_box=tuple(int(row[f"raw_data_{k}"]) for k in ("x0", "y0", "nx", "ny")),  # type: ignore[arg-type]
        overscan_box=tuple(int(row[f"raw_overscan_{k}"]) for k in ("x0", "y0", "nx", "ny")),  # type: ignore[arg-type]
        prescan_x0=2154 if int(row["raw_overscan_x0"]) > 1000 else 0,
        parallel_y0=int(row["raw_parallel_overscan_y0"]),
        gain=float(row["gain_e_per_adu"]),
        read_noise=float(row["read_noise_e"]),
        saturation=float(row["saturation_adu"]),
        flip_x=int(row["raw_overscan_x0"]) > 1000,
    )


@functools.cache
def _all_ccds() -> dict[int, CcdFacts]:
    table = facts.amplifier_table()
    out: dict[int, CcdFacts] = {}
    for number in np.unique(table["ccdnum"]):
        rows = table[table["ccdnum"] == number]
        rows.sort("amp")
        first = rows[0]
        out[int(number)] = CcdFacts(
            number=int(number),
            name=str(first["detector_name"]),
            x_min=float(first["focal_x_min_mm"]),
            x_max=float(first["focal_x_max_mm"]),
            y_min=float(first["focal_y_min_mm"]),
            y_max=float(first["focal_y_max_mm"]),
            rotation=float(first["rotation_deg"]),
            amps=(_amp(rows[0]), _amp(rows[1])),
        )
    return out


def ccd_facts(number: int) -> CcdFacts:
    """The facts of one CCD.

    Parameters
    ----------
    number : int
        CCDNUM, 1 to 62.

    Returns
    -------
    CcdFacts
        Its geometry and amplifiers.

    Raises
    ------
    DataError
        If DECam has no such CCD.
    """
    ccds = _all_ccds()
    if number not in ccds:
        raise DataError(f"DECam has the CCDs 1 to 62 (without guide CCDs); got CCDNUM {number}")
    return ccds[number]


def ccd_number(name: str) -> int:
    """CCDNUM of a detector name such as ``S4``.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    int
        Number.

    Raises
    ------
    DataError
        If there is no such detector.
    """
    for ccd in _all_ccds().values():
        if ccd.name == name:
            return ccd.number
    raise DataError(f"DECam has no CCD named {name!r}; names are S1-S31 and N1-N31")


@dataclass(frozen=True)
class CrosstalkTerm:
    """Signal that one amplifier leaks into another: ``coefficient`` times the source's ADU; above
    ``onset`` ``coefficient * onset`` plus the polynomial p0 d + p1 d^2 + p2 d^3 of the excess
    d = s - onset, so that the leak is continuous.
    """

    source: int
    source_amp: str
    coefficient: float
    onset: float
    polynomial: tuple[float, float, float]


@functools.cache
def crosstalk_terms() -> dict[tuple[int, str], tuple[CrosstalkTerm, ...]]:
    """Crosstalk by victim (CCDNUM, amplifier).

    Returns
    -------
    dict
        Sources of each victim.
    """
    out: dict[tuple[int, str], list[CrosstalkTerm]] = {}
    for row in facts.crosstalk_table():
        term = CrosstalkTerm(
            source=int(row["source"]),
            source_amp=str(row["source_amp"]),
            coefficient=float(row["coefficient"]),
            onset=float(row["onset"]),
            polynomial=(float(row["p0"]), float(row["p1"]), float(row["p2"])),
        )
        out.setdefault((int(row["victim"]), str(row["victim_amp"])), []).append(term)
    return {k: tuple(v) for k, v in out.items()}


@functools.lru_cache(maxsize=130)
def linearity_correction(number: int, amp: int) -> NDArray[np.float64]:
    """Correction of every measured ADU above the bias: linear = measured + correction.

    Parameters
    ----------
    number : int
        CCDNUM.
    amp : int
        0 for A, 1 for B.

    Returns
    -------
    (65536,) float64 [ADU]
        Correction for each ADU.
    """
    table = facts.linearity_table(number)
    row = table[amp]
    return np.interp(np.arange(65536.0), row["adu"], row["delta"])


@functools.lru_cache(maxsize=130)
def defect_boxes(number: int) -> NDArray[np.int64]:
    """Bad pixels and columns of a CCD at the last epoch of the real table.

    Parameters
    ----------
    number : int
        CCDNUM.

    Returns
    -------
    (n, 4) int64 [pixel]
        x0, y0, nx, ny in the trimmed image.
    """
    epochs = facts.defect_epochs(number)
    if not epochs:
        return np.zeros((0, 4), np.int64)
    table = facts.defect_table(number, epochs[-1])
    return np.stack([np.asarray(table[k], np.int64) for k in ("x0", "y0", "nx", "ny")], axis=1)

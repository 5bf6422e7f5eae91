"""Peaks of aperture-mass maps, with positions on the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy import ndimage

from skymill.data.errors import NoDataError
from skymill.data.options import check_range, option
from skymill.data.tables import load_schema
from skymill.lensing.catalogue import sky_to_plane
from skymill.lensing.maps.aperture_mass import ApertureMassMap

__all__ = ["PeakOptions", "best_peak", "distinct_peaks", "find_peaks", "peaks_of_plane"]

_JUDGED = ("snr_rotated", "p_local", "p_global", "n_false")
_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class PeakOptions:
    """What counts as a peak."""

    threshold: float = option(3.0, "Signal to noise that every pixel of a peak exceeds")
    min_area: int = option(
        5, "Connected pixels above the threshold that a peak needs", unit="pixel"
    )
    min_coverage: float = option(
        0.7,
        "Weight inside the aperture at the peak over that of a full aperture; a shear that is "
        "constant over an aperture cut by the edge would pass for a peak",
    )

    def __post_init__(self) -> None:
        check_range(self, "threshold", low=0.0, low_open=True)
        check_range(self, "min_area", low=1)
        check_range(self, "min_coverage", low=0.0, high=1.0)


def _refine(values: NDArray[np.float32], iy: int, ix: int) -> tuple[float, float]:
    """Position of the maximum of a parabola through the peak pixel and its neighbours, per axis."""
    out = []
    for axis, i in ((1, ix), (0, iy)):
        if i == 0 or i == values.shape[axis] - 1:
            out.append(float(i))
            continue
        line = values[iy, i - 1 : i + 2] if axis == 1 else values[i - 1 : i + 2, ix]
        low, mid, high = (float(v) for v in line)
        curvature = low - 2.0 * mid + high
        shift = 0.5 * (low - high) / curvature if curvature < 0 else 0.0
        out.append(i + float(np.clip(shift, -0.5, 0.5)))
    return out[0], out[1]


def peaks_of_plane(snr: NDArray[np.float32], options: PeakOptions) -> list[tuple[int, int, int]]:
    """Connected regions above the threshold in one map.

    Parameters
    ----------
    snr : (ny, nx) float32
        Signal to noise; -inf where it does not count.
    options : PeakOptions
        Threshold and area.

    Returns
    -------
    list of (iy, ix, area)
        The highest pixel of each region, and its pixels.
    """
    labels, n = ndimage.label(snr > options.threshold, structure=_EIGHT)
    if n == 0:
        return []
    areas = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    tops = ndimage.maximum_position(snr, labels, index=np.arange(1, n + 1))
    return [
        (int(iy), int(ix), int(area))
        for area, (iy, ix) in zip(areas, tops, strict=True)
        if area >= options.min_area
    ]


def find_peaks(mass_map: ApertureMassMap, options: PeakOptions = PeakOptions()) -> Table:
    """Find the peaks of each aperture, in the E and the B mode.

    Parameters
    ----------
    mass_map : ApertureMassMap
        The maps.
    options : PeakOptions
        Threshold and area.

    Returns
    -------
    astropy.table.Table
        Schema ``massMapPeaks``, one row a peak, the highest first; maybe without rows.
    """
    rows = []
    step = mass_map.step_arcmin
    for mode in ("E", "B"):
        snr = mass_map.snr(mode)
        signal = mass_map.e_mode if mode == "E" else mass_map.b_mode
        usable = mass_map.coverage >= options.min_coverage
        for k, aperture in enumerate(mass_map.apertures):
            masked = np.where(usable[k], snr[k], -np.inf)
            for iy, ix, area in peaks_of_plane(masked, options):
                x, y = _refine(snr[k], iy, ix)
                rows.append(
                    (mode, aperture, float(snr[k, iy, ix]), float(signal[k, iy, ix]), x, y,
                     area, float(2.0 * np.sqrt(area / np.pi) * step),
                     float(mass_map.coverage[k, iy, ix]))
                )  # fmt: skip
    schema = load_schema("massMapPeaks")
    if not rows:
        return schema.apply(schema.empty())
    rows.sort(key=lambda row: -row[2])
    mode_, aperture_, snr_, value, x_, y_, area_, width, coverage = zip(*rows, strict=True)
    ra, dec = mass_map.wcs.pixel_to_sky(x=x_, y=y_)
    modes = np.array(mode_)
    best = np.zeros(len(rows), dtype=bool)
    if (modes == "E").any():
        best[np.flatnonzero(modes == "E")[0]] = True
    table = Table(
        {
            "peak_id": np.arange(1, len(rows) + 1),
            "mode": modes,
            "ra": ra,
            "dec": dec,
            "snr": snr_,
            "aperture": aperture_,
            "aperture_mass": value,
            "x": x_,
            "y": y_,
            "area": area_,
            "diameter": width,
            "coverage": coverage,
            "is_best": best,
            # Unknown without maps of turned shapes: skymill.lensing.maps.rotation.judge_peaks.
            **{name: np.full(len(rows), np.nan) for name in _JUDGED},
        }
    )
    return schema.apply(table)


def best_peak(peaks: Table) -> tuple[float, float]:
    """Position of the highest E-mode peak.

    Parameters
    ----------
    peaks : astropy.table.Table
        From `find_peaks`.

    Returns
    -------
    (ra, dec) : float [deg]
        Where it is.

    Raises
    ------
    NoDataError
        If there is no peak in the E mode.
    """
    rows = np.flatnonzero(np.asarray(peaks["is_best"], dtype=bool))
    if len(rows) == 0:
        raise NoDataError(
            "the peak table has no E-mode peak; give a centre, or lower the peaks' threshold"
        )
    return float(peaks["ra"][rows[0]]), float(peaks["dec"][rows[0]])


def distinct_peaks(
    peaks: Table,
    *,
    number: int,
    separation_arcmin: float,
    taken: tuple[float, float] | None = None,
) -> list[tuple[float, float]]:
    """Positions of the highest E-mode peaks, over all apertures, that are not the same mass.

    Parameters
    ----------
    peaks : astropy.table.Table
        From `find_peaks`.
    number : int
        At most so many.
    separation_arcmin : float [arcmin]
        Least distance between two of them; lower ones nearer than that are passed over.
    taken : (ra, dec) [deg], optional
        A place to stay away from too; not returned.

    Returns
    -------
    list of (ra, dec) [deg]
        The highest first; maybe empty.
    """
    out: list[tuple[float, float]] = []
    known = [] if taken is None else [taken]
    for row in peaks[np.asarray(peaks["mode"]).astype(str) == "E"] if len(peaks) else []:
        place = float(row["ra"]), float(row["dec"])
        others = np.array([*known, *out]).reshape(-1, 2)
        east, north = sky_to_plane(ra=others[:, 0], dec=others[:, 1], centre=place)
        if (np.hypot(east, north) >= separation_arcmin).all():
            out.append(place)
        if len(out) == number:
            break
    return out

"""Numbers of DECam: amplifiers, focal plane, filters, crosstalk, linearity, defects.

The tables lie beside this file; each names its source. Nothing here needs the middleware.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.images import Box
from skymill.instruments.camera import Amplifier, Camera, Detector

__all__ = [
    "CAMERA_NAME",
    "DEAD_OR_WEAK",
    "FILTERS",
    "PIXEL_SCALE",
    "RAW_SHAPE",
    "Filter",
    "amplifier_table",
    "crosstalk_table",
    "defect_epochs",
    "defect_table",
    "get_camera",
    "get_filter",
    "linearity_table",
    "ptc_table",
]

#: Name of the instrument in the Butler.
CAMERA_NAME = "DECam"

#: Shape (ny, nx) of a raw CCD with pre- and overscan, and of a trimmed one [pixel].
RAW_SHAPE = (4146, 2160)
TRIMMED_SHAPE = (4096, 2048)

#: Width of a pixel [mm] and on the sky [arcsec].
PIXEL_SIZE = 0.015
PIXEL_SCALE = 0.263

#: CCDs that died (61 = N30 for good; 2 = S30 from November 2013 to December 2016) or whose
#: amplifier is unstable (31 = S7). Source: CTIO, "DECam CCDs".
DEAD_OR_WEAK = {2: "S30, dead 2013-11 to 2016-12", 31: "S7, unstable amplifier", 61: "N30, dead"}

# Field angle [rad] by distance [mm]; source: lsst/obs_decam decam/camGeom/camera.py.
_RADIAL = (0.0, 8.516497674138379e-05, 0.0, -4.501399132955917e-12)

_CORNERS = ("LL", "LR", "UR", "UL")
_GENESIS = 197001010000


@dataclass(frozen=True)
class Filter:
    """One filter of DECam.

    Parameters
    ----------
    name : str
        The string of the header card FILTER.
    band : str
        Short name, as in the Butler's dimension ``band``.
    wavelength, width : float [nm]
        Centre and width of the passband; zero where it passes no light.
    """

    name: str
    band: str
    wavelength: float = 0.0
    width: float = 0.0


#: Every filter string of the camera. The numbers in a name are its centre and width in Angstrom.
#: Sources: lsst/obs_decam decamFilters.py; headers of public raw frames for the M bands.
FILTERS: tuple[Filter, ...] = (
    Filter("u DECam c0006 3500.0 1000.0", "u", 350.0, 100.0),
    Filter("g DECam SDSS c0001 4720.0 1520.0", "g", 472.0, 152.0),
    Filter("r DECam SDSS c0002 6415.0 1480.0", "r", 641.5, 148.0),
    Filter("i DECam SDSS c0003 7835.0 1470.0", "i", 783.5, 147.0),
    Filter("z DECam SDSS c0004 9260.0 1520.0", "z", 926.0, 152.0),
    Filter("Y DECam c0005 10095.0 1130.0", "y", 1009.5, 113.0),
    Filter("VR DECam c0007 6300.0 2600.0", "VR", 630.0, 260.0),
    Filter("N964 DECam c0008 9645.0 94.0", "N964", 964.5, 9.4),
    Filter("N662 DECam c0009 6620.0 172.0", "N662", 662.0, 17.2),
    Filter("N708 DECam c0012 7080.0 400.0", "N708", 708.0, 40.0),
    Filter("N419 DECam c0013 4194.0 75.0", "N419", 419.4, 7.5),
    Filter("N540 DECam c0014 5403.2 210.0", "N540", 540.32, 21.0),
    Filter("N540 DECam c0014 5403.0 210.0", "N540", 540.3, 21.0),
    Filter("N395 DECam c0015 3950.0 100.0", "N395", 395.0, 10.0),
    Filter("M411 DECam c0017 4112.0 264.0", "M411", 411.2, 26.4),
    Filter("M464 DECam c0018 4640.0 264.0", "M464", 464.0, 26.4),
    Filter("M438 DECam c0019 4380.0 260.0", "M438", 438.0, 26.0),
    Filter("M490 DECam c0020 4900.0 260.0", "M490", 490.0, 26.0),
    Filter("M517 DECam c0021 5170.0 260.0", "M517", 517.0, 26.0),
    Filter("solid plate 0.0 0.0", "opaque"),
    Filter("Empty filter slot 0.0 0.0", "white"),
    Filter("none", "none"),
)


def get_filter(name: str) -> Filter:
    """The filter of a header's string.

    Parameters
    ----------
    name : str
        Value of the card FILTER, or a band.

    Returns
    -------
    Filter
        The filter.

    Raises
    ------
    DataError
        If the camera has no such filter.
    """
    wanted = name.strip()
    for entry in FILTERS:
        if wanted in (entry.name, entry.band):
            return entry
    known = "; ".join(f.name for f in FILTERS)
    raise DataError(f"DECam has no filter {name!r}; known: {known}")


def _open(name: str) -> resources.abc.Traversable:
    return resources.files("skymill.instruments.decam") / "tables" / name


@functools.cache
def _read_ecsv(name: str) -> Table:
    return Table.read(_open(name).read_text(), format="ascii.ecsv")


def amplifier_table() -> Table:
    """All 124 amplifiers: gain, noise, saturation, raw sections, place of their CCD.

    Returns
    -------
    astropy.table.Table
        A copy; positions in mm.
    """
    return _read_ecsv("amplifiers.ecsv").copy()


def _make_amplifier(row: Table.Row) -> Amplifier:
    def section(kind: str) -> Box:
        x0, y0 = int(row[f"raw_{kind}_x0"]), int(row[f"raw_{kind}_y0"])
        return Box(
            x0=x0,
            y0=y0,
            x1=x0 + int(row[f"raw_{kind}_nx"]),
            y1=y0 + int(row[f"raw_{kind}_ny"]),
        )

    data = section("data")
    y0 = int(row["raw_parallel_overscan_y0"])
    parallel = Box(x0=data.x0, y0=y0, x1=data.x1, y1=y0 + int(row["raw_parallel_overscan_ny"]))
    x0, y0 = int(row["x0"]), int(row["y0"])
    # The outermost six columns on the amplifier's side come before the overscan.
    left = data.x0 < RAW_SHAPE[1] // 2
    prescan = Box(x0=0 if left else 2154, y0=data.y0, x1=6 if left else 2160, y1=data.y1)
    return Amplifier(
        name=str(row["amp"]),
        box=Box(x0=x0, y0=y0, x1=x0 + int(row["nx"]), y1=y0 + int(row["ny"])),
        data_box=data,
        overscan_box=section("overscan"),
        prescan_box=prescan,
        parallel_overscan_box=parallel,
        gain=float(row["gain_e_per_adu"]),
        read_noise=float(row["read_noise_e"]),
        saturation=float(row["saturation_adu"]),
        readout_corner=_CORNERS[int(row["readout_corner"])],
    )


@functools.cache
def get_camera() -> Camera:
    """The camera: 62 CCDs with 124 amplifiers on the true focal plane.

    Returns
    -------
    Camera
        Detectors by their CCDNUM, 1 to 62.
    """
    table = _read_ecsv("amplifiers.ecsv")
    detectors = []
    for number in sorted({int(n) for n in table["ccdnum"]}):
        rows = table[table["ccdnum"] == number]
        first = rows[0]
        detectors.append(
            Detector(
                id=number,
                name=str(first["detector_name"]),
                serial=str(number),
                box=Box(x0=0, y0=0, x1=TRIMMED_SHAPE[1], y1=TRIMMED_SHAPE[0]),
                raw_shape=RAW_SHAPE,
                centre=(
                    0.5 * float(first["focal_x_min_mm"] + first["focal_x_max_mm"]),
                    0.5 * float(first["focal_y_min_mm"] + first["focal_y_max_mm"]),
                ),
                rotation=float(first["rotation_deg"]),
                pixel_size=PIXEL_SIZE,
                amplifiers=tuple(_make_amplifier(row) for row in rows),
            )
        )
    return Camera(name=CAMERA_NAME, detectors=tuple(detectors), radial=_RADIAL)


def crosstalk_table(detector: int | None = None) -> Table:
    """Crosstalk coefficients.

    Parameters
    ----------
    detector : int, optional
        Only the rows whose victim is an amplifier of this CCD.

    Returns
    -------
    astropy.table.Table
        ``victim``, ``victim_amp``, ``source``, ``source_amp`` (CCD numbers and amplifier names),
        ``coefficient``, ``coefficient_err``; above ``onset`` [adu] the signal is
        ``coefficient * onset`` plus ``p0 d + p1 d^2 + p2 d^3`` of the excess ``d = s - onset``.

    Notes
    -----
    The source of the table does not say what the polynomial is a function of. Of the source
    signal itself it would jump at the onset, from 5 to 290 ADU for 25A to 25B; of the excess it is
    continuous, and ``p0`` is close to ``coefficient``, as a slope should be.
    """
    table = _read_ecsv("crosstalk.ecsv")
    return table.copy() if detector is None else table[table["victim"] == detector]


@functools.cache
def _read_npz(name: str) -> dict[str, NDArray[Any]]:
    with _open(name).open("rb") as stream, np.load(stream) as file:
        return {key: file[key] for key in file.files}


def linearity_table(detector: int) -> Table:
    """Linearity knots of a CCD's amplifiers.

    Parameters
    ----------
    detector : int
        CCD number.

    Returns
    -------
    astropy.table.Table
        One row an amplifier: ``amp``, ``adu`` and ``delta`` (n_knot,) [adu] with
        linear = adu + delta, ``max_valid`` [adu].
    """
    knots = _read_npz("linearity.npz")
    index = np.flatnonzero(knots["detector"] == detector)
    if index.size == 0:
        raise DataError(f"DECam has no detector {detector}; allowed: 1 to 62")
    delta = knots["delta"][index[0]]
    return Table(
        {
            "detector": np.full(2, detector, np.int32),
            "amp": knots["amp"],
            "adu": np.broadcast_to(knots["adu"].astype(np.float64), delta.shape).copy(),
            "delta": delta.astype(np.float64),
            "max_valid": knots["max_valid_adu"][index[0]].astype(np.float64),
        }
    )


def ptc_table(detector: int) -> Table:
    """Gain, noise and saturation of a CCD's amplifiers, as photon-transfer numbers.

    Parameters
    ----------
    detector : int
        CCD number.

    Returns
    -------
    astropy.table.Table
        ``detector``, ``amp``, ``gain`` [electron/adu], ``read_noise`` [electron],
        ``saturation`` [adu].
    """
    ccd = get_camera()[detector]
    return Table(
        {
            "detector": np.full(len(ccd.amplifiers), detector, np.int32),
            "amp": np.array([a.name for a in ccd.amplifiers]),
            "gain": np.array([a.gain for a in ccd.amplifiers]),
            "read_noise": np.array([a.read_noise for a in ccd.amplifiers]),
            "saturation": np.array([a.saturation for a in ccd.amplifiers]),
        }
    )


def defect_epochs(detector: int) -> list[int]:
    """Start of each epoch of a CCD's defects.

    Parameters
    ----------
    detector : int
        CCD number.

    Returns
    -------
    list of int
        UTC as YYYYMMDDhhmm, ascending.
    """
    table = _read_npz("defects.npz")
    return sorted({int(e) for e in table["epoch"][table["detector"] == detector]})


def defect_table(detector: int, epoch: int = _GENESIS) -> Table:
    """Defect boxes of a CCD at one epoch.

    Parameters
    ----------
    detector : int
        CCD number.
    epoch : int
        One of `defect_epochs`.

    Returns
    -------
    astropy.table.Table
        ``x0``, ``y0``, ``nx``, ``ny`` [pixel of the trimmed image].
    """
    table = _read_npz("defects.npz")
    if epoch not in defect_epochs(detector):
        raise DataError(
            f"detector {detector} has no defect epoch {epoch}; known: {defect_epochs(detector)}"
        )
    keep = (table["detector"] == detector) & (table["epoch"] == epoch) & (table["nx"] > 0)
    return Table(
        {
            "detector": np.full(int(keep.sum()), detector, np.int32),
            **{k: table[k][keep].astype(np.int32) for k in ("x0", "y0", "nx", "ny")},
        }
    )

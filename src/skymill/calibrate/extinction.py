"""Galactic extinction: E(B-V) from a map, a column or a constant; coefficients of surveys."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from numpy.typing import ArrayLike, NDArray

from skymill.calibrate.healpix_map import HealpixDust, is_healpix
from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.options import check_choice, check_range, option, parse_band_values

__all__ = ["COEFFICIENTS", "DustMap", "ExtinctionOptions", "extinction_coefficient",
           "parse_coefficients", "read_ebv", "survey_of"]  # fmt: skip

Float64Array = NDArray[np.float64]

#: A_band / E(B-V) on the scale of the Schlegel, Finkbeiner & Davis (1998) map: the values of the
#: published pipeline, after Schlafly & Finkbeiner 2011, ApJ 737, 103, table 6 (R_V = 3.1).
COEFFICIENTS: dict[str, dict[str, float]] = {
    "decam": {"u": 3.86, "g": 3.11, "r": 2.09, "i": 1.53, "z": 1.17, "Y": 1.02},
    "ps1": {"g": 3.08, "r": 2.20, "i": 1.63, "z": 1.28, "y": 1.07, "Y": 1.07},
    "sm_dr4": {"u": 3.92, "v": 3.92, "g": 2.89, "r": 2.22, "i": 1.55, "z": 1.17},
    "sdss": {"u": 4.16, "g": 3.20, "r": 2.21, "i": 1.64, "z": 1.22},
}
# Of the Legacy Surveys' northern cameras, for the same map (their catalogues' documentation).
COEFFICIENTS["bass"] = {"g": 3.258, "r": 2.176}
COEFFICIENTS["mzls"] = {"z": 1.199}
COEFFICIENTS["legacy_north"] = {**COEFFICIENTS["bass"], **COEFFICIENTS["mzls"]}
COEFFICIENTS["bok"], COEFFICIENTS["mosaic3"] = COEFFICIENTS["bass"], COEFFICIENTS["mzls"]
# Schlafly & Finkbeiner 2011, table 6; and of the public data releases of HSC-SSP.
COEFFICIENTS["lsst"] = {"u": 4.145, "g": 3.237, "r": 2.273, "i": 1.684, "z": 1.323, "y": 1.088}
COEFFICIENTS["hsc"] = {"g": 3.240, "r": 2.276, "i": 1.633, "z": 1.263, "y": 1.075}
COEFFICIENTS["des"] = COEFFICIENTS["legacy"] = COEFFICIENTS["decam"]


def survey_of(catalogue: str, *, camera: str = "decam") -> str:
    """The survey whose photometric system a reference catalogue has.

    Parameters
    ----------
    catalogue : str
        Dataset type of the catalogue, such as ``ps1``, ``ps1_dr2``, ``sm_dr4_g``.
    camera : str
        What a catalogue of the user's own is in: the system of the camera.

    Returns
    -------
    str
        A key of `COEFFICIENTS`.
    """
    for name in sorted(COEFFICIENTS, key=len, reverse=True):
        if catalogue == name or catalogue.startswith(f"{name}_"):
            return name
    return camera


@dataclass(frozen=True, kw_only=True)
class ExtinctionOptions:
    """Where E(B-V) comes from, and the coefficients."""

    source: str = option("column", "column (of the catalogue), constant, map or none")
    column: str = option("ebv", "Column of E(B-V)", unit="mag")
    constant: float = option(
        0.0, "E(B-V), with source constant; also where the column or map has no value if allowed",
        unit="mag",
    )  # fmt: skip
    fill_missing: bool = option(False, "Take the constant where the column or map has no value")
    map_path: str = option(
        "", "FITS map of E(B-V): an image, a HEALPix map, or the folder of the two SFD maps"
    )
    map_column: str = option("", "Column of a HEALPix map; empty for EBV, TAU353 or the only one")
    map_scale: float = option(1.0, "Factor on the map, such as 0.86 or that of an optical depth")
    survey: str = option("decam", "Survey whose coefficients are used")
    coefficients: tuple[str, ...] = option((), "Other coefficients, as g=3.2")

    def __post_init__(self) -> None:
        check_choice(self, "source", ("column", "constant", "map", "none"))
        check_choice(self, "survey", tuple(COEFFICIENTS))
        check_range(self, "constant", low=0.0, high=50.0)
        check_range(self, "map_scale", low=0.0, low_open=True)
        if self.source == "map" and not self.map_path:
            raise ConfigError("source = 'map' needs map_path: a FITS file or the folder of SFD")
        parse_coefficients(self.coefficients)


def parse_coefficients(entries: tuple[str, ...]) -> dict[str, float]:
    """Coefficients written as ``band=value``.

    Parameters
    ----------
    entries : tuple of str
        For example ``("g=3.2", "r=2.2")``.

    Returns
    -------
    dict of str to float
        By band.

    Raises
    ------
    ConfigError
        If an entry is malformed.
    """
    return parse_band_values(entries, form="a coefficient is written band=value")


def extinction_coefficient(
    band: str, *, survey: str = "decam", other: dict[str, float] | None = None
) -> float:
    """Extinction in a band for one magnitude of E(B-V).

    Parameters
    ----------
    band : str
        Name of the band.
    survey : str
        Key of `COEFFICIENTS`.
    other : dict, optional
        Coefficients that take precedence.

    Returns
    -------
    float
        A / E(B-V).

    Raises
    ------
    ConfigError
        If there is none.
    """
    if other and band in other:
        return other[band]
    table = COEFFICIENTS.get(survey)
    if table is None:
        raise ConfigError(f"survey must be one of {', '.join(COEFFICIENTS)}; got {survey!r}")
    if band not in table:
        raise ConfigError(
            f"there is no extinction coefficient for band {band!r} of {survey}; it has "
            f"{', '.join(table)}; give one as {band}=value"
        )
    return table[band]


class DustMap:
    """E(B-V) on the sky, by bilinear interpolation.

    Parameters
    ----------
    path : path
        A FITS image with a celestial WCS in any frame (as IRSA's DUST service makes them), or a
        folder with ``SFD_dust_4096_ngp.fits`` and ``SFD_dust_4096_sgp.fits``.

    Raises
    ------
    MissingInputError
        If a file does not exist.
    DataError
        If a file has no image or no celestial WCS.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.is_dir():
            files = [path / f"SFD_dust_4096_{pole}gp.fits" for pole in "ns"]
        else:
            files = [path]
        for file in files:
            if not file.is_file():
                raise MissingInputError(f"the dust map {file} does not exist")
        self._planes = [_read_plane(file) for file in files]

    def ebv(self, ra: ArrayLike, dec: ArrayLike) -> Float64Array:
        """E(B-V) at positions.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            ICRS positions.

        Returns
        -------
        (n,) float64 [mag]
            NaN outside of the map.
        """
        sky = SkyCoord(np.asarray(ra, np.float64), np.asarray(dec, np.float64), unit="deg")
        out = np.full(np.shape(ra), np.nan)
        north = sky.galactic.b.deg >= 0
        for k, (image, wcs) in enumerate(self._planes):
            rows = np.ones(len(out), bool) if len(self._planes) == 1 else (north == (k == 0))
            if not rows.any():
                continue
            x, y = wcs.world_to_pixel(sky[rows])
            out[rows] = _bilinear(image, np.asarray(x), np.asarray(y))
        return out


def read_ebv(options: ExtinctionOptions, ra: ArrayLike, dec: ArrayLike) -> Float64Array:
    """E(B-V) from the map of the options, whatever its kind.

    Parameters
    ----------
    options : ExtinctionOptions
        Path, column and factor of the map.
    ra, dec : (n,) float64 [deg]
        ICRS positions.

    Returns
    -------
    (n,) float64 [mag]
        NaN outside of the map.

    Raises
    ------
    MissingInputError
        If the map does not exist.
    DataError
        If it cannot be read.
    """
    path = Path(options.map_path)
    if path.is_file() and is_healpix(path):
        dust = HealpixDust(path, column=options.map_column, scale=options.map_scale)
        return dust.ebv(ra, dec)
    return DustMap(path).ebv(ra, dec) * options.map_scale


def _read_plane(path: Path) -> tuple[NDArray[np.float32], WCS]:
    try:
        with fits.open(path, memmap=False) as hdus:
            hdu = next(h for h in hdus if h.data is not None and h.data.ndim == 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FITSFixedWarning)
                wcs = WCS(hdu.header)
            image = np.asarray(hdu.data, np.float32)
    except (OSError, StopIteration) as err:
        raise DataError(f"the dust map {path} has no readable image: {err}") from err
    if not wcs.has_celestial:
        raise DataError(f"the dust map {path} has no celestial WCS")
    return image, wcs


def _bilinear(image: NDArray[np.float32], x: Float64Array, y: Float64Array) -> Float64Array:
    ny, nx = image.shape
    inside = (x >= 0) & (x <= nx - 1) & (y >= 0) & (y <= ny - 1)
    ix = np.clip(np.floor(np.where(inside, x, 0)).astype(int), 0, max(nx - 2, 0))
    iy = np.clip(np.floor(np.where(inside, y, 0)).astype(int), 0, max(ny - 2, 0))
    fx, fy = x - ix, y - iy
    value = (
        image[iy, ix] * (1 - fx) * (1 - fy)
        + image[iy, ix + 1] * fx * (1 - fy)
        + image[iy + 1, ix] * (1 - fx) * fy
        + image[iy + 1, ix + 1] * fx * fy
    )
    return np.where(inside, value, np.nan)

"""Maps of E(B-V) in HEALPix pixels: Planck's, or anyone's."""

from __future__ import annotations

from pathlib import Path

import hpgeom
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError, MissingInputError

__all__ = ["HealpixDust", "is_healpix"]

Float64Array = NDArray[np.float64]

#: Below it a pixel has no value (the convention is -1.6375e30).
_UNSEEN = -1e30
#: Columns that hold E(B-V), and the optical depth at 353 GHz with the factor that makes it so
#: (Planck Collaboration XI 2014, A&A 571, A11).
_COLUMNS = {"ebv": 1.0, "e(b-v)": 1.0, "e_bv": 1.0, "tau353": 1.49e4, "tau_353": 1.49e4}
_FRAMES = {"g": "galactic", "c": "icrs", "q": "icrs", "e": "barycentricmeanecliptic"}


def _table(hdus: fits.HDUList) -> fits.BinTableHDU | None:
    for hdu in hdus:
        if isinstance(hdu, fits.BinTableHDU) and (
            str(hdu.header.get("PIXTYPE", "")).strip().upper() == "HEALPIX"
        ):
            return hdu
    return None


def is_healpix(path: str | Path) -> bool:
    """Whether a FITS file holds a HEALPix map.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    bool
        True if one of its tables says so; False for a file that cannot be read.
    """
    try:
        with fits.open(path, memmap=True) as hdus:
            return _table(hdus) is not None
    except OSError:
        return False


class HealpixDust:
    """E(B-V) on the sky from a HEALPix map, by bilinear interpolation.

    Parameters
    ----------
    path : path
        FITS file, of the whole sky or with explicit pixel numbers, ring or nested, in Galactic,
        equatorial or ecliptic coordinates as its header says.
    column : str
        Column of the map; empty for EBV, or TAU353 (which is turned into E(B-V) by the factor
        1.49e4 of Planck), or the only column.
    scale : float
        Further factor on the map.

    Raises
    ------
    MissingInputError
        If the file does not exist.
    DataError
        If it holds no map, or the column is missing or not clear.
    """

    def __init__(self, path: str | Path, *, column: str = "", scale: float = 1.0) -> None:
        path = Path(path)
        if not path.is_file():
            raise MissingInputError(f"the dust map {path} does not exist")
        try:
            with fits.open(path, memmap=False) as hdus:
                table = _table(hdus)
                if table is None:
                    raise DataError(f"{path} holds no HEALPix map (PIXTYPE = 'HEALPIX')")
                self._read(path, table, column, scale)
        except OSError as err:
            raise DataError(f"the dust map {path} cannot be read: {err}") from err

    def _read(self, path: Path, table: fits.BinTableHDU, column: str, scale: float) -> None:
        header, names = table.header, list(table.columns.names)
        explicit = str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT"
        values = [n for n in names if not (explicit and n == names[0])]
        name, factor = _choose(path, values, column)
        self.column = name
        data = np.asarray(table.data[name], np.float32).ravel()
        self._nest = str(header.get("ORDERING", "RING")).strip().upper().startswith("NEST")
        self._nside = int(header.get("NSIDE", 0)) or int(np.sqrt(len(data) / 12))
        if not explicit and len(data) != 12 * self._nside**2:
            raise DataError(
                f"the dust map {path} has {len(data)} pixels; NSIDE {self._nside} needs "
                f"{12 * self._nside**2}, or INDXSCHM = 'EXPLICIT'"
            )
        frame = str(header.get("COORDSYS", "G")).strip().lower()[:1]
        if frame not in _FRAMES:
            raise DataError(
                f"the dust map {path} has COORDSYS {header['COORDSYS']!r}; G, C or E are known"
            )
        self._frame = _FRAMES[frame]
        self._pixel: NDArray[np.int64] | None = None
        if explicit:
            pixel = np.asarray(table.data[names[0]], np.int64).ravel()
            order = np.argsort(pixel, kind="stable")
            self._pixel, data = pixel[order], data[order]
        self._value = np.where(data > _UNSEEN, data * np.float32(factor * scale), np.nan)

    def ebv(self, ra: ArrayLike, dec: ArrayLike) -> Float64Array:
        """E(B-V) at positions.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            ICRS positions.

        Returns
        -------
        (n,) float64 [mag]
            NaN outside of the map, and where fewer than half of the four nearest pixels by weight
            have a value.
        """
        a, d = np.atleast_1d(np.asarray(ra, np.float64)), np.atleast_1d(np.asarray(dec, np.float64))
        good = np.isfinite(a) & np.isfinite(d)
        out = np.full(len(a), np.nan)
        if not good.any():
            return out
        sky = SkyCoord(a[good], d[good], unit="deg").transform_to(self._frame).spherical
        pixels, weights = hpgeom.get_interpolation_weights(
            self._nside, sky.lon.deg % 360.0, sky.lat.deg, nest=self._nest
        )
        value = self._lookup(np.asarray(pixels))
        seen = np.isfinite(value)
        total = np.sum(np.where(seen, weights, 0.0), axis=-1)
        summed = np.sum(np.where(seen, value, 0.0) * np.where(seen, weights, 0.0), axis=-1)
        out[good] = np.where(total >= 0.5, summed / np.where(total > 0, total, 1.0), np.nan)
        return out

    def _lookup(self, pixels: NDArray[np.int64]) -> Float64Array:
        if self._pixel is None:
            return np.asarray(self._value[pixels], np.float64)
        place = np.clip(np.searchsorted(self._pixel, pixels), 0, len(self._pixel) - 1)
        return np.where(self._pixel[place] == pixels, self._value[place], np.nan)


def _choose(path: Path, names: list[str], column: str) -> tuple[str, float]:
    """The column of the map and the factor that makes it E(B-V)."""
    lower = {n.lower(): n for n in names}
    if column:
        if column.lower() not in lower:
            raise DataError(
                f"the dust map {path} has no column {column!r}; it has {', '.join(names)}"
            )
        return lower[column.lower()], _COLUMNS.get(column.lower(), 1.0)
    for known, factor in _COLUMNS.items():
        if known in lower:
            return lower[known], factor
    if len(names) == 1:
        return names[0], 1.0
    raise DataError(
        f"the dust map {path} has the columns {', '.join(names)}; say which with map_column"
    )

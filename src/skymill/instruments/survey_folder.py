"""A folder in the layout of the Legacy Surveys: images and their PSF, sky and zero-point files.

``images/CAMERA/...`` holds the images; ``calib`` the PSFEx models and spline skies, one file a CCD
or one an exposure, under the names of any release; ``survey-ccds*.fits`` the zero points.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline

from skymill.data.errors import DataError, MissingInputError
from skymill.instruments.first_table import read_first_table
from skymill.psf.models import PolynomialPsf
from skymill.psf.psfex import from_psfex

__all__ = ["SurveyFolder", "ZeroPoint"]

_NEEDED = ("expnum", "ccdname", "ccdzpt")


@dataclass(frozen=True, kw_only=True)
class ZeroPoint:
    """Photometric and astrometric calibration of one CCD.

    Parameters
    ----------
    magnitude : float [mag]
        AB magnitude of one count a second.
    error, scatter : float [mag]
        Standard deviation of it, and of the stars about it; NaN if unknown.
    ra_offset, dec_offset : float [arcsec]
        Added to the position of the world coordinates (the first times 1 / cos dec).
    n_photometry, n_astrometry : int
        Stars.
    cuts : int
        Reasons of the survey not to use the CCD, as bits.
    """

    magnitude: float
    error: float = math.nan
    scatter: float = math.nan
    ra_offset: float = 0.0
    dec_offset: float = 0.0
    n_photometry: int = 0
    n_astrometry: int = 0
    cuts: int = 0


class SurveyFolder:
    """Calibrations of the images below one folder.

    Parameters
    ----------
    root : path
        The folder that holds ``images`` and ``calib``.
    camera : str
        Name of the camera in the layout: ``decam``, ``90prime`` or ``mosaic``.
    calib : path, optional
        The folder of the calibrations; ``root/calib`` if omitted.

    Raises
    ------
    MissingInputError
        If there is no such folder.
    """

    def __init__(
        self, root: str | Path, camera: str = "decam", *, calib: str | Path | None = None
    ) -> None:
        self.root, self.camera = Path(root), camera
        self.calib = self.root / "calib" if calib is None else Path(calib)
        if not self.root.is_dir():
            raise MissingInputError(f"there is no folder {root}")

    @functools.cached_property
    def zero_points(self) -> dict[tuple[int, str], ZeroPoint]:
        """Calibration of every CCD of ``survey-ccds*.fits``, by exposure and name of the CCD."""
        found: dict[tuple[int, str], ZeroPoint] = {}
        paths = {p for pattern in ("fits", "fits.gz") for p in self.root.glob(
            f"survey-ccds*.{pattern}")}  # fmt: skip
        for path in sorted(paths):
            table = _read_table(path)
            names = {n.lower(): n for n in table.colnames}
            missing = [n for n in _NEEDED if n not in names]
            if missing:
                raise DataError(f"{path} lacks the column {', '.join(missing)}")
            for row in table:
                if "camera" in names and str(row[names["camera"]]).strip() != self.camera:
                    continue
                key = int(row[names["expnum"]]), str(row[names["ccdname"]]).strip()
                found[key] = _zero_point(row, names)
        return found

    def zero_point(self, exposure: int, ccd: str, header: fits.Header) -> ZeroPoint:
        """Calibration of one CCD: that of the survey's table, or else that of its header.

        Parameters
        ----------
        exposure : int
            Number of the exposure.
        ccd : str
            Name of the CCD, such as ``S10``.
        header : astropy.io.fits.Header
            Of the image, for ``MAGZPT``.

        Returns
        -------
        ZeroPoint
            The calibration.

        Raises
        ------
        MissingInputError
            If neither has it.
        """
        own = self.zero_points.get((exposure, ccd))
        if own is not None:
            return own
        value = header.get("MAGZPT")
        if isinstance(value, int | float) and np.isfinite(value) and value > 0:
            return ZeroPoint(magnitude=float(value))
        raise MissingInputError(
            f"exposure {exposure} CCD {ccd} has no zero point: neither in the tables "
            f"{self.root}/survey-ccds*.fits nor in its header (MAGZPT)"
        )

    def psf(self, image: str | Path, exposure: int, ccd: str) -> PolynomialPsf:
        """PSF of one CCD.

        Parameters
        ----------
        image : path
            The image.
        exposure : int
            Number of the exposure.
        ccd : str
            Name of the CCD.

        Returns
        -------
        PolynomialPsf
            The PSFEx model with unit flux, in pixels of the image.

        Raises
        ------
        MissingInputError
            If the folder has no model of it.
        """
        found = self._find("psfex", image, exposure, ccd)
        if found is None:
            raise MissingInputError(
                f"exposure {exposure} CCD {ccd} has no PSFEx model below {self.calib}"
            )
        word, path = found
        try:
            return from_psfex(
                _trim(np.asarray(word("psf_mask"), np.float64), word),
                degree=int(word("poldeg1")),
                zero=(float(word("polzero1")), float(word("polzero2"))),
                scale=(float(word("polscal1")), float(word("polscal2"))),
                sampling=float(word("psf_samp")),
            )
        except (DataError, KeyError) as err:
            raise DataError(f"{path}: {err}") from err

    def sky(
        self, image: str | Path, exposure: int, ccd: str, *, shape: tuple[int, ...]
    ) -> NDArray[np.float32] | None:
        """Sky level of one CCD.

        Parameters
        ----------
        image : path
            The image.
        exposure : int
            Number of the exposure.
        ccd : str
            Name of the CCD.
        shape : (ny, nx)
            Pixels of the image.

        Returns
        -------
        (ny, nx) float32 [count] or None
            The spline of the sky; None if the folder has none.
        """
        found = self._find("splinesky", image, exposure, ccd)
        if found is None:
            return None
        word, path = found
        try:
            return _spline(word, shape)
        except (KeyError, ValueError, TypeError) as err:
            raise DataError(f"the sky {path} cannot be read: {err}") from err

    def _find(
        self, kind: str, image: str | Path, exposure: int, ccd: str
    ) -> tuple[_Words, Path] | None:
        """The row of a calibration file, wherever it lies."""
        for path in self._candidates(kind, Path(image), exposure, ccd):
            if path.is_file():
                words = _find_row(path, exposure, ccd)
                if words is not None:
                    return words, path
        return None

    def _candidates(self, kind: str, image: Path, exposure: int, ccd: str) -> Iterator[Path]:
        number = f"{exposure:08d}"
        file = f"{self.camera}-{number}"
        for base in (self.calib, self.calib / self.camera):
            for folder in (base / f"{kind}-merged", base / self.camera / f"{kind}-merged"):
                yield folder / number[:5] / f"{file}.fits"
            for folder in (base / kind, base / self.camera / kind):
                yield folder / number[:5] / number / f"{file}-{ccd}.fits"
        for merged in (True, False):
            yield self.calibration_path(kind, image, exposure, ccd, merged=merged)

    def calibration_path(
        self,
        kind: str,
        image: str | Path,
        exposure: int,
        ccd: str,
        *,
        merged: bool = False,
        layout: str = "dr9",
    ) -> Path:
        """Where a calibration file belongs.

        Parameters
        ----------
        kind : str
            ``psfex`` or ``splinesky``.
        image : path
            The image.
        exposure : int
            Number of the exposure.
        ccd : str
            Name of the CCD.
        merged : bool
            The file of the whole exposure, not of the CCD.
        layout : str
            ``dr9`` (names after the image) or ``dr7`` (names after the exposure's number).

        Returns
        -------
        Path
            The file.
        """
        number, file = f"{exposure:08d}", Path(image)
        if layout == "dr7":
            name = f"{self.camera}-{number}"
            if merged:
                return self.calib / self.camera / f"{kind}-merged" / number[:5] / f"{name}.fits"
            folder = self.calib / self.camera / kind / number[:5] / number
            return folder / f"{name}-{ccd}.fits"
        newer = "sky" if kind == "splinesky" else kind
        stem = re.sub(r"\.fits(\.fz|\.gz)?$", "", file.name)
        stem = re.sub(rf"[.\-_]{re.escape(ccd)}$", "", stem)
        place = _below(file.parent.absolute(), "images")
        if merged:
            return self.calib / newer / place / f"{stem}-{kind}.fits"
        return self.calib / f"{newer}-single" / place / stem / f"{stem}-{ccd}-{kind}.fits"

    def calibration_words(
        self, kind: str, image: str | Path, exposure: int, ccd: str
    ) -> dict[str, Any] | None:
        """What a calibration file says of its origin.

        Parameters
        ----------
        kind : str
            ``psfex`` or ``splinesky``.
        image : path
            The image.
        exposure : int
            Number of the exposure.
        ccd : str
            Name of the CCD.

        Returns
        -------
        dict or None
            ``plver``, ``plprocid``, ``procdate``, ``psf_fwhm``, ... as far as it has them, and
            ``path``; None without a file.

        Raises
        ------
        DataError
            If the file is corrupt.
        """
        found = self._find(kind, image, exposure, ccd)
        if found is None:
            return None
        words, path = found
        names = ("plver", "plprocid", "procdate", "expnum", "psf_fwhm", "psf_samp", "sig1", "chi2")
        return {"path": path, **{name: words(name) for name in names if name in words}}


def _below(folder: Path, name: str) -> Path:
    """The part of a path behind a folder of that name."""
    parts = folder.parts
    if name not in parts:
        return Path()
    last = len(parts) - 1 - parts[::-1].index(name)
    return Path(*parts[last + 1 :])


class _Words:
    """The columns of one row, or the header where PSFEx's older files keep them."""

    def __init__(self, row: Any, header: dict[str, Any]) -> None:
        self._names = {n.lower(): n for n in row.dtype.names}
        self._row, self._header = row, header

    def __call__(self, name: str) -> Any:
        if name in self._names:
            value = self._row[self._names[name]]
            return value.decode("ascii").rstrip() if isinstance(value, bytes) else value
        if name.upper() in self._header:
            return self._header[name.upper()]
        raise KeyError(f"there is no {name}")

    def __contains__(self, name: str) -> bool:
        return name in self._names or name.upper() in self._header


def _find_row(path: Path, exposure: int, ccd: str) -> _Words | None:
    data, header = read_first_table(path)
    for row in data:
        words = _Words(row, header)
        if "ccdname" in words and str(words("ccdname")).strip() != ccd:
            continue
        if "expnum" in words and int(words("expnum")) != exposure:
            continue
        return words
    return None


def _trim(stamps: NDArray[np.float64], word: _Words) -> NDArray[np.float64]:
    """Stamps without the zeros that merging added up to the largest CCD's model."""
    degree = int(word("poldeg1"))
    stamps = stamps[: (degree + 1) * (degree + 2) // 2]
    if "psfaxis1" in word and 0 < int(word("psfaxis1")) < stamps.shape[-1]:
        size = int(word("psfaxis1"))
        stamps = stamps[:, :size, :size]
    return stamps


def _spline(word: _Words, shape: tuple[int, ...]) -> NDArray[np.float32]:
    x, y = np.atleast_1d(word("xgrid")), np.atleast_1d(word("ygrid"))
    width = int(word("gridw")) if "gridw" in word else x.size
    height = int(word("gridh")) if "gridh" in word else y.size
    x, y = x[:width].astype(np.float64), y[:height].astype(np.float64)
    values = np.asarray(word("gridvals"), np.float64)[:height, :width]
    order = int(word("order")) if "order" in word else 3
    spline = RectBivariateSpline(
        x, y, values.T, kx=min(order, width - 1), ky=min(order, height - 1)
    )
    # A cut-out says at which pixel of its CCD it begins.
    x0 = float(word("x0")) if "x0" in word else 0.0
    y0 = float(word("y0")) if "y0" in word else 0.0
    ny, nx = shape
    return np.asarray(spline(np.arange(nx) + x0, np.arange(ny) + y0).T, np.float32)


def _read_table(path: Path) -> Table:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Table.read(path, format="fits", hdu=1)
    except (OSError, ValueError, IndexError) as err:
        raise DataError(f"{path} is truncated or no FITS table ({err})") from err


def _zero_point(row: Any, names: dict[str, str]) -> ZeroPoint:
    def number(*keys: str, default: float = math.nan) -> float:
        for key in keys:
            if key in names and np.isfinite(float(row[names[key]])):
                return float(row[names[key]])
        return default

    n = int(number("ccdnphotom", "ccdnmatch", default=0.0))
    scatter = number("ccdphrms")
    return ZeroPoint(
        magnitude=number("ccdzpt"),
        error=scatter / math.sqrt(n) if n > 0 else math.nan,
        scatter=scatter,
        ra_offset=number("ccdraoff", default=0.0),
        dec_offset=number("ccddecoff", default=0.0),
        n_photometry=n,
        n_astrometry=int(number("ccdnastrom", "ccdnmatch", default=0.0)),
        cuts=int(number("ccd_cuts", default=0.0)),
    )

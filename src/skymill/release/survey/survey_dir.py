"""The survey directory (``LEGACY_SURVEY_DIR``): its CCDs, calibrations and output files."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.coadd.bricks import Brick, brick_from_name
from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.data.geometry import FitsWcs
from skymill.instruments.survey_folder import SurveyFolder
from skymill.psf.models import PolynomialPsf
from skymill.release.survey.bricks import BRICK_SIZE, brick_table, brick_wcs, bricks_in
from skymill.release.survey.ccd_table import read_fits_table, read_survey_ccds
from skymill.release.survey.layout import release_path
from skymill.release.survey.overlap import ccds_near, touching

__all__ = ["SurveyDir", "open_survey"]

#: A row of survey-ccds: of a table, or a dictionary.
type CcdRow = Any


#: Columns without which the CCDs of a table cannot be placed and calibrated.
_NEEDED = (
    "exptime", "mjd_obs", "fwhm", "ccdzpt", "ccdraoff", "ccddecoff", "crval1", "crval2",
    "cd1_1", "cd1_2", "cd2_1", "cd2_2",
)  # fmt: skip


class SurveyDir:
    """A survey in the layout of the Legacy Surveys.

    Parameters
    ----------
    root : path
        The folder with ``images``, ``calib`` and ``survey-ccds-*``.
    output : path, optional
        The folder of the products (``tractor``, ``coadd``, ...); ``root`` if omitted.

    Raises
    ------
    MissingInputError
        If there is no folder ``root``.
    """

    def __init__(self, root: str | Path, *, output: str | Path | None = None) -> None:
        self.root = Path(root)
        self.output = self.root if output is None else Path(output)
        if not self.root.is_dir():
            raise MissingInputError(f"there is no survey directory {root}")

    @functools.cached_property
    def _all_ccds(self) -> Table:
        return read_survey_ccds(self.root, apply_cuts=False)

    def ccds(self, *, apply_cuts: bool = True) -> Table:
        """The CCDs of the survey.

        Parameters
        ----------
        apply_cuts : bool
            Leave out the rows with ``ccd_cuts`` other than 0.

        Returns
        -------
        Table
            The 45 columns of ``survey-ccds``, a copy.

        Raises
        ------
        MissingInputError
            If the survey has no table of CCDs.
        DataError
            If it lacks a column that places or calibrates a CCD.
        """
        table = self._all_ccds
        if len(table) == 0:
            raise MissingInputError(
                f"the survey directory {self.root} has no CCDs: no rows in survey-ccds-*.fits"
            )
        absent = [name for name in _NEEDED if name in table.meta.get("absent", ())]
        if absent:
            raise DataError(
                f"survey-ccds of {self.root} lacks the column {', '.join(absent)}; make the table "
                "again with: skymill release survey-ccds"
            )
        return table[table["ccd_cuts"] == 0] if apply_cuts else table.copy()

    def ccds_touching(
        self,
        brick: str | Brick | None = None,
        *,
        wcs: FitsWcs | None = None,
        shape: tuple[int, int] | None = None,
        apply_cuts: bool = True,
    ) -> Table:
        """The CCDs that overlap a brick, or the image of another region.

        Parameters
        ----------
        brick : str or Brick, optional
            The brick, by its name or itself.
        wcs : FitsWcs, optional
            World coordinates of another region's image.
        shape : (ny, nx), optional
            Its pixels.
        apply_cuts : bool
            Leave out the rows with ``ccd_cuts`` other than 0.

        Returns
        -------
        Table
            Rows of `ccds`, perhaps none.
        """
        if brick is not None:
            found = brick_from_name(brick) if isinstance(brick, str) else brick
            wcs = brick_wcs(found) if wcs is None else wcs
        if wcs is None or (brick is None and shape is None):
            raise ConfigError("ccds_touching needs a brick, or wcs and shape of an image")
        pixels = (BRICK_SIZE, BRICK_SIZE) if shape is None else shape
        return touching(self.ccds(apply_cuts=apply_cuts), wcs, pixels)

    def ccds_near(self, *, ra: float, dec: float, radius_deg: float = 1.0) -> Table:
        """The CCDs whose centres lie within a circle, cuts applied."""
        table = self.ccds()
        return table[ccds_near(table, ra=ra, dec=dec, radius_deg=radius_deg)]

    def bricks(
        self,
        ra_min: float | None = None,
        ra_max: float | None = None,
        dec_min: float | None = None,
        dec_max: float | None = None,
    ) -> Table:
        """Bricks of the survey, or of a region.

        Parameters
        ----------
        ra_min, ra_max, dec_min, dec_max : float, optional [deg]
            Region of the brick centres. Without it the table ``survey-bricks.fits.gz`` of the
            directory is read.

        Returns
        -------
        Table
            Columns of ``survey-bricks``.

        Raises
        ------
        MissingInputError
            If no region is given and the directory has no table of bricks.
        """
        limits = (ra_min, ra_max, dec_min, dec_max)
        if all(limit is not None for limit in limits):
            return brick_table(bricks_in(*(float(v) for v in limits if v is not None)))
        if any(limit is not None for limit in limits):
            raise ConfigError("a region needs ra_min, ra_max, dec_min and dec_max")
        for name in ("survey-bricks.fits.gz", "survey-bricks.fits"):
            if (self.root / name).is_file():
                return read_fits_table(self.root / name)
        raise MissingInputError(f"{self.root} has no survey-bricks.fits.gz; give a region")

    def folder(self, camera: str) -> SurveyFolder:
        """Calibration files of one camera."""
        return self._folders(str(camera).strip())

    @functools.cached_property
    def _folder_of(self) -> dict[str, SurveyFolder]:
        return {}

    def _folders(self, camera: str) -> SurveyFolder:
        if camera not in self._folder_of:
            self._folder_of[camera] = SurveyFolder(self.root, camera)
        return self._folder_of[camera]

    def image_path(self, row: CcdRow) -> Path:
        """The image of a CCD.

        Parameters
        ----------
        row : row of `ccds`
            The CCD.

        Returns
        -------
        Path
            The ``ooi`` file.

        Raises
        ------
        MissingInputError
            If it is not there.
        """
        name = str(row["image_filename"]).strip()
        for path in (self.root / "images" / name, self.root / name):
            if path.is_file():
                return path
        raise MissingInputError(f"the image {self.root / 'images' / name} does not exist")

    def psf(self, row: CcdRow) -> PolynomialPsf:
        """The PSF of a CCD in pixels of its image, with unit flux.

        Parameters
        ----------
        row : row of `ccds`
            The CCD.

        Returns
        -------
        PolynomialPsf
            The model.

        Raises
        ------
        MissingInputError, DataError
            If there is none, or its file is corrupt.
        """
        folder = self.folder(str(row["camera"]))
        return folder.psf(self.image_path(row), int(row["expnum"]), str(row["ccdname"]).strip())

    def sky(
        self, row: CcdRow, *, shape: tuple[int, int] | None = None
    ) -> NDArray[np.float32] | None:
        """The sky of a CCD.

        Parameters
        ----------
        row : row of `ccds`
            The CCD.
        shape : (ny, nx), optional
            Pixels of its image; those of the row if omitted.

        Returns
        -------
        (ny, nx) float32 [unit of the image] or None
            None if the survey has no sky of it.

        Raises
        ------
        DataError
            If its file is corrupt.
        """
        pixels = (int(row["height"]), int(row["width"])) if shape is None else shape
        folder = self.folder(str(row["camera"]))
        return folder.sky(
            self.image_path(row), int(row["expnum"]), str(row["ccdname"]).strip(), shape=pixels
        )

    def find_file(
        self,
        kind: str,
        *,
        brick: str | None = None,
        band: str | None = None,
        name: str | None = None,
    ) -> Path:
        """The path of an output file; see `skymill.release.survey.layout.release_path`."""
        return release_path(self.output, kind, brick=brick, band=band, name=name)


def open_survey(root: str | Path | None = None, *, output: str | Path | None = None) -> SurveyDir:
    """The survey directory that a user named, or that ``LEGACY_SURVEY_DIR`` names.

    Parameters
    ----------
    root : path, optional
        The folder.
    output : path, optional
        The folder of the products.

    Returns
    -------
    SurveyDir
        The survey.

    Raises
    ------
    ConfigError
        If neither is given.
    """
    found = root if root is not None else os.environ.get("LEGACY_SURVEY_DIR")
    if not found:
        raise ConfigError("no survey directory: give --survey-dir or set LEGACY_SURVEY_DIR")
    return SurveyDir(found, output=output)

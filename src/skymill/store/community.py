"""Ingest images that another pipeline has calibrated, as if step1 and step2 had made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType, DatasetRef, DatasetType
from lsst.daf.butler.registry import ConflictingDefinitionError

from skymill.calibrate.visit_table import make_visit_row, make_visit_summary
from skymill.data.errors import ConfigError, DataError, MissingInputError, SkymillError
from skymill.data.images import Exposure
from skymill.data.tables import load_schema
from skymill.instruments.decam.community import CommunityFile, is_community_image, read_headers
from skymill.instruments.decam.facts import CAMERA_NAME
from skymill.instruments.survey_folder import SurveyFolder
from skymill.measure.background import Background, BackgroundList
from skymill.psf.models import PolynomialPsf
from skymill.store.raws import exposure_records
from skymill.store.regions import convex_polygon, hull
from skymill.store.repository import open_butler, storage_errors
from skymill.store.visits import VISIT_SYSTEM, visit_record

__all__ = ["COMMUNITY_RUN", "CommunityReport", "find_community_images", "ingest_calibrated"]

#: Where calibrated exposures of another pipeline go unless told otherwise.
COMMUNITY_RUN = f"{CAMERA_NAME}/processing/community"

_CCD = ("instrument", "visit", "detector")
_VISIT = ("instrument", "visit")
_TYPES = {
    "calexp": (_CCD, "SkymillExposure"),
    "calexpBackground": (_CCD, "SkymillBackground"),
    "visitSummary": (_VISIT, "SkymillTable"),
    "finalVisitSummary": (_VISIT, "SkymillTable"),
    "finalized_psf_ap_corr_catalog": (_VISIT, "SkymillTable"),
}
_PARTS = ("info", "wcs", "psf", "photo_calib", "summary", "aperture_correction")


@dataclass
class CommunityReport:
    """What `ingest_calibrated` did.

    Parameters
    ----------
    ccds, known : int
        CCDs that were ingested, and that were in the repository already.
    visits : int
        Visits whose tables were written.
    bands : dict of str to int
        New CCDs of each band.
    problems : list of str
        One sentence for each file or CCD that could not be ingested.
    """

    ccds: int = 0
    known: int = 0
    visits: int = 0
    bands: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.ccds} calibrated CCDs of {self.visits} visits ingested"
        if self.bands:
            text += " (" + ", ".join(f"{b}: {n}" for b, n in sorted(self.bands.items())) + ")"
        if self.known:
            text += f"; {self.known} were there already"
        return f"{text}; {len(self.problems)} refused" if self.problems else text


def find_community_images(folder: str | Path) -> list[Path]:
    """Images of the DECam Community Pipeline below a folder.

    Parameters
    ----------
    folder : path
        Its subfolder ``images`` is searched, or itself where it has none, to any depth.

    Returns
    -------
    list of Path
        Files ``c4d_*_ooi_*``, sorted.

    Raises
    ------
    MissingInputError
        If the folder does not exist or holds none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise MissingInputError(f"there is no folder {folder}")
    place = root / "images" if (root / "images").is_dir() else root
    found = sorted(p.absolute() for p in place.rglob("*") if is_community_image(p) and p.is_file())
    if not found:
        raise MissingInputError(
            f"{folder} holds no image of the DECam Community Pipeline (c4d_*_ooi_*.fits[.fz])"
        )
    return found


class _Ingest:
    """One ingest into an open repository."""

    def __init__(
        self, butler: Butler, run: str, survey: SurveyFolder, *, keep_cut: bool, place: str
    ) -> None:
        self.butler, self.run, self.survey = butler, run, survey
        self.keep_cut, self.place = keep_cut, place
        self.report = CommunityReport()
        butler.collections.register(run, CollectionType.RUN)
        for name, (dimensions, storage) in _TYPES.items():
            butler.registry.registerDatasetType(
                DatasetType(name, dimensions, storage, universe=butler.dimensions)
            )
        self.known = {
            (int(ref.dataId["visit"]), int(ref.dataId["detector"])) for ref in self._refs("calexp")
        }

    def _refs(self, name: str, **where: Any) -> list[DatasetRef]:
        return list(
            self.butler.query_datasets(
                name, collections=self.run, find_first=False, limit=None, explain=False, **where
            )
        )

    def add(self, file: CommunityFile) -> None:
        """Ingest the CCDs of one file that are not there yet."""
        for detector in file.exposure.detectors:
            if (file.exposure.exposure, detector) in self.known:
                self.report.known += 1
                continue
            try:
                exposure, background = file.read(detector, self.survey)
                self._check_cuts(file, exposure)
                self._put(file, exposure, background)
            except (DataError, MissingInputError) as err:
                if "is full" in str(err):
                    raise
                self.report.problems.append(str(err))

    def _check_cuts(self, file: CommunityFile, exposure: Exposure) -> None:
        cuts = int(exposure.summary.pop("ccdCuts", 0))
        if cuts and not self.keep_cut:
            raise DataError(
                f"{file.path} CCD {exposure.info.detector}: the survey's table rejects it "
                f"(ccd_cuts = {cuts}); ask for rejected CCDs too if you want it"
            )

    def _put(self, file: CommunityFile, exposure: Exposure, background: Background) -> None:
        visit, detector = exposure.info.visit, exposure.info.detector
        key = {"instrument": CAMERA_NAME, "visit": visit, "detector": detector}
        with self.butler.transaction(), storage_errors(self.place):
            self._define(file, exposure)
            self.butler.put(BackgroundList([background]), "calexpBackground", key, run=self.run)
            self.butler.put(exposure, "calexp", key, run=self.run)
        self.known.add((visit, detector))
        self.report.ccds += 1
        band = exposure.info.band
        self.report.bands[band] = self.report.bands.get(band, 0) + 1

    def _define(self, file: CommunityFile, exposure: Exposure) -> None:
        """Records of the exposure, the visit and the CCD's region."""
        registry, visit = self.butler.registry, exposure.info.visit
        try:
            for element, record in exposure_records(file.exposure):
                # Where the raw frame is known, its records stand.
                if not self._has_record(element, record):
                    registry.syncDimensionData(element, record)
        except ConflictingDefinitionError as err:
            raise DataError(
                f"{file.path}: exposure {visit} is in the repository already with another "
                f"record; is it another file with the same EXPNUM? ({err})"
            ) from err
        own = self._polygon(exposure)
        old = {
            int(r.detector): r.region
            for r in self.butler.query_dimension_records(
                "visit_detector_region", instrument=CAMERA_NAME, visit=visit,
                limit=None, explain=False,
            )
        }  # fmt: skip
        if exposure.info.detector in old:
            return
        (record,) = self.butler.query_dimension_records(
            "exposure", instrument=CAMERA_NAME, exposure=visit, explain=False
        )
        key = {"instrument": CAMERA_NAME, "visit": visit}
        registry.syncDimensionData("visit_system", VISIT_SYSTEM)
        region = hull([*old.values(), own])
        registry.syncDimensionData("visit", visit_record(record, region), update=True)
        registry.syncDimensionData("visit_system_membership", {**key, "visit_system": 0})
        registry.syncDimensionData("visit_definition", {**key, "exposure": visit})
        registry.insertDimensionData(
            "visit_detector_region", {**key, "detector": exposure.info.detector, "region": own}
        )

    def _has_record(self, element: str, record: dict[str, Any]) -> bool:
        if element == "day_obs" or element == "exposure":
            where = {element: record["id"]}
        else:
            where = {element: record["name"]}
        return bool(
            self.butler.query_dimension_records(
                element, instrument=CAMERA_NAME, explain=False, **where
            )
        )

    @staticmethod
    def _polygon(exposure: Exposure) -> Any:
        ny, nx = exposure.planes.shape
        if exposure.wcs is None:
            raise DataError("a calibrated exposure needs world coordinates")
        ra, dec = exposure.wcs.pixel_to_sky(
            x=[-0.5, nx - 0.5, nx - 0.5, -0.5], y=[-0.5, -0.5, ny - 0.5, ny - 0.5]
        )
        return convex_polygon(ra=ra, dec=dec)

    def write_tables(self) -> None:
        """The tables of every visit whose tables lack a CCD."""
        present: dict[int, set[int]] = {}
        for visit, detector in self.known:
            present.setdefault(visit, set()).add(detector)
        for visit, detectors in sorted(present.items()):
            refs = {
                n: self._refs(n, instrument=CAMERA_NAME, visit=visit)
                for n in _TYPES
                if not n.startswith("calexp")
            }
            if all(refs.values()):
                (ref,) = refs["finalVisitSummary"]
                if set(map(int, self.butler.get(ref)["detector"])) == detectors:
                    continue
            with self.butler.transaction(), storage_errors(self.place):
                old = [ref for found in refs.values() for ref in found]
                if old:
                    self.butler.pruneDatasets(old, purge=True, unstore=True, disassociate=True)
                for name, table in self._tables(visit, sorted(detectors)).items():
                    self.butler.put(table, name, instrument=CAMERA_NAME, visit=visit, run=self.run)
            self.report.visits += 1

    def _tables(self, visit: int, detectors: Sequence[int]) -> dict[str, Table]:
        rows, psf_rows = [], []
        for detector in detectors:
            part = {
                name: self.butler.get(
                    f"calexp.{name}", instrument=CAMERA_NAME, visit=visit, detector=detector,
                    collections=self.run,
                )
                for name in _PARTS
            }  # fmt: skip
            psf = part.pop("psf")
            rows.append(make_visit_row(shape=part["photo_calib"].shape, **part))
            psf_rows.append(_psf_row(visit, detector, psf, part))
        summary = make_visit_summary(rows)
        final = summary.copy()
        final.meta["schema"] = "finalVisitSummary"
        return {
            "visitSummary": summary,
            "finalVisitSummary": load_schema("finalVisitSummary").apply(final),
            "finalized_psf_ap_corr_catalog": _psf_table(psf_rows),
        }


def _psf_row(visit: int, detector: int, psf: Any, part: dict[str, Any]) -> dict[str, Any]:
    """The exposure's own PSF as a row of the table of final PSFs."""
    if not isinstance(psf, PolynomialPsf):
        raise DataError(f"visit {visit} detector {detector} has no polynomial PSF")
    nan = float("nan")
    return {
        "visit": visit, "detector": detector, "refitted": False, "nPsfStar": 0,
        "psfSigma": part["summary"].get("psfSigma", nan),
        "psfStarDeltaE1Median": nan, "psfStarDeltaE2Median": nan,
        "psfStarDeltaSizeMedian": nan, "psfStarDeltaSizeScatter": nan,
        "psf": psf,
        "apertureCorrections": json.dumps(part["aperture_correction"]),
    }  # fmt: skip


def _psf_table(rows: list[dict[str, Any]]) -> Table:
    """Rows with their PSFs at one order and one stamp size, so that the column has one length."""
    psfs = [row.pop("psf") for row in rows]
    order = max(psf.order for psf in psfs)
    size = max(psf.stamp_size for psf in psfs)
    pairs = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    for row, psf in zip(rows, psfs, strict=True):
        own = [(i, j) for i in range(psf.order + 1) for j in range(psf.order + 1 - i)]
        pad = (size - psf.stamp_size) // 2
        stamps = np.zeros((len(pairs), size, size))
        for term, stamp in zip(own, psf.coefficients, strict=True):
            stamps[pairs.index(term)] = np.pad(stamp, pad)
        row.update(
            psfOrder=order, psfStampSize=size, psfCoefficients=stamps.ravel(),
            psfCentreX=psf.centre[0], psfCentreY=psf.centre[1],
            psfHalfWidthX=psf.half_width[0], psfHalfWidthY=psf.half_width[1],
        )  # fmt: skip
    return load_schema("finalized_psf_ap_corr_catalog").apply(Table(rows))


def ingest_calibrated(
    repo: str | Path,
    folder: str | Path,
    *,
    run: str = COMMUNITY_RUN,
    bands: Iterable[str] = (),
    keep_cut: bool = False,
) -> CommunityReport:
    """Ingest the Community-Pipeline images of a folder as calibrated exposures.

    Each CCD becomes ``calexp`` and ``calexpBackground``; each visit gets ``visitSummary``,
    ``finalVisitSummary`` and ``finalized_psf_ap_corr_catalog``, so that step3a and all that follow
    run on them. The exposures need no raw frame. What is there already is left as it is.

    Parameters
    ----------
    repo : path
        The repository; its instrument must be registered.
    folder : path
        A folder in the layout of the Legacy Surveys: ``images``, ``calib``, ``survey-ccds*``.
    run : str
        RUN collection.
    bands : iterable of str
        Only these bands; all if empty.
    keep_cut : bool
        Take also CCDs that the survey's table rejects.

    Returns
    -------
    CommunityReport
        What was done, with a sentence for each CCD that was refused.

    Raises
    ------
    ConfigError, MissingInputError
        If the instrument is not registered; if the folder holds no image.
    """
    files = find_community_images(folder)
    survey = SurveyFolder(folder)
    wanted = set(bands)
    with open_butler(repo) as butler:
        if not butler.query_dimension_records("instrument", explain=False):
            raise ConfigError(
                f"{repo} has no instrument; run 'butler register-instrument {repo} "
                "skymill.instruments.decam.DarkEnergyCamera' first"
            )
        ingest = _Ingest(butler, run, survey, keep_cut=keep_cut, place=str(repo))
        for path in files:
            try:
                file = read_headers(path)
            except SkymillError as err:
                ingest.report.problems.append(str(err))
                continue
            if not wanted or file.exposure.filter.band in wanted:
                ingest.add(file)
        ingest.write_tables()
    return ingest.report

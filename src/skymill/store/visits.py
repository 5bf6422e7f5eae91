"""Define visits: one visit for each exposure on the sky, with the region of each CCD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lsst.daf.butler import Butler, DimensionRecord
from lsst.sphgeom import ConvexPolygon

from skymill.data.errors import MissingInputError, SkymillError
from skymill.instruments.decam.facts import CAMERA_NAME, get_camera
from skymill.instruments.decam.headers import ccd_hdus, make_wcs, open_raw
from skymill.store.regions import convex_polygon, hull
from skymill.store.repository import open_butler

__all__ = ["VISIT_SYSTEM", "VisitReport", "define_visits", "visit_record"]

#: The only visit system: each exposure is a visit.
VISIT_SYSTEM = {"instrument": CAMERA_NAME, "id": 0, "name": "one-to-one"}

Corners = dict[int, tuple[list[float], list[float]]]


@dataclass
class VisitReport:
    """What `define_visits` did.

    Parameters
    ----------
    new, extended, known : int
        Visits that were defined, got further CCDs, and were complete already.
    skipped : int
        Exposures that do not show the sky.
    problems : list of str
        One sentence for each exposure that has no usable WCS.
    """

    new: int = 0
    extended: int = 0
    known: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.new} visits defined, {self.known} were there already"
        if self.extended:
            text += f", {self.extended} got further CCDs"
        if self.skipped:
            text += f"; {self.skipped} exposures do not show the sky"
        return f"{text}; {len(self.problems)} refused" if self.problems else text


def _corners(job: tuple[str, tuple[int, ...], float]) -> Corners | str:
    """Padded corners on the sky of some CCDs of a file, from their headers."""
    path, detectors, padding = job
    try:
        hdus = open_raw(path)
    except SkymillError as err:
        return str(err)
    try:
        ccds, camera, out = ccd_hdus(hdus, path), get_camera(), {}
        for detector in detectors:
            wcs = make_wcs(ccds[detector].header) if detector in ccds else None
            if wcs is None:
                return f"{path} has no WCS for CCD {detector}"
            x, y = camera[detector].corners()
            x = x + np.where(x > x.mean(), padding, -padding)
            y = y + np.where(y > y.mean(), padding, -padding)
            ra, dec = wcs.pixel_to_sky(x=x, y=y)
            if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
                return f"the WCS of {path} CCD {detector} is not finite at its corners"
            out[detector] = (ra.tolist(), dec.tolist())
        return out
    except SkymillError as err:
        return str(err)
    finally:
        hdus.close()


def visit_record(exposure: DimensionRecord, region: ConvexPolygon) -> dict[str, Any]:
    """The record of the visit that an exposure is.

    Parameters
    ----------
    exposure : DimensionRecord
        The exposure.
    region : lsst.sphgeom.ConvexPolygon
        What the visit covers.

    Returns
    -------
    dict
        Record of the dimension ``visit``.
    """
    same = ("day_obs", "physical_filter", "exposure_time", "target_name", "observation_reason",
            "science_program", "azimuth", "zenith_angle", "seq_num", "timespan")  # fmt: skip
    return {
        "instrument": CAMERA_NAME,
        "id": exposure.id,
        "name": exposure.obs_id,
        "region": region,
        **{name: getattr(exposure, name) for name in same},
    }


class _Definer:
    def __init__(self, butler: Butler, collections: str | Sequence[str]) -> None:
        self.butler = butler
        self.files: dict[int, tuple[str, list[int]]] = {}
        found: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        refs = butler.query_datasets(
            "raw", collections=collections, find_first=False, limit=None, explain=False
        )
        uris = butler.get_many_uris(refs) if hasattr(butler, "get_many_uris") else None
        for ref in refs:
            uri = uris[ref].primaryURI if uris is not None else butler.getURI(ref)
            if uri is not None:
                found[int(ref.dataId["exposure"])][uri.ospath].append(int(ref.dataId["detector"]))
        for exposure, by_path in found.items():
            path = max(by_path, key=lambda p: len(by_path[p]))
            self.files[exposure] = (path, sorted(by_path[path]))
        self.exposures = {
            int(r.id): r
            for r in butler.query_dimension_records(
                "exposure", instrument=CAMERA_NAME, limit=None, explain=False
            )
        }
        self.regions: dict[int, dict[int, ConvexPolygon]] = defaultdict(dict)
        for record in butler.query_dimension_records(
            "visit_detector_region", instrument=CAMERA_NAME, limit=None, explain=False
        ):
            self.regions[int(record.visit)][int(record.detector)] = record.region

    def jobs(self, report: VisitReport, padding: float) -> list[tuple[int, tuple[Any, ...]]]:
        """What is missing: exposure, and what `_corners` needs."""
        out = []
        for exposure, (path, detectors) in sorted(self.files.items()):
            record = self.exposures[exposure]
            if record.tracking_ra is None or record.observation_type not in ("science", "standard"):
                report.skipped += 1
                continue
            missing = tuple(d for d in detectors if d not in self.regions[exposure])
            if missing:
                out.append((exposure, (path, missing, padding)))
            else:
                report.known += 1
        return out

    def define(self, exposure: int, corners: Corners) -> bool:
        """Write the records of a visit; True if it is new."""
        registry, record = self.butler.registry, self.exposures[exposure]
        old = self.regions[exposure]
        new = {d: convex_polygon(ra=ra, dec=dec) for d, (ra, dec) in corners.items()}
        region = hull([*old.values(), *new.values()])
        key = {"instrument": CAMERA_NAME, "visit": exposure}
        with self.butler.transaction():
            registry.syncDimensionData("visit_system", VISIT_SYSTEM)
            registry.syncDimensionData("visit", visit_record(record, region), update=True)
            registry.syncDimensionData("visit_system_membership", {**key, "visit_system": 0})
            registry.syncDimensionData("visit_definition", {**key, "exposure": exposure})
            registry.insertDimensionData(
                "visit_detector_region",
                *({**key, "detector": d, "region": polygon} for d, polygon in new.items()),
            )
        self.regions[exposure] = {**old, **new}
        return not old


def define_visits(
    repo: str | Path,
    collections: str | Sequence[str] = f"{CAMERA_NAME}/raw/all",
    *,
    processes: int = 1,
    padding: float = 250.0,
) -> VisitReport:
    """Define a visit for each exposure on the sky; what is defined already is left as it is.

    Parameters
    ----------
    repo : path
        The repository.
    collections : str or sequence of str
        Where its raw data are.
    processes : int
        Processes that read headers.
    padding : float [pixel]
        Each CCD's region is this much larger on each side, since the pointing is not exact yet.

    Returns
    -------
    VisitReport
        What was done.

    Raises
    ------
    MissingInputError
        If the collections hold no raw data.
    """
    report = VisitReport()
    with open_butler(repo) as butler:
        definer = _Definer(butler, collections)
        if not definer.files:
            raise MissingInputError(
                f"{repo} has no raw data in {collections}; run 'butler ingest-raws' first"
            )
        jobs = definer.jobs(report, padding)
        for (exposure, _), corners in zip(jobs, _all_corners(jobs, processes), strict=True):
            if isinstance(corners, str):
                report.problems.append(corners)
            elif definer.define(exposure, corners):
                report.new += 1
            else:
                report.extended += 1
    return report


def _all_corners(
    jobs: Sequence[tuple[int, tuple[Any, ...]]], processes: int
) -> Iterable[Corners | str]:
    work = [job for _, job in jobs]
    if processes <= 1 or len(work) < 4:
        yield from map(_corners, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_corners, work, chunksize=4)

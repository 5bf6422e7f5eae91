"""Ingest raw exposures: one file with one extension a CCD is many datasets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astropy.time import Time, TimeDelta
from lsst.daf.butler import (
    Butler,
    CollectionType,
    DatasetIdGenEnum,
    DatasetRef,
    DatasetType,
    FileDataset,
    Timespan,
)
from lsst.daf.butler.registry import ConflictingDefinitionError

from skymill.data.errors import ConfigError, DataError, MissingInputError, SkymillError
from skymill.instruments.decam.facts import CAMERA_NAME
from skymill.instruments.decam.formatters import DecamRawFormatter
from skymill.instruments.decam.headers import RawFile, read_raw_headers
from skymill.store.repository import open_butler, storage_errors

__all__ = ["IngestReport", "exposure_records", "find_raw_files", "ingest_raws"]

_TRANSFERS = ("auto", "direct", "copy", "symlink", "link", "hardlink", "relsymlink", "move")
_SUFFIXES = (".fits", ".fits.fz", ".fits.gz")
#: Folder of files that were found corrupt.
_ASIDE = "corrupt_raws"


@dataclass
class IngestReport:
    """What an ingest did.

    Parameters
    ----------
    files_new, files_known : int
        Files with something new, and files that were in the repository already.
    datasets : int
        New datasets.
    problems : list of str
        One sentence for each file that could not be ingested.
    """

    files_new: int = 0
    files_known: int = 0
    datasets: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = (
            f"{self.datasets} new raw datasets from {self.files_new} files; "
            f"{self.files_known} files were there already"
        )
        return f"{text}; {len(self.problems)} files refused" if self.problems else text


def find_raw_files(places: Iterable[str | Path]) -> list[Path]:
    """Raw files in a list of files and folders.

    Parameters
    ----------
    places : iterable of path
        Files, and folders that are searched with all their subfolders but ``corrupt_raws``, into
        which ``skymill check-raws --move`` puts what cannot be read.

    Returns
    -------
    list of Path
        Absolute paths, sorted, each once.

    Raises
    ------
    MissingInputError
        If a place does not exist, or no file is found at all.
    """
    found: set[Path] = set()
    given = [str(p) for p in places]
    for place in given:
        path = Path(place)
        if path.is_dir():
            found.update(
                p.absolute()
                for p in path.rglob("*")
                if p.name.endswith(_SUFFIXES)
                and p.is_file()
                and _ASIDE not in p.relative_to(path).parts
            )
        elif path.is_file():
            found.add(path.absolute())
        else:
            raise MissingInputError(f"there is no file or folder {place}")
    if not found:
        raise MissingInputError(f"no raw files ({', '.join(_SUFFIXES)}) in {', '.join(given)}")
    return sorted(found)


def _try_headers(path: Path) -> RawFile | str:
    try:
        return read_raw_headers(path)
    except SkymillError as err:
        return str(err)


def read_all_headers(files: Sequence[Path], processes: int) -> Iterable[RawFile | str]:
    """The headers of many files, or the sentence about what is wrong with one."""
    if processes <= 1 or len(files) < 4:
        yield from map(_try_headers, files)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_try_headers, files, chunksize=4)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _time(mjd: float) -> Time:
    return Time(mjd, format="mjd", scale="tai")


def exposure_records(raw: RawFile) -> list[tuple[str, dict[str, Any]]]:
    """Dimension records of an exposure, in the order in which they depend on each other.

    Parameters
    ----------
    raw : RawFile
        What its headers say.

    Returns
    -------
    list of (str, dict)
        Dimension and record.
    """
    night = Time(
        f"{raw.day_obs // 10000}-{raw.day_obs // 100 % 100:02d}-{raw.day_obs % 100:02d}T12:00:00",
        scale="tai",
    )
    # A zero frame takes no time, but an empty timespan would match no calibration.
    begin, end = _time(raw.begin), _time(max(raw.end, raw.begin + 1e-3 / 86400.0))
    group = str(raw.exposure)
    return [
        (
            "day_obs",
            {
                "instrument": CAMERA_NAME,
                "id": raw.day_obs,
                "timespan": Timespan(night, night + TimeDelta(1, format="jd")),
            },
        ),
        ("group", {"instrument": CAMERA_NAME, "name": group}),
        (
            "exposure",
            {
                "instrument": CAMERA_NAME,
                "id": raw.exposure,
                "day_obs": raw.day_obs,
                "group": group,
                "physical_filter": raw.filter.name,
                "obs_id": raw.observation_id,
                "exposure_time": raw.exposure_time,
                "dark_time": raw.dark_time,
                "observation_type": raw.observation_type,
                "observation_reason": raw.reason or "unknown",
                "seq_num": raw.sequence,
                "seq_start": raw.sequence,
                "seq_end": raw.sequence,
                "target_name": raw.target or "unknown",
                "science_program": raw.program or "unknown",
                "tracking_ra": _finite(raw.ra),
                "tracking_dec": _finite(raw.dec),
                # DECam does not rotate: +y of the focal plane to the East.
                "sky_angle": 90.0,
                "azimuth": _finite(raw.azimuth),
                "zenith_angle": _finite(raw.zenith_angle),
                "has_simulated": False,
                "can_see_sky": raw.on_sky or raw.observation_type == "sky flat",
                "timespan": Timespan(begin, end),
            },
        ),
    ]


class _Ingest:
    """One ingest into an open repository."""

    def __init__(self, butler: Butler, run: str, transfer: str, place: str = "") -> None:
        self.butler, self.run, self.transfer, self.place = butler, run, transfer, place or run
        butler.collections.register(run, CollectionType.RUN)
        self.dataset_type = DatasetType(
            "raw",
            ("instrument", "exposure", "detector"),
            "SkymillRaw",
            universe=butler.dimensions,
        )
        butler.registry.registerDatasetType(self.dataset_type)
        self.known = {
            (ref.dataId["exposure"], ref.dataId["detector"])
            for ref in butler.query_datasets(
                "raw", collections=run, find_first=False, limit=None, explain=False
            )
        }

    def add(self, raw: RawFile) -> int:
        """Ingest what is new of a file; how many datasets that was."""
        wanted = [d for d in raw.detectors if (raw.exposure, d) not in self.known]
        if not wanted:
            return 0
        butler = self.butler
        with butler.transaction():
            for element, record in exposure_records(raw):
                self._sync(element, record, raw)
            refs = [
                DatasetRef(
                    self.dataset_type,
                    butler.registry.expandDataId(
                        instrument=CAMERA_NAME, exposure=raw.exposure, detector=detector
                    ),
                    run=self.run,
                    id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
                )
                for detector in wanted
            ]
            dataset = FileDataset(path=raw.path, refs=refs, formatter=DecamRawFormatter)
            with storage_errors(self.place):
                butler.ingest(dataset, transfer=self.transfer)
        self.known.update((raw.exposure, d) for d in wanted)
        return len(wanted)

    def _sync(self, element: str, record: dict[str, Any], raw: RawFile) -> None:
        try:
            self.butler.registry.syncDimensionData(element, record)
        except ConflictingDefinitionError as err:
            raise DataError(
                f"{raw.path}: exposure {raw.exposure} is in the repository already with another "
                f"{element} record; is it another file with the same EXPNUM? ({err})"
            ) from err


def ingest_raws(
    repo: str | Path,
    places: Iterable[str | Path],
    *,
    transfer: str = "direct",
    run: str = f"{CAMERA_NAME}/raw/all",
    processes: int = 1,
    fail_fast: bool = False,
) -> IngestReport:
    """Ingest raw files; what is in the repository already is left as it is.

    Parameters
    ----------
    repo : path
        The repository; its instrument must be registered.
    places : iterable of path
        Files and folders.
    transfer : str
        ``direct`` (leave the file where it is), ``copy``, ``symlink``, ``move``, ...
    run : str
        RUN collection.
    processes : int
        Processes that read headers.
    fail_fast : bool
        Stop at the first file that cannot be ingested.

    Returns
    -------
    IngestReport
        What was done, with a sentence for each file that was refused.

    Raises
    ------
    ConfigError
        If the transfer is unknown or the instrument is not registered.
    DataError
        With ``fail_fast``, about the first bad file.
    """
    if transfer not in _TRANSFERS:
        raise ConfigError(f"transfer must be one of {', '.join(_TRANSFERS)}; got {transfer!r}")
    files = find_raw_files(places)
    report = IngestReport()
    with open_butler(repo) as butler:
        if not butler.query_dimension_records("instrument", explain=False):
            raise ConfigError(
                f"{repo} has no instrument; run 'butler register-instrument {repo} "
                "skymill.instruments.decam.DarkEnergyCamera' first"
            )
        ingest = _Ingest(butler, run, transfer, str(repo))
        for raw in read_all_headers(files, processes):
            try:
                if isinstance(raw, str):
                    raise DataError(raw)
                added = ingest.add(raw)
            except DataError as err:
                if fail_fast or "is full" in str(err):
                    raise
                report.problems.append(str(err))
                continue
            report.datasets += added
            report.files_new += added > 0
            report.files_known += added == 0
    return report

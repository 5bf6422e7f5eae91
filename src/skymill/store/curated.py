"""Curated calibrations: facts of the camera, written into the repository with their validity."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from astropy.table import Table, vstack
from astropy.time import Time
from lsst.daf.butler import (
    Butler,
    CollectionType,
    DataCoordinate,
    DatasetIdGenEnum,
    DatasetRef,
    DatasetType,
    FileDataset,
    Timespan,
)
from lsst.daf.butler.formatters.parquet import astropy_to_arrow

from skymill.data.tables import load_schema
from skymill.instruments.decam import facts
from skymill.store.formatters import DetectorRowsFormatter
from skymill.store.repository import extend_chain, open_butler

__all__ = ["CALIB_CHAIN", "write_curated_calibrations"]

#: The chain that pipelines search, and its members in the order of search.
CALIB_CHAIN = f"{facts.CAMERA_NAME}/calib"
CERTIFIED = f"{CALIB_CHAIN}/certified"
CURATED = f"{CALIB_CHAIN}/curated"
UNBOUNDED = f"{CALIB_CHAIN}/unbounded"

_BY_CCD = ("crosstalk", "linearizer", "ptc", "defects")


@dataclass(frozen=True)
class _Entry:
    """One table: its type, CCD, and the epoch from which it is valid."""

    name: str
    detector: int
    begin: int
    end: int | None

    @property
    def run(self) -> str:
        text = str(self.begin)
        return f"{CURATED}/{text[:8]}T{text[8:]}00Z"

    def timespan(self) -> Timespan:
        begin = None if self.begin == facts.defect_epochs(self.detector)[0] else _time(self.begin)
        return Timespan(begin, None if self.end is None else _time(self.end))

    def table(self) -> Table:
        if self.name == "defects":
            table = facts.defect_table(self.detector, self.begin)
        elif self.name == "crosstalk":
            table = facts.crosstalk_table(self.detector)
        elif self.name == "linearizer":
            table = facts.linearity_table(self.detector)
        else:
            table = facts.ptc_table(self.detector)
        return load_schema(self.name).apply(table)


def _time(epoch: int) -> Time:
    t = str(epoch)
    return Time(f"{t[:4]}-{t[4:6]}-{t[6:8]}T{t[8:10]}:{t[10:12]}:00", scale="utc").tai


def _entries() -> Iterator[_Entry]:
    for ccd in facts.get_camera():
        epochs = facts.defect_epochs(ccd.id)
        for name in _BY_CCD[:3]:
            yield _Entry(name, ccd.id, epochs[0], None)
        for begin, end in zip(epochs, [*epochs[1:], None], strict=True):
            yield _Entry("defects", ccd.id, begin, end)


def _register(butler: Butler) -> None:
    for name in _BY_CCD:
        butler.registry.registerDatasetType(
            DatasetType(
                name, ("instrument", "detector"), "SkymillTable",
                universe=butler.dimensions, isCalibration=True,
            )
        )  # fmt: skip
    butler.registry.registerDatasetType(
        DatasetType(
            "camera", ("instrument",), "SkymillCamera",
            universe=butler.dimensions, isCalibration=True,
        )
    )  # fmt: skip
    butler.collections.register(CERTIFIED, CollectionType.CALIBRATION)
    butler.collections.register(CURATED, CollectionType.CALIBRATION)
    butler.collections.register(UNBOUNDED, CollectionType.RUN)
    extend_chain(butler, CALIB_CHAIN, [CERTIFIED, CURATED, UNBOUNDED])


def _present(butler: Butler, runs: set[str]) -> dict[tuple[str, str, int], DatasetRef]:
    found = {}
    for name in _BY_CCD:
        for ref in butler.query_datasets(
            name, collections=sorted(runs), find_first=False, limit=None, explain=False
        ):
            found[name, ref.run, int(ref.dataId["detector"])] = ref
    return found


def _ingest(
    butler: Butler, name: str, run: str, group: list[_Entry], folder: Path
) -> list[DatasetRef]:
    """One file for all CCDs: hundreds of small files would take ten times as long."""
    path = folder / f"{name}_{group[0].begin}.parq"
    table = load_schema(name).apply(vstack([e.table() for e in group], metadata_conflicts="silent"))
    pq.write_table(astropy_to_arrow(table), path)
    dataset_type = butler.get_dataset_type(name)
    refs = [
        DatasetRef(
            dataset_type,
            butler.registry.expandDataId(instrument=facts.CAMERA_NAME, detector=e.detector),
            run=run,
            id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
        )
        for e in group
    ]
    dataset = FileDataset(path=str(path), refs=refs, formatter=DetectorRowsFormatter)
    butler.ingest(dataset, transfer="move")
    return refs


def write_curated_calibrations(repo: str | Path) -> int:
    """Write camera, crosstalk, linearity, defects by epoch and photon-transfer numbers of DECam.

    They are certified into ``DECam/calib/curated`` with their validity; ``DECam/calib`` chains
    that with ``DECam/calib/certified`` (for frames that are made or imported) and
    ``DECam/calib/unbounded`` (the camera).

    Parameters
    ----------
    repo : path
        The repository; the instrument must be registered.

    Returns
    -------
    int
        Datasets that were written; zero if all were there already.
    """
    entries = list(_entries())
    written = 0
    with open_butler(repo) as butler:
        _register(butler)
        runs = {e.run for e in entries}
        for run in runs:
            butler.collections.register(run, CollectionType.RUN)
        present = _present(butler, runs)
        certify: dict[tuple[str, Timespan], list[DatasetRef]] = defaultdict(list)
        files: dict[tuple[str, str], list[_Entry]] = defaultdict(list)
        for entry in entries:
            if (entry.name, entry.run, entry.detector) not in present:
                files[entry.name, entry.run].append(entry)
        with tempfile.TemporaryDirectory() as folder, butler.transaction():
            for (name, run), group in files.items():
                refs = _ingest(butler, name, run, group, Path(folder))
                for entry, ref in zip(group, refs, strict=True):
                    certify[name, entry.timespan()].append(ref)
                written += len(group)
            camera_id = DataCoordinate.standardize(
                instrument=facts.CAMERA_NAME, universe=butler.dimensions
            )
            if butler.find_dataset("camera", camera_id, collections=UNBOUNDED) is None:
                ref = butler.put(facts.get_camera(), "camera", camera_id, run=UNBOUNDED)
                certify["camera", Timespan(None, None)].append(ref)
                written += 1
            for (_, span), refs in certify.items():
                butler.registry.certify(CURATED, refs, span)
    return written

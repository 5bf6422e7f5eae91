"""Tag the data of the chosen CCDs, so that later steps see no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler, CollectionType, DatasetType

from skymill.calibrate.selection import SelectOptions, select_detectors
from skymill.data.errors import MissingInputError

__all__ = ["TAGGED_TYPES", "select_visits", "tag_detectors"]

#: Dataset types of a CCD that later steps read.
TAGGED_TYPES = ("calexp", "calexpBackground", "src", "srcMatch", "preSourceTable")


def select_visits(
    butler: Butler,
    *,
    band: str,
    instrument: str,
    centre: tuple[float, float],
    checks: Sequence[str],
    inputs: Sequence[str],
    output: str,
    options: SelectOptions,
) -> Table:
    """Choose the CCDs of a band and tag their data.

    Parameters
    ----------
    butler : Butler
        Writeable repository.
    band, instrument : str
        Which visits.
    centre : (float, float)
        Position of the cluster [deg].
    checks : sequence of str
        Collections that hold ``check_visit_summary``.
    inputs : sequence of str
        Collections that hold the calibrated CCDs.
    output : str
        TAGGED collection; it is made, or its content replaced.
    options : SelectOptions
        The cuts.

    Returns
    -------
    Table
        ``select_visit``; also stored under that name beside the tags.

    Raises
    ------
    MissingInputError
        If no visit of the band was checked.
    """
    where, bind = "instrument = my_instrument AND band = my_band", {
        "my_instrument": instrument,
        "my_band": band,
    }  # fmt: skip
    refs = butler.query_datasets(
        "check_visit_summary",
        collections=list(checks),
        where=where,
        bind=bind,
        find_first=True,
        explain=False,
    )
    if not refs:
        raise MissingInputError(
            f"no visit of {instrument} in band {band} was checked in {', '.join(checks)}; run the "
            "step check_visit first"
        )
    table = select_detectors([butler.get(r) for r in refs], centre=centre, options=options)
    chosen = table[np.asarray(table["selected"])]
    pairs = {(int(r["visit"]), int(r["detector"])) for r in chosen}
    tag_detectors(butler, pairs, inputs=inputs, output=output, where=where, bind=bind)
    _store(butler, table, output, instrument, band)
    return table


def tag_detectors(
    butler: Butler,
    pairs: set[tuple[int, int]],
    *,
    inputs: Sequence[str],
    output: str,
    where: str,
    bind: dict[str, Any],
) -> int:
    """Make a TAGGED collection hold the data of some CCDs and nothing else.

    Parameters
    ----------
    butler : Butler
        Writeable repository.
    pairs : set of (int, int)
        Visits and detectors.
    inputs : sequence of str
        Collections to take the data from.
    output : str
        TAGGED collection.
    where, bind : str, dict
        Limits the data that are looked through.

    Returns
    -------
    int
        Number of datasets in the collection.
    """
    found = []
    for name in TAGGED_TYPES:
        refs = butler.query_datasets(
            name,
            collections=list(inputs),
            where=where,
            bind=bind,
            find_first=True,
            limit=None,
            explain=False,
        )
        found += [r for r in refs if (int(r.dataId["visit"]), int(r.dataId["detector"])) in pairs]
    with butler.transaction():
        butler.collections.register(output, CollectionType.TAGGED)
        old = [r for n in TAGGED_TYPES for r in _content(butler, n, output)]
        keep = {r.id for r in found}
        present = {r.id for r in old}
        butler.registry.disassociate(output, [r for r in old if r.id not in keep])
        butler.registry.associate(output, [r for r in found if r.id not in present])
    return len(found)


def _content(butler: Butler, name: str, collection: str) -> list[Any]:
    return list(
        butler.query_datasets(
            name, collections=[collection], find_first=False, limit=None, explain=False
        )
    )


def _store(butler: Butler, table: Table, output: str, instrument: str, band: str) -> None:
    """Keep the table of the cuts in a run beside the tags."""
    run = f"{output}/cuts"
    dataset_type = DatasetType(
        "select_visit",
        dimensions=("instrument", "band"),
        storageClass="SkymillTable",
        universe=butler.dimensions,
    )
    butler.registry.registerDatasetType(dataset_type)
    butler.collections.register(run, CollectionType.RUN)
    old = _content(butler, "select_visit", run)
    if old:
        butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
    butler.put(table, "select_visit", instrument=instrument, band=band, run=run)

"""Deleting intermediate products; the registry remembers that they existed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skymill.campaign.cluster import Cluster
from skymill.campaign.commands import CommandError

__all__ = [
    "FRAME_TYPES",
    "INTERMEDIATE_TYPES",
    "MADE_CHAINS",
    "delete_intermediates",
    "delete_types",
]

#: Frames that are combined to calibrations.
FRAME_TYPES = ("cpBiasProc", "cpFlatProc", "cpFringeProc")
#: Intermediate dataset types that the last step deletes. Calibrated images stay.
INTERMEDIATE_TYPES = (
    *FRAME_TYPES,
    "overscanRaw",
    "postISRCCD",
    "icExp",
    "icExpBackground",
    "icSrc",
    "deepCoadd_directWarp",
    "deepCoadd_psfMatchedWarp",
)
#: Where the campaign writes.
MADE_CHAINS = ("DECam/processing/*", "DECam/calib/made/*")
#: What has to exist before anything is deleted.
_FINAL_TYPES = ("deepCoadd_calexp", "objectTable_tract", "exportCatalog")


def delete_intermediates(cluster: Cluster) -> int:
    """Delete intermediate products after checking that the final ones exist.

    Parameters
    ----------
    cluster : Cluster
        The settings.

    Returns
    -------
    int
        Number of deleted datasets.

    Raises
    ------
    CommandError
        If a final product is missing; nothing is deleted then.
    """
    from lsst.daf.butler import Butler

    with Butler.from_config(cluster.repo_path, writeable=True) as butler:
        for name in _FINAL_TYPES:
            if not _find(butler, name, limit=1):
                raise CommandError(
                    f"nothing is deleted: there is no {name} yet; finish the steps before"
                )
    return delete_types(cluster, INTERMEDIATE_TYPES)


def delete_types(cluster: Cluster, names: Sequence[str]) -> int:
    """Delete the files of some dataset types; the registry remembers that they existed.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    names : sequence of str
        Dataset types.

    Returns
    -------
    int
        Number of deleted datasets.
    """
    from lsst.daf.butler import Butler

    with Butler.from_config(cluster.repo_path, writeable=True) as butler:
        refs = [ref for name in names for ref in _find(butler, name)]
        unique = list({ref.id: ref for ref in refs}.values())
        stored = [ref for ref, there in butler.stored_many(unique).items() if there]
        butler.pruneDatasets(stored, disassociate=False, unstore=True, purge=False)
    return len(stored)


def _find(butler: Any, name: str, limit: int | None = None) -> list[Any]:
    """Datasets of a type in all that the campaign made; none if the type is unknown."""
    from lsst.daf.butler import MissingDatasetTypeError

    chains = sorted(butler.collections.query(MADE_CHAINS))
    try:
        found: list[Any] = butler.query_datasets(
            name, collections=chains, find_first=False, limit=limit, explain=False
        )
    except MissingDatasetTypeError:
        return []
    return found

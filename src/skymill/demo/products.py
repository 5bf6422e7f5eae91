"""Read the products of a campaign that the report shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from astropy.table import Table, vstack
from lsst.daf.butler import Butler, MissingCollectionError, MissingDatasetTypeError

from skymill.campaign.cluster import Cluster

__all__ = ["Products"]

_P = "DECam/processing"


class Products:
    """The finished datasets of one cluster.

    Parameters
    ----------
    cluster : Cluster
        Its settings.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.butler = Butler.from_config(str(cluster.repo_path), writeable=False)

    def __enter__(self) -> Products:
        return self

    def __exit__(self, *_: object) -> None:
        self.butler.close()

    def read_all(self, dataset_type: str, collection: str, **data_id: Any) -> Iterator[Any]:
        """Every dataset of a type in a collection, in the order of its data IDs."""
        try:
            refs = self.butler.query_datasets(
                dataset_type,
                collections=f"{_P}/{collection}",
                find_first=True,
                data_id=data_id,
                explain=False,
            )
        except (MissingCollectionError, MissingDatasetTypeError):
            return
        for ref in sorted(refs, key=lambda r: str(r.dataId)):
            yield self.butler.get(ref)

    def read_one(self, dataset_type: str, collection: str, **data_id: Any) -> Any:
        """The first dataset of a type in a collection; `None` if there is none."""
        return next(self.read_all(dataset_type, collection, **data_id), None)

    def read_table(self, dataset_type: str, collection: str, **data_id: Any) -> Table:
        """All tables of a type in a collection, stacked; empty if there is none."""
        tables = list(self.read_all(dataset_type, collection, **data_id))
        return vstack(tables, metadata_conflicts="silent") if tables else Table()

"""Register a sky map: its tracts and patches, and the map itself as a dataset."""

from __future__ import annotations

from pathlib import Path

from lsst.daf.butler import CollectionType, DatasetType

from skymill.coadd.skymap import SkyMap
from skymill.data.errors import DataError
from skymill.store.regions import convex_polygon
from skymill.store.repository import open_butler

__all__ = ["SKYMAP_RUN", "register_sky_map"]

#: RUN collection of sky maps.
SKYMAP_RUN = "skymaps"


def register_sky_map(repo: str | Path, sky_map: SkyMap) -> bool:
    """Register a sky map.

    Parameters
    ----------
    repo : path
        The repository.
    sky_map : SkyMap
        The map.

    Returns
    -------
    bool
        False if the same map was registered already.

    Raises
    ------
    DataError
        If another map has the same name.
    """
    with open_butler(repo) as butler:
        present = butler.query_dimension_records("skymap", explain=False)
        for record in present:
            if record.name == sky_map.name:
                if record.hash == sky_map.hash:
                    return False
                raise DataError(
                    f"{repo} has another sky map named {sky_map.name!r} already; choose another "
                    "name, as results refer to maps by their names"
                )
            if record.hash == sky_map.hash:
                raise DataError(
                    f"{repo} has the same sky map already, under the name {record.name!r}; use it"
                )
        dataset_type = DatasetType(
            "skyMap", ("skymap",), "SkymillSkyMap", universe=butler.dimensions
        )
        butler.registry.registerDatasetType(dataset_type)
        butler.collections.register(SKYMAP_RUN, CollectionType.RUN)
        with butler.transaction():
            _insert(butler, sky_map)
            butler.put(sky_map, "skyMap", skymap=sky_map.name, run=SKYMAP_RUN)
    return True


def _insert(butler: object, sky_map: SkyMap) -> None:
    registry = butler.registry  # type: ignore[attr-defined]
    registry.insertDimensionData(
        "skymap",
        {
            "name": sky_map.name,
            "hash": sky_map.hash,
            "tract_max": sky_map.tract_max,
            "patch_nx_max": sky_map.patch_nx_max,
            "patch_ny_max": sky_map.patch_ny_max,
        },
    )
    tracts, patches = [], []
    for tract in sky_map.tracts:
        ra, dec = tract.sky_polygon()
        region = convex_polygon(ra=ra, dec=dec)
        tracts.append({"skymap": sky_map.name, "id": tract.index, "region": region})
        for patch in tract.patches:
            ra, dec = patch.sky_polygon()
            patches.append(
                {
                    "skymap": sky_map.name,
                    "tract": tract.index,
                    "id": patch.index,
                    "cell_x": patch.ix,
                    "cell_y": patch.iy,
                    "region": convex_polygon(ra=ra, dec=dec),
                }
            )
    registry.insertDimensionData("tract", *tracts)
    registry.insertDimensionData("patch", *patches)

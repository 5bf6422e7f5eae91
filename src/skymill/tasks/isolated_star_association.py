"""Isolated stars of a tract, associated over visits."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.calibrate.isolated import IsolatedOptions, find_isolated_stars
from skymill.coadd.skymap import SkyMap
from skymill.tasks._options import options_field, to_options

__all__ = [
    "IsolatedStarAssociationConfig",
    "IsolatedStarAssociationConnections",
    "IsolatedStarAssociationTask",
]

_COLUMNS = [
    "id", "visit", "detector", "x", "y", "ra", "dec", "psfFlux", "psfFluxErr", "snr",
    "extendedness", "blended", "centroid_flags", "psfFlux_flags",
]  # fmt: skip


class IsolatedStarAssociationConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract")
):
    """Datasets of `IsolatedStarAssociationTask`."""

    source_table_visit = cT.Input(
        doc="Sources of each visit.",
        name="preSourceTable_visit",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
        deferLoad=True,
    )
    skymap = cT.Input(
        doc="Geometry of the tracts.",
        name="skyMap",
        storageClass="SkymillSkyMap",
        dimensions=("skymap",),
    )
    isolated_star_cat = cT.Output(
        doc="The stars.",
        name="isolated_star_cat",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )
    isolated_star_sources = cT.Output(
        doc="Their sources.",
        name="isolated_star_sources",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class IsolatedStarAssociationConfig(
    PipelineTaskConfig, pipelineConnections=IsolatedStarAssociationConnections
):
    """Options of `IsolatedStarAssociationTask`."""

    stars = options_field(IsolatedOptions, "Which stars are isolated.")


class IsolatedStarAssociationTask(PipelineTask):
    """Associate the sources of all visits and keep the isolated stars."""

    ConfigClass = IsolatedStarAssociationConfig
    _DefaultName = "isolatedStarAssociation"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the needed columns of each visit."""
        handles = butlerQC.get(inputRefs.source_table_visit)
        tables = [(str(h.dataId["band"]), h.get(parameters={"columns": _COLUMNS})) for h in handles]
        tract = int(butlerQC.quantum.dataId["tract"])
        butlerQC.put(self.run(tables, butlerQC.get(inputRefs.skymap), tract), outputRefs)

    def run(self, tables: list[tuple[str, Table]], skymap: SkyMap, tract: int, **_: Any) -> Struct:
        """Find the stars.

        Parameters
        ----------
        tables : list of (str, Table)
            Band and sources of each visit.
        skymap : SkyMap
            Geometry of the tracts.
        tract : int
            The tract.

        Returns
        -------
        lsst.pipe.base.Struct
            ``isolated_star_cat``, ``isolated_star_sources``.
        """
        area = skymap.tract(tract)
        stars, sources = find_isolated_stars(
            tables,
            inside=lambda ra, dec: np.asarray(area.is_primary(ra=ra, dec=dec)),
            tract=tract,
            options=to_options(self.config.stars, IsolatedOptions),
        )
        if len(stars) == 0:
            raise NoWorkFound(f"tract {tract} holds no isolated star of {len(tables)} visits")
        self.log.info(
            "tract %d: %d isolated stars, %d sources, %d visits",
            tract, len(stars), len(sources), len(tables),
        )  # fmt: skip
        return Struct(isolated_star_cat=stars, isolated_star_sources=sources)

"""Measure the sources of a patch in one band with the places and shapes of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.images import Coadd
from skymill.measure.object_table import finish_forced
from skymill.measure.objects import force_objects
from skymill.measure.patch import children_of, coadd_psf_sigma
from skymill.tasks._object_options import ObjectConfig

__all__ = ["ForcedPhotCoaddConfig", "ForcedPhotCoaddConnections", "ForcedPhotCoaddTask"]


class ForcedPhotCoaddConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch", "band"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `ForcedPhotCoaddTask`."""

    exposure = cT.Input(
        doc="Coadd of the band.",
        name="{inputCoaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    refCat = cT.Input(
        doc="Measurements in the reference band.",
        name="{inputCoaddName}Coadd_ref",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    deblendedCatalog = cT.Input(
        doc="Sources.",
        name="{inputCoaddName}Coadd_deblendedCatalog",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    scarletModelData = cT.Input(
        doc="Templates of the sources.",
        name="{inputCoaddName}Coadd_scarletModelData",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    measCat = cT.Output(
        doc="Forced measurements.",
        name="{outputCoaddName}Coadd_forced_src",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
    )


class ForcedPhotCoaddConfig(
    ObjectConfig, PipelineTaskConfig, pipelineConnections=ForcedPhotCoaddConnections
):
    """Options of `ForcedPhotCoaddTask`."""


class ForcedPhotCoaddTask(PipelineTask):
    """Measure the sources of a patch in one band with the places and shapes of the reference."""

    ConfigClass = ForcedPhotCoaddConfig
    _DefaultName = "forcedPhotCoadd"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read coadd, reference and templates, write measurements."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(
        self,
        exposure: Coadd,
        refCat: Table,
        deblendedCatalog: Table,
        scarletModelData: Table,
        **_: Any,
    ) -> Struct:
        """Measure one band of a patch at given places.

        Parameters
        ----------
        exposure : Coadd
            The coadd.
        refCat : Table
            Positions and shapes.
        deblendedCatalog, scarletModelData : Table
            Sources and their templates.

        Returns
        -------
        lsst.pipe.base.Struct
            ``measCat``.
        """
        origin = (exposure.box.x0, exposure.box.y0)
        table = force_objects(
            exposure.planes,
            psf=exposure.psf,
            psf_sigma=coadd_psf_sigma(exposure.psf, shape=exposure.planes.shape, origin=origin),
            children=children_of(deblendedCatalog, scarletModelData, origin=origin),
            band=exposure.band,
            reference=refCat,
            rng=np.random.default_rng([3, exposure.tract, exposure.patch]),
            origin=origin,
            options=self.config.object_options(),
        )
        return Struct(measCat=finish_forced(table, refCat))

"""The sources of one CCD with calibrated fluxes."""

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

from skymill.calibrate.ccd import scale_fluxes
from skymill.data.errors import DataError
from skymill.data.photometry import FluxScale
from skymill.data.tables import load_schema

__all__ = [
    "TransformPreSourceTableConfig",
    "TransformPreSourceTableConnections",
    "TransformPreSourceTableTask",
]

_CCD = ("instrument", "visit", "detector")


class TransformPreSourceTableConnections(PipelineTaskConnections, dimensions=_CCD):
    """Datasets of `TransformPreSourceTableTask`."""

    inputCatalog = cT.Input(
        doc="Sources in electrons.", name="src", storageClass="SkymillTable", dimensions=_CCD
    )
    calexp = cT.Input(
        doc="Calibrated CCD, for its flux scale.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=_CCD,
        deferLoad=True,
    )
    outputCatalog = cT.Output(
        doc="Sources in nJy.", name="preSourceTable", storageClass="SkymillTable", dimensions=_CCD
    )


class TransformPreSourceTableConfig(
    PipelineTaskConfig, pipelineConnections=TransformPreSourceTableConnections
):
    """No options."""


class TransformPreSourceTableTask(PipelineTask):
    """Turn the fluxes of a CCD's sources from electrons into nJy."""

    ConfigClass = TransformPreSourceTableConfig
    _DefaultName = "transformPreSourceTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the sources and the flux scale alone."""
        inputs = butlerQC.get(inputRefs)
        scale = inputs["calexp"].get(component="photo_calib")
        butlerQC.put(self.run(inputs["inputCatalog"], scale), outputRefs)

    def run(self, inputCatalog: Table, scale: FluxScale | None, **_: Any) -> Struct:
        """Scale the fluxes.

        Parameters
        ----------
        inputCatalog : Table
            Sources in electrons.
        scale : FluxScale
            NanoJansky per electron.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        if scale is None:
            raise DataError("the CCD has no flux scale: it was not calibrated")
        factor = scale.scale(x=np.asarray(inputCatalog["x"]), y=np.asarray(inputCatalog["y"]))
        table = scale_fluxes(inputCatalog, factor)
        table.meta.pop("schema", None)
        return Struct(outputCatalog=load_schema("preSourceTable").apply(table))

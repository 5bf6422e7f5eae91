"""Choose and name the columns of objects that users read."""

from __future__ import annotations

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

from skymill.measure.object_table import public_objects

__all__ = [
    "TransformObjectTableConfig",
    "TransformObjectTableConnections",
    "TransformObjectTableTask",
]


class TransformObjectTableConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `TransformObjectTableTask`."""

    inputCatalog = cT.Input(
        doc="All measurements.",
        name="{inputCoaddName}Coadd_obj",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    outputCatalog = cT.Output(
        doc="Objects of the patch.",
        name="objectTable",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class TransformObjectTableConfig(
    PipelineTaskConfig, pipelineConnections=TransformObjectTableConnections
):
    """Options of `TransformObjectTableTask`."""

    # No options.


class TransformObjectTableTask(PipelineTask):
    """Choose and name the columns of objects that users read."""

    ConfigClass = TransformObjectTableConfig
    _DefaultName = "transformObjectTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read all measurements, write the objects."""
        where = butlerQC.quantum.dataId
        table = butlerQC.get(inputRefs.inputCatalog)
        butlerQC.put(self.run(table, tract=where["tract"], patch=where["patch"]), outputRefs)

    def run(self, inputCatalog: Table, *, tract: int, patch: int) -> Struct:
        """Turn the measurements of one patch into objects.

        Parameters
        ----------
        inputCatalog : Table
            All measurements.
        tract, patch : int
            Identity.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        return Struct(outputCatalog=public_objects(inputCatalog, tract=tract, patch=patch))

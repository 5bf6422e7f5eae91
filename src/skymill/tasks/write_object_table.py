"""Put all measurements of the sources of a patch side by side."""

from __future__ import annotations

from collections.abc import Mapping

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

from skymill.measure.object_table import join_bands

__all__ = ["WriteObjectTableConfig", "WriteObjectTableConnections", "WriteObjectTableTask"]


class WriteObjectTableConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `WriteObjectTableTask`."""

    inputCatalogMeas = cT.Input(
        doc="Measurements of each band.",
        name="{inputCoaddName}Coadd_meas",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    inputCatalogForcedSrc = cT.Input(
        doc="Forced measurements of each band.",
        name="{inputCoaddName}Coadd_forced_src",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    inputCatalogRef = cT.Input(
        doc="Measurements in the reference band.",
        name="{inputCoaddName}Coadd_ref",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    outputCatalog = cT.Output(
        doc="All measurements.",
        name="{outputCoaddName}Coadd_obj",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class WriteObjectTableConfig(PipelineTaskConfig, pipelineConnections=WriteObjectTableConnections):
    """Options of `WriteObjectTableTask`."""

    # No options.


class WriteObjectTableTask(PipelineTask):
    """Put all measurements of the sources of a patch side by side."""

    ConfigClass = WriteObjectTableConfig
    _DefaultName = "writeObjectTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read all measurements, write one table."""
        measured = {r.dataId["band"]: butlerQC.get(r) for r in inputRefs.inputCatalogMeas}
        forced = {r.dataId["band"]: butlerQC.get(r) for r in inputRefs.inputCatalogForcedSrc}
        reference = butlerQC.get(inputRefs.inputCatalogRef)
        butlerQC.put(self.run(measured, forced, reference), outputRefs)

    def run(
        self, measured: Mapping[str, Table], forced: Mapping[str, Table], reference: Table
    ) -> Struct:
        """Join the tables of one patch.

        Parameters
        ----------
        measured, forced : mapping of str to Table
            Measurements by band.
        reference : Table
            Measurements in the reference band.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        return Struct(outputCatalog=join_bands(measured, forced, reference))

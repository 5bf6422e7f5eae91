"""Choose the reference band of each source of a patch."""

from __future__ import annotations

from collections.abc import Mapping

from astropy.table import Table
from lsst.pex.config import Field
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

from skymill.measure.object_table import choose_reference

__all__ = ["MergeMeasurementsConfig", "MergeMeasurementsConnections", "MergeMeasurementsTask"]


class MergeMeasurementsConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `MergeMeasurementsTask`."""

    catalogs = cT.Input(
        doc="Measurements of each band.",
        name="{inputCoaddName}Coadd_meas",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    mergedCatalog = cT.Output(
        doc="Measurements in the reference band.",
        name="{outputCoaddName}Coadd_ref",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class MergeMeasurementsConfig(PipelineTaskConfig, pipelineConnections=MergeMeasurementsConnections):
    """Options of `MergeMeasurementsTask`."""

    minSN = Field[float](
        dtype=float, default=10.0, doc="Signal to noise of the PSF flux that lets a band lead."
    )


class MergeMeasurementsTask(PipelineTask):
    """Choose the reference band of each source of a patch."""

    ConfigClass = MergeMeasurementsConfig
    _DefaultName = "mergeMeasurements"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the measurements of all bands, write the reference."""
        tables = {ref.dataId["band"]: butlerQC.get(ref) for ref in inputRefs.catalogs}
        butlerQC.put(self.run(tables), outputRefs)

    def run(self, catalogs: Mapping[str, Table]) -> Struct:
        """Choose the reference bands.

        Parameters
        ----------
        catalogs : mapping of str to Table
            Measurements by band.

        Returns
        -------
        lsst.pipe.base.Struct
            ``mergedCatalog``.
        """
        return Struct(mergedCatalog=choose_reference(catalogs, min_snr=self.config.minSN))

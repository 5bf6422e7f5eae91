"""Merge the peaks of all bands of a patch into one list."""

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

from skymill.measure.patch import MergeOptions, merge_peaks
from skymill.tasks._options import options_field, to_options

__all__ = ["MergeDetectionsConfig", "MergeDetectionsConnections", "MergeDetectionsTask"]


class MergeDetectionsConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `MergeDetectionsTask`."""

    catalogs = cT.Input(
        doc="Peaks of each band.",
        name="{inputCoaddName}Coadd_det",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    outputCatalog = cT.Output(
        doc="Peaks of all bands.",
        name="{outputCoaddName}Coadd_mergeDet",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class MergeDetectionsConfig(PipelineTaskConfig, pipelineConnections=MergeDetectionsConnections):
    """Options of `MergeDetectionsTask`."""

    merge = options_field(MergeOptions, "Which peaks are one source.")


class MergeDetectionsTask(PipelineTask):
    """Merge the peaks of all bands of a patch into one list."""

    ConfigClass = MergeDetectionsConfig
    _DefaultName = "mergeDetections"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the peaks of all bands, write the list."""
        tables = {ref.dataId["band"]: butlerQC.get(ref) for ref in inputRefs.catalogs}
        butlerQC.put(self.run(tables), outputRefs)

    def run(self, catalogs: Mapping[str, Table]) -> Struct:
        """Merge peaks.

        Parameters
        ----------
        catalogs : mapping of str to Table
            Peaks by band.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        merged = merge_peaks(catalogs, options=to_options(self.config.merge, MergeOptions))
        return Struct(outputCatalog=merged)

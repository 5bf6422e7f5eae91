"""Put the objects of all patches of a tract together."""

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

from skymill.measure.object_table import stack_patches

__all__ = [
    "ConsolidateObjectTableConfig",
    "ConsolidateObjectTableConnections",
    "ConsolidateObjectTableTask",
]


class ConsolidateObjectTableConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `ConsolidateObjectTableTask`."""

    inputCatalogs = cT.Input(
        doc="Objects of the patches.",
        name="objectTable",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
    )
    outputCatalog = cT.Output(
        doc="Objects of the tract.",
        name="objectTable_tract",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract"),
    )


class ConsolidateObjectTableConfig(
    PipelineTaskConfig, pipelineConnections=ConsolidateObjectTableConnections
):
    """Options of `ConsolidateObjectTableTask`."""

    # No options.


class ConsolidateObjectTableTask(PipelineTask):
    """Put the objects of all patches of a tract together."""

    ConfigClass = ConsolidateObjectTableConfig
    _DefaultName = "consolidateObjectTable"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the patches, write the tract."""
        refs = sorted(inputRefs.inputCatalogs, key=lambda ref: ref.dataId["patch"])
        butlerQC.put(self.run([butlerQC.get(ref) for ref in refs]), outputRefs)

    def run(self, inputCatalogs: list[Table]) -> Struct:
        """Stack the tables.

        Parameters
        ----------
        inputCatalogs : list of Table
            Objects of the patches.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``.
        """
        return Struct(outputCatalog=stack_patches(inputCatalogs))

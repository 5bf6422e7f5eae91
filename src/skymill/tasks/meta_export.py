"""The catalogue of a tract in its five sheared versions (step meta_export)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astropy.table import Table
from lsst.pex.config import Field
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

from skymill.data.errors import NoDataError
from skymill.shear.meta_catalogue import join_sheared
from skymill.shear.metacal import SHEAR_TYPES

__all__ = ["MetaExportConfig", "MetaExportConnections", "MetaExportTask"]


def _objects(shear: str) -> Any:
    return cT.Input(
        doc=f"Objects of the patches, version {shear}.",
        name=f"{{coaddName}}_{shear}_Coadd_obj",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
        multiple=True,
    )


class MetaExportConnections(
    PipelineTaskConnections,
    dimensions=("instrument", "skymap", "tract"),
    defaultTemplates={"coaddName": "deep"},
):
    """Datasets of `MetaExportTask`."""

    objects_noshear = _objects("noshear")
    objects_1p = _objects("1p")
    objects_1m = _objects("1m")
    objects_2p = _objects("2p")
    objects_2m = _objects("2m")
    catalog = cT.Output(
        doc="Objects of all versions.",
        name="metaCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "skymap", "tract"),
    )


class MetaExportConfig(PipelineTaskConfig, pipelineConnections=MetaExportConnections):
    """Options of `MetaExportTask`."""

    prefix = Field[str](dtype=str, doc="First word of the names of objects.", default="LVS")


class MetaExportTask(PipelineTask):
    """Join the patches of the five sheared versions into one catalogue."""

    ConfigClass = MetaExportConfig
    _DefaultName = "metaExport"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the patches of every version, write the catalogue."""
        inputs = butlerQC.get(inputRefs)
        tables = {name: inputs[f"objects_{name}"] for name in SHEAR_TYPES}
        butlerQC.put(self.run(tables), outputRefs)

    def run(self, objects: dict[str, Sequence[Table]]) -> Struct:
        """Join the versions.

        Parameters
        ----------
        objects : dict of str to sequence of astropy.table.Table
            For each version the patches, schema ``shearedObjects``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``catalog``: schema ``metaCatalog``.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If a version has no object.
        """
        try:
            table = join_sheared(objects, prefix=self.config.prefix)
        except NoDataError as err:
            raise NoWorkFound(str(err)) from err
        self.log.info("objects of the versions: %s", table.meta["n"])
        return Struct(catalog=table)

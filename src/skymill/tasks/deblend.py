"""Deblend the footprints of a patch in all bands together."""

from __future__ import annotations

from collections.abc import Mapping

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

from skymill.data.images import Coadd
from skymill.measure.deblend import DeblendOptions
from skymill.measure.patch import SkyOptions, deblend_patch
from skymill.tasks._options import options_field, to_options

__all__ = ["DeblendConfig", "DeblendConnections", "DeblendTask"]


class DeblendConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `DeblendTask`."""

    coadds = cT.Input(
        doc="Coadds of all bands.",
        name="{inputCoaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
    )
    mergedDetections = cT.Input(
        doc="Peaks of all bands.",
        name="{inputCoaddName}Coadd_mergeDet",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    deblendedCatalog = cT.Output(
        doc="Sources.",
        name="{outputCoaddName}Coadd_deblendedCatalog",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    scarletModelData = cT.Output(
        doc="Templates of the sources.",
        name="{outputCoaddName}Coadd_scarletModelData",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )


class DeblendConfig(PipelineTaskConfig, pipelineConnections=DeblendConnections):
    """Options of `DeblendTask`."""

    deblend = options_field(DeblendOptions, "Templates and spectra.")
    skyObjects = options_field(SkyOptions, "Places without a source.")


class DeblendTask(PipelineTask):
    """Deblend the footprints of a patch in all bands together."""

    ConfigClass = DeblendConfig
    _DefaultName = "deblend"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the coadds of all bands, write sources and templates."""
        coadds = {ref.dataId["band"]: butlerQC.get(ref) for ref in inputRefs.coadds}
        butlerQC.put(self.run(coadds, butlerQC.get(inputRefs.mergedDetections)), outputRefs)

    def run(self, coadds: Mapping[str, Coadd], mergedDetections: Table) -> Struct:
        """Deblend one patch.

        Parameters
        ----------
        coadds : mapping of str to Coadd
            Coadds by band.
        mergedDetections : Table
            Peaks of all bands.

        Returns
        -------
        lsst.pipe.base.Struct
            ``deblendedCatalog``, ``scarletModelData``.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If there is no peak.
        """
        first = next(iter(coadds.values()))
        if len(mergedDetections) == 0:
            raise NoWorkFound(f"tract {first.tract} patch {first.patch} has no source")
        catalogue, pixels = deblend_patch(
            {band: coadd.planes for band, coadd in coadds.items()},
            mergedDetections,
            origin=(first.box.x0, first.box.y0),
            tract=first.tract,
            patch=first.patch,
            rng=np.random.default_rng([1, first.tract, first.patch]),
            options=to_options(self.config.deblend, DeblendOptions),
            sky=to_options(self.config.skyObjects, SkyOptions),
        )
        self.log.info(
            "tract %d patch %d: %d sources, %d of them blended",
            first.tract, first.patch, len(mergedDetections),
            int(np.count_nonzero(catalogue["n_siblings"] > 1)),
        )  # fmt: skip
        return Struct(deblendedCatalog=catalogue, scarletModelData=pixels)

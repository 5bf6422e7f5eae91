"""The visits of one band and patch, cleaned of transient artifacts and averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
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

from skymill.coadd.artifacts import ArtifactOptions, Artifacts, find_artifacts
from skymill.coadd.skymap import Patch
from skymill.coadd.stack import StackOptions, input_map, stack_warps
from skymill.data.errors import NoDataError
from skymill.data.images import Coadd
from skymill.tasks._options import options_field, to_options

__all__ = ["AssembleCoaddConfig", "AssembleCoaddConnections", "AssembleCoaddTask"]


class AssembleCoaddConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch", "band"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `AssembleCoaddTask`."""

    inputWarps = cT.Input(
        doc="Direct warps, which are averaged.",
        name="{inputCoaddName}Coadd_directWarp",
        storageClass="SkymillWarp",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    psfMatchedWarps = cT.Input(
        doc="PSF-matched warps, which tell the artifacts.",
        name="{inputCoaddName}Coadd_psfMatchedWarp",
        storageClass="SkymillWarp",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
        multiple=True,
        deferLoad=True,
    )
    skyMap = cT.Input(
        doc="The sky map.",
        name="skyMap",
        storageClass="SkymillSkyMap",
        dimensions=("skymap",),
    )
    coaddExposure = cT.Output(
        doc="The coadd.",
        name="{outputCoaddName}Coadd",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    nImage = cT.Output(
        doc="Number of visits in each pixel.",
        name="{outputCoaddName}Coadd_nImage",
        storageClass="SkymillFits",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    inputMap = cT.Output(
        doc="The CCDs that went in.",
        name="{outputCoaddName}Coadd_inputMap",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
    )

    inputPixels = cT.Output(
        doc="Which visits each pixel is made of.",
        name="{outputCoaddName}Coadd_inputPixels",
        storageClass="SkymillRecord",
        dimensions=("skymap", "tract", "patch", "band"),
    )

    def __init__(self, *, config: AssembleCoaddConfig | None = None) -> None:
        super().__init__(config=config)
        if config is None:
            return
        if not config.doClipArtifacts:
            del self.psfMatchedWarps
        if not config.doNImage:
            del self.nImage
        if not config.doInputMap:
            del self.inputMap
        if not config.doInputPixels:
            del self.inputPixels


class AssembleCoaddConfig(PipelineTaskConfig, pipelineConnections=AssembleCoaddConnections):
    """Options of `AssembleCoaddTask`."""

    stack = options_field(StackOptions, "Masks and weights.")
    artifacts = options_field(ArtifactOptions, "Search for transient artifacts.")
    doClipArtifacts = Field[bool](
        dtype=bool, default=True, doc="Clip transient artifacts; needs PSF-matched warps."
    )
    doNImage = Field[bool](dtype=bool, default=True, doc="Write the number of visits.")
    doInputPixels = Field[bool](
        dtype=bool, default=True, doc="Write which visits each pixel is made of, for correctCoadd."
    )
    doInputMap = Field[bool](dtype=bool, default=True, doc="Write the table of the CCDs.")


class AssembleCoaddTask(PipelineTask):
    """Find the artifacts among the warps of one band and patch, and average the rest."""

    ConfigClass = AssembleCoaddConfig
    _DefaultName = "assembleCoadd"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the warps in turn, write the coadd."""
        inputs = butlerQC.get(inputRefs)
        where = butlerQC.quantum.dataId
        patch = inputs.pop("skyMap").tract(where["tract"]).patch(where["patch"])
        result = self.run(patch=patch, skymap=str(where["skymap"]), **inputs)
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        inputWarps: list[Any],
        patch: Patch,
        skymap: str,
        psfMatchedWarps: list[Any] | None = None,
    ) -> Struct:
        """Stack one band of one patch.

        Parameters
        ----------
        inputWarps, psfMatchedWarps : list of DeferredDatasetHandle
            Warps; the direct ones are read one at a time.
        patch : Patch
            The patch.
        skymap : str
            Name of the sky map.

        Returns
        -------
        lsst.pipe.base.Struct
            ``coaddExposure``, ``nImage``, ``inputMap``, ``inputPixels``.
        """
        artifacts = self._find_artifacts(psfMatchedWarps or [], patch)
        stacker = stack_warps(
            (handle.get() for handle in _in_order(inputWarps)),
            box=patch.outer_box,
            wcs=patch.wcs,
            artifacts=artifacts,
            options=to_options(self.config.stack, StackOptions),
        )
        try:
            coadd = stacker.finish(
                skymap=skymap, tract=patch.tract, patch=patch.index, inner_box=patch.inner_box
            )
        except NoDataError as err:
            raise NoWorkFound(str(err)) from err
        self.log.info("patch %d: %d visits stacked", patch.index, len(stacker.weights))
        out = Struct(coaddExposure=coadd)
        if self.config.doNImage:
            out.nImage = _image_hdus(coadd, stacker.n_image)
        if self.config.doInputMap:
            out.inputMap = input_map(stacker)
        if self.config.doInputPixels:
            out.inputPixels = stacker.input_pixels()
        return out

    def _find_artifacts(self, handles: list[Any], patch: Patch) -> Artifacts | None:
        if not self.config.doClipArtifacts or not handles:
            return None
        found = find_artifacts(
            [handle.get() for handle in _in_order(handles)],
            box=patch.outer_box,
            options=to_options(self.config.artifacts, ArtifactOptions),
        )
        for visit, number in found.number.items():
            self.log.verbose("visit %d: %d artifacts clipped", visit, number)
        return found


def _in_order(handles: list[Any]) -> list[Any]:
    """By visit, so that the result does not depend on the order of the inputs."""
    return sorted(handles, key=lambda h: int(h.dataId["visit"]))


def _image_hdus(coadd: Coadd, pixels: np.ndarray) -> fits.HDUList:
    header = coadd.wcs.shifted(dx=coadd.box.x0, dy=coadd.box.y0).header
    hdu = fits.CompImageHDU(
        pixels.astype(np.int16), header=header, name="N_IMAGE", compression_type="RICE_1"
    )
    return fits.HDUList([fits.PrimaryHDU(), hdu])

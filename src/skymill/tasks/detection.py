"""Subtract what is left of the sky from a coadd and detect its sources."""

from __future__ import annotations

import dataclasses
from typing import Any

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
from skymill.data.images import Coadd
from skymill.measure.background import BackgroundOptions
from skymill.measure.detection import DetectionOptions
from skymill.measure.patch import COADD_DETECTION, coadd_psf_sigma, detect_coadd
from skymill.tasks._options import options_field, to_options

__all__ = ["DetectionConfig", "DetectionConnections", "DetectionTask"]


class DetectionConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch", "band"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `DetectionTask`."""

    coadd = cT.Input(
        doc="The coadd.",
        name="{inputCoaddName}Coadd",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    outputSources = cT.Output(
        doc="Peaks of one band.",
        name="{outputCoaddName}Coadd_det",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    outputExposure = cT.Output(
        doc="The coadd without its background, detections marked.",
        name="{outputCoaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    outputBackgrounds = cT.Output(
        doc="The background that was subtracted.",
        name="{outputCoaddName}Coadd_calexp_background",
        storageClass="SkymillBackground",
        dimensions=("skymap", "tract", "patch", "band"),
    )


class DetectionConfig(PipelineTaskConfig, pipelineConnections=DetectionConnections):
    """Options of `DetectionTask`."""

    detection = options_field(DetectionOptions, "Threshold and peaks.")
    background = options_field(BackgroundOptions, "Mesh of the background.")
    doBackground = Field[bool](
        dtype=bool, default=True, doc="Subtract a background from the coadd."
    )

    def setDefaults(self) -> None:
        """Threshold and peaks for coadds; a mesh much wider than galaxies."""
        super().setDefaults()
        for name in ("dynamic", "fill_saturated", "min_prominence"):
            setattr(self.detection, name, getattr(COADD_DETECTION, name))
        self.background.box = 512


class DetectionTask(PipelineTask):
    """Subtract what is left of the sky from a coadd and detect its sources."""

    ConfigClass = DetectionConfig
    _DefaultName = "detection"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the coadd, detect, write."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(self, coadd: Coadd, **_: Any) -> Struct:
        """Detect the sources of one band of a patch.

        Parameters
        ----------
        coadd : Coadd
            The coadd.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputSources``, ``outputExposure``, ``outputBackgrounds``.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If no pixel has data.
        """
        origin = (coadd.box.x0, coadd.box.y0)
        background = to_options(self.config.background, BackgroundOptions)
        try:
            sigma = coadd_psf_sigma(coadd.psf, shape=coadd.planes.shape, origin=origin)
            found = detect_coadd(
                coadd.planes,
                psf_sigma=sigma,
                origin=origin,
                detection=to_options(self.config.detection, DetectionOptions),
                background=background if self.config.doBackground else None,
            )
        except NoDataError as err:
            raise NoWorkFound(f"tract {coadd.tract} patch {coadd.patch}: {err}") from err
        self.log.info(
            "tract %d patch %d %s: %d peaks above %.2f sigma, PSF sigma %.2f pixel",
            coadd.tract, coadd.patch, coadd.band, len(found.table),
            found.detections.threshold, sigma,
        )  # fmt: skip
        return Struct(
            outputSources=found.table,
            outputExposure=dataclasses.replace(coadd, planes=found.planes),
            outputBackgrounds=found.background,
        )

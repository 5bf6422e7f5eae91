"""The sky of the whole focal plane of one visit."""

from __future__ import annotations

from typing import Any

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

from skymill.coadd.sky_correction import (
    MaskObjectsOptions,
    ModelOptions,
    correct_sky,
    sample_sky,
)
from skymill.data.errors import NoDataError
from skymill.instruments.camera import Camera
from skymill.measure.background import BackgroundList
from skymill.tasks._options import options_field, to_options

__all__ = ["SkyCorrConfig", "SkyCorrConnections", "SkyCorrTask"]


class SkyCorrConnections(PipelineTaskConnections, dimensions=("instrument", "visit")):
    """Datasets of `SkyCorrTask`."""

    calExps = cT.Input(
        doc="Calibrated CCDs of the visit.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    calBkgs = cT.Input(
        doc="The sky that was subtracted from each CCD.",
        name="calexpBackground",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    camera = cT.PrerequisiteInput(
        doc="Where the CCDs lie in the focal plane.",
        name="camera",
        storageClass="SkymillCamera",
        dimensions=("instrument",),
        isCalibration=True,
    )
    skyCorr = cT.Output(
        doc="What to subtract from calexp: the sky of single CCDs with the opposite sign, then "
        "the models of the whole focal plane.",
        name="skyCorr",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
    )


class SkyCorrConfig(PipelineTaskConfig, pipelineConnections=SkyCorrConnections):
    """Options of `SkyCorrTask`."""

    maskObjects = options_field(MaskObjectsOptions, "Objects and their outskirts.")
    bgModel1 = options_field(ModelOptions, "Coarse model.")
    bgModel2 = options_field(ModelOptions, "Fine model.")

    def setDefaults(self) -> None:
        """As published."""
        self.bgModel2.size = 3.84
        self.bgModel2.minFrac = 0.5
        self.bgModel2.smoothScale = 1.0


class SkyCorrTask(PipelineTask):
    """Model the sky of all CCDs of a visit at once."""

    ConfigClass = SkyCorrConfig
    _DefaultName = "skyCorr"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Go through the CCDs one at a time, write what to subtract from each."""
        inputs = butlerQC.get(inputRefs)
        result = self.run(**inputs)
        for ref in outputRefs.skyCorr:
            correction = result.skyCorr.get(int(ref.dataId["detector"]))
            if correction is not None:
                butlerQC.put(correction, ref)

    def run(self, *, calExps: list[Any], calBkgs: list[Any], camera: Camera) -> Struct:
        """Model the sky of one visit.

        Parameters
        ----------
        calExps, calBkgs : list of DeferredDatasetHandle
            CCDs and the sky that was subtracted from them; read in turn.
        camera : Camera
            Where the CCDs lie.

        Returns
        -------
        lsst.pipe.base.Struct
            ``skyCorr``: dict of int to BackgroundList.
        """
        objects = to_options(self.config.maskObjects, MaskObjectsOptions)
        skies = {int(h.dataId["detector"]): h for h in calBkgs}
        samples, positions, before = {}, {}, {}
        for handle in sorted(calExps, key=lambda h: int(h.dataId["detector"])):
            detector = int(handle.dataId["detector"])
            if detector not in skies:
                self.log.warning("detector %d left out: it has no calexpBackground", detector)
                continue
            sky: BackgroundList = skies[detector].get()
            planes = handle.get(component="planes")
            sample = sample_sky(planes, sky.evaluate(), options=objects)
            x, y = sample.centres()
            samples[detector], before[detector] = sample, sky
            positions[detector] = camera[detector].pixel_to_focal_plane(x=x, y=y)
        models = tuple(
            to_options(model, ModelOptions)
            for model in (self.config.bgModel1, self.config.bgModel2)
        )
        if not samples:
            raise NoWorkFound("the visit has no CCD with a background")
        try:
            corrections = correct_sky(samples, positions, models=models, before=before)
        except NoDataError as err:
            raise NoWorkFound(str(err)) from err
        return Struct(skyCorr=corrections)

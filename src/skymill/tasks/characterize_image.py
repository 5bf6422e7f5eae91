"""Sky, cosmic rays, PSF and sources of one CCD."""

from __future__ import annotations

from typing import Any

import numpy as np
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

from skymill.calibrate.characterize import CharacterizeOptions, characterize
from skymill.data.images import Exposure
from skymill.data.tables import load_schema
from skymill.detrend.cosmic_rays import CosmicRayOptions
from skymill.detrend.streaks import StreakOptions
from skymill.psf.fit import PsfFitOptions
from skymill.psf.star_choice import StarChoiceOptions
from skymill.tasks._options import options_field, to_options

__all__ = ["CharacterizeImageConfig", "CharacterizeImageConnections", "CharacterizeImageTask"]


class CharacterizeImageConnections(
    PipelineTaskConnections, dimensions=("instrument", "visit", "detector")
):
    """Datasets of `CharacterizeImageTask`."""

    exposure = cT.Input(
        doc="Flat pixels in electrons.",
        name="postISRCCD",
        storageClass="SkymillExposure",
        dimensions=("instrument", "exposure", "detector"),
    )
    characterized = cT.Output(
        doc="Sky subtracted, cosmic rays masked, PSF attached.",
        name="icExp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
    )
    backgroundModel = cT.Output(
        doc="The sky that was subtracted.",
        name="icExpBackground",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
    )
    outputSources = cT.Output(
        doc="Sources, in pixels and electrons.",
        name="icSrc",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "detector"),
    )


class CharacterizeImageConfig(PipelineTaskConfig, pipelineConnections=CharacterizeImageConnections):
    """Options of `CharacterizeImageTask`."""

    characterize = options_field(CharacterizeOptions, "Thresholds and background.")
    stars = options_field(StarChoiceOptions, "Choice of the PSF stars.")
    psf = options_field(PsfFitOptions, "Fit of the PSF.")
    cosmicRays = options_field(CosmicRayOptions, "Search for cosmic rays.")
    streaks = options_field(StreakOptions, "Search for trails of satellites.")


class CharacterizeImageTask(PipelineTask):
    """Subtract the sky, mask cosmic rays, fit the PSF and measure the sources of one CCD."""

    ConfigClass = CharacterizeImageConfig
    _DefaultName = "characterizeImage"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the exposure, characterize it, write the results."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(self, exposure: Exposure, **_: Any) -> Struct:
        """Characterize one CCD.

        Parameters
        ----------
        exposure : Exposure
            Flat pixels in electrons.

        Returns
        -------
        lsst.pipe.base.Struct
            ``characterized``, ``backgroundModel``, ``outputSources``.
        """
        info = exposure.info
        result = characterize(
            exposure,
            rng=np.random.default_rng([info.visit, info.detector]),
            options=to_options(self.config.characterize, CharacterizeOptions),
            star_options=to_options(self.config.stars, StarChoiceOptions),
            psf_options=to_options(self.config.psf, PsfFitOptions),
            cosmic_ray_options=to_options(self.config.cosmicRays, CosmicRayOptions),
            streak_options=to_options(self.config.streaks, StreakOptions),
        )
        catalogue = result.catalogue
        catalogue["id"] = (info.visit * 64 + info.detector) * 100_000 + np.arange(len(catalogue))
        self.log.info(
            "visit %d detector %d: %d sources, %d PSF stars, FWHM %.2f pixel, %d satellite trails",
            info.visit, info.detector, len(catalogue),
            int(result.exposure.summary["nPsfStar"]), result.exposure.summary["fwhm"],
            len(result.streaks),
        )  # fmt: skip
        return Struct(
            characterized=result.exposure,
            backgroundModel=result.background,
            outputSources=load_schema("src").apply(catalogue),
        )

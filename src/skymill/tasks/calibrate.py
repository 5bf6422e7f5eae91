"""World coordinates and zero point of one CCD from reference catalogues."""

from __future__ import annotations

from typing import Any

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

from skymill.calibrate.astrometry import AstrometryOptions
from skymill.calibrate.ccd import CcdOptions, calibrate_ccd
from skymill.calibrate.photometry import PhotometryOptions
from skymill.data.images import Exposure
from skymill.measure.background import BackgroundList
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import ReferencesConfig, reference_catalogue

__all__ = ["CalibrateConfig", "CalibrateConnections", "CalibrateTask"]

_CCD = ("instrument", "visit", "detector")


class CalibrateConnections(
    PipelineTaskConnections,
    dimensions=_CCD,
    defaultTemplates={"astrometryRefCat": "gaia", "photometryRefCat": "ps1"},
):
    """Datasets of `CalibrateTask`."""

    exposure = cT.Input(
        doc="Characterized CCD.", name="icExp", storageClass="SkymillExposure", dimensions=_CCD
    )
    background = cT.Input(
        doc="The sky that was subtracted.",
        name="icExpBackground",
        storageClass="SkymillBackground",
        dimensions=_CCD,
    )
    sources = cT.Input(
        doc="Measured sources.", name="icSrc", storageClass="SkymillTable", dimensions=_CCD
    )
    astromRefCat = reference_catalogue("Reference catalogue of positions.", "{astrometryRefCat}")
    photoRefCat = reference_catalogue("Reference catalogue of fluxes.", "{photometryRefCat}")
    outputExposure = cT.Output(
        doc="Calibrated CCD.", name="calexp", storageClass="SkymillExposure", dimensions=_CCD
    )
    outputBackground = cT.Output(
        doc="The sky that was subtracted from the calibrated CCD.",
        name="calexpBackground",
        storageClass="SkymillBackground",
        dimensions=_CCD,
    )
    outputCat = cT.Output(
        doc="Sources with positions on the sky.",
        name="src",
        storageClass="SkymillTable",
        dimensions=_CCD,
    )
    matches = cT.Output(
        doc="Sources and their reference stars.",
        name="srcMatch",
        storageClass="SkymillTable",
        dimensions=_CCD,
    )


class CalibrateConfig(
    PipelineTaskConfig, ReferencesConfig, pipelineConnections=CalibrateConnections
):
    """Options of `CalibrateTask`."""

    ccd = options_field(CcdOptions, "Which measurements serve.")
    astrometry = options_field(AstrometryOptions, "Astrometric fit.")
    photoCal = options_field(PhotometryOptions, "Photometric fit.")

    def photometric_catalogue(self) -> str:
        """Dataset type of the photometric catalogue."""
        template = str(self.connections.photoRefCat)
        return template.format(photometryRefCat=self.connections.photometryRefCat)


class CalibrateTask(PipelineTask):
    """Fit the world coordinates and the zero point of one CCD."""

    ConfigClass = CalibrateConfig
    _DefaultName = "calibrate"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the CCD and the shards of the catalogues that touch it."""
        inputs = butlerQC.get(inputRefs)
        for name in ("astromRefCat", "photoRefCat"):
            inputs[name] = [handle.get() for handle in inputs[name]]
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(
        self,
        exposure: Exposure,
        background: BackgroundList,
        sources: Table,
        astromRefCat: list[Table],
        photoRefCat: list[Table],
        **_: Any,
    ) -> Struct:
        """Calibrate one CCD.

        Parameters
        ----------
        exposure : Exposure
            Characterized CCD in electrons.
        background : BackgroundList
            What was subtracted from it.
        sources : Table
            Its measured sources.
        astromRefCat, photoRefCat : list of Table
            Shards in the ``refcat`` schema.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputExposure``, ``outputBackground``, ``outputCat``, ``matches``.
        """
        config = self.config
        references = config.references()
        result = calibrate_ccd(
            exposure,
            sources,
            astrometric=astromRefCat,
            photometric=photoRefCat,
            options=to_options(config.ccd, CcdOptions),
            astrometry_options=to_options(config.astrometry, AstrometryOptions),
            photometry_options=to_options(config.photoCal, PhotometryOptions),
            astrometric_references=references[0],
            photometric_references=references[1],
            colour_term=config.colour_term(exposure.info.band),
        )
        astrometry, photometry = result.astrometry, result.photometry
        self.log.info(
            "visit %d detector %d: pointing off by (%.1f, %.1f) arcsec; %d stars, %.1f mas per "
            "axis; zero point %.3f +- %.3f mag from %d stars",
            exposure.info.visit, exposure.info.detector, *astrometry.pointing_error,
            int(astrometry.used.sum()), astrometry.scatter, photometry.magnitude,
            photometry.error, int(photometry.used.sum()),
        )  # fmt: skip
        return Struct(
            outputExposure=result.exposure,
            outputBackground=background,
            outputCat=result.sources,
            matches=result.matches,
        )

"""World coordinates and zero point of one CCD from reference catalogues."""

from __future__ import annotations

import dataclasses
from typing import Any

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

from skymill.calibrate.astrometry import AstrometryOptions
from skymill.calibrate.ccd import CcdOptions, calibrate_ccd
from skymill.calibrate.colour_terms import CatalogueTerm, find_colour_term
from skymill.calibrate.photometry import PhotometryOptions
from skymill.calibrate.reference import ReferenceOptions
from skymill.data.images import Exposure
from skymill.measure.background import BackgroundList
from skymill.tasks._options import options_field, to_options

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
    astromRefCat = cT.PrerequisiteInput(
        doc="Reference catalogue of positions.",
        name="{astrometryRefCat}",
        storageClass="SkymillTable",
        dimensions=("htm7",),
        deferLoad=True,
        multiple=True,
        minimum=0,
    )
    photoRefCat = cT.PrerequisiteInput(
        doc="Reference catalogue of fluxes.",
        name="{photometryRefCat}",
        storageClass="SkymillTable",
        dimensions=("htm7",),
        deferLoad=True,
        multiple=True,
        minimum=0,
    )
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


class CalibrateConfig(PipelineTaskConfig, pipelineConnections=CalibrateConnections):
    """Options of `CalibrateTask`."""

    ccd = options_field(CcdOptions, "Which measurements serve.")
    astrometry = options_field(AstrometryOptions, "Astrometric fit.")
    photoCal = options_field(PhotometryOptions, "Photometric fit.")
    applyColorTerms = Field[bool](
        doc="Turn the photometric catalogue's magnitudes into the camera's, where that is known.",
        default=True,
    )
    camera = Field[str](doc="Camera whose colour terms are used.", default="decam")
    astrometryRefField = Field[str](
        doc="Flux of the astrometric catalogue; empty: astrometryReferences.flux_field.",
        default="",
    )
    photometryRefField = Field[str](
        doc="Flux of the photometric catalogue; empty: photometryReferences.flux_field.",
        default="",
    )
    astrometryReferences = options_field(ReferenceOptions, "Reference stars of the astrometry.")
    photometryReferences = options_field(ReferenceOptions, "Reference stars of the photometry.")

    def colour_term(self, band: str) -> CatalogueTerm | None:
        """The known colour term of the photometric catalogue in a band, if wanted."""
        if not self.applyColorTerms:
            return None
        template = str(self.connections.photoRefCat)
        catalogue = template.format(photometryRefCat=self.connections.photometryRefCat)
        return find_colour_term(catalogue, band, camera=self.camera)

    def references(self) -> tuple[ReferenceOptions, ReferenceOptions]:
        """Choice of the astrometric and the photometric stars, with their flux fields."""
        return (
            dataclasses.replace(
                to_options(self.astrometryReferences, ReferenceOptions),
                flux_field=self.astrometryRefField or self.astrometryReferences.flux_field,
            ),
            dataclasses.replace(
                to_options(self.photometryReferences, ReferenceOptions),
                flux_field=self.photometryRefField or self.photometryReferences.flux_field,
            ),
        )

    def setDefaults(self) -> None:
        """The published choice: Gaia's G, and no photometric reference fainter than 22 mag."""
        self.astrometryReferences.flux_field = "phot_g_mean"
        self.photometryReferences.mag_max = 22.0


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

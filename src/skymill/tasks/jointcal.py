"""Joint calibration of all visits of a tract in one filter."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
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

from skymill.calibrate.joint import JointFit, fit_joint_astrometry, fit_joint_photometry
from skymill.calibrate.joint_sources import JointOptions, gather_sources, match_references
from skymill.calibrate.reference import load_references
from skymill.tasks._options import options_field, to_options
from skymill.tasks._references import ReferencesConfig, reference_catalogue

__all__ = ["JointcalConfig", "JointcalConnections", "JointcalTask"]


class JointcalConnections(
    PipelineTaskConnections, dimensions=("instrument", "skymap", "tract", "physical_filter")
):
    """Datasets of `JointcalTask`."""

    inputSourceTableVisit = cT.Input(
        doc="Sources of each visit.",
        name="preSourceTable_visit",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
    )
    inputVisitSummary = cT.Input(
        doc="CCDs of each visit.",
        name="visitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
    )
    astrometryRefCat = reference_catalogue("Reference catalogue of positions.", "gaia")
    photometryRefCat = reference_catalogue("Reference catalogue of fluxes.", "ps1")
    outputWcs = cT.Output(
        doc="World coordinates of the CCDs of each visit.",
        name="jointcalSkyWcsCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )
    outputPhotoCalib = cT.Output(
        doc="Flux scales of the CCDs of each visit.",
        name="jointcalPhotoCalibCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )


class JointcalConfig(PipelineTaskConfig, ReferencesConfig, pipelineConnections=JointcalConnections):
    """Options of `JointcalTask`."""

    photometryVisitOrder = Field[int](
        doc="Highest order of the photometric polynomial of each visit.", default=2
    )
    astrometryVisitOrder = Field[int](
        doc="Highest order of the astrometric polynomial of each visit.", default=5
    )
    astrometryChipOrder = Field[int](
        doc="Order of the astrometric polynomial of each CCD, shared by all visits.", default=1
    )
    fit = options_field(JointOptions, "The other settings; its three orders are not read.")

    def photometric_catalogue(self) -> str:
        """Dataset type of the photometric catalogue."""
        return str(self.connections.photometryRefCat)

    def options(self) -> JointOptions:
        """The settings with the three orders under their published names."""
        return dataclasses.replace(
            to_options(self.fit, JointOptions),
            photometry_visit_order=self.photometryVisitOrder,
            astrometry_visit_order=self.astrometryVisitOrder,
            astrometry_chip_order=self.astrometryChipOrder,
        )

    def validate(self) -> None:
        """Check the orders too."""
        super().validate()
        self.options()


class JointcalTask(PipelineTask):
    """Calibrate all visits of a tract together against reference catalogues."""

    ConfigClass = JointcalConfig
    _DefaultName = "jointcal"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read everything of the tract; write one pair of tables a visit."""
        inputs = butlerQC.get(inputRefs)
        for name in ("astrometryRefCat", "photometryRefCat"):
            inputs[name] = [handle.get() for handle in inputs[name]]
        result = self.run(**inputs)
        for refs, tables in (
            (outputRefs.outputWcs, result.outputWcs),
            (outputRefs.outputPhotoCalib, result.outputPhotoCalib),
        ):
            for ref in refs:
                visit = int(ref.dataId["visit"])
                if visit in tables:
                    butlerQC.put(tables[visit], ref)
                else:
                    self.log.warning("visit %d has no usable source: not calibrated", visit)

    def run(
        self,
        inputSourceTableVisit: list[Table],
        inputVisitSummary: list[Table],
        astrometryRefCat: list[Table],
        photometryRefCat: list[Table],
        **_: Any,
    ) -> Struct:
        """Fit the visits.

        Parameters
        ----------
        inputSourceTableVisit, inputVisitSummary : list of Table
            Sources and CCDs of the visits.
        astrometryRefCat, photometryRefCat : list of Table
            Shards in the ``refcat`` schema.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputWcs``, ``outputPhotoCalib`` : dict of visit to Table; ``astrometry``,
            ``photometry`` : JointFit.
        """
        summaries = [t for t in inputVisitSummary if len(t)]
        if not summaries or not inputSourceTableVisit:
            raise NoWorkFound("no visit of this filter has calibrated CCDs in the tract")
        options = self.config.options()
        sources = gather_sources(inputSourceTableVisit, summaries, options)
        epoch = float(np.mean([np.mean(t["mjd"]) for t in summaries]))
        band = str(summaries[0]["band"][0])
        choices = self.config.references()
        fits = []
        for shards, choice, fit in (
            (astrometryRefCat, choices[0], fit_joint_astrometry),
            (photometryRefCat, choices[1], fit_joint_photometry),
        ):
            references = load_references(
                shards,
                band=band,
                epoch_mjd=epoch,
                options=choice,
                flux_needed=fit is fit_joint_photometry,
                colour_term=self.config.colour_term(band) if fit is fit_joint_photometry else None,
            )
            stars = match_references(sources, references, radius=options.match_radius)
            fits.append(fit(sources, stars, summaries, options=options))
            self._report(fits[-1], "mas" if fit is fit_joint_astrometry else "mmag")
        return Struct(
            outputWcs=fits[0].table,
            outputPhotoCalib=fits[1].table,
            astrometry=fits[0],
            photometry=fits[1],
        )

    def _report(self, fit: JointFit, unit: str) -> None:
        for note in fit.notes:
            self.log.info("%s", note)
        self.log.info(
            "%d visits: %d measurements of %d stars, %d references; bright scatter %.2f %s, "
            "references %.2f %s; orders: CCD %d, visit %d",
            len(fit.table), fit.n_measurement, fit.n_star, fit.n_reference, fit.scatter, unit,
            fit.reference_scatter, unit, fit.chip_order, fit.visit_order,
        )  # fmt: skip

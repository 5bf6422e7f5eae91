"""The summary of a visit with its joint calibration and final PSF."""

from __future__ import annotations

from typing import Any

from astropy.table import Table
from lsst.pex.config import ChoiceField
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

from skymill.calibrate.visit_table import choose_tract, update_visit_summary

__all__ = ["UpdateVisitSummaryConfig", "UpdateVisitSummaryConnections", "UpdateVisitSummaryTask"]

_VISIT = ("instrument", "visit")


class UpdateVisitSummaryConnections(
    PipelineTaskConnections,
    dimensions=_VISIT,
    defaultTemplates={"skyWcsName": "jointcal", "photoCalibName": "jointcal"},
):
    """Datasets of `UpdateVisitSummaryTask`."""

    input_summary = cT.Input(
        doc="Single-frame summary.",
        name="visitSummary",
        storageClass="SkymillTable",
        dimensions=_VISIT,
    )
    wcs_overrides_tract = cT.Input(
        doc="World coordinates of the joint fit, one table a tract.",
        name="{skyWcsName}SkyWcsCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )
    photo_calib_overrides_tract = cT.Input(
        doc="Flux scales of the joint fit, one table a tract.",
        name="{photoCalibName}PhotoCalibCatalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )
    psf_overrides = cT.Input(
        doc="Final PSF and aperture corrections.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="SkymillTable",
        dimensions=_VISIT,
    )
    output_summary = cT.Output(
        doc="Final summary.",
        name="finalVisitSummary",
        storageClass="SkymillTable",
        dimensions=_VISIT,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config.wcs_provider == "input_summary":
            del self.wcs_overrides_tract
        if config.photo_calib_provider == "input_summary":
            del self.photo_calib_overrides_tract
        if config.psf_provider == "input_summary":
            del self.psf_overrides


class UpdateVisitSummaryConfig(
    PipelineTaskConfig, pipelineConnections=UpdateVisitSummaryConnections
):
    """Where each part of the calibration comes from."""

    wcs_provider = ChoiceField[str](
        doc="Source of the world coordinates.",
        allowed={"input_summary": "Single-frame fit.", "tract": "Joint fit of a tract."},
        default="tract",
        optional=False,
    )
    photo_calib_provider = ChoiceField[str](
        doc="Source of the flux scales.",
        allowed={"input_summary": "Single-frame fit.", "tract": "Joint fit of a tract."},
        default="tract",
        optional=False,
    )
    psf_provider = ChoiceField[str](
        doc="Source of the PSF's numbers.",
        allowed={"input_summary": "First PSF.", "catalog": "Final PSF."},
        default="catalog",
        optional=False,
    )


class UpdateVisitSummaryTask(PipelineTask):
    """Put the joint calibration and the final PSF into the summary of a visit."""

    ConfigClass = UpdateVisitSummaryConfig
    _DefaultName = "updateVisitSummary"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the tables, update the summary, write it."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(
        self,
        input_summary: Table,
        wcs_overrides_tract: list[Table] | None = None,
        photo_calib_overrides_tract: list[Table] | None = None,
        psf_overrides: Table | None = None,
    ) -> Struct:
        """Update the summary.

        Parameters
        ----------
        input_summary : Table
            ``visitSummary``.
        wcs_overrides_tract, photo_calib_overrides_tract : list of Table, optional
            Joint calibration, one table a tract; a CCD takes the tract with the most stars.
        psf_overrides : Table, optional
            Final PSF.

        Returns
        -------
        lsst.pipe.base.Struct
            ``output_summary``.
        """
        final = update_visit_summary(
            input_summary,
            sky_wcs=choose_tract(wcs_overrides_tract),
            photo_calib=choose_tract(photo_calib_overrides_tract),
            psf=psf_overrides,
        )
        if len(final) == 0:
            raise NoWorkFound("no CCD of this visit has a joint calibration and a final PSF")
        lost = sorted(set(map(int, input_summary["detector"])) - set(map(int, final["detector"])))
        if lost:
            self.log.warning("detectors without a final calibration are left out: %s", lost)
        return Struct(output_summary=final)

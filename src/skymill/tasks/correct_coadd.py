"""The coadd of sky-corrected CCDs, from the coadd of the uncorrected ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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

from skymill.calibrate.visit_table import flux_scale_of, wcs_of
from skymill.coadd.coadd_correction import CcdSurface, correct_coadd
from skymill.coadd.stack import InputPixels
from skymill.coadd.warp import footprint
from skymill.data.images import Coadd

__all__ = ["CorrectCoaddConfig", "CorrectCoaddConnections", "CorrectCoaddTask"]

_PATCH = ("skymap", "tract", "patch", "band")


class CorrectCoaddConnections(
    PipelineTaskConnections,
    dimensions=_PATCH,
    defaultTemplates={"coaddName": "deep", "skyCorrName": "skyCorr"},
):
    """Datasets of `CorrectCoaddTask`."""

    coadd = cT.Input(
        doc="The coadd of CCDs without sky correction.",
        name="{coaddName}Coadd",
        storageClass="SkymillCoadd",
        dimensions=_PATCH,
    )
    inputPixels = cT.Input(
        doc="Which visits each of its pixels is made of.",
        name="{coaddName}Coadd_inputPixels",
        storageClass="SkymillRecord",
        dimensions=_PATCH,
    )
    skyCorrList = cT.Input(
        doc="What to subtract from each CCD.",
        name="{skyCorrName}",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    visitSummaries = cT.Input(
        doc="WCS and photometric calibration with which the CCDs were warped.",
        name="finalVisitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
        deferLoad=True,
    )
    corrected = cT.Output(
        doc="The coadd of the sky-corrected CCDs.",
        name="{coaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=_PATCH,
    )


class CorrectCoaddConfig(PipelineTaskConfig, pipelineConnections=CorrectCoaddConnections):
    """Options of `CorrectCoaddTask`: none."""


class CorrectCoaddTask(PipelineTask):
    """Subtract the sky corrections of the CCDs from their coadd."""

    ConfigClass = CorrectCoaddConfig
    _DefaultName = "correctCoadd"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the coadd, go through the CCDs one at a time, write the coadd."""
        butlerQC.put(self.run(**butlerQC.get(inputRefs)), outputRefs)

    def run(
        self,
        *,
        coadd: Coadd,
        inputPixels: InputPixels,
        skyCorrList: list[Any],
        visitSummaries: list[Any],
    ) -> Struct:
        """Correct one band of one patch.

        Parameters
        ----------
        coadd : Coadd
            The coadd.
        inputPixels : InputPixels
            Which visits its pixels are made of.
        skyCorrList, visitSummaries : list of DeferredDatasetHandle
            What to subtract from each CCD, and the calibrations of the visits.

        Returns
        -------
        lsst.pipe.base.Struct
            ``corrected``.
        """
        surfaces = self._surfaces(coadd, inputPixels, skyCorrList, visitSummaries)
        return Struct(corrected=correct_coadd(coadd, inputPixels, surfaces))

    def _surfaces(
        self, coadd: Coadd, inputs: InputPixels, corrections: list[Any], summaries: list[Any]
    ) -> Iterator[CcdSurface]:
        by_ccd = {(int(h.dataId["visit"]), int(h.dataId["detector"])): h for h in corrections}
        tables = {int(h.dataId["visit"]): h for h in summaries}
        for visit in inputs.visits:
            if visit not in tables:
                self.log.warning("visit %d is not corrected: no finalVisitSummary", visit)
                continue
            stacked = {d for v, d in coadd.inputs if v == visit}
            for row in tables[visit].get():
                detector, shape = int(row["detector"]), (int(row["ny"]), int(row["nx"]))
                wcs = wcs_of(row)
                outline = wcs, shape, coadd.wcs, coadd.box
                if detector not in stacked or footprint(*outline)[0].is_empty:
                    continue
                if (visit, detector) not in by_ccd:
                    self.log.warning("visit %d detector %d is not corrected", visit, detector)
                    continue
                yield CcdSurface(
                    visit=visit,
                    wcs=wcs,
                    photo_calib=flux_scale_of(row, shape=shape),
                    level=by_ccd[visit, detector].get().evaluate(),
                )

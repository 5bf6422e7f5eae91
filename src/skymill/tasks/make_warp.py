"""The CCDs of one visit, calibrated, on the pixels of one patch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pex.config import Config, ConfigField, Field
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

from skymill.calibrate.final_psf import psf_from_row
from skymill.calibrate.visit_table import flux_scale_of, wcs_of
from skymill.coadd.psf_match import MatchOptions, ModelPsfOptions, match_psf
from skymill.coadd.skymap import Patch
from skymill.coadd.warp import Warp, WarpOptions, footprint, warp_exposures
from skymill.data.errors import NoDataError
from skymill.data.images import Exposure
from skymill.tasks._options import options_field, to_options

__all__ = ["MakeWarpConfig", "MakeWarpConnections", "MakeWarpTask", "WarpAndPsfMatchConfig"]


class MakeWarpConnections(
    PipelineTaskConnections,
    dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    defaultTemplates={"coaddName": "deep", "skyCorrName": "skyCorr"},
):
    """Datasets of `MakeWarpTask`."""

    calExpList = cT.Input(
        doc="Calibrated CCDs of the visit that may cover the patch.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    backgroundList = cT.Input(
        doc="The sky that was subtracted from each CCD.",
        name="calexpBackground",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    skyCorrList = cT.Input(
        doc="What to subtract from each CCD instead of the sky of single CCDs.",
        name="{skyCorrName}",
        storageClass="SkymillBackground",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    visitSummary = cT.Input(
        doc="Final WCS and photometric calibration of each CCD.",
        name="finalVisitSummary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )
    psfApCorrCatalog = cT.Input(
        doc="Final PSF of each CCD.",
        name="finalized_psf_ap_corr_catalog",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )
    skyMap = cT.Input(
        doc="The sky map.",
        name="skyMap",
        storageClass="SkymillSkyMap",
        dimensions=("skymap",),
    )
    direct = cT.Output(
        doc="The visit on the pixels of the patch.",
        name="{coaddName}Coadd_directWarp",
        storageClass="SkymillWarp",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    )
    psfMatched = cT.Output(
        doc="The same with the common PSF.",
        name="{coaddName}Coadd_psfMatchedWarp",
        storageClass="SkymillWarp",
        dimensions=("instrument", "visit", "skymap", "tract", "patch"),
    )

    def __init__(self, *, config: MakeWarpConfig | None = None) -> None:
        super().__init__(config=config)
        if config is None:
            return
        if config.bgSubtracted:
            del self.backgroundList
        if not config.doApplySkyCorr:
            del self.skyCorrList
        if not config.doApplyFinalizedPsf:
            del self.psfApCorrCatalog
        if not config.makePsfMatched:
            del self.psfMatched


class WarpAndPsfMatchConfig(Config):
    """Resampling and PSF matching."""

    warp = options_field(WarpOptions, "Resampling.")
    psfMatch = options_field(MatchOptions, "Kernel of the PSF matching.")

    def setDefaults(self) -> None:
        """The published kernel; no noise realisation, which only metadetection needs."""
        self.warp.warpingKernelName = "lanczos5"
        self.warp.noise = False


class MakeWarpConfig(PipelineTaskConfig, pipelineConnections=MakeWarpConnections):
    """Options of `MakeWarpTask`."""

    warpAndPsfMatch = ConfigField[WarpAndPsfMatchConfig](
        dtype=WarpAndPsfMatchConfig, doc="Resampling and PSF matching."
    )
    modelPsf = options_field(ModelPsfOptions, "The common PSF.")
    makePsfMatched = Field[bool](
        dtype=bool, default=True, doc="Make the PSF-matched warp, which the artifact search needs."
    )
    bgSubtracted = Field[bool](
        dtype=bool, default=True, doc="False: put the sky of calexpBackground back."
    )
    doApplySkyCorr = Field[bool](
        dtype=bool, default=False, doc="Subtract skyCorr: the sky of the whole focal plane."
    )
    doApplyFinalizedPsf = Field[bool](
        dtype=bool, default=True, doc="Use the PSF of finalized_psf_ap_corr_catalog, not calexp's."
    )


class MakeWarpTask(PipelineTask):
    """Calibrate and resample the CCDs of one visit onto one patch."""

    ConfigClass = MakeWarpConfig
    _DefaultName = "makeWarp"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the tables, go through the CCDs one at a time, write the warps."""
        inputs = butlerQC.get(inputRefs)
        where = butlerQC.quantum.dataId
        patch = inputs.pop("skyMap").tract(where["tract"]).patch(where["patch"])
        seed = [int(where["visit"]), int(where["tract"]), int(where["patch"])]
        result = self.run(patch=patch, rng=np.random.default_rng(seed), **inputs)
        butlerQC.put(result, outputRefs)

    def run(
        self,
        *,
        calExpList: list[Any],
        visitSummary: Table,
        patch: Patch,
        rng: np.random.Generator,
        psfApCorrCatalog: Table | None = None,
        backgroundList: list[Any] | None = None,
        skyCorrList: list[Any] | None = None,
    ) -> Struct:
        """Warp one visit.

        Parameters
        ----------
        calExpList, backgroundList, skyCorrList : list of DeferredDatasetHandle
            CCDs with their backgrounds; each is read when its turn comes.
        visitSummary, psfApCorrCatalog : astropy.table.Table
            Final calibrations and PSFs.
        patch : Patch
            The patch.
        rng : numpy.random.Generator
            For the noise realisation.

        Returns
        -------
        lsst.pipe.base.Struct
            ``direct`` and, if configured, ``psfMatched``.
        """
        extra = _by_detector(backgroundList), _by_detector(skyCorrList)
        exposures = self._exposures(calExpList, visitSummary, psfApCorrCatalog, patch, *extra)
        try:
            warp = warp_exposures(
                exposures,
                wcs=patch.wcs,
                box=patch.outer_box,
                options=to_options(self.config.warpAndPsfMatch.warp, WarpOptions),
                rng=rng,
            )
        except NoDataError as err:
            raise NoWorkFound(str(err)) from err
        self.log.info(
            "%d CCDs cover %.1f %% of patch %d; PSF %.2f pixel",
            len(warp.inputs),
            100.0 * sum(i.n_pixel for i in warp.inputs) / np.prod(patch.outer_box.shape),
            patch.index,
            warp.psf_fwhm,
        )
        if not self.config.makePsfMatched:
            return Struct(direct=warp)
        return Struct(direct=warp, psfMatched=self._match(warp))

    def _match(self, warp: Warp) -> Warp:
        model = to_options(self.config.modelPsf, ModelPsfOptions)
        if warp.psf_fwhm > model.defaultFwhm:
            self.log.warning(
                "the PSF of visit %d is wider (%.2f pixel) than the common PSF (%.2f pixel): "
                "its artifacts are less sure; raise modelPsf.defaultFwhm or leave the visit out",
                warp.visit,
                warp.psf_fwhm,
                model.defaultFwhm,
            )
        options = to_options(self.config.warpAndPsfMatch.psfMatch, MatchOptions)
        return match_psf(warp, model=model, options=options)

    def _exposures(
        self,
        handles: list[Any],
        summary: Table,
        psfs: Table | None,
        patch: Patch,
        backgrounds: dict[int, Any],
        corrections: dict[int, Any],
    ) -> Iterator[Exposure]:
        rows = {int(r["detector"]): r for r in summary}
        psf_rows = {} if psfs is None else {int(r["detector"]): r for r in psfs}
        for detector, handle in sorted(_by_detector(handles).items()):
            row = rows.get(detector)
            needed = [(row, "finalVisitSummary")]
            if psfs is not None:
                needed.append((psf_rows.get(detector), "finalized_psf_ap_corr_catalog"))
            if self.config.doApplySkyCorr:
                needed.append((corrections.get(detector), "skyCorr"))
            missing = [name for found, name in needed if found is None]
            if row is None or missing:
                self.log.warning("detector %d left out: not in %s", detector, ", ".join(missing))
                continue
            wcs = wcs_of(row)
            shape = int(row["ny"]), int(row["nx"])
            if footprint(wcs, shape, patch.wcs, patch.outer_box)[0].is_empty:
                continue
            exposure = handle.get()
            for source, sign in ((backgrounds.get(detector), 1), (corrections.get(detector), -1)):
                if source is not None:
                    exposure.planes.image += np.float32(sign) * source.get().evaluate()
            psf = psf_from_row(psf_rows[detector]) if psfs is not None else exposure.psf
            yield exposure.replace(wcs=wcs, psf=psf, photo_calib=flux_scale_of(row, shape=shape))


def _by_detector(handles: list[Any] | None) -> dict[int, Any]:
    return {int(h.dataId["detector"]): h for h in handles or []}

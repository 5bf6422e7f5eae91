"""Seeing and ellipticity of each CCD of a visit."""

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

from skymill.calibrate.image_quality import MoffatOptions, check_ccd, check_tables
from skymill.tasks._options import options_field, to_options

__all__ = ["CheckVisitConfig", "CheckVisitConnections", "CheckVisitTask"]


class CheckVisitConnections(PipelineTaskConnections, dimensions=("instrument", "visit")):
    """Datasets of `CheckVisitTask`."""

    calexps = cT.Input(
        doc="Calibrated CCDs of the visit.",
        name="calexp",
        storageClass="SkymillExposure",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    sources = cT.Input(
        doc="Sources of the CCDs.",
        name="preSourceTable",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit", "detector"),
        multiple=True,
        deferLoad=True,
    )
    summary = cT.Output(
        doc="One row for each CCD.",
        name="check_visit_summary",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )
    stars = cT.Output(
        doc="One row for each PSF star.",
        name="check_visit_stars",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
    )


class CheckVisitConfig(PipelineTaskConfig, pipelineConnections=CheckVisitConnections):
    """Options of `CheckVisitTask`."""

    moffat = options_field(MoffatOptions, "Measurement of the widths.")


class CheckVisitTask(PipelineTask):
    """Measure widths and shapes of the PSF stars of a visit."""

    ConfigClass = CheckVisitConfig
    _DefaultName = "checkVisit"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Pair the CCDs with their sources; pixels are read one CCD at a time."""
        inputs = butlerQC.get(inputRefs)
        sources = {int(h.dataId["detector"]): h for h in inputs["sources"]}
        pairs = [
            (h, sources[int(h.dataId["detector"])])
            for h in sorted(inputs["calexps"], key=lambda h: int(h.dataId["detector"]))
            if int(h.dataId["detector"]) in sources
        ]
        butlerQC.put(self.run(pairs), outputRefs)

    def run(self, ccds: list[tuple[Any, Any]]) -> Struct:
        """Measure the stars.

        Parameters
        ----------
        ccds : list of (handle, handle)
            For each CCD the handles of its ``calexp`` and ``preSourceTable``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``summary``, ``stars``.
        """
        if not ccds:
            raise NoWorkFound("no CCD of this visit was calibrated")
        options = to_options(self.config.moffat, MoffatOptions)
        results = []
        for exposure_handle, source_handle in ccds:
            exposure = exposure_handle.get()
            ny, nx = exposure.planes.shape
            ra, dec = exposure.wcs.pixel_to_sky(x=[0.5 * (nx - 1)], y=[0.5 * (ny - 1)])
            info = {
                "visit": exposure.info.visit,
                "detector": exposure.info.detector,
                "band": exposure.info.band,
                "ra": float(ra[0]),
                "dec": float(dec[0]),
            }
            stars = check_ccd(exposure.planes, source_handle.get(), options=options)
            results.append((info, stars))
        summary, stars = check_tables(results)
        return Struct(summary=summary, stars=stars)

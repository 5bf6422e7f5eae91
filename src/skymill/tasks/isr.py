"""Raw frames to flat electrons."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy.table import Table
from lsst.pex.config import Field, ListField
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantaAdjuster,
    QuantumContext,
    Struct,
)
from lsst.pipe.base import connectionTypes as cT

from skymill.data.errors import MissingInputError
from skymill.data.images import Exposure, PixelPlanes
from skymill.data.masks import MaskPlane, is_set
from skymill.detrend.brighter_fatter import BrighterFatterOptions
from skymill.detrend.crosstalk import CrosstalkSource, CrosstalkTerm
from skymill.detrend.fringe import FringeOptions
from skymill.detrend.isr import IsrCalibrations, IsrOptions, IsrResult, detrend_ccd
from skymill.detrend.linearity import Linearity
from skymill.instruments.camera import Camera
from skymill.instruments.decam import facts
from skymill.instruments.raw import RawCcd
from skymill.tasks._observation_types import keep_observation_types
from skymill.tasks._options import options_field, to_options

__all__ = ["IsrConfig", "IsrConnections", "IsrTask"]

#: Connection, the switch that needs it, and how a user gets it.
_NEEDS = {
    "bias": (
        "doBias",
        "combine one with pipelines/cpBias.yaml and certify it (skymill run: paths.zeros)",
    ),
    "flat": (
        "doFlat",
        "combine one with pipelines/cpFlat.yaml and certify it (skymill run: paths.flats)",
    ),
    "fringe": ("doFringe", "combine one with pipelines/cpFringe.yaml and certify it"),
    "newBFKernel": ("doBrighterFatter", "measure one with pipelines/cpBfk.yaml and certify it"),
    "crosstalk": ("doCrosstalk", "run butler write-curated-calibrations"),
    "linearizer": ("doLinearize", "run butler write-curated-calibrations"),
    "defects": ("doDefect", "run butler write-curated-calibrations"),
    "ptc": ("usePtcGains", "run butler write-curated-calibrations"),
}


def _calibration(name: str, doc: str, storage: str, *dimensions: str) -> Any:
    return cT.PrerequisiteInput(
        doc=doc,
        name=name,
        storageClass=storage,
        dimensions=("instrument", *dimensions),
        isCalibration=True,
        minimum=0,
    )


class IsrConnections(PipelineTaskConnections, dimensions=("instrument", "exposure", "detector")):
    """Datasets of `IsrTask`."""

    ccdExposure = cT.Input(
        doc="Raw frame.",
        name="raw",
        storageClass="SkymillRaw",
        dimensions=("instrument", "exposure", "detector"),
    )
    crosstalkSources = cT.Input(
        doc="Overscan-subtracted CCDs of the same exposure.",
        name="overscanRaw",
        storageClass="SkymillPlanes",
        dimensions=("instrument", "exposure", "detector"),
        multiple=True,
        deferLoad=True,
    )
    camera = _calibration("camera", "Amplifiers of all CCDs.", "SkymillCamera")
    bias = _calibration("bias", "Combined bias [adu].", "SkymillPlanes", "detector")
    flat = _calibration("flat", "Flat field.", "SkymillPlanes", "physical_filter", "detector")
    fringe = _calibration(
        "fringe", "Fringe pattern.", "SkymillPlanes", "physical_filter", "detector"
    )
    newBFKernel = _calibration("bfk", "Brighter-fatter kernel.", "SkymillPlanes", "detector")
    crosstalk = _calibration("crosstalk", "Crosstalk coefficients.", "SkymillTable", "detector")
    linearizer = _calibration("linearizer", "Linearity knots.", "SkymillTable", "detector")
    defects = _calibration("defects", "Boxes of bad pixels.", "SkymillTable", "detector")
    ptc = _calibration("ptc", "Gains and read noise.", "SkymillTable", "detector")
    outputExposure = cT.Output(
        doc="Flat pixels in electrons.",
        name="postISRCCD",
        storageClass="SkymillExposure",
        dimensions=("instrument", "exposure", "detector"),
    )

    def __init__(self, *, config: IsrConfig) -> None:
        for name, (switch, _) in _NEEDS.items():
            if not getattr(config, switch):
                delattr(self, name)
        if config.planesOnly:
            self.outputExposure = dataclasses.replace(
                self.outputExposure, storageClass="SkymillPlanes"
            )
        if not (config.doCrosstalk and config.doInterChipCrosstalk):
            del self.crosstalkSources
            del self.camera

    def adjustQuantum(self, inputs: Any, outputs: Any, label: str, data_id: Any) -> Any:
        """Raise for a calibration that is switched on and does not exist."""
        for name, (switch, advice) in _NEEDS.items():
            if name not in inputs or inputs[name][1]:
                continue
            if name == "fringe" and not self.config.has_fringes(str(data_id["physical_filter"])):
                continue
            connection = inputs[name][0]
            raise MissingInputError(
                f"{label}: there is no {connection.name} for {data_id} in the input collections; "
                f"{advice}, or switch it off with -c {label}:{switch}=False"
            )
        return super().adjustQuantum(inputs, outputs, label, data_id)

    def adjust_all_quanta(self, adjuster: QuantaAdjuster) -> None:
        """Drop unwanted exposures; give each quantum the CCDs that leave crosstalk in it."""
        keep_observation_types(adjuster, list(self.config.observationTypes))
        if not (self.config.doCrosstalk and self.config.doInterChipCrosstalk):
            return
        quanta = {(q["exposure"], q["detector"]): q for q in adjuster.iter_data_ids()}
        for (exposure, detector), data_id in quanta.items():
            for source in _source_detectors(str(data_id["instrument"]), int(detector)):
                other = quanta.get((exposure, source))
                if other is not None and source != detector:
                    adjuster.add_input(data_id, "crosstalkSources", other)


def _source_detectors(instrument: str, detector: int) -> list[int]:
    """CCDs whose crosstalk reaches a CCD."""
    if instrument != facts.CAMERA_NAME:
        return []
    return sorted({int(row["source"]) for row in facts.crosstalk_table(detector)})


class IsrConfig(PipelineTaskConfig, pipelineConnections=IsrConnections):
    """Options of `IsrTask`; the switches have the names of the LSST pipelines."""

    doBias = Field(dtype=bool, doc="Subtract the combined bias.", default=True)
    doFlat = Field(dtype=bool, doc="Divide by the flat.", default=True)
    doFringe = Field(dtype=bool, doc="Subtract fringes in fringeFilters.", default=True)
    doBrighterFatter = Field(dtype=bool, doc="Undo the brighter-fatter effect.", default=False)
    doCrosstalk = Field(dtype=bool, doc="Subtract the crosstalk.", default=True)
    doInterChipCrosstalk = Field(
        dtype=bool, doc="Crosstalk of other CCDs too; needs overscanRaw (step0).", default=True
    )
    doLinearize = Field(dtype=bool, doc="Correct the non-linearity.", default=True)
    doDefect = Field(dtype=bool, doc="Mask the defects.", default=True)
    doSaturation = Field(dtype=bool, doc="Mask saturated pixels.", default=True)
    doSuspect = Field(dtype=bool, doc="SUSPECT above the linear range.", default=True)
    doInterpolate = Field(dtype=bool, doc="Interpolate over BAD and SAT pixels.", default=True)
    usePtcGains = Field(
        dtype=bool, doc="Gains from ptc, not from the raw frame's header.", default=False
    )
    fringeFilters = ListField(
        dtype=str,
        doc="Physical filters with fringes.",
        default=["z DECam SDSS c0004 9260.0 1520.0", "Y DECam c0005 10095.0 1130.0"],
    )
    planesOnly = Field(
        dtype=bool, doc="Store pixels only: calibration frames have no WCS.", default=False
    )
    observationTypes = ListField(
        dtype=str, doc="Only exposures of these types; empty for all.", default=[]
    )
    options = options_field(IsrOptions, "Limits and methods.")
    brighterFatter = options_field(BrighterFatterOptions, "Iteration of the correction.")
    fringe = options_field(FringeOptions, "Fit of the fringe amplitude.")

    def has_fringes(self, physical_filter: str) -> bool:
        """Whether fringes are subtracted in a filter.

        Parameters
        ----------
        physical_filter : str
            Name of the filter.

        Returns
        -------
        bool
            True if ``doFringe`` and the filter is one of ``fringeFilters``.
        """
        return bool(self.doFringe) and physical_filter in list(self.fringeFilters)


def linearity_of(table: Table | None) -> dict[str, Linearity] | None:
    """The ``linearizer`` table as one `Linearity` for each amplifier."""
    if table is None:
        return None
    return {
        str(row["amp"]): Linearity(
            np.asarray(row["adu"], np.float64),
            np.asarray(row["delta"], np.float64),
            float(row["max_valid"]),
        )
        for row in table
    }


def crosstalk_of(table: Table | None, detector: int) -> list[CrosstalkTerm]:
    """The ``crosstalk`` table as terms with a victim in one CCD."""
    if table is None:
        return []
    return [
        CrosstalkTerm(
            str(row["victim_amp"]), int(row["source"]), str(row["source_amp"]),
            float(row["coefficient"]), float(row["onset"]),
        )
        for row in table
        if int(row["victim"]) == detector
    ]  # fmt: skip


class IsrTask(PipelineTask):
    """Overscan, crosstalk, bias, linearity, gain, brighter-fatter, flat, fringe and masks."""

    ConfigClass = IsrConfig
    _DefaultName = "isr"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the raw frame, its calibrations and the CCDs that leave crosstalk in it."""
        inputs = butlerQC.get(inputRefs)
        own = inputs["ccdExposure"].info.detector
        handles = {int(h.dataId["detector"]): h for h in inputs.pop("crosstalkSources", [])}
        wanted = {t.source_detector for t in crosstalk_of(inputs.get("crosstalk"), own)} - {own}
        inputs["crosstalkSources"] = {
            d: h.get(component="image") for d, h in handles.items() if d in wanted
        }
        butlerQC.put(self.run(**inputs), outputRefs)

    def run(
        self,
        ccdExposure: RawCcd,
        *,
        bias: PixelPlanes | None = None,
        flat: PixelPlanes | None = None,
        fringe: PixelPlanes | None = None,
        newBFKernel: PixelPlanes | None = None,
        crosstalk: Table | None = None,
        crosstalkSources: Mapping[int, Any] | None = None,
        camera: Camera | None = None,
        linearizer: Table | None = None,
        defects: Table | None = None,
        ptc: Table | None = None,
    ) -> Struct:
        """Detrend one CCD.

        Parameters
        ----------
        ccdExposure : RawCcd
            The raw frame.
        bias, flat, fringe, newBFKernel : PixelPlanes, optional
            Calibration frames; None is not applied.
        crosstalk, linearizer, defects, ptc : astropy.table.Table, optional
            Tables of this CCD.
        crosstalkSources : dict of int to (ny, nx) float32 [adu], optional
            Overscan-subtracted images of other CCDs.
        camera : Camera, optional
            Amplifiers of the other CCDs.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputExposure`` : Exposure [electron], or its PixelPlanes with ``planesOnly``.
        """
        info = ccdExposure.info
        if not self.config.has_fringes(info.physical_filter):
            fringe = None
        sources: dict[str | int, CrosstalkSource] = {
            number: CrosstalkSource(image, camera[number].amplifiers)
            for number, image in (crosstalkSources or {}).items()
            if camera is not None
        }
        calibrations = IsrCalibrations(
            bias=bias, flat=flat, fringe=fringe, defects=defects,
            bf_kernel=None if newBFKernel is None else newBFKernel.image,
            linearity=linearity_of(linearizer),
            crosstalk=crosstalk_of(crosstalk, info.detector), crosstalk_sources=sources,
            gain=_by_amplifier(ptc, "gain"), read_noise=_by_amplifier(ptc, "read_noise"),
        )  # fmt: skip
        result = detrend_ccd(
            ccdExposure.image, ccdExposure.amplifiers, calibrations=calibrations,
            options=self._options(), detector=info.detector,
            brighter_fatter=to_options(self.config.brighterFatter, BrighterFatterOptions),
            fringe=to_options(self.config.fringe, FringeOptions),
            mask_saturated=self.config.doSaturation, interpolate=self.config.doInterpolate,
        )  # fmt: skip
        if is_set(result.planes.mask, MaskPlane.BAD).all():
            raise NoWorkFound(f"every pixel of detector {info.detector} is BAD")
        self._report(result, info.visit, info.detector)
        if self.config.planesOnly:
            return Struct(outputExposure=result.planes)
        exposure = Exposure(planes=result.planes, info=info, wcs=ccdExposure.wcs)
        return Struct(outputExposure=exposure)

    def _options(self) -> IsrOptions:
        values = to_options(self.config.options, IsrOptions)
        if self.config.doSuspect:
            return values
        return dataclasses.replace(values, mask_suspect_above_linear=False)

    def _report(self, result: IsrResult, exposure: int, detector: int) -> None:
        """Log what was measured, and keep it in the task's metadata."""
        for name, noise in result.read_noise.items():
            self.metadata[f"read_noise_{name}"] = float(noise)
            self.metadata[f"overscan_level_{name}"] = float(result.overscan_level[name])
        self.metadata["fringe_amplitude"] = float(result.fringe_amplitude)
        self.metadata["brighter_fatter_iterations"] = int(result.bf_iterations)
        self.metadata["n_saturated"] = int(result.n_saturated)
        self.metadata["n_interpolated"] = int(result.n_interpolated)
        self.metadata["n_missing_crosstalk_sources"] = len(result.missing_sources)
        if result.missing_sources:
            self.log.info(
                "exposure %d detector %d: no crosstalk from CCD %s, which was not read",
                exposure, detector, ", ".join(map(str, result.missing_sources)),
            )  # fmt: skip


def _by_amplifier(table: Table | None, column: str) -> dict[str, float]:
    if table is None:
        return {}
    return {str(row["amp"]): float(row[column]) for row in table}

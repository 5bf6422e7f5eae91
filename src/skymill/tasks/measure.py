"""Measure the deblended sources of a patch in one band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
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

from skymill.calibrate.star_flags import psf_star_flags
from skymill.coadd.skymap import Tract
from skymill.data.images import Coadd
from skymill.measure.object_table import finish_measurement
from skymill.measure.objects import measure_objects
from skymill.measure.patch import children_of, coadd_psf_sigma
from skymill.tasks._object_options import ObjectConfig

__all__ = ["MeasureConfig", "MeasureConnections", "MeasureTask"]


class MeasureConnections(
    PipelineTaskConnections,
    dimensions=("skymap", "tract", "patch", "band"),
    defaultTemplates={"inputCoaddName": "deep", "outputCoaddName": "deep"},
):
    """Datasets of `MeasureTask`."""

    exposure = cT.Input(
        doc="Coadd of the band.",
        name="{inputCoaddName}Coadd_calexp",
        storageClass="SkymillCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
    )
    deblendedCatalog = cT.Input(
        doc="Sources.",
        name="{inputCoaddName}Coadd_deblendedCatalog",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    scarletModelData = cT.Input(
        doc="Templates of the sources.",
        name="{inputCoaddName}Coadd_scarletModelData",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch"),
    )
    skyMap = cT.Input(
        doc="The sky map.",
        name="skyMap",
        storageClass="SkymillSkyMap",
        dimensions=("skymap",),
    )
    finalizedStars = cT.Input(
        doc="Stars of the PSF models of the visits of the band.",
        name="finalized_src_table",
        storageClass="SkymillTable",
        dimensions=("instrument", "visit"),
        multiple=True,
        minimum=0,
        deferGraphConstraint=True,
    )
    outputSources = cT.Output(
        doc="Measurements.",
        name="{outputCoaddName}Coadd_meas",
        storageClass="SkymillTable",
        dimensions=("skymap", "tract", "patch", "band"),
    )


class MeasureConfig(ObjectConfig, PipelineTaskConfig, pipelineConnections=MeasureConnections):
    """Options of `MeasureTask`."""


class MeasureTask(PipelineTask):
    """Measure the deblended sources of a patch in one band."""

    ConfigClass = MeasureConfig
    _DefaultName = "measure"

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read coadd, sources and templates, write measurements."""
        inputs = butlerQC.get(inputRefs)
        tract = inputs.pop("skyMap").tract(butlerQC.quantum.dataId["tract"])
        butlerQC.put(self.run(tract=tract, **inputs), outputRefs)

    def run(
        self,
        exposure: Coadd,
        deblendedCatalog: Table,
        scarletModelData: Table,
        tract: Tract | None = None,
        finalizedStars: Sequence[Table] = (),
        **_: Any,
    ) -> Struct:
        """Measure one band of a patch.

        Parameters
        ----------
        exposure : Coadd
            The coadd.
        deblendedCatalog, scarletModelData : Table
            Sources and their templates.
        tract : Tract, optional
            Decides which sources belong to the tract; all do if omitted.
        finalizedStars : sequence of Table
            Stars of the PSF models of the visits.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputSources``.
        """
        origin = (exposure.box.x0, exposure.box.y0)
        x, y = np.asarray(deblendedCatalog["x"]), np.asarray(deblendedCatalog["y"])
        table = measure_objects(
            exposure.planes,
            psf=exposure.psf,
            psf_sigma=coadd_psf_sigma(exposure.psf, shape=exposure.planes.shape, origin=origin),
            children=children_of(deblendedCatalog, scarletModelData, origin=origin),
            band=exposure.band,
            x=x - origin[0],
            y=y - origin[1],
            rng=np.random.default_rng([2, exposure.tract, exposure.patch]),
            origin=origin,
            options=self.config.object_options(),
        )
        ra, dec = exposure.wcs.pixel_to_sky(x=x, y=y)
        measured = finish_measurement(
            table,
            deblendedCatalog,
            band=exposure.band,
            wcs=exposure.wcs,
            inner_box=exposure.inner_box,
            in_tract=None if tract is None else tract.is_primary(ra=ra, dec=dec),
            n_image=exposure.n_image,
            box=exposure.box,
            psf_flags=psf_star_flags(ra, dec, finalizedStars),
        )
        return Struct(outputSources=measured)

"""The steps of metadetection, done on request."""

from __future__ import annotations

from skymill.campaign.step_types import (
    CENTRE_MAP,
    OF_DECAM_SKY,
    OF_SKY,
    PROCESSING,
    PipelineRun,
    Step,
)

__all__ = ["META_STEPS"]

_TYPES = ("noshear", "1p", "1m", "2p", "2m")
_ON_REQUEST = "on request: shear: {metadetect: true} in the cluster file, or --to meta_lensing"

#: In the order of the published pipeline.
META_STEPS: tuple[Step, ...] = (
    Step(
        name="meta_4a",
        number="24",
        doc="Cells of the coadds, ready to be sheared.",
        on_request=_ON_REQUEST,
        runs=(
            PipelineRun(
                subset="step4a",
                inputs=(f"{PROCESSING}/coadd_3a", "refcats", "skymaps"),
                output=f"{PROCESSING}/meta_4a",
                where=OF_SKY,
                optional=("refcats",),
                config=(
                    "metaCells:shearBands={shear_bands}",
                    "metaCells:connections.starRefCat={astro_type}",
                    "metaCells:brightStarField={astro_field}",
                ),
            ),
        ),
    ),
    Step(
        name="meta_4b",
        number="25",
        doc="Detection and measurement on the cells under each of five shears.",
        on_request=_ON_REQUEST,
        runs=tuple(
            PipelineRun(
                subset="step4b",
                inputs=(f"{PROCESSING}/coadd_3a", f"{PROCESSING}/meta_4a", "skymaps"),
                output=f"{PROCESSING}/meta_4b_{name}",
                where=OF_SKY,
                config=(
                    f"metaMeasure:shear={name}",
                    f"metaMeasure:connections.coaddName=deep_{name}_",
                ),
            )
            for name in _TYPES
        ),
    ),
    Step(
        name="meta_export",
        number="26",
        doc="Catalogues of the five sheared versions.",
        on_request=_ON_REQUEST,
        runs=(
            PipelineRun(
                subset="meta_export",
                inputs=(*(f"{PROCESSING}/meta_4b_{name}" for name in _TYPES), "skymaps"),
                output=f"{PROCESSING}/meta_export",
                where=OF_DECAM_SKY,
            ),
        ),
    ),
    Step(
        name="meta_process",
        number="27",
        doc="Extinction, zero points and redshifts of each version.",
        on_request=_ON_REQUEST,
        runs=(
            PipelineRun(
                subset="meta_process",
                inputs=(
                    f"{PROCESSING}/meta_export",
                    f"{PROCESSING}/photometric_calibration",
                    "skymaps",
                ),
                output=f"{PROCESSING}/meta_process",
                where=OF_DECAM_SKY,
                config=("metaProcess:minZ={min_z}",),
            ),
        ),
    ),
    Step(
        name="meta_lensing",
        number="28",
        doc="Shears calibrated by the response; mass map and mass from them.",
        on_request=_ON_REQUEST,
        runs=(
            PipelineRun(
                subset="meta_lensing",
                inputs=(f"{PROCESSING}/meta_process", "skymaps"),
                output=f"{PROCESSING}/meta_lensing",
                where=OF_DECAM_SKY,
                config=("metaShear:band={lensing_band}",),
            ),
            PipelineRun(
                subset="mass_map",
                inputs=(f"{PROCESSING}/meta_lensing", "skymaps"),
                output=f"{PROCESSING}/meta_mass_map",
                where=OF_DECAM_SKY,
                config=(
                    "massMap:connections.shearCatalog=metaShearCatalog",
                    *CENTRE_MAP,
                    "massMap:minZ={min_z}",
                ),
            ),
            PipelineRun(
                subset="mass_fit",
                inputs=(
                    f"{PROCESSING}/meta_lensing",
                    f"{PROCESSING}/meta_process",
                    f"{PROCESSING}/meta_mass_map",
                    "skymaps",
                ),
                output=f"{PROCESSING}/meta_mass_fit",
                where=OF_DECAM_SKY,
                config=(
                    "massFit:connections.shearCatalog=metaShearCatalog",
                    "massFit:connections.photoz=metaPhotoz",
                    "massFit:zLens={redshift}",
                ),
            ),
        ),
    ),
)

"""The steps of a cluster as data: names, subsets, collections and overrides of the published
pipeline, in its order.

Templates: ``{band}`` is the band of a step that works band by band; an input with ``{each}``
stands for one collection of each band; ``{name}``, ``{skymap}``, ``{redshift}``, ``{ra}``,
``{dec}``, ``{lensing_band}``, ``{shear_bands}``, ``{lensing_type}``, ``{min_z}``, ``{photo_type}``,
``{photo_field}``, ``{astro_type}``, ``{astro_field}`` come from the settings.
"""

from __future__ import annotations

from skymill.campaign.cluster import Cluster
from skymill.campaign.meta_steps import META_STEPS
from skymill.campaign.step_types import (
    CENTRE_MAP,
    OF_DECAM_SKY,
    OF_SKY,
    PROCESSING,
    PipelineRun,
    Step,
)
from skymill.data.errors import ConfigError
from skymill.engine.graph import GraphRequest

__all__ = [
    "STEPS",
    "PipelineRun",
    "Step",
    "expand_run",
    "find_step",
    "is_wanted",
    "runs_of",
    "select_steps",
]

_CALIB = (
    "DECam/raw/all",
    "DECam/calib",
    "DECam/calib/certified",
    "DECam/calib/curated/19700101T000000Z",
    "DECam/calib/unbounded",
)
_QUALITY = f"{PROCESSING}/quality_detectors_{{each}}"
_FINAL = f"{PROCESSING}/final_visit_summary_{{each}}"
_DECAM = "instrument='DECam'"
_BAND = "instrument='DECam' AND band='{band}'"
_BAND_SCIENCE = f"{_BAND} AND exposure.observation_type='science'"
_BAND_SKY = "instrument='DECam' AND band='{band}' AND skymap='{skymap}'"
#: Bands whose sky is corrected, as published.
_SKY_BANDS = ("g", "r", "i", "z")


def _later(
    name: str,
    number: str,
    doc: str,
    inputs: tuple[str, ...],
    *,
    config: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    where: str = OF_DECAM_SKY,
) -> Step:
    run = PipelineRun(
        subset=name,
        inputs=inputs,
        output=f"{PROCESSING}/{name}",
        where=where,
        config=config,
        optional=optional,
    )
    return Step(name=name, number=number, doc=doc, runs=(run,))


#: All steps, in order.
STEPS: tuple[Step, ...] = (
    Step(
        name="create_output",
        number="1",
        doc="Make the folders and the batch configuration of the cluster.",
        action="create_output",
    ),
    Step(
        name="download_raw",
        number="2",
        doc="Write the archive query, and say what to do when there are no raw frames.",
        action="download_raw",
    ),
    Step(
        name="check_raws",
        number="3",
        doc="Open every extension of every raw frame.",
        action="check_raws",
        after=("download_raw",),
    ),
    Step(
        name="move_corrupt_raws",
        number="3",
        doc="Move corrupt raw frames aside.",
        action="move_corrupt_raws",
        after=("check_raws",),
    ),
    Step(
        name="initialize_repo",
        number="4",
        doc="Make the repository with camera and curated calibrations.",
        action="initialize_repo",
    ),
    Step(
        name="ingest_data",
        number="5",
        doc="Ingest raw frames, calibrations and reference catalogues.",
        action="ingest_data",
        after=("initialize_repo", "move_corrupt_raws"),
    ),
    Step(
        name="make_calibrations",
        number="5",
        doc="Make and certify bias, flat, brighter-fatter kernel and fringes, from raw frames.",
        action="make_calibrations",
        after=("ingest_data",),
    ),
    Step(
        name="process_ccd",
        number="6",
        doc="Crosstalk sources, then raw frames to calibrated images and catalogues.",
        per_band=True,
        reuse=True,
        tolerant=True,
        disposable=("overscanRaw", "postISRCCD", "icExp"),
        after=("ingest_data", "make_calibrations"),
        runs=(
            PipelineRun(
                subset="step0",
                inputs=_CALIB,
                output=f"{PROCESSING}/xtalksources_{{band}}",
                where=_BAND_SCIENCE,
                optional=_CALIB[1:],
            ),
            PipelineRun(
                subset="step1",
                inputs=(*_CALIB, f"{PROCESSING}/xtalksources_{{band}}", "refcats"),
                output=f"{PROCESSING}/calexp_{{band}}",
                where=_BAND_SCIENCE,
                optional=_CALIB[1:],
                detrends=True,
                config=(
                    "calibrate:connections.astrometryRefCat={astro_type}",
                    "calibrate:astrometryReferences.flux_field={astro_field}",
                    "calibrate:connections.photometryRefCat={photo_type}",
                    "calibrate:photometryReferences.flux_field={photo_field}",
                ),
            ),
        ),
    ),
    Step(
        name="check_visit",
        number="7",
        doc="Seeing and ellipticity of every detector.",
        per_band=True,
        runs=(
            PipelineRun(
                subset="check_visit",
                inputs=(f"{PROCESSING}/calexp_{{band}}",),
                output=f"{PROCESSING}/check_visit_{{band}}",
                where=_BAND,
            ),
        ),
    ),
    Step(
        name="select_visit",
        number="8",
        doc="Tag the detectors that are good for lensing, and register the sky map.",
        action="select_visit",
        per_band=True,
        after=("process_ccd", "check_visit"),
    ),
    Step(
        name="skymap",
        number="8",
        doc="Register the sky map around the centre.",
        action="register_skymap",
        after=("initialize_repo",),
    ),
    Step(
        name="visit_summary",
        number="9",
        doc="Tables of each visit, and the stars that several visits share.",
        per_band=True,
        after=("select_visit", "skymap"),
        runs=(
            PipelineRun(
                subset="step2a",
                inputs=(f"{PROCESSING}/quality_detectors_{{band}}", "skymaps"),
                output=f"{PROCESSING}/visit_summary_{{band}}",
                where=_BAND_SKY,
            ),
        ),
    ),
    Step(
        name="jointcal",
        number="10",
        doc="Joint astrometric and photometric calibration of all visits.",
        per_band=True,
        runs=(
            PipelineRun(
                subset="step2b",
                inputs=(
                    "DECam/calib/unbounded",
                    f"{PROCESSING}/visit_summary_{{band}}",
                    "refcats",
                    "skymaps",
                ),
                output=f"{PROCESSING}/jointcal_{{band}}",
                where=_BAND_SKY,
                optional=("DECam/calib/unbounded",),
                config=(
                    "jointcal:connections.astrometryRefCat={astro_type}",
                    "jointcal:astrometryReferences.flux_field={astro_field}",
                    "jointcal:connections.photometryRefCat={photo_type}",
                    "jointcal:photometryReferences.flux_field={photo_field}",
                ),
            ),
        ),
    ),
    Step(
        name="final_visit_summary",
        number="11",
        doc="Final PSF, aperture corrections and calibration of each visit.",
        per_band=True,
        runs=(
            PipelineRun(
                subset="step2d",
                inputs=(
                    f"{PROCESSING}/quality_detectors_{{band}}",
                    f"{PROCESSING}/jointcal_{{band}}",
                    f"{PROCESSING}/visit_summary_{{band}}",
                    "skymaps",
                ),
                output=f"{PROCESSING}/final_visit_summary_{{band}}",
                where=_BAND_SKY,
            ),
        ),
    ),
    Step(
        name="coadd_3a",
        number="12",
        doc="Warps, artifact-rejecting stacks, detection and deblending.",
        disposable=("deepCoadd_directWarp", "deepCoadd_psfMatchedWarp"),
        runs=(
            PipelineRun(
                subset="step3a",
                inputs=(_QUALITY, _FINAL, "skymaps"),
                output=f"{PROCESSING}/coadd_3a",
                where=OF_DECAM_SKY,
            ),
        ),
    ),
    Step(
        name="coadd_3b",
        number="13",
        doc="Measurement on the stacks.",
        runs=(
            PipelineRun(
                subset="step3b",
                inputs=(f"{PROCESSING}/coadd_3a", "refcats", "skymaps"),
                output=f"{PROCESSING}/coadd_3b",
                where=OF_SKY,
                optional=("refcats",),
            ),
        ),
    ),
    Step(
        name="coadd_3c",
        number="14",
        doc="Forced photometry and object tables.",
        runs=(
            PipelineRun(
                subset="step3c",
                inputs=(f"{PROCESSING}/coadd_3a", f"{PROCESSING}/coadd_3b", "skymaps"),
                output=f"{PROCESSING}/coadd_3c",
                where=OF_SKY,
            ),
        ),
    ),
    Step(
        name="coadd_3d",
        number="15",
        doc="Sky correction and sky-corrected stacks.",
        disposable=("deepCoadd", "deepCoadd_inputPixels"),
        runs=(
            PipelineRun(
                pipeline="SkyCorrection.yaml",
                subset="correct_sky",
                inputs=(
                    _QUALITY,
                    _FINAL,
                    f"{PROCESSING}/coadd_3a",
                    "DECam/calib/certified",
                    "DECam/calib/unbounded",
                    "DECam/raw/all",
                    "skymaps",
                ),
                output=f"{PROCESSING}/skycorr",
                where="instrument='DECam' AND skymap='{skymap}' AND band IN ({bands})",
                optional=("DECam/calib/certified", "DECam/calib/unbounded"),
                only_bands=_SKY_BANDS,
            ),
        ),
    ),
    Step(
        name="export_data",
        number="16",
        doc="Catalogue, mosaics and colour pictures in the published form.",
        runs=(
            PipelineRun(
                subset="export_data",
                inputs=(f"{PROCESSING}/coadd_3c", f"{PROCESSING}/coadd_3a", "skymaps"),
                output=f"{PROCESSING}/export_data",
                where=OF_DECAM_SKY,
            ),
            PipelineRun(
                subset="exportMosaic",
                inputs=(f"{PROCESSING}/skycorr", "skymaps"),
                output=f"{PROCESSING}/export_data_skycorr",
                where=OF_SKY,
                only_bands=_SKY_BANDS,
                config=("exportMosaic:connections.suffix=_skycorr",),
            ),
        ),
    ),
    _later(
        "photometric_calibration",
        "17",
        "Stars and galaxies, extinction, zero points.",
        (f"{PROCESSING}/export_data", "refcats", "skymaps"),
        config=("fitZeroPoints:connections.photoRefCat={lensing_type}",),
    ),
    _later(
        "photo_z",
        "18",
        "Photometric redshifts with p(z).",
        (f"{PROCESSING}/photometric_calibration", "skymaps"),
    ),
    _later(
        "shear_calibration",
        "19",
        "Shapes to calibrated shears.",
        (f"{PROCESSING}/photometric_calibration", f"{PROCESSING}/photo_z", "skymaps"),
    ),
    _later(
        "mass_map",
        "20",
        "Maps of aperture mass and convergence, E and B, and their peaks.",
        (f"{PROCESSING}/shear_calibration", f"{PROCESSING}/export_data", "skymaps"),
        config=(*CENTRE_MAP, "massMap:minZ={min_z}"),
    ),
    _later(
        "mass_fit",
        "21",
        "Masses of the cluster and its neighbours with the measured p(z).",
        (
            f"{PROCESSING}/shear_calibration",
            f"{PROCESSING}/photo_z",
            f"{PROCESSING}/mass_map",
            "skymaps",
        ),
        config=("massFit:zLens={redshift}",),
    ),
    _later(
        "quality_check",
        "22",
        "Figures and numbers on the quality of the data.",
        (
            f"{PROCESSING}/export_data",
            f"{PROCESSING}/shear_calibration",
            "refcats",
            _FINAL,
            "skymaps",
        ),
        optional=(f"{PROCESSING}/shear_calibration",),
        config=("qualityCheck:connections.astromRefCat={astro_type}",),
    ),
    _later(
        "red_sequence",
        "23",
        "The red sequence and its density map.",
        (f"{PROCESSING}/photometric_calibration", "skymaps"),
        config=(
            "redSequence:zLens={redshift}",
            "redSequence:centreRa={ra}",
            "redSequence:centreDec={dec}",
        ),
    ),
    *META_STEPS,
    Step(
        name="gotta_blast",
        number="29",
        doc="Delete intermediate products after checking the final ones; asks first.",
        action="gotta_blast",
        after=("mass_fit", "quality_check"),
    ),
)


def find_step(name: str) -> Step:
    """The step of a name.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    Step
        The step.

    Raises
    ------
    ConfigError
        If there is none, with the names there are.
    """
    for step in STEPS:
        if step.name == name:
            return step
    raise ConfigError(f"there is no step {name!r}; steps are: {', '.join(s.name for s in STEPS)}")


def is_wanted(cluster: Cluster, step: Step) -> bool:
    """Whether a step is done without being named.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : Step
        The step.

    Returns
    -------
    bool
        True unless it is done on request only and the settings do not ask for it.
    """
    return not step.on_request or cluster.shear.metadetect


def select_steps(
    names: tuple[str, ...] = (),
    *,
    first: str | None = None,
    last: str | None = None,
    cluster: Cluster | None = None,
) -> list[Step]:
    """The steps that a user asks for, in order.

    Parameters
    ----------
    names : tuple of str
        Exactly these steps; all if empty.
    first, last : str, optional
        From this step, up to and with that one.
    cluster : Cluster, optional
        The settings, which may ask for more steps.

    Returns
    -------
    list of Step
        The steps. Without names: all but those on request, unless one of them is the first or the
        last or the settings ask for them, and without ``gotta_blast``, which is done only when it
        is named.
    """
    if names:
        wanted = {find_step(name).name for name in names}
        return [step for step in STEPS if step.name in wanted]
    order = [step.name for step in STEPS]
    low = order.index(find_step(first).name) if first else 0
    high = order.index(find_step(last).name) if last else len(order) - 1
    if low > high:
        raise ConfigError(f"step {first} comes after step {last}")
    ends = {first, last}
    asked = any(name and find_step(name).on_request for name in ends)
    return [
        step
        for step in STEPS[low : high + 1]
        if step.name in ends
        or (
            step.name != "gotta_blast"
            and (asked or not step.on_request or (cluster is not None and is_wanted(cluster, step)))
        )
    ]


def _words(cluster: Cluster, band: str) -> dict[str, str]:
    ra, dec = cluster.position
    words = {
        "band": band,
        "name": cluster.name,
        "skymap": cluster.skymap_name,
        "redshift": repr(cluster.redshift),
        "ra": repr(ra),
        "dec": repr(dec),
        "lensing_band": cluster.lensing_band,
        "shear_bands": repr(list(cluster.shear.bands or (cluster.lensing_band,))),
        "lensing_type": cluster.reference(cluster.lensing_band)[0],
        "min_z": repr(round(cluster.redshift + 0.1, 6)),
        "astro_type": cluster.astrometry,
        "astro_field": "phot_g_mean" if cluster.astrometry == "gaia" else cluster.lensing_band,
    }
    if band:
        words["photo_type"], words["photo_field"] = cluster.reference(band)
    return words


def runs_of(cluster: Cluster, step: Step) -> tuple[PipelineRun, ...]:
    """Pipeline runs of a step that have a band to work on.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    step : Step
        The step.

    Returns
    -------
    tuple of PipelineRun
        In order.
    """
    return tuple(
        run for run in step.runs if not run.only_bands or set(run.only_bands) & set(cluster.bands)
    )


def expand_run(cluster: Cluster, run: PipelineRun, band: str = "") -> GraphRequest:
    """What a run of a step means for a cluster.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    run : PipelineRun
        The run.
    band : str
        The band, if the step works band by band.

    Returns
    -------
    GraphRequest
        Repository, pipeline, collections, query and overrides.
    """
    words = _words(cluster, band)
    bands = [b for b in cluster.bands if not run.only_bands or b in run.only_bands]
    words["bands"] = ", ".join(f"'{b}'" for b in bands)
    inputs: list[str] = []
    for template in run.inputs:
        if "{each}" in template:
            inputs += [template.format(each=b, **words) for b in bands]
        else:
            inputs.append(template.format(**words))
    config = [item.format(**words) for item in run.config]
    return GraphRequest(
        repo=cluster.repo_path,
        pipeline=f"{pipeline_file(cluster, run)}#{run.subset}",
        inputs=tuple(dict.fromkeys(inputs)),
        output=run.output.format(**words),
        where=run.where.format(**words),
        config=tuple(config),
    )


def pipeline_file(cluster: Cluster, run: PipelineRun) -> str:
    """The pipeline of a run.

    Parameters
    ----------
    cluster : Cluster
        The settings.
    run : PipelineRun
        The run.

    Returns
    -------
    str
        Path of the file: that of the cluster, unless the run names another.
    """
    import importlib.resources

    if cluster.pipeline and not run.pipeline:
        return str(cluster.folder / cluster.pipeline)
    name = run.pipeline or "DRP-LoVoCCS.yaml"
    return str(importlib.resources.files("skymill") / "pipelines" / name)

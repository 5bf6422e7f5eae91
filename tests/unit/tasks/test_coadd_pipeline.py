"""The pipeline of the coadds on a small repository: graph, execution, files."""

import sys
from pathlib import Path

import lsst.sphgeom as sphgeom
import numpy as np
import pytest
from lsst.daf.butler import Butler, DatasetType, Timespan
from lsst.daf.butler.registry import CollectionType
from lsst.images.cells import CellCoadd
from lsst.pipe.base import Pipeline
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor

from skymill.coadd.skymap import SkyMap
from skymill.instruments.decam import DarkEnergyCamera
from skymill.instruments.decam.facts import get_camera
from skymill.measure.background import Background, BackgroundList
from skymill.store.repository import create_repository
from skymill.store.skymaps import register_sky_map

sys.path.insert(0, str(Path(__file__).parent))
from _coadd_handles import DEC, RA, make_calexp, psf_catalog, visit_summary

SHAPE = (220, 260)
PIPELINES = Path(__file__).parents[3] / "src/skymill/pipelines"
INGREDIENTS = PIPELINES / "ingredients/coadds.yaml"
CORRECTION = PIPELINES / "SkyCorrection.yaml"
SKYMAP = SkyMap.discrete("m", RA, DEC, 0.01, tract_overlap=0.0, patch_inner=200, patch_border=50)
VISITS = (11, 12, 13)


def polygon(ra, dec):
    vectors = [
        sphgeom.UnitVector3d(sphgeom.LonLat.fromDegrees(float(a), float(b)))
        for a, b in zip(ra, dec, strict=True)
    ]
    return sphgeom.ConvexPolygon(vectors)


def insert_visits(butler, exposures):
    registry = butler.registry
    registry.insertDimensionData("day_obs", {"instrument": "DECam", "id": 20150101})
    name = exposures[0].info.physical_filter
    for e in exposures:
        visit = e.info.visit
        registry.insertDimensionData("group", {"instrument": "DECam", "name": str(visit)})
        registry.insertDimensionData(
            "visit",
            {"instrument": "DECam", "id": visit, "name": str(visit), "physical_filter": name,
             "day_obs": 20150101, "exposure_time": 90.0, "region": region_of(e),
             "timespan": Timespan(None, None)},
        )  # fmt: skip
        registry.insertDimensionData(
            "visit_detector_region",
            {"instrument": "DECam", "visit": visit, "detector": 1, "region": region_of(e)},
        )


def region_of(exposure):
    ny, nx = exposure.planes.shape
    return polygon(*exposure.wcs.pixel_to_sky(x=[0, nx, nx, 0], y=[0, 0, ny, ny]))


def put(butler, value, name, storage_class, dimensions, **data_id):
    dataset_type = DatasetType(name, dimensions, storage_class, universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    return butler.put(value, name, data_id)


@pytest.fixture
def repo(tmp_path):
    root = str(tmp_path / "repo")
    create_repository(root)
    register_sky_map(root, SKYMAP)
    rng = np.random.default_rng(1)
    exposures = [make_calexp(v, 1, rng=rng, dx=3.0 * k, shape=SHAPE) for k, v in enumerate(VISITS)]
    with Butler.from_config(root, writeable=True, run="data") as butler:
        DarkEnergyCamera().register(butler.registry)
        insert_visits(butler, exposures)
        mesh = np.full((2, 2), 200.0, np.float32)
        sky = BackgroundList([Background(mesh, np.zeros_like(mesh), SHAPE, 128)])
        for e in exposures:
            ccd = {"instrument": "DECam", "visit": e.info.visit, "detector": 1}
            visit = {"instrument": "DECam", "visit": e.info.visit}
            dims = ["instrument", "visit", "detector"]
            put(butler, e, "calexp", "SkymillExposure", dims, **ccd)
            put(butler, sky, "calexpBackground", "SkymillBackground", dims, **ccd)
            put(butler, visit_summary([e]), "finalVisitSummary", "SkymillTable", dims[:2], **visit)
            put(butler, psf_catalog([e]), "finalized_psf_ap_corr_catalog", "SkymillTable",
                dims[:2], **visit)  # fmt: skip
        camera = DatasetType(
            "camera",
            ["instrument"],
            "SkymillCamera",
            universe=butler.dimensions,
            isCalibration=True,
        )
        butler.registry.registerDatasetType(camera)
        butler.collections.register("camera")
        ref = butler.put(get_camera(), "camera", instrument="DECam", run="camera")
        butler.registry.registerCollection("calib", CollectionType.CALIBRATION)
        butler.registry.certify("calib", [ref], Timespan(None, None))
    return root


def execute(root, inputs, output, labels, config=(), file=INGREDIENTS):
    pipeline = Pipeline.fromFile(str(file)).subsetFromLabels(
        type("Labels", (), {"labels": set(labels), "begin": None, "end": None})()
    )
    for label, key, value in config:
        pipeline.addConfigOverride(label, key, value)
    butler = SimplePipelineExecutor.prep_butler(root, inputs=inputs, output=output)
    executor = SimplePipelineExecutor.from_pipeline(
        pipeline, where="instrument = 'DECam' AND skymap = 'm'", butler=butler
    )
    executor.run(register_dataset_types=True)
    return butler


@pytest.mark.filterwarnings("ignore")
def test_from_calexp_to_a_corrected_coadd_and_its_mosaic(repo):
    execute(repo, ["data", "skymaps"], "coadd_3a", ["makeWarp", "assembleCoadd"])
    with Butler.from_config(repo, collections=["coadd_3a"]) as butler:
        where = {"skymap": "m", "tract": 0, "patch": 0, "band": "r"}
        coadd = butler.get("deepCoadd", where)
        assert coadd.n_image.max() == 3
        genuine = butler.get("deepCoadd", where, storageClass="CellCoadd")
        assert isinstance(genuine, CellCoadd)
        assert butler.get("deepCoadd_nImage", where)[1].data.max() == 3
        assert len(butler.get("deepCoadd_inputMap", where)) == 3
    execute(repo, ["data", "calib"], "skycorr", ["skyCorr"])
    config = [("makeWarp", "doApplySkyCorr", True)]
    execute(repo, ["skycorr", "data", "skymaps"], "coadd_3d", ["makeWarp", "assembleCoadd"], config)
    with Butler.from_config(repo, collections=["coadd_3d"]) as butler:
        corrected = butler.get("deepCoadd", where)
    good = corrected.planes.mask == 0
    # The sky of 200 electrons was the right one: next to nothing changes.
    assert np.abs((corrected.planes.image - coadd.planes.image)[good]).mean() < 5.0
    collections = ["skycorr", "coadd_3a", "data", "skymaps"]
    execute(repo, collections, "correct_sky", ["correctCoadd"], file=CORRECTION)
    with Butler.from_config(repo, collections=["correct_sky"]) as butler:
        short = butler.get("deepCoadd_calexp", where)
    # Artifacts are looked for once only: a few pixels of noise may be clipped in one and not in
    # the other.
    error = np.abs(short.planes.image - corrected.planes.image)[good]
    assert np.quantile(error, 0.999) < 0.05
    with Butler.from_config(repo, writeable=True, run="detected") as butler:
        dims = ["skymap", "tract", "patch", "band"]
        put(butler, coadd, "deepCoadd_calexp", "SkymillCoadd", dims, **where)
    execute(repo, ["detected", "skymaps"], "export", ["exportMosaic"])
    with Butler.from_config(repo, collections=["export"]) as butler:
        mosaic = butler.get("exportMosaic", skymap="m", tract=0, band="r")
        # The CCD covers a third of the patch.
        assert 0.3 < np.isfinite(mosaic[0].data).mean() < 0.4
        assert butler.get("exportColor", skymap="m", tract=0).startswith(b"\x89PNG")

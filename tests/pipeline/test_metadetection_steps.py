"""The steps meta_4a to meta_lensing of a campaign on coadds that were put into a repository."""

import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType
from scipy import ndimage

from skymill.campaign import Campaign, load_cluster, select_steps
from skymill.coadd.skymap import SkyMap
from skymill.data.images import Coadd, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.tables import load_schema
from skymill.instruments.decam import DarkEnergyCamera
from skymill.psf.models import ConstantPsf
from skymill.shear.metacal import SHEAR_TYPES
from skymill.store.repository import create_repository
from skymill.store.skymaps import register_sky_map

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engine")]

SKYMAP = SkyMap.discrete(
    "m", 150.0, 2.0, 0.025, tract_overlap=0.0, patch_inner=600, patch_border=50
)
SETTINGS = """
name: SIM
centre: [150.0, 2.0]
redshift: 0.02
bands: [g, r, i]
photometry: {g: ps1, r: ps1, i: ps1}
skymap: {name: m}
repo: repo
shear: metadetect
sites: {local: {workers: 1}}
config:
  metaCells: {noise.min_pixels: 1000}
  massMap: {map.n_apertures: 3, map.aperture_max_arcmin: 4.0}
  massFit: {sources.radius_min_mpc: 0.01, fit.n_bootstrap: 20}
"""
STEPS = ("meta_4a", "meta_4b", "meta_export", "meta_process", "meta_lensing")


def make_coadd(patch, band, flux):
    shape = patch.outer_box.shape
    rng = np.random.default_rng(patch.index)
    image = np.zeros(shape)
    rows, columns = np.mgrid[20 : shape[0] - 20 : 45, 20 : shape[1] - 20 : 45]
    bright = flux * rng.uniform(0.5, 2.0, rows.size)
    image[rows.ravel() + rng.integers(-3, 4, rows.size), columns.ravel()] = bright
    image = ndimage.gaussian_filter(image, (2.6, 2.4))
    mask = np.where(image > 1.0, int(MaskPlane.DETECTED), 0).astype(np.int32)
    image += np.random.default_rng([patch.index, ord(band)]).normal(0, 1.0, shape)
    planes = PixelPlanes(image.astype(np.float32), np.ones(shape, np.float32), mask, unit="nJy")
    return Coadd(
        planes=planes, box=patch.outer_box, inner_box=patch.inner_box, band=band, skymap="m",
        tract=patch.tract, patch=patch.index, wcs=patch.wcs, psf=ConstantPsf.gaussian(1.8, 31),
    )  # fmt: skip


@pytest.fixture
def cluster(tmp_path):
    root = str(tmp_path / "repo")
    create_repository(root)
    register_sky_map(root, SKYMAP)
    (tmp_path / "cluster.yaml").write_text(SETTINGS)
    with Butler.from_config(root, writeable=True, run="DECam/processing/coadd_3a") as butler:
        DarkEnergyCamera().register(butler.registry)
        dimensions = ("skymap", "tract", "patch", "band")
        kind = DatasetType(
            "deepCoadd_calexp", dimensions, "SkymillCoadd", universe=butler.dimensions
        )
        butler.registry.registerDatasetType(kind)
        for patch in SKYMAP.tracts[0].patches:
            for band, flux in (("g", 900.0), ("r", 2000.0), ("i", 3000.0)):
                if (band, patch.index) != ("i", 1):  # a band that one patch lacks
                    key = {"skymap": "m", "tract": 0, "patch": patch.index, "band": band}
                    butler.put(make_coadd(patch, band, flux), "deepCoadd_calexp", key)
        kind = DatasetType(
            "zeroPoints", ("instrument", "skymap", "tract"), "SkymillTable",
            universe=butler.dimensions,
        )  # fmt: skip
        butler.registry.registerDatasetType(kind)
        zero = Table({"band": ["g", "r", "i"], "offset": np.zeros(3), "source": ["ps1"] * 3})
        for column in load_schema("zeroPoints").columns:
            if column.name not in zero.colnames:
                zero[column.name] = np.zeros((3, *column.shape), column.dtype)
        run = "DECam/processing/photometric_calibration"
        butler.collections.register(run)
        key = {"instrument": "DECam", "skymap": "m", "tract": 0}
        butler.put(load_schema("zeroPoints").apply(zero), "zeroPoints", key, run=run)
    return load_cluster(tmp_path / "cluster.yaml")


def test_steps_from_coadds_to_masses(cluster):
    steps = [s for s in select_steps(cluster=cluster) if s.name in STEPS]
    units = Campaign(cluster, show_progress=False).run(steps)
    assert {u.step: u.state for u in units} == dict.fromkeys(STEPS, "done")
    with Butler.from_config(cluster.repo_path) as butler:
        counts = {}
        for name in SHEAR_TYPES:
            refs = butler.query_datasets(
                f"deep_{name}_Coadd_obj", collections=f"DECam/processing/meta_4b_{name}"
            )
            assert len(refs) == len(SKYMAP.tracts[0].patches)
            counts[name] = sum(len(butler.get(ref)) for ref in refs)
        # The noise is the same and every galaxy is bright: all versions see the same ones.
        assert max(counts.values()) - min(counts.values()) <= 0.01 * counts["noshear"]
        key = {"instrument": "DECam", "skymap": "m", "tract": 0}
        found = butler.get("metaResponse", collections="DECam/processing/meta_lensing", **key)[-1]
        # Gaussians of 2.4 x 2.6 pixels under a PSF of 1.8: as if all were sheared round ones.
        wide, high = (np.sqrt(s**2 - 1.8**2) for s in (2.4, 2.6))
        assert abs(found["g1"] - (wide - high) / (wide + high)) < 4 * found["g1_err"]
        assert abs(found["g2"]) < 4 * found["g2_err"]
        assert found["g1_err"] < 1e-3
        table = butler.get("metaCatalog", collections="DECam/processing/meta_export", **key)
        lacking = np.asarray(table["patch"]) == 1
        assert np.isnan(np.asarray(table["i_mag"])[lacking]).all()
        assert np.isfinite(np.asarray(table["i_mag"])[~lacking]).all()
    folder = cluster.folder
    for name in (
        "metadetect_export/SIM_metadetect_1p.csv",
        "metadetect_processing/SIM_noshear_dered_dezp_zphot_gals.csv",
        "metadetect_processing/SIM_meta.parquet",
        "meta_lensing_output/calibrate/SIM_response.csv",
        "meta_lensing_output/mass_map/mass_map.fits",
        "meta_lensing_output/mass_fit/SIM_mass_fit.csv",
    ):
        assert (folder / name).is_file(), name

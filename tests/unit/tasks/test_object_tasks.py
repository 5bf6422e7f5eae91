"""The chain of object tasks on a small simulated patch in two bands."""

import dataclasses

import galsim
import numpy as np
import pytest
from lsst.pipe.base import NoWorkFound

from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.tables import load_schema
from skymill.tasks.consolidate_object_table import ConsolidateObjectTableTask
from skymill.tasks.deblend import DeblendTask
from skymill.tasks.detection import DetectionTask
from skymill.tasks.forced_phot_coadd import ForcedPhotCoaddTask
from skymill.tasks.measure import MeasureTask
from skymill.tasks.merge_detections import MergeDetectionsTask
from skymill.tasks.merge_measurements import MergeMeasurementsTask
from skymill.tasks.transform_object_table import TransformObjectTableTask
from skymill.tasks.write_object_table import WriteObjectTableTask

ORIGIN = (300, 700)
SHAPE = (340, 360)
SIGMA = 5.0


class GaussianStars:
    """A PSF of different width in each band."""

    stamp_size = 31

    def __init__(self, sigma):
        self.profile = galsim.Gaussian(sigma=sigma).shear(g1=0.03, g2=0.01)

    def draw(self, *, x, y, size=None, offset_x=None, offset_y=None):
        size = size or self.stamp_size
        n = len(x)
        dx = np.zeros(n) if offset_x is None else offset_x
        dy = np.zeros(n) if offset_y is None else offset_y
        if not n:
            return np.empty((0, size, size), np.float32)
        return np.stack(
            [
                self.profile.shift(a, b).drawImage(nx=size, ny=size, scale=1.0).array
                for a, b in zip(dx, dy, strict=True)
            ]
        )


def truth():
    rng = np.random.default_rng(31)
    rows = []
    for j in range(6):
        for i in range(6):
            x, y = 40 + 54 * i + rng.uniform(-4, 4), 40 + 52 * j + rng.uniform(-4, 4)
            star = (i + j) % 2 == 0
            rows.append((x, y, star, rng.uniform(3000, 30000), rng.uniform(0.5, 1.5)))
    # A blend: a galaxy 9 pixels from a star.
    rows.append((rows[0][0] + 9.0, rows[0][1] + 2.0, False, 8000.0, 0.7))
    return rows


def make_coadd(band, rows):
    psf = GaussianStars(1.8 if band == "r" else 2.1)
    image = galsim.Image(SHAPE[1], SHAPE[0], xmin=0, ymin=0)
    for k, (x, y, star, flux, colour) in enumerate(rows):
        profile = psf.profile
        if not star:
            galaxy = galsim.Exponential(half_light_radius=2.5).shear(
                g=0.3, beta=25.0 * k * galsim.degrees
            )
            profile = galsim.Convolve(galaxy, profile)
        profile = profile.withFlux(flux * (colour if band == "g" else 1.0))
        profile.drawImage(image, add_to_image=True, center=galsim.PositionD(x, y), scale=1.0)
    rng = np.random.default_rng(ord(band))
    pixels = (image.array + rng.normal(0, SIGMA, SHAPE)).astype(np.float32)
    mask = np.zeros(SHAPE, np.int32)
    mask[:, :4] = MaskPlane.NO_DATA
    pixels[:, :4] = np.nan
    planes = PixelPlanes(pixels, np.full(SHAPE, SIGMA**2, np.float32), mask, unit="nJy")
    box = Box(x0=ORIGIN[0], y0=ORIGIN[1], x1=ORIGIN[0] + SHAPE[1], y1=ORIGIN[1] + SHAPE[0])
    return Coadd(
        planes=planes,
        box=box,
        wcs=make_tan_wcs(ra=150.0, dec=2.0, scale=0.263, x=500, y=800),
        psf=psf,
        band=band,
        skymap="test",
        tract=3,
        patch=5,
        inner_box=Box(x0=box.x0 + 20, y0=box.y0 + 20, x1=box.x1 - 20, y1=box.y1 - 20),
        n_image=np.full(SHAPE, 7, np.uint16),
    )


@pytest.fixture(scope="module")
def chain():
    rows = truth()
    coadds = {band: make_coadd(band, rows) for band in ("r", "g")}
    config = DetectionTask.ConfigClass()
    config.background.box = 128
    found = {b: DetectionTask(config=config).run(c) for b, c in coadds.items()}
    merged = MergeDetectionsTask().run({b: f.outputSources for b, f in found.items()})
    calexps = {b: f.outputExposure for b, f in found.items()}
    split = DeblendTask().run(calexps, merged.outputCatalog)
    measured = {
        b: MeasureTask().run(c, split.deblendedCatalog, split.scarletModelData).outputSources
        for b, c in calexps.items()
    }
    reference = MergeMeasurementsTask().run(measured).mergedCatalog
    forced = {
        b: ForcedPhotCoaddTask()
        .run(c, reference, split.deblendedCatalog, split.scarletModelData)
        .measCat
        for b, c in calexps.items()
    }
    joined = WriteObjectTableTask().run(measured, forced, reference).outputCatalog
    objects = TransformObjectTableTask().run(joined, tract=3, patch=5).outputCatalog
    return {
        "rows": rows,
        "coadds": coadds,
        "found": found,
        "merged": merged.outputCatalog,
        "catalogue": split.deblendedCatalog,
        "pixels": split.scarletModelData,
        "measured": measured,
        "reference": reference,
        "forced": forced,
        "objects": objects,
    }


def test_every_table_follows_its_schema(chain):
    for name, table in (
        ("deepCoadd_det", chain["found"]["r"].outputSources),
        ("deepCoadd_mergeDet", chain["merged"]),
        ("deepCoadd_deblendedCatalog", chain["catalogue"]),
        ("deepCoadd_scarletModelData", chain["pixels"]),
        ("deepCoadd_meas", chain["measured"]["g"]),
        ("deepCoadd_ref", chain["reference"]),
        ("deepCoadd_forced_src", chain["forced"]["g"]),
        ("objectTable", chain["objects"]),
    ):
        load_schema(name).validate(table)


def test_each_source_is_found_once_and_the_sky_is_there(chain):
    merged, catalogue = chain["merged"], chain["catalogue"]
    assert len(merged) == len(chain["rows"])
    assert merged["peak_r"].all()
    assert np.count_nonzero(catalogue["is_sky"]) > 20
    assert len(np.unique(catalogue["id"])) == len(catalogue)
    assert np.count_nonzero(catalogue["n_siblings"] == 2) == 2
    assert np.count_nonzero(catalogue["parent"]) == 2
    assert (chain["found"]["r"].outputExposure.planes.mask & MaskPlane.DETECTED).any()
    assert not (chain["coadds"]["r"].planes.mask & MaskPlane.DETECTED).any()


def rows_of(chain):
    objects = chain["objects"]
    index = [
        np.argmin(np.hypot(objects["x"] - x - ORIGIN[0], objects["y"] - y - ORIGIN[1]))
        for x, y, *_ in chain["rows"]
    ]
    return objects[index]


def test_fluxes_colours_and_classes(chain):
    row = rows_of(chain)
    star = np.array([r[2] for r in chain["rows"]])
    flux = np.array([r[3] for r in chain["rows"]])
    colour = np.array([r[4] for r in chain["rows"]])
    assert (row["r_extendedness"][star] == 0).all()
    assert (row["r_extendedness"][~star] == 1).all()
    pull = (row["r_psfFlux"] - flux)[star] / row["r_psfFluxErr"][star]
    assert pull.std() < 1.6  # 18 stars: 17 %
    # Exponential galaxies lose 2 % by the truncation of the mixture; noise 1-2 %.
    alone = row["deblend_nSiblings"] == 1
    np.testing.assert_allclose(row["r_cModelFlux"][alone], flux[alone], rtol=0.06)
    np.testing.assert_allclose(
        (row["g_cModelFlux"] / row["r_cModelFlux"])[alone], colour[alone], rtol=0.06
    )
    # The two sources of the blend, 9 pixels apart.
    np.testing.assert_allclose(row["r_cModelFlux"][~alone], flux[~alone], rtol=0.12)
    pull = (row["r_ap12Flux"] - flux)[star & alone] / row["r_ap12FluxErr"][star & alone]
    assert np.abs(pull).max() < 5  # 17 stars, and the background's error over 452 pixels


def test_shapes_are_those_of_the_galaxies(chain):
    row = rows_of(chain)
    for k, (_, _, star, flux, _) in enumerate(chain["rows"][:-1]):
        if star or flux < 10000 or row["deblend_nSiblings"][k] > 1:
            continue
        shear = galsim.Shear(g=0.3, beta=25.0 * k * galsim.degrees)
        assert row["r_hsmE1"][k] == pytest.approx(shear.e1, abs=0.08)
        assert row["r_hsmE2"][k] == pytest.approx(shear.e2, abs=0.08)
        assert row["r_hsm_flags"][k] == 0


def test_primary_flags_positions_and_sky(chain):
    objects = chain["objects"]
    primary = np.asarray(objects["detect_isPrimary"])
    assert np.count_nonzero(primary) == len(chain["rows"])
    assert not (primary & np.asarray(objects["detect_isSky"])).any()
    assert (objects["refBand"][primary] == "r").all()
    ra, dec = chain["coadds"]["r"].wcs.pixel_to_sky(x=objects["x"], y=objects["y"])
    np.testing.assert_allclose(objects["coord_ra"], ra, atol=1e-12)
    np.testing.assert_allclose(objects["coord_dec"], dec, atol=1e-12)
    assert (objects["r_inputCount"][primary] == 7).all()
    sky = np.asarray(objects["detect_isSky"])
    pull = (objects["r_psfFlux"] / objects["r_psfFluxErr"])[sky]
    assert abs(pull.mean()) < 0.5
    assert 0.7 < pull.std() < 1.3
    nan = [
        n
        for n in objects.colnames
        if objects[n].dtype.kind == "f"
        and n.endswith("Flux")
        and not np.isfinite(objects[n][primary]).all()
    ]
    assert nan == []


def test_consolidation_keeps_patches_with_fewer_bands(chain):
    objects = chain["objects"]
    other = objects[[n for n in objects.colnames if not n.startswith("g_")]].copy()
    tract = ConsolidateObjectTableTask().run([objects, other]).outputCatalog
    load_schema("objectTable_tract").validate(tract)
    assert len(tract) == 2 * len(objects)
    assert (tract["g_psfFlux_flags"][len(objects) :] != 0).all()


def test_nothing_to_do_says_so(chain):
    coadd = chain["coadds"]["r"]
    planes = coadd.planes.copy()
    planes.mask[:] = MaskPlane.NO_DATA
    with pytest.raises(NoWorkFound, match="no pixel of the coadd has data"):
        DetectionTask().run(dataclasses.replace(coadd, planes=planes))
    with pytest.raises(NoWorkFound, match="has no source"):
        DeblendTask().run({"r": coadd}, chain["merged"][:0])


def test_no_source_in_a_band_gives_empty_tables(chain):
    coadd = chain["coadds"]["r"]
    rng = np.random.default_rng(2)
    planes = PixelPlanes(
        rng.normal(0, SIGMA, SHAPE).astype(np.float32),
        coadd.planes.variance,
        np.zeros(SHAPE, np.int32),
        unit="nJy",
    )
    empty = DetectionTask().run(dataclasses.replace(coadd, planes=planes))
    assert len(empty.outputSources) == 0
    merged = MergeDetectionsTask().run(
        {"r": empty.outputSources, "g": chain["found"]["g"].outputSources}
    )
    assert not merged.outputCatalog["peak_r"].any()
    assert (merged.outputCatalog["merge_band"] == "g").all()

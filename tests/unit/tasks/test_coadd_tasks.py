"""The coadd tasks: from CCDs to warps, stacks, corrected skies, mosaics and pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from lsst.pipe.base import NoWorkFound

from skymill.coadd.skymap import SkyMap
from skymill.data.images import Box
from skymill.data.masks import MaskPlane
from skymill.data.tables import load_schema
from skymill.instruments.camera import Camera, Detector
from skymill.measure.background import Background, BackgroundList
from skymill.tasks.assemble_coadd import AssembleCoaddTask
from skymill.tasks.correct_coadd import CorrectCoaddTask
from skymill.tasks.export_mosaic import ExportMosaicTask, _choose_bands
from skymill.tasks.make_warp import MakeWarpTask
from skymill.tasks.sky_corr import SkyCorrTask

sys.path.insert(0, str(Path(__file__).parent))
from _coadd_handles import DEC, RA, Handle, make_calexp, psf_catalog, visit_summary

SKYMAP = SkyMap.discrete("m", RA, DEC, 0.01, tract_overlap=0.0, patch_inner=200, patch_border=50)
PATCH = SKYMAP.tract(0).patch(0)


def background(level, shape=(220, 260)):
    mesh = np.full((2, 2), level, np.float32)
    return BackgroundList([Background(mesh, np.zeros_like(mesh), shape, 128)])


def warp(visit, rng, config=None, **exposure):
    calexp = make_calexp(visit, 1, rng=rng, **exposure)
    task = MakeWarpTask(config=config or MakeWarpTask.ConfigClass())
    return task.run(
        calExpList=[Handle(calexp, detector=1)],
        visitSummary=visit_summary([calexp]),
        psfApCorrCatalog=psf_catalog([calexp]),
        patch=PATCH,
        rng=rng,
    )


def test_a_visit_becomes_two_warps_in_njy():
    rng = np.random.default_rng(1)
    result = warp(7, rng)
    direct, matched = result.direct, result.psfMatched
    assert (direct.visit, direct.band, direct.planes.unit) == (7, "r", "nJy")
    assert matched.psf_matched
    assert direct.noise is None
    # The summary's 2 nJy per electron, not the 9.9 of the calexp.
    assert direct.planes.image.max() == pytest.approx(1e5 / (8 * np.pi), rel=0.05)
    config = MakeWarpTask.ConfigClass()
    config.warpAndPsfMatch.warp.noise = True
    once, again = (warp(7, np.random.default_rng(1), config).direct for _ in range(2))
    np.testing.assert_array_equal(once.noise, again.noise)
    np.testing.assert_array_equal(once.planes.image, direct.planes.image)


def test_ccds_elsewhere_are_not_even_read():
    rng = np.random.default_rng(2)
    near, far = make_calexp(1, 1, rng=rng), make_calexp(1, 2, rng=rng, dx=5000.0)
    unknown = Handle(make_calexp(1, 3, rng=rng), detector=3)
    far_handle = Handle(far, detector=2)
    task = MakeWarpTask()
    result = task.run(
        calExpList=[far_handle, unknown, Handle(near, detector=1)],
        visitSummary=visit_summary([near, far]),
        psfApCorrCatalog=psf_catalog([near, far]),
        patch=PATCH,
        rng=rng,
    )
    assert [i.detector for i in result.direct.inputs] == [1]
    assert (far_handle.reads, unknown.reads) == (0, 0)
    with pytest.raises(NoWorkFound, match="no CCD"):
        task.run(
            calExpList=[far_handle],
            visitSummary=visit_summary([far]),
            psfApCorrCatalog=psf_catalog([far]),
            patch=PATCH,
            rng=rng,
        )


def test_the_sky_can_be_put_back_or_corrected():
    rng = np.random.default_rng(3)
    calexp = make_calexp(1, 1, rng=rng, star=0.0)
    config = MakeWarpTask.ConfigClass()
    config.bgSubtracted = False
    config.doApplySkyCorr = True
    config.makePsfMatched = False
    result = MakeWarpTask(config=config).run(
        calExpList=[Handle(calexp, detector=1)],
        visitSummary=visit_summary([calexp]),
        psfApCorrCatalog=psf_catalog([calexp]),
        backgroundList=[Handle(background(100.0), detector=1)],
        skyCorrList=[Handle(background(70.0), detector=1)],
        patch=PATCH,
        rng=rng,
    )
    good = result.direct.planes.mask == 0
    # (100 - 70) electrons of 2 nJy.
    assert np.median(result.direct.planes.image[good]) == pytest.approx(60.0, abs=0.5)
    assert not hasattr(result, "psfMatched")


def test_a_wide_psf_is_warned_of(caplog):
    rng = np.random.default_rng(4)
    config = MakeWarpTask.ConfigClass()
    config.modelPsf.defaultFwhm = 4.0
    with caplog.at_level("WARNING"):
        warp(1, rng, config)
    assert "wider" in caplog.text


def stack(n, rng, **config):
    results = [warp(k, rng, dx=float(rng.uniform(-4, 4))) for k in range(n)]
    task_config = AssembleCoaddTask.ConfigClass()
    for name, value in config.items():
        setattr(task_config, name, value)
    task = AssembleCoaddTask(config=task_config)
    return task.run(
        inputWarps=[Handle(r.direct, visit=r.direct.visit) for r in results[::-1]],
        psfMatchedWarps=[Handle(r.psfMatched, visit=r.direct.visit) for r in results],
        patch=PATCH,
        skymap="m",
    )


def test_the_coadd_and_its_companions():
    result = stack(4, np.random.default_rng(5))
    coadd = result.coaddExposure
    assert (coadd.band, coadd.skymap, coadd.tract, coadd.patch) == ("r", "m", 0, 0)
    assert coadd.box == PATCH.outer_box
    assert coadd.inner_box == PATCH.inner_box
    assert [v for v, _ in coadd.inputs] == [0, 1, 2, 3]
    np.testing.assert_array_equal(result.nImage[1].data, coadd.n_image)
    load_schema("deepCoadd_inputMap").validate(result.inputMap)
    x, y = (round(float(v[0])) for v in coadd.wcs.sky_to_pixel(ra=[RA], dec=[DEC]))
    flux = coadd.planes.image[y - 9 : y + 10, x - 9 : x + 10].sum()
    # Noise of 361 pixels of 10 nJy in 4 epochs: 95 nJy.
    assert flux == pytest.approx(1e5, abs=500)
    header = result.nImage[1].header
    assert header["CTYPE1"] == "RA---TAN"


def test_switches_of_the_coadd():
    result = stack(3, np.random.default_rng(6), doNImage=False, doInputMap=False)
    assert not hasattr(result, "nImage")
    assert not hasattr(result, "inputMap")
    task = AssembleCoaddTask()
    with pytest.raises(NoWorkFound, match="no warp"):
        task.run(inputWarps=[], psfMatchedWarps=[], patch=PATCH, skymap="m")


def test_sky_corr_gives_each_ccd_its_correction():
    rng = np.random.default_rng(7)
    shape = (256, 256)
    box = Box(x0=0, y0=0, x1=256, y1=256)
    detectors = tuple(
        Detector(id=k, name=f"S{k}", box=box, raw_shape=shape, centre=(k * 4.0, 0.0),
                 pixel_size=0.015, amplifiers=())
        for k in (1, 2)
    )  # fmt: skip
    camera = Camera(name="test", detectors=detectors)
    exposures = [make_calexp(1, k, rng=rng, shape=shape, star=0.0) for k in (1, 2)]
    result = SkyCorrTask().run(
        calExps=[Handle(e, detector=e.info.detector) for e in exposures],
        calBkgs=[
            Handle(background(300.0, shape), detector=1),
            Handle(background(300.0, shape), detector=2),
        ],
        camera=camera,
    )
    assert set(result.skyCorr) == {1, 2}
    for k in (1, 2):
        # What was subtracted is the sky: next to nothing is left to correct.
        assert abs(result.skyCorr[k].evaluate().mean()) < 1.0
    with pytest.raises(NoWorkFound, match="no CCD"):
        SkyCorrTask().run(calExps=[], calBkgs=[], camera=camera)


def test_mosaic_and_colour():
    result = stack(3, np.random.default_rng(8))
    tract = SKYMAP.tract(0)
    task = ExportMosaicTask()
    made = task.run(
        tract=tract, box=PATCH.inner_box, handles=[Handle(result.coaddExposure, patch=PATCH.index)]
    )
    image = made.mosaic[0]
    assert image.data.shape == PATCH.inner_box.shape
    assert image.header["BUNIT"] == "nJy"
    assert made.small.shape == (100, 100)
    from skymill.data.geometry import FitsWcs

    x, y = FitsWcs(image.header).sky_to_pixel(ra=[RA], dec=[DEC])
    in_tract = tract.sky_to_pixel(ra=[RA], dec=[DEC])
    np.testing.assert_allclose([x[0], y[0]], [in_tract[0][0], in_tract[1][0]], atol=1e-6)
    assert made.mosaic["MASK"].data.max() < 1 << 18
    assert made.saturated.max() == 0
    png = task.draw({"r": made.small, "g": made.small * 0.5}, dict.fromkeys("gr", made.saturated))
    assert png.startswith(b"\x89PNG")
    assert task.draw({"z": made.small}).startswith(b"\x89PNG")


def test_a_coadd_can_be_corrected_after_the_stacking():
    rng = np.random.default_rng(10)
    calexps = [make_calexp(v, 1, rng=rng, dx=40.0 * v) for v in range(3)]
    calexps[0].planes.mask[100:104] |= int(MaskPlane.BAD)
    for calexp in calexps:  # No usable pixel at the place of one column.
        x = round(130 - 40 * calexp.info.visit)
        calexp.planes.mask[:, max(x, 0)] |= int(MaskPlane.SAT)
    meshes = [np.array([[5.0, 9.0 + 20 * v], [7.0, -30.0]], np.float32) for v in range(3)]
    shape = calexps[0].planes.shape
    skies = [BackgroundList([Background(m, np.zeros_like(m), shape, 128)]) for m in meshes]
    summaries = [visit_summary([c]) for c in calexps]

    def coadd(correct):
        config = MakeWarpTask.ConfigClass()
        config.makePsfMatched, config.doApplySkyCorr = False, correct
        warps = [
            MakeWarpTask(config=config)
            .run(
                calExpList=[Handle(c.replace(planes=c.planes.copy()), detector=1)],
                visitSummary=summary,
                psfApCorrCatalog=psf_catalog([c]),
                skyCorrList=[Handle(sky, detector=1)] if correct else None,
                patch=PATCH,
                rng=np.random.default_rng(c.info.visit),
            )
            .direct
            for c, sky, summary in zip(calexps, skies, summaries, strict=True)
        ]
        task_config = AssembleCoaddTask.ConfigClass()
        task_config.doClipArtifacts = False
        handles = [Handle(w, visit=w.visit) for w in warps]
        return AssembleCoaddTask(config=task_config).run(
            inputWarps=handles, patch=PATCH, skymap="m"
        )

    plain, wanted = coadd(False), coadd(True).coaddExposure
    fixed = (
        CorrectCoaddTask()
        .run(
            coadd=plain.coaddExposure,
            inputPixels=plain.inputPixels,
            skyCorrList=[Handle(s, visit=v, detector=1) for v, s in enumerate(skies)],
            visitSummaries=[Handle(t, visit=v) for v, t in enumerate(summaries)],
        )
        .corrected
    )
    covered = wanted.planes.mask & int(MaskPlane.NO_DATA) == 0
    change = np.abs(wanted.planes.image - plain.coaddExposure.planes.image)[covered]
    assert change.max() > 20.0
    error = np.abs(wanted.planes.image - fixed.planes.image)[covered]
    # Around the filled columns, which take the sky of their neighbours, it is not exact; elsewhere
    # the grid of 64 pixels is the limit, for a sky that changes by 40 electrons over a CCD.
    assert np.quantile(error, 0.9) < 0.1
    assert error.max() < 2.0
    np.testing.assert_array_equal(fixed.planes.variance, plain.coaddExposure.planes.variance)
    np.testing.assert_array_equal(fixed.planes.mask, plain.coaddExposure.planes.mask)
    assert fixed.noise is None


def test_masks_of_the_coadd_are_known_planes():
    mask = stack(3, np.random.default_rng(9)).coaddExposure.planes.mask
    known = int(np.bitwise_or.reduce([int(p) for p in MaskPlane]))
    assert (mask & ~known == 0).all()


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("g", "r", "z"), ("z", "r", "g")),
        (("g", "r", "i", "z"), ("i", "r", "g")),
        (("r", "i"), ("i", "r", "r")),
        (("u", "g", "r"), ("r", "g", "u")),
        (("r",), ("r", "r", "r")),
    ],
)
def test_missing_bands_of_a_picture_are_replaced_in_order_of_wavelength(present, expected):
    assert _choose_bands(("i", "r", "g"), present) == expected

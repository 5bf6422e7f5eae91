"""Every storage class: what goes into the Butler comes out again, and others can read it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType
from lsst.images import XY, VisitImage
from lsst.images.cells import CellCoadd
from lsst.images.serialization import read_archive

from skymill.coadd.skymap import SkyMap
from skymill.coadd.warp import Warp, WarpInput
from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.images import Box, Coadd, Exposure, ExposureInfo, PixelPlanes
from skymill.data.photometry import FluxScale
from skymill.instruments.decam.facts import get_camera
from skymill.measure.background import Background
from skymill.psf.models import CellPsf, ConstantPsf, PolynomialPsf
from skymill.store.image_files import read_image, write_image
from skymill.store.piff_psf import from_lsst_psf

SHAPE = (120, 90)


def tpv_wcs() -> FitsWcs:
    header = make_tan_wcs(ra=10.0, dec=-9.0, scale=0.263, x=400.0, y=-900.0).header
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    for key in ("PV1_3", "PV1_4", "LONPOLE", "LATPOLE"):
        header.remove(key, ignore_missing=True)
    header.update(PV1_0=0.001, PV1_1=1.01, PV1_4=0.04, PV1_7=0.016, PV2_1=1.01, PV2_5=0.015)
    return FitsWcs(header)


def make_planes(unit: str = "electron") -> PixelPlanes:
    rng = np.random.default_rng(5)
    return PixelPlanes(
        rng.normal(size=SHAPE).astype(np.float32),
        rng.uniform(1, 2, size=SHAPE).astype(np.float32),
        rng.integers(0, 1 << 18, size=SHAPE).astype(np.int32),
        unit=unit,
    )


def make_exposure() -> Exposure:
    rng = np.random.default_rng(6)
    coefficients = 0.01 * rng.normal(size=(6, 15, 15))
    coefficients[0] += ConstantPsf.gaussian(2.0, 15).stamp
    return Exposure(
        planes=make_planes(),
        info=ExposureInfo(
            instrument="DECam",
            visit=700000,
            detector=25,
            physical_filter="r DECam SDSS c0002 6415.0 1480.0",
            band="r",
            exposure_time=90.0,
            mjd_mid=57000.1,
            airmass=1.1,
            boresight_ra=10.0,
            boresight_dec=-9.0,
        ),
        wcs=tpv_wcs(),
        psf=PolynomialPsf(coefficients, 2, (45.0, 60.0), (45.0, 60.0)),
        photo_calib=FluxScale(3.2, 0.01, np.array([[1.0, 0.1], [0.05, 0.02]]), SHAPE),
        aperture_correction={"ap12Flux": 1.1},
        summary={"psfSigma": 2.0, "nPsfStar": 12, "zeroPoint": float("nan")},
    )


def make_coadd() -> Coadd:
    stamps = np.tile(ConstantPsf.gaussian(2.0, 15).stamp, (2, 1, 1, 1))
    stamps[1, 0] = np.nan
    return Coadd(
        planes=make_planes("nJy"),
        box=Box(x0=1000, y0=2000, x1=1090, y1=2120),
        wcs=make_tan_wcs(ra=10, dec=-9, scale=0.263, x=3000, y=3000),
        psf=CellPsf(stamps, 1000.0, 2000.0, 100),
        band="r",
        skymap="m",
        tract=0,
        patch=7,
        inner_box=Box(x0=1000, y0=2000, x1=1090, y1=2120),
        n_image=np.full(SHAPE, 3, np.uint16),
        noise=make_planes().image,
        inputs=[(1, 2), (3, 4)],
    )


@pytest.fixture
def butler(tmp_path):
    Butler.makeRepo(str(tmp_path / "repo"))
    path = tmp_path / "repo" / "butler.yaml"
    text = path.read_text()
    path.write_text("includeConfigs: [resource://skymill/configs/butler.yaml]\n" + text)
    with Butler.from_config(str(tmp_path / "repo"), writeable=True, run="run") as butler:
        record = {"name": "DECam", "visit_max": 9, "exposure_max": 9, "detector_max": 9}
        record["class_name"] = "skymill.instruments.decam.DarkEnergyCamera"
        butler.registry.insertDimensionData("instrument", record)
        yield butler


def round_trip(butler: Butler, value: object, storage_class: str, **get: object) -> object:
    name = storage_class.lower()
    dataset_type = DatasetType(name, ["instrument"], storage_class, universe=butler.dimensions)
    if butler.registry.registerDatasetType(dataset_type):
        butler.put(value, name, instrument="DECam")
    return butler.get(name, instrument="DECam", **get)


def assert_same_planes(a: PixelPlanes, b: PixelPlanes) -> None:
    for name in ("image", "variance", "mask"):
        first, second = getattr(a, name), getattr(b, name)
        assert first.dtype == second.dtype
        assert first.dtype.isnative
        np.testing.assert_array_equal(first, second)
    assert a.unit == b.unit


def test_planes(butler):
    planes = make_planes("adu")
    assert_same_planes(round_trip(butler, planes, "SkymillPlanes"), planes)
    masked = round_trip(butler, planes, "SkymillPlanes", storageClass="MaskedImageV2")
    assert masked.mask.get("CROSSTALK").sum() == ((planes.mask >> 9) & 1).sum()


def test_exposure_comes_back_whole(butler):
    exposure = make_exposure()
    found = round_trip(butler, exposure, "SkymillExposure")
    assert_same_planes(found.planes, exposure.planes)
    assert found.wcs == exposure.wcs
    assert found.info == exposure.info
    np.testing.assert_array_equal(found.psf.coefficients, exposure.psf.coefficients)
    np.testing.assert_array_equal(found.photo_calib.coefficients, exposure.photo_calib.coefficients)
    assert found.aperture_correction == exposure.aperture_correction
    assert found.summary["nPsfStar"] == 12
    assert np.isnan(found.summary["zeroPoint"])


@pytest.mark.parametrize("part", ["wcs", "info", "summary", "aperture_correction"])
def test_parts_of_an_exposure(butler, part):
    exposure = make_exposure()
    round_trip(butler, exposure, "SkymillExposure")
    found = butler.get(f"skymillexposure.{part}", instrument="DECam")
    if part == "summary":
        found, expected = found["psfSigma"], 2.0
    else:
        expected = getattr(exposure, part)
    assert found == expected


def test_visit_image_is_genuine(butler, tmp_path):
    exposure = make_exposure()
    round_trip(butler, exposure, "SkymillExposure")
    path = butler.getURI("skymillexposure", instrument="DECam").ospath
    for visit_image in (
        read_archive(path),
        round_trip(butler, exposure, "SkymillExposure", storageClass="VisitImage"),
    ):
        assert type(visit_image) is VisitImage
        sky = visit_image.sky_projection.pixel_to_sky(XY(x=10.0, y=80.0))
        ra, dec = exposure.wcs.pixel_to_sky(x=[10.0], y=[80.0])
        # 1e-9 deg = 4 micro-arcsec: two independent implementations of TPV in double precision.
        assert abs(sky.ra.deg - ra[0]) < 1e-9
        assert abs(sky.dec.deg - dec[0]) < 1e-9
        stamp = visit_image.psf.compute_kernel_image(x=30.0, y=70.0).array
        expected = exposure.psf.draw(x=[30.0], y=[70.0])[0]
        # float32 stamps of unit flux against Piff's double precision.
        np.testing.assert_allclose(stamp, expected / expected.sum(), atol=3e-8)
        scale = visit_image.photometric_scaling.render(visit_image.bbox).array[80, 10]
        np.testing.assert_allclose(scale, exposure.photo_calib.scale(x=10.0, y=80.0), rtol=1e-12)
        focal = visit_image.detector.to_focal_plane.apply_forward(
            x=np.array([5.0]), y=np.array([9.0])
        )
        x, y = get_camera()[25].pixel_to_focal_plane(x=5.0, y=9.0)
        np.testing.assert_allclose([focal.x[0], focal.y[0]], [x, y], rtol=1e-12)
        assert visit_image.band == "r"
        assert len(visit_image.detector.amplifiers) == 2


def test_foreign_visit_image_becomes_an_exposure(butler):
    from skymill.store.convert import exposure_from_visit_image
    from skymill.store.lsst_images import to_visit_image

    exposure = make_exposure()
    found = exposure_from_visit_image(to_visit_image(exposure))
    assert_same_planes(found.planes, exposure.planes)
    ra, dec = exposure.wcs.pixel_to_sky(x=[3.0], y=[4.0])
    np.testing.assert_allclose(found.wcs.pixel_to_sky(x=[3.0], y=[4.0]), [ra, dec], atol=1e-9)
    # The raw-pixel polynomial is the same up to rounding of its terms.
    np.testing.assert_allclose(
        found.psf.draw(x=[3.0], y=[4.0]), exposure.psf.draw(x=[3.0], y=[4.0]), atol=1e-7
    )
    np.testing.assert_allclose(
        found.photo_calib.scale(x=3.0, y=4.0), exposure.photo_calib.scale(x=3.0, y=4.0)
    )
    assert found.info.mjd_mid == pytest.approx(57000.1, abs=1e-9)


def test_other_psfs_are_carried(tmp_path):
    for number, psf in enumerate([None, ConstantPsf.gaussian(1.5, 11), make_coadd().psf]):
        path = str(tmp_path / f"{number}.fits")
        exposure = make_exposure().replace(psf=psf)
        if isinstance(psf, CellPsf):
            psf.stamps[1] = psf.stamps[0]
        write_image(exposure, path)
        found = read_image(path).psf
        assert type(found) is type(psf)
        kernel = read_archive(path).psf.compute_kernel_image(x=40.0, y=50.0).array
        assert kernel.sum() == pytest.approx(1.0)
        if psf is not None:
            size = kernel.shape[0]
            expected = psf.draw(x=[40.0], y=[50.0], size=size)[0]
            np.testing.assert_allclose(kernel, expected / expected.sum(), atol=1e-7)


def test_gaussian_psf_of_others_is_sampled():
    from lsst.images import Box as LsstBox
    from lsst.images.psfs import GaussianPointSpreadFunction

    box = LsstBox.factory[0:50, 0:60]
    found = from_lsst_psf(GaussianPointSpreadFunction(1.5, bounds=box, stamp_size=15))
    expected = ConstantPsf.gaussian(1.5, 15).stamp
    # The reference integrates over pixels, ours samples them: 1 % of the peak.
    np.testing.assert_allclose(
        found.draw(x=[9.0], y=[8.0])[0], expected, atol=0.01 * expected.max()
    )


def test_exposure_without_wcs_is_refused(tmp_path):
    with pytest.raises(DataError, match="visit 700000 detector 25 has no WCS"):
        write_image(make_exposure().replace(wcs=None), str(tmp_path / "a.fits"))


def test_coadd(butler):
    coadd = make_coadd()
    found = round_trip(butler, coadd, "SkymillCoadd")
    assert_same_planes(found.planes, coadd.planes)
    np.testing.assert_array_equal(found.noise, coadd.noise)
    np.testing.assert_array_equal(found.n_image, coadd.n_image)
    np.testing.assert_array_equal(found.psf.stamps, coadd.psf.stamps)
    assert (found.box, found.inner_box, found.inputs) == (coadd.box, coadd.inner_box, coadd.inputs)
    assert found.wcs == coadd.wcs
    cells = round_trip(butler, coadd, "SkymillCoadd", storageClass="CellCoadd")
    assert type(cells) is CellCoadd
    assert (cells.tract, cells.patch.id, cells.band) == (0, 7, "r")
    assert len(cells.bounds.missing) == 1
    stamp = cells.psf.compute_kernel_image(x=1050, y=2050).array
    np.testing.assert_allclose(stamp, coadd.psf.stamps[0, 0], atol=1e-9)
    sky = cells.sky_projection.pixel_to_sky(XY(x=1050.0, y=2050.0))
    ra, dec = coadd.wcs.pixel_to_sky(x=[1050.0], y=[2050.0])
    np.testing.assert_allclose([sky.ra.deg, sky.dec.deg], [ra[0], dec[0]], atol=1e-9)


def test_foreign_coadd():
    from skymill.store.convert import coadd_from_cell_coadd
    from skymill.store.lsst_images import to_cell_coadd

    coadd = make_coadd()
    found = coadd_from_cell_coadd(to_cell_coadd(coadd))
    assert_same_planes(found.planes, coadd.planes)
    np.testing.assert_allclose(
        found.wcs.pixel_to_sky(x=[1050.0], y=[2050.0]),
        coadd.wcs.pixel_to_sky(x=[1050.0], y=[2050.0]),
        atol=1e-9,
    )
    np.testing.assert_allclose(found.psf.stamps, coadd.psf.stamps, atol=1e-9)
    assert found.inputs == coadd.inputs


def test_warp(butler):
    coadd = make_coadd()
    corners = {"x": (0.0, 1.0, 2.0, 3.0), "y": (1.0, 2.0, 3.0, 4.0)}
    warp = Warp(
        planes=coadd.planes,
        box=coadd.box,
        wcs=coadd.wcs,
        psf=coadd.psf,
        visit=3,
        band="r",
        inputs=[WarpInput(visit=3, detector=1, n_pixel=7, **corners)],
        noise=coadd.noise,
    )
    found = round_trip(butler, warp, "SkymillWarp")
    assert_same_planes(found.planes, warp.planes)
    assert found.inputs == warp.inputs
    np.testing.assert_array_equal(found.noise, warp.noise)
    masked = round_trip(butler, warp, "SkymillWarp", storageClass="MaskedImageV2")
    np.testing.assert_array_equal(masked.image.array, warp.planes.image)


def test_lossless_compression_is_lossless(tmp_path):
    for value in (make_planes(), make_exposure(), make_coadd()):
        path = str(tmp_path / f"{type(value).__name__}.fits")
        write_image(value, path, lossless=True)
        with fits.open(path) as hdus:
            assert isinstance(hdus["IMAGE"], fits.CompImageHDU)
        planes = getattr(value, "planes", value)
        found = read_image(path)
        assert_same_planes(getattr(found, "planes", found), planes)


def test_table_keeps_its_words(butler):
    table = Table({"flux": [1.0, 2.0], "name": ["x", "yy"], "corners": np.ones((2, 4))})
    table["flux"].unit, table["flux"].description = "nJy", "a flux"
    table["flag"] = [True, False]
    table.meta["schema"] = "some"
    found = round_trip(butler, table, "SkymillTable")
    assert found.meta == {"schema": "some"}
    assert (str(found["flux"].unit), found["flux"].description) == ("nJy", "a flux")
    assert [found[c].dtype for c in table.colnames] == [table[c].dtype for c in table.colnames]
    np.testing.assert_array_equal(found["corners"], table["corners"])
    part = round_trip(butler, table, "SkymillTable", parameters={"columns": ["flux"]})
    assert part.colnames == ["flux"]


def test_empty_table(butler):
    table = Table({"flux": np.zeros(0), "corners": np.zeros((0, 4)), "ok": np.zeros(0, bool)})
    found = round_trip(butler, table, "SkymillTable")
    assert len(found) == 0
    assert found["corners"].shape == (0, 4)


def test_background(butler):
    part = Background(
        np.arange(9, dtype=np.float32).reshape(3, 3), np.ones((3, 3), np.float32), (300, 300), 128
    )
    found = round_trip(butler, part, "SkymillBackground")
    np.testing.assert_array_equal(found.parts[0].mesh, part.mesh)
    np.testing.assert_array_equal(found.evaluate(), part.evaluate())


def test_camera_and_sky_map(butler):
    assert round_trip(butler, get_camera(), "SkymillCamera") == get_camera()
    sky_map = SkyMap.discrete("m", 10.0, -9.0, 0.1, tract_overlap=0.0, patch_inner=1000)
    found = round_trip(butler, sky_map, "SkymillSkyMap")
    assert found.to_dict() == sky_map.to_dict()


def test_small_things(butler):
    assert round_trip(butler, {"a": [1, 2.5]}, "SkymillJson") == {"a": [1, 2.5]}
    picture = b"\x89PNG\r\n\x1a\n rest"
    assert round_trip(butler, picture, "SkymillPicture") == picture
    hdus = fits.HDUList([fits.PrimaryHDU(np.ones((3, 4), np.float32))])
    found = round_trip(butler, hdus, "SkymillFits")
    np.testing.assert_array_equal(found[0].data, hdus[0].data)


def test_truncated_file_says_so(tmp_path):
    path = tmp_path / "a.fits"
    write_image(make_exposure(), str(path))
    path.write_bytes(path.read_bytes()[: 2880 * 12])
    with pytest.raises(DataError, match=r"a\.fits"):
        read_image(str(path))

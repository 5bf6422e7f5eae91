import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from skymill.data.errors import DataError, MissingInputError
from skymill.data.masks import MaskPlane
from skymill.instruments.decam.community import (
    community_mask,
    is_community_image,
    read_headers,
)
from skymill.instruments.survey_folder import SurveyFolder
from skymill.measure.background import BackgroundOptions

GAIN, ZERO_POINT, SKY = 4.0, 25.0, 300.0
SHAPE = (96, 80)


def header(**more):
    cards = fits.Header()
    cards.update(
        INSTRUME="DECam", TELESCOP="CTIO 4.0-m telescope", OBSERVAT="CTIO", EXPNUM=390924,
        OBSTYPE="object", PROCTYPE="InstCal", FILTER="r DECam SDSS c0002 6415.0 1480.0",
        EXPTIME=90.0, DARKTIME=91.0, RA="1:53:57.28", DEC="-16:37:40.4", HA="02:56:38.120",
        ZD=42.4, AZ=278.5, AIRMASS=1.35, OBJECT="test", PROPID="2012B-0001",
        OBSID="ct4m20141224t033048", PLVER="V3.9", TIMESYS="UTC",
    )  # fmt: skip
    cards["DATE-OBS"], cards["MJD-OBS"] = "2014-12-24T03:30:48.9", 57015.14639931
    cards["DTCALDAT"] = "2014-12-23"
    cards.update(**more)
    return cards


def wcs_cards():
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 28.4, "CRVAL2": -16.4,
        "CRPIX1": 40.0, "CRPIX2": 48.0, "CD1_1": 0.0, "CD1_2": 7.3e-5, "CD2_1": -7.3e-5,
        "CD2_2": 0.0, "RADESYS": "ICRS", "CCDNUM": 21, "EXTNAME": "S10", "GAINA": 3.9,
        "GAINB": 4.1,
    }  # fmt: skip


def write(path, pixels, **more):
    own = fits.Header()
    own.update(wcs_cards())
    own.update(more)
    path.parent.mkdir(parents=True, exist_ok=True)
    hdus = fits.HDUList([fits.PrimaryHDU(header=header()), fits.ImageHDU(pixels, header=own)])
    hdus.writeto(path, overwrite=True)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(2)
    image = SKY + rng.normal(0, np.sqrt(SKY / GAIN), SHAPE)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image += 3e4 * np.exp(-0.5 * ((x - 30) ** 2 + (y - 40) ** 2) / 2.0**2)
    weight = GAIN / image.clip(SKY)
    quality = np.zeros(SHAPE, np.int32)
    quality[10, 10], quality[11, 11] = 3, 5
    weight[20, 20], weight[21, 21] = 0.0, 1e-7
    base = tmp_path / "images/decam/CP/c4d_141224_033245_ooi_r_ls9.fits"
    write(base, image.astype(np.float32))
    write(base.with_name(base.name.replace("ooi", "oow")), weight.astype(np.float32))
    write(base.with_name(base.name.replace("ooi", "ood")), quality)
    v, u = np.mgrid[-12:13, -12:13]
    stamp = np.exp(-0.5 * (u**2 + v**2) / 2.0**2)
    psf = Table(
        {
            "psf_mask": (0.98 * stamp / stamp.sum())[None, None].astype(np.float32),
            "poldeg1": [0], "polzero1": [1.0], "polzero2": [1.0], "polscal1": [1.0],
            "polscal2": [1.0], "psf_samp": [1.0], "ccdname": ["S10"], "expnum": [390924],
        }
    )  # fmt: skip
    merged = tmp_path / "calib/psfex/decam/CP/c4d_141224_033245_ooi_r_ls9-psfex.fits"
    merged.parent.mkdir(parents=True)
    psf.write(merged)
    Table(
        {
            "camera": ["decam"], "expnum": [390924], "ccdname": ["S10"], "ccdzpt": [ZERO_POINT],
            "ccdphrms": [0.02], "ccdnphotom": [100], "ccdraoff": [0.1], "ccddecoff": [-0.2],
            "ccd_cuts": [0],
        }
    ).write(tmp_path / "survey-ccds-1.fits.gz", format="fits")  # fmt: skip
    return tmp_path, base


def read(folder, **kwargs):
    root, base = folder
    return read_headers(base).read(21, SurveyFolder(root), **kwargs)


def test_a_calibrated_exposure(folder):
    exposure, background = read(folder, options=BackgroundOptions(box=32))
    planes = exposure.planes
    assert (exposure.info.visit, exposure.info.detector, exposure.info.band) == (390924, 21, "r")
    # 80 x 96 pixels of noise 8.7 counts.
    assert np.median(planes.image) == pytest.approx(0.0, abs=3.0)
    assert np.median(background.mesh) == pytest.approx(SKY * GAIN, rel=5e-3)
    assert np.nanmedian(planes.variance) == pytest.approx(SKY * GAIN, rel=0.02)
    # The peak's own photons explain its low weight: it stays.
    assert planes.mask[40, 30] == 0
    assert planes.mask[20, 20] == planes.mask[21, 21] == int(MaskPlane.BAD)
    assert planes.mask[10, 10] == int(MaskPlane.SAT)
    assert planes.mask[11, 11] == int(MaskPlane.CR)
    # One count a second in 90 s is 90 counts or 360 electrons.
    flux = exposure.photo_calib.mean * 90.0 * GAIN
    assert flux == pytest.approx(3631e9 * 10 ** (-0.4 * ZERO_POINT), rel=1e-6)
    assert exposure.photo_calib.mean_err / exposure.photo_calib.mean == pytest.approx(
        0.002 * np.log(10) / 2.5, rel=1e-6
    )
    ra, dec = exposure.wcs.pixel_to_sky(x=39.0, y=47.0)
    assert (ra - 28.4) * 3600 * np.cos(np.radians(16.4)) == pytest.approx(0.1, abs=1e-4)
    assert (dec + 16.4) * 3600 == pytest.approx(-0.2, abs=1e-4)
    assert exposure.psf.draw(x=[5.0], y=[5.0]).sum() == pytest.approx(1.0, abs=1e-5)
    assert exposure.summary["psfSigma"] == pytest.approx(2.0, rel=0.01)


def test_a_sky_file_is_restored_exactly(folder):
    root, base = folder
    x, y = np.arange(-10, 120, 20), np.arange(-10, 120, 20)
    level = SKY + 0.02 * x[None, :] - 0.01 * y[:, None] + 2e-4 * x[None, :] ** 2
    sky = Table(
        {
            "gridvals": level[None].astype(np.float32), "xgrid": x[None], "ygrid": y[None],
            "x0": [3], "y0": [0], "order": [3], "ccdname": ["S10"], "expnum": [390924],
        }
    )  # fmt: skip
    path = root / "calib/sky-single/decam/CP" / base.name.removesuffix(".fits")
    path.mkdir(parents=True)
    sky.write(path / f"{path.name}-S10-splinesky.fits")
    exposure, background = read(folder)
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = SKY + 0.02 * (u + 3) - 0.01 * v + 2e-4 * (u + 3.0) ** 2
    # The mesh follows the spline to a small part of the noise of 9 counts.
    assert np.abs(background.evaluate() / GAIN - expected).max() < 0.1
    with fits.open(base) as hdus:
        restored = exposure.planes.image + background.evaluate()
        np.testing.assert_allclose(restored / GAIN, hdus[1].data, rtol=1e-5)


def test_what_is_missing_is_said(folder):
    root, base = folder
    (root / "calib/psfex/decam/CP/c4d_141224_033245_ooi_r_ls9-psfex.fits").unlink()
    with pytest.raises(MissingInputError, match="no PSFEx model"):
        read(folder)
    (root / "survey-ccds-1.fits.gz").unlink()
    with pytest.raises(MissingInputError, match="no zero point"):
        read(folder)
    base.with_name(base.name.replace("ooi", "oow")).unlink()
    with pytest.raises(MissingInputError, match="no weight beside it"):
        read(folder)
    with pytest.raises(MissingInputError, match="no folder"):
        SurveyFolder(root / "nothing")


def test_a_weight_of_another_shape(folder):
    _, base = folder
    write(base.with_name(base.name.replace("ooi", "oow")), np.ones((50, 50), np.float32))
    with pytest.raises(DataError, match="shape"):
        read(folder)


def test_all_pixels_masked(folder):
    _, base = folder
    write(base.with_name(base.name.replace("ooi", "oow")), np.zeros(SHAPE, np.float32))
    with pytest.raises(DataError, match="masked or have no weight"):
        read(folder)


def test_codes_and_bits():
    quality = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 99]])
    planes = MaskPlane
    codes = community_mask(quality, codes=True)[0]
    assert codes[0] == 0
    assert codes[2] == int(planes.NO_DATA)
    assert codes[3] == codes[4] == int(planes.SAT)
    assert codes[5] == codes[7] == int(planes.CR)
    assert codes[8] & int(planes.STREAK)
    assert codes[9] == int(planes.BAD)
    bits = community_mask(np.array([[0, 3, 64, 1 << 20]]), codes=False)[0]
    assert bits.tolist() == [0, int(planes.BAD | planes.SAT), int(planes.SAT), int(planes.BAD)]


def test_names_of_images():
    assert is_community_image("a/c4d_141224_033245_ooi_r_a1.fits.fz")
    assert is_community_image("c4d_141224_033245_ooi_r_ls9.S10.fits")
    assert not is_community_image("c4d_141224_033245_oow_r_a1.fits.fz")
    assert not is_community_image("c4d_141224_033245_ooi_r_ls9-S10-psfex.fits")
    assert not is_community_image("k4m_160319_075112_ooi_zd_ls9.fits")

"""CCDs of the three cameras of the surveys: quality bits, weights, parts, faults."""

import numpy as np
import pytest
from astropy.io import fits

from skymill.data.errors import ConfigError, DataError, MissingInputError
from skymill.instruments.community_ccd import list_ccds, read_ccd, read_ccd_header, release_quality
from skymill.instruments.survey_camera import SURVEY_CAMERAS, camera_of_file, survey_camera


def test_codes_become_bits_of_the_releases():
    codes = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]])
    decam = release_quality(codes, camera=survey_camera("decam"), plver="V4.8.2a")
    expected = [[0, 1, 1 | 2, 2], [64, 16, 1, 128], [0, 1, 0, 0]]
    # Code 2 touches the saturated pixel but is no rim: only code 1 is.
    expected[0][2] = 1
    np.testing.assert_array_equal(decam, expected)
    bok = release_quality(codes, camera=survey_camera("90prime"), plver="V2.3")
    # 90prime has codes in every version.
    assert (bok[1, 0], bok[1, 3]) == (64, 0)
    mosaic = release_quality(codes, camera=survey_camera("mosaic"), plver="V4.3")
    assert (mosaic[1, 3], mosaic[2, 0]) == (0, 0)


def test_the_rim_of_a_saturated_core_is_saturated():
    codes = np.zeros((5, 5), int)
    codes[2, 2], codes[2, 3], codes[0, 0] = 3, 1, 1
    bits = release_quality(codes, camera=survey_camera("decam"), plver="V4.9")
    assert (bits[2, 2], bits[2, 3], bits[0, 0]) == (2, 1 | 2, 1)


def test_old_bits_and_confused_cosmic_rays():
    camera = survey_camera("decam")
    codes = np.array([[1, 2, 3, 4, 16, 64, 8]])
    old = release_quality(codes, camera=camera, plver="V3.2.1")
    np.testing.assert_array_equal(old, [[1, 2, 1, 4, 16, 64, 1]])
    assert release_quality(np.array([[5]]), camera=camera, plver="V4.4")[0, 0] == 0
    assert release_quality(np.array([[5]]), camera=camera, plver="V4.8")[0, 0] == 16


@pytest.mark.parametrize("camera", SURVEY_CAMERAS)
def test_facts_of_a_camera_are_complete(camera):
    facts = survey_camera(camera)
    assert set(facts.zero_points) == set(facts.extinction)
    assert set(facts.ps1_colour_terms) <= set(facts.zero_points)
    assert facts.gain({}) == facts.typical_gain
    assert camera_of_file(f"{facts.prefix}_150101_000000_ooi_r_v1.fits.fz") == facts


def test_names_and_numbers_of_headers():
    bok, mosaic, decam = (survey_camera(n) for n in ("bok", "mosaic3", "decam"))
    assert bok.exposure_number({"DTACQNAM": "/x/d7873.0103.fits"}) == 78730103
    assert mosaic.exposure_number({"DTACQNAM": "/x/mos3.77690.fits"}) == 77690
    assert decam.exposure_number({"EXPNUM": 432164}) == 432164
    with pytest.raises(DataError, match="no exposure number"):
        decam.exposure_number({})
    assert bok.band({"FILTER": "bokr"}) == "r"
    assert mosaic.band({"FILTER": "zd DECam k1038"}) == "z"
    assert decam.band({"FILTER": "g DECam SDSS c0001 4720.0 1520.0"}) == "g"
    assert decam.gain({"GAINA": 4.0, "GAINB": 4.2}) == pytest.approx(4.1)
    with pytest.raises(ConfigError, match="camera must be one of"):
        survey_camera("hsc")
    with pytest.raises(DataError, match="no community-processed image"):
        camera_of_file("raw.fits")


def _case(shared_data, camera):
    return next((shared_data / "cutouts/mzlsbass2/images" / camera).rglob("*_ooi_*.fits"))


def test_weights_of_the_northern_cameras_know_the_sources(shared_data):
    path = _case(shared_data, "mosaic")
    bare = read_ccd(path, hdu=1, source_photons=False)
    full = read_ccd(path, hdu=1)
    source = np.abs(full.image - full.info.header["SKYADU1"]) / full.info.exptime
    good = bare.weight > 0
    np.testing.assert_allclose(
        1 / full.weight[good], 1 / bare.weight[good] + source[good], rtol=1e-4
    )


def test_a_part_equals_the_whole_there(shared_data):
    path = _case(shared_data, "90prime")
    whole, part = read_ccd(path, ccd="CCD4"), read_ccd(path, ccd="ccd4", box=(-5, 40, 100, 500))
    assert (part.x0, part.y0, part.image.shape) == (0, 100, (19, 40))
    np.testing.assert_array_equal(part.image, whole.image[100:, :40])
    with pytest.raises(DataError, match="lies outside"):
        read_ccd(path, ccd="CCD4", box=(500, 600, 0, 10))


def test_offsets_move_the_positions(shared_data):
    info = read_ccd_header(_case(shared_data, "mosaic"), hdu=1)
    ra, dec = info.wcs().pixel_to_sky(x=[50.0], y=[60.0])
    # The reference point moves; at the CCD, 0.1 degree away near dec 60, it is 1 percent less.
    moved = info.wcs(ra_offset=1.0, dec_offset=-2.0).pixel_to_sky(x=[50.0], y=[60.0])
    assert (moved[0] - ra)[0] * np.cos(np.radians(dec[0])) * 3600 == pytest.approx(1.0, abs=0.02)
    assert (moved[1] - dec)[0] * 3600 == pytest.approx(-2.0, abs=0.01)


def test_faults_are_one_sentence(shared_data, tmp_path):
    path = _case(shared_data, "mosaic")
    with pytest.raises(DataError, match="has no CCD CCD9; it has CCD3"):
        read_ccd(path, ccd="CCD9")
    with pytest.raises(MissingInputError, match="there is no file"):
        list_ccds(tmp_path / "k4m_160319_075112_ooi_zd_ls9.fits")
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    with pytest.raises(MissingInputError, match="no weight beside it"):
        read_ccd(copy, hdu=1)
    for kind in "wd":
        other = path.with_name(path.name.replace("_ooi_", f"_oo{kind}_"))
        (tmp_path / other.name).write_bytes(other.read_bytes())
    assert read_ccd(copy, hdu=1).image.shape == (208, 204)
    weight = tmp_path / path.name.replace("_ooi_", "_oow_")
    with fits.open(weight) as hdus:
        small = fits.ImageHDU(hdus[1].data[:50], header=hdus[1].header)
        fits.HDUList([hdus[0], small]).writeto(tmp_path / "small.fits")
    weight.write_bytes((tmp_path / "small.fits").read_bytes())
    with pytest.raises(DataError, match=r"the weight of .* has the shape"):
        read_ccd(copy, hdu=1)
    copy.write_bytes(copy.read_bytes()[:20000])
    with pytest.raises(DataError, match="truncated"):
        list_ccds(copy)


def test_a_damaged_tile_is_told(shared_data, tmp_path):
    path = _case(shared_data, "mosaic")
    for kind in "iwd":
        source = path.with_name(path.name.replace("_ooi_", f"_oo{kind}_"))
        target = tmp_path / f"{source.name}.fz"
        with fits.open(source) as hdus:
            data = hdus[1].data.astype(np.int16 if kind == "d" else np.float32)
            packed = fits.CompImageHDU(data, hdus[1].header, compression_type="RICE_1")
            fits.HDUList([hdus[0], packed]).writeto(target)
    image = tmp_path / f"{path.name}.fz"
    assert read_ccd(image, ccd="CCD3").image.shape == (208, 204)
    content = bytearray(image.read_bytes())
    content[-30000:-3000] = bytes(27000)
    image.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"CCD3 cannot be read \(truncated or damaged\)"):
        read_ccd(image, ccd="CCD3")

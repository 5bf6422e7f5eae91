"""Colour pictures and the picture of a sky map."""

import io

import numpy as np
import pytest
from PIL import Image

from skymill.coadd.skymap import SkyMap
from skymill.data.errors import ConfigError, DataError
from skymill.qa.pictures import PictureOptions, color_rgb, data_rectangle, draw_sky_map, encode_png


def sky(rng, shape=(60, 80)):
    return rng.normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("style", ["lupton", "asinh"])
def test_a_red_object_is_red_and_north_is_up(style):
    rng = np.random.default_rng(1)
    red, green, blue = sky(rng), sky(rng), sky(rng)
    red[50:53, 10:13] += 300
    green[50:53, 10:13] += 100
    rgb = color_rgb(red, green, blue, options=PictureOptions(style=style))
    assert rgb.shape == (60, 80, 3)
    pixel = rgb[59 - 51, 11].astype(int)
    assert pixel[0] > pixel[2] + 30
    assert rgb[40, 60].max() < 120


def test_lupton_keeps_the_colour_of_bright_pixels():
    rng = np.random.default_rng(2)
    planes = [sky(rng) for _ in range(3)]
    for k, factor in enumerate((2.0, 1.0, 0.5)):
        planes[k][10, 10] = 1e3 * factor
        planes[k][20, 20] = 1e5 * factor
    rgb = color_rgb(*planes, bands=("x", "x", "x"))
    a, b = (rgb[59 - k, k].astype(float) for k in (10, 20))
    # Integers of a byte: two per cent.
    np.testing.assert_allclose(a / a.max(), b / b.max(), atol=0.03)


def test_nan_is_black_and_all_nan_is_no_error():
    rng = np.random.default_rng(3)
    planes = [sky(rng) for _ in range(3)]
    for p in planes:
        p[:, :40] = np.nan
    rgb = color_rgb(*planes)
    assert (rgb[:, :40] == 0).all()
    void = np.full((5, 5), np.nan, np.float32)
    assert (color_rgb(void, void, void) == 0).all()


def test_saturated_cores_are_white():
    rng = np.random.default_rng(5)
    planes = [sky(rng) for _ in range(3)]
    planes[0][20:40, 20:40] = 300.0  # A red halo around a core without red light.
    planes[0][27:33, 27:33] = 0.0
    white = np.zeros((60, 80), np.float32)
    white[27:33, 27:33] = 1.0
    white[45, :] = 1.0  # A bleed trail across the sky.
    rgb = color_rgb(*planes, white=white)[::-1]
    assert rgb[26:34, 27:33].min() > 200
    assert rgb[45].mean() < 60
    assert rgb[21, 21, 0] > rgb[21, 21, 2] + 30
    assert (rgb[5:15] == color_rgb(*planes)[::-1][5:15]).all()


def test_png_can_be_read_again():
    rgb = np.random.default_rng(4).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(rgb))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), rgb)


def test_the_sky_map_has_its_picture():
    skymap = SkyMap.discrete("m", 10.0, 5.0, 0.25, tract_overlap=0.0, patch_inner=2000)
    png = draw_sky_map(skymap.tract(0), ra=[[9.9, 10.1, 10.1, 9.9]], dec=[[4.9, 4.9, 5.1, 5.1]])
    assert png.startswith(b"\x89PNG")


def test_bad_input_has_its_sentence():
    with pytest.raises(DataError, match="one shape"):
        color_rgb(np.zeros((2, 2), "f4"), np.zeros((2, 3), "f4"), np.zeros((2, 2), "f4"))
    with pytest.raises(ConfigError, match="style"):
        PictureOptions(style="hdr")


def test_a_missing_band_is_grey_and_the_rest_is_cropped():
    rng = np.random.default_rng(5)
    red, green, blue = rng.normal(0, 1, (3, 40, 50)).astype(np.float32)
    red[:, 30:] = np.nan
    for plane in (red, green, blue):
        plane[:5] = plane[:, :10] = np.nan
    rgb = color_rgb(red, green, blue)
    grey = rgb[:35, 30:]
    assert (grey == grey[..., :1]).all()
    assert (rgb[35:] == 0).all()
    assert data_rectangle([red, green, blue]) == (slice(5, 40), slice(10, 50))
    empty = np.full((3, 4), np.nan, np.float32)
    assert data_rectangle([empty]) == (slice(None), slice(None))

"""An image as a picture: its pixels, its mask and its sources are where they are."""

import io

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.qa.image_view import draw_image


def pixels(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_mask_and_sources_are_drawn_over_the_pixels():
    rng = np.random.default_rng(1)
    image = rng.normal(0, 1, (300, 400)).astype(np.float32)
    image[0, 0] = np.nan
    mask = np.zeros(image.shape, np.int32)
    plain = pixels(draw_image(image, mask, unit="nJy"))
    # Grey only, but for the white of NaN and the black of letters, which are grey too.
    assert np.ptp(plain, axis=2).max() == 0
    mask[100:200, 100:200] = MaskPlane.SAT
    drawn = pixels(draw_image(image, mask, unit="nJy"))
    yellow = (drawn[..., 0] > drawn[..., 2] + 60) & (drawn[..., 1] > drawn[..., 2] + 60)
    # A twelfth of the image, which is most of the picture.
    assert 0.03 < yellow.mean() < 0.15
    sources = Table({"x": [1050.0, 9e9, np.nan], "y": [2050.0, 5.0, 1.0]})
    found = pixels(draw_image(image, None, origin=(1000, 2000), sources=sources))
    green = (found[..., 1] > found[..., 0] + 60) & (found[..., 1] > found[..., 2] + 60)
    assert green.any()


def test_a_large_image_is_averaged_and_a_thin_defect_stays():
    image = np.zeros((2500, 1300), np.float32)
    mask = np.zeros(image.shape, np.int32)
    mask[:, 650] = MaskPlane.BAD
    content = draw_image(image, mask)
    drawn = pixels(content)
    assert max(drawn.shape) < 2000
    red = (drawn[..., 0] > drawn[..., 1] + 60) & (drawn[..., 0] > drawn[..., 2] + 60)
    assert red.any(axis=1).mean() > 0.5


def test_what_is_no_image_is_said():
    with pytest.raises(DataError, match="only images of two dimensions"):
        draw_image(np.zeros((2, 3, 4)))
    assert draw_image(np.full((5, 5), np.nan)).startswith(b"\x89PNG")

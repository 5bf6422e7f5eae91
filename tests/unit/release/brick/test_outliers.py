"""What only one exposure shows is masked; stars are not."""

from __future__ import annotations

import numpy as np
import pytest
from brick_scenes import exposure, grid

from skymill.model.fit_image import FitImage
from skymill.release.brick.bits import Quality
from skymill.release.brick.mapping import map_pixels
from skymill.release.brick.outliers import (
    OUTLIER_NEGATIVE,
    OUTLIER_POSITIVE,
    find_outliers,
    mask_outliers,
)
from skymill.release.brick.reference_sources import empty_references

STARS = [(20.0, 20.0, 40.0), (60.0, 58.0, 400.0)]


def _exposures(n: int) -> list[FitImage]:
    return [exposure(STARS, seed=k, number=k, sigma=1.8 + 0.1 * k) for k in range(n)]


def _find(images: list[FitImage]) -> list[np.ndarray]:
    own = grid()
    references = empty_references()
    references["x"] = references["y"] = np.empty(0)
    return find_outliers(images, own, [map_pixels(im, own) for im in images], references)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_a_trail_in_one_exposure_is_masked_there(n: int) -> None:
    images = _exposures(n)
    images[1].image[40, 10:70] += 2.0
    masks = _find(images)
    assert (masks[1][40, 12:68] == OUTLIER_POSITIVE).all()
    assert (masks[1] == OUTLIER_POSITIVE).mean() < 0.25
    others = [m for k, m in enumerate(masks) if k != 1]
    # A difference relative to the brighter one is never larger than one: the other stays.
    assert all((m == 0).all() for m in others)


def test_stars_of_different_seeing_stay() -> None:
    for mask in _find(_exposures(4)):
        assert (mask == 0).all()


def test_a_hole_is_a_negative_outlier() -> None:
    images = _exposures(4)
    images[2].image[30:34, 30:60] -= 2.0
    for image in images:
        image.image += 0.0
    masks = _find(images)
    assert (masks[2][31:33, 32:58] == OUTLIER_NEGATIVE).all()


def test_one_exposure_alone_has_no_outliers() -> None:
    images = _exposures(1)
    images[0].image[40] += 5
    assert not _find(images)[0].any()


def test_saturated_pixels_are_left_to_their_own_bit() -> None:
    images = _exposures(3)
    images[0].image[55:62, 56:64] += 50.0
    for image in images:
        image.quality[56:61, 57:63] = int(Quality.SATUR)
        image.inverse_error[56:61, 57:63] = 0
    assert not _find(images)[0].any()


def test_masking_takes_the_weight_and_sets_the_bit() -> None:
    image = exposure(STARS)
    mask = np.zeros((80, 80), np.uint8)
    mask[5, 6] = OUTLIER_POSITIVE
    mask_outliers(image, mask)
    assert image.inverse_error[5, 6] == 0
    assert image.quality[5, 6] == Quality.OUTLIER
    assert (image.inverse_error > 0).sum() == 6399

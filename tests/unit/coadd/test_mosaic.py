"""Mosaics: each pixel from the patch that owns it."""

import numpy as np
import pytest

from skymill.coadd.mosaic import (
    MosaicPart,
    assemble_mosaic,
    bin_image,
    bin_mask,
    central_patches,
    drop_wide_gaps,
    mosaic_box,
)
from skymill.coadd.skymap import SkyMap
from skymill.data.errors import NoDataError
from skymill.data.images import Box
from skymill.data.masks import MaskPlane

TRACT = SkyMap.discrete(
    "m", 10.0, 5.0, 0.01, tract_overlap=0.0, patch_inner=100, patch_border=10
).tract(0)


def coadd(patch):
    y, x = np.mgrid[
        patch.outer_box.y0 : patch.outer_box.y1, patch.outer_box.x0 : patch.outer_box.x1
    ]
    image = (1000.0 * y + x).astype(np.float32)
    mask = np.zeros(image.shape, np.int32)
    # What lies in the border must come from the neighbour.
    inner = patch.inner_box.slices(within=patch.outer_box)
    border = np.ones(image.shape, bool)
    border[inner] = False
    image[border] = -1.0
    return MosaicPart(image, mask, patch.outer_box, patch.inner_box)


def test_every_pixel_is_its_own():
    coadds = [coadd(p) for p in TRACT.patches]
    coadds[0].mask[5, 5] = int(MaskPlane.NO_DATA)
    image, mask = assemble_mosaic(coadds, TRACT.box)
    y, x = np.mgrid[: TRACT.box.y1, : TRACT.box.x1]
    wanted = (1000.0 * y + x).astype(np.float32)
    wanted[5, 5] = np.nan
    np.testing.assert_array_equal(image, wanted)
    assert mask[5, 5] == int(MaskPlane.NO_DATA)


def test_missing_patches_are_void():
    patches = [TRACT.patch(0), TRACT.patch(TRACT.n_x + 1)]
    box = mosaic_box(patches)
    assert box == Box(x0=0, y0=0, x1=200, y1=200)
    image, mask = assemble_mosaic([coadd(p) for p in patches], box)
    assert np.isnan(image[:100, 100:]).all()
    assert (mask[:100, 100:] == int(MaskPlane.NO_DATA)).all()
    with pytest.raises(NoDataError, match="at least one"):
        mosaic_box([])


def test_central_patches_of_the_published_tract():
    tract = SkyMap.discrete("m", 10.0, 5.0, 0.7).tract(0)
    assert [p.index for p in central_patches(tract, 2)] == [65, 66, 77, 78]
    chosen = central_patches(tract, 6)
    assert len(chosen) == 36
    assert (min(p.ix for p in chosen), max(p.iy for p in chosen)) == (3, 8)
    assert len(central_patches(tract, 0)) == 144
    assert len(central_patches(TRACT, 99)) == TRACT.n_x * TRACT.n_y


def test_binning_leaves_out_nan():
    image = np.arange(25, dtype=np.float32).reshape(5, 5)
    image[0, 0] = np.nan
    out = bin_image(image, 2)
    np.testing.assert_allclose(out, [[4.0, 5.0], [13.0, 15.0]])
    assert np.isnan(bin_image(np.full((4, 4), np.nan, np.float32), 2)).all()
    assert bin_image(image, 1) is image


def test_shares_of_masked_pixels_and_wide_gaps():
    rng = np.random.default_rng(1)
    mask = (rng.uniform(size=(31, 20)) < 0.3).astype(np.int32) * int(MaskPlane.SAT)
    mask |= (rng.uniform(size=(31, 20)) < 0.3).astype(np.int32) * int(MaskPlane.BAD)
    wanted = (mask[:30] & int(MaskPlane.SAT) > 0).reshape(10, 3, 20)[:, :, :18]
    wanted = wanted.reshape(10, 3, 6, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(bin_mask(mask, MaskPlane.SAT, 3), wanted, rtol=1e-6)
    image, share = np.ones((40, 40), np.float32), np.zeros((40, 40), np.float32)
    share[:, 8] = share[:, 9] = 1.0  # A bridged column stays.
    share[20:, 20:] = 1.0
    void = np.isnan(drop_wide_gaps(image, share))
    assert not void[:, :15].any()
    assert void[25:, 25:].all()
    assert not void[:15, 15:].any()

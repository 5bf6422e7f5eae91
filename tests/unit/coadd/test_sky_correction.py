"""The sky of a focal plane: gradients go, the outskirts of a large galaxy stay."""

import numpy as np
import pytest

from skymill.coadd.sky_correction import (
    FocalPlaneModel,
    MaskObjectsOptions,
    ModelOptions,
    correct_sky,
    sample_sky,
)
from skymill.data.errors import ConfigError, NoDataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.measure.background import BackgroundList, BackgroundOptions, estimate_background

SHAPE = (512, 512)
PIXEL = 0.015  # mm


def plane(image, noise=5.0):
    return PixelPlanes(
        image.astype(np.float32),
        np.full(image.shape, noise**2, np.float32),
        np.zeros(image.shape, np.int32),
    )


def focal_plane(n=3):
    """Corners (x, y) in pixels of n x n CCDs with gaps."""
    return {k: ((k % n) * 560.0, (k // n) * 560.0) for k in range(n * n)}


def positions(samples, corners):
    out = {}
    for detector, sample in samples.items():
        x, y = sample.centres()
        out[detector] = (x + corners[detector][0]) * PIXEL, (y + corners[detector][1]) * PIXEL
    return out


def test_a_gradient_is_removed_and_a_halo_kept():
    rng = np.random.default_rng(1)
    corners = focal_plane()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    samples, before, images, halos = {}, {}, {}, {}
    for k, (x0, y0) in corners.items():
        sky = 1000.0 + 0.02 * (x + x0) - 0.01 * (y + y0)
        radius = np.hypot(x + x0 - 840, y + y0 - 840)
        halo = 40.0 * np.exp(-radius / 90.0)
        planes = plane(sky + halo + rng.normal(0, 5, SHAPE))
        own = BackgroundList(
            [estimate_background(planes.image, planes.mask, options=BackgroundOptions(box=128))]
        )
        planes.image -= own.evaluate()
        images[k], halos[k], before[k] = planes, halo, own
        samples[k] = sample_sky(planes, own.evaluate(), options=MaskObjectsOptions(binning=32))
    models = (ModelOptions(size=61.44), ModelOptions(size=3.84, minFrac=0.3, smoothScale=1.0))
    out = correct_sky(samples, positions(samples, corners), models=models, before=before)
    assert set(out) == set(corners)
    assert len(out[0]) == 3
    central = images[4].image - out[4].evaluate()
    ring = (halos[4] > 4) & (halos[4] < 12)
    # The CCD's own background takes most of the faint halo; the focal plane keeps it.
    assert images[4].image[ring].mean() < 0.4 * halos[4][ring].mean()
    assert central[ring].mean() > 0.6 * halos[4][ring].mean()
    for k in (0, 2, 6, 8):
        corrected = images[k].image - out[k].evaluate()
        # A residual of 0.2 per cent of the sky, once the halo's own light is taken away.
        assert abs((corrected - halos[k]).mean()) < 2.0


def test_masked_pixels_do_not_count():
    rng = np.random.default_rng(2)
    planes = plane(100 + rng.normal(0, 5, SHAPE))
    planes.image[100:200, 100:200] = 1e5
    planes.mask[100:200, 100:200] = int(MaskPlane.DETECTED)
    planes.image[300, 300] = np.nan
    sample = sample_sky(planes)
    assert np.nanmax(np.abs(sample.level - 100)) < 2.0
    assert sample.fraction[2, 2] == 0.0
    assert np.isnan(sample.level[2, 2])


def test_plain_noise_loses_few_blocks():
    rng = np.random.default_rng(3)
    sample = sample_sky(plane(rng.normal(0, 5, SHAPE)))
    assert sample.fraction.mean() > 0.97


def test_a_model_is_exact_for_a_constant_and_fills_gaps():
    sample = sample_sky(plane(np.full(SHAPE, 7.0)))
    model = FocalPlaneModel.fit(
        {0: sample}, {0: tuple(c * PIXEL for c in sample.centres())}, ModelOptions(size=1.0)
    )
    x = np.linspace(-3, 12, 20)
    np.testing.assert_allclose(model.evaluate(x=x, y=x[::-1]), 7.0, rtol=1e-6)


def test_no_sky_at_all():
    planes = plane(np.zeros(SHAPE))
    planes.mask[:] = int(MaskPlane.BAD)
    sample = sample_sky(planes)
    with pytest.raises(NoDataError, match="all pixels are masked"):
        correct_sky({0: sample}, {0: sample.centres()}, models=(ModelOptions(),))
    with pytest.raises(ConfigError, match="size"):
        ModelOptions(size=0.0)

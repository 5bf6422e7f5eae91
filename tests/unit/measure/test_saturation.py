"""Saturated stars: one peak each, and a centre from the light around the core."""

import numpy as np
import pytest

from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.measure.deblend import deblend_sources
from skymill.measure.detection import detect_sources
from skymill.measure.objects import measure_objects
from skymill.measure.patch import COADD_DETECTION
from skymill.measure.saturation import fill_saturated, fit_centres
from skymill.psf.models import ConstantPsf

SAT = int(MaskPlane.SAT | MaskPlane.INTRP)
PSF = ConstantPsf.gaussian(1.6, size=41)
TRUTH_X, TRUTH_Y, FLUX, FULL = 60.3, 58.8, 2e5, 1500.0


def saturated_star(trail=True):
    """A star whose core holds what was interpolated across it, as in a coadd."""
    rng = np.random.default_rng(1)
    v, u = np.mgrid[:120, :120]
    image = FLUX / (2 * np.pi * 1.6**2)
    image = image * np.exp(-0.5 * ((u - TRUTH_X) ** 2 + (v - TRUTH_Y) ** 2) / 1.6**2)
    core = image > FULL
    if trail:
        core |= (np.abs(v - TRUTH_Y) < 1.5) & (np.abs(u - TRUTH_X) < 25)
    image = np.where(core, 300.0, image) + rng.normal(0, 1, image.shape)
    mask = np.where(core, SAT, 0).astype(np.int32)
    return PixelPlanes(image.astype(np.float32), np.ones(image.shape, np.float32), mask, "nJy")


@pytest.mark.parametrize("trail", [False, True])
def test_one_peak_for_a_saturated_star(trail):
    planes = saturated_star(trail)
    arrays = (planes.image, planes.variance, planes.mask)
    filled = fill_saturated(planes.image, planes.mask)
    y, x = np.unravel_index(np.argmax(filled), filled.shape)
    assert np.hypot(x - TRUTH_X, y - TRUTH_Y) < 1.5
    core = (planes.mask & SAT) != 0
    assert (filled[~core] == planes.image[~core]).all()
    found = detect_sources(*arrays, psf_sigma=1.6, options=COADD_DETECTION)
    near = np.hypot(found.x - TRUTH_X, found.y - TRUTH_Y) < 8
    assert np.count_nonzero(near) == 1
    assert np.hypot(found.x - TRUTH_X, found.y - TRUTH_Y)[near][0] < 1.5


def test_two_cores_on_one_trail_are_two_peaks():
    image = np.full((60, 120), 10.0, np.float32)
    mask = np.zeros(image.shape, np.int32)
    v, u = np.mgrid[:60, :120]
    for x in (30, 90):
        mask[np.hypot(u - x, v - 30) < 6] = SAT
    mask[29:32, 30:90] = SAT
    filled = fill_saturated(image, mask)
    assert filled[30, 30] > filled[30, 45]
    assert filled[30, 90] > filled[30, 75]


def test_nothing_saturated_is_no_copy():
    image = np.zeros((5, 5), np.float32)
    assert fill_saturated(image, np.zeros((5, 5), np.int32)) is image


def test_flux_and_place_come_from_the_wings():
    planes = saturated_star()
    found = detect_sources(
        planes.image, planes.variance, planes.mask, psf_sigma=1.6, options=COADD_DETECTION
    )
    children = deblend_sources(
        planes.image[None], planes.variance[None], found.labels, x=found.x, y=found.y, bands=("r",)
    )
    table = measure_objects(
        planes, psf=PSF, psf_sigma=1.6, children=children, band="r", x=found.x, y=found.y,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    k = int(np.argmin(np.hypot(table["x"] - TRUTH_X, table["y"] - TRUTH_Y)))
    # The PSF is exact here: only the noise of the pixels around the core is left.
    assert np.hypot(table["x"][k] - TRUTH_X, table["y"][k] - TRUTH_Y) < 0.05
    assert table["psfFlux"][k] == pytest.approx(FLUX, rel=0.02)
    for name in ("psfFlux", "cModelFlux", "kronFlux"):
        assert table[f"{name}_flags"][k] & int(MeasureFlag.SATURATED)
    assert table["centroid_flags"][k] & int(MeasureFlag.SATURATED)


def test_no_pixels_is_no_centre():
    planes = saturated_star()
    good = np.zeros(planes.shape, bool)
    point = np.array([60.0])
    dx, dy, dx_err, _, done = fit_centres(
        planes.image, planes.variance, good, x=point, y=point, stamp_x=point, stamp_y=point, psf=PSF
    )
    assert not done[0]
    assert dx[0] == 0.0
    assert dy[0] == 0.0
    assert np.isnan(dx_err[0])

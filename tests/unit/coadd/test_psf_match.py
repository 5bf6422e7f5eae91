"""PSF matching against the model PSF, and its noise."""

import numpy as np
import pytest
from _sky import DEC, RA, make_exposure, tan_wcs

from skymill.coadd.psf_match import (
    MatchOptions,
    ModelPsfOptions,
    match_psf,
    matching_kernels,
    model_psf,
)
from skymill.coadd.warp import WarpOptions, warp_exposures
from skymill.data.errors import ConfigError, FitError
from skymill.data.images import Box
from skymill.data.masks import MaskPlane

SHAPE = (300, 300)
BOX = Box(x0=0, y0=0, x1=300, y1=300)
TRACT = tan_wcs(SHAPE)
PLAIN = WarpOptions(noise=False)


def moffat(fwhm, beta, stretch=0.0, size=41):
    axis = np.arange(size) - size // 2
    radius2 = axis[None, :] ** 2 * (1 + stretch) + axis[:, None] ** 2 * (1 - stretch)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    stamp = (1 + radius2 / alpha**2) ** -beta
    return (stamp / stamp.sum()).astype(np.float32)


def test_model_has_its_width():
    stamp = model_psf(61, model=ModelPsfOptions(wing_amplitude=0.0))
    half = stamp[30, 30:] / stamp.max()
    assert np.interp(-0.5, -half, np.arange(31)) * 2 == pytest.approx(7.7, abs=0.05)
    assert stamp.sum() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("fwhm", [3.5, 4.5, 6.0])
@pytest.mark.parametrize("beta", [2.5, 3.5, 50.0])
def test_kernels_reach_the_model(fwhm, beta):
    kernel, residual = matching_kernels(moffat(fwhm, beta, 0.1)[None])
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    # A kernel of 29 pixels cannot remove a Moffat's widest wings: 1 % of the peak.
    assert residual[0] < 0.01


def test_a_matched_star_is_the_model():
    stars = [(RA, DEC, 1e5)]
    exposure = make_exposure(tan_wcs(SHAPE, rotation=90.3, dx=0.2), SHAPE, stars=stars)
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    matched = match_psf(warp)
    assert matched.psf_matched
    assert matched.box == warp.box
    x, y = (float(v[0]) for v in TRACT.sky_to_pixel(ra=[RA], dec=[DEC]))
    i, j = round(x) - warp.box.x0, round(y) - warp.box.y0
    star = matched.planes.image[j - 12 : j + 13, i - 12 : i + 13] / 1e5
    model = matched.psf.draw(
        x=np.array([x]),
        y=np.array([y]),
        size=25,
        offset_x=np.array([x - round(x)]),
        offset_y=np.array([y - round(y)]),
    )[0]
    np.testing.assert_allclose(star, model, atol=0.01 * model.max())


def test_the_noise_of_a_matched_warp_has_pulls_of_width_one():
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(4):
        wcs = tan_wcs(SHAPE, rotation=90.4, dx=rng.uniform())
        exposure = make_exposure(wcs, SHAPE, noise=3.0, rng=rng)
        matched = match_psf(warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN))
        good = matched.planes.mask == 0
        pulls.append(matched.planes.image[good] / np.sqrt(matched.planes.variance[good]))
    # About 60 pixels are one independent value: 4000 of them tell the width to 1.2 %.
    assert np.concatenate(pulls).std() == pytest.approx(1.0, abs=0.04)


def test_holes_become_void_and_single_pixels_do_not():
    exposure = make_exposure(tan_wcs(SHAPE), SHAPE, level=5.0)
    exposure.planes.mask[100:140, 100:140] = int(MaskPlane.SAT)
    exposure.planes.mask[200, 200] = int(MaskPlane.CR)
    matched = match_psf(warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN))
    void = matched.planes.mask & int(MaskPlane.NO_DATA) != 0
    assert void[120, 120]
    assert not void[200, 200]
    # 5 electrons times 2 nJy.
    np.testing.assert_allclose(matched.planes.image[180:220, 180:220], 10.0, rtol=1e-4)


def test_no_psf_and_bad_options():
    warp = warp_exposures([make_exposure(tan_wcs(SHAPE), SHAPE)], wcs=TRACT, box=BOX, options=PLAIN)
    warp.psf.stamps[:] = np.nan
    with pytest.raises(FitError, match="no PSF"):
        match_psf(warp)
    with pytest.raises(ConfigError, match="odd"):
        MatchOptions(matchingKernelSize=28)
    with pytest.raises(ConfigError, match="defaultFwhm"):
        ModelPsfOptions(defaultFwhm=-1.0)

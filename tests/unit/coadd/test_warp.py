"""Warps against the closed form: stars, constant sky, noise, masks, PSF."""

import numpy as np
import pytest
from _sky import DEC, RA, SIGMA, decam_wcs, make_exposure, tan_wcs

from skymill.coadd._warp_kernels import evaluate_weights
from skymill.coadd.interpolation import weight_polynomials
from skymill.coadd.warp import CellGrid, WarpOptions, footprint, warp_exposures
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.images import Box
from skymill.data.masks import MaskPlane
from skymill.data.photometry import FluxScale

SHAPE = (300, 300)
TRACT = tan_wcs(SHAPE)
BOX = Box(x0=0, y0=0, x1=300, y1=300)
PLAIN = WarpOptions(noise=False)


def mapping(ccd, tract, x, y):
    """CCD position of a tract position, and the Jacobian d(CCD)/d(tract) there."""
    xs = np.array([x, x - 0.5, x + 0.5, x, x])
    ys = np.array([y, y, y, y - 0.5, y + 0.5])
    ra, dec = tract.pixel_to_sky(x=xs, y=ys)
    u, v = ccd.sky_to_pixel(ra=ra, dec=dec)
    return (u[0], v[0]), np.array([[u[2] - u[1], u[4] - u[3]], [v[2] - v[1], v[4] - v[3]]])


@pytest.mark.parametrize("order", [3, 5])
def test_weights_reproduce_quadratics_and_stay_near_lanczos(order):
    fraction = np.zeros(128)
    fraction[:6] = [0.0, 0.25, 0.5, 0.999, 1e-7, 0.8]
    weights = np.empty(2 * order * 128, np.float32)
    evaluate_weights(fraction, 6, weight_polynomials(order), weights)
    for i in range(6):
        w = weights.reshape(-1, 128)[:, i].astype(float)
        d = fraction[i] - np.arange(1 - order, order + 1)
        lanczos = np.sinc(d) * np.sinc(d / order) * (np.abs(d) < order)
        # The polynomials' error of 3e-7 times the squared distance.
        np.testing.assert_allclose([w.sum(), w @ d, w @ d**2], [1, 0, 0], atol=1e-5)
        np.testing.assert_allclose(w, lanczos, atol=0.015)


@pytest.mark.parametrize("kernel", ["lanczos3", "lanczos5"])
@pytest.mark.parametrize(
    "wcs",
    [
        tan_wcs(SHAPE, rotation=0.3, dx=0.37, dy=-0.21),
        tan_wcs(SHAPE, rotation=90.4, dx=0.5, dy=0.5),
        tan_wcs(SHAPE, rotation=181.0),
        tan_wcs(SHAPE, rotation=-37.0, dx=0.1),
        tan_wcs(SHAPE, rotation=2.0, flip=True, dx=-0.4),
        tan_wcs(SHAPE, scale=0.262, dx=0.2),
        decam_wcs(SHAPE, dx=0.3, dy=0.4),
    ],
    ids=["turned", "quarter", "half", "oblique", "flipped", "finer", "tpv"],
)
def test_a_star_keeps_its_flux_place_and_shape(wcs, kernel):
    flux = 1e5
    exposure = make_exposure(wcs, SHAPE, stars=[(RA, DEC, flux)])
    options = WarpOptions(noise=False, warpingKernelName=kernel)
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=options)
    x0, y0 = (float(v[0]) for v in TRACT.sky_to_pixel(ra=[RA], dec=[DEC]))
    _, jacobian = mapping(wcs, TRACT, x0, y0)
    y, x = np.mgrid[warp.box.y0 : warp.box.y1, warp.box.x0 : warp.box.x1]
    near = np.hypot(x - x0, y - y0) < 15
    image = np.where(near, warp.planes.image, 0).astype(float)
    # The stars' own tails beyond 15 pixels hold 1e-12 of the flux.
    total = image.sum()
    assert abs(total / flux - 1) < 1e-4
    assert abs((image * x).sum() / total - x0) < 1e-3
    assert abs((image * y).sum() / total - y0) < 1e-3
    inverse = np.linalg.inv(jacobian)
    wanted = SIGMA**2 * inverse @ inverse.T
    for a, b, expected in ((x - x0, x - x0, wanted[0, 0]), (y - y0, y - y0, wanted[1, 1]),
                           (x - x0, y - y0, wanted[0, 1])):  # fmt: skip
        # A Gaussian of sigma 2 has 1e-9 of its power beyond the Nyquist frequency; what is left
        # is the ripple of the kernel.
        assert abs((image * a * b).sum() / total - expected) < 4e-3 * SIGMA**2


def test_another_pixel_scale_keeps_fluxes_to_half_a_percent():
    exposure = make_exposure(tan_wcs(SHAPE, scale=0.24, dx=0.2), SHAPE, stars=[(RA, DEC, 1e5)])
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    # Sampling at another pitch folds the passband ripple of the kernel, 0.3 %, onto the sum.
    assert warp.planes.image.sum() == pytest.approx(1e5, rel=5e-3)


def test_the_psf_of_a_warp_is_that_of_its_stars():
    wcs = tan_wcs(SHAPE, rotation=90.4, scale=0.25)
    rng = np.random.default_rng(3)
    grid = np.linspace(40, min(SHAPE) - 40, 5)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, 25) for a in np.meshgrid(grid, grid))
    ra, dec = wcs.pixel_to_sky(x=x, y=y)
    stars = [(a, d, 1.0) for a, d in zip(ra, dec, strict=True)]
    exposure = make_exposure(wcs, SHAPE, stars=stars, scale=1.0)
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    residuals, sizes = [], []
    for x0, y0 in zip(*TRACT.sky_to_pixel(ra=ra, dec=dec), strict=True):
        i, j = round(x0), round(y0)
        left, low = i - warp.box.x0 - 10, j - warp.box.y0 - 10
        star = warp.planes.image[max(low, 0) : low + 21, max(left, 0) : left + 21]
        if star.shape != (21, 21):
            continue
        stamp = warp.psf.draw(
            x=np.array([x0]), y=np.array([y0]), size=21, offset_x=np.array([x0 - i]),
            offset_y=np.array([y0 - j]),
        )[0]  # fmt: skip
        residuals.append((star - stamp) / stamp.max())
        v, u = np.mgrid[-10:11, -10:11]
        radius2 = (u - x0 + i) ** 2 + (v - y0 + j) ** 2
        weight = np.exp(-0.25 * radius2 / SIGMA**2)
        size, wanted = ((p * radius2 * weight).sum() / (p * weight).sum() for p in (star, stamp))
        sizes.append(size / wanted - 1)
    assert len(residuals) >= 9
    # The ripple of two Lanczos kernels, which depends on a star's place between the pixels; on
    # average over the places it sharpens stars, and so does the model.
    assert np.abs(residuals).max() < 6e-3
    assert np.abs(np.mean(sizes)) < 1e-3


def test_a_constant_sky_stays_constant():
    wcs = decam_wcs(SHAPE)
    coefficients = np.array([[1.0, 0.05], [-0.02, 0.0]])
    scale = FluxScale(3.0, coefficients=coefficients, shape=SHAPE)
    exposure = make_exposure(wcs, SHAPE, level=50.0).replace(photo_calib=scale)
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    good = warp.planes.mask & int(MaskPlane.NO_DATA) == 0
    y, x = np.nonzero(good)
    for k in range(0, x.size, x.size // 40):
        (u, v), jacobian = mapping(wcs, TRACT, x[k] + warp.box.x0, y[k] + warp.box.y0)
        wanted = 50.0 * abs(np.linalg.det(jacobian)) * float(scale.scale(x=u, y=v))
        # Finite differences over one pixel at 1e-10 deg: 1e-6; float32 weights: 1e-6.
        assert warp.planes.image[y[k], x[k]] == pytest.approx(wanted, rel=1e-5)


def test_pixel_variance_has_pulls_of_width_one():
    rng = np.random.default_rng(1)
    exposure = make_exposure(tan_wcs(SHAPE, rotation=90.4, dx=0.3), SHAPE, noise=7.0, rng=rng)
    options = WarpOptions(variance="pixel")
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=options, rng=rng)
    good = warp.planes.mask == 0
    for values in (warp.planes.image, warp.noise):
        pull = values[good] / np.sqrt(warp.planes.variance[good])
        # 80000 pixels, correlated over a few: 1 %.
        assert pull.std() == pytest.approx(1.0, abs=0.01)
        assert abs(pull.mean()) < 0.02


def test_flux_variance_gives_the_errors_of_sums():
    rng = np.random.default_rng(2)
    pulls = []
    for _ in range(6):
        wcs = tan_wcs(SHAPE, rotation=0.4, scale=0.28, dx=rng.uniform())
        exposure = make_exposure(wcs, SHAPE, noise=7.0, rng=rng)
        warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
        # Gaussian weights, as of a PSF flux, on a grid of independent places.
        axis = np.arange(-8, 9)
        weight = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / 4.0)
        for y in range(30, 250, 18):
            for x in range(30, 250, 18):
                part = slice(y - 8, y + 9), slice(x - 8, x + 9)
                if (warp.planes.mask[part] != 0).any():
                    continue
                sigma = np.sqrt((weight**2 * warp.planes.variance[part]).sum())
                pulls.append((weight * warp.planes.image[part]).sum() / sigma)
    # 900 places: the width is known to 2.4 %.
    assert len(pulls) > 600
    assert np.std(pulls) == pytest.approx(1.0, abs=0.08)


def test_unusable_pixels_do_not_spread():
    wcs = tan_wcs(SHAPE, rotation=90.2, dx=0.5, dy=0.5)
    clean = make_exposure(wcs, SHAPE, stars=[(RA, DEC, 1e5)], level=10.0)
    dirty = make_exposure(wcs, SHAPE, stars=[(RA, DEC, 1e5)], level=10.0)
    dirty.planes.image[100:103, 80] = 1e7
    dirty.planes.mask[100:103, 80] |= int(MaskPlane.CR)
    dirty.planes.image[200, 200] = np.nan
    dirty.planes.variance[60, 60] = 0.0
    dirty.planes.mask[:, 250] |= int(MaskPlane.BAD)
    dirty.planes.image[:, 250] = -1e6
    before = dirty.planes.copy()
    a = warp_exposures([clean], wcs=TRACT, box=BOX, options=PLAIN)
    b = warp_exposures([dirty], wcs=TRACT, box=BOX, options=PLAIN)
    assert a.box == b.box
    good = b.planes.mask == 0
    np.testing.assert_allclose(b.planes.image[good], a.planes.image[good], atol=0.01)
    for plane in (MaskPlane.CR, MaskPlane.BAD, MaskPlane.UNMASKEDNAN):
        assert (b.planes.mask & int(plane) != 0).any()
    assert (b.planes.mask & int(MaskPlane.CR) != 0).sum() <= 12
    assert np.isfinite(b.planes.image).all()
    assert (b.planes.variance[good] > 0).all()
    # The exposure stays as it was.
    np.testing.assert_array_equal(dirty.planes.image, before.image)
    np.testing.assert_array_equal(dirty.planes.mask, before.mask)
    np.testing.assert_array_equal(dirty.planes.variance, before.variance)


def test_all_masked_gives_a_masked_warp():
    exposure = make_exposure(tan_wcs(SHAPE), SHAPE)
    exposure.planes.mask[:] = int(MaskPlane.SAT)
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    assert (warp.planes.mask & int(MaskPlane.SAT | MaskPlane.NO_DATA) != 0).all()
    assert (warp.planes.mask & int(MaskPlane.SAT) != 0).mean() > 0.9


def test_edges_are_marked_and_the_box_is_cropped():
    exposure = make_exposure(tan_wcs((100, 60), dx=20.5, dy=0.5), (100, 60))
    warp = warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    # Lanczos-3 needs two pixels below and three above.
    assert warp.box.shape == (95, 55)
    edge = warp.planes.mask & int(MaskPlane.SENSOR_EDGE) != 0
    assert edge[0].all()
    assert not edge[40, 20]
    (given,) = warp.inputs
    assert (given.visit, given.detector, given.n_pixel) == (1, 1, 95 * 55)
    assert max(given.x) - min(given.x) == pytest.approx(60, abs=0.01)


def test_ccds_of_one_visit_share_a_warp():
    left = make_exposure(tan_wcs(SHAPE, dx=-220), SHAPE, level=1.0, scale=1.0, detector=1)
    right = make_exposure(tan_wcs(SHAPE, dx=220), SHAPE, level=3.0, scale=1.0, detector=2)
    right = right.replace(psf=right.psf.gaussian(3.0, 31))
    warp = warp_exposures([left, right], wcs=TRACT, box=BOX, options=PLAIN)
    row = warp.planes.image[150]
    assert row[-1] == pytest.approx(1.0, abs=1e-5)
    assert row[0] == pytest.approx(3.0, abs=1e-5)
    assert warp.planes.mask[150, 150] & int(MaskPlane.NO_DATA)
    assert warp.planes.variance[150, 150] == 0
    peak = warp.psf.stamps[1, :, 20, 20]
    assert peak[0] < peak[2]
    assert np.isnan(peak[1])
    other = make_exposure(tan_wcs(SHAPE), SHAPE, visit=2)
    with pytest.raises(DataError, match="one visit"):
        warp_exposures([left, other], wcs=TRACT, box=BOX, options=PLAIN)


def test_cells_count_pixels():
    grid = CellGrid(box=Box(x0=100, y0=200, x1=350, y1=500), cell=100)
    assert grid.shape == (3, 3)
    part = Box(x0=150, y0=290, x1=350, y1=410)
    rng = np.random.default_rng(3)
    flags = rng.uniform(size=part.shape) < 0.4
    wanted = np.zeros((3, 3))
    for y, x in np.argwhere(flags):
        wanted[(y + 90) // 100, (x + 50) // 100] += 1
    np.testing.assert_array_equal(grid.count(flags, part), wanted)


def test_nothing_to_warp():
    exposure = make_exposure(tan_wcs(SHAPE, dx=1000), SHAPE)
    assert footprint(exposure.wcs, SHAPE, TRACT, BOX)[0].is_empty
    assert not footprint(tan_wcs(SHAPE, dx=100), SHAPE, TRACT, BOX)[0].is_empty
    with pytest.raises(NoDataError, match="no CCD"):
        warp_exposures([exposure], wcs=TRACT, box=BOX, options=PLAIN)
    far = make_exposure(tan_wcs(SHAPE, dec=-87.0), SHAPE)
    with pytest.raises(NoDataError, match="no CCD"):
        warp_exposures([far], wcs=TRACT, box=BOX, options=PLAIN)


def test_missing_parts_and_bad_options_have_their_sentences():
    exposure = make_exposure(tan_wcs(SHAPE), SHAPE)
    with pytest.raises(DataError, match="psf"):
        warp_exposures([exposure.replace(psf=None)], wcs=TRACT, box=BOX, options=PLAIN)
    with pytest.raises(DataError, match="rng"):
        warp_exposures([exposure], wcs=TRACT, box=BOX)
    with pytest.raises(ConfigError, match="lanczos3, lanczos5"):
        WarpOptions(warpingKernelName="bilinear")
    with pytest.raises(ConfigError, match="odd"):
        WarpOptions(psf_size=40)

"""Stacks: weights, masks, artifacts, PSF, and their edge cases."""

import numpy as np
import pytest
from _sky import DEC, RA, make_exposure, tan_wcs

from skymill.coadd.artifacts import ArtifactOptions, find_artifacts, sorting_network
from skymill.coadd.psf_match import match_psf
from skymill.coadd.stack import Stacker, StackOptions, input_map, stack_warps
from skymill.coadd.warp import WarpOptions, warp_exposures
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.images import Box
from skymill.data.masks import UNUSABLE, MaskPlane
from skymill.data.tables import load_schema

SHAPE = (320, 320)
BOX = Box(x0=0, y0=0, x1=300, y1=300)
TRACT = tan_wcs((300, 300))
STARS = [(RA, DEC, 2e4), (RA + 0.004, DEC - 0.003, 3e5), (RA - 0.003, DEC + 0.005, 5e3)]
IDENTITY = {"skymap": "m", "tract": 0, "patch": 0}


def field(visit, rng, *, noise=5.0, stars=STARS, sigma=1.9, change=None, with_noise=True, **wcs):
    """A dithered visit: direct and matched warp."""
    place = {"rotation": 90.2, "dx": rng.uniform(-5, 5), "dy": rng.uniform(-5, 5), **wcs}
    mapping = tan_wcs(SHAPE, **place)
    exposure = make_exposure(
        mapping, SHAPE, stars=stars, noise=noise, rng=rng, visit=visit, sigma=sigma
    )
    if change is not None:
        change(exposure, mapping)
    options = WarpOptions(noise=with_noise)
    direct = warp_exposures([exposure], wcs=TRACT, box=BOX, options=options, rng=rng)
    return direct, match_psf(direct)


def finish(directs, artifacts=None, **options):
    stacker = stack_warps(
        directs, box=BOX, wcs=TRACT, artifacts=artifacts, options=StackOptions(**options)
    )
    return stacker, stacker.finish(**IDENTITY)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 40])
def test_the_network_sorts(n):
    rng = np.random.default_rng(n)
    values = rng.integers(0, 9, (200, n))
    wanted = np.sort(values, axis=1)
    for low, high in sorting_network(n):
        a, b = values[:, low].copy(), values[:, high].copy()
        values[:, low], values[:, high] = np.minimum(a, b), np.maximum(a, b)
    np.testing.assert_array_equal(values, wanted)


def test_the_mean_is_weighted_by_inverse_variance_and_its_variance_is_right():
    rng = np.random.default_rng(1)
    noises = (4.0, 4.0, 8.0, 16.0)
    directs = [field(k, rng, noise=s, stars=())[0] for k, s in enumerate(noises)]
    stacker, coadd = finish(directs)
    weight = np.array([stacker.weights[k] for k in range(4)])
    np.testing.assert_allclose(weight / weight[0], (4.0 / np.array(noises)) ** 2, rtol=1e-3)
    good = (coadd.planes.mask == 0) & (coadd.n_image == 4)
    # Variance for fluxes: 2 nJy per electron, inverse sum of the four.
    wanted = 4.0 / np.sum(1.0 / np.array(noises) ** 2)
    np.testing.assert_allclose(coadd.planes.variance[good], wanted, rtol=1e-3)
    # Pixels are correlated by the resampling: Lanczos-3 keeps 80 % of the power in a pixel.
    for plane in (coadd.planes.image, coadd.noise):
        assert np.var(plane[good]) / wanted == pytest.approx(0.80, abs=0.02)
    assert coadd.planes.unit == "nJy"
    assert coadd.inputs == [(k, 1) for k in range(4)]


def test_a_satellite_and_a_cosmic_ray_vanish_and_stars_stay():
    rng = np.random.default_rng(2)

    def trail(exposure, wcs):
        x = np.arange(SHAPE[1])
        y = (60 + 0.7 * x).astype(int)
        ok = y < SHAPE[0]
        for d in (-1, 0, 1):
            exposure.planes.image[np.minimum(y[ok] + d, SHAPE[0] - 1), x[ok]] += 300.0

    def hit(exposure, wcs):
        exposure.planes.image[200:202, 110:114] += 3000.0

    pairs = [field(k, rng, sigma=1.7 + 0.1 * k, change={2: trail, 4: hit}.get(k)) for k in range(6)]
    clean = [field(k, np.random.default_rng(50 + k), sigma=1.7 + 0.1 * k)[0] for k in range(6)]
    artifacts = find_artifacts([m for _, m in pairs], box=BOX)
    assert artifacts.number.get(2, 0) >= 1
    assert artifacts.number.get(4, 0) >= 1
    _, dirty = finish([d for d, _ in pairs])
    _, coadd = finish([d for d, _ in pairs], artifacts)
    _, reference = finish(clean)
    use = (coadd.planes.mask & int(UNUSABLE) == 0) & (reference.planes.mask & int(UNUSABLE) == 0)
    sigma = np.sqrt(coadd.planes.variance + reference.planes.variance)
    sky = use & (np.abs(reference.planes.image) < 5 * sigma)
    assert (np.abs(dirty.planes.image - reference.planes.image)[sky] > 7 * sigma[sky]).sum() > 100
    assert (np.abs(coadd.planes.image - reference.planes.image)[sky] > 7 * sigma[sky]).sum() == 0
    clipped = coadd.planes.mask & int(MaskPlane.CLIPPED) != 0
    # The trail is about 5 pixels wide, blurred to the common PSF.
    assert 0.005 < clipped.mean() < 0.12
    assert (coadd.n_image[clipped] < 6).all()
    for ra, dec, _ in STARS:
        x, y = (round(float(v[0])) for v in TRACT.sky_to_pixel(ra=[ra], dec=[dec]))
        core = slice(y - 2, y + 3), slice(x - 2, x + 3)
        assert coadd.planes.mask[core].max() & int(MaskPlane.CLIPPED) == 0 or (
            coadd.n_image[core].min() >= 5
        )


def test_a_trail_that_one_epoch_alone_sees_is_filled_and_flagged():
    """The mask of the CCD takes it out where no other epoch can tell."""
    light = np.zeros(SHAPE)

    def trail(exposure, wcs):
        y, x = np.indices(SHAPE)
        d = (x - 40) * np.sin(0.6) - (y - 60) * np.cos(0.6)
        light[:] = 60.0 * np.exp(-0.5 * (d / 1.7) ** 2)
        exposure.planes.image += light.astype(np.float32)
        exposure.planes.mask[np.abs(d) < 8.0] |= int(MaskPlane.STREAK)

    clean = finish([field(0, np.random.default_rng(3), stars=())[0]])[1]
    rng = np.random.default_rng(3)
    direct, matched = field(0, rng, stars=(), change=trail)
    _, coadd = finish([direct], find_artifacts([matched], box=BOX))
    streak = (coadd.planes.mask & int(MaskPlane.STREAK)) != 0
    assert streak.mean() > 0.03
    assert ((coadd.planes.mask[streak] & int(MaskPlane.INTRP)) != 0).all()
    assert (coadd.n_image[streak] == 0).all()
    # 2 nJy per electron: nothing of the 120 nJy is left. Beside the mask the kernel sees filled
    # pixels instead of noise of 10 nJy.
    rest = coadd.planes.image - clean.planes.image
    assert np.abs(rest[~streak]).max() < 10.0
    assert np.abs(rest[~streak & (rest != 0)].mean()) < 0.3
    assert np.abs(coadd.planes.image[streak].mean()) < 1.0


def test_of_two_epochs_the_brighter_has_the_artifact():
    rng = np.random.default_rng(3)

    def hit(exposure, wcs):
        exposure.planes.image[150:156, 150:156] += 500.0

    def hole(exposure, wcs):
        exposure.planes.image[150:156, 150:156] -= 500.0

    pairs = [field(k, rng, change=hit if k == 1 else None) for k in range(3)]
    matched = [m for _, m in pairs]
    assert set(find_artifacts(matched, box=BOX).number) == {1}
    # Stars of both epochs stay: they differ by less than the allowed share of their light.
    two = find_artifacts(matched[:2], box=BOX)
    assert two.number == {1: 1}
    _, coadd = finish([d for d, _ in pairs[:2]], two)
    _, clean = finish([pairs[0][0]])
    clipped = coadd.planes.mask & int(MaskPlane.CLIPPED) != 0
    # 6 pixels, blurred by the common PSF of 7.7 pixels.
    assert 36 <= clipped.sum() <= 600
    np.testing.assert_allclose(coadd.planes.image[clipped], clean.planes.image[clipped], rtol=1e-5)
    # The sky is not negative: there the fainter epoch is the wrong one.
    _, dark = field(3, rng, change=hole)
    number = find_artifacts([matched[0], dark], box=BOX).number
    assert number[3] == 1
    assert find_artifacts(matched[:1], box=BOX).number == {}
    assert find_artifacts([], box=BOX).number == {}


def test_a_variable_star_is_not_destroyed():
    rng = np.random.default_rng(4)
    fluxes = [1e5, 1.3e5, 0.7e5, 1.5e5, 0.8e5, 1.1e5, 0.6e5, 1.4e5]
    pairs = [field(k, rng, stars=[(RA, DEC, f)]) for k, f in enumerate(fluxes)]
    artifacts = find_artifacts([m for _, m in pairs], box=BOX)
    stacker, coadd = finish([d for d, _ in pairs], artifacts)
    x, y = (round(float(v[0])) for v in TRACT.sky_to_pixel(ra=[RA], dec=[DEC]))
    core = slice(y - 3, y + 4), slice(x - 3, x + 4)
    assert coadd.n_image[core].min() == 8
    weight = np.array([stacker.weights[k] for k in range(8)])
    wanted = np.sum(weight * fluxes) / weight.sum()
    stamp = slice(y - 12, y + 13), slice(x - 12, x + 13)
    # Noise of a sum over 625 pixels: 2 * 5 * 25 / sqrt(8) = 88 nJy.
    assert coadd.planes.image[stamp].sum() == pytest.approx(wanted, abs=400)


def test_an_identical_static_sky_has_no_artifacts():
    rng = np.random.default_rng(5)
    pairs = [field(k, rng, sigma=1.6 + 0.1 * k, noise=1.0) for k in range(7)]
    artifacts = find_artifacts([m for _, m in pairs], box=BOX)
    # Bright stars whose PSFs do not match exactly must not count; noise may, once.
    assert sum(artifacts.number.values()) <= 1
    assert all(abs(s - 1.0) < 0.2 for s in artifacts.noise_scale.values())


def test_masked_inputs_are_rejected_and_saturated_cores_keep_their_plane():
    rng = np.random.default_rng(6)

    def saturate(exposure, wcs):
        x, y = (round(float(v[0])) for v in wcs.sky_to_pixel(ra=[RA], dec=[DEC]))
        exposure.planes.mask[y - 2 : y + 3, x - 2 : x + 3] |= int(MaskPlane.SAT)

    def column(exposure, wcs):
        exposure.planes.mask[:, 100] |= int(MaskPlane.BAD)
        exposure.planes.image[:, 100] = 1e6

    directs = [
        field(k, rng, change=lambda e, w, k=k: (saturate(e, w), column(e, w) if k == 0 else None))[
            0
        ]
        for k in range(3)
    ]
    _, coadd = finish(directs)
    x, y = (round(float(v[0])) for v in TRACT.sky_to_pixel(ra=[RA], dec=[DEC]))
    core = coadd.planes.mask[y, x]
    assert core & int(MaskPlane.SAT)
    assert core & int(MaskPlane.INTRP)
    assert coadd.n_image[y, x] == 0
    assert np.isfinite(coadd.planes.image[y, x])
    assert coadd.planes.variance[y, x] > 0
    rejected = coadd.planes.mask & int(MaskPlane.REJECTED) != 0
    assert rejected.sum() > 250
    line = rejected & (coadd.planes.mask & int(MaskPlane.SAT) == 0)
    assert (coadd.n_image[line] == 2).mean() > 0.95
    assert coadd.planes.image[line].max() < 5e4
    assert (coadd.planes.mask[line] & int(MaskPlane.BAD) == 0).all()
    assert (coadd.planes.mask[rejected] & int(MaskPlane.INEXACT_PSF) != 0).all()


def test_the_psf_is_the_weighted_mean_of_the_inputs():
    rng = np.random.default_rng(7)
    directs = [
        field(k, rng, sigma=s, noise=n, stars=[(RA, DEC, 1e6)])[0]
        for k, (s, n) in enumerate([(1.5, 0.1), (2.5, 0.2)])
    ]
    _, coadd = finish(directs)
    x, y = (float(v[0]) for v in TRACT.sky_to_pixel(ra=[RA], dec=[DEC]))
    i, j = round(x), round(y)
    star = coadd.planes.image[j - 12 : j + 13, i - 12 : i + 13] / 1e6
    psf = coadd.psf.draw(
        x=np.array([x]), y=np.array([y]), size=25,
        offset_x=np.array([x - i]), offset_y=np.array([y - j]),
    )[0]  # fmt: skip
    assert psf.sum() == pytest.approx(1.0, abs=1e-3)
    # The ripple of Lanczos-3 on the narrow PSF.
    np.testing.assert_allclose(star, psf, atol=0.01 * psf.max())


def test_partly_covered_and_void_pixels():
    rng = np.random.default_rng(8)
    directs = [field(0, rng)[0], field(1, rng, dx=200.0, dy=0.0)[0]]
    _, coadd = finish(directs)
    assert set(np.unique(coadd.n_image)) >= {1, 2}
    only = Stacker(box=BOX, wcs=TRACT)
    only.add(directs[1])
    alone = only.finish(**IDENTITY)
    void = alone.planes.mask & int(MaskPlane.NO_DATA) != 0
    assert 0.2 < void.mean() < 0.8
    assert (alone.planes.image[void] == 0).all()
    assert (alone.planes.variance[void] == 0).all()
    assert (alone.planes.variance[~void] > 0).all()
    assert np.isnan(alone.psf.stamps).any()
    edge = alone.planes.mask & int(MaskPlane.SENSOR_EDGE | MaskPlane.INEXACT_PSF)
    assert edge.any()


def test_all_masked_and_empty_stacks():
    rng = np.random.default_rng(9)

    def kill(exposure, wcs):
        exposure.planes.mask[:] = int(MaskPlane.BAD)

    direct, matched = field(0, rng, change=kill)
    stacker = Stacker(box=BOX, wcs=TRACT)
    assert stacker.add(direct) == 0.0
    with pytest.raises(NoDataError, match="no warp"):
        stacker.finish(**IDENTITY)
    good = [field(k, rng)[1] for k in (1, 2, 3)]
    assert find_artifacts([matched, *good], box=BOX).number.get(0, 0) == 0


def test_one_epoch_is_itself():
    rng = np.random.default_rng(10)
    direct, matched = field(0, rng)
    artifacts = find_artifacts([matched], box=BOX)
    _, coadd = finish([direct], artifacts)
    cut = direct.box.slices(within=BOX)
    good = coadd.planes.mask[cut] == 0
    np.testing.assert_allclose(
        coadd.planes.image[cut][good], direct.planes.image[good], rtol=1e-5, atol=1e-5
    )


def test_wrong_input_has_its_sentence():
    rng = np.random.default_rng(11)
    direct, matched = field(0, rng)
    stacker = Stacker(box=BOX, wcs=TRACT)
    stacker.add(direct)
    with pytest.raises(DataError, match="in the stack already"):
        stacker.add(direct)
    other = field(1, rng)[0]
    other.band = "g"
    with pytest.raises(DataError, match="one band"):
        stacker.add(other)
    with pytest.raises(DataError, match="one warp for each visit"):
        find_artifacts([matched, matched, matched], box=BOX)
    with pytest.raises(DataError, match="COSMIC"):
        StackOptions(badMaskPlanes=("COSMIC",))
    with pytest.raises(ConfigError, match="spatialThreshold"):
        ArtifactOptions(spatialThreshold=2.0)


def test_the_input_map_follows_its_schema():
    rng = np.random.default_rng(12)
    stacker, _ = finish([field(k, rng)[0] for k in range(2)])
    table = input_map(stacker)
    load_schema("deepCoadd_inputMap").validate(table)
    assert list(table["visit"]) == [0, 1]
    assert table["x_corners"].shape == (2, 4)


def test_without_noise_planes_there_is_none():
    rng = np.random.default_rng(13)
    _, coadd = finish([field(k, rng, with_noise=k == 0)[0] for k in range(2)])
    assert coadd.noise is None


def test_empty_apertures_scatter_as_the_variance_says():
    rng = np.random.default_rng(8)
    noises = [5.0, 5.0, 8.0, 6.0]
    _, coadd = finish([field(k, rng, noise=s, stars=[])[0] for k, s in enumerate(noises)])
    radius = 4
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    good = (coadd.planes.mask == 0) & (coadd.n_image == 4)
    pulls, noise = [], []
    step = 2 * radius + 1
    for cy in range(radius, good.shape[0] - radius, step):
        for cx in range(radius, good.shape[1] - radius, step):
            cut = slice(cy - radius, cy + radius + 1), slice(cx - radius, cx + radius + 1)
            if good[cut][disc].all():
                sigma = np.sqrt(coadd.planes.variance[cut][disc].sum())
                pulls.append(coadd.planes.image[cut][disc].sum() / sigma)
                noise.append(coadd.noise[cut][disc].sum() / sigma)
    assert len(pulls) > 300
    for values in (pulls, noise):
        # The error of a width of n Gaussian numbers is 1 / sqrt(2 n); 3.5 sigma of it. Lanczos-3
        # keeps all of the power at this scale.
        assert np.std(values) == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * len(values)))

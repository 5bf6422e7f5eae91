"""The cosmic-ray finder against astroscrappy, against injected tracks, and on stars' cores."""

import astroscrappy
import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.detrend.cosmic_rays import CosmicRayOptions, find_cosmic_rays, remove_cosmic_rays

READ_NOISE = 6.0


def make_field(rng, *, shape=(512, 512), n_stars=200, n_hits=80, fwhm=4.0, sky=500.0, bright=3e5):
    """Stars of a Gaussian PSF and straight tracks on a sky; planes, and the tracks' pixels."""
    ny, nx = shape
    truth = np.full(shape, sky)
    sigma = fwhm / 2.3548
    y, x = np.mgrid[-15:16, -15:16]
    for _ in range(n_stars):
        xc, yc = rng.uniform(20, nx - 21), rng.uniform(20, ny - 21)
        ix, iy = round(xc), round(yc)
        flux = 10 ** rng.uniform(3, np.log10(bright))
        profile = np.exp(-0.5 * ((x + ix - xc) ** 2 + (y + iy - yc) ** 2) / sigma**2)
        truth[iy - 15 : iy + 16, ix - 15 : ix + 16] += flux * profile / (2 * np.pi * sigma**2)
    image = rng.poisson(truth) + rng.normal(0, READ_NOISE, shape)
    hit = np.zeros(shape, bool)
    for _ in range(n_hits):
        length, angle = rng.integers(1, 12), rng.uniform(0, np.pi)
        xc, yc = rng.uniform(15, nx - 16), rng.uniform(15, ny - 16)
        for k in range(length):
            i, j = round(xc + k * np.cos(angle)), round(yc + k * np.sin(angle))
            image[j, i] += rng.uniform(500, 5000)
            hit[j, i] = True
    image = image.astype(np.float32)
    variance = (np.maximum(image, 0) + READ_NOISE**2).astype(np.float32)
    return PixelPlanes(image, variance, np.zeros(shape, np.int32)), hit


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@pytest.mark.parametrize("seed", [1, 2])
def test_same_pixels_as_astroscrappy(seed):
    planes, _ = make_field(np.random.default_rng(seed))
    ours = find_cosmic_rays(planes, options=CosmicRayOptions(sharpness=0.0))
    theirs, _ = astroscrappy.detect_cosmics(
        planes.image, gain=1.0, readnoise=READ_NOISE, satlevel=np.inf, sepmed=False,
        cleantype="meanmask", niter=4,
    )  # fmt: skip
    # Two pixels at the border are not searched there.
    inner = np.s_[4:-4, 4:-4]
    assert overlap(ours[inner], theirs[inner]) >= 0.98
    assert np.count_nonzero(theirs) > 300


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 5.0])
def test_finds_the_tracks_and_spares_the_stars(fwhm):
    rng = np.random.default_rng(11)
    planes, hit = make_field(rng, fwhm=fwhm, n_stars=250, n_hits=80)
    found = find_cosmic_rays(planes, psf_sigma=fwhm / 2.3548)
    # Tracks of >= 500 electrons on a noise of 23: those on a bright star are lost.
    assert np.count_nonzero(found & hit) / np.count_nonzero(hit) > 0.93
    planes, _ = make_field(rng, fwhm=fwhm, n_stars=400, n_hits=0, bright=1e6)
    false = find_cosmic_rays(planes, psf_sigma=fwhm / 2.3548)
    # Sky noise alone gives about 5 diagonal pairs in 262144 pixels at 4.5 sigma (as LA-Cosmic
    # does); 400 stars may add nothing to them. Poisson: below 11 pairs at 99 %.
    assert np.count_nonzero(false) <= 22


def test_without_the_psf_good_seeing_loses_cores_and_with_it_not():
    rng = np.random.default_rng(12)
    planes, _ = make_field(rng, fwhm=1.5, n_stars=400, n_hits=0, bright=1e6)
    blind = np.count_nonzero(find_cosmic_rays(planes))
    told = np.count_nonzero(find_cosmic_rays(planes, psf_sigma=1.5 / 2.3548))
    assert blind > 200
    assert told <= 22


def test_sky_subtracted_planes_give_the_same_pixels():
    planes, _ = make_field(np.random.default_rng(13))
    other = planes.copy()
    other.image -= 500.0
    a, b = find_cosmic_rays(planes, psf_sigma=1.7), find_cosmic_rays(other, psf_sigma=1.7)
    # Only float32 rounding differs.
    assert overlap(a, b) > 0.99


def test_remove_sets_planes_and_restores_the_level():
    planes, hit = make_field(np.random.default_rng(14), n_stars=0, n_hits=100)
    before = planes.copy()
    n = remove_cosmic_rays(planes, psf_sigma=1.7)
    marked = (planes.mask & int(MaskPlane.CR)) != 0
    assert n == np.count_nonzero(marked)
    assert ((planes.mask[marked] & int(MaskPlane.INTRP)) != 0).all()
    np.testing.assert_array_equal(planes.image[~marked], before.image[~marked])
    residual = planes.image[marked & hit] - 500.0
    # Sky noise is 23; prediction from 4 neighbours has less, remains of the track add.
    assert abs(np.median(residual)) < 10
    assert residual.std() < 60
    assert (planes.variance > 0).all()


def test_bad_pixels_nan_and_empty_frames():
    planes, hit = make_field(np.random.default_rng(15))
    planes.mask[hit] |= int(MaskPlane.BAD)
    planes.image[100, 100] = np.nan
    planes.mask[100, 100] |= int(MaskPlane.UNMASKEDNAN)
    found = find_cosmic_rays(planes, psf_sigma=1.7)
    assert not found[hit].any()
    assert not found[100, 100]
    tiny = PixelPlanes(np.ones((3, 3), np.float32), np.ones((3, 3), np.float32),
                       np.zeros((3, 3), np.int32))  # fmt: skip
    assert not find_cosmic_rays(tiny).any()
    flat = PixelPlanes(np.zeros((70, 90), np.float32), np.ones((70, 90), np.float32),
                       np.zeros((70, 90), np.int32))  # fmt: skip
    assert not find_cosmic_rays(flat).any()
    flat.mask[:] = int(MaskPlane.NO_DATA)
    assert not find_cosmic_rays(flat).any()


def test_limits_have_a_sentence():
    planes, _ = make_field(np.random.default_rng(16))
    with pytest.raises(DataError, match="psf_sigma"):
        find_cosmic_rays(planes, psf_sigma=0.0)
    with pytest.raises(DataError, match="max_pixels"):
        find_cosmic_rays(planes, options=CosmicRayOptions(max_pixels=10))
    with pytest.raises(ConfigError, match="fine_structure"):
        CosmicRayOptions(fine_structure="mean")

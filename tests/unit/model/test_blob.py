"""Blobs of one and more sources: results, rules for special sources, and bad input."""

from __future__ import annotations

import io

import numpy as np
import pytest
from release_scenes import BANDS, DEC, RA, galaxy, make_blob, make_scene, make_visits

from skymill.data.errors import ConfigError, DataError
from skymill.model.blob import BlobFit, FitOptions, fit_blob
from skymill.model.sources import FitBit, Sources, SourceType

BRIGHT = {"g": 6.0, "r": 10.0, "z": 16.0}
FAINT = {"g": 1.5, "r": 3.0, "z": 6.0}
OPTIONS = FitOptions(bands=BANDS)


def offsets(sources):
    """East and north [arcsec] from the middle of the scene."""
    return (sources.ra - RA) * 3600 * np.cos(np.radians(DEC)), (sources.dec - DEC) * 3600


@pytest.fixture(scope="module")
def visits():
    return make_visits(np.random.default_rng(8), 2)


@pytest.fixture(scope="module")
def pair(visits):
    """A star and a galaxy 2.4" apart."""
    rng = np.random.default_rng(9)
    objects = [
        (None, -1.0, 0.2, BRIGHT),
        (galaxy(1.0, 1.1, 0.2, 0.3), 1.4, 0.1, {b: 2 * v for b, v in BRIGHT.items()}),
    ]
    return make_scene(rng, visits, objects, 61)


def pair_blob():
    return make_blob([(-1.1, 0.1), (1.5, 0.0)], [BRIGHT, BRIGHT])


@pytest.fixture(scope="module")
def pair_fit(pair):
    return fit_blob(pair, pair_blob(), OPTIONS)


def test_blend_of_star_and_galaxy(pair_fit):
    s = pair_fit.sources
    assert list(s.kind) == [SourceType.PSF, SourceType.EXP]
    assert list(pair_fit.origin) == [0, 1]
    east, north = offsets(s)
    # Errors of one draw; the blend correlates the two.
    np.testing.assert_allclose(east, [-1.0, 1.4], atol=0.05)
    np.testing.assert_allclose(north, [0.2, 0.1], atol=0.05)
    np.testing.assert_allclose(s.flux[0], [BRIGHT[b] for b in BANDS], rtol=0.05)
    np.testing.assert_allclose(s.flux[1], [2 * BRIGHT[b] for b in BANDS], rtol=0.08)
    assert s.radius[1] == pytest.approx(1.1, rel=0.1)
    assert s.sersic[1] == 1.0
    assert (s.flux_ivar > 0).all()
    assert (s.ra_ivar > 0).all()
    assert s.radius_ivar[1] > 0
    assert s.radius_ivar[0] == 0


def test_chi2_of_the_result(pair_fit):
    # Noise, and what the pixels that no source owns leave of the wings.
    assert pair_fit.chi2_last < 1.1 * pair_fit.n_pixel
    assert pair_fit.chi2_first > 5 * pair_fit.chi2_last
    assert pair_fit.n_image == 6


def test_result_depends_on_the_input_only(pair, pair_fit):
    again = fit_blob(list(pair), pair_blob(), OPTIONS)
    for name, value in pair_fit.to_arrays().items():
        if name != "cpu_seconds":
            np.testing.assert_array_equal(again.to_arrays()[name], value)


def test_result_goes_through_a_file_without_pickle(pair_fit):
    stream = io.BytesIO()
    np.savez(stream, **pair_fit.to_arrays())
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as data:
        back = BlobFit.from_arrays(data)
    for name, value in pair_fit.to_arrays().items():
        np.testing.assert_array_equal(back.to_arrays()[name], value)
    with pytest.raises(DataError, match="lacks chi2_first"):
        BlobFit.from_arrays({k: v for k, v in pair_fit.to_arrays().items() if k != "chi2_first"})


def test_reference_star_keeps_place_and_type(pair):
    blob = pair_blob()
    blob.fixed_position[0] = blob.fixed_type[0] = blob.is_reference[0] = True
    s = fit_blob(pair, blob, OPTIONS).sources
    assert s.kind[0] == SourceType.PSF
    assert s.ra[0] == pytest.approx(blob.sources.ra[0], abs=1e-12)
    assert s.ra_ivar[0] == 0
    assert s.flux_ivar[0].all()
    assert s.dchisq[0, 0] > 0
    assert not s.dchisq[0, 1:].any()


def test_reference_star_without_significance_stays(visits):
    blank = make_scene(np.random.default_rng(4), visits, [], 61)
    blob = make_blob([(0.0, 0.0), (3.0, 1.0)], [FAINT, FAINT])
    blob.fixed_position[0] = blob.fixed_type[0] = blob.is_reference[0] = True
    fit = fit_blob(blank, blob, OPTIONS)
    assert list(fit.origin) == [0]
    assert fit.forced_keep[0]
    np.testing.assert_allclose(fit.sources.flux[0], [FAINT[b] for b in BANDS])
    assert not fit.sources.flux_ivar.any()


def test_forced_point(pair):
    blob = pair_blob()
    blob.force_point[:] = True
    s = fit_blob(pair, blob, OPTIONS).sources
    assert (s.kind == SourceType.PSF).all()
    assert (s.fitbits & FitBit.FORCED_POINTSOURCE).all()


def test_frozen_source_is_kept_as_it_is(pair):
    blob = pair_blob()
    blob.frozen[0] = True
    s = fit_blob(pair, blob, OPTIONS).sources
    np.testing.assert_array_equal(s.flux[0], blob.sources.flux[0])
    assert s.fitbits[0] & FitBit.FROZEN


def test_large_galaxy_starts_from_its_catalogue(visits):
    rng = np.random.default_rng(12)
    flux = {b: 20 * v for b, v in BRIGHT.items()}
    images = make_scene(rng, visits, [(galaxy(4.0, 1.6, 0.3, 0.1), 0.0, 0.0, flux)], 81)
    blob = make_blob([(0.1, 0.0)], [BRIGHT], half=28)
    blob.is_large_galaxy[0] = True
    blob.sources.kind[0], blob.sources.radius[0], blob.sources.e1[0] = SourceType.EXP, 2.0, 0.2
    s = fit_blob(images, blob, OPTIONS).sources
    assert s.kind[0] in (SourceType.DEV, SourceType.SER)
    assert s.radius[0] <= 4.0
    # Softened core, and what the blob's edge cuts off.
    np.testing.assert_allclose(s.flux[0], [flux[b] for b in BANDS], rtol=0.1)


def test_sources_of_the_residuals(pair):
    blob = make_blob([(1.5, 0.0)], [BRIGHT])
    seen = []

    def find_more(residuals, models, of):
        seen.append((len(residuals), len(models), of.id))
        assert residuals[0].image.shape == models[0].image.shape
        assert np.isfinite(residuals[0].psf.draw(x=np.array([5.0]), y=np.array([5.0]))).all()
        place = make_blob([(-1.0, 0.2), (1.5, 0.1)], [FAINT, FAINT])
        return place.sources

    fit = fit_blob(pair, blob, OPTIONS, find_more=find_more)
    assert seen == [(6, 6, 1)]
    assert sorted(fit.origin) == [-1, 0]  # the second is known already
    new = fit.sources.at(fit.origin == -1)
    assert new.fitbits[0] & FitBit.ITERATIVE
    avoided = make_blob([(1.5, 0.0)], [BRIGHT])
    avoided.avoid = np.ones_like(avoided.mask)
    assert list(fit_blob(pair, avoided, OPTIONS, find_more=find_more).origin) == [0]


def test_background_makes_up_for_wrong_sky(visits):
    rng = np.random.default_rng(21)
    images = make_scene(rng, visits, [(None, 0.0, 0.0, BRIGHT)], 61)
    for image in images:
        image.image += np.float32(2 * image.sigma1)
    right = make_blob([(0.0, 0.0)], [BRIGHT])
    right.fit_background[:] = True
    right.fixed_type[:] = True
    wrong = make_blob([(0.0, 0.0)], [BRIGHT])
    wrong.fixed_type[:] = True
    truth = np.array([BRIGHT[b] for b in BANDS])
    good, bad = fit_blob(images, right, OPTIONS), fit_blob(images, wrong, OPTIONS)
    pull = (good.sources.flux[0] - truth) * np.sqrt(good.sources.flux_ivar[0])
    assert (np.abs(pull) < 4).all()
    assert (np.abs(bad.sources.flux[0] - truth) > 2 * np.abs(good.sources.flux[0] - truth)).any()
    # 2 sigma of sky, and the rest of the star's wings.
    expected = [2 * images[i].sigma1 for i in good.image_index]
    np.testing.assert_allclose(good.background, expected, rtol=0.2)


def test_pixels_that_are_nan_or_masked_do_not_count(pair, pair_fit):
    spoiled = []
    for image in pair:
        pixels, ierr = image.image.copy(), image.inverse_error.copy()
        pixels[30, 20:24] = np.nan
        pixels[10, 10] = np.inf
        pixels[40, 30] = 1e6
        ierr[40, 30] = 0
        spoiled.append(type(image)(**{**vars(image), "image": pixels, "inverse_error": ierr}))
    s = fit_blob(spoiled, pair_blob(), OPTIONS).sources
    assert np.isfinite(s.flux).all()
    np.testing.assert_allclose(s.flux, pair_fit.sources.flux, rtol=0.05)


def test_band_without_images_has_no_flux(pair):
    s = fit_blob([i for i in pair if i.band != "g"], pair_blob(), OPTIONS).sources
    assert not s.flux[:, 0].any()
    assert not s.flux_ivar[:, 0].any()
    assert s.flux[:, 1:].all()


@pytest.mark.parametrize("what", ["none", "masked", "elsewhere"])
def test_blob_without_pixels(pair, what):
    images = []
    if what == "masked":
        images = [
            type(i)(**{**vars(i), "inverse_error": np.zeros_like(i.inverse_error)}) for i in pair
        ]
    blob = pair_blob()
    if what == "elsewhere":
        images = list(pair)
        blob.x0 += 5000
    blob.is_reference[0] = True
    fit = fit_blob(images, blob, OPTIONS)
    assert fit.n_image == 0
    assert fit.n_pixel == 0
    assert list(fit.origin) == [0]
    assert fit.forced_keep.all()


def test_blob_without_sources(pair):
    blob = make_blob([(0.0, 0.0)], [BRIGHT])
    blob = type(blob)(
        id=2, brick_wcs=blob.brick_wcs, x0=0, y0=0, mask=blob.mask,
        sources=Sources.create(ra=[], dec=[], flux=np.zeros((0, 3))),
    )  # fmt: skip
    fit = fit_blob(pair, blob, OPTIONS)
    assert len(fit.sources) == 0
    assert fit.chi2_first == fit.chi2_last


def test_wrong_shapes_are_told(pair):
    with pytest.raises(DataError, match="fluxes in 3 bands; the options name 2"):
        fit_blob(pair, pair_blob(), FitOptions(bands=("g", "r")))
    blob = pair_blob()
    with pytest.raises(DataError, match="force_point needs one entry for each of 2 sources"):
        type(blob)(**{**vars(blob), "force_point": np.zeros(3, bool)})
    with pytest.raises(ConfigError, match=r"max_radius must be >= 0\.1 arcsec"):
        FitOptions(max_radius=0.0)
    with pytest.raises(DataError, match="2 sources need 2 rows of fluxes"):
        Sources.create(ra=[1.0, 2.0], dec=[0.0, 0.0], flux=[[1.0]])

import numpy as np
import pytest

from skymill.calibrate.colour_terms import ColourTerm
from skymill.calibrate.photometry import PhotometryOptions, fit_zero_point
from skymill.data.errors import FitError, NoDataError
from skymill.data.units import AB_ZERO_POINT_NJY


def make_stars(rng, n, *, zero_point=31.0, noise=0.01, ref_noise=0.01, flux_low=3.0):
    counts = 10 ** rng.uniform(flux_low, 6.0, n)
    njy = counts * 10 ** (0.4 * (AB_ZERO_POINT_NJY - zero_point))
    return {
        "flux": counts * (1 + rng.normal(0, noise, n)),
        "flux_err": noise * counts,
        "reference_flux": njy * (1 + rng.normal(0, ref_noise, n)),
        "reference_flux_err": ref_noise * njy,
    }


def test_noise_free_zero_point_is_exact():
    rng = np.random.default_rng(1)
    stars = make_stars(rng, 20, noise=0.0, ref_noise=0.0)
    fit = fit_zero_point(**stars)
    assert fit.magnitude == pytest.approx(31.0, abs=1e-12)
    assert fit.scale.mean == pytest.approx(10 ** (0.4 * (AB_ZERO_POINT_NJY - 31.0)), rel=1e-12)


def test_zero_point_to_a_millimagnitude_with_pull_of_width_one():
    pulls, errors = [], []
    for seed in range(400):
        fit = fit_zero_point(**make_stars(np.random.default_rng(seed), 100, noise=0.02))
        pulls.append((fit.magnitude - 31.0) / fit.error)
        errors.append(fit.magnitude - 31.0)
    mean, sem = np.mean(errors), np.std(errors) / 20
    assert abs(mean) + 2 * sem < 1e-3
    assert sem < 1e-3 / 3
    # 400 pulls: the width is known to 3.5 %; clipping at 3 sigma takes 1.5 % of the scatter.
    assert 0.9 < np.std(pulls) < 1.1


def test_faint_stars_do_not_bias_the_logarithm():
    errors = []
    for seed in range(200):
        stars = make_stars(np.random.default_rng(seed), 2000, noise=0.04, ref_noise=0.002)
        options = PhotometryOptions(min_snr=10.0, reference_floor=0.002)
        errors.append(fit_zero_point(**stars, options=options).magnitude - 31.0)
    # Without the correction the bias is 1.086 / 2 * 0.04^2 = 0.87 mmag.
    assert abs(np.mean(errors)) + 2 * np.std(errors) / np.sqrt(200) < 0.3e-3


def test_outliers_are_clipped_and_scatter_is_found():
    rng = np.random.default_rng(3)
    stars = make_stars(rng, 400, noise=0.002, ref_noise=0.002)
    stars["reference_flux"] *= 10 ** (0.4 * rng.normal(0, 0.02, 400))
    wrong = rng.random(400) < 0.1
    stars["reference_flux"][wrong] *= rng.uniform(1.5, 5.0, wrong.sum())
    fit = fit_zero_point(**stars)
    assert not fit.used[wrong].any()
    assert fit.magnitude == pytest.approx(31.0, abs=4 * fit.error)
    assert fit.pedestal == pytest.approx(0.02, rel=0.15)


def test_colour_term():
    rng = np.random.default_rng(4)
    stars = make_stars(rng, 200, noise=0.002, ref_noise=0.002)
    colour = rng.uniform(0.2, 1.5, 200)
    term = ColourTerm(0.01, -0.2, 0.02, low=0.0, high=1.2)
    stars["reference_flux"] *= 10 ** (0.4 * (0.01 - 0.2 * colour + 0.02 * colour**2))
    fit = fit_zero_point(**stars, colour=colour, colour_term=term)
    assert fit.magnitude == pytest.approx(31.0, abs=4 * fit.error)
    assert not fit.used[colour > 1.2].any()


def test_wrong_match_and_empty_list_are_sentences():
    rng = np.random.default_rng(5)
    stars = make_stars(rng, 50)
    rng.shuffle(stars["reference_flux"])
    with pytest.raises(FitError, match="the reference band or the match is wrong"):
        fit_zero_point(**stars)
    empty = {k: v[:0] for k, v in stars.items()}
    with pytest.raises(NoDataError, match="0 stars with S/N >= 20"):
        fit_zero_point(**empty)
    stars["flux"][:] = np.nan
    with pytest.raises(NoDataError, match="a zero point needs at least 5"):
        fit_zero_point(**stars)

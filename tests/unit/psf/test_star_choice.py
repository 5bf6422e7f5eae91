"""The star locus among galaxies."""

import numpy as np
import pytest

from skymill.data.errors import NoDataError
from skymill.psf.star_choice import StarChoiceOptions, choose_stars


def field(rng, n_stars, n_galaxies):
    sigma = np.concatenate(
        [
            1.6 * np.exp(rng.normal(0, 0.01, n_stars)),
            1.6 * np.exp(np.abs(rng.normal(0.35, 0.3, n_galaxies))),
        ]
    )
    e = rng.normal(0, np.r_[np.full(n_stars, 0.01), np.full(n_galaxies, 0.25)])
    snr = 10 ** rng.uniform(1.0, 3.5, n_stars + n_galaxies)
    return sigma, e, snr


@pytest.mark.parametrize(("n_stars", "n_galaxies"), [(100, 100), (40, 400), (12, 60)])
def test_stars_are_found_among_galaxies(n_stars, n_galaxies):
    rng = np.random.default_rng(7)
    sigma, e, snr = field(rng, n_stars, n_galaxies)
    good = np.ones(sigma.size, bool)
    chosen = choose_stars(sigma=sigma, e1=e, e2=0 * e, snr=snr, good=good, rng=rng)
    assert abs(np.log(chosen.sigma / 1.6)) < 0.03
    bright = snr[:n_stars] > 50
    assert chosen.candidate[:n_stars][bright].mean() > 0.95
    # Nothing off the locus gets in: its half width of 0.06, and the error of its centre.
    assert np.abs(np.log(sigma[chosen.candidate] / 1.6)).max() < 0.09
    assert not np.any(chosen.reserved & ~chosen.candidate)


def test_flagged_objects_are_never_chosen():
    rng = np.random.default_rng(8)
    sigma, e, snr = field(rng, 60, 60)
    good = rng.random(sigma.size) < 0.5
    chosen = choose_stars(sigma=sigma, e1=e, e2=e, snr=snr, good=good, rng=rng)
    assert not np.any(chosen.candidate & ~good)


def test_too_few_objects_is_a_sentence():
    rng = np.random.default_rng(9)
    sigma, e, snr = field(rng, 3, 0)
    with pytest.raises(NoDataError, match="fewer than 5 stars"):
        choose_stars(
            sigma=sigma,
            e1=e,
            e2=e,
            snr=snr,
            good=np.ones(3, bool),
            rng=rng,
            options=StarChoiceOptions(),
        )

import numpy as np
import pytest

from skymill.calibrate.stellar_locus import StellarLocusOptions, fit_locus_line, fit_locus_offset
from skymill.data.errors import ConfigError, NoDataError


def make_stars(n=2000, offset=0.1, seed=1):
    rng = np.random.default_rng(seed)
    g, gr = rng.uniform(16, 21, n), rng.uniform(0.1, 0.8, n)
    ug = 1.6 * gr + 0.5
    ug += np.where(gr > 0.6, 0.5, 0.0)  # not straight beyond the range
    u = g + ug + offset + rng.normal(0, 0.03, n)
    u[: n // 50] += 1.0  # binaries, quasars
    return {"u": u, "g": g, "r": g - gr}


def test_injected_offset_comes_back():
    options = StellarLocusOptions(slope=1.6, intercept=0.5, has_line=True)
    offsets = [fit_locus_offset(make_stars(seed=s), options=options) for s in range(20)]
    mean, error = np.mean([o[0] for o in offsets]), offsets[0][1]
    # About 900 stars of 30 mmag: 1 mmag each, 0.25 mmag of the mean.
    assert abs(mean - 0.1) < 0.001
    assert np.std([o[0] for o in offsets]) == pytest.approx(error, rel=0.5)


def test_line_through_models():
    gr = np.linspace(0, 1, 10)
    assert fit_locus_line(1.5 * gr + 0.3, gr) == pytest.approx((1.5, 0.3))
    with pytest.raises(NoDataError, match="needs 3 stars; got 1"):
        fit_locus_line(np.array([1.0, np.nan]), np.array([1.0, 1.0]))


def test_clear_sentences():
    with pytest.raises(ConfigError, match="needs slope and intercept"):
        fit_locus_offset(make_stars(), options=StellarLocusOptions())
    options = StellarLocusOptions(has_line=True)
    with pytest.raises(NoDataError, match="needs the band u"):
        fit_locus_offset({"g": np.ones(3), "r": np.ones(3)}, options=options)
    stars = {k: np.full(5, np.nan) for k in "ugr"}  # a band that is empty everywhere
    with pytest.raises(NoDataError, match="0 stars of the locus"):
        fit_locus_offset(stars, options=options)

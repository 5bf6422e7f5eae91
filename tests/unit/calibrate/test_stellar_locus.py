import numpy as np
import pytest

from skymill.calibrate.filters import load_filters
from skymill.calibrate.stellar_locus import (
    StellarLocusOptions,
    fit_stellar_locus,
    learn_locus,
    library_locus,
)
from skymill.calibrate.synthetic import load_stellar_spectra, synthetic_magnitudes
from skymill.data.errors import ConfigError, DataError, NoDataError

BANDS = "ugriz"
OFFSETS = np.array([0.1, 0.03, -0.03, 0.03, -0.03])
#: Every dwarf of the library from F0 to M5: not the smooth track of the code.
TYPES = ["F0V", "F2V", "F5V", "F6V", "F8V", "G0V", "G2V", "G5V", "G8V", "K0V", "K2V", "K3V",
         "K4V", "K5V", "K7V", "M0V", "M1V", "M2V", "M3V", "M4V", "M5V"]  # fmt: skip


@pytest.fixture(scope="module")
def spectra():
    library = load_stellar_spectra()
    return synthetic_magnitudes([library[t] for t in TYPES], load_filters("decam", BANDS))


def make_stars(spectra, *, n=2000, seed=1, outliers=0.05):
    """Stars between neighbouring spectral types, with noise, a wide locus and outliers."""
    rng = np.random.default_rng(seed)
    place = np.clip(np.r_[rng.normal(8, 3, n // 2), rng.normal(17, 2, n - n // 2)], 1, 19.9)
    shape = spectra - spectra[:, 2:3]
    m = np.stack([np.interp(place, np.arange(len(shape)), c) for c in shape.T], axis=1)
    m += rng.uniform(16, 20.5, (n, 1)) + rng.normal(0, [0.05, 0.015, 0.015, 0.015, 0.015], m.shape)
    err = np.hypot(0.005, 0.01 * 10 ** (0.3 * (m - 20)))
    m += rng.normal(0, err) + OFFSETS
    bad = rng.random(n) < outliers
    m[bad] += rng.normal(0, 0.5, (bad.sum(), 5))
    return {b: m[:, k] for k, b in enumerate(BANDS)}, {b: err[:, k] for k, b in enumerate(BANDS)}


def test_injected_errors_with_references_in_griz(spectra):
    magnitudes, errors = make_stars(spectra)
    magnitudes["u"][::3] = np.nan
    rng = np.random.default_rng(9)
    known = {b: (OFFSETS[k] + rng.normal(0, 0.002), 0.002) for k, b in enumerate(BANDS) if k}
    found = fit_stellar_locus(magnitudes, errors, library_locus(BANDS), known=known)
    # The requirement: 0.1 mag in u and 0.03 mag in griz to 5 mmag.
    assert np.abs(found.offset - OFFSETS).max() < 0.005
    sigma = np.sqrt(np.diag(found.covariance))
    # The systematic error of the locus stays in u.
    assert sigma[0] == pytest.approx(0.03, rel=0.1)
    assert (sigma[1:] < 0.005).all()
    assert found.outlier_fraction == pytest.approx(0.05, abs=0.02)


def test_colours_alone_with_an_anchor(spectra):
    magnitudes, errors = make_stars(spectra, seed=2)
    options = StellarLocusOptions(anchor="r", model_error=0.0, model_error_u=0.0)
    found = fit_stellar_locus(magnitudes, errors, library_locus(BANDS), options=options)
    miss = found.offset - (OFFSETS - OFFSETS[2])
    assert np.abs(miss).max() < 0.005
    assert found.offset[2] == pytest.approx(0.0, abs=1e-4)
    assert found.covariance == pytest.approx(found.covariance.T)
    assert np.linalg.eigvalsh(found.covariance).min() > -1e-15
    # Bands share the stars' places on the locus.
    sigma = np.sqrt(np.diag(found.covariance))
    assert abs(found.covariance[0, 1] / (sigma[0] * sigma[1])) > 0.05


def test_errors_are_those_of_repeated_samples(spectra):
    # Stars drawn from the model's own track: what is left is noise alone.
    model = library_locus("griz")
    options = StellarLocusOptions(anchor="r", model_error=0.0, scatter=0.015)
    pulls = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        place = np.clip(rng.normal(40, 18, 300), 5, 90)
        m = np.stack([np.interp(place, np.arange(100), c) for c in model.magnitude.T], axis=1)
        m += rng.uniform(16, 20, (300, 1)) + rng.normal(0, np.hypot(0.015, 0.01), m.shape)
        stars = dict(zip("griz", m.T, strict=True))
        found = fit_stellar_locus(
            stars, dict.fromkeys("griz", np.full(300, 0.01)), model, options=options
        )
        pulls.append((found.offset / np.sqrt(np.diag(found.covariance)))[[0, 2, 3]])
    # 36 correlated pulls.
    assert np.std(pulls) == pytest.approx(1.0, abs=0.4)
    assert abs(np.mean(pulls)) < 0.6


def test_a_learnt_locus(spectra):
    magnitudes, _ = make_stars(spectra, seed=3, n=4000)
    true = {b: magnitudes[b] - OFFSETS[k] for k, b in enumerate(BANDS)}
    model = learn_locus(true)
    others, errors = make_stars(spectra, seed=4)
    found = fit_stellar_locus(others, errors, model)
    miss = found.offset - (OFFSETS - OFFSETS[2])
    assert np.abs(miss[1:]).max() < 0.005
    # u has the scatter of the metallicities twice.
    assert abs(miss[0]) < 0.01


def test_clear_sentences(spectra):
    magnitudes, errors = make_stars(spectra, n=60)
    with pytest.raises(NoDataError, match="needs 30 stars with three bands"):
        fit_stellar_locus(
            {b: m[:20] for b, m in magnitudes.items()}, {b: e[:20] for b, e in errors.items()},
            library_locus(BANDS),
        )  # fmt: skip
    with pytest.raises(DataError, match="no magnitude and error in band u"):
        fit_stellar_locus({"g": magnitudes["g"]}, errors, library_locus(BANDS))
    with pytest.raises(ConfigError, match="needs g, r and i; got u, g"):
        library_locus("ug")
    with pytest.raises(NoDataError, match="needs 200 stars"):
        learn_locus(magnitudes)

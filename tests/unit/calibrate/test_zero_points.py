import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.stellar_locus import StellarLocusOptions
from skymill.calibrate.zero_points import (
    ZeroPointOptions,
    fit_zero_point,
    fit_zero_points,
    parse_colour_terms,
)
from skymill.data.errors import ConfigError, NoDataError


def make_pair(n=500, *, offset=0.03, seed=1, term=0.0, ebv=0.0):
    rng = np.random.default_rng(seed)
    ra, dec = (359.9 + rng.uniform(0, 0.2, n)) % 360, rng.uniform(-0.1, 0.1, n)
    g, colour = rng.uniform(16.5, 20.5, n), rng.uniform(0.1, 0.65, n)
    reference = Table(
        {
            "id": np.arange(n), "ra": ra, "dec": dec, "epoch": np.full(n, 57000.0),
            **{c: np.full(n, 5.0) for c in ("ra_err", "dec_err", "pm_ra_err", "pm_dec_err")},
            **{c: np.zeros(n) for c in ("pm_ra", "pm_dec", "parallax")},
        }
    )  # fmt: skip
    for band, mag, k in (("g", g, 3.08), ("i", g - colour, 1.63)):
        reference[f"{band}_flux"] = 10 ** (-0.4 * (mag + k * ebv - 31.4000237))
        reference[f"{band}_flux_err"] = 0.005 * reference[f"{band}_flux"]
    error = np.full(n, 0.01)
    mag = g + offset + term * colour + rng.normal(0, 0.0112, n)
    mag[:25] += 0.7  # variables
    stars = Table({"ra": ra, "dec": dec, "g_psf_mag": mag, "g_psf_magerr": error})
    return stars, [reference]


def fit(stars, references, ebv=0.0, **options):
    return fit_zero_point(
        stars, references, band="g", reference_band="g", ebv=np.full(len(stars), ebv),
        reference_coefficient=3.08, options=ZeroPointOptions(**options),
        colour_coefficients=(3.08, 1.63),
    )  # fmt: skip


def test_offset_and_its_error():
    pulls = []
    for seed in range(40):
        found = fit(*make_pair(seed=seed))
        pulls.append((found.offset - 0.03) / found.error)
        # 475 stars of 11.2 mmag.
        assert found.error == pytest.approx(0.0112 / np.sqrt(475), rel=0.25)
    assert abs(np.mean(pulls)) < 3 / np.sqrt(40)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.35)


def test_many_far_outliers():
    stars, references = make_pair()
    stars["g_psf_mag"][::5] += 2.5  # outside of the exposure of a band, say
    found = fit(stars, references)
    assert found.offset == pytest.approx(0.03, abs=4 * 0.0112 / np.sqrt(380))


def test_extinction_and_colour_term():
    found = fit(*make_pair(ebv=0.2, term=0.1), ebv=0.2, colour_terms=("g:0.0,0.1",), max_colour=0.7)
    assert found.offset == pytest.approx(0.03, abs=0.002)


def test_clear_sentences():
    stars, references = make_pair()
    far = stars.copy()
    far["ra"] = (far["ra"] + 1.0) % 360
    with pytest.raises(NoDataError, match="band g: 0 stars match"):
        fit(far, references)
    with pytest.raises(ConfigError, match="a colour term is written"):
        parse_colour_terms(("g:a,b",))
    with pytest.raises(ConfigError, match="max_mag must be > min_mag"):
        ZeroPointOptions(min_mag=20.0, max_mag=18.0)


def test_u_of_another_survey_is_not_taken_as_ours():
    stars, references = make_pair()
    stars["u_psf_mag"], stars["u_psf_magerr"] = stars["g_psf_mag"], stars["g_psf_magerr"]
    stars["ebv"] = 0.0
    references[0]["u_flux"] = references[0]["g_flux"]
    references[0]["u_flux_err"] = references[0]["g_flux_err"]
    common = {
        "bands": ["u"], "band_map": {}, "name": "x", "locus": StellarLocusOptions(use=False),
    }  # fmt: skip
    table = fit_zero_points(stars, references, survey="sdss", camera="decam", **common).table
    assert table["source"][0] == "none"
    assert "u of sdss is another band than that of decam" in table["message"][0]
    for survey, camera in (("sdss", ""), ("des", "decam"), ("decam", "decam")):
        found = fit_zero_points(stars, references, survey=survey, camera=camera, **common)
        assert found.table["offset"][0] == pytest.approx(0.03, abs=0.004)
        assert found.stars["used"].sum() == found.table["n_star"][0]
        # Residuals are after the zero point.
        assert abs(np.median(found.stars["residual"][found.stars["used"]])) < 0.004

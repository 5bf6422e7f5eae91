import numpy as np
import pytest

from skymill.calibrate.colour_terms import find_colour_term
from skymill.calibrate.filters import FilterCurve, load_filters
from skymill.calibrate.synthetic import (
    choose_colour_term,
    compute_colour_term,
    load_stellar_spectra,
    synthetic_magnitudes,
)
from skymill.data.errors import ConfigError


def test_flat_spectrum_and_speclite():
    wave = np.arange(3000.0, 11000.0, 5.0)
    # F_nu = 3631 Jy in F_lambda: magnitude zero in every band (48.6 is rounded: 0.2 mmag).
    flat = 3.631e-20 * 2.99792458e18 / wave**2
    found = synthetic_magnitudes([(wave, flat)], load_filters("decam", "ugriz"))
    assert np.abs(found).max() < 1e-3
    speclite = pytest.importorskip("speclite.filters")
    library = load_stellar_spectra()
    stars = [library[n] for n in ("A0V", "G2V", "M3V")]
    ours = synthetic_magnitudes(stars, load_filters("decam", "griz"))
    for (w, f), row in zip(stars, ours, strict=True):
        table = speclite.load_filters(*[f"decam2014-{b}" for b in "griz"]).get_ab_magnitudes(
            f * 1e-15 * speclite.default_flux_unit, w * speclite.default_wavelength_unit
        )
        peer = np.array([float(table[n][0]) for n in table.colnames])
        # It integrates on the coarse grid of the filter alone: 3 mmag in g of M stars.
        assert np.abs((row - row[1]) - (peer - peer[1])).max() < 0.004


def test_a_spectrum_that_ends_in_the_band_has_no_magnitude():
    curve = FilterCurve("x", np.array([4000.0, 5000.0, 6000.0]), np.array([0.5, 1.0, 0.5]))
    wave = np.arange(4500.0, 7000.0, 5.0)
    assert np.isnan(synthetic_magnitudes([(wave, np.ones_like(wave))], [curve])).all()


@pytest.mark.parametrize("catalogue", ["ps1", "sdss", "hsc"])
@pytest.mark.parametrize(("band", "limit"), [("g", 0.012), ("r", 0.006), ("i", 0.006), ("z", 0.02)])
def test_computed_terms_agree_with_published_ones(catalogue, band, limit):
    known = find_colour_term(catalogue, band)
    ours = compute_colour_term(catalogue, band, secondary=known.secondary)
    colour = np.linspace(0.1, 0.6, 6)
    difference = ours.term.magnitude_offset(colour) - known.term.magnitude_offset(colour)
    # Both are averages over the same atlas; the published curves are older ones.
    assert np.nanmax(np.abs(difference)) < limit


def test_terms_without_a_published_one():
    term = compute_colour_term("legacy_north", "z", camera="decam")
    assert (term.primary, term.secondary) == ("z", "g")
    u = compute_colour_term("sdss", "u")
    assert (u.primary, u.secondary) == ("u", "g")
    # DECam's u is redder than that of SDSS, and stars are red.
    assert (u.term.magnitude_offset(np.array([1.0, 1.2, 1.4])) < -0.2).all()
    with pytest.raises(ConfigError, match="no filter curves of 'gaia'"):
        compute_colour_term("gaia", "g")
    with pytest.raises(ConfigError, match="ps1 has no band 'u'"):
        compute_colour_term("ps1", "u")


def test_curves_and_terms_of_skymapper():
    curves = load_filters("sm_dr4", "uvgriz")
    mean = [np.trapezoid(c.wavelength * c.throughput, c.wavelength)
            / np.trapezoid(c.throughput, c.wavelength) for c in curves]  # fmt: skip
    # Central wavelengths of Wolf et al. 2018, PASA 35, e010 [nm].
    assert np.allclose(mean, [3490, 3840, 5100, 6170, 7790, 9160], atol=15)
    # At a colour of 0.5 mag: its g and r are redder than DECam's, its i and z the same to 2 %.
    at = np.array([0.5])
    step = [float(compute_colour_term("sm_dr4", b).term.magnitude_offset(at)[0]) for b in "griz"]
    assert 0.15 < step[0] < 0.21
    assert -0.14 < step[1] < -0.10
    assert np.abs(step[2:]).max() < 0.02
    # One curve may also take the place of a camera's.
    (g,) = load_filters("decam", "g", other={"g": "skymapper-g"})
    assert np.array_equal(g.wavelength, curves[2].wavelength)


def test_the_term_that_is_chosen():
    assert choose_colour_term("ps1_dr2", "g", camera="DECam") == find_colour_term("ps1", "g")
    assert choose_colour_term("sm_dr4_g", "g") == compute_colour_term("sm_dr4", "g")
    # u and v of SkyMapper are not DECam's; DES is DECam; a catalogue of one's own is the camera's.
    for catalogue, band in (("sm_dr4_v", "u"), ("des", "g"), ("mine", "g"), ("bass", "g")):
        assert choose_colour_term(catalogue, band) is None

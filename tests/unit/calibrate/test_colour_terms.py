import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.colour_terms import CatalogueTerm, ColourTerm, find_colour_term
from skymill.calibrate.reference import ReferenceOptions, load_references
from skymill.data.errors import DataError


def shard(**bands):
    n = len(next(iter(bands.values())))
    table = Table(
        {
            "id": np.arange(n), "ra": 10.0 + 0.01 * np.arange(n), "dec": np.zeros(n),
            "epoch": np.full(n, 57000.0), "ra_err": np.full(n, 5.0), "dec_err": np.full(n, 5.0),
        }
    )  # fmt: skip
    for band, mag in bands.items():
        table[f"{band}_flux"] = 10 ** (-0.4 * (np.asarray(mag) - 31.4))
        table[f"{band}_flux_err"] = 0.01 * table[f"{band}_flux"]
    return table


def load(table, band, **options):
    term = find_colour_term("ps1", band)
    return load_references(
        [table], band=band, epoch_mjd=57000.0, colour_term=term, options=ReferenceOptions(**options)
    )


def test_published_numbers():
    term = find_colour_term("ps1", "r")
    assert (term.primary, term.secondary) == ("r", "i")
    # The closed form by hand, at r - i = 0.5.
    expected = -0.006775 - 0.187304 * 0.5 + 0.018928 * 0.25
    assert term.term.magnitude_offset(np.array([0.5]))[0] == pytest.approx(expected, abs=1e-12)
    assert find_colour_term("sdss_dr12", "z").secondary == "i"
    assert find_colour_term("sm_dr4_g", "g") is None
    assert find_colour_term("ps1", "Y") is None
    assert find_colour_term("ps1", "g", camera="bok") is None


def test_fluxes_of_references_are_those_of_the_camera():
    stars = load(shard(r=[18.0, 18.0, 18.0], i=[17.5, 15.0, 18.1]), "r")
    # The second star is redder than the term allows.
    assert list(stars.id) == [0, 2]
    mag = 31.4 - 2.5 * np.log10(stars.flux)
    assert mag[0] == pytest.approx(18.0 - 0.006775 - 0.187304 * 0.5 + 0.018928 * 0.25, abs=1e-9)


def test_errors_against_drawn_fluxes():
    term = CatalogueTerm("r", "i", ColourTerm(0.0, -0.3, 0.05))
    rng = np.random.default_rng(1)
    a, b = 100 * (1 + 0.01 * rng.normal(size=40000)), 150 * (1 + 0.02 * rng.normal(size=40000))
    flux, _ = term.transform(a, a, b, b)
    _, error = term.transform(*(np.array([v]) for v in (100.0, 1.0, 150.0, 3.0)))
    # Standard error of a standard deviation of 40000 draws: 0.35 %.
    assert error[0] == pytest.approx(flux.std(), rel=0.02)


def test_other_columns_stay_and_missing_bands_are_told():
    table = shard(r=[18.0], i=[17.5], g=[18.6])
    plain = load(table, "r", flux_field="g")
    assert 31.4 - 2.5 * np.log10(plain.flux[0]) == pytest.approx(18.6)
    table.remove_columns(["i_flux", "i_flux_err"])
    with pytest.raises(DataError, match=r"colour term of r needs the band i.*applyColorTerms"):
        load(table, "r")

import dataclasses
import json

import numpy as np
import pytest
from astropy.table import Table, vstack

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.flags import ShearFlag
from skymill.shear.calibration import CalibrateShearOptions, calibrate_shears


def make_catalogue(n=4000, *, g=(0.05, -0.03), sigma=0.3, noise=0.1, seed=1):
    """Distortions in pixel axes of galaxies under a constant shear given in sky axes."""
    rng = np.random.default_rng(seed)
    modulus = np.minimum(rng.rayleigh(sigma, n // 2), 0.95)
    phase = rng.uniform(0, 2 * np.pi, n // 2)
    e = modulus * np.exp(1j * phase)
    e = np.concatenate([e, -e])  # pairs at right angles cancel the shape noise
    source = e / (1 + np.sqrt(1 - np.abs(e) ** 2))
    shear = g[0] - 1j * g[1]  # pixel axes: x to the West
    seen = (source + shear) / (1 + np.conj(shear) * source)
    e = 2 * seen / (1 + np.abs(seen) ** 2)
    return Table(
        {
            "ID": [f"a{i}" for i in range(n)],
            "ra": rng.uniform(0, 1, n),
            "dec": rng.uniform(0, 1, n),
            "e1": e.real + rng.normal(0, noise, n),
            "e2": e.imag + rng.normal(0, noise, n),
            "sigmae": np.full(n, noise),
            "res": np.full(n, 0.6),
            "blendedness": np.full(n, 0.0),
            "r_cmodel_mag": np.full(n, 23.0),
            "r_cmodel_magerr": np.full(n, 0.03),
            "sdss_psf_e1": np.full(n, 0.02),
            "sdss_psf_e2": np.full(n, 0.0),
            "hsm_flag": np.zeros(n, bool),
        }
    )


def test_constant_shear_comes_back_in_sky_axes():
    options = CalibrateShearOptions(method="responsivity", bias_faint=0.0)
    table = calibrate_shears(make_catalogue(40000), options=options)
    # Noise 0.1/2/sqrt(40000) = 2.5e-4; the responsivity formula is exact to order e^4 g: 1 %.
    assert np.average(table["g1"], weights=table["weight"]) == pytest.approx(0.05, abs=1.5e-3)
    assert np.average(table["g2"], weights=table["weight"]) == pytest.approx(-0.03, abs=1.5e-3)
    assert np.array_equal(table["g2"], -table["g2_pixel"])


def test_bias_by_option_is_divided_out():
    catalogue = make_catalogue()
    options = CalibrateShearOptions(method="responsivity", bias_faint=0.0)
    plain = calibrate_shears(catalogue, options=options)
    with_m = calibrate_shears(catalogue, options=dataclasses.replace(options, bias_offset=-0.1))
    assert np.allclose(with_m["g1"], plain["g1"] / 0.9)
    faint = calibrate_shears(catalogue, options=dataclasses.replace(options, bias_faint=-2.0))
    # Every magnitude has an error of 0.03: S/N = 1.0857 / 0.03.
    assert np.allclose(faint["g1"], plain["g1"] / (1 - 2.0 * 0.03 / 1.0857362))


def test_shapes_without_a_redshift_stay_unless_asked():
    catalogue = make_catalogue(300)
    n = len(catalogue)
    z = np.where(np.arange(n) < 100, np.nan, 0.7)
    odds = np.where(np.isnan(z), np.nan, 0.9)
    photoz = Table({"ID": catalogue["ID"], "z_phot": z, "odds": odds, "mod_chi2": odds})
    kept = calibrate_shears(catalogue, photoz, options=CalibrateShearOptions(min_odds=0.7))
    assert np.array_equal(kept["use"], calibrate_shears(catalogue)["use"])
    options = CalibrateShearOptions(keep_unknown_z=False)
    known = calibrate_shears(catalogue, photoz, options=options)
    assert np.array_equal(known["use"], np.asarray(kept["use"]) & ~np.isnan(z))


def test_responsivity_and_weights_know_underestimated_errors():
    bright, faint = make_catalogue(20000, noise=0.02), make_catalogue(20000, noise=0.3, seed=2)
    bright["r_cmodel_magerr"], faint["r_cmodel_magerr"] = 0.01, 0.1
    faint["sigmae"] = 0.2  # 1.5 times too small
    table = calibrate_shears(vstack([bright, faint]), options=CalibrateShearOptions())
    intrinsic = table["e_rms"][0] ** 2
    # Rayleigh with sigma 0.3, cut at 0.95, and a shear of 0.06 on top: a few per cent.
    assert intrinsic == pytest.approx(0.09, rel=0.1)
    use = np.asarray(table["use"])
    weight = np.asarray(table["weight"])
    ratio = weight[use][-1] / weight[use][0]
    # 40000 squares have an error of 0.7 %; the intrinsic variance bears the 10 % from above.
    assert ratio == pytest.approx((intrinsic + 0.0009) / (intrinsic + 0.09), rel=0.05)


OWN = """
from astropy.table import Table

def shears(catalogue, use, options):
    assert use.dtype == bool
    return Table({"g1": catalogue["e1"] / 2, "g2": catalogue["e2"] / 2, "weight": use * 3.0})

def too_few(catalogue, use, options):
    return shears(catalogue, use, options)[:-1]
"""


def test_a_users_own_method(tmp_path, monkeypatch):
    (tmp_path / "own_shears.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    catalogue = make_catalogue(50)
    catalogue["res"][0] = 0.1
    table = calibrate_shears(catalogue, options=CalibrateShearOptions(method="own_shears.shears"))
    assert np.allclose(table["g1"], catalogue["e1"] / 2)
    assert np.allclose(table["g2"], -catalogue["e2"] / 2)  # sky axes
    assert table["use"].sum() == 49
    assert np.allclose(table["weight"][1:], 3.0)
    with pytest.raises(DataError, match="table of 50 rows with g1, g2, weight; got 49 rows"):
        calibrate_shears(catalogue, options=CalibrateShearOptions(method="own_shears.too_few"))


def test_cuts_have_two_sides_and_are_counted():
    catalogue = make_catalogue(100)
    catalogue["e1"][0] = -6.0
    catalogue["e1"][1] = np.nan
    catalogue["res"][2] = 0.1
    catalogue["r_cmodel_mag"][3] = 15.0
    catalogue["r_cmodel_mag"][4] = np.nan
    table = calibrate_shears(catalogue, options=CalibrateShearOptions(method="responsivity"))
    assert table["use"][:5].tolist() == [False] * 5
    assert table["shear_flags"][1] & int(ShearFlag.NO_SHAPE)
    assert table["shear_flags"][0] & int(ShearFlag.CUT)
    counts = json.loads(table.meta["cuts"])
    assert (counts["distortion"], counts["no_shape"], counts["resolution"]) == (1, 1, 1)
    assert counts["magnitude"] == 2


def test_outside_of_the_calibration_is_not_used():
    catalogue = make_catalogue(100)
    catalogue["r_cmodel_magerr"][:30] = 0.12  # S/N 9
    table = calibrate_shears(catalogue, options=CalibrateShearOptions(method="hsc"))
    assert table["use"].sum() == 70
    assert (table["shear_flags"][:30] == int(ShearFlag.OUTSIDE_CALIBRATION)).all()
    allowed = CalibrateShearOptions(method="hsc", allow_outside=True)
    assert calibrate_shears(catalogue, options=allowed)["use"].sum() == 100


def test_clear_sentences():
    catalogue = make_catalogue(10)
    with pytest.raises(ConfigError, match="method must be one of hsc"):
        CalibrateShearOptions(method="magic")
    catalogue["res"] = 0.0
    with pytest.raises(NoDataError, match=r"none of 10 objects passes .* resolution 10"):
        calibrate_shears(catalogue)
    catalogue.remove_column("res")
    with pytest.raises(DataError, match="no column 'res'"):
        calibrate_shears(catalogue)

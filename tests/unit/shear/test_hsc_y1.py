from importlib import resources

import numpy as np
import pytest
from astropy.table import Table
from scipy.interpolate import griddata

from skymill.shear.calibration import CalibrateShearOptions, calibrate_shears
from skymill.shear.hsc_y1 import evaluate_hsc_y1


def published_formula(snr, resolution):
    """m, a, e_rms, weight of Mandelbaum et al. 2018, written once more from the paper."""
    folder = resources.files("skymill.shear.hsc_tables")
    with resources.as_file(folder / "hsc_y1.npz") as path, np.load(path) as data:
        tables = {name: data[name] for name in data.files}
    place = np.stack([np.log10(snr), resolution], -1)

    def read(name, column):
        table = tables[name]
        points = np.stack([np.log10(table[:, 0]), table[:, 1]], -1)
        values = griddata(points, table[:, column], place, method="linear")
        nearest = griddata(points, table[:, column], place, method="nearest")
        return np.where(np.isfinite(values), values, nearest)

    s, r = snr / 20.0, resolution
    sigma = 0.264 * s**-0.891 * (r / 0.5) ** -1.015 * read("sigmae", 2)
    e_rms = read("erms", 2)
    m = -0.1408 * s**-1.23 * (r / 0.5) ** 1.76 - 0.0214 + read("model", 2)
    m = m - 1.31 + (27.26 + s**-1.22) / (r + 20.8) + read("selection", 2)
    a = 0.175 * s**-1.07 * (r - 0.508) + read("model", 4)
    a = a - 0.089 * (r - 0.71) * s**-2.2 + read("selection", 4)
    return m, a, e_rms, 1.0 / (sigma**2 + e_rms**2)


def random_catalogue(n=3000):
    rng = np.random.default_rng(8)
    snr = 10 ** rng.uniform(np.log10(16), np.log10(180), n)
    e1, e2 = rng.normal(0, 0.3, (2, n))
    return snr, Table(
        {
            "ID": [f"a{i}" for i in range(n)], "ra": rng.uniform(0, 1, n),
            "dec": rng.uniform(0, 1, n), "e1": e1, "e2": e2, "sigmae": np.full(n, 0.1),
            "res": rng.uniform(0.38, 0.85, n), "blendedness": np.zeros(n),
            "r_cmodel_mag": np.full(n, 23.0), "r_cmodel_magerr": 2.5 / np.log(10) / snr,
            "sdss_psf_e1": rng.normal(0, 0.03, n), "sdss_psf_e2": rng.normal(0, 0.03, n),
        }
    )  # fmt: skip


def test_hsc_shears_are_those_of_the_published_formulas():
    snr, catalogue = random_catalogue()
    table = calibrate_shears(catalogue, options=CalibrateShearOptions(method="hsc"))
    m, a, e_rms, weight = published_formula(snr, np.asarray(catalogue["res"]))
    use = np.asarray(table["use"])
    assert use.sum() > 2900
    response = 1.0 - np.sum((weight * e_rms**2)[use]) / weight[use].sum()
    mean_m = np.sum((weight * m)[use]) / weight[use].sum()
    for k, sign in ((1, 1.0), (2, -1.0)):
        e, psf = (np.asarray(catalogue[c]) for c in (f"e{k}", f"sdss_psf_e{k}"))
        truth = (e / (2.0 * response) - a * psf) / (1.0 + mean_m)
        np.testing.assert_allclose(sign * table[f"g{k}"], truth, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(table["weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(table["shear_m"], m, rtol=1e-6, atol=1e-9)


def test_naive_shears_are_those_of_the_published_formulas():
    _, catalogue = random_catalogue(100)
    table = calibrate_shears(catalogue, options=CalibrateShearOptions(method="naive"))
    np.testing.assert_allclose(table["g1"], catalogue["e1"] / (2 * 0.866775), rtol=1e-6)
    np.testing.assert_allclose(table["g2"], -catalogue["e2"] / (2 * 0.866775), rtol=1e-6)
    np.testing.assert_allclose(table["weight"], 7.506099, rtol=1e-6)


def test_values_of_the_published_script():
    # The published script run at (S/N, R2); values to the digits that were recorded.
    found = evaluate_hsc_y1([10, 20, 50, 100], [0.4, 0.5, 0.7, 0.9], extrapolate=True)
    assert np.allclose(found.m, [-0.245, -0.216, -0.110, -0.097], atol=6e-4)
    assert np.allclose(found.weight[:2], [1.87, 4.17], atol=6e-3)


def test_outside_of_the_range_is_flagged_and_not_extrapolated():
    found = evaluate_hsc_y1([5, 30, 30, 1000, np.nan], [0.5, 0.2, 0.5, 0.5, 0.5])
    assert found.outside.tolist() == [True, True, False, False, True]
    edge = evaluate_hsc_y1([15, 30, 181], [0.5, 0.3774, 0.5])
    assert found.m[0] == pytest.approx(edge.m[0])
    assert found.m[1] == pytest.approx(edge.m[1])
    assert found.m[3] == pytest.approx(edge.m[2])
    assert np.isfinite(found.m).all()

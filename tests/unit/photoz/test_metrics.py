import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.photoz.metrics import (
    MetricOptions,
    cde_loss,
    measure_photoz,
    pit_values,
    point_metrics,
)
from skymill.photoz.storage import encode_pz


def gaussians(n, *, width=0.05, shift=0.0, seed=3):
    """Gaussian p(z) around a measured redshift, and truths drawn from them."""
    rng = np.random.default_rng(seed)
    z = np.arange(0.01, 1.5, 0.02)
    middle = rng.uniform(0.4, 1.0, n)
    truth = middle + rng.normal(0, width, n)
    p = np.exp(-0.5 * ((z - middle[:, None] - shift) / width) ** 2)
    return p / p.sum(axis=1, keepdims=True), z, truth, middle + shift


def test_point_metrics_by_hand():
    found = point_metrics([0.5, 1.0, 0.2, np.nan, 0.3], [0.5, 0.6, 0.26, 0.1, np.nan])
    # dz = 0, 0.25, -0.047619
    assert found["n"] == 3
    assert found["bias"] == 0.0
    assert found["nmad"] == pytest.approx(1.4826 * 0.06 / 1.26)
    assert found["nmad_published"] == pytest.approx(1.48 * 0.06 / 1.26)
    assert found["outliers"] == pytest.approx(1 / 3)
    assert np.isnan(point_metrics([np.nan], [0.3])["nmad"])


def test_pit_is_uniform_where_pz_is_right_and_tells_what_is_wrong():
    p, z, truth, _ = gaussians(5000)
    pit = pit_values(p, z, truth)
    # Kolmogorov: 1.63 / sqrt(n) at 1 %.
    assert np.max(np.abs(np.sort(pit) - (np.arange(5000) + 0.5) / 5000)) < 1.63 / np.sqrt(5000)
    narrow = np.exp(-0.5 * ((z - truth[:, None]) / 0.05) ** 2)
    assert np.std(pit_values(narrow / narrow.sum(axis=1, keepdims=True), z, truth)) < 0.05
    wide = pit_values(gaussians(5000, shift=0.1)[0], z, truth)
    assert np.mean(wide) < 0.2
    assert np.isnan(pit_values(np.zeros((1, len(z))), z, [0.5]))[0]
    assert np.isnan(pit_values(p[:1], z, [np.nan]))[0]
    assert list(pit_values(p[:1], z, [9.0])) == pytest.approx([1.0])


def test_cde_loss_closed_form_and_order():
    p, z, truth, middle = gaussians(4000)
    # For a Gaussian of width s: int p^2 = 1/(2 s sqrt(pi)), and the mean of p(truth) is the same.
    assert cde_loss(p, z, truth) == pytest.approx(-1 / (2 * 0.05 * np.sqrt(np.pi)), rel=0.02)
    for other in (0.02, 0.1):
        wrong = np.exp(-0.5 * ((z - middle[:, None]) / other) ** 2)
        wrong /= wrong.sum(axis=1, keepdims=True)
        assert cde_loss(wrong, z, truth) > cde_loss(p, z, truth)
    assert np.isnan(cde_loss(p[:2], z, [np.nan, np.nan]))


def photoz_table(n=500):
    p, z, truth, middle = gaussians(n)
    odds = np.where(np.arange(n) % 2, 0.9, 0.5)
    return Table(
        {
            "z_phot": middle, "z_median": middle, "z_mean": middle, "z_ml": middle + 0.5,
            "odds": odds, "mod_chi2": np.ones(n), "pz": encode_pz(p.astype(np.float32)),
            "pz_z0": np.full(n, z[0]), "pz_dz": np.full(n, 0.02),
        }
    ), truth  # fmt: skip


def test_table_of_metrics():
    table, truth = photoz_table()
    truth[0] = np.nan
    found = measure_photoz(table, truth)
    assert len(found) == 8
    rows = {(r["sample"], r["estimate"]): r for r in found}
    assert (rows["all", "z_phot"]["n"], rows["sure", "z_phot"]["n"]) == (499, 250)
    assert rows["all", "z_ml"]["outliers"] > 0.9
    assert rows["all", "z_phot"]["outliers"] == 0
    assert rows["all", "z_phot"]["pit_ks"] < 0.08
    table.remove_columns(["pz"])
    assert np.isnan(measure_photoz(table, truth)["cde_loss"]).all()


def test_clear_sentences():
    table, truth = photoz_table(5)
    with pytest.raises(NoDataError, match="no galaxy has both"):
        measure_photoz(table, np.full(5, np.nan))
    with pytest.raises(DataError, match="z_spec must be"):
        measure_photoz(table, truth[:3])
    with pytest.raises(DataError, match="2 bins"):
        pit_values(np.ones((2, 3)), np.arange(4.0), [0.1, 0.2])
    with pytest.raises(ConfigError, match="min_odds"):
        MetricOptions(min_odds=3.0)

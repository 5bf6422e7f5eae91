import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.photoz.estimate import models_of
from skymill.photoz.options import PhotozOptions
from skymill.photoz.training import TrainingOptions, train_zero_points, zero_point_entries

BANDS = ["u", "g", "r", "i", "z"]
OFFSETS = np.array([0.15, -0.06, 0.04, 0.0, -0.05])


@pytest.fixture(scope="module")
def setup():
    options = PhotozOptions(dz=0.01, z_max=1.5, prior="flat", min_mag_err=0.02)
    return options, models_of(BANDS, options=options)


def simulate(models, n, seed=1):
    """Template galaxies whose magnitudes miss OFFSETS; u and g are faint, some are outliers."""
    rng = np.random.default_rng(seed)
    t, i = rng.integers(0, models.flux.shape[1], n), rng.integers(10, 110, n)
    flux = models.flux[:, t, i].T.astype(float)
    flux *= (10 ** rng.uniform(2.8, 4, n) / flux[:, 3])[:, None]
    err = np.tile([[100.0, 40.0, 30.0, 30.0, 60.0]], (n, 1))
    flux = (flux + rng.normal(0, err)) * 10 ** (0.4 * OFFSETS)
    flux[::20, 1] *= 3.0  # a neighbour in g
    flux[7::30, 2] = np.nan
    return flux, err * 10 ** (0.4 * OFFSETS), models.z[i]


def test_offsets_are_recovered_with_their_errors(setup):
    options, models = setup
    flux, err, z = simulate(models, 3000)
    table = train_zero_points(flux, err, z, bands=BANDS, photoz=options, models=models)
    miss = np.asarray(table["offset"]) - OFFSETS
    # In u (signal to noise 1 to 20) the choice of the template follows the noise a little.
    assert np.abs(miss[0]) < 0.03
    assert np.abs(miss[1:]).max() < 0.006
    moved = np.asarray(table["band"]) != "i"
    sigma = np.asarray(table["offset_err"])[moved]
    assert (sigma > 0).all()
    assert (sigma < 0.005).all()
    assert table["message"].tolist() == ["", "", "", "stays: the reference band", ""]
    again = PhotozOptions(zero_points=zero_point_entries(table))
    assert again.zero_point("u") == pytest.approx(table["offset"][0], abs=1e-4)


def test_faint_bands_are_not_favoured_where_noise_made_them_bright(setup):
    options, models = setup
    flux, err, z = simulate(models, 3000, seed=3)
    rng = np.random.default_rng(4)
    # u at a signal to noise of about one.
    noise = 0.7 * np.nanmedian(flux[:, 0])
    flux[:, 0] += rng.normal(0, noise, len(flux))
    err[:, 0] = np.hypot(err[:, 0], noise)
    table = train_zero_points(flux, err, z, bands=BANDS, photoz=options, models=models)
    u = table[0]
    # A cut at a signal to noise of 5 in u would leave only what noise made brighter by 1 mag.
    assert abs(u["offset"] - OFFSETS[0]) < 0.07
    assert u["offset_err"] < 0.05


def test_an_offset_too_large_for_photometry_is_told(setup):
    options, models = setup
    flux, err, z = simulate(models, 400)
    flux[:, 4], err[:, 4] = 1.4 * flux[:, 4], 1.4 * err[:, 4]
    table = train_zero_points(flux, err, z, bands=BANDS, photoz=options, models=models)
    assert table["offset"][4] > 0.25
    assert "the templates are other" in table["message"][4]


def test_a_band_of_too_few_galaxies_stays(setup):
    options, models = setup
    flux, err, z = simulate(models, 400)
    flux[10:, 0] = np.nan
    table = train_zero_points(flux, err, z, bands=BANDS, photoz=options, models=models)
    assert table["message"][0] == "stays: too few galaxies"
    assert table["offset"][0] == 0.0
    assert np.isnan(table["offset_err"][0])


def test_clear_sentences(setup):
    options, models = setup
    flux, err, z = simulate(models, 30)
    with pytest.raises(NoDataError, match="needs 20 galaxies"):
        train_zero_points(flux, err, z + 5, bands=BANDS, photoz=options, models=models)
    with pytest.raises(ConfigError, match="reference band of the training"):
        train_zero_points(flux, err, z, bands=BANDS, photoz=options,
                          options=TrainingOptions(reference_band="Y"))  # fmt: skip
    with pytest.raises(DataError, match="z_spec must be"):
        train_zero_points(flux, err, z[:3], bands=BANDS, photoz=options)
    with pytest.raises(ConfigError, match="a zero point is written band=mag"):
        PhotozOptions(zero_points=("u:0.1",))
    with pytest.raises(ConfigError, match="a filter is written"):
        PhotozOptions(filters=("g",))

import numpy as np
import pytest
from astropy.table import Table

from skymill.data.errors import ConfigError, DataError
from skymill.data.flags import PhotozFlag
from skymill.photoz.estimate import PhotozOptions, estimate_photoz
from skymill.photoz.metrics import pit_values
from skymill.photoz.priors import prior_of_classes
from skymill.photoz.spectra import (
    CWWSB,
    FilterCurve,
    load_filters,
    load_template,
    make_model_fluxes,
)
from skymill.photoz.storage import decode_pz, encode_pz, grid_of, match_pz

BANDS = "ugriz"


@pytest.fixture(scope="module")
def models():
    options = PhotozOptions(dz=0.01, z_max=1.5)
    return options, make_model_fluxes(load_filters("decam", BANDS), z=options.z)


def simulate(models, n=300, snr=50.0, seed=1):
    rng = np.random.default_rng(seed)
    t, i = rng.integers(0, models.flux.shape[1], n), rng.integers(5, 120, n)
    flux = models.flux[:, t, i].T.astype(float) * 10 ** rng.uniform(2.5, 4, (n, 1))
    err = flux.mean(axis=1, keepdims=True) / snr * np.ones(5)
    return flux + rng.normal(0, err), err, models.z[i]


def brute_force(flux, err, models, options, magnitude):
    """p(z) of one galaxy in double precision, without smoothing."""
    extra = options.min_mag_err * np.log(10) / 2.5 * np.abs(flux)
    w = 1 / (err**2 + extra**2)
    m = models.flux.astype(float)
    a = np.maximum(np.einsum("b,btz->tz", w * flux, m) / np.einsum("b,btz->tz", w, m**2), 0)
    chi2 = np.einsum("b,btz->tz", w, (flux[:, None, None] - a * m) ** 2)
    share = models.class_weight / models.class_weight.sum(axis=0)
    prior = share @ prior_of_classes(options.prior, magnitude=magnitude, z=models.z)
    p = prior * np.exp(-0.5 * (chi2 - chi2[prior > 0].min()))
    if options.likelihood == "marginal":
        # The brightness integrated with a flat prior in the flux of i.
        p *= m[3] / np.sqrt(np.einsum("b,btz->tz", w, m**2))
    p = p.sum(axis=0)
    return p / p.sum(), chi2


@pytest.mark.parametrize("likelihood", ["marginal", "profile"])
def test_posterior_agrees_with_brute_force(models, likelihood):
    options, m = models
    options = PhotozOptions(
        dz=0.01, z_max=1.5, smoothing=0.0, bin_width=0.01, likelihood=likelihood
    )
    flux, err, _ = simulate(m, n=20, snr=15)
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    for k in range(20):
        magnitude = np.rint(table["prior_mag"][k] / 0.05) * 0.05
        p, chi2 = brute_force(flux[k], err[k], m, options, magnitude)
        assert table["z_phot"][k] == pytest.approx(m.z[p.argmax()])
        assert table["z_mean"][k] == pytest.approx(np.sum(p * m.z), rel=1e-4)
        assert table["chi2"][k] == pytest.approx(chi2.min(), rel=1e-3, abs=1e-3)
        _, z = np.unravel_index(chi2.argmin(), chi2.shape)
        assert table["z_ml"][k] == pytest.approx(m.z[z])
        # One byte a bin: 0.4 % of the highest.
        kept = decode_pz(np.asarray(table["pz"][k : k + 1]))[0]
        assert np.abs(kept[: len(p)] - p).max() < 0.01 * p.max()


def test_redshifts_of_the_templates_themselves(models):
    options, m = models
    flux, err, z = simulate(m, snr=100.0)
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    d = (table["z_phot"] - z) / (1 + z)
    # Colours of 1-2 % (with the error floor) leave few degeneracies.
    assert 1.4826 * np.median(np.abs(d)) < 0.02
    assert np.mean(np.abs(d) > 0.15) < 0.1
    good = table["odds"] > 0.95
    assert np.mean(np.abs(d[good]) > 0.15) < 0.03


def draw_galaxies(m, name, rng, n=40_000):
    """Type, redshift and brightness from the prior itself; noise on every band."""
    share = m.class_weight / m.class_weight.sum(axis=0)
    magnitude = rng.choice(np.arange(19.0, 23.01, 0.25), n)
    t, i = np.empty(n, int), np.empty(n, int)
    for value in np.unique(magnitude):
        rows = np.flatnonzero(magnitude == value)
        joint = share @ prior_of_classes(name, magnitude=value, z=m.z, cut=0.0)
        cell = rng.choice(joint.size, rows.size, p=joint.ravel() / joint.sum())
        t[rows], i[rows] = np.divmod(cell, joint.shape[1])
    flux = m.flux[:, t, i].T.astype(float)
    flux *= (10 ** (-0.4 * (magnitude - 31.4)) / flux[:, 3])[:, None]
    err = np.tile([[150.0, 100.0, 100.0, 60.0, 150.0]], (n, 1))
    z = m.z[i] + rng.uniform(-0.5, 0.5, n) * (m.z[1] - m.z[0])
    return flux + rng.normal(0, err), err, z


def worst_tenth(flux, err, z, options, models):
    """Largest deviation of the tenths of the probability integral transform from 0.1."""
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=models)
    pit = pit_values(decode_pz(np.asarray(table["pz"])), grid_of(table), z)
    share = np.histogram(pit, np.linspace(0, 1, 11))[0] / len(z)
    assert share.sum() == pytest.approx(1.0)
    return np.abs(share - 0.1).max()


@pytest.mark.parametrize(
    ("name", "likelihood"),
    [("flat", "profile"), ("ngvs", "profile"), ("ngvs", "marginal"), ("hdfn", "marginal")],
)
def test_pit_is_flat_on_simulated_truth(models, name, likelihood):
    options = PhotozOptions(
        dz=0.01, z_max=1.5, smoothing=0.0, prior=name, prior_cut=0.0, bin_width=0.01,
        min_mag_err=0.0, likelihood=likelihood,
    )  # fmt: skip
    _, m = models
    flux, err, z = draw_galaxies(m, name, np.random.default_rng(5))
    # A tenth of 40,000 galaxies has a standard error of 0.0015.
    assert worst_tenth(flux, err, z, options, m) + 2 * 0.0015 < 0.01
    # The test has power: errors that are 15 % too small, or g off by 0.03 mag, fail.
    assert worst_tenth(flux, err / 1.15, z, options, m) > 0.014
    flux[:, 1] *= 10 ** (-0.4 * 0.03)
    assert worst_tenth(flux, err, z, options, m) > 0.05


def test_missing_bands_and_limits(models):
    options, m = models
    flux, err, _ = simulate(m, n=6)
    flux[0, 3] = np.nan  # the prior's band
    flux[1, :] = np.nan
    flux[2, 1:] = np.nan
    flux[3] = -np.abs(flux[3])
    err[4, 0] = np.inf
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    flags = np.asarray(table["photoz_flags"])
    assert flags[0] & int(PhotozFlag.PRIOR_OTHER_BAND)
    assert np.isfinite(table["z_phot"][0])
    for k in (1, 2):
        assert flags[k] & int(PhotozFlag.NO_ESTIMATE)
        assert np.isnan(table["z_phot"][k])
        assert decode_pz(np.asarray(table["pz"][k : k + 1])).sum() == 0
    assert flags[3] & int(PhotozFlag.NO_PRIOR)
    assert table["n_band"].tolist() == [4, 0, 1, 5, 4, 5]


def test_upper_limit_constrains(models):
    options, m = models
    # A red galaxy at z = 0.45: u is empty, and that emptiness is information.
    i = int(np.argmin(np.abs(m.z - 0.45)))
    flux = m.flux[:, 0, i].astype(float)[None] * 1000
    err = np.array([[3.0, 20, 20, 20, 20]])
    flux[0, 0] = 0.0
    with_u = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    err[0, 0] = np.nan
    without = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    assert (with_u["n_band"][0], without["n_band"][0]) == (5, 4)
    assert with_u["z_high"] - with_u["z_low"] <= without["z_high"] - without["z_low"] + 0.02


@pytest.mark.parametrize("name", ["ngvs", "hdfn", "flat"])
@pytest.mark.parametrize("magnitude", [9.0, 12.5, 15.0, 18.0, 20.0, 24.0, 28.0, np.nan])
def test_priors_sum_to_one(name, magnitude):
    prior = prior_of_classes(name, magnitude=magnitude, z=np.arange(0.01, 1.5, 0.001))
    assert (prior >= 0).all()
    assert prior.sum() == pytest.approx(1.0, abs=1e-12)


def test_templates_and_filters():
    for name in CWWSB:
        wave, flux = load_template(name)
        assert (np.diff(wave) >= 0).all()
        assert flux.max() > 0
    # A flat spectrum per unit frequency has one AB magnitude in every band.
    with pytest.raises(ConfigError, match="template must be one of"):
        load_template("QSO")
    with pytest.raises(ConfigError, match="decam has no band 'H'"):
        load_filters("decam", "gH")
    with pytest.raises(DataError, match="wavelengths of filter x must rise"):
        FilterCurve("x", np.array([2.0, 1.0]), np.ones(2))


def test_storage_round_trip():
    rng = np.random.default_rng(1)
    p = rng.random((50, 75)).astype(np.float32) ** 8
    p /= p.sum(axis=1, keepdims=True)
    p[0] = 0
    back = decode_pz(encode_pz(p))
    assert np.abs(back - p).max() < 0.01 * p.max()
    assert back[0].sum() == 0
    assert np.allclose(back[1:].sum(axis=1), 1)


def test_pz_is_found_by_id(models):
    options, m = models
    flux, err, _ = simulate(m, n=5)
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    table["ID"] = [f"g{k}" for k in range(5)]
    pz, z = match_pz(table, Table({"ID": ["g3", "absent", "g0"]}))
    assert np.allclose(pz[0], decode_pz(np.asarray(table["pz"]))[3])
    assert pz[1].sum() == 0
    assert np.array_equal(z, grid_of(table))
    with pytest.raises(DataError, match="no ID of the catalogue"):
        match_pz(table, Table({"ID": ["x"]}))
    table.remove_column("pz")
    with pytest.raises(DataError, match="has no p"):
        match_pz(table, table)


def test_zero_points_and_filters_of_the_options(models):
    options, m = models
    flux, err, _ = simulate(m, n=20)
    shifted = flux * 10 ** (-0.4 * np.array([0.1, 0, 0, 0, 0]))
    wanted = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    # 0.1 mag too faint in u, and taken away again (the errors scale with it).
    undo = PhotozOptions(dz=0.01, z_max=1.5, zero_points=("u=-0.1",))
    err[:, 0] *= 10**-0.04
    found = estimate_photoz(shifted, err, bands=BANDS, options=undo, models=m)
    assert np.array_equal(found["z_phot"], wanted["z_phot"])
    sdss = PhotozOptions(camera="sdss")
    assert (sdss.zero_point("u"), sdss.zero_point("g"), sdss.zero_point("z")) == (-0.04, 0.0, 0.02)
    assert PhotozOptions(camera="sdss", ab_corrections=False).zero_point("u") == 0.0
    north = load_filters("legacy_north", "grz")
    assert [f.band for f in north] == ["g", "r", "z"]
    other = load_filters("decam", "gr", other={"g": "BASS-g"})
    assert np.array_equal(other[0].throughput, north[0].throughput)
    with pytest.raises(ConfigError, match="no filter curve 'nothing-g'"):
        load_filters("decam", "g", other={"g": "nothing-g"})


def test_bands_absent_everywhere(models):
    options, m = models
    flux, err, _ = simulate(m, n=5)
    flux[:, 0] = np.nan
    table = estimate_photoz(flux, err, bands=BANDS, options=options, models=m)
    assert table.meta["bands_absent"] == "u"
    assert np.isfinite(table["z_phot"]).all()
    flux[:, 1:4] = np.nan
    with pytest.raises(DataError, match=r"2 bands that are measured somewhere; .* is z"):
        estimate_photoz(flux, err, bands=BANDS, options=options, models=m)


def test_shapes_must_agree():
    with pytest.raises(DataError, match="flux and flux_err must be"):
        estimate_photoz(np.ones((3, 2)), np.ones((3, 3)), bands="gri")


def test_reference_answers(shared_data):
    h5py = pytest.importorskip("h5py")
    folder = shared_data / "photoz" / "bpz_oracle"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    with h5py.File(folder / "test1000.h5") as f, h5py.File(folder / "test1000.bpz.h5") as g:
        values = f["df/block2_values"][:].astype(float)
        z_b, z_ml = g["Z_B"][:], g["Z_ML"][:]
        odds, chi2 = g["ODDS"][:], g["CHI_SQ"][:]
    with h5py.File(folder / "test1000_probs.h5") as f:
        expected = f["PDF"][:]
    mag, mag_err = values[:, 0::2], values[:, 1::2].copy()
    # The .columns file of that run takes the errors of g for r too ("scatmag_r, scaterr_g"), and
    # its answers are those of these errors.
    columns = (folder / "CSDC2114_test.columns").read_text()
    assert "scatmag_r, scaterr_g" in columns
    mag_err[:, 2] = mag_err[:, 1]
    flux = 10 ** (-0.4 * (mag - 31.4))
    err = (10 ** (0.4 * mag_err) - 1) * flux
    absent = mag > 90
    flux[absent], err[absent] = 0.0, 10 ** (-0.4 * (np.abs(mag_err[absent]) - 31.4))
    curves = []
    for band in "ugrizy":
        table = np.loadtxt(folder / "FILTER" / f"DC2LSST_{band}.res")
        _, first = np.unique(table[:, 0], return_index=True)
        curves.append(FilterCurve(band, table[first, 0], table[first, 1]))
    # The order of CWWSB4.list.
    order = [*CWWSB[:4], CWWSB[5], CWWSB[4], *CWWSB[6:]]
    options = PhotozOptions(
        prior="hdfn", n_interpolate=0, z_min=0.005, z_max=3.505, dz=0.01,
        bin_width=0.01, min_mag_err=0.005, odds_width=0.99446 * 0.05,
    )  # fmt: skip
    models = make_model_fluxes(curves, z=options.z, templates=order, n_interpolate=0)
    table = estimate_photoz(flux, err, bands="ugrizy", options=options, models=models)
    # The rest of the differences: that code interpolates its models over redshift.
    assert np.mean(np.abs(table["z_phot"] - z_b) < 0.01) > 0.98
    # One cell of the grid is 0.01, and floats of 4 bytes do not subtract to it.
    assert np.mean(np.abs(table["z_phot"] - z_b) < 0.0101) > 0.995
    assert np.mean(np.abs(table["z_ml"] - z_ml) < 0.0101) > 0.99
    assert np.mean(np.abs(table["chi2"] / 5 / chi2 - 1) < 0.02) > 0.95
    # Its odds take whole cells of the grid at the ends of the interval: half a cell's worth.
    assert np.mean(np.abs(table["odds"] - odds) < 0.05) > 0.97
    # Probability that is not in common: that code cuts below 1 % of the peak, ours stores bytes.
    apart = 0.5 * np.abs(decode_pz(np.asarray(table["pz"])) - expected).sum(axis=1)
    assert np.median(apart) < 0.01
    assert np.mean(apart < 0.05) > 0.97

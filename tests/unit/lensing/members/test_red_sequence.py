"""Red sequences that are known: ridge, probabilities, richness, density, grades, faults."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS
from scipy.special import erfc
from scipy.stats import chi2 as chi2_distribution

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.members.galaxy_density import make_footprint
from skymill.lensing.members.membership import (
    field_density,
    fit_completeness,
    radial_profile,
    solve_richness,
)
from skymill.lensing.members.purity import grade_members
from skymill.lensing.members.red_sequence import RedSequenceOptions, find_red_sequence
from skymill.lensing.members.ridge import Ridge, choose_colour, expected_colour
from skymill.photoz.spectra import load_filters, make_model_fluxes

BANDS, CENTRE, N_MEMBERS = "griz", (359.98, -2.0), 80
#: The members differ from the template by these colours; slope and scatter are theirs.
SHIFT, SLOPE, SCATTER = (0.05, -0.02, 0.01), -0.03, (0.04, 0.02, 0.02)


def scale(z):
    """Mpc for each arcminute."""
    return float(FIDUCIAL.angular_distance(z)) * np.pi / 10800


def characteristic(z):
    far = FIDUCIAL.comoving_distance([z, 0.1]) * [1 + z, 1.1]
    return 16.27 + 5 * np.log10(far[0] / far[1]) - 0.3 * (z - 0.1)


def field_galaxies(rng, side):
    """Random templates and redshifts, a fifth of them ellipticals; counts of 0.35 dex."""
    n = rng.poisson(5.0 * side**2)
    grid = np.arange(0.01, 1.6, 0.01)
    model = make_model_fluxes(load_filters("decam", tuple(BANDS)), z=grid, n_interpolate=4)
    kind = np.where(rng.random(n) < 0.2, 0, rng.integers(0, model.flux.shape[1], n))
    z = np.clip(rng.gamma(3.0, 0.2, n), 0.02, 1.58)
    flux = model.flux[:, kind, np.rint(z / 0.01).astype(int) - 1].astype(float)
    i_mag = 15 + np.log10(1 + rng.random(n) * (10 ** (0.35 * 9) - 1)) / 0.35
    mag = i_mag - 2.5 * np.log10(flux / flux[2]) + rng.normal(0, 0.02, flux.shape)
    return mag, *rng.uniform(-side / 2, side / 2, (2, n))


def member_galaxies(rng, z, n, scatter):
    radius = np.linspace(1e-3, 1.0, 4000)
    chance = np.cumsum(radial_profile(radius, limit=1.0) * radius)
    distance = np.interp(rng.random(n), chance / chance[-1], radius) / scale(z)
    angle = rng.uniform(0, 2 * np.pi, n)
    m_star = characteristic(z)
    grid = np.linspace(m_star - 3, min(m_star + 4.2, 22.9), 2000)
    chance = np.cumsum(np.exp(-(10 ** (-0.4 * (grid - m_star)))))
    mag = np.interp(rng.random(n), chance / chance[-1], grid)
    colour = [expected_colour(z, a, b) for a, b in ("gr", "ri", "iz")]
    colour = (np.array(colour) + SHIFT)[:, None] + rng.normal(0, 1, (3, n)) * np.c_[scatter,]
    colour[0] += SLOPE * (mag - m_star)
    r = mag + colour[1]
    return (
        np.stack([r + colour[0], r, mag, mag - colour[2]]),
        distance * np.cos(angle),
        distance * np.sin(angle),
    )


def make_catalogue(seed, z, *, n=N_MEMBERS, depth=25.5, hole=False, end=None, scatter=SCATTER):
    rng = np.random.default_rng(seed)
    parts = field_galaxies(rng, max(60.0, 6.0 / scale(z))), member_galaxies(rng, z, n, scatter)
    mag, x, y = (np.concatenate([p[k] for p in parts], axis=-1) for k in range(3))
    err = np.clip(np.hypot(0.01, 0.2 * 10 ** (0.4 * (mag - depth))), 0, 3)
    mag = mag + rng.normal(0, 1, mag.shape) * err
    table = Table(
        {
            "ID": np.arange(len(x)).astype(str),
            "ra": (CENTRE[0] + x / 60 / np.cos(np.radians(CENTRE[1]))) % 360,
            "dec": CENTRE[1] + y / 60,
            "is_member": np.arange(len(x)) >= len(x) - n,
        }
    )
    for k, band in enumerate(BANDS):
        table[f"{band}_cmodel_mag"], table[f"{band}_cmodel_magerr"] = mag[k], err[k]
    if end is not None:
        # Galaxies are lost about this magnitude.
        kept = rng.random(len(x)) < 0.5 * erfc((mag[2] - end) / np.sqrt(2) / 0.3)
        return table[kept]
    # A hole that takes the Eastern part of the cluster.
    return table[np.hypot(x - 4, y) > 3] if hole else table


def test_chi2_is_that_of_the_covariance():
    rng = np.random.default_rng(1)
    ridge = Ridge(
        bands=("g", "r", "i"), reference="r", pivot=19.0, colour=np.array([1.2, 0.5]),
        slope=np.array([-0.03, 0.01]), scatter=np.array([0.05, 0.03]),
    )  # fmt: skip
    mag, err = rng.uniform(18, 21, (3, 6)), rng.uniform(0.02, 0.2, (3, 6))
    mag[0, 4] = np.nan  # lacks g
    mag[1, 5] = np.nan  # lacks the reference band
    found = ridge.chi2(mag, err)
    for k in range(5):
        to_colours = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
        line = ridge.colour + ridge.slope * (mag[1, k] - 19.0)
        covariance = to_colours @ np.diag(err[:, k] ** 2) @ to_colours.T
        covariance += np.diag(ridge.scatter**2)
        keep = slice(None) if k < 4 else slice(1, 2)
        residual = (to_colours @ np.nan_to_num(mag[:, k]) - line)[keep]
        value = residual @ np.linalg.solve(covariance[keep, keep], residual)
        if k < 4:
            assert found[k] == pytest.approx(value, rel=1e-9)
        else:
            # The value of two colours that is as likely; the error of no band is 1000 mag.
            assert chi2_distribution.sf(found[k], 2) == pytest.approx(
                chi2_distribution.sf(value, 1), rel=1e-4
            )
    assert np.isnan(found[5])


def test_probabilities_add_up_to_the_richness():
    rng = np.random.default_rng(2)
    ratio = 10.0 ** rng.normal(-1.5, 1.0, 500)
    found = solve_richness(ratio, covered=0.7)
    assert found.probability.sum() == pytest.approx(0.7 * found.richness, rel=1e-4)

    # It is the maximum, with the curvature that the error says.
    def likelihood(richness):
        return np.log1p(richness * ratio).sum() - 0.7 * richness

    step = found.richness_err
    sides = [likelihood(found.richness + s) for s in (-0.1 * step, 0.0, 0.1 * step)]
    assert sides[1] > max(sides[0], sides[2])
    assert sides[0] + sides[2] - 2 * sides[1] == pytest.approx(-0.01, rel=0.01)
    assert solve_richness(1e-4 * ratio).richness == 0.0


def test_a_field_that_crowds_about_the_ridge_is_measured():
    rng = np.random.default_rng(4)
    # Per unit of t = chi^3, 400 exp(-chi) / (Mpc2 mag), the same at all magnitudes.
    chi = np.linspace(0, 8, 100_000)
    chance = np.cumsum(chi**2 * np.exp(-chi))
    total = 400 * np.trapezoid(3 * chi**2 * np.exp(-chi), chi) * 4.0 * 5.0
    n = rng.poisson(total)
    drawn = np.interp(rng.random(n), chance / chance[-1], chi)
    mag = rng.uniform(17, 21, n)
    found = field_density(
        drawn**2, mag, np.ones(n), area=5.0, n_colours=3, chi2_max=25.0
    )  # fmt: skip
    # Under the kernel of 0.3 most of the volume lies further out: the innermost is averaged.
    for low, high, error in ((0.0, 0.7, 0.22), (0.7, 1.5, 0.1), (1.5, 3.0, 0.05), (3.0, 4.5, 0.05)):
        ring = (drawn >= low) & (drawn < high)
        mean = np.mean(found[ring] / (400 * np.exp(-drawn[ring])))
        assert mean == pytest.approx(1, abs=error)
    # An empty field is not a certain one.
    few = field_density(
        np.full(9, 4.0), np.linspace(17, 21, 9), np.zeros(9), area=5.0, n_colours=3, chi2_max=25.0
    )
    assert np.all(few > 0)


def test_the_end_of_a_catalogue_is_found():
    rng = np.random.default_rng(5)
    mag = 22.0 + np.log10(rng.random(20_000)) / 0.4
    assert fit_completeness(mag).limit == np.inf
    share = 0.5 * erfc((mag - 20.8) / np.sqrt(2) / 0.3)
    found = fit_completeness(mag[rng.random(len(mag)) < share])
    assert found.limit == pytest.approx(20.8, abs=0.1)
    assert found.width == pytest.approx(0.3, abs=0.1)
    # Cut sharply within the fall.
    found = fit_completeness(mag[(rng.random(len(mag)) < share) & (mag < 21.0)])
    assert found.limit == pytest.approx(20.8, abs=0.1)
    assert found.share(np.array([18.0, found.limit]))[[0, 1]] == pytest.approx([1.0, 0.5])


@pytest.mark.parametrize("density", [0.3, 3.0, 30.0])
def test_a_thin_catalogue_has_no_holes_but_its_own(density):
    rng = np.random.default_rng(6)
    east, north = rng.uniform(-30, 30, (2, rng.poisson(density * 3600)))
    whole = make_footprint(east, north, step=26.3 / 60)
    inside = whole.radius < 25
    assert whole.coverage[inside].mean() > 0.998
    keep = np.hypot(east - 8, north) > 7
    holed = make_footprint(east[keep], north[keep], step=26.3 / 60)
    # To the West is to the right; the hole loses half of a gap at its rim.
    hole = np.hypot(whole.offsets[None, :] + 8, whole.offsets[:, None]) < 7
    assert 0 <= holed.coverage[hole].mean() < (0.45 if density < 1 else 0.12)


@pytest.mark.parametrize("z", [0.05, 0.12, 0.2, 0.3])
def test_members_are_found_at_any_redshift(z):
    truth, expected, pulls = [], [], []
    for seed in range(3):
        catalogue = make_catalogue(seed, z)
        found = find_red_sequence(catalogue, z=z, centre=CENTRE)
        index = found.table["ID"].astype(int)
        truth.append(np.asarray(catalogue["is_member"])[index])
        expected.append(np.asarray(found.table["p_member"]))
        pulls.append((found.table.meta["richness"] - N_MEMBERS) / found.table.meta["richness_err"])
        # Errors of the mean of 80 members, and the pull to the template of 0.08 mag.
        assert np.all(np.abs(found.ridge.scatter - SCATTER) < 0.015)
        middle = found.ridge.line(np.array([characteristic(z)]))[:, 0]
        right = np.array([expected_colour(z, a, b) for a, b in ("gr", "ri", "iz")]) + SHIFT
        assert np.all(np.abs(middle - right) < 0.025)
    truth, expected = np.concatenate(truth), np.concatenate(expected)
    # Richness: the scatter of the field alone, as the number of members is fixed; at most 1 sigma
    # of the mean of three.
    assert abs(np.mean(pulls)) < 0.6
    sure = expected > 0.5
    print(  # noqa: T201
        f"z = {z}: purity {truth[sure].mean():.3f}, completeness "
        f"{truth[sure].sum() / (3 * N_MEMBERS):.3f}, mean pull {np.mean(pulls):+.2f}"
    )
    # Purity and completeness of the simulation.
    assert truth[expected > 0.5].mean() > 0.9
    assert truth[expected > 0.5].sum() > 0.85 * 3 * N_MEMBERS
    # The probabilities are frequencies: four binomial errors.
    for low, high in ((0.02, 0.5), (0.5, 1.01)):
        chosen = (expected > low) & (expected <= high)
        error = np.sqrt((expected * (1 - expected))[chosen].sum())
        assert abs(truth[chosen].sum() - expected[chosen].sum()) < 4 * error + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "depth", "end"), [(25, 25.5, None), (25, 21.6, 20.7), (80, 21.6, 20.7)]
)
def test_probabilities_are_frequencies(n, depth, end):
    """Also of a poor cluster at z = 0.228 in a catalogue as shallow as that of the SDSS."""
    z, true, promised, pulls = 0.228, [], [], []
    m_star = characteristic(z)
    for seed in range(20):
        catalogue = make_catalogue(seed, z, n=n, depth=depth, end=end, scatter=(0.05, 0.03, 0.03))
        found = find_red_sequence(catalogue, z=z, centre=CENTRE).table
        row = np.searchsorted(catalogue["ID"].astype(int), found["ID"].astype(int))
        true.append(np.asarray(catalogue["is_member"])[row])
        promised.append(np.asarray(found["p_member"]))
        grid = np.linspace(m_star - 3, m_star + 4.2, 2000)
        shape = np.exp(-(10 ** (-0.4 * (grid - m_star))))
        share = shape[grid < found.meta["faint_mag"]].sum() / shape.sum()
        pulls.append((found.meta["richness"] - share * n) / found.meta["richness_err"])
    true, promised = np.concatenate(true), np.concatenate(promised)
    words = []
    for low, high in ((0.1, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.9), (0.9, 1.0)):
        chosen = (promised > low) & (promised <= high)
        error = np.sqrt((promised * (1 - promised))[chosen].sum()) / chosen.sum()
        words.append(f"{promised[chosen].mean():.2f}: {true[chosen].mean():.2f} +- {error:.2f}")
        # The ridge, its scatter and the field are fitted to few galaxies.
        assert abs(true[chosen].mean() - promised[chosen].mean()) < 0.05 + 3 * error, words
    print(  # noqa: T201
        f"{n} members, depth {depth}, end {end}: promised: true {', '.join(words)}; "
        f"mean pull of the richness {np.mean(pulls):+.2f}"
    )
    # Of 20 clusters +-0.22; a poor one gains a little, as its ridge is sought where the excess is.
    assert abs(np.mean(pulls)) < 0.55


def test_a_hole_is_corrected():
    catalogue = make_catalogue(7, 0.2, hole=True)
    found = find_red_sequence(catalogue, z=0.2, centre=CENTRE)
    meta = found.table.meta
    assert meta["covered_share"] < 0.9
    assert abs(meta["richness"] - N_MEMBERS) < 1.5 * meta["richness_err"]
    # In the hole nothing is claimed; beyond it the density is that of the field within its noise.
    coverage = found.density["COVERAGE"].data
    assert not found.density["DENSITY"].data[coverage < 0.1].any()
    wcs = WCS(found.density["DENSITY"].header)
    y, x = np.unravel_index(found.density["SNR"].data.argmax(), coverage.shape)
    ra, dec = wcs.wcs_pix2world(x, y, 0)
    east = (ra - CENTRE[0] + 180) % 360 - 180
    assert np.hypot(east, dec - CENTRE[1]) * 60 < 2.0
    far = np.hypot(*(np.indices(coverage.shape) - len(coverage) // 2)) * 26.3 / 60 > 12
    chosen = found.density["DENSITY"].data[far & (coverage > 0.9)]
    assert abs(chosen.mean()) < 0.02


def test_two_bands_and_masked_columns_are_enough():
    catalogue = make_catalogue(9, 0.2)
    catalogue.remove_columns(["i_cmodel_mag", "z_cmodel_mag"])
    full = Table(catalogue, masked=True)
    full["g_cmodel_mag"].mask[::50] = True
    found = find_red_sequence(
        full, z=0.2, centre=CENTRE, options=RedSequenceOptions(camera="bok", faint_mag=19.0)
    )
    meta = found.table.meta
    assert (meta["bands"], meta["reference"]) == ("gr", "r")
    assert not set(found.table["ID"].astype(int)) & set(range(0, len(catalogue), 50))
    # The members end at 19.0 + 2.1 mag here, where two thirds of them are brighter.
    assert meta["significance"] > 8
    assert 0.4 * N_MEMBERS < meta["richness"] < 1.1 * N_MEMBERS


def test_no_cluster_has_no_richness():
    found = find_red_sequence(make_catalogue(8, 0.2, n=0), z=0.2, centre=CENTRE)
    assert found.table.meta["richness"] < 12
    assert found.table.meta["significance"] < 4


def test_grades_count_the_spectra_of_the_region():
    sequence = Table(
        {"ra": [0.001, 359.999, 0.01, 0.02], "dec": [0.0, 0.0, 0.0, 0.0],
         "p_member": [0.95, 0.85, 0.6, 0.2]}
    )  # fmt: skip
    spectra = Table(
        {
            "ra": [0.001, 359.999, 0.01, 0.03, 0.02, 5.0, np.nan],
            "dec": np.zeros(7),
            "z": [0.2, 0.205, 0.4, 0.199, 0.2, 0.2, 0.2],
        }
    )
    grades = grade_members(sequence, spectra, z=0.2, centre=(0.0, 0.0), radius_arcmin=5.0)
    half = grades[np.isclose(grades["threshold"], 0.5)][0]
    # Chosen: three, of which two are members; members: four in the region, two of them chosen.
    assert (half["n_chosen"], half["n_member"]) == (3, 4)
    assert half["purity"] == pytest.approx(2 / 3)
    assert half["completeness"] == pytest.approx(0.5)
    assert half["purity_low"] < half["purity"] < half["purity_high"]
    assert grades.meta["n_spectra"] == 5
    empty = grade_members(sequence, spectra[:0], z=0.2, centre=(0.0, 0.0), radius_arcmin=5.0)
    assert np.isnan(empty["purity"]).all()
    assert not empty["n_chosen"].any()
    with pytest.raises(DataError, match="no column z"):
        grade_members(sequence, spectra["ra", "dec"], z=0.2, centre=(0.0, 0.0), radius_arcmin=5.0)


def test_the_key_colour_follows_the_break():
    assert choose_colour(0.1, list("griz")) == ("g", "r")
    assert choose_colour(0.5, list("griz")) == ("r", "i")
    assert choose_colour(0.2, list("gi")) == ("g", "i")


def test_faults_are_sentences():
    good = make_catalogue(3, 0.2)
    with pytest.raises(ConfigError, match="redshift of the cluster must be in"):
        find_red_sequence(good, z=0.0, centre=CENTRE)
    with pytest.raises(NoDataError, match="galaxies within"):
        find_red_sequence(good[:1], z=0.2, centre=CENTRE)
    with pytest.raises(NoDataError, match="no galaxy of the catalogue has a position"):
        find_red_sequence(good, z=0.2, centre=(180.0, 0.0))
    with pytest.raises(NoDataError, match="is the centre off the field"):
        find_red_sequence(good, z=0.2, centre=(5.0, 0.0))
    with pytest.raises(DataError, match="the catalogue has none"):
        find_red_sequence(good[:0], z=0.2, centre=CENTRE)
    nan = good.copy()
    nan["r_cmodel_mag"] = np.nan
    # Without r the break lies between g and i.
    found = find_red_sequence(nan, z=0.2, centre=CENTRE)
    assert (found.table.meta["blue"], found.table.meta["red"]) == ("g", "i")
    with pytest.raises(DataError, match="no magnitudes of band 'r'"):
        find_red_sequence(nan, z=0.2, centre=CENTRE, options=RedSequenceOptions(blue="g", red="r"))
    lacking = good.copy()
    lacking.remove_column("i_cmodel_magerr")
    with pytest.raises(DataError, match="no column 'i_cmodel_magerr'"):
        find_red_sequence(lacking, z=0.2, centre=CENTRE)
    with pytest.raises(ConfigError, match="field_min_mpc must be"):
        RedSequenceOptions(radius_mpc=3.0)

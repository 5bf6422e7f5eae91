import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError
from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.masses.contamination import covered_radii, fit_dilution, member_shape
from skymill.lensing.masses.mass_fit import MassFitOptions, fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions, mean_efficiency, select_sources
from skymill.lensing.nfw import NfwHalo

CENTRE, Z = (200.0, 5.0), 0.2
SCALE = float(FIDUCIAL.angular_distance(Z)) * np.pi / 10800


def make_columns(*, n=6000, seed=1, mass=1e15, z_source=1.0, sigma=0.02):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-15, 15, (2, n))
    radius, phi = np.hypot(east, north), np.arctan2(north, east)
    beta = FIDUCIAL.lensing_efficiency(z_source, z_lens=Z)
    g = NfwHalo(mass=mass, z=Z).reduced_shear(radius, beta=beta)
    noise = rng.normal(0, sigma, (2, n))
    return east, north, noise[0] - g * np.cos(2 * phi), noise[1] - g * np.sin(2 * phi)


def make_sample(east, north, g1, g2, **more):
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    more.setdefault("z", np.full(len(ra), 1.0))
    return ShearSample.from_columns(ra=ra, dec=dec, g1=g1, g2=g2, keep_unknown_z=True, **more)[0]


def with_members(columns, amplitude, seed=2):
    """Unsheared members whose density is ``amplitude member_shape`` times that of the sources."""
    east, north, g1, g2 = columns
    rng = np.random.default_rng(seed)
    e, n = rng.uniform(-15, 15, (2, 60 * len(east)))
    density = amplitude * member_shape(np.hypot(e, n) * SCALE / 0.4) / 60
    keep = rng.random(len(e)) < density
    e, n = e[keep], n[keep]
    zero = np.zeros(len(e))
    return (
        np.append(east, e), np.append(north, n), np.append(g1, zero), np.append(g2, zero),
    )  # fmt: skip


def fit(sample, **sources):
    return fit_nfw_mass(
        sample, z_lens=Z, centre=CENTRE, rng=np.random.default_rng(1),
        options=MassFitOptions(n_bootstrap=20, large_scale_structure=False),
        sources=SourceOptions(**sources),
    ).table[0]  # fmt: skip


def test_members_among_the_sources_are_measured_and_corrected():
    sample = make_sample(*with_members(make_columns(n=20000), 0.5))
    diluted, corrected = fit(sample), fit(sample, dilution="measured")
    assert diluted["m200"] < 0.9e15
    assert corrected["m200"] == pytest.approx(1e15, rel=0.03)
    # 20,000 galaxies: the amplitude to a tenth.
    assert abs(corrected["dilution"] - 0.5) < 3 * corrected["dilution_err"]
    assert corrected["dilution_err"] < 0.06


def test_no_members_are_found_where_there_are_none():
    row = fit(make_sample(*make_columns(n=20000)), dilution="measured")
    assert row["dilution"] < 3 * row["dilution_err"]
    assert row["m200"] == pytest.approx(1e15, rel=0.05)


def test_errors_of_the_dilution_are_its_scatter():
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(60):
        e, n = rng.uniform(-15, 15, (2, 3000))
        covered, _ = covered_radii(e, n)
        found = fit_dilution(np.hypot(e, n) * SCALE, covered * SCALE, radius_max=6.0, scale_mpc=0.4)
        pulls.append(found.amplitude / found.error)
    # Negative amplitudes are set to zero: half a Gaussian, its mean square one half; the convex
    # hull lacks 0.3 % of the field at its corners, which shifts amplitudes by -0.4 errors: 0.23.
    assert 0.1 < np.mean(np.square(pulls)) < 0.8


def test_covered_area_knows_edges_and_holes():
    rng = np.random.default_rng(5)
    e, n = rng.uniform(-10, 10, (2, 20000))
    hole = np.hypot(e - 4, n) < 3
    _, full = covered_radii(e, n)
    points, step = covered_radii(e[~hole], n[~hole])
    assert full > 0
    # A hole of 28 arcmin2, of which cells of 0.5 arcmin at its rim still hold galaxies.
    assert len(points) * step == pytest.approx(400 - 28.3, rel=0.02)


def test_galaxies_without_a_redshift_are_like_others_of_their_magnitude():
    rng = np.random.default_rng(6)
    n = 4000
    mag = rng.uniform(20, 25, n)
    z = 0.3 + 0.2 * (mag - 20)  # fainter is farther
    unknown = rng.random(n) < 0.3
    seen = np.where(unknown, np.nan, z)
    sample = make_sample(*make_columns(n=n), z=seen, mag=mag)
    beta, _ = mean_efficiency(sample, z_lens=Z)
    truth = FIDUCIAL.lensing_efficiency(z, z_lens=Z)
    # Means over 200 galaxies, 0.36 mag wide.
    assert np.abs(beta - truth)[unknown].max() < 0.1
    assert abs(np.mean(beta - truth)) < 0.003
    kept = select_sources(sample, z_lens=Z, centre=CENTRE)
    dropped = select_sources(
        sample, z_lens=Z, centre=CENTRE, options=SourceOptions(unknown_z="drop")
    )
    assert kept.n_without_z == len(kept.east) - len(dropped.east) > 700


def test_no_redshift_at_all_is_told():
    sample = make_sample(*make_columns(n=50), z=np.full(50, np.nan))
    with pytest.raises(DataError, match="no galaxy has a redshift"):
        select_sources(sample, z_lens=Z, centre=CENTRE)


def test_bad_words():
    with pytest.raises(ConfigError, match="unknown_z must be one of drop, ensemble"):
        SourceOptions(unknown_z="guess")
    with pytest.raises(ConfigError, match="dilution must be one of none, measured"):
        SourceOptions(dilution="some")

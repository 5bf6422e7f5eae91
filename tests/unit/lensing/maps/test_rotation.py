import numpy as np
import pytest
from scipy.stats import multivariate_normal

from skymill.data.errors import DataError
from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.maps.aperture_mass import ApertureMassOptions, make_aperture_mass_map
from skymill.lensing.maps.filters import aperture_filter
from skymill.lensing.maps.peaks import PeakOptions, distinct_peaks, find_peaks
from skymill.lensing.maps.rotation import (
    RotationOptions,
    judge_peaks,
    make_rotated_maps,
    turn_shapes,
)
from skymill.lensing.nfw import NfwHalo

CENTRE = (0.02, 33.0)
OPTIONS = ApertureMassOptions(
    aperture_min_arcmin=3.0, aperture_max_arcmin=6.0, n_apertures=3, step_arcsec=45.0
)


def make_sample(n=3000, side=30.0, seed=1, halos=()):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    g = rng.normal(0, 0.25, n) + 1j * rng.normal(0, 0.25, n)
    for mass, at in halos:
        offset = (east - at[0]) + 1j * (north - at[1])
        shear = NfwHalo(mass=mass, z=0.2).reduced_shear(np.maximum(np.abs(offset), 1.0), beta=0.8)
        g -= shear * (offset / np.abs(offset)) ** 2
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    return ShearSample(
        ra=ra, dec=dec, g1=g.real.copy(), g2=g.imag.copy(), weight=rng.uniform(0.5, 2, n)
    )


def test_turned_maps_are_those_of_turned_catalogues():
    sample = make_sample()
    found = make_aperture_mass_map(sample, options=OPTIONS)
    rotated = make_rotated_maps(
        sample, found, rng=np.random.default_rng(3), options=RotationOptions(n_rotations=1),
        peaks=PeakOptions(min_area=1, threshold=2.0),
    )  # fmt: skip
    angle = np.random.default_rng(3).uniform(0, 2 * np.pi, (len(sample), 1))[:, 0]
    g = (sample.g1 + 1j * sample.g2) * np.exp(1j * angle)
    turned = ShearSample(
        ra=sample.ra, dec=sample.dec, g1=g.real.copy(), g2=g.imag.copy(), weight=sample.weight
    )
    direct = make_aperture_mass_map(turned, options=OPTIONS)
    usable = direct.coverage >= 0.7
    # 256 radial bins against 1024.
    for k, mode in enumerate("EB"):
        highest = direct.snr(mode)[usable].max()
        assert rotated.maxima[k] == pytest.approx(highest, abs=0.03)
    peaks = find_peaks(direct, PeakOptions(min_area=1, threshold=2.0))
    assert len(rotated.peak_snr) == pytest.approx(len(peaks), abs=3)


def test_scatter_of_turned_maps_is_the_analytic_variance():
    sample = make_sample()
    found = make_aperture_mass_map(sample, options=OPTIONS)
    rotated = make_rotated_maps(
        sample, found, rng=np.random.default_rng(3), options=RotationOptions(n_rotations=48)
    )
    ratio = rotated.variance / found.variance
    inside = found.coverage > 0.7
    # 96 maps: 15 % each; the mean of hundreds of pixels within 1 or 2 %.
    assert ratio[inside].mean() == pytest.approx(1.0, abs=0.03)
    assert ratio[inside].std() == pytest.approx(np.sqrt(2 / 96), rel=0.3)


def noise_correlation(name, places):
    """Correlation of white noise under Q e^{2 i phi} at offsets (m, 2) of the aperture's radius."""
    axis = (np.arange(1000) + 0.5) / 250 - 2

    def kernel(x, y):
        z = (axis[None, :] - x) + 1j * (axis[:, None] - y)
        return aperture_filter(name, np.abs(z)) * (z / np.abs(z)) ** 2

    own = kernel(0, 0)
    return [np.vdot(kernel(*p), own).real / np.vdot(own, own).real for p in places]


def expected_regions(name, *, step, usable, threshold):
    """Regions above a threshold of a Gaussian field on a grid, neighbours also by corners.

    It is the mean Euler characteristic: pixels less pairs plus triangles less squares of
    neighbours that are all above, each as likely as the normal distribution of the filter's own
    correlation says. Holes, which it does not count, are rare. The formulas of smooth fields
    (Adler 1981; Bond & Efstathiou 1987) need spectral moments which diverge for filters with a
    jump or a kink.
    """
    side, corner = noise_correlation(name, [(step, 0.0), (step, step)])
    place = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
    distance = np.abs(place[:, None] - place[None, :]).sum(axis=-1)
    covariance = np.array([1.0, side, corner])[distance]

    def all_above(k):
        # Differences of large numbers: 1e-9 of a probability is 1e-4 peaks.
        return multivariate_normal.cdf(
            np.full(len(k), -threshold), cov=covariance[np.ix_(k, k)], abseps=1e-9, releps=1e-9,
            maxpts=4_000_000,
        )  # fmt: skip

    m = usable.astype(int)
    square = np.stack([m[:-1, :-1], m[:-1, 1:], m[1:, 1:], m[1:, :-1]])
    pairs = (m[1:] * m[:-1]).sum() + (m[:, 1:] * m[:, :-1]).sum()
    corners = (square[0] * square[2]).sum() + (square[1] * square[3]).sum()
    triangles = sum(np.delete(square, i, axis=0).prod(axis=0).sum() for i in range(4))
    return (
        m.sum() * all_above([0])
        - pairs * all_above([0, 1])
        - corners * all_above([0, 2])
        + triangles * all_above([0, 1, 2])
        - square.prod(axis=0).sum() * all_above([0, 1, 2, 3])
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schirmer", "polynomial", "gaussian", "tsis"])
def test_peaks_of_turned_maps_are_as_many_as_gaussian_fields_have(name):
    # 900 galaxies in an aperture: with few, turned shapes have a negative kurtosis.
    radius, step, threshold = 2.5, 9.0, 3.0
    sample = make_sample(n=30_000, side=25.0)
    options = ApertureMassOptions(
        filter=name, aperture_min_arcmin=radius, aperture_max_arcmin=radius, n_apertures=1,
        step_arcsec=step,
    )  # fmt: skip
    found = make_aperture_mass_map(sample, options=options)
    rotated = make_rotated_maps(
        sample, found, rng=np.random.default_rng(7), options=RotationOptions(n_rotations=80),
        peaks=PeakOptions(threshold=threshold, min_area=1, min_coverage=0.9),
    )  # fmt: skip
    expected = expected_regions(
        name, step=step / 60 / radius, usable=found.coverage[0] >= 0.9, threshold=threshold
    )
    got = len(rotated.peak_snr) / rotated.n_maps
    error = np.sqrt(got / rotated.n_maps)
    print(f"{name}: {got:.2f} +- {error:.2f} peaks a map, expected {expected:.2f}")  # noqa: T201
    # The kurtosis takes some 3 % of the peaks of 3 sigma.
    assert abs(got - expected) < 3 * error + 0.04 * expected


def test_false_alarms_are_as_frequent_as_promised():
    probabilities = []
    for seed in range(24):
        sample = make_sample(n=1000, side=20.0, seed=100 + seed)
        found = make_aperture_mass_map(sample, options=OPTIONS)
        rotated = make_rotated_maps(
            sample, found, rng=np.random.default_rng(seed), options=RotationOptions(n_rotations=16)
        )
        usable = found.coverage >= 0.7
        for mode in "EB":
            top = np.array([found.snr(mode)[usable].max()])
            probabilities.append(rotated.global_probability(top)[0])
    # 48 uniform numbers: mean 0.5 +- 0.042.
    assert np.mean(probabilities) == pytest.approx(0.5, abs=0.13)
    assert np.mean(np.array(probabilities) < 0.1) < 0.25


def test_judged_peaks_and_neighbours():
    halos = ((1.5e15, (-4.0, 2.0)), (1e15, (6.0, -3.0)))
    sample = make_sample(n=9000, halos=halos)
    found = make_aperture_mass_map(sample, options=OPTIONS)
    raw = find_peaks(found)
    assert np.isnan(np.asarray(raw["p_global"])).all()
    rotated = make_rotated_maps(
        sample, found, rng=np.random.default_rng(3), options=RotationOptions(n_rotations=24)
    )
    peaks = judge_peaks(raw, found, rotated)
    best = peaks[peaks["is_best"]][0]
    assert best["p_global"] < 0.01
    assert best["n_false"] == 0.0
    assert best["snr_rotated"] == pytest.approx(best["snr"], rel=0.4)
    assert best["p_local"] < best["p_global"]
    places = distinct_peaks(peaks, number=2, separation_arcmin=5.0)
    expected = [plane_to_sky(east=e, north=n, centre=CENTRE) for _, (e, n) in halos]
    for place, truth in zip(places, expected, strict=True):
        d_ra = ((place[0] - truth[0] + 180) % 360 - 180) * np.cos(np.radians(33.0))
        assert np.hypot(d_ra, place[1] - truth[1]) * 60 < 1.0
    away = distinct_peaks(peaks, number=1, separation_arcmin=5.0, taken=places[0])
    assert away == places[1:]
    assert distinct_peaks(peaks[:0], number=3, separation_arcmin=5.0) == []


def test_turned_shapes_keep_their_moduli():
    sample = make_sample(n=50)
    turned = turn_shapes(sample, np.random.default_rng(1))
    assert np.hypot(turned.g1, turned.g2) == pytest.approx(np.hypot(sample.g1, sample.g2))
    assert not np.allclose(turned.g1, sample.g1)


def test_maps_of_other_catalogues_are_refused():
    sample = make_sample(n=500)
    found = make_aperture_mass_map(sample, options=OPTIONS)
    rng = np.random.default_rng(1)
    with pytest.raises(DataError, match="the map was made of 500 galaxies"):
        make_rotated_maps(sample.select(np.arange(500) < 400), found, rng=rng)
    with pytest.raises(DataError, match="n_rotations >= 1"):
        make_rotated_maps(sample, found, rng=rng, options=RotationOptions(n_rotations=0))

import numpy as np
import pytest
from scipy.spatial import cKDTree

from skymill.calibrate.match import associate, count_neighbours, match_plane, match_sky
from skymill.data.errors import DataError


def cap(rng, ra, dec, size, n):
    """Points uniform over a cap of `size` degrees around a position, as unit vectors."""
    z = 1 - rng.uniform(0, 1 - np.cos(np.radians(size)), n)
    phi = rng.uniform(0, 2 * np.pi, n)
    s = np.sqrt(1 - z**2)
    v = np.stack([s * np.cos(phi), s * np.sin(phi), z])
    t, a = np.radians(90 - dec), np.radians(ra)
    tilt = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return (turn @ tilt @ v).T


def radec(v):
    return np.degrees(np.arctan2(v[:, 1], v[:, 0])) % 360, np.degrees(np.arcsin(v[:, 2]))


def mutual_pairs(a, b, limit):
    d, to_b = cKDTree(b).query(a, distance_upper_bound=limit)
    _, to_a = cKDTree(a).query(b, distance_upper_bound=limit)
    i = np.flatnonzero(np.isfinite(d))
    return i[to_a[to_b[i]] == i], to_b[i[to_a[to_b[i]] == i]]


@pytest.mark.parametrize(
    ("ra", "dec", "size", "radius"),
    [(150, 2, 0.3, 2.0), (0, -30, 0.3, 2.0), (359.99, 89.9, 0.3, 10.0), (5, -90, 0.2, 10.0),
     (10, 20, 180, 3000.0)],
)  # fmt: skip
def test_pairs_are_those_of_a_tree(ra, dec, size, radius):
    rng = np.random.default_rng(1)
    a = cap(rng, ra, dec, size, 3000)
    b = a[:2500] + rng.normal(0, np.radians(radius / 3600) / 2, (2500, 3))
    b /= np.linalg.norm(b, axis=1)[:, None]
    b = b[rng.permutation(2500)]
    first, second = mutual_pairs(a, b, 2 * np.sin(np.radians(radius / 3600) / 2))
    pairs = match_sky(*radec(a), *radec(b), radius_arcsec=radius)
    np.testing.assert_array_equal(pairs.first, first)
    np.testing.assert_array_equal(pairs.second, second)
    chord = np.linalg.norm(a[first] - b[second], axis=1)
    expected = np.degrees(2 * np.arcsin(chord / 2)) * 3600
    # Positions in degrees as float64 hold 1e-10 arcsec; the pole loses half of the digits of
    # arcsin(z) in this test's own radec().
    np.testing.assert_allclose(pairs.separation, expected, atol=2e-3 if abs(dec) > 89 else 1e-8)


def test_edges_of_the_lists():
    assert len(match_sky([], [], [1.0], [2.0], radius_arcsec=1)) == 0
    pairs = match_sky([0.0], [0.0], [359.9999], [0.0], radius_arcsec=1)
    assert (pairs.first, pairs.second) == (0, 0)
    assert pairs.separation == pytest.approx(0.36, abs=1e-9)
    bad = match_sky([np.nan, 10.0], [0.0, 5.0], [10.0, np.inf], [5.0, 1.0], radius_arcsec=1)
    assert bad.first.tolist() == [1]
    with pytest.raises(DataError, match="match radius must be > 0"):
        match_sky([0.0], [0.0], [0.0], [0.0], radius_arcsec=0)
    with pytest.raises(DataError, match="vectors of one length"):
        match_sky([0.0, 1.0], [0.0], [0.0], [0.0], radius_arcsec=1)


def test_nobody_has_two_partners():
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 10, (2, 2000))
    u, v = rng.uniform(0, 10, (2, 2000))
    pairs = match_plane(x, y, u, v, radius=0.5)
    first, second = mutual_pairs(np.stack([x, y], 1), np.stack([u, v], 1), 0.5)
    np.testing.assert_array_equal(pairs.first, first)
    np.testing.assert_array_equal(pairs.second, second)
    assert np.unique(pairs.second).size == len(pairs)


def test_neighbours():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 10, (2, 500))
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    np.testing.assert_array_equal(count_neighbours(x, y, radius=0.7), (distance <= 0.7).sum(1) - 1)


def test_association_over_visits_and_the_wrap():
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(-0.1, 0.1, 300) % 360, rng.uniform(-0.1, 0.1, 300)
    seen = [rng.permutation(300)[: 250 + 10 * v] for v in range(5)]
    star = np.concatenate(seen)
    visit = np.repeat(np.arange(5), [len(s) for s in seen])
    noise = rng.normal(0, 0.05 / 3600, (2, star.size))
    number = associate((ra[star] + noise[0]) % 360, dec[star] + noise[1], visit, radius_arcsec=0.5)
    for v in range(5):
        assert np.unique(number[visit == v]).size == (visit == v).sum()
    # A star's sources share a number unless another star lies as near (none here by the seed).
    for s in range(300):
        assert np.unique(number[star == s]).size <= 1
    assert number.max() + 1 == np.unique(star).size

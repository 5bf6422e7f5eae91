"""Sky match of 1M x 1M positions against scipy's k-d tree, in one process."""

import time

import numpy as np
from scipy.spatial import cKDTree

from skymill.calibrate.match import match_sky


def _xyz(ra, dec):
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def _tree(ra1, dec1, ra2, dec2, radius):
    a, b = _xyz(ra1, dec1), _xyz(ra2, dec2)
    limit = 2 * np.sin(np.radians(radius / 3600) / 2)
    distance, to_b = cKDTree(b).query(a, distance_upper_bound=limit)
    _, to_a = cKDTree(a).query(b, distance_upper_bound=limit)
    i = np.flatnonzero(np.isfinite(distance))
    return i[to_a[to_b[i]] == i]


def main(n: int = 1_000_000) -> None:
    rng = np.random.default_rng(1)
    ra, dec = 150 + rng.uniform(0, 2, n), rng.uniform(-1, 1, n)
    ra2, dec2 = ra + rng.normal(0, 0.3 / 3600, n), dec + rng.normal(0, 0.3 / 3600, n)
    shuffle = rng.permutation(n)
    ra2, dec2 = ra2[shuffle], dec2[shuffle]
    match_sky(ra[:10], dec[:10], ra2[:10], dec2[:10], radius_arcsec=1.0)
    ours = []
    for _ in range(3):
        start = time.process_time()
        pairs = match_sky(ra, dec, ra2, dec2, radius_arcsec=1.0)
        ours.append(time.process_time() - start)
    start = time.process_time()
    first = _tree(ra, dec, ra2, dec2, 1.0)
    peer = time.process_time() - start
    same = np.array_equal(first, pairs.first)
    print(
        f"match {n} x {n}: {np.median(ours):.3f} s; cKDTree both ways {peer:.2f} s; "
        f"ratio {peer / np.median(ours):.1f}; identical {same}"
    )


if __name__ == "__main__":
    main()

"""Who owns which pixel."""

from __future__ import annotations

import numpy as np

from skymill.model._blob_kernels import claim_neighbourhoods


def test_neighbourhoods_belong_to_the_nearest_source():
    rng = np.random.default_rng(2)
    shape, n, radius = (60, 70), 40, 5
    mask = rng.random(shape) < 0.9
    x, y = rng.integers(0, shape[1], n), rng.integers(0, shape[0], n)
    rank = rng.permutation(n)
    owner = np.full(shape, -1, np.int32)
    owner[10:20] = 77
    expected = owner.copy()
    claim_neighbourhoods(mask, x, y, rank, radius, owner)
    yy, xx = np.indices(shape)
    far = np.hypot(xx - x[:, None, None], yy - y[:, None, None])[rank]
    # argmin takes the first in rank of those at the same distance.
    near, first = far.min(axis=0), rank[far.argmin(axis=0)]
    claimed = mask & (near <= radius)
    expected[claimed] = first[claimed]
    np.testing.assert_array_equal(owner, expected)

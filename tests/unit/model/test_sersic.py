"""Transforms of truncated Sersic profiles against their definition."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import j0

from skymill.model import sersic


def _look_up(table, k2):
    """The cubic between knots, as the kernels evaluate it."""
    knots = sersic.knots()
    i = np.searchsorted(knots, k2, side="right") - 1
    width = knots[i + 1] - knots[i]
    u = (k2 - knots[i]) / width
    f0, f1, d0, d1 = table[i, 0], table[i + 1, 0], table[i, 1] * width, table[i + 1, 1] * width
    rise = f1 - f0
    return f0 + u * (d0 + u * (3 * rise - 2 * d0 - d1 + u * (d0 + d1 - 2 * rise)))


@pytest.mark.parametrize("n", [0.5, 0.83, 1.0, 2.37, 4.0, 5.6])
@pytest.mark.parametrize("wave", [0.11, 0.9, 3.3, 12.7])
def test_transform_is_the_hankel_integral(n, wave):
    edge = sersic.edge_radius(n)
    parts = [0.0, 1e-3, 0.03, 0.3, 1.0, edge - 1.0, edge]

    def integrate(weight):
        return sum(
            quad(lambda r: weight(r) * r * sersic.profile(np.array([r]), n)[0], a, b, limit=300)[0]
            for a, b in pairwise(parts)
        )

    truth = integrate(lambda r: j0(wave * r)) / integrate(lambda r: 1.0)
    # Single precision of the table, and the cubics in K^2 and in n.
    assert _look_up(sersic.table().at(n), wave**2) == pytest.approx(truth, abs=3e-6)


def test_gaussian_is_a_gaussian():
    # n = 0.5 is exp(-r^2 / 2 sigma^2) with half of its flux within 1.
    sigma = 1.0 / np.sqrt(2.0 * np.log(2.0))
    k2 = np.linspace(0.0, 20.0, 50)
    value = _look_up(sersic.table().at(0.5), k2)
    # The smooth truncation from 3 radii on takes 1e-3 of the flux.
    np.testing.assert_allclose(value, np.exp(-0.5 * k2 * sigma**2), atol=5e-4)


def test_table_belongs_to_the_code():
    value, slope = sersic.build_table()
    table = sersic.table()
    nodes = np.concatenate([np.linspace(0.5, 1, 11), np.linspace(1, 4, 41), np.linspace(4, 6, 21)])
    for row in (0, 10, 30, 72):
        np.testing.assert_allclose(table.at(nodes[row])[:, 0], value[row], atol=1e-6)
        np.testing.assert_allclose(table.at(nodes[row])[:, 1], slope[row], atol=1e-5)


def test_derivative_by_the_index():
    table, step = sersic.table(), 1e-5
    for n in (0.7, 1.5, 3.1, 5.2):
        numeric = (table.at(n + step)[:, :2] - table.at(n - step)[:, :2]) / (2 * step)
        np.testing.assert_allclose(table.at(n)[:, 2:], numeric, atol=1e-6)


def test_extent_shrinks_with_the_threshold():
    assert sersic.extent(4.0, 0.0) == sersic.edge_radius(4.0) == 8.0
    assert sersic.extent(1.0, 1e-4) > sersic.extent(1.0, 1e-2) > 0
    assert sersic.extent(1.0, 1e9) == 0.0

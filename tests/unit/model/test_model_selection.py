"""The rules by which a source gets its model."""

from __future__ import annotations

import numpy as np
import pytest

from skymill.model.model_selection import choice_variance, select_model, try_galaxies
from skymill.model.sources import SourceType as T


@pytest.mark.parametrize(
    ("won", "expected"),
    [
        ({}, None),
        ({T.PSF: 26.9}, None),  # 26.9 - 2 < 25
        ({T.PSF: 27.0}, T.PSF),
        ({T.PSF: 100.0, T.REX: 101.0}, T.PSF),  # one parameter, and 1 %
        ({T.PSF: 100.0, T.REX: 101.1}, T.REX),
        ({T.PSF: 1000.0, T.REX: 1009.0}, T.PSF),  # less than 1 % of the point source
        ({T.PSF: 1000.0, T.REX: 1011.0}, T.REX),
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 161.0, T.DEV: 155.0}, T.REX),  # less than 12
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 163.0, T.DEV: 155.0}, T.EXP),
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 163.0, T.DEV: 164.0}, T.DEV),
        ({T.PSF: 1e4, T.REX: 2e4, T.EXP: 20099.0}, T.REX),  # less than 1 % of the point source
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 163.0, T.DEV: 155.0, T.SER: 187.9}, T.EXP),
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 163.0, T.DEV: 155.0, T.SER: 188.1}, T.SER),
        # SER counts only where EXP or DEV has won already.
        ({T.PSF: 100.0, T.REX: 150.0, T.EXP: 160.0, T.DEV: 155.0, T.SER: 900.0}, T.REX),
    ],
)
def test_rules(won, expected):
    assert select_model(won) == expected


def test_when_galaxies_are_tried():
    assert not try_galaxies({T.PSF: 100.0, T.REX: 101.0})
    assert try_galaxies({T.PSF: 100.0, T.REX: 101.1})
    assert try_galaxies({T.PSF: 401.0, T.REX: 390.0})


def test_the_choice_of_a_model_has_a_variance():
    fluxes = {
        T.PSF: np.array([5.0, 5.0]), T.REX: np.array([10.0, 20.0]),
        T.EXP: np.array([12.0, 20.0]), T.DEV: np.array([16.0, 17.0]),
    }  # fmt: skip
    same = dict.fromkeys(fluxes, np.array([1.0, 1.0]))
    # As probable as each other: chi-squared less twice the parameters is equal.
    won = {T.PSF: 900.0, T.REX: 1000.0, T.EXP: 1004.0, T.DEV: 1004.0}
    expected = (np.array([2.0, 0.0]) ** 2 + np.array([6.0, -3.0]) ** 2) / 3
    np.testing.assert_allclose(choice_variance(T.REX, won, fluxes, same), expected)
    # Rivals that know their fluxes less well, on average; what they know better does not count.
    own = same | {T.EXP: np.array([4.0, 0.1]), T.DEV: np.array([10.0, 1.2])}
    more = expected + np.array([(3.0 + 9.0) / 3, 0.0])
    np.testing.assert_allclose(choice_variance(T.REX, won, fluxes, own), more)
    # Certain: what the rules gave up is the error.
    won[T.DEV] += 1000.0
    np.testing.assert_allclose(choice_variance(T.REX, won, fluxes, same), [36.0, 9.0])
    sure = choice_variance(T.DEV, won, fluxes, same)
    np.testing.assert_allclose(sure, [0.0, 0.0], atol=1e-12)
    # A point has no such error, nor has a galaxy without a rival.
    np.testing.assert_array_equal(choice_variance(T.PSF, won, fluxes, same), [0.0, 0.0])
    alone = choice_variance(T.REX, {T.REX: 90.0}, fluxes, same)
    np.testing.assert_array_equal(alone, [0.0, 0.0])

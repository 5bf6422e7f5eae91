import numpy as np
import pytest

from skymill.shear.hsc_y1 import evaluate_hsc_y1


def test_values_of_the_published_script():
    # The published script run at (S/N, R2); values to the digits that were recorded.
    found = evaluate_hsc_y1([10, 20, 50, 100], [0.4, 0.5, 0.7, 0.9], extrapolate=True)
    assert np.allclose(found.m, [-0.245, -0.216, -0.110, -0.097], atol=6e-4)
    assert np.allclose(found.weight[:2], [1.87, 4.17], atol=6e-3)


def test_outside_of_the_range_is_flagged_and_not_extrapolated():
    found = evaluate_hsc_y1([5, 30, 30, 1000, np.nan], [0.5, 0.2, 0.5, 0.5, 0.5])
    assert found.outside.tolist() == [True, True, False, False, True]
    edge = evaluate_hsc_y1([15, 30, 181], [0.5, 0.3774, 0.5])
    assert found.m[0] == pytest.approx(edge.m[0])
    assert found.m[1] == pytest.approx(edge.m[1])
    assert found.m[3] == pytest.approx(edge.m[2])
    assert np.isfinite(found.m).all()

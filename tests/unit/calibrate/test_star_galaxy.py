import numpy as np

from skymill.calibrate.star_galaxy import StarGalaxyOptions, classify


def test_classes():
    value = np.array([0.0, 1.0, np.nan, 0.5, 0.0])
    mag = np.array([20.0, 20.0, 20.0, 20.0, 25.0])
    star, galaxy = classify(value, mag, options=StarGalaxyOptions(max_star_mag=24.0))
    assert star.tolist() == [True, False, False, False, False]
    assert galaxy.tolist() == [False, True, False, False, False]

"""The spline sky of a CCD against the truth."""

import numpy as np
import pytest

from skymill.data.errors import NoDataError
from skymill.instruments.survey_folder import SurveyFolder
from skymill.release.survey.calibrations import _write_row
from skymill.release.survey.spline_sky import SplineSkyOptions, fit_spline_sky

SHAPE = (1200, 1000)


def _sky(slope: float) -> np.ndarray:
    yy, xx = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    return 800 + slope * (np.sin(2 * xx / SHAPE[1]) + (yy / SHAPE[0]) ** 2)


def _image(slope: float, n_sources: int = 150, seed: int = 3):
    rng = np.random.default_rng(seed)
    sky = _sky(slope)
    image = rng.normal(sky, 10.0)
    y, x = np.mgrid[-20:21, -20:21]
    for _ in range(n_sources):
        blob = 10 ** rng.uniform(2.5, 5.5) * (1 + (x**2 + y**2) / 9.0) ** -2.5 / 20.0
        x0, y0 = rng.integers(21, SHAPE[1] - 21), rng.integers(21, SHAPE[0] - 21)
        image[y0 - 20 : y0 + 21, x0 - 20 : x0 + 21] += blob
    weight = np.full(SHAPE, 0.01, np.float32)
    weight[:, 500:503] = 0
    image[:, 500:503] = 1e5
    return image.astype(np.float32), weight, sky


@pytest.mark.parametrize("slope", [0.0, 15.0])
def test_the_sky_is_right_to_a_few_hundredths_of_the_noise(slope):
    image, weight, sky = _image(slope)
    model = fit_spline_sky(image, weight)
    error = (model.evaluate(SHAPE) - sky) / 10.0
    # Medians of 256 x 256 pixels at every other row have an error of 0.01; faint wings that no
    # mask finds lift the sky by a few hundredths.
    assert abs(error.mean()) < 0.03
    assert error.std() < 0.04
    assert model.sigma == pytest.approx(10.0, rel=0.03)
    assert model.statistics["sky_fmasked"] < 0.25
    assert abs(model.statistics["sky_p50"]) < 0.3
    assert model.statistics["sky_mode"] == pytest.approx(np.median(sky), abs=0.6 * slope + 1)


def test_a_gradient_is_no_source():
    image, weight, sky = _image(40.0, n_sources=0)
    model = fit_spline_sky(image, weight)
    # Peaks of the noise above 3 sigma, grown, cover 7 percent of an empty sky.
    assert model.statistics["sky_fmasked"] < 0.1
    assert np.abs(model.evaluate(SHAPE) - sky).max() < 5.0


def test_cut_outs_of_any_size_have_a_sky():
    rng = np.random.default_rng(1)
    for shape in ((41, 51), (20, 20), (9, 30)):
        image = rng.normal(100, 1, shape).astype(np.float32)
        model = fit_spline_sky(image, np.ones(shape, np.float32))
        assert model.evaluate(shape).mean() == pytest.approx(100, abs=0.5)
        assert model.values.shape[0] >= 4
        assert model.values.shape[1] >= 4


def test_a_ccd_without_weights_has_no_sky():
    with pytest.raises(NoDataError, match="no weight"):
        fit_spline_sky(np.zeros((50, 50), np.float32), np.zeros((50, 50), np.float32))


def test_the_file_is_read_back_to_the_same_surface(tmp_path):
    image, weight, _ = _image(10.0)
    model = fit_spline_sky(image, weight, options=SplineSkyOptions(box=256))
    folder = SurveyFolder(tmp_path)
    path = folder.calibration_path("splinesky", tmp_path / "images/decam/x.fits", 7, "N10")
    _write_row(path, {**model.columns(), "expnum": 7, "ccdname": "N10"}, {})
    read = folder.sky(tmp_path / "images/decam/x.fits", 7, "N10", shape=SHAPE)
    np.testing.assert_allclose(read, model.evaluate(SHAPE), rtol=1e-5)

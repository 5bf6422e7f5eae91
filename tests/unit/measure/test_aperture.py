import numpy as np
import pytest
import sep

from skymill.data.errors import ConfigError, DataError
from skymill.data.flags import MeasureFlag
from skymill.data.masks import MaskPlane
from skymill.measure._aperture_kernels import overlap
from skymill.measure.aperture import ApertureOptions, aperture_fluxes, circular_fluxes


def planes(shape=(100, 120), rng=None):
    rng = rng or np.random.default_rng(1)
    return (
        rng.normal(0, 1, shape).astype(np.float32),
        rng.uniform(0.5, 2, shape).astype(np.float32),
        np.zeros(shape, np.int32),
    )


def test_overlap_equals_fine_subsampling_and_adds_to_the_circle():
    rng = np.random.default_rng(2)
    n = 400
    grid = (np.arange(n) + 0.5) / n - 0.5
    for _ in range(50):
        dx, dy, r = rng.uniform(-3, 3), rng.uniform(-3, 3), rng.uniform(0.2, 4)
        inside = (grid + dx)[None, :] ** 2 + (grid + dy)[:, None] ** 2 < r * r
        # The rim crosses about 2 n of the n**2 cells.
        assert overlap(dx, dy, r) == pytest.approx(inside.mean(), abs=2.0 / n)
    total = sum(overlap(i - 0.3, j + 0.2, 5.3) for i in range(-8, 9) for j in range(-8, 9))
    assert total == pytest.approx(np.pi * 5.3**2, rel=1e-12)


def test_fluxes_equal_sep():
    image, variance, mask = planes()
    rng = np.random.default_rng(3)
    x, y = rng.uniform(30, 90, 50), rng.uniform(30, 70, 50)
    ours = aperture_fluxes(image, variance, mask, x=x, y=y)
    for j, r in enumerate(ours.radii):
        flux, _, _ = sep.sum_circle(image, x, y, r, subpix=0)
        np.testing.assert_allclose(ours.flux[:, j], flux, atol=1e-4)  # float32 pixels
    assert (ours.flags == 0).all()
    own, own_err, _ = circular_fluxes(image, variance, mask, x=x, y=y, radius=np.full(50, 6.0))
    np.testing.assert_allclose(own, ours.flux[:, 1])
    np.testing.assert_allclose(own_err, ours.flux_err[:, 1])


def test_errors_have_unit_pulls():
    rng = np.random.default_rng(4)
    sigma = rng.uniform(0.5, 2.0, (500, 500))
    image = rng.normal(0, sigma).astype(np.float32)
    grid = np.arange(12, 490, 13.0)
    x, y = (a.ravel() + 0.37 for a in np.meshgrid(grid, grid))
    out = aperture_fluxes(
        image,
        (sigma**2).astype(np.float32),
        np.zeros(image.shape, np.int32),
        x=x,
        y=y,
        options=ApertureOptions(radii=(3.0, 6.0)),
    )
    pull = out.flux / out.flux_err
    # 1369 apertures: width known to 2 %.
    assert np.all(np.abs(pull.std(axis=0) - 1.0) < 0.06)


def test_flags_and_nan():
    image, variance, mask = planes()
    image[50, 50] = np.nan
    mask[50, 50] = MaskPlane.BAD
    mask[20, 60] = MaskPlane.SAT | MaskPlane.INTRP
    variance[70, 60] = 0.0
    out = aperture_fluxes(
        image,
        variance,
        mask,
        x=[50, 60, 60, 3, -5],
        y=[50, 20, 70, 50, 50],
        options=ApertureOptions(radii=(2.0, 5.0)),
    )
    assert np.isfinite(out.flux[:4]).all()
    assert out.flags[0, 0] == MeasureFlag.UNUSABLE_PIXELS | MeasureFlag.UNUSABLE_CENTRE
    assert out.flags[1, 0] == MeasureFlag.SATURATED | MeasureFlag.INTERPOLATED
    assert out.flags[2, 0] == MeasureFlag.NO_VARIANCE
    assert out.flags[3].tolist() == [0, MeasureFlag.EDGE]
    assert (out.flags[4] & MeasureFlag.NO_DATA).all()
    assert aperture_fluxes(image, variance, mask, x=[], y=[]).flux.shape == (0, 6)


def test_bad_input():
    image, variance, mask = planes()
    with pytest.raises(ConfigError, match="radii must be > 0 pixel"):
        ApertureOptions(radii=(3.0, -1.0))
    with pytest.raises(DataError, match="x and y"):
        aperture_fluxes(image, variance, mask, x=[1.0], y=[1.0, 2.0])

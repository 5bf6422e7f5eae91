import numpy as np
import pytest
from astropy.table import Table

from skymill.calibrate.image_quality import MoffatOptions, check_ccd, check_tables, measure_moffat
from skymill.data.errors import DataError
from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane


def make_stars(rng, fwhm, beta, *, background=0.0, noise=0.0, n=8, amplitude=2000.0):
    size = 30 * n + 20
    image = np.full((size, size), background)
    y, x = np.mgrid[:size, :size]
    centres = 25.0 + 30 * np.arange(n)
    cx, cy = (g.ravel() for g in np.meshgrid(centres, centres))
    cx, cy = cx + rng.uniform(-0.5, 0.5, cx.size), cy + rng.uniform(-0.5, 0.5, cx.size)
    width = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    for a, b in zip(cx, cy, strict=True):
        near = np.s_[max(int(b) - 14, 0) : int(b) + 15, max(int(a) - 14, 0) : int(a) + 15]
        r2 = (x[near] - a) ** 2 + (y[near] - b) ** 2
        image[near] += amplitude * (1 + r2 / width**2) ** -beta
    image += noise * rng.normal(size=image.shape)
    planes = PixelPlanes(
        image.astype(np.float32),
        np.full(image.shape, max(noise, 1.0) ** 2, np.float32),
        np.zeros(image.shape, np.int32),
    )
    return planes, cx, cy


@pytest.mark.parametrize("fwhm", [2.5, 4.0, 6.4, 9.0])
@pytest.mark.parametrize("beta", [2.2, 3.5])
@pytest.mark.parametrize("background", [0.0, 20.0, -50.0])
def test_the_width_does_not_depend_on_the_sky(fwhm, beta, background):
    planes, x, y = make_stars(np.random.default_rng(1), fwhm, beta, background=background)
    got, exponent, flags = measure_moffat(planes, x=x, y=y, options=MoffatOptions())
    assert (flags == 0).all()
    # float32 pixels of 2000 hold 1e-4.
    np.testing.assert_allclose(got, fwhm, rtol=1e-4)
    np.testing.assert_allclose(exponent, beta, rtol=1e-3)


def test_noise_does_not_bias_it():
    planes, x, y = make_stars(np.random.default_rng(2), 4.0, 3.0, noise=10.0, n=14)
    got, _, flags = measure_moffat(planes, x=x, y=y, options=MoffatOptions())
    good = got[flags == 0]
    assert good.size > 190
    assert abs(np.mean(good) - 4.0) < 4 * np.std(good) / np.sqrt(good.size)


def test_masked_edge_and_empty_stamps_are_flagged():
    planes, x, y = make_stars(np.random.default_rng(3), 4.0, 3.0)
    planes.mask[15:36, 15:36] |= np.int32(int(MaskPlane.SAT))
    planes.image[: planes.shape[0], -40:] = np.nan
    x, y = np.append(x, 3.0), np.append(y, 100.0)
    got, _, flags = measure_moffat(planes, x=x, y=y, options=MoffatOptions())
    assert flags[0] == MeasureFlag.UNUSABLE_PIXELS
    assert flags[-1] == MeasureFlag.EDGE
    assert np.isnan(got[-1])
    assert measure_moffat(planes, x=x[:0], y=y[:0], options=MoffatOptions())[0].size == 0
    blank = PixelPlanes(np.zeros((60, 60), "f4"), np.ones((60, 60), "f4"), np.zeros((60, 60), "i4"))
    _, _, bad = measure_moffat(
        blank, x=np.array([30.0]), y=np.array([30.0]), options=MoffatOptions()
    )
    assert bad[0] != 0


def test_tables_of_a_visit():
    planes, x, y = make_stars(np.random.default_rng(4), 4.0, 3.0)
    n = x.size
    sources = Table(
        {
            "id": np.arange(n), "visit": np.full(n, 7), "detector": np.full(n, 3),
            "ra": np.zeros(n), "dec": np.zeros(n), "x": x, "y": y, "psfFlux": np.ones(n),
            "ixx": np.full(n, 3.3), "iyy": np.full(n, 2.7), "ixy": np.full(n, 0.4),
            "calib_psf_used": np.arange(n) < 40,
        }
    )  # fmt: skip
    stars = check_ccd(planes, sources, options=MoffatOptions())
    info = {"visit": 7, "detector": 3, "band": "r", "ra": 1.0, "dec": 2.0}
    summary, joined = check_tables([(info, stars), ({**info, "detector": 4}, stars[:0])])
    assert len(joined) == 40
    assert summary["fwhm"][0] == pytest.approx(4.0, rel=1e-4)
    assert summary["ellipticity"][0] == pytest.approx(np.hypot(0.1, 0.8 / 6.0))
    assert summary["n_star"].tolist() == [40, 0]
    assert np.isnan(summary["fwhm"][1])
    with pytest.raises(DataError, match="nothing to check"):
        check_tables([])

import numpy as np
import pytest

from skymill.data.errors import ConfigError
from skymill.data.flags import MeasureFlag
from skymill.measure._kron_kernels import blendedness
from skymill.measure.kron import KronOptions, kron_fluxes


def gaussian(shape, x, y, ixx, iyy, ixy, flux):
    v, u = np.mgrid[: shape[0], : shape[1]]
    det = ixx * iyy - ixy**2
    rho2 = (iyy * (u - x) ** 2 - 2 * ixy * (u - x) * (v - y) + ixx * (v - y) ** 2) / det
    return (flux / (2 * np.pi * np.sqrt(det)) * np.exp(-0.5 * rho2)).astype(np.float32)


def measure(image, moments, half=60, **changes):
    ones, mask = np.ones_like(image), np.zeros(image.shape, np.int32)
    return kron_fluxes(
        image,
        ones,
        mask,
        x=np.array([60.2]),
        y=np.array([59.7]),
        moments=np.array([moments]),
        half=np.array([half]),
        **changes,
    )


@pytest.mark.parametrize("moments", [(9.0, 9.0, 0.0), (16.0, 9.0, 4.0)])
def test_gaussian_in_closed_form(moments):
    image = gaussian((121, 121), 60.2, 59.7, *moments, 1000.0)
    out = measure(image, moments)
    det = moments[0] * moments[1] - moments[2] ** 2
    # <rho> of a Gaussian is sqrt(pi/2); 2.5 times that holds 1 - exp(-r2/2) of the light.
    first = np.sqrt(np.pi / 2)
    assert out.radius[0] == pytest.approx(first * det**0.25, rel=2e-3)
    assert out.flux[0] == pytest.approx(1000.0 * (1 - np.exp(-((2.5 * first) ** 2) / 2)), rel=1e-3)
    # Unit variance: the area of the ellipse, edge pixels by the square of their share.
    area = np.pi * (2.5 * first) ** 2 * np.sqrt(det)
    assert out.flux_err[0] == pytest.approx(np.sqrt(area), rel=0.02)
    assert out.flags[0] == 0


def test_a_given_radius_is_used_as_it_is():
    image = gaussian((121, 121), 60.2, 59.7, 9.0, 9.0, 0.0, 1000.0)
    out = measure(image, (9.0, 9.0, 0.0), radius=np.array([3.0]))
    assert out.radius[0] == pytest.approx(3.0)
    assert out.flux[0] == pytest.approx(1000.0 * (1 - np.exp(-(2.5**2) / 2)), rel=2e-3)


def test_flags():
    image = gaussian((121, 121), 60.2, 59.7, 9.0, 9.0, 0.0, 1000.0)
    assert measure(image, (np.nan, np.nan, np.nan)).flags[0] & MeasureFlag.NO_DATA
    assert measure(-image, (9.0, 9.0, 0.0)).flags[0] & MeasureFlag.NEGATIVE_FLUX
    assert measure(image, (9.0, 9.0, 0.0), half=5).flags[0] & MeasureFlag.EDGE
    with pytest.raises(ConfigError, match="high must be >= 3"):
        KronOptions(low=3.0, high=2.0)


def test_blendedness_is_the_share_of_the_others():
    child = gaussian((61, 61), 30.0, 30.0, 4.0, 4.0, 0.0, 1000.0)
    parent = np.zeros((100, 100), np.float32)
    parent[10:71, 20:81] = 4.0 * child
    out = np.empty(1)
    blendedness(
        child,
        parent,
        np.array([30.0]),
        np.array([30.0]),
        np.array([-20]),
        np.array([-10]),
        np.array([[4.0, 4.0, 0.0]]),
        np.array([30.0]),
        out,
    )
    assert out[0] == pytest.approx(0.75, abs=1e-6)

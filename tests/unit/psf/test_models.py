"""PSF models: evaluation, shifts, cells, and their form for Piff."""

import galsim
import numpy as np
import piff
import pytest

from skymill.data.errors import DataError
from skymill.data.protocols import Psf
from skymill.psf.models import CellPsf, ConstantPsf, PolynomialPsf, polynomial_basis
from skymill.psf.shift import shift_stamps


def test_all_models_follow_the_protocol():
    stamp = np.ones((5, 5), np.float32) / 25
    assert isinstance(ConstantPsf(stamp), Psf)
    assert isinstance(PolynomialPsf(stamp[None], 0, (0, 0), (1, 1)), Psf)
    assert isinstance(CellPsf(stamp[None, None], 0, 0, 10), Psf)


@pytest.mark.parametrize("shift", [(0.3, 0.0), (-0.5, 0.45), (0.9, -0.2)])
def test_shift_agrees_with_drawing_elsewhere(shift):
    star = galsim.Moffat(beta=3, fwhm=3.6).shear(g1=0.05, g2=-0.03)
    here = star.drawImage(nx=41, ny=41, scale=1).array
    there = star.drawImage(nx=41, ny=41, scale=1, offset=shift).array
    moved = shift_stamps(here[None], dx=np.array([shift[0]]), dy=np.array([shift[1]]))[0]
    # Aliasing of the Moffat profile at this sampling, and its wings cut at 20 pixels.
    assert np.abs(moved - there).max() < 3e-4 * here.max()


def test_polynomial_is_evaluated_as_written():
    rng = np.random.default_rng(1)
    c = rng.normal(size=(6, 7, 7))
    psf = PolynomialPsf(c, 2, (10.0, 20.0), (5.0, 8.0))
    u, v = (13.0 - 10) / 5, (18.0 - 20) / 8
    expected = c[0] + v * c[1] + v * v * c[2] + u * c[3] + u * v * c[4] + u * u * c[5]
    np.testing.assert_allclose(psf.draw(x=13.0, y=18.0)[0], expected, rtol=1e-5, atol=1e-6)
    raw = PolynomialPsf.from_raw_pixels(psf.in_raw_pixels(), 2)
    np.testing.assert_allclose(raw.draw(x=13.0, y=18.0)[0], expected, rtol=1e-5, atol=1e-6)


def test_piff_reads_the_same_polynomial():
    rng = np.random.default_rng(2)
    psf = PolynomialPsf(rng.normal(size=(6, 9, 9)), 2, (1023.5, 2047.5), (1024.0, 2048.0))
    interp = piff.BasisPolynomial(2, keys=("x", "y"))
    terms = interp.basis(_star_at(300.0, 900.0))
    ours = polynomial_basis(np.array([300.0]), np.array([900.0]), 2)[0]
    np.testing.assert_allclose(np.ravel(terms), ours)
    value = np.tensordot(np.ravel(terms), psf.in_raw_pixels(), axes=1)
    np.testing.assert_allclose(value, psf.draw(x=300.0, y=900.0)[0], rtol=2e-5, atol=2e-6)


def _star_at(x, y):
    return piff.Star.makeTarget(x=x, y=y, scale=0.263)


def test_cells_pick_their_own_stamp():
    stamps = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1) * np.ones((1, 1, 3, 3), np.float32)
    psf = CellPsf(stamps, x0=100, y0=200, cell=50)
    drawn = psf.draw(
        x=np.array([100.0, 149.4, 149.6, 249.0, 999.0]),
        y=np.array([200.0, 249.4, 249.6, 200.0, 999.0]),
    )
    np.testing.assert_array_equal(drawn[:, 0, 0], [0, 0, 4, 2, 5])


def test_size_is_cut_and_padded():
    psf = ConstantPsf.gaussian(1.5, 21)
    assert psf.draw(x=0.0, y=0.0, size=11).shape == (1, 11, 11)
    wide = psf.draw(x=0.0, y=0.0, size=31)[0]
    assert wide.shape == (31, 31)
    np.testing.assert_array_equal(wide[5:26, 5:26], psf.stamp)
    with pytest.raises(DataError, match="must be odd; got 10"):
        psf.draw(x=0.0, y=0.0, size=10)
    with pytest.raises(DataError, match="within one pixel"):
        psf.draw(x=0.0, y=0.0, offset_x=np.array([1.5]))

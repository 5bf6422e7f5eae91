import numpy as np
import pytest

from skymill.data.errors import DataError
from skymill.psf.psfex import from_psfex


def gaussian(size, sigma, e=0.0):
    y, x = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-0.5 * (x**2 / (1 + e) + y**2 / (1 - e)) / sigma**2)
    return stamp / stamp.sum()


def test_terms_and_pixels_change_their_order_and_origin():
    rng = np.random.default_rng(3)
    stamps = rng.normal(size=(6, 9, 9))
    stamps[0] += 10.0
    zero, scale = (-651.9, -1111.5), (1972.3, 3879.2)
    psf = from_psfex(stamps, degree=2, zero=zero, scale=scale, normalize=False)
    x, y = np.array([0.0, 33.0, 170.5]), np.array([2.0, 199.0, 60.25])
    u, v = (x + 1 - zero[0]) / scale[0], (y + 1 - zero[1]) / scale[1]
    # PSFEx counts 1, x, x2, y, xy, y2 and pixels from 1.
    terms = np.stack([u**0, u, u**2, v, u * v, v**2], axis=1)
    expected = np.einsum("nt,tij->nij", terms, stamps)
    np.testing.assert_allclose(psf.draw(x=x, y=y), expected, rtol=1e-5, atol=1e-5)


def test_flux_is_one_over_the_ccd():
    stamps = np.stack(
        [0.97 * gaussian(31, 2.0), 0.01 * gaussian(31, 3.0), 0.004 * gaussian(31, 1.5, 0.3)]
    )
    psf = from_psfex(stamps, degree=1, zero=(100.0, 100.0), scale=(100.0, 100.0))
    grid = np.array([0.0, 100.0, 199.0])
    flux = psf.draw(x=grid, y=grid[::-1]).sum(axis=(1, 2))
    # Linear in the terms: what is left is the square of 0.014.
    np.testing.assert_allclose(flux, 1.0, atol=3e-4)


@pytest.mark.parametrize("sampling", [0.5, 0.8, 1.3])
def test_other_samplings_become_pixels(sampling):
    size = 41
    y, x = (np.mgrid[:size, :size] - size // 2) * sampling
    stamp = np.exp(-0.5 * (x**2 + y**2) / 2.2**2)
    psf = from_psfex(stamp[None], degree=0, zero=(1, 1), scale=(1, 1), sampling=sampling)
    drawn = psf.draw(x=[0.0], y=[0.0])[0]
    v, u = np.mgrid[: drawn.shape[0], : drawn.shape[1]] - drawn.shape[0] // 2
    expected = np.exp(-0.5 * (u**2 + v**2) / 2.2**2)
    # Lanczos of order 4 on a Gaussian of 1.7 to 4.4 samples; the narrowest errs most.
    np.testing.assert_allclose(drawn, expected / expected.sum(), atol=3e-3 * drawn.max())


@pytest.mark.parametrize(
    ("stamps", "degree", "sampling", "words"),
    [
        (np.ones((3, 5, 5)), 2, 1.0, "needs 6"),
        (np.ones((1, 5, 5)), 0, 0.0, "too few stars"),
        (np.zeros((1, 5, 5)), 0, 1.0, "flux"),
    ],
)
def test_bad_models(stamps, degree, sampling, words):
    with pytest.raises(DataError, match=words):
        from_psfex(stamps, degree=degree, zero=(0, 0), scale=(1, 1), sampling=sampling)

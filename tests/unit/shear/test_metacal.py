"""Sheared images against galsim, noise without direction, response of a population."""

import galsim
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from skymill.data.errors import ConfigError, DataError
from skymill.shear._metadetect_kernels import find_peaks
from skymill.shear.metacal import SHEAR_TYPES, metacal, shear_matrix, target_sigma
from skymill.shear.metadetect import (
    MetadetectOptions,
    estimate_shear,
    metadetect_cell,
    select_for_shear,
)
from skymill.shear.plugin import load_algorithm

N, OFFSET = 128, (3.3, -4.2)


def stamp(profile, n, shift=(0.0, 0.0)):
    # galsim's centre of an even image lies between pixels; ours is pixel n // 2.
    dx, dy = (0.5 + s if n % 2 == 0 else s for s in shift)
    return profile.shift(dx, dy).drawImage(nx=n, ny=n, scale=1.0, dtype=float).array


PSF = galsim.Moffat(beta=3, fwhm=3.6).shear(g1=0.03, g2=-0.02)
GALAXY = galsim.Exponential(half_light_radius=2.0).shear(g1=0.2, g2=0.1)
STAR = stamp(PSF, 63).astype(np.float32)


def test_images_are_those_that_galsim_draws_sheared():
    image = stamp(galsim.Convolve(GALAXY, PSF), N, OFFSET).astype(np.float32)
    sigma = target_sigma(STAR[None])
    found = metacal(image, np.zeros_like(image), STAR, sigma=sigma)
    for name, (u, v) in SHEAR_TYPES.items():
        place = shear_matrix(0.01 * u, 0.01 * v) @ OFFSET + 0.5
        seen = galsim.Convolve(
            GALAXY.shear(g1=0.01 * u, g2=0.01 * v).shift(*place), galsim.Gaussian(sigma=sigma)
        )
        truth = seen.drawImage(nx=N, ny=N, scale=1.0, method="no_pixel", dtype=float).array
        # Stamp of the PSF cut at 63 pixels: its wings hold 1e-4 of the flux.
        assert np.abs(found[name] - truth).max() < 3e-5 * truth.max()


def test_noise_has_no_direction_after_any_shear():
    rng = np.random.default_rng(4)
    sigma = target_sigma(STAR[None])
    moments = {name: np.zeros(2) for name in SHEAR_TYPES}
    alone = np.zeros(2)
    n_image = 40
    k = 2 * np.pi * np.fft.fftfreq(N)
    kx, ky = np.meshgrid(k, k)
    for _ in range(n_image):
        first, second = rng.normal(size=(2, N, N)).astype(np.float32)
        for noise, store in ((second, moments), (np.zeros_like(second), None)):
            found = metacal(first, noise, STAR, sigma=sigma)
            for name, plane in found.items():
                power = np.abs(np.fft.fft2(plane)) ** 2
                q = np.array(
                    [(power * (kx**2 - ky**2)).sum(), (2 * power * kx * ky).sum()]
                ) / (power * (kx**2 + ky**2)).sum()  # fmt: skip
                if store is not None:
                    store[name] += q / n_image
                elif name == "1p":
                    alone += q / n_image
    # About n^2 / 10 independent modes an image carry the power.
    error = 1 / np.sqrt(n_image * N**2 / 10)
    assert np.hypot(*alone) > 10 * error  # without the added noise there is a direction
    for name, q in moments.items():
        assert np.abs(q).max() < 4 * error, name


def cells(g, n_cell=6):
    out = []
    for k in range(n_cell):
        rng = np.random.default_rng(k // 2)
        image = np.zeros((N, N))
        shear = galsim.Shear(g1=g)
        angle = rng.uniform(0, np.pi, 4) + (k % 2) * np.pi / 2
        for (u, v), a in zip([(-20, -20), (20, -20), (-20, 20), (20, 20)], angle, strict=True):
            shape = galsim.Shear(g=0.3, beta=a * galsim.radians)
            profile = galsim.Exponential(half_light_radius=2.2, flux=100.0).shear(shape)
            image += stamp(galsim.Convolve(profile.shear(shear), PSF), N, (u, v))
        noise = rng.normal(0, 0.01, (2, N, N)).astype(np.float32)
        out.append(
            metadetect_cell(
                (image + noise[0]).astype(np.float32)[None], np.array([1e-4], np.float32),
                noise[1][None], STAR[None], bands=("r",), margin=20,
            )
        )  # fmt: skip
    return out


def test_shear_of_ring_pairs_is_recovered():
    plus, minus = (estimate_shear(cells(g)) for g in (0.02, -0.02))
    assert plus.n == minus.n == 24
    assert (plus.g1 - minus.g1) / 0.04 == pytest.approx(1.0, abs=0.02)  # 24 galaxies of S/N 100
    assert plus.response[0, 0] == pytest.approx(plus.response[1, 1], rel=0.1)
    assert abs(plus.response[0, 1]) < 0.1 * plus.response[0, 0]


def test_fluxes_and_positions_do_not_depend_on_the_applied_shear():
    one = cells(0.0, 2)[0]
    for table in one.values():
        order = np.lexsort((np.round(table["x"] / 30), np.round(table["y"] / 30)))
        table = table[order]
        assert select_for_shear(table).all()
        np.testing.assert_allclose(table["x"], [44, 84, 44, 84], atol=0.1)
        np.testing.assert_allclose(table["y"], [44, 44, 84, 84], atol=0.1)
        assert np.ptp(table["r_flux"]) < 0.1 * table["r_flux"].mean()
        assert (table["r_flux_err"] > 0).all()


def test_bad_cells_are_refused_in_a_sentence():
    good = np.zeros((1, N, N), np.float32)
    bad = good.copy()
    bad[0, 5, 5] = np.nan
    with pytest.raises(DataError, match="finite"):
        metadetect_cell(bad, np.ones(1), good, STAR[None], bands=("r",), margin=20)
    with pytest.raises(DataError, match="positive variance"):
        metadetect_cell(good, np.zeros(1), good, STAR[None], bands=("r",), margin=20)
    with pytest.raises(DataError, match="not all among"):
        metadetect_cell(
            good, np.ones(1), good, STAR[None], bands=("r",), shear_bands=("i",), margin=20
        )
    with pytest.raises(DataError, match="at least two cells"):
        estimate_shear(cells(0.0, 1), options=MetadetectOptions())


OWN = """
import numpy as np

class Shapes:
    def __call__(self, image, x, y, sigma, noise):
        n = x.size
        e1 = image[y.astype(int), x.astype(int)] / noise
        e1[0] = np.nan
        return {"x": x, "y": y, "e1": e1, "e2": np.zeros(n), "size_ratio": np.full(n, sigma),
                "snr": np.full(n, 50.0), "flags": np.zeros(n, int)}

def too_few(image, x, y, sigma, noise):
    return {"x": x}
"""


def test_shapes_of_a_users_own_algorithm(tmp_path, monkeypatch):
    (tmp_path / "own_shapes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    image = stamp(galsim.Convolve(GALAXY, PSF), N).astype(np.float32) * 100
    arguments = (image[None], np.array([1e-4]), np.zeros_like(image)[None], STAR[None])

    def measure(name):
        options = MetadetectOptions(shapes=name)
        return metadetect_cell(*arguments, bands=("r",), margin=20, options=options)

    found = measure("own_shapes.Shapes")["noshear"]
    assert found["flags"].tolist() == [1]  # not finite
    assert found["e1"].tolist() == [0.0]
    with pytest.raises(DataError, match="must be a dict of x, y, e1"):
        measure("own_shapes.too_few")
    with pytest.raises(ConfigError, match="dotted path"):
        MetadetectOptions(shapes="magic")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_algorithm("shapes", "no_such_module.measure")
    with pytest.raises(ConfigError, match="not a function"):
        load_algorithm("shapes", "math.pi")


def flood_oracle(image, floor):
    """Peaks and their height over the highest path to a higher one, by trying every level."""
    peaks = {}
    ny, nx = image.shape
    for i in range(1, ny - 1):
        for j in range(1, nx - 1):
            box = image[i - 1 : i + 2, j - 1 : j + 2]
            if image[i, j] == box.max() and image[i, j] > floor:
                peaks[i, j] = None
    for i, j in peaks:
        for level in np.sort(image[image > floor])[::-1]:
            if level > image[i, j]:
                continue
            labels, _ = label(image >= level, np.ones((3, 3)))
            if image[labels == labels[i, j]].max() > image[i, j]:
                peaks[i, j] = image[i, j] - level
                break
    return peaks


def test_peaks_split_where_the_highest_path_between_them_says():
    rng = np.random.default_rng(2)
    image = gaussian_filter(rng.normal(size=(40, 40)), 1.5)
    image = (image / image.std() * 2 + 3).astype(np.float32)
    image[[0, -1]] = image[:, [0, -1]] = 0.0
    x, y, weight = np.empty(200, np.int64), np.empty(200, np.int64), np.empty(200)
    # With a sharp step at a height of 1 over the saddle every peak has a weight of 0 or 1 ...
    n = find_peaks(image, 1.0, 1.0, 1.0, 1.0, 1.0 + 1e-9, x, y, weight)
    truth = flood_oracle(image, 1.0)
    assert set(zip(y[:n].tolist(), x[:n].tolist(), strict=True)) == set(truth)
    for i, j, w in zip(y[:n], x[:n], weight[:n], strict=True):
        height = truth[i, j]
        if height is not None and height < 0.5:  # ... almost: a^4 / (a^4 + b^4)
            assert w < 0.5 + 1e-6
        elif height is None or height > 1.0:
            assert w > 0.5


def test_weights_do_not_jump():
    # Two Gaussians that move apart: the sum of the weights goes from 1 to 2 in small steps.
    grid = np.arange(64.0)
    x, y, weight = np.empty(50, np.int64), np.empty(50, np.int64), np.empty(50)
    sums = []
    for distance in np.arange(4.0, 16.0, 0.02):
        line = [np.exp(-0.5 * ((grid - 32 + s * distance / 2) / 3) ** 2) for s in (-1, 0.8)]
        image = 20 * np.exp(-0.5 * ((grid[:, None] - 32) / 3) ** 2) * (line[0] + 0.7 * line[1])
        n = find_peaks(image.astype(np.float32), 3.0, 5.0, 7.0, 3.0, 6.0, x, y, weight)
        sums.append(weight[:n].sum())
    assert sums[0] == pytest.approx(1.0)
    assert sums[-1] == pytest.approx(2.0)
    assert np.abs(np.diff(sums)).max() < 0.05

"""Sheared images against galsim, noise without direction, response of a population."""

import galsim
import numpy as np
import pytest
from astropy.table import Table, vstack
from scipy.ndimage import gaussian_filter, label

from skymill.data.errors import ConfigError, DataError
from skymill.shear._metadetect_kernels import find_peaks
from skymill.shear.metacal import SHEAR_TYPES, metacal, shear_matrix, target_sigma
from skymill.shear.metadetect import (
    MetadetectOptions,
    metadetect_cell,
    shear_weights,
)
from skymill.shear.plugin import load_algorithm
from skymill.shear.response import estimate_shear, solve_shear, sum_shapes
from skymill.sims.draw import PsfField, Sources, draw_sources

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


def smooth_spectrum(kx, ky):
    """Power of noise averaged over (1, 2, 1) / 4 pixels along x and (1, 8, 1) / 10 along y."""
    return ((0.5 + 0.5 * np.cos(kx)) * (0.8 + 0.2 * np.cos(ky))) ** 2


@pytest.mark.parametrize("spectrum", [None, smooth_spectrum], ids=["white", "correlated"])
def test_noise_has_no_direction_after_any_shear(spectrum):
    rng = np.random.default_rng(4)
    sigma = target_sigma(STAR[None])
    k = 2 * np.pi * np.fft.fftfreq(N)
    kx, ky = np.meshgrid(k, k)
    filters = 1.0 if spectrum is None else np.sqrt(spectrum(kx, ky))
    n_image = 30

    def directions(first, second, spectrum):
        found = metacal(first, second, STAR, sigma=sigma, spectrum=spectrum)
        out = {}
        for name, plane in found.items():
            power = np.abs(np.fft.fft2(plane)) ** 2
            q = np.array([(power * (kx**2 - ky**2)).sum(), (2 * power * kx * ky).sum()])
            out[name] = q / (power * (kx**2 + ky**2)).sum() / n_image
        return out

    both, alone = {name: np.zeros(2) for name in SHEAR_TYPES}, np.zeros(2)
    for _ in range(n_image):
        first, second = rng.normal(size=(2, N, N)).astype(np.float32)
        first = np.fft.ifft2(np.fft.fft2(first) * filters).real.astype(np.float32)
        for name, q in directions(first, second, spectrum).items():
            both[name] += q
        # Without the added noise, or with white noise for correlated, there is a direction.
        wrong = np.zeros_like(second) if spectrum is None else second
        alone += directions(first, wrong, None)["1p"]
    # About n^2 / 10 independent modes an image carry the power.
    error = 1 / np.sqrt(n_image * N**2 / 10)
    assert np.hypot(*alone) > 8 * error
    for name, q in both.items():
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


def draw_grid(rng, g, turn):
    """36 bright galaxies 40 pixels apart under a shear, and their PSF."""
    side, scale = 288, np.eye(2)
    grid = 24 + 40 * (np.arange(6) + 0.5)
    x, y = (a.ravel() + rng.uniform(-1, 1, 36) for a in np.meshgrid(grid, grid))
    e = np.minimum(rng.rayleigh(0.2, 36), 0.7) * np.exp(2j * rng.uniform(0, np.pi, 36))
    e *= -1 if turn else 1
    shape = np.array([[1 + e.real, e.imag], [e.imag, 1 - e.real]]).transpose(2, 0, 1)
    shape /= np.sqrt(1 - np.abs(e) ** 2)[:, None, None]
    maps = rng.uniform(1.2, 3.5, 36)[:, None, None] * (shear_matrix(g, 0.0) @ shape)
    flux = 10 ** rng.uniform(1, 2, 36)
    image, star = np.zeros((side, side), np.float32), np.zeros((91, 91), np.float32)
    psf = rng.uniform(3.2, 4.2), 0.03 + rng.normal(0, 0.02), -0.02 + rng.normal(0, 0.02)
    for plane, n, where in ((image, 36, (x, y)), (star, 1, (np.full(1, 45.0),) * 2)):
        field = PsfField("moffat", 3.0, *(np.full(n, v) for v in psf))
        fraction = np.full(n, 0.0 if n > 1 else -1.0)
        sources = Sources(*where, flux[:n], fraction, maps[:n], maps[:n], np.tile(scale, (n, 1, 1)))
        draw_sources(plane, sources, field, noise=1e-4)
    star = star[20:-20, 20:-20]
    return image, star / star.sum()


def test_shear_of_ring_pairs_is_recovered():
    sums = np.zeros((2, 6, 5, 4))
    for k in range(6):
        for s, g in enumerate((0.02, -0.02)):
            for turn in (0, 1):
                rng = np.random.default_rng([3, k])
                image, star = draw_grid(rng, g, turn)
                noise = rng.normal(0, 0.005, (2, *image.shape)).astype(np.float32)
                found = metadetect_cell(
                    (image + noise[0])[None], np.array([2.5e-5]), noise[1][None], star[None],
                    bands=("r",), margin=20,
                )  # fmt: skip
                sums[s, k] += sum_shapes(found)

    def bias(total):
        plus, minus = solve_shear(total)[0]
        return np.array([(plus[0] - minus[0]) / 0.04 - 1, *(plus + minus) / 2])

    total = sums.sum(axis=1)
    value = bias(total)
    error = np.sqrt(5 * np.var([bias(total - sums[:, k]) for k in range(6)], axis=0))
    assert total[0, 0, 3] > 400
    assert error[0] < 0.003
    assert abs(value[0]) + 2 * error[0] < 0.01
    assert np.abs(value[1:]).max() < 0.003  # the PSF has an ellipticity of 0.03
    response = solve_shear(total)[1][0]
    assert response[0, 0] == pytest.approx(response[1, 1], rel=0.1)
    assert abs(response[0, 1]) < 0.05 * response[0, 0]


def test_estimate_of_a_list_of_cells_is_that_of_one_table():
    found = cells(0.02)
    one = estimate_shear(found)
    joined = {}
    for name in SHEAR_TYPES:
        for k, table in enumerate(found):
            table[name]["cell"] = k
        joined[name] = vstack([table[name] for table in found], metadata_conflicts="silent")
    other = estimate_shear(joined, cell="cell")
    assert (one.g1, one.g2_err, one.n) == pytest.approx((other.g1, other.g2_err, other.n))
    assert one.n == 24
    assert one.g1 == pytest.approx(0.02, abs=4 * one.g1_err)
    # Weights of one's own: half of them change nothing, none of the left half leaves half.
    half = estimate_shear(found, weigh=lambda t: 0.5 * shear_weights(t))
    assert half.g1 == pytest.approx(one.g1)
    left = estimate_shear(found, weigh=lambda t: shear_weights(t) * (t["x"] > N / 2))
    assert left.n == 12


def test_weights_rise_smoothly():
    options = MetadetectOptions()
    n = 2001
    table = Table({"snr": np.linspace(0, 40, n), "size_ratio": np.full(n, 1.5)})
    table["detection"], table["flags"] = np.ones(n), np.zeros(n, int)
    weight = shear_weights(table, options)
    assert (weight[table["snr"] < options.min_snr] == 0).all()
    assert np.abs(np.diff(weight)).max() < 0.01
    assert weight[-1] > 0.9
    for value, expected in ((1.0, 0.0), (1.2, 0.5), (1.5, 1.0), (1.8, 0.5), (2.0, 0.0)):
        table["size_ratio"] = value
        assert shear_weights(table, options)[-1] == pytest.approx(expected * weight[-1])
    table["size_ratio"], table["flags"] = 1.5, 1
    assert (shear_weights(table, options) == 0).all()


def test_a_band_of_worse_seeing_has_its_own_target():
    wide = stamp(galsim.Moffat(beta=3, fwhm=4.6), 63).astype(np.float32)
    flux = 100.0
    images = [
        (flux * stamp(p, N)).astype(np.float32) for p in (PSF, galsim.Moffat(beta=3, fwhm=4.6))
    ]
    found = metadetect_cell(
        np.array(images), np.array([1e-4, 1e-4]), np.zeros((2, N, N), np.float32),
        np.array([STAR, wide]), bands=("r", "u"), shear_bands=("r",), margin=20,
    )["noshear"]  # fmt: skip
    assert found.meta["sigma"] == pytest.approx(target_sigma(STAR[None]))
    # Both see a star of this flux; the stamps of the PSFs hold all but 1e-3 of it.
    assert found["r_flux"][0] == pytest.approx(flux, rel=3e-3)
    assert found["u_flux"][0] == pytest.approx(flux, rel=3e-3)


def test_fluxes_and_positions_do_not_depend_on_the_applied_shear():
    one = cells(0.0, 2)[0]
    for table in one.values():
        order = np.lexsort((np.round(table["x"] / 30), np.round(table["y"] / 30)))
        table = table[order]
        assert (shear_weights(table) > 0).all()
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

import numpy as np
import pytest

from skymill.data.errors import DataError
from skymill.data.masks import MaskPlane
from skymill.measure.deblend import cut_stamps, deblend_sources, total_model
from skymill.measure.detection import detect_sources


def gaussian(shape, x, y, flux, sigma):
    v, u = np.mgrid[: shape[0], : shape[1]]
    return flux / (2 * np.pi * sigma**2) * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma**2))


SOURCES = [  # x, y, sigma, fluxes in two bands
    (50.0, 50.0, 2.0, (8000.0, 3000.0)),
    (61.0, 52.0, 2.0, (2000.0, 4000.0)),
    (46.0, 60.0, 3.0, (3000.0, 3000.0)),
    (120.0, 40.0, 2.0, (1000.0, 500.0)),
]


def scene(noise, seed=3, shape=(110, 160)):
    rng = np.random.default_rng(seed)
    truth = np.zeros((len(SOURCES), 2, *shape))
    for k, (x, y, sigma, fluxes) in enumerate(SOURCES):
        for b, flux in enumerate(fluxes):
            truth[k, b] = gaussian(shape, x, y, flux, sigma)
    images = (truth.sum(axis=0) + rng.normal(0, noise, (2, *shape))).astype(np.float32)
    variances = np.full(images.shape, noise**2, np.float32)
    found = detect_sources(images[0], variances[0], np.zeros(shape, np.int32), psf_sigma=2.0)
    return truth, images, variances, found


def stamps(children, images, variances, band, found, size=61):
    b = children.bands.index(band)
    noise = np.random.default_rng(1).normal(0, np.sqrt(variances[b])).astype(np.float32)
    total = total_model(children, band=band, shape=images[b].shape)
    return cut_stamps(
        children,
        np.arange(len(children)),
        images[b],
        variances[b],
        np.zeros(images[b].shape, np.int32),
        band=band,
        x=found.x,
        y=found.y,
        size=size,
        noise=noise,
        total=total,
    )


def test_children_get_their_flux_in_each_band():
    _, images, variances, found = scene(noise=1.0)
    assert len(found) == 4
    children = deblend_sources(
        images, variances, found.labels, x=found.x, y=found.y, bands=("g", "r")
    )
    assert sorted(children.n_siblings.tolist()) == [1, 3, 3, 3]
    for x, y, _, fluxes in SOURCES:
        k = np.argmin(np.hypot(found.x - x, found.y - y))
        for b, band in enumerate(("g", "r")):
            sheet = stamps(children, images, variances, band, found)
            pixels = sheet.image[61 * k : 61 * k + 61]
            v, u = np.mgrid[:61, :61] - 30.0
            flux = pixels[np.hypot(u, v) < 10].sum()
            # Noise of 314 pixels: 18; the overlap is shared to a few per cent of the neighbours.
            assert flux == pytest.approx(fluxes[b], rel=0.1, abs=80), (x, band)


def test_children_add_up_to_the_parent():
    _, images, variances, found = scene(noise=1.0)
    children = deblend_sources(
        images, variances, found.labels, x=found.x, y=found.y, bands=("g", "r")
    )
    total = total_model(children, band="g", shape=images[0].shape)
    np.testing.assert_array_equal(total > 0, found.labels > 0)
    shares = np.zeros(images[0].shape)
    for k in range(len(children)):
        width = children.x1[k] - children.x0[k]
        for y in range(max(0, children.y0[k]), min(110, children.y1[k])):
            for x in range(max(0, children.x0[k]), min(160, children.x1[k])):
                p = children.first[k] + (y - children.y0[k]) * width + x - children.x0[k]
                shares[y, x] += children.templates[p] * children.spectra[k, 0]
    inside = found.labels > 0
    np.testing.assert_allclose(shares[inside] / total[inside], 1.0, rtol=1e-4)


def test_noise_takes_the_place_of_neighbours():
    _, images, variances, found = scene(noise=1.0)
    children = deblend_sources(
        images, variances, found.labels, x=found.x, y=found.y, bands=("g", "r")
    )
    k = int(np.argmin(np.hypot(found.x - 61, found.y - 52)))
    sheet = stamps(children, images, variances, "g", found)
    # Where the brightest star was, 11 pixels to the left, almost nothing is left of its 318.
    assert abs(sheet.image[61 * k + 28, 19]) < 20
    assert (sheet.mask[61 * k : 61 * k + 61] == 0).all()
    big = stamps(children, images, variances, "g", found, size=161)
    assert (big.mask == int(MaskPlane.NO_DATA)).any()
    assert big.offset_y[1] - big.offset_y[0] == 161 - round(found.y[1]) + round(found.y[0])


def test_many_peaks_in_one_footprint_are_all_treated():
    rng = np.random.default_rng(8)
    shape = (300, 300)
    grid = [(20 + 9 * i, 20 + 9 * j) for i in range(29) for j in range(29)]
    image = sum(gaussian(shape, x, y, rng.uniform(2000, 4000), 2.0) for x, y in grid[:60])
    image = (image + rng.normal(0, 1, shape)).astype(np.float32)
    variance = np.ones(shape, np.float32)
    found = detect_sources(image, variance, np.zeros(shape, np.int32), psf_sigma=2.0)
    assert found.labels.max() == 1
    children = deblend_sources(
        image[None], variance[None], found.labels, x=found.x, y=found.y, bands=("r",)
    )
    assert len(children) == len(found) == 60
    assert np.isfinite(children.spectra).all()
    assert (children.spectra > 0).all()


def test_empty_and_bad_input():
    images = np.zeros((1, 40, 40), np.float32)
    labels = np.zeros((40, 40), np.int32)
    none = np.empty(0)
    assert len(deblend_sources(images, images + 1, labels, x=none, y=none, bands=("r",))) == 0
    with pytest.raises(DataError, match="lies in no footprint"):
        deblend_sources(
            images, images + 1, labels, x=np.array([3.0]), y=np.array([3.0]), bands=("r",)
        )

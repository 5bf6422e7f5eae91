import galsim
import numpy as np
import pytest
from astropy.io import fits

from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.measure.background import BackgroundOptions, estimate_background
from skymill.measure.deblend import deblend_sources, total_model
from skymill.measure.detection import DetectionOptions, detect_sources
from skymill.measure.objects import ObjectOptions, force_objects, measure_objects
from skymill.measure.psf_flux import GaussianPsf
from skymill.psf.models import CellPsf

ORIGIN = (1000, 2000)


def cell_psf(cells=4, cell=60):
    """A different Moffat in each cell; the last cell has no data."""
    stamps = np.empty((cells, cells, 35, 35), np.float32)
    for j in range(cells):
        for i in range(cells):
            profile = galsim.Moffat(beta=3.5, fwhm=3.3 + 0.1 * i).shear(g1=0.02 * j, g2=0.01)
            stamps[j, i] = profile.drawImage(nx=35, ny=35, scale=1.0).array
    stamps[-1, -1] = np.nan
    return CellPsf(stamps, float(ORIGIN[0]), float(ORIGIN[1]), cell)


def scene():
    psf = cell_psf()
    rng = np.random.default_rng(5)
    image = rng.normal(0, 1.0, (240, 240))
    x, y = (a.ravel() for a in np.meshgrid(30.0 + 60 * np.arange(4), 30.0 + 60 * np.arange(4)))
    x, y = x + rng.uniform(-0.5, 0.5, 16), y + rng.uniform(-0.5, 0.5, 16)
    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    stamps = psf.draw(x=x + ORIGIN[0], y=y + ORIGIN[1], offset_x=x - ix, offset_y=y - iy)
    stamps[-1] = stamps[0]
    for k in range(16):
        image[iy[k] - 17 : iy[k] + 18, ix[k] - 17 : ix[k] + 18] += 3000.0 * stamps[k]
    planes = PixelPlanes(
        image.astype(np.float32),
        np.ones(image.shape, np.float32),
        np.zeros(image.shape, np.int32),
        unit="nJy",
    )
    found = detect_sources(planes.image, planes.variance, planes.mask, psf_sigma=1.5)
    children = deblend_sources(
        planes.image[None], planes.variance[None], found.labels, x=found.x, y=found.y, bands=("r",)
    )
    return planes, psf, found, children, x, y


def measure(planes, psf, found, children, **changes):
    return measure_objects(
        planes,
        psf=psf,
        psf_sigma=1.5,
        children=children,
        band="r",
        x=found.x,
        y=found.y,
        rng=np.random.default_rng(1),
        origin=ORIGIN,
        **changes,
    )


def test_psf_of_cells_and_a_cell_without_psf():
    planes, psf, found, children, x, y = scene()
    assert len(found) == 16
    table = measure(planes, psf, found, children)
    lost = np.argmin(np.hypot(table["x"] - x[-1] - ORIGIN[0], table["y"] - y[-1] - ORIGIN[1]))
    good = np.arange(16) != lost
    # Noise of a PSF flux: sqrt(4 pi) 1.7 = 6; the Lanczos-shifted PSF of the test is the same.
    np.testing.assert_allclose(table["psfFlux"][good], 3000.0, atol=35)
    np.testing.assert_allclose(table["cModelFlux"][good], 3000.0, rtol=0.02)
    assert (table["extendedness"][good] == 0).mean() > 0.85
    assert (table["psfFlux_flags"][good] == 0).all()
    assert table["psfFlux_flags"][lost] & MeasureFlag.NO_PSF
    assert table["cModelFlux_flags"][lost] & MeasureFlag.NO_PSF
    assert table["hsm_flags"][lost] != 0
    assert np.isfinite(table["ap06Flux"]).all()


def test_each_value_that_is_nan_has_a_flag():
    planes, psf, found, children, _, _ = scene()
    planes.mask[60:120, 60:120] = MaskPlane.NO_DATA
    planes.image[60:120, 60:120] = np.nan
    table = measure(planes, psf, found, children)
    for name, flag in (
        ("psfFlux", "psfFlux_flags"),
        ("cModelFlux", "cModelFlux_flags"),
        ("kronFlux", "kronFlux_flags"),
        ("ixx", "shape_flags"),
        ("x_err", "centroid_flags"),
        ("hsmE1", "hsm_flags"),
        ("extendedness", "extendedness_flags"),
    ):
        bad = ~np.isfinite(table[name])
        assert (table[flag][bad] != 0).all(), name
    assert np.isfinite(table["x"]).all()


def test_forced_equals_free_at_the_same_place():
    planes, psf, found, children, _, _ = scene()
    free = measure(planes, psf, found, children)
    forced = force_objects(
        planes,
        psf=psf,
        psf_sigma=1.5,
        children=children,
        band="r",
        reference=free,
        rng=np.random.default_rng(1),
        origin=ORIGIN,
    )
    good = (free["psfFlux_flags"] == 0) & (forced["psfFlux_flags"] == 0)
    assert np.count_nonzero(good) == 15
    np.testing.assert_allclose(forced["psfFlux"][good], free["psfFlux"][good], rtol=2e-3)
    np.testing.assert_allclose(forced["cModelFlux"][good], free["cModelFlux"][good], rtol=5e-3)
    np.testing.assert_allclose(forced["kronFlux"][good], free["kronFlux"][good], rtol=1e-2)


def test_shear_shapes_can_be_left_out():
    planes, psf, found, children, _, _ = scene()
    none = measure(planes, psf, found, children, options=ObjectOptions(do_shear_shape=False))
    assert "hsmE1" not in none.colnames
    assert "hsmE1" in measure(planes, psf, found, children).colnames


@pytest.fixture(scope="module")
def kids(shared_data):
    images, variances = [], []
    for band in "gri":
        with fits.open(shared_data / "multiband" / f"kids_{band}.fits") as hdus:
            data = next(h.data for h in hdus if h.data is not None)
            data = np.asarray(data[600:1400, 600:1400], np.float32)
        level = estimate_background(
            data, np.zeros(data.shape, np.int32), options=BackgroundOptions(box=200)
        )
        images.append(data - level.evaluate())
        variances.append(level.evaluate_rms() ** 2)
    images, variances = np.array(images), np.array(variances, np.float32)
    found = detect_sources(
        images[1],
        variances[1],
        np.zeros(images[1].shape, np.int32),
        psf_sigma=1.5,
        options=DetectionOptions(dynamic=True),
    )
    children = deblend_sources(
        images, variances, found.labels, x=found.x, y=found.y, bands=("g", "r", "i")
    )
    return images, variances, found, children


def test_real_pixels_are_deblended_without_loss(kids):
    images, _, found, children = kids
    assert len(found) > 200
    assert (children.n_siblings > 1).sum() > 20
    for band in children.bands:
        total = total_model(children, band=band, shape=images[0].shape)
        np.testing.assert_array_equal(total > 0, found.labels > 0)


def test_real_pixels_give_catalogues_without_gaps(kids):
    images, variances, found, children = kids
    planes = PixelPlanes(images[1], variances[1], np.zeros(images[1].shape, np.int32))
    table = measure_objects(
        planes,
        psf=GaussianPsf(1.5),
        psf_sigma=1.5,
        children=children,
        band="r",
        x=found.x,
        y=found.y,
        rng=np.random.default_rng(2),
    )
    inner = np.all([table["x"] > 30, table["x"] < 770, table["y"] > 30, table["y"] < 770], axis=0)
    bright = inner & (table["psfFlux"] > 30 * table["psfFluxErr"])
    assert np.isfinite(table["cModelFlux"][inner]).all()
    # Two independent total fluxes of the same pixels.
    ratio = np.asarray(table["kronFlux"] / table["cModelFlux"])[bright]
    assert 0.9 < np.median(ratio) < 1.1
    assert np.mean(~np.isfinite(table["ixx"][bright])) < 0.05


@pytest.mark.parametrize("name", ["43158172147384603", "43158172147385481"])
def test_real_blends(shared_data, name):
    blend = np.load(shared_data / "blends" / f"{name}.npz")
    images, weights = blend["images"], blend["weights"]
    variances = np.where(weights > 0, 1 / np.where(weights > 0, weights, 1), 0).astype(np.float32)
    n_band, ny, nx = images.shape
    labels = np.ones((ny, nx), np.int32)
    peaks = blend["peaks"]
    x, y = peaks[:, 0], peaks[:, 1]
    if x.max() > nx - 1 or y.max() > ny - 1:
        x, y = y, x
    children = deblend_sources(images, variances, labels, x=x, y=y, bands=tuple("grizy"))
    assert len(children) == len(peaks)
    assert np.isfinite(children.templates).all()
    for b, band in enumerate("grizy"):
        total = total_model(children, band=band, shape=(ny, nx))
        # The models follow the pixels: what is left is small against the blend.
        assert abs((images[b] - total).sum()) < 0.25 * np.abs(images[b]).sum()
    assert n_band == 5

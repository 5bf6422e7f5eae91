"""Galaxy models of deblended sources in 45 real HSC blends: no runaways, few failures."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from skymill.data.flags import MeasureFlag
from skymill.data.images import PixelPlanes
from skymill.measure.deblend import deblend_sources, total_model
from skymill.measure.objects import measure_objects
from skymill.psf.models import ConstantPsf

BANDS = tuple("grizy")


def deblend(path):
    with np.load(path) as blend:
        images, weights = blend["images"], blend["weights"]
        peaks, psf = blend["peaks"], blend["psfs"][2]
    shape = images.shape[1:]
    variance = np.where(weights > 0, 1 / np.maximum(weights, 1e-30), np.nan).astype(np.float32)
    white = images.sum(axis=0)

    def light(x, y):
        inside = (x >= 0) & (y >= 0) & (x <= shape[1] - 1) & (y <= shape[0] - 1)
        return white[np.rint(y[inside]).astype(int), np.rint(x[inside]).astype(int)].sum()

    # The files do not say which column is x: the peaks lie on light.
    x, y = max((peaks.T, peaks.T[::-1]), key=lambda p: light(*p))
    inside = (x >= 0) & (y >= 0) & (x <= shape[1] - 1) & (y <= shape[0] - 1)
    x, y = x[inside], y[inside]
    bright = np.nansum(images / np.sqrt(variance), axis=0) > 3 * np.sqrt(5)
    bright[np.rint(y).astype(int), np.rint(x).astype(int)] = True
    labels, _ = label(binary_dilation(bright, iterations=2), np.ones((3, 3)))
    children = deblend_sources(
        images.astype(np.float32), variance, labels.astype(np.int32), x=x, y=y, bands=BANDS
    )
    return images.astype(np.float32), variance, labels, children, x, y, psf


def measure(path):
    images, variance, _, children, x, y, psf = deblend(path)
    shape = images.shape[1:]
    planes = PixelPlanes(images[2], np.nan_to_num(variance[2]), np.zeros(shape, np.int32), "nJy")
    sigma = np.sqrt((psf > 0.5 * psf.max()).sum() / (2 * np.pi * np.log(2)))
    return measure_objects(
        planes, psf=ConstantPsf((psf / psf.sum()).astype(np.float32)), psf_sigma=sigma,
        children=children, band="i", x=x, y=y, rng=np.random.default_rng(1),
    )  # fmt: skip


def test_models_of_real_blends(shared_data):
    paths = sorted((shared_data / "blends").glob("4*.npz"))
    if not paths:
        pytest.skip("no real blends")
    tables = [measure(path) for path in paths]

    def column(name):
        return np.concatenate([np.asarray(table[name]) for table in tables])

    flags, flux = column("cModelFlux_flags"), column("cModelFlux")
    assert flags.size > 200
    lost = ((flags & int(MeasureFlag.NOT_CONVERGED)) != 0).mean()
    # 0.4 %; 12 % before fits could end at their limits.
    assert lost < 0.03
    for name in ("psfFlux", "cModelFlux", "kronFlux"):
        assert (np.isfinite(column(name)) | (column(f"{name}_flags") != 0)).all()
    kron = column("kronFlux")
    bright = np.isfinite(flux) & (kron > 10 * column("kronFluxErr")) & (kron > 0)
    assert bright.sum() > 100
    ratio = flux[bright] / kron[bright]
    print(  # noqa: T201
        f"{flags.size} objects of {len(paths)} blends, {100 * lost:.1f} % not converged; model "
        f"over Kron flux of {bright.sum()}: median {np.median(ratio):.3f}, 98 % below "
        f"{np.percentile(ratio, 98):.2f}"
    )
    # A Kron aperture of a galaxy misses 5 to 10 %; wings of neighbours add some.
    assert 0.95 < np.median(ratio) < 1.2
    # No model runs away into light outside of its window.
    assert np.percentile(ratio, 99) < 2.5


def test_models_hold_the_light(shared_data):
    paths = sorted((shared_data / "blends").glob("4*.npz"))
    if not paths:
        pytest.skip("no real blends")
    missing, chi2 = [], []
    for path in paths:
        images, variance, labels, children, *_ = deblend(path)
        inside = np.isin(labels, children.label[children.n_siblings > 1])
        if not inside.any():
            continue
        for j, band in enumerate(BANDS):
            model = total_model(children, band=band, shape=images.shape[1:])[inside]
            data = images[j][inside]
            missing.append((data - model).sum() / data.sum())
            chi2.append(np.nanmean((data - model) ** 2 / variance[j][inside]))
    print(  # noqa: T201
        f"light outside of the models {100 * np.median(missing):.1f} %, chi-squared a pixel "
        f"{np.median(chi2):.2f}"
    )
    # 4.1 % and 1.05 when this was written; 13 % and 1.76 with templates that stay symmetric.
    assert np.median(missing) < 0.06
    assert np.median(chi2) < 1.3
    assert np.percentile(chi2, 90) < 7.0

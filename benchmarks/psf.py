"""The PSF fit against Piff's PixelGrid with a polynomial over the CCD, on the same stars."""

from __future__ import annotations

import time

import galsim
import numpy as np
import piff

from skymill.data.images import PixelPlanes
from skymill.psf.fit import PsfFitOptions, fit_psf

NY, NX, SIZE = 2048, 1024, 21


def true_psf(x, y):
    fwhm = 3.6 * (1 + 0.04 * (x / NX - 0.5) + 0.03 * (y / NY - 0.5) ** 2)
    return galsim.Moffat(beta=3, fwhm=fwhm).shear(g1=0.01 + 0.06 * (x / NX - 0.5), g2=0.02 * y / NY)


def make_field(rng, n_stars):
    image = galsim.ImageF(NX, NY, xmin=0, ymin=0)
    cells = rng.permutation(16 * 32)[:n_stars]
    x = (cells % 16 + rng.uniform(0.35, 0.65, n_stars)) * 64
    y = (cells // 16 + rng.uniform(0.35, 0.65, n_stars)) * 64
    for xi, yi, flux in zip(x, y, 10 ** rng.uniform(4, 5.3, n_stars), strict=True):
        bounds = galsim.BoundsI(int(xi) - 30, int(xi) + 30, int(yi) - 30, int(yi) + 30)
        bounds &= image.bounds
        true_psf(xi, yi).withFlux(flux).drawImage(
            image[bounds], center=galsim.PositionD(xi, yi), scale=1, add_to_image=True
        )
    variance = image.array + 100.0
    data = image.array + rng.normal(size=image.array.shape) * np.sqrt(variance)
    return data.astype(np.float32), variance.astype(np.float32), x, y


def fit_piff(data, variance, x, y):
    half = 15
    image = galsim.Image(data, xmin=0, ymin=0, scale=1.0)
    weight = galsim.Image(1 / variance, xmin=0, ymin=0, scale=1.0)
    stars = []
    for xi, yi in zip(x, y, strict=True):
        cut = galsim.BoundsI(int(xi) - half, int(xi) + half, int(yi) - half, int(yi) + half)
        stars.append(piff.Star(piff.StarData(
            image[cut], galsim.PositionD(xi, yi), weight=weight[cut],
        ), None))  # fmt: skip
    psf = piff.SimplePSF(
        piff.PixelGrid(1.0, SIZE),
        piff.BasisPolynomial(2, keys=("x", "y"), solver="cpp"),
        outliers=piff.ChisqOutliers(nsigma=5),
    )
    psf.fit(stars, {0: galsim.PixelScale(1.0)}, None)
    return psf


def residuals(draw):
    grid_x, grid_y = np.meshgrid(np.linspace(60, NX - 60, 6), np.linspace(60, NY - 60, 10))
    out = []
    for xi, yi in zip(grid_x.ravel(), grid_y.ravel(), strict=True):
        truth = true_psf(xi, yi).drawImage(nx=SIZE, ny=SIZE, scale=1)
        ours = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(draw(xi, yi))))
        size = galsim.hsm.FindAdaptiveMom(truth).moments_sigma
        out.append((ours.moments_sigma / size) ** 2 - 1)
    return np.array(out)


def main():
    rng = np.random.default_rng(1)
    field = make_field(rng, 120)
    data, variance, x, y = field
    planes = PixelPlanes(data, variance, np.zeros(data.shape, np.int32))
    options = PsfFitOptions(stamp_size=SIZE)
    fit_psf(planes, x=x, y=y, options=options)
    ours = []
    for _ in range(7):
        start = time.process_time()
        fit = fit_psf(planes, x=x, y=y, options=options)
        ours.append(time.process_time() - start)
    start = time.process_time()
    peer = fit_piff(data, variance, x, y)
    theirs = time.process_time() - start
    mine = residuals(lambda a, b: fit.psf.draw(x=a, y=b)[0])
    other = residuals(lambda a, b: peer.draw(x=a, y=b, stamp_size=SIZE, center=True).array)
    median = float(np.median(ours))
    print(f"PSF fit, 120 stars, {SIZE} pixel, order 2: {1e3 * median:.0f} ms")
    print(
        f"  Piff PixelGrid, BasisPolynomial, solver cpp: {theirs:.1f} s = {theirs / median:.0f} x"
    )
    print(f"  size residual: ours {mine.mean():+.5f} +- {mine.std():.5f}, "
          f"Piff {other.mean():+.5f} +- {other.std():.5f}")  # fmt: skip


if __name__ == "__main__":
    main()

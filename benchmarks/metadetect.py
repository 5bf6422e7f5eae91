"""Metadetection of a cell against the same images made by galsim: python -m benchmarks metadetect.

galsim does what the published pipeline's library does: InterpolatedImage (lanczos15), deconvolved
from the PSF's image, sheared, convolved with the target, with the turned noise image treated
alike. Only the images are made by the peer; ours are searched and measured too. Then the step
meta_4b: a patch of 36 cells in three bands with holes and correlated noise, the versions run apart.
"""

from __future__ import annotations

import time

import galsim
import numpy as np
from scipy.ndimage import convolve1d

from skymill.coadd.cells import cut_cells, plan_cells
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Box, Coadd, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.psf.models import ConstantPsf
from skymill.shear.meta_catalogue import measure_sheared_cells
from skymill.shear.metacal import SHEAR_TYPES, metacal, target_sigma
from skymill.shear.metadetect import metadetect_cell, shear_weights

SIDE, MARGIN, NOISE = 250, 24, 0.02
PSF = galsim.Moffat(beta=3, fwhm=3.6).shear(g1=0.03, g2=-0.02)


def make_cell(rng):
    """Pixels with 40 galaxies, noise, another noise, PSF."""
    image = galsim.ImageF(SIDE, SIDE)
    for _ in range(40):
        x, y = rng.uniform(10, SIDE - 10, 2)
        profile = galsim.Exponential(half_light_radius=rng.uniform(1, 3), flux=rng.pareto(1.2) * 5)
        seen = galsim.Convolve(profile.shear(g1=rng.normal(0, 0.2), g2=rng.normal(0, 0.2)), PSF)
        seen.drawImage(image, center=galsim.PositionD(x, y), scale=1.0, add_to_image=True)
    noise = rng.normal(0, NOISE, (2, SIDE, SIDE)).astype(np.float32)
    star = PSF.drawImage(nx=51, ny=51, scale=1.0).array
    return image.array + noise[0], noise[1], star


def shear_with_galsim(pixels, noise, star, sigma):
    """The five images, with noise that was turned, sheared and turned back."""
    psf = galsim.InterpolatedImage(galsim.Image(star, scale=1.0), x_interpolant="lanczos15")
    inverse, target = galsim.Deconvolve(psf), galsim.Gaussian(sigma=sigma)

    def bare(array):
        image = galsim.Image(np.ascontiguousarray(array), scale=1.0)
        return galsim.Convolve(galsim.InterpolatedImage(image, x_interpolant="lanczos15"), inverse)

    source, turned = bare(pixels), bare(np.rot90(noise))
    out = {}
    for name, (u, v) in SHEAR_TYPES.items():
        shear = galsim.Shear(g1=0.01 * u, g2=0.01 * v)
        planes = [
            galsim.Convolve(one.shear(shear), target)
            .drawImage(nx=SIDE, ny=SIDE, scale=1.0, method="no_pixel")
            .array
            for one in (source, turned)
        ]
        out[name] = planes[0] + np.rot90(planes[1], -1)
    return out


def make_patch(rng, side=1500, border=50):
    """Coadds of three bands: a galaxy every 45 pixels, some saturated stars."""
    size = side + 2 * border
    clean = np.zeros((size, size), np.float32)
    grid = np.arange(22, size - 22, 45)
    for x, y in np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2):
        profile = galsim.Exponential(half_light_radius=rng.uniform(1, 3), flux=rng.pareto(1.2) * 5)
        seen = galsim.Convolve(profile.shear(g1=rng.normal(0, 0.2), g2=rng.normal(0, 0.2)), PSF)
        clean[y - 20 : y + 21, x - 20 : x + 21] += seen.drawImage(nx=41, ny=41, scale=1.0).array
    mask = np.zeros(clean.shape, np.int32)
    for x, y in rng.integers(10, size - 10, (15, 2)):
        mask[y - 6 : y + 7, x - 6 : x + 7] = MaskPlane.SAT
    mask[clean > 5 * NOISE] |= MaskPlane.DETECTED
    star = PSF.drawImage(nx=41, ny=41, scale=1.0).array
    coadds = {}
    for band in "gri":
        noise = rng.normal(0, NOISE, clean.shape)
        for axis in (0, 1):
            noise = convolve1d(noise, [0.1, 0.8, 0.1], axis=axis) / np.sqrt(0.66)
        variance = np.full(clean.shape, NOISE**2, np.float32)
        planes = PixelPlanes((clean + noise).astype(np.float32), variance, mask, unit="nJy")
        coadds[band] = Coadd(
            planes=planes, box=Box(x0=0, y0=0, x1=size, y1=size), band=band, skymap="s", tract=0,
            inner_box=Box(x0=border, y0=border, x1=size - border, y1=size - border), patch=0,
            wcs=make_tan_wcs(ra=10, dec=-5, scale=0.263, x=size / 2, y=size / 2),
            psf=ConstantPsf(star / star.sum()),
        )  # fmt: skip
    return coadds


def measure_version(coadds, plan, shear):
    """What a quantum of meta_4b does, without reading and writing."""
    first = next(iter(coadds.values()))
    return measure_sheared_cells(
        cut_cells(coadds, plan, seed=[1]), shear=shear, bands=plan.bands, wcs=first.wcs, tract=0,
        patch=0, margin=plan.options.rim,
    )  # fmt: skip


def cpu(function, repeats):
    """Median CPU time of a call [ms], after a first one."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - start))
    return float(np.median(times))


def main():
    """Print times and their ratio."""
    pixels, noise, star = make_cell(np.random.default_rng(1))
    sigma = target_sigma(star[None])
    arguments = (pixels[None], np.array([NOISE**2]), noise[None], star[None])

    def cell():
        return metadetect_cell(*arguments, bands=("r",), margin=MARGIN)

    images = cpu(lambda: metacal(pixels, noise, star, sigma=sigma), 15)
    whole = cpu(cell, 15)
    theirs = cpu(lambda: shear_with_galsim(pixels, noise, star, sigma), 3)
    found = int((shear_weights(cell()["noshear"]) > 0).sum())
    print(f"metadetection, cell of {SIDE} pixel, one band, five versions with fixed noise")
    print(f"  all of it: {whole:.0f} ms (images {images:.0f} ms), {found} galaxies with a weight")
    print(f"  images alone by galsim, lanczos15: {theirs:.0f} ms = {theirs / images:.1f} x")
    coadds = make_patch(np.random.default_rng(2))
    plan = plan_cells(coadds, shear_bands=["r"])
    planning = cpu(lambda: plan_cells(coadds, shear_bands=["r"]), 1)
    versions = sum(cpu(lambda n=n: measure_version(coadds, plan, n), 1) for n in SHEAR_TYPES)
    per_cell = versions / len(plan) / len(coadds)
    print(f"step meta_4a, patch of {len(plan)} cells in {len(coadds)} bands: {planning:.0f} ms")
    print(f"step meta_4b, five versions run apart: {per_cell:.0f} ms a cell and band")


if __name__ == "__main__":
    main()

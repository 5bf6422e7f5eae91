"""Small exposures with known contents, drawn without the code under test."""

from __future__ import annotations

import numpy as np

from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.model.fit_image import FitImage
from skymill.psf.models import ConstantPsf
from skymill.release.brick.grid import BrickGrid, custom_grid

RA, DEC = 150.0, 2.2


def grid(size: int = 80, scale: float = 0.262) -> BrickGrid:
    return custom_grid(RA, DEC, width=size, height=size, pixel_scale=scale)


def gaussian(size: int, sigma: float, x: float, y: float) -> np.ndarray:
    """Values of a Gaussian of unit flux, without integration over pixels."""
    v, u = np.mgrid[:size, :size]
    return np.exp(-0.5 * ((u - x) ** 2 + (v - y) ** 2) / sigma**2) / (2 * np.pi * sigma**2)


def psf(sigma: float) -> ConstantPsf:
    stamp = gaussian(31, sigma, 15, 15)
    return ConstantPsf((stamp / stamp.sum()).astype(np.float32))


def exposure(
    stars: list[tuple[float, float, float]],
    *,
    band: str = "r",
    size: int = 80,
    scale: float = 0.262,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    sigma: float = 2.0,
    noise: float = 0.02,
    seed: int | None = None,
    number: int = 1,
) -> FitImage:
    """Stars at (x, y) of `grid` with fluxes [nanomaggy], seen by one exposure."""
    centre = (size - 1) / 2
    wcs: FitsWcs = make_tan_wcs(
        ra=RA, dec=DEC, scale=scale, x=centre + shift[0], y=centre + shift[1], rotation=rotation
    )
    image = np.zeros((size, size))
    own = grid()
    for x, y, flux in stars:
        ra, dec = own.wcs.pixel_to_sky(x=np.array([x]), y=np.array([y]))
        px, py = wcs.sky_to_pixel(ra=ra, dec=dec)
        image += flux * gaussian(size, sigma, float(px[0]), float(py[0]))
    if seed is not None:
        image += np.random.default_rng(seed).normal(0, noise, image.shape)
    return FitImage(
        image=image.astype(np.float32),
        inverse_error=np.full(image.shape, 1 / noise, np.float32),
        quality=np.zeros(image.shape, np.int32),
        band=band,
        wcs=wcs,
        psf=psf(sigma),
        sigma1=noise,
        fwhm=2.3548 * sigma,
        camera="decam",
        exposure=number,
        ccd="N4",
        mjd=57000.0 + number,
    )

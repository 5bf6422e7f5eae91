"""Scenes of single sources on several exposures, drawn by GalSim: pixels that nobody here made."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv

from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.model.blob import Blob
from skymill.model.fit_image import FitImage
from skymill.model.sersic import edge_radius
from skymill.model.sources import Sources
from skymill.psf.models import ConstantPsf

BANDS = ("g", "r", "z")
BRICK_SCALE = 0.262
RA, DEC = 150.0, 25.0


@functools.cache
def truncated(n: float) -> galsim.GSObject:
    """Profile of unit half-light radius and flux, truncated as the releases do.

    The factor (1 - t^2)^2 over the last radius is an integral over sharp edges.
    """
    b, edge = float(gammaincinv(2 * n, 0.5)), edge_radius(n)
    x, w = np.polynomial.legendre.leggauss(12)
    t, weight = 0.5 * (x + 1), 0.5 * w
    radius = edge - 1 + t
    flux = weight * 4 * t * (1 - t**2) * gammainc(2 * n, b * radius ** (1 / n))
    flux /= flux.sum()
    return galsim.Sum(
        [
            galsim.Sersic(n, scale_radius=b**-n, trunc=r, flux=f)
            for r, f in zip(radius, flux, strict=True)
        ]
    )


def galaxy(n: float, radius: float, e1: float, e2: float) -> galsim.GSObject:
    """A galaxy in sky axes, x to the *West* (GalSim's view of an image with North up)."""
    e = float(np.hypot(e1, e2))
    q, angle = (1 - e) / (1 + e), 0.5 * np.arctan2(e2, e1)
    round_one = truncated(n).dilate(radius * np.sqrt(q))
    return round_one.shear(q=q, beta=(np.pi / 2 + angle) * galsim.radians)


@dataclass(frozen=True)
class Visit:
    """One exposure."""

    band: str
    fwhm: float
    scale: float
    rotation: float
    flip: bool
    shift: tuple[float, float]
    sigma: float
    g1: float = 0.0
    g2: float = 0.0

    @property
    def psf(self) -> galsim.GSObject:
        """Elliptical Moffat in sky axes (x to the West)."""
        return galsim.Moffat(beta=3.5, fwhm=self.fwhm, trunc=10.0).shear(g1=self.g1, g2=self.g2)


def make_visits(rng: np.random.Generator, per_band: int = 2) -> list[Visit]:
    """Exposures of different seeing, scale, orientation, parity and noise."""
    out = []
    for band in BANDS:
        for _ in range(per_band):
            out.append(
                Visit(
                    band=band,
                    fwhm=float(rng.uniform(0.9, 1.5)),
                    scale=float(rng.choice([0.262, 0.30])),
                    rotation=float(rng.choice([0.0, 90.0, 1.5])),
                    flip=bool(rng.integers(2)),
                    shift=(float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.5, 0.5))),
                    sigma={"g": 0.012, "r": 0.018, "z": 0.04}[band] * float(rng.uniform(0.8, 1.3)),
                    g1=float(rng.normal(0, 0.03)),
                    g2=float(rng.normal(0, 0.03)),
                )
            )
    return out


def _wcs(visit: Visit, size: int) -> tuple[FitsWcs, galsim.JacobianWCS]:
    wcs = make_tan_wcs(
        ra=RA,
        dec=DEC,
        scale=visit.scale,
        x=(size - 1) / 2 + visit.shift[0],
        y=(size - 1) / 2 + visit.shift[1],
        rotation=visit.rotation,
    )
    header = wcs.header
    if visit.flip:
        for k in (1, 2):
            key = f"PC{k}_1"
            header[key] = -header.get(key, 1.0 if k == 1 else 0.0)
    wcs = FitsWcs(header)
    matrix = wcs.astropy.pixel_scale_matrix * 3600.0
    # GalSim's sky axes here: u to the West, v to the North.
    jacobian = galsim.JacobianWCS(-matrix[0, 0], -matrix[0, 1], matrix[1, 0], matrix[1, 1])
    return wcs, jacobian


def draw(
    visit: Visit, objects: list[tuple[galsim.GSObject | None, float, float, float]], size: int
) -> tuple[NDArray[np.float64], FitsWcs, ConstantPsf]:
    """Noiseless image of (profile or None, east, north [arcsec], flux), its WCS and PSF."""
    wcs, jacobian = _wcs(visit, size)
    local = galsim.JacobianWCS(jacobian.dudx, jacobian.dudy, jacobian.dvdx, jacobian.dvdy)
    image = galsim.ImageD(size, size, wcs=local)
    image.setOrigin(0, 0)
    centre = galsim.PositionD((size - 1) / 2 + visit.shift[0], (size - 1) / 2 + visit.shift[1])
    for profile, east, north, flux in objects:
        seen = visit.psf if profile is None else galsim.Convolve(profile, visit.psf)
        position = centre + local.toImage(galsim.PositionD(-east, north))
        stamp = image.copy()
        seen.withFlux(flux).drawImage(image=stamp, center=position, add_to_image=False)
        image += stamp
    stamp = galsim.ImageF(47, 47, wcs=local)
    visit.psf.drawImage(image=stamp)
    return image.array, wcs, ConstantPsf(stamp.array)


def make_scene(
    rng: np.random.Generator,
    visits: list[Visit],
    objects: list[tuple[galsim.GSObject | None, float, float, dict[str, float]]],
    size: int = 61,
) -> list[FitImage]:
    """Noisy exposures of objects with a flux in each band."""
    out = []
    for visit in visits:
        pixels, wcs, psf = draw(
            visit, [(o[0], o[1], o[2], o[3][visit.band]) for o in objects], size
        )
        noisy = pixels + rng.normal(0, visit.sigma, pixels.shape)
        out.append(
            FitImage(
                image=noisy.astype(np.float32),
                inverse_error=np.full(pixels.shape, 1 / visit.sigma, np.float32),
                quality=np.zeros(pixels.shape, np.int32),
                band=visit.band,
                wcs=wcs,
                psf=psf,
                sigma1=visit.sigma,
                fwhm=visit.fwhm / visit.scale,
            )
        )
    return out


def make_blob(
    positions: list[tuple[float, float]], fluxes: list[dict[str, float]], half: int = 22
) -> Blob:
    """A round blob on a brick of North up, with point sources near the truth."""
    size = 2 * half + 1
    wcs = make_tan_wcs(ra=RA, dec=DEC, scale=BRICK_SCALE, x=half, y=half)
    y, x = np.mgrid[:size, :size]
    mask = np.hypot(x - half, y - half) <= half
    east, north = np.array(positions).T
    return Blob(
        id=1,
        brick_wcs=wcs,
        x0=0,
        y0=0,
        mask=mask,
        sources=Sources.create(
            ra=RA + east / 3600 / np.cos(np.radians(DEC)),
            dec=DEC + north / 3600,
            flux=np.array([[f[b] for b in BANDS] for f in fluxes]),
        ),
    )

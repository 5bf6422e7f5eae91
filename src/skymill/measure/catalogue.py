"""The catalogue of one CCD: every pixel column of the ``src`` table."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.images import PixelPlanes
from skymill.data.options import check_range, option
from skymill.data.protocols import Psf, Wcs
from skymill.measure.aperture import ApertureOptions, aperture_fluxes
from skymill.measure.centroid import CentroidOptions, Centroids, centroids
from skymill.measure.detection import Detections
from skymill.measure.moments import (
    Moments,
    MomentsOptions,
    adaptive_moments,
    adaptive_moments_stamps,
)
from skymill.measure.psf_flux import GaussianPsf, PsfFluxes, psf_fluxes

__all__ = ["MeasureOptions", "measure_sources", "psf_moments"]

_PSF_MOMENTS_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What is measured on a CCD, and how."""

    aperture: ApertureOptions = field(default_factory=ApertureOptions)
    moments: MomentsOptions = field(default_factory=MomentsOptions)
    centroid: CentroidOptions = field(default_factory=CentroidOptions)
    star_flux_ratio: float = option(0.95, "PSF flux over Gaussian flux from which it is a star")

    def __post_init__(self) -> None:
        check_range(self, "star_flux_ratio", low=0.0, high=1.0)


def measure_sources(
    planes: PixelPlanes,
    *,
    psf: Psf | None,
    psf_sigma: float,
    detections: Detections,
    options: MeasureOptions = MeasureOptions(),
    wcs: Wcs | None = None,
    visit: int = 0,
    detector: int = 0,
) -> Table:
    """Measure each peak of a CCD.

    Parameters
    ----------
    planes : PixelPlanes
        Background-subtracted pixels [electron].
    psf : Psf, optional
        The PSF model; a Gaussian of ``psf_sigma`` where there is none yet.
    psf_sigma : float [pixel]
        Gaussian width of the PSF.
    detections : Detections
        Peaks and footprints.
    options : MeasureOptions
        Apertures, moments, centroid.
    wcs : Wcs, optional
        Mapping for ``ra`` and ``dec``; NaN without.
    visit, detector : int
        Identity, copied into the table.

    Returns
    -------
    astropy.table.Table
        The columns of the ``src`` schema; ``id`` counts from 1 and the ``calib_*`` columns are
        False: the task that knows better sets them.
    """
    image, variance, mask = planes.image, planes.variance, planes.mask
    model = GaussianPsf(psf_sigma) if psf is None else psf
    centre = centroids(
        image,
        variance,
        mask,
        x=detections.x,
        y=detections.y,
        sigma=psf_sigma,
        options=options.centroid,
    )
    shape = adaptive_moments(
        image, variance, mask, x=centre.x, y=centre.y, sigma=psf_sigma, options=options.moments
    )
    star = psf_moments(model, x=centre.x, y=centre.y, sigma=psf_sigma)
    psf_flux = psf_fluxes(image, variance, mask, x=centre.x, y=centre.y, psf=model)
    table = _position_columns(centre, wcs, unit=planes.unit)
    _flux_columns(table, psf_flux)
    apertures = aperture_fluxes(
        image, variance, mask, x=centre.x, y=centre.y, options=options.aperture
    )
    for j, radius in enumerate(apertures.radii):
        table[f"ap{radius:g}Flux"] = apertures.flux[:, j]
        table[f"ap{radius:g}FluxErr"] = apertures.flux_err[:, j]
        table[f"ap{radius:g}Flux_flags"] = apertures.flags[:, j]
    _shape_columns(table, shape, star)
    table["snr"] = psf_flux.flux / psf_flux.flux_err
    table["extendedness"] = _extendedness(psf_flux.flux, shape, star, options.star_flux_ratio)
    for name in ("psf_candidate", "psf_used", "psf_reserved", "astrometry_used", "photometry_used"):
        table[f"calib_{name}"] = np.zeros(len(detections), bool)
    table["blended"] = detections.peaks_in_footprint > 1
    table["visit"] = np.full(len(detections), visit, np.int64)
    table["detector"] = np.full(len(detections), detector, np.int32)
    return table


def psf_moments(
    psf: Psf,
    *,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    sigma: float,
    origin: tuple[int, int] = (0, 0),
) -> Moments:
    """Adaptive moments of the PSF model at positions.

    Parameters
    ----------
    psf : Psf
        The model.
    x, y : (n,) float64 [pixel]
        Positions in the image.
    sigma : float [pixel]
        First guess of its width.
    origin : (int, int) [pixel]
        Position (x, y) of the image's first pixel in the coordinates of the PSF.

    Returns
    -------
    Moments
        Of the PSF of unit flux; x and y are those of the stamps.
    """
    if x.size == 0:
        return adaptive_moments_stamps(np.empty((0, 3, 3), np.float32))
    parts = []
    for first in range(0, x.size, _PSF_MOMENTS_BATCH):
        part = slice(first, first + _PSF_MOMENTS_BATCH)
        stamps = psf.draw(x=x[part] + origin[0], y=y[part] + origin[1])
        parts.append(adaptive_moments_stamps(stamps, sigma=sigma))
    if len(parts) == 1:
        return parts[0]
    return Moments(
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in parts[0].__dataclass_fields__
        }
    )


def _position_columns(centre: Centroids, wcs: Wcs | None, *, unit: str) -> Table:
    n = centre.x.size
    table = Table()
    table.meta["unit"] = unit
    table["id"] = np.arange(1, n + 1, dtype=np.int64)
    table["x"], table["y"] = centre.x, centre.y
    table["x_err"], table["y_err"] = centre.x_err, centre.y_err
    ra, dec = np.full(n, np.nan), np.full(n, np.nan)
    if wcs is not None and n:
        ra, dec = wcs.pixel_to_sky(x=centre.x, y=centre.y)
    table["ra"], table["dec"] = ra, dec
    table["centroid_flags"] = centre.flags
    return table


def _flux_columns(table: Table, psf_flux: PsfFluxes) -> None:
    table["psfFlux"], table["psfFluxErr"] = psf_flux.flux, psf_flux.flux_err
    table["psfFlux_flags"] = psf_flux.flags


def _shape_columns(table: Table, shape: Moments, star: Moments) -> None:
    for name in ("ixx", "iyy", "ixy"):
        table[name] = getattr(shape, name)
        table[f"{name}Psf"] = getattr(star, name)
    table["shape_flags"] = shape.flags


def _extendedness(
    psf_flux: NDArray[np.float64], shape: Moments, star: Moments, limit: float
) -> NDArray[np.float64]:
    """0 where the PSF takes as much of the Gaussian flux as it does for a star, else 1.

    ``star.flux`` is the Gaussian flux of the PSF of unit flux: the ratio is 1 for a point source
    whatever the wings of the PSF. NaN where a flux is not positive or the moments failed.
    """
    good = ~shape.failed & ~star.failed & (psf_flux > 0)
    ratio = psf_flux * star.flux / np.where(good, shape.flux, 1.0)
    return np.where(good, np.where(ratio >= limit, 0.0, 1.0), np.nan)

"""Converters that the storage classes name."""

from __future__ import annotations

import json
import math
from typing import NoReturn

import lsst.images as li
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import fit_wcs_from_points
from lsst.images import XY
from lsst.images.cells import CellCoadd, CellIJ
from lsst.images.fields import ChebyshevField

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, Coadd, Exposure, ExposureInfo
from skymill.data.photometry import FluxScale
from skymill.measure.background import Background, BackgroundList
from skymill.psf.models import CellPsf
from skymill.store.lsst_images import planes_from_masked_image
from skymill.store.piff_psf import from_lsst_psf

__all__ = [
    "coadd_from_cell_coadd",
    "exposure_from_visit_image",
    "list_background",
    "warp_from_masked_image",
]

#: How far the FITS form of a foreign projection may be from it [arcsec].
_WCS_TOLERANCE = 0.002


def list_background(part: Background) -> BackgroundList:
    """A list of one background.

    Parameters
    ----------
    part : Background
        The background.

    Returns
    -------
    BackgroundList
        The list.
    """
    return BackgroundList([part])


def warp_from_masked_image(masked: li.MaskedImage) -> NoReturn:
    """Refuse: a masked image lacks the PSF, the WCS and the inputs of a warp.

    Parameters
    ----------
    masked : lsst.images.MaskedImage
        Any.

    Raises
    ------
    DataError
        Always. The entry lets the Butler read a warp as a masked image, which needs no converter.
    """
    raise DataError(
        f"a {type(masked).__name__} cannot become a warp: it lacks the PSF, the WCS and the inputs"
    )


def coadd_from_cell_coadd(cell_coadd: CellCoadd) -> Coadd:
    """Our coadd from any CellCoadd.

    Parameters
    ----------
    cell_coadd : lsst.images.cells.CellCoadd
        A coadd that need not come from skymill; its cells must be square.

    Returns
    -------
    Coadd
        The same pixels, PSF and noise.

    Raises
    ------
    DataError
        If the cells are not square or the WCS has no FITS form.
    """
    grid = cell_coadd.grid
    if grid.cell_shape.x != grid.cell_shape.y:
        raise DataError(f"cells must be square; got {grid.cell_shape}")
    bbox = cell_coadd.bbox
    # The FITS form counts pixels from the first of the image; ours from the first of the tract.
    wcs = _fits_wcs(cell_coadd.sky_projection, bbox).shifted(dx=-bbox.x.start, dy=-bbox.y.start)
    inner = cell_coadd.patch.inner_bbox
    noise = cell_coadd.noise_realizations
    inputs = json.loads(str(cell_coadd.metadata.get("inputs", "[]")))
    return Coadd(
        planes=planes_from_masked_image(cell_coadd),
        box=_box(bbox),
        wcs=wcs,
        psf=_cell_psf(cell_coadd),
        band=str(cell_coadd.band),
        skymap=cell_coadd.skymap,
        tract=cell_coadd.tract,
        patch=cell_coadd.patch.id,
        inner_box=_box(inner),
        noise=np.array(noise[0].array, np.float32) if noise else None,
        inputs=[(int(v), int(d)) for v, d in inputs],
    )


def _cell_psf(cell_coadd: CellCoadd) -> CellPsf:
    psf, bounds = cell_coadd.psf, cell_coadd.bounds
    cell, first, size = bounds.grid.cell_shape.x, bounds.subgrid_start, bounds.subgrid_size
    n = psf.kernel_bbox.x.size
    stamps = np.full((size.i, size.j, n, n), np.nan, np.float32)
    for i, j in np.ndindex(size.i, size.j):
        if CellIJ(i=first.i + i, j=first.j + j) not in bounds.missing:
            x = bounds.bbox.x.start + j * cell + cell // 2
            y = bounds.bbox.y.start + i * cell + cell // 2
            stamps[i, j] = psf.compute_kernel_image(x=x, y=y).array
    return CellPsf(stamps, float(bounds.bbox.x.start), float(bounds.bbox.y.start), int(cell))


def _box(bbox: li.Box) -> Box:
    return Box(x0=bbox.x.start, y0=bbox.y.start, x1=bbox.x.stop, y1=bbox.y.stop)


def _fits_wcs(projection: li.SkyProjection, bbox: li.Box) -> FitsWcs:
    """The FITS form of a projection in pixels of the array, fitted if there is no exact one."""
    x, y = (
        v.ravel()
        for v in np.meshgrid(
            np.linspace(bbox.x.min, bbox.x.max, 12), np.linspace(bbox.y.min, bbox.y.max, 12)
        )
    )
    sky = projection.pixel_to_sky(XY(x=x, y=y))
    u, v = x - bbox.x.start, y - bbox.y.start
    exact = projection.as_fits_wcs(bbox, allow_approximation=True)
    trials = [] if not isinstance(exact, WCS) else [lambda: FitsWcs(exact.to_header(relax=True))]
    trials.append(lambda: FitsWcs(_fit_sip(u, v, sky).to_header(relax=True)))
    for make in trials:
        wcs = make()
        ra, dec = wcs.pixel_to_sky(x=u, y=v)
        residual = SkyCoord(ra, dec, unit="deg").separation(sky).arcsec.max()
        if residual < _WCS_TOLERANCE:
            return wcs
    raise DataError(
        f"the sky projection of the image has no FITS form better than {residual:.3f} arcsec; "
        f"allowed: {_WCS_TOLERANCE} arcsec"
    )


def _fit_sip(x: np.ndarray, y: np.ndarray, sky: SkyCoord) -> WCS:
    return fit_wcs_from_points((x, y), sky, projection="TAN", sip_degree=4)


def exposure_from_visit_image(visit_image: li.VisitImage) -> Exposure:
    """Our exposure from any VisitImage.

    Parameters
    ----------
    visit_image : lsst.images.VisitImage
        An image that need not come from skymill.

    Returns
    -------
    Exposure
        The same pixels, WCS (its FITS form), PSF, flux scale and aperture corrections.

    Raises
    ------
    DataError
        If its WCS has no FITS form.
    """
    observation = visit_image.obs_info
    wcs = _fits_wcs(visit_image.sky_projection, visit_image.bbox)
    begin, end = observation.datetime_begin, observation.datetime_end
    exposure_time = float(observation.exposure_time.to_value("s"))
    middle = begin.tai.mjd + 0.5 * (
        (end.tai.mjd - begin.tai.mjd) if end is not None else exposure_time / 86400.0
    )
    airmass = observation.boresight_airmass
    info = ExposureInfo(
        instrument=str(observation.instrument),
        visit=int(observation.visit_id or 0),
        detector=int(visit_image.detector.id),
        physical_filter=visit_image.physical_filter,
        band=visit_image.band,
        exposure_time=exposure_time,
        mjd_mid=float(middle),
        airmass=float(airmass) if airmass is not None else math.nan,
    )
    return Exposure(
        planes=planes_from_masked_image(visit_image),
        info=info,
        wcs=wcs,
        psf=from_lsst_psf(visit_image.psf),
        photo_calib=_flux_scale(visit_image),
        aperture_correction={
            name: float(np.mean(field.render(visit_image.bbox).array))
            for name, field in visit_image.aperture_corrections.items()
        },
        summary={
            key: float(value)
            for key, value in json.loads(visit_image.summary_stats.model_dump_json()).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
    )


def _flux_scale(visit_image: li.VisitImage) -> FluxScale | None:
    field = visit_image.photometric_scaling
    if field is None:
        return None
    bbox = visit_image.bbox
    if isinstance(field, ChebyshevField) and field.bounds.bbox == bbox:
        coefficients = np.array(field.coefficients)
    else:
        x, y = (v.ravel() for v in np.meshgrid(np.linspace(bbox.x.min, bbox.x.max, 9),
                                               np.linspace(bbox.y.min, bbox.y.max, 9)))  # fmt: skip
        fit = ChebyshevField.fit(bbox, field(x=x, y=y), 3, x=x, y=y, triangular=False)
        coefficients = np.array(fit.coefficients)
    mean = float(coefficients[0, 0])
    return FluxScale(mean, 0.0, coefficients / mean, (bbox.y.size, bbox.x.size))

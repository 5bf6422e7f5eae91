"""The words of skymill as the containers of lsst.images: the only place that knows both."""

from __future__ import annotations

import json
import math
from typing import Any

import astropy.units as u
import lsst.images as li
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.time import Time
from astropy.wcs import WCS
from lsst.images import YX
from lsst.images.cells import (
    CellCoadd,
    CellGrid,
    CellGridBounds,
    CellIJ,
    CellPointSpreadFunction,
    PatchDefinition,
)
from lsst.images.fields import ChebyshevField
from lsst.images.serialization import NumberType

from skymill.data.errors import DataError
from skymill.data.geometry import FitsWcs
from skymill.data.images import Box, Coadd, Exposure, ExposureInfo, PixelPlanes
from skymill.data.masks import PLANE_DOC, MaskPlane
from skymill.data.photometry import FluxScale
from skymill.psf.models import CellPsf
from skymill.store.lsst_detector import make_lsst_detector
from skymill.store.piff_psf import to_lsst_psf

__all__ = [
    "mask_schema",
    "planes_from_masked_image",
    "to_cell_coadd",
    "to_masked_image",
    "to_visit_image",
]

#: Width of a cell where a coadd's PSF does not come in cells [pixel].
_CELL = 200


def mask_schema() -> li.MaskSchema:
    """Our mask planes with their documentation.

    Returns
    -------
    lsst.images.MaskSchema
        Bit i is plane i.
    """
    planes = [li.MaskPlane(str(p.name), PLANE_DOC[str(p.name)]) for p in MaskPlane]
    return li.MaskSchema(planes, dtype=np.int32)


class _ExactProjection(li.SkyProjection):
    """A projection whose FITS form is the WCS that it was made from.

    The AST library, which lsst.images asks for a FITS form, drops the distortion of TPV; the
    headers of the files would be wrong by arcseconds.
    """

    def __init__(self, wcs: FitsWcs, frame: li.Frame, bbox: li.Box) -> None:
        plain = li.SkyProjection.from_fits_wcs(wcs.astropy, frame, pixel_bounds=bbox)
        super().__init__(plain.pixel_to_sky_transform)
        self._fits = wcs

    def as_fits_wcs(self, bbox: li.Box, allow_approximation: bool = False) -> WCS:
        """The FITS WCS of an array that covers ``bbox``."""
        return self._fits.shifted(dx=bbox.x.start, dy=bbox.y.start).astropy


class _WordMask(li.Mask):
    """A mask of one 32-bit word a pixel, which is stored as it stands.

    lsst.images copies a mask plane by plane before storing it, which takes most of the time of
    writing an image; with one word a pixel the copy is the mask itself.
    """

    def view(self, **changes: Any) -> li.Mask:
        """The same pixels, with other metadata."""
        plain = super().view(**changes)
        found = _WordMask(
            plain.array,
            yx0=plain.bbox.start,
            schema=plain.schema,
            sky_projection=plain.sky_projection,
        )
        found.metadata.update(plain.metadata)
        return found

    def serialize(
        self, archive: Any, *, save_projection: bool = True, **options: Any
    ) -> li.MaskSerializationModel[Any]:
        """Store the mask."""
        [stored, *more] = self.schema.split(np.int32)
        same = not more and list(stored) == list(self.schema) and self.array.dtype == np.int32
        if save_projection or not same:
            return super().serialize(archive, save_projection=save_projection, **options)
        return li.MaskSerializationModel.model_construct(
            data=[self._serialize_2d(archive, **options)],
            yx0=list(self.bbox.start),
            planes=list(self.schema),
            dtype=NumberType.int32,
            sky_projection=None,
            metadata=self.metadata,
        )


def lsst_box(box: Box) -> li.Box:
    """The same rectangle as a `lsst.images.Box`."""
    return li.Box.factory[box.y0 : box.y1, box.x0 : box.x1]


def _lsst_planes(
    planes: PixelPlanes, bbox: li.Box, projection: li.SkyProjection | None = None
) -> tuple[li.Image, li.Mask, li.Image]:
    unit = u.Unit(planes.unit)
    image = li.Image(
        np.ascontiguousarray(planes.image, np.float32),
        bbox=bbox,
        unit=unit,
        sky_projection=projection,
    )
    bits = np.ascontiguousarray(planes.mask, np.int32)
    mask = _WordMask(bits[:, :, np.newaxis], schema=mask_schema(), bbox=bbox)
    variance = li.Image(np.ascontiguousarray(planes.variance, np.float32), bbox=bbox, unit=unit**2)
    return image, mask, variance


def to_masked_image(planes: PixelPlanes) -> li.MaskedImage:
    """Pixel planes as a `lsst.images.MaskedImage` without a sky projection.

    Parameters
    ----------
    planes : PixelPlanes
        The pixels; shared, not copied, where their types allow it.

    Returns
    -------
    lsst.images.MaskedImage
        The same pixels.
    """
    ny, nx = planes.shape
    image, mask, variance = _lsst_planes(planes, li.Box.factory[0:ny, 0:nx])
    return li.MaskedImage(image, mask=mask, variance=variance)


def planes_from_masked_image(masked: li.MaskedImage) -> PixelPlanes:
    """Pixel planes of a foreign masked image; mask planes are matched by their names.

    Parameters
    ----------
    masked : lsst.images.MaskedImage
        The image, or a subclass of it.

    Returns
    -------
    PixelPlanes
        Its pixels; mask planes that skymill does not have are dropped.
    """
    bits = np.zeros(masked.image.array.shape, np.int32)
    for plane in MaskPlane:
        if str(plane.name) in masked.mask.schema.names:
            bits[masked.mask.get(str(plane.name))] |= np.int32(int(plane))
    return PixelPlanes(
        np.array(masked.image.array, np.float32),
        np.array(masked.variance.array, np.float32),
        bits,
        unit=str(masked.image.unit) if masked.image.unit is not None else "",
    )


def _observation(info: ExposureInfo) -> ObservationInfo:
    half = 0.5 * info.exposure_time * u.s
    middle = Time(info.mjd_mid, format="mjd", scale="tai")
    return ObservationInfo.makeObservationInfo(
        instrument=info.instrument,
        physical_filter=info.physical_filter,
        visit_id=info.visit,
        exposure_id=info.visit,
        detector_num=info.detector,
        datetime_begin=middle - half,
        datetime_end=middle + half,
        exposure_time=info.exposure_time * u.s,
        boresight_airmass=info.airmass if math.isfinite(info.airmass) else None,
        observation_type="science",
    )


def _summary(summary: dict[str, float]) -> li.ObservationSummaryStats:
    fields = li.ObservationSummaryStats.model_fields
    values = {
        k: int(v) if fields[k].annotation is int else float(v)
        for k, v in summary.items()
        if k in fields and fields[k].annotation in (int, float) and np.isscalar(v)
    }
    return li.ObservationSummaryStats(**values)


def _scaling(scale: FluxScale | None, bbox: li.Box, unit: u.UnitBase) -> ChebyshevField | None:
    if scale is None:
        return None
    shape = (bbox.y.size, bbox.x.size)
    relative = np.ones((1, 1)) if scale.coefficients is None else scale.coefficients
    if scale.coefficients is not None and scale.shape != shape:
        raise DataError(
            f"the flux scale spans {scale.shape} pixels, but the image has {shape}; they must agree"
        )
    return ChebyshevField(bbox, scale.mean * np.array(relative, np.float64), unit=u.nJy / unit)


def to_visit_image(exposure: Exposure) -> li.VisitImage:
    """An exposure as a genuine `lsst.images.VisitImage`.

    Parameters
    ----------
    exposure : Exposure
        One CCD; it must have a WCS.

    Returns
    -------
    lsst.images.VisitImage
        The same pixels, with the PSF as Piff coefficients, the flux scale as a Chebyshev field and
        constant aperture corrections.

    Raises
    ------
    DataError
        If the exposure has no WCS.
    """
    if exposure.wcs is None:
        raise DataError(
            f"visit {exposure.info.visit} detector {exposure.info.detector} has no WCS; "
            "an exposure needs one to be stored"
        )
    info = exposure.info
    ny, nx = exposure.planes.shape
    bbox = li.Box.factory[0:ny, 0:nx]
    frame = li.DetectorFrame(
        instrument=info.instrument, visit=info.visit, detector=info.detector, bbox=bbox
    )
    projection = _ExactProjection(exposure.wcs, frame, bbox)
    image, mask, variance = _lsst_planes(exposure.planes, bbox, projection)
    return li.VisitImage(
        image,
        mask=mask,
        variance=variance,
        psf=to_lsst_psf(exposure.psf, bbox, float(exposure.summary.get("psfSigma", 2.0))),
        obs_info=_observation(info),
        detector=make_lsst_detector(info.instrument, info.detector, info.visit, (ny, nx)),
        band=info.band,
        summary_stats=_summary(exposure.summary),
        photometric_scaling=_scaling(exposure.photo_calib, bbox, u.Unit(exposure.planes.unit)),
        aperture_corrections={
            name: ChebyshevField(bbox, np.array([[float(value)]]))
            for name, value in exposure.aperture_correction.items()
        },
    )


def _cells(coadd: Coadd) -> CellPsf:
    if isinstance(coadd.psf, CellPsf):
        return coadd.psf
    ny, nx = coadd.box.shape
    ncy, ncx = -(-ny // _CELL), -(-nx // _CELL)
    y, x = np.mgrid[0:ncy, 0:ncx] * _CELL + 0.5 * (_CELL - 1)
    stamps = coadd.psf.draw(x=x.ravel() + coadd.box.x0, y=y.ravel() + coadd.box.y0)
    size = stamps.shape[-1]
    return CellPsf(stamps.reshape(ncy, ncx, size, size), coadd.box.x0, coadd.box.y0, _CELL)


def _cell_psf(coadd: Coadd) -> CellPointSpreadFunction:
    cells = _cells(coadd)
    ncy, ncx = cells.stamps.shape[:2]
    x0, y0 = round(cells.x0), round(cells.y0)
    bbox = li.Box.factory[y0 : y0 + ncy * cells.cell, x0 : x0 + ncx * cells.cell]
    grid = CellGrid(bbox=bbox, cell_shape=YX(cells.cell, cells.cell))
    bad = ~np.isfinite(cells.stamps).all(axis=(2, 3))
    missing = frozenset(CellIJ(i=int(i), j=int(j)) for i, j in np.argwhere(bad))
    bounds = CellGridBounds(grid=grid, bbox=bbox, missing=missing)
    return CellPointSpreadFunction(np.ascontiguousarray(cells.stamps, np.float32), bounds)


def to_cell_coadd(coadd: Coadd) -> CellCoadd:
    """A coadd as a genuine `lsst.images.cells.CellCoadd`.

    Parameters
    ----------
    coadd : Coadd
        One band of one patch.

    Returns
    -------
    lsst.images.cells.CellCoadd
        The same pixels, PSF and noise. Its inputs stand in the metadata, as a list of visit and
        detector, since the provenance tables of lsst.images ask for more than a coadd records.
    """
    bbox = lsst_box(coadd.box)
    frame = li.TractFrame(skymap=coadd.skymap, tract=coadd.tract, bbox=bbox)
    projection = _ExactProjection(coadd.wcs, frame, bbox)
    image, mask, variance = _lsst_planes(coadd.planes, bbox, projection)
    psf = _cell_psf(coadd)
    ny, nx = coadd.inner_box.shape
    patch = PatchDefinition(
        id=coadd.patch,
        index=YX(coadd.inner_box.y0 // max(ny, 1), coadd.inner_box.x0 // max(nx, 1)),
        inner_bbox=lsst_box(coadd.inner_box),
        cells=psf.bounds.grid,
    )
    noise = (
        []
        if coadd.noise is None
        else [li.Image(np.ascontiguousarray(coadd.noise, np.float32), bbox=bbox, unit=image.unit)]
    )
    out = CellCoadd(
        image, mask=mask, variance=variance, psf=psf, patch=patch, band=coadd.band,
        noise_realizations=noise,
    )  # fmt: skip
    out.metadata["inputs"] = json.dumps([list(pair) for pair in coadd.inputs])
    return out

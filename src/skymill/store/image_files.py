"""Images on disk: a genuine lsst.images file, and behind it the record of all else.

Readers of lsst.images see a VisitImage, CellCoadd or MaskedImage; ours takes the pixels and the
record straight from the FITS extensions, which is several times as fast.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning
from lsst.images.fits import FitsCompressionOptions
from lsst.images.serialization import write_archive

from skymill.data.errors import DataError
from skymill.data.images import Coadd, Exposure, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.psf.models import CellPsf
from skymill.store.lsst_images import to_cell_coadd, to_masked_image, to_visit_image
from skymill.store.records import read_record, record_hdus

__all__ = ["open_fits", "read_image", "read_part", "write_image"]

_NOISE = "NOISE_REALIZATIONS/0"
_PLANES = ("IMAGE", "MASK", "VARIANCE")
#: Masks shrink to a twentieth in the time that writing them plain takes; floats do not.
_MASK_ROWS = 64
_PLAIN = ("image", "variance", "noise_realizations", "psf")


@contextmanager
def open_fits(path: str) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading.

    Parameters
    ----------
    path : str
        A local file.

    Yields
    ------
    astropy.io.fits.HDUList
        The file; closed at the end.

    Raises
    ------
    DataError
        If the file is not FITS or ends too early.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="File may have been truncated")
        try:
            hdus = fits.open(path, memmap=True)
        except (OSError, ValueError, AstropyUserWarning) as err:
            raise DataError(f"{path} cannot be read as FITS ({err}); is it truncated?") from err
        try:
            yield hdus
        except (OSError, TypeError, AstropyUserWarning) as err:
            if "buffer is too small" in str(err) or "truncated" in str(err).lower():
                raise DataError(f"{path} is truncated: {err}") from err
            raise
        finally:
            hdus.close()


def write_image(value: Any, path: str, *, lossless: bool = False, **archive: Any) -> None:
    """Write an image with everything that it carries.

    Parameters
    ----------
    value : PixelPlanes, Exposure, Coadd or another dataclass with ``planes``
        What to write.
    path : str
        A local file that does not exist.
    lossless : bool
        Compress without loss; several times as slow as writing plain pixels.
    **archive : object
        Further arguments of `lsst.images.serialization.write_archive`.
    """
    if isinstance(value, PixelPlanes):
        content, fields = to_masked_image(value), {"$type": "planes", "unit": value.unit}
    else:
        content, fields = _lsst_form(value), _record(value)
    options: dict[str, Any] = {} if lossless else dict.fromkeys(_PLAIN)
    options["mask"] = FitsCompressionOptions(
        algorithm="RICE_1", tile_shape=(_MASK_ROWS, content.bbox.x.size)
    )
    write_archive(content, path, compression_options=options, **archive)
    with fits.open(path, mode="append", memmap=False) as hdus:
        for hdu in record_hdus(fields):
            hdus.append(hdu)


def _lsst_form(value: Any) -> Any:
    if isinstance(value, Exposure):
        return to_visit_image(value)
    if isinstance(value, Coadd):
        return to_cell_coadd(value)
    return to_masked_image(value.planes)


def _record(value: Any) -> dict[str, Any]:
    kind = f"{type(value).__module__}:{type(value).__qualname__}"
    fields: dict[str, Any] = {"$type": kind, "unit": value.planes.unit}
    for field in dataclasses.fields(value):
        if field.name != "planes":
            fields[field.name] = getattr(value, field.name)
    if isinstance(value, Coadd):
        # These pixels are in the archive itself.
        fields["noise"] = value.noise is not None
        if isinstance(value.psf, CellPsf):
            fields["psf"] = (value.psf.x0, value.psf.y0, value.psf.cell)
    return fields


def _restore(fields: dict[str, Any], hdus: fits.HDUList, name: str) -> Any:
    """A field of a coadd, from the archive where it lies there."""
    value = fields[name]
    if name == "noise" and isinstance(value, bool):
        return _native(hdus[_NOISE], np.float32) if value else None
    if name == "psf" and isinstance(value, tuple):
        x0, y0, cell = value
        return CellPsf(_native(hdus["PSF"], np.float32), x0, y0, cell)
    return value


def _native(hdu: Any, dtype: Any) -> np.ndarray:
    return np.array(hdu.data, dtype=dtype)


def _read_mask(hdu: Any) -> np.ndarray:
    bits = _native(hdu, np.int32)
    order = {}
    for plane in MaskPlane:
        number = int(plane).bit_length() - 1
        stored = hdu.header.get(f"MSKN{number:04d}", plane.name)
        if stored != plane.name:
            order[number] = stored
    if order:
        raise DataError(
            "the mask planes of the file do not stand where this version has them: "
            + ", ".join(f"bit {k} is {v}" for k, v in order.items())
        )
    return bits


def _read_planes(hdus: fits.HDUList, unit: str) -> PixelPlanes:
    missing = [name for name in _PLANES if name not in hdus]
    if missing:
        raise DataError(f"{hdus.filename()} lacks the extension {', '.join(missing)}")
    return PixelPlanes(
        _native(hdus["IMAGE"], np.float32),
        _native(hdus["VARIANCE"], np.float32),
        _read_mask(hdus["MASK"]),
        unit=unit,
    )


def read_image(path: str) -> Any:
    """Read what `write_image` wrote.

    Parameters
    ----------
    path : str
        A local file.

    Returns
    -------
    PixelPlanes, Exposure, Coadd or another dataclass with ``planes``
        The image.

    Raises
    ------
    DataError
        If the file is truncated, or not one of ours.
    """
    with open_fits(path) as hdus:
        fields = read_record(hdus)
        kind, unit = fields.pop("$type"), fields.pop("unit")
        planes = _read_planes(hdus, unit)
        if kind == "planes":
            return planes
        module, _, name = kind.partition(":")
        found = getattr(importlib.import_module(module), name)
        if found is Coadd:
            fields |= {name: _restore(fields, hdus, name) for name in ("noise", "psf")}
        return found(planes=planes, **fields)


def read_part(path: str, part: str) -> Any:
    """Read one field of an image without its other pixels.

    Parameters
    ----------
    path : str
        A local file.
    part : str
        Name of a field, or ``image``, ``mask``, ``variance``, ``planes``.

    Returns
    -------
    object
        The field.

    Raises
    ------
    DataError
        If the image has no such field.
    """
    with open_fits(path) as hdus:
        if part in ("image", "variance"):
            return _native(hdus[part.upper()], np.float32)
        if part == "mask":
            return _read_mask(hdus["MASK"])
        fields = read_record(hdus)
        if part == "planes":
            return _read_planes(hdus, fields["unit"])
        if part not in fields or part == "$type":
            known = ", ".join(k for k in fields if k != "$type")
            raise DataError(f"{path} has no part {part!r}; known: {known}")
        return _restore(fields, hdus, part)

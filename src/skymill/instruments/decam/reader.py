"""Read one CCD of a raw DECam file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from skymill.data.errors import DataError
from skymill.instruments.decam.headers import (
    describe,
    exposure_info,
    find_ccd,
    make_amplifiers,
    make_wcs,
    merge_headers,
    open_raw,
    translate,
)
from skymill.instruments.raw import RawCcd

__all__ = ["read_raw_ccd"]


def read_raw_ccd(path: str | Path, detector: int, *, pixels: bool = True) -> RawCcd:
    """Read one CCD of a raw file.

    Parameters
    ----------
    path : path
        A file ``.fits`` or ``.fits.fz`` with one extension a CCD.
    detector : int
        CCD number.
    pixels : bool
        Without pixels ``image`` is zero everywhere, which is cheap.

    Returns
    -------
    RawCcd
        Pixels, sections, header, first WCS.

    Raises
    ------
    MissingInputError, DataError
        If the file is absent, truncated, of another camera, or lacks the CCD.
    """
    hdus = open_raw(path, walk=False)
    try:
        hdu = find_ccd(hdus, detector, str(path))
        header = merge_headers(hdus[0].header, hdu.header)
        raw = describe(translate(header, str(path)), str(path), (detector,))
        info = exposure_info(raw, detector)
        image = _read_pixels(hdu, path) if pixels else np.zeros(hdu.shape, np.uint16)
        wcs = make_wcs(hdu.header) if raw.on_sky else None
        return RawCcd(
            image=image,
            amplifiers=make_amplifiers(hdu.header, detector),
            header=header,
            info=info,
            wcs=wcs,
            observation_type=raw.observation_type,
        )
    finally:
        hdus.close()


def _read_pixels(hdu: fits.CompImageHDU | fits.ImageHDU, path: str | Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            data = hdu.data
    except (OSError, ValueError, TypeError) as err:
        raise DataError(f"the pixels of {path}[{hdu.name}] cannot be read: {err}") from err
    if data is None or data.ndim != 2:
        raise DataError(f"{path}[{hdu.name}] holds no image")
    kind = np.uint16 if data.dtype.kind == "u" and data.dtype.itemsize == 2 else np.int32
    if data.dtype.kind == "f":
        raise DataError(
            f"{path}[{hdu.name}] holds {data.dtype} pixels; raw frames hold integers: "
            "is the file already processed?"
        )
    return np.array(data, dtype=kind)

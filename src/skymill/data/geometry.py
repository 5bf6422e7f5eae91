"""World coordinates: a FITS WCS (TAN, TAN-SIP or TPV) behind the `Wcs` protocol."""

from __future__ import annotations

import functools
import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, Sip
from numpy.typing import ArrayLike, NDArray

from skymill.data.errors import DataError

__all__ = ["FitsWcs", "local_jacobian", "make_tan_wcs"]

Float64Array = NDArray[np.float64]


class FitsWcs:
    """A celestial FITS WCS with 0-based pixels.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header with CTYPE TAN, TAN-SIP or TPV and its keywords.

    Raises
    ------
    DataError
        If the header has no celestial WCS.
    """

    def __init__(self, header: fits.Header) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            self._wcs = WCS(header, naxis=2)
        if not self._wcs.has_celestial:
            raise DataError("the header has no celestial WCS (CTYPE1/CTYPE2 missing or not RA/Dec)")

    @functools.cached_property
    def _header(self) -> fits.Header:
        return self._wcs.to_header(relax=True)

    @property
    def astropy(self) -> WCS:
        """The same mapping as an `astropy.wcs.WCS`."""
        return self._wcs

    @property
    def header(self) -> fits.Header:
        """FITS keywords of the mapping (a copy)."""
        return self._header.copy()

    def pixel_to_sky(self, *, x: ArrayLike, y: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Right ascension and declination of pixels.

        Parameters
        ----------
        x, y : (n,) float64 [pixel]
            Positions; the first pixel's centre is (0, 0).

        Returns
        -------
        ra, dec : (n,) float64 [deg]
            ICRS positions, ra in [0, 360).
        """
        ra, dec = (
            self._wcs.wcs_pix2world(
                np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), 0
            )
            if not self._has_sip
            else self._wcs.all_pix2world(
                np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64), 0
            )
        )
        return np.asarray(ra), np.asarray(dec)

    def sky_to_pixel(self, *, ra: ArrayLike, dec: ArrayLike) -> tuple[Float64Array, Float64Array]:
        """Pixel positions of sky positions.

        Parameters
        ----------
        ra, dec : (n,) float64 [deg]
            ICRS positions.

        Returns
        -------
        x, y : (n,) float64 [pixel]
            NaN where the projection is not defined.
        """
        ra_, dec_ = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        if self._has_sip:
            x, y = self._wcs.all_world2pix(ra_, dec_, 0, quiet=True)
        else:
            x, y = self._wcs.wcs_world2pix(ra_, dec_, 0)
        return np.asarray(x), np.asarray(y)

    @property
    def _has_sip(self) -> bool:
        return self._wcs.sip is not None

    def shifted(self, *, dx: float, dy: float) -> FitsWcs:
        """The mapping of an image whose first pixel was pixel (dx, dy) of this one.

        Parameters
        ----------
        dx, dy : float [pixel]
            Position of the new first pixel in the old image.

        Returns
        -------
        FitsWcs
            ``new.pixel_to_sky(x, y) == old.pixel_to_sky(x + dx, y + dy)``.
        """
        # A copy with another reference pixel: sixty times as fast as a header and back.
        wcs = self._wcs.deepcopy()
        wcs.wcs.crpix = wcs.wcs.crpix - [dx, dy]
        if wcs.sip is not None:
            sip = wcs.sip
            wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, wcs.wcs.crpix)
        return self._of(wcs)

    @classmethod
    def _of(cls, wcs: WCS) -> FitsWcs:
        """The mapping of a changed copy of another's."""
        wcs.wcs.set()
        out = cls.__new__(cls)
        out._wcs = wcs
        return out

    def binned(self, block: int) -> FitsWcs:
        """The mapping of an image whose pixels are blocks of those of this one.

        Parameters
        ----------
        block : int
            Pixels along each side of a block; the first block starts at the first pixel.

        Returns
        -------
        FitsWcs
            ``new.pixel_to_sky(x, y)`` is the sky of the middle of the block. Only for projections
            without distortions.

        Raises
        ------
        DataError
            If the mapping has a distortion.
        """
        if self._wcs.has_distortion:
            raise DataError("a mapping with distortions cannot be binned")
        wcs = self._wcs.deepcopy()
        wcs.wcs.crpix = (wcs.wcs.crpix - 0.5) / block + 0.5
        if wcs.wcs.has_cd():
            wcs.wcs.cd = wcs.wcs.cd * block
        else:
            wcs.wcs.cdelt = wcs.wcs.cdelt * block
        return self._of(wcs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FitsWcs) and self._header == other._header

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[FitsWcs], tuple[fits.Header]]:
        return FitsWcs, (self._header,)


def make_tan_wcs(
    *, ra: float, dec: float, scale: float, x: float, y: float, rotation: float = 0.0
) -> FitsWcs:
    """A gnomonic projection with North up and East left.

    Parameters
    ----------
    ra, dec : float [deg]
        Tangent point.
    scale : float [arcsec/pixel]
        Width of a pixel.
    x, y : float [pixel]
        Position of the tangent point; the first pixel's centre is (0, 0).
    rotation : float [deg]
        Position angle of the y axis, North through East.

    Returns
    -------
    FitsWcs
        The projection.
    """
    angle, step = np.radians(rotation), scale / 3600.0
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"], header["CRPIX2"] = x + 1.0, y + 1.0
    header["CD1_1"], header["CD1_2"] = -step * np.cos(angle), step * np.sin(angle)
    header["CD2_1"], header["CD2_2"] = step * np.sin(angle), step * np.cos(angle)
    header["RADESYS"] = "ICRS"
    return FitsWcs(header)


def local_jacobian(wcs: FitsWcs, *, x: ArrayLike, y: ArrayLike, step: float = 0.5) -> Float64Array:
    """Derivatives of the tangent-plane position by the pixel position.

    Parameters
    ----------
    wcs : Wcs
        The mapping.
    x, y : (n,) float64 [pixel]
        Where.
    step : float [pixel]
        Half of the central difference.

    Returns
    -------
    (n, 2, 2) float64 [arcsec/pixel]
        ``[[d(east)/dx, d(east)/dy], [d(north)/dx, d(north)/dy]]``: axes x to East, y to North.
    """
    x_, y_ = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    n = x_.size
    xs = np.concatenate([x_ - step, x_ + step, x_, x_])
    ys = np.concatenate([y_, y_, y_ - step, y_ + step])
    ra, dec = wcs.pixel_to_sky(x=xs, y=ys)
    ra, dec = ra.reshape(4, n), dec.reshape(4, n)
    factor = 3600.0 / (2.0 * step)
    cos_dec = np.cos(np.radians(dec.mean(axis=0)))
    d_ra = (np.stack([ra[1] - ra[0], ra[3] - ra[2]]) + 180.0) % 360.0 - 180.0
    out = np.empty((n, 2, 2))
    out[:, 0, :] = (d_ra * cos_dec * factor).T
    out[:, 1, :] = np.stack([dec[1] - dec[0], dec[3] - dec[2]]).T * factor
    return out

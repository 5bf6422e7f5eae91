"""Where light lands and how blurred it is: pointing, TPV distortion, PSF field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skymill.data.geometry import FitsWcs
from skymill.sims.detector import PIXEL_MM, CcdFacts

__all__ = ["Optics", "PsfModel", "aim_at", "wcs_header"]

Float64Array = NDArray[np.float64]

#: Width of a pixel at the optical axis [deg], and the cubic term of the radial distortion
#: [1/deg2]: least-squares fits to the TPV headers of real exposures (S1 and S29 agree to 1 %).
PIXEL_DEG = 0.26336 / 3600.0
RADIAL_CUBIC = -0.00150


@dataclass(frozen=True)
class Optics:
    """The true geometry of one exposure.

    Parameters
    ----------
    ra, dec : float [deg]
        Where the optical axis points.
    rotation : float [deg]
        Rotation of the focal plane, counter-clockwise on the sky.
    stretch : float
        Relative change of the scale (refraction, temperature).
    shear : float
        Relative difference of the scales East-West and North-South (refraction).
    chip_rotation : bool
        Whether the CCDs have their small measured rotations.
    distortion : bool
        Whether the corrector distorts.
    """

    ra: float
    dec: float
    rotation: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    chip_rotation: bool = True
    distortion: bool = True


def wcs_header(ccd: CcdFacts, optics: Optics) -> fits.Header:
    """TPV keywords of a CCD; CRPIX counts trimmed pixels from 1, as in the raw files.

    The detector's x axis points South and its y axis East.

    Parameters
    ----------
    ccd : CcdFacts
        The CCD.
    optics : Optics
        The pointing.

    Returns
    -------
    astropy.io.fits.Header
        CTYPE, CRVAL, CRPIX, CD and PV.
    """
    centre = np.array([0.5 * (ccd.x_min + ccd.x_max), 0.5 * (ccd.y_min + ccd.y_max)]) / PIXEL_MM
    theta = np.radians(ccd.rotation if optics.chip_rotation else 0.0)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    # focal position [pixel] = centre + turn @ (trimmed FITS pixel - middle)
    middle = np.array([1024.5, 2048.5])
    crpix = middle - np.linalg.solve(turn, centre)
    alpha = np.radians(optics.rotation)
    spin = np.array([[np.cos(alpha), -np.sin(alpha)], [np.sin(alpha), np.cos(alpha)]])
    axes = np.array([[0.0, 1.0], [-1.0, 0.0]])
    scale = np.diag([1.0 + optics.stretch + optics.shear, 1.0 + optics.stretch - optics.shear])
    cd = PIXEL_DEG * scale @ spin @ axes @ turn
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = optics.ra % 360.0, optics.dec
    header["CRPIX1"], header["CRPIX2"] = float(crpix[0]), float(crpix[1])
    for i in range(2):
        for j in range(2):
            header[f"CD{i + 1}_{j + 1}"] = float(cd[i, j])
    cubic = RADIAL_CUBIC if optics.distortion else 0.0
    for axis in (1, 2):
        for k in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10):
            header[f"PV{axis}_{k}"] = {1: 1.0, 7: cubic, 9: cubic}.get(k, 0.0)
    header["RADESYS"], header["EQUINOX"] = "ICRS", 2000.0
    return header


def aim_at(*, ra: float, dec: float, focal_x: float, focal_y: float) -> tuple[float, float]:
    """Where the axis must point so that a focal-plane position falls on a sky position.

    Parameters
    ----------
    ra, dec : float [deg]
        The sky position.
    focal_x, focal_y : float [mm]
        The focal-plane position.

    Returns
    -------
    ra, dec : float [deg]
        Pointing of the optical axis.
    """
    point_ra, point_dec = ra, dec
    for _ in range(6):
        header = fits.Header()
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        header["CRVAL1"], header["CRVAL2"] = point_ra % 360.0, point_dec
        header["CRPIX1"] = header["CRPIX2"] = 1.0
        header["CD1_1"], header["CD1_2"] = 0.0, PIXEL_DEG / PIXEL_MM
        header["CD2_1"], header["CD2_2"] = -PIXEL_DEG / PIXEL_MM, 0.0
        got_ra, got_dec = FitsWcs(header).pixel_to_sky(x=[focal_x], y=[focal_y])
        point_ra += (ra - float(got_ra[0]) + 180.0) % 360.0 - 180.0
        point_dec += dec - float(got_dec[0])
    return point_ra % 360.0, point_dec


@dataclass(frozen=True)
class PsfModel:
    """The PSF of one exposure over the focal plane.

    FWHM and ellipticity are second-order polynomials of the focal-plane position in units of
    225 mm.

    Parameters
    ----------
    profile : str
        ``moffat`` or ``kolmogorov``.
    beta : float
        Exponent of the Moffat profile.
    fwhm : (6,) float [arcsec]
        Coefficients of 1, x, y, x2, xy, y2.
    g1, g2 : (6,) float
        The same for the reduced shear in sky axes.
    """

    profile: str
    beta: float
    fwhm: tuple[float, ...]
    g1: tuple[float, ...]
    g2: tuple[float, ...]

    def at(
        self, *, focal_x: Float64Array, focal_y: Float64Array
    ) -> tuple[Float64Array, Float64Array, Float64Array]:
        """FWHM [arcsec] and reduced shear of the PSF.

        Parameters
        ----------
        focal_x, focal_y : (n,) float64 [mm]
            Positions in the focal plane.

        Returns
        -------
        fwhm, g1, g2 : (n,) float64
            Values at each position.
        """
        x, y = np.asarray(focal_x, float) / 225.0, np.asarray(focal_y, float) / 225.0
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
        return (
            np.tensordot(np.array(self.fwhm), terms, 1),
            np.tensordot(np.array(self.g1), terms, 1),
            np.tensordot(np.array(self.g2), terms, 1),
        )

"""Small skies with closed-form pixels for the tests of the coadds."""

import numpy as np
from astropy.io import fits

from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.images import Exposure, ExposureInfo, PixelPlanes
from skymill.data.photometry import FluxScale
from skymill.psf.models import ConstantPsf

RA, DEC = 150.0, 2.2
SIGMA = 2.0


def tan_wcs(shape, *, rotation=0.0, flip=False, scale=0.263, dx=0.0, dy=0.0, dec=DEC):
    """A TAN mapping with RA, DEC at the centre plus (dx, dy) pixels; flipped: East is right."""
    wcs = make_tan_wcs(
        ra=RA,
        dec=dec,
        scale=scale,
        x=(shape[1] - 1) / 2 + dx,
        y=(shape[0] - 1) / 2 + dy,
        rotation=rotation,
    )
    if not flip:
        return wcs
    header = wcs.header
    for key in ("PC1_1", "PC2_1"):
        header[key] = -header.get(key, 1.0 if key == "PC1_1" else 0.0)
    return FitsWcs(header)


def decam_wcs(shape, *, dx=0.0, dy=0.0):
    """A TPV mapping as of a DECam CCD at the edge of the field: turned by 90 degrees, distorted."""
    step = 0.263 / 3600
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = RA - 0.6, DEC - 0.5
    header["CD1_1"], header["CD1_2"] = 0.003 * step, step
    header["CD2_1"], header["CD2_2"] = -step, 0.003 * step
    header["CRPIX1"], header["CRPIX2"] = 1.0, 1.0
    header["RADESYS"] = "ICRS"
    for axis in (1, 2):
        header[f"PV{axis}_0"] = 0.0
        header[f"PV{axis}_1"] = 1.0
        header[f"PV{axis}_7"] = 0.0065
        header[f"PV{axis}_9"] = 0.0065
    wcs = FitsWcs(header)
    x, y = wcs.sky_to_pixel(ra=[RA], dec=[DEC])
    return wcs.shifted(
        dx=float(x[0]) - (shape[1] - 1) / 2 - dx, dy=float(y[0]) - (shape[0] - 1) / 2 - dy
    )


def make_exposure(
    wcs,
    shape=(300, 300),
    *,
    stars=(),
    noise=1.0,
    rng=None,
    visit=1,
    detector=1,
    scale=2.0,
    level=0.0,
    sigma=SIGMA,
    band="r",
):
    """A CCD [electron] with Gaussian stars (ra, dec, flux in nJy)."""
    image = np.full(shape, level)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for ra, dec, flux in stars:
        cx, cy = (float(v[0]) for v in wcs.sky_to_pixel(ra=[ra], dec=[dec]))
        radius2 = (x - cx) ** 2 + (y - cy) ** 2
        image += flux / scale / (2 * np.pi * sigma**2) * np.exp(-0.5 * radius2 / sigma**2)
    if rng is not None:
        image = image + rng.normal(0, noise, shape)
    planes = PixelPlanes(
        image.astype(np.float32),
        np.full(shape, noise**2, np.float32),
        np.zeros(shape, np.int32),
    )
    info = ExposureInfo(
        instrument="DECam",
        visit=visit,
        detector=detector,
        physical_filter=band,
        band=band,
        exposure_time=100.0,
        mjd_mid=58000.0,
    )
    return Exposure(
        planes=planes,
        info=info,
        wcs=wcs,
        psf=ConstantPsf.gaussian(sigma, 31),
        photo_calib=FluxScale(scale, shape=shape),
    )

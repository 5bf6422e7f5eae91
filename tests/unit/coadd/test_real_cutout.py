"""A real DECam CCD with its TPV distortion: sources stay where the sky says."""

import warnings

import numpy as np
import pytest
from astropy.io import fits

from skymill.coadd.warp import WarpOptions, warp_exposures
from skymill.data.geometry import FitsWcs, make_tan_wcs
from skymill.data.images import Box, Exposure, ExposureInfo, PixelPlanes
from skymill.data.masks import MaskPlane
from skymill.data.photometry import FluxScale
from skymill.psf.models import ConstantPsf

BOX = Box(x0=0, y0=0, x1=220, y1=220)


def centroid(image, x, y):
    """Centroid in a Gaussian window of sigma 2 pixels that moves along."""
    for _ in range(30):
        rows = slice(round(y) - 8, round(y) + 9)
        columns = slice(round(x) - 8, round(x) + 9)
        j, i = np.mgrid[rows, columns]
        weight = np.exp(-0.25 * ((i - x) ** 2 + (j - y) ** 2) / 2) * image[rows, columns]
        x += 2 * (weight * (i - x)).sum() / weight.sum()
        y += 2 * (weight * (j - y)).sum() / weight.sum()
    return x, y


@pytest.mark.parametrize("band", ["g", "r", "z"])
def test_the_brightest_source_keeps_its_place(shared_data, band):
    folder = shared_data / "cutouts/decals_grz/images/decam/NonDECaLS/CP20141215"
    (path,) = folder.glob(f"*_ooi_{band}_*.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image, header = fits.getdata(path, 1, header=True)
        weight = fits.getdata(str(path).replace("_ooi_", "_oow_"), 1)
        quality = fits.getdata(str(path).replace("_ooi_", "_ood_"), 1)
        wcs = FitsWcs(header)
    image = (image - np.median(image)).astype(np.float32)
    mask = np.where(quality != 0, int(MaskPlane.BAD), 0).astype(np.int32)
    variance = np.where(weight > 0, 1 / np.maximum(weight, 1e-20), 0).astype(np.float32)
    info = ExposureInfo(
        instrument="DECam", visit=1, detector=1, physical_filter=band, band=band,
        exposure_time=1.0, mjd_mid=57000.0,
    )  # fmt: skip
    exposure = Exposure(
        planes=PixelPlanes(image, variance, mask),
        info=info,
        wcs=wcs,
        psf=ConstantPsf.gaussian(2.0),
        photo_calib=FluxScale(1.0, shape=image.shape),
    )
    ra, dec = wcs.pixel_to_sky(x=[100.0], y=[100.0])
    tract = make_tan_wcs(ra=float(ra[0]), dec=float(dec[0]), scale=0.263, x=110, y=110)
    options = WarpOptions(noise=False, warpingKernelName="lanczos5")
    warp = warp_exposures([exposure], wcs=tract, box=BOX, options=options)
    inside = np.where(mask == 0, image, 0)[30:-30, 30:-30]
    y, x = np.unravel_index(np.argmax(inside), inside.shape)
    x, y = centroid(image, float(x + 30), float(y + 30))
    ra, dec = wcs.pixel_to_sky(x=[x], y=[y])
    wanted = [float(v[0]) for v in tract.sky_to_pixel(ra=ra, dec=dec)]
    shown = np.zeros(BOX.shape)
    shown[warp.box.slices(within=BOX)] = warp.planes.image
    found = centroid(shown, *wanted)
    # Both centroids see the same noise, resampled: a hundredth of a pixel is 3 mas.
    np.testing.assert_allclose(found, wanted, atol=0.02)

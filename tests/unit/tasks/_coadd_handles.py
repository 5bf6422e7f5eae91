"""Stand-ins of deferred datasets, and the tables of a small visit, for the coadd tasks."""

import numpy as np
from astropy.table import Table

from skymill.calibrate.visit_table import header_text
from skymill.data.geometry import make_tan_wcs
from skymill.data.images import Exposure, ExposureInfo, PixelPlanes
from skymill.data.photometry import FluxScale
from skymill.psf.models import ConstantPsf, PolynomialPsf

RA, DEC = 150.0, 2.2


class Handle:
    """A deferred dataset: counts how often it is read."""

    def __init__(self, value, **data_id):
        self.value, self.dataId, self.reads = value, data_id, 0

    def get(self, *, component=None):
        self.reads += 1
        if component is None:
            return self.value
        source = self.value.planes if component in ("image", "variance", "mask") else self.value
        return getattr(source, component)


def make_calexp(visit, detector, *, dx=0.0, rng, level=0.0, shape=(220, 260), star=1e5):
    """A CCD with one star of ``star`` nJy at RA, DEC; 2 nJy per electron."""
    wcs = make_tan_wcs(
        ra=RA, dec=DEC, scale=0.263, x=shape[1] / 2 + dx, y=shape[0] / 2, rotation=0.2
    )
    y, x = np.mgrid[: shape[0], : shape[1]]
    cx, cy = shape[1] / 2 + dx, shape[0] / 2
    profile = np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 4.0) / (8 * np.pi)
    image = star / 2 * profile + rng.normal(0, 5, shape) + level
    return Exposure(
        planes=PixelPlanes(
            image.astype(np.float32), np.full(shape, 25, np.float32), np.zeros(shape, np.int32)
        ),
        info=ExposureInfo(
            instrument="DECam",
            visit=visit,
            detector=detector,
            physical_filter="r DECam SDSS c0002 6415.0 1480.0",
            band="r",
            exposure_time=90.0,
            mjd_mid=57000.0,
        ),
        wcs=wcs,
        psf=ConstantPsf.gaussian(2.0, 25),
        photo_calib=FluxScale(9.9, shape=shape),
    )


def visit_summary(exposures, *, scale=2.0):
    rows = [
        {
            "visit": e.info.visit,
            "detector": e.info.detector,
            "wcs": header_text(e.wcs),
            "nx": e.planes.shape[1],
            "ny": e.planes.shape[0],
            "photoCalibMean": scale,
            "photoCalibErr": 0.01,
            "photoCalibCoefficients": np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]]),
        }
        for e in exposures
    ]
    return Table(rows)


def psf_catalog(exposures):
    rows = []
    for e in exposures:
        psf = PolynomialPsf(
            ConstantPsf.gaussian(2.0, 25).stamp[None].astype(float),
            0,
            (130.0, 110.0),
            (130.0, 110.0),
        )
        rows.append(
            {
                "visit": e.info.visit,
                "detector": e.info.detector,
                "psfOrder": 0,
                "psfCoefficients": psf.coefficients.ravel(),
                "psfStampSize": 25,
                "psfCentreX": 130.0,
                "psfCentreY": 110.0,
                "psfHalfWidthX": 130.0,
                "psfHalfWidthY": 110.0,
            }
        )
    return Table(rows)

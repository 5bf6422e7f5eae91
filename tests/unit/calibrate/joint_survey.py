"""A small survey with known answers for the tests of the joint calibration."""

from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits
from astropy.table import Table

from skymill.calibrate.reference import ReferenceStars
from skymill.calibrate.tpv import from_tangent, to_tangent, tpv_from_mapping
from skymill.calibrate.visit_table import make_visit_row, make_visit_summary
from skymill.data.geometry import FitsWcs
from skymill.data.images import ExposureInfo
from skymill.data.photometry import FluxScale

SHAPE = (2048, 1024)
SCALE = 0.263 / 3600.0


@dataclass
class Survey:
    tables: list = field(default_factory=list)
    summaries: list = field(default_factory=list)
    truth_wcs: dict = field(default_factory=dict)
    truth_scale: dict = field(default_factory=dict)
    references: ReferenceStars = None


def true_mapping(ra, dec, detector, ripple):
    """Pixels to the sky for a CCD of a 2 x 2 (or larger) grid, with distortion and a visit term."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    column, row = detector % 2, detector // 2
    header["CRPIX1"] = 1060.0 - 1090.0 * column + 0.7 * detector
    header["CRPIX2"] = 2090.0 - 2130.0 * row - 0.4 * detector
    header["CD1_1"], header["CD1_2"] = -SCALE, 1e-4 * SCALE * detector
    header["CD2_1"], header["CD2_2"] = 1e-4 * SCALE * detector, SCALE
    for axis in (1, 2):
        header[f"PV{axis}_1"] = 1.0
        header[f"PV{axis}_7"] = header[f"PV{axis}_9"] = 0.012
    base = FitsWcs(header)

    def mapping(x, y):
        xi, eta = to_tangent(*base.pixel_to_sky(x=x, y=y), ra0=ra, dec0=dec)
        u, v = xi / 0.15, eta / 0.15
        dx = ripple[0] + ripple[1] * u + ripple[2] * v + ripple[3] * u * v
        dy = ripple[4] + ripple[5] * u + ripple[6] * v + ripple[7] * (u**2 - v**2)
        return from_tangent(xi + dx / 3600, eta + dy / 3600, ra0=ra, dec0=dec)

    return mapping


def make_survey(
    seed, *, n_star=1500, n_visit=4, ra=0.02, dec=-30.0, n_detector=4, noise=0.04, turbulence=0.0,
    flux_noise=0.01, frame_noise=0.02, gaia=0.25, ref_mas=2.0, ref_mag=0.02, outliers=0.0,
    floor=0.002,
):  # fmt: skip
    """Simulate catalogues of `n_visit` dithered visits around a position.

    `noise` [pixel], `turbulence` [pixel, unknown to the errors], `frame_noise` [arcsec] of the
    single-frame coordinates, `gaia` the share of stars with a reference.
    """
    rng = np.random.default_rng(seed)
    xi, eta = rng.uniform(-0.12, 0.12, n_star), rng.uniform(-0.2, 0.2, n_star)
    star_ra, star_dec = from_tangent(xi, eta, ra0=ra, dec0=dec)
    flux = 10 ** rng.uniform(4.0, 6.0, n_star)  # nJy
    anchored = np.flatnonzero(rng.random(n_star) < gaia)
    shift = rng.normal(0, ref_mas / 3.6e6, (2, anchored.size))
    ref_ra = star_ra[anchored] + shift[0] / np.cos(np.radians(star_dec[anchored]))
    zero = np.zeros(anchored.size)
    survey = Survey()
    survey.references = ReferenceStars(
        anchored,
        ref_ra % 360,
        star_dec[anchored] + shift[1],
        np.full(anchored.size, ref_mas),
        flux[anchored] * (1 + rng.normal(0, ref_mag / 1.0857, anchored.size)),
        flux[anchored] * ref_mag / 1.0857,
        "r",
        zero,
        zero,
    )
    chip_mag = rng.normal(0, 0.01, n_detector)
    for visit in range(n_visit):
        da, dd = rng.uniform(-0.03, 0.03, 2)
        ra_v, dec_v = (float(c) for c in from_tangent(da, dd, ra0=ra, dec0=dec))
        origin = {"ra0": ra_v, "dec0": dec_v}
        ripple = rng.normal(0, 0.03, 8)
        zero_point = 31.0 + rng.normal(0, 0.1)
        field_mag = rng.normal(0, 0.01, 5)
        rows, parts = [], []
        for detector in range(n_detector):
            mapping = true_mapping(ra_v, dec_v, detector, ripple)
            truth = tpv_from_mapping(mapping, shape=SHAPE)
            x, y = truth.sky_to_pixel(ra=star_ra, dec=star_dec)
            inside = np.flatnonzero((x > 5) & (x < SHAPE[1] - 5) & (y > 5) & (y < SHAPE[0] - 5))
            x, y = x[inside], y[inside]

            def magnitude(
                x, y, m=mapping, f=field_mag, z=zero_point, c=chip_mag[detector], o=origin
            ):
                p = to_tangent(*m(x, y), **o)
                u, v = p[0] / 0.15, p[1] / 0.15
                return z + c + f[0] * u + f[1] * v + f[2] * u * u + f[3] * u * v + f[4] * v * v

            scale = 10 ** (-0.4 * (magnitude(x, y) - 31.4))
            error = noise * np.sqrt(1e5 / flux[inside]) + floor
            n = inside.size
            wrong = rng.random(n) < outliers
            extra = np.hypot(error, turbulence)
            mx = x + rng.normal(0, 1, n) * extra + wrong * rng.uniform(0.5, 2.0, n)
            my = y + rng.normal(0, 1, n) * extra
            electrons = flux[inside] / scale
            relative = flux_noise * np.sqrt(1e5 / flux[inside]) + 0.001
            measured = electrons * (1 + rng.normal(0, 1, n) * relative)
            measured *= np.where(wrong, 1.5, 1.0)
            wobble = rng.normal(0, frame_noise, 6)

            def frame(x, y, m=mapping, w=wobble, o=origin):
                p = to_tangent(*m(x, y), **o)
                u, v = x / 1024 - 0.5, y / 2048 - 0.5
                return from_tangent(
                    p[0] + (w[0] + w[1] * u + w[2] * v) / 3600,
                    p[1] + (w[3] + w[4] * u + w[5] * v) / 3600,
                    **o,
                )

            wcs = tpv_from_mapping(frame, shape=SHAPE)
            single = FluxScale(
                float(10 ** (-0.4 * (zero_point + rng.normal(0, 0.02) - 31.4))), 0.01, shape=SHAPE
            )
            sky = wcs.pixel_to_sky(x=mx, y=my)
            parts.append(
                Table(
                    {
                        "id": visit * 10_000_000 + detector * 100_000 + np.arange(n),
                        "visit": np.full(n, visit),
                        "detector": np.full(n, detector, np.int32),
                        "x": mx, "y": my, "x_err": error, "y_err": error,
                        "ra": sky[0], "dec": sky[1],
                        "psfFlux": measured * single.mean,
                        "psfFluxErr": electrons * relative * single.mean,
                        "psfFlux_flags": np.zeros(n, np.uint32),
                        "centroid_flags": np.zeros(n, np.uint32),
                        "snr": 1 / relative,
                        "extendedness": np.zeros(n),
                        "blended": np.zeros(n, bool),
                    }
                )
            )  # fmt: skip
            info = ExposureInfo(
                instrument="DECam", visit=visit, detector=detector, physical_filter="r DECam",
                band="r", exposure_time=90.0, mjd_mid=57000.0 + visit,
            )  # fmt: skip
            rows.append(
                make_visit_row(
                    info=info, shape=SHAPE, wcs=wcs, photo_calib=single, summary={},
                    aperture_correction={},
                )
            )  # fmt: skip
            survey.truth_wcs[visit, detector] = truth
            survey.truth_scale[visit, detector] = magnitude
        survey.summaries.append(make_visit_summary(rows))
        table = Table()
        for name in parts[0].colnames:
            table[name] = np.concatenate([p[name] for p in parts])
        survey.tables.append(table)
    return survey

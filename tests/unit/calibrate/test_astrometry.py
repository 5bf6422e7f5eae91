import numpy as np
import pytest
from astropy.io import fits

from skymill.calibrate.astrometry import AstrometryOptions, StarPositions, fit_astrometry
from skymill.calibrate.reference import ReferenceStars
from skymill.calibrate.tpv import from_tangent, to_tangent
from skymill.data.errors import FitError, NoDataError
from skymill.data.geometry import FitsWcs

SHAPE = (4096, 2048)


def decam_like_wcs(ra, dec, *, shift_x=0.0, shift_y=0.0, rotation=0.0):
    """A CCD 0.5 deg off the boresight with a cubic distortion of DECam's size."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    ra, dec = from_tangent(
        shift_x * 0.263 / 3600.0, shift_y * 0.263 / 3600.0, ra0=ra, dec0=dec
    )  # a pointing error turns the whole sky
    header["CRVAL1"], header["CRVAL2"] = float(ra), float(dec)
    header["CRPIX1"], header["CRPIX2"] = 6900.0, -2100.0
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    scale = 0.263 / 3600.0
    header["CD1_1"], header["CD1_2"] = -scale * s, scale * c
    header["CD2_1"], header["CD2_2"] = -scale * c, -scale * s
    for axis in (1, 2):
        header[f"PV{axis}_1"] = 1.0
        header[f"PV{axis}_4"] = 2e-4
        header[f"PV{axis}_7"] = 0.012
        header[f"PV{axis}_9"] = 0.0118
    return FitsWcs(header)


def make_field(rng, wcs, n, *, noise=0.0, ref_noise=0.0, extra=0, n_ref=None):
    """Stars on a CCD with centroid noise [pixel] and references with noise [mas]."""
    x, y = rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)
    ra, dec = wcs.pixel_to_sky(x=x, y=y)
    flux = 10 ** rng.uniform(3.0, 5.5, n)
    ra_e, dec_e = wcs.pixel_to_sky(
        x=rng.uniform(-600, SHAPE[1] + 600, extra), y=rng.uniform(-600, SHAPE[0] + 600, extra)
    )
    keep = slice(0, n if n_ref is None else n_ref)
    ref_ra, ref_dec = np.concatenate([ra[keep], ra_e]), np.concatenate([dec[keep], dec_e])
    mas = rng.normal(0, 1, (2, ref_ra.size)) * ref_noise / 3.6e6
    ref_ra, ref_dec = from_ra_offset(ref_ra, ref_dec, *mas)
    ref_flux = np.concatenate([flux[keep], 10 ** rng.uniform(3.0, 5.5, extra)])
    order = rng.permutation(ref_ra.size)
    zero = np.zeros(ref_ra.size)
    references = ReferenceStars(
        order,
        ref_ra[order],
        ref_dec[order],
        np.full(ref_ra.size, max(ref_noise, 0.01)),
        ref_flux[order],
        0.01 * ref_flux[order],
        "g",
        zero,
        zero,
    )
    stars = StarPositions(
        x + rng.normal(0, 1, n) * noise,
        y + rng.normal(0, 1, n) * noise,
        np.full(n, max(noise, 1e-4)),
        flux,
        np.full(n, 100.0),
    )
    return stars, references


def from_ra_offset(ra, dec, east, north):
    out = [
        from_tangent(e, n, ra0=a, dec0=d) for a, d, e, n in zip(ra, dec, east, north, strict=True)
    ]
    return np.array([o[0] for o in out]), np.array([o[1] for o in out])


def difference_mas(wcs, truth, step=256):
    x, y = (
        g.ravel()
        for g in np.meshgrid(
            np.arange(step / 2, SHAPE[1], step), np.arange(step / 2, SHAPE[0], step)
        )
    )
    ra0, dec0 = (float(v[0]) for v in truth.pixel_to_sky(x=[1023.5], y=[2047.5]))
    a = to_tangent(*wcs.pixel_to_sky(x=x, y=y), ra0=ra0, dec0=dec0)
    b = to_tangent(*truth.pixel_to_sky(x=x, y=y), ra0=ra0, dec0=dec0)
    return 3.6e6 * np.stack([a[0] - b[0], a[1] - b[1]])


@pytest.mark.parametrize(
    ("ra", "dec"), [(150.0, 2.0), (0.01, -30.0), (359.9, 60.0), (40.0, 89.7), (10.0, -85.0)]
)
def test_noise_free_pointing_error_is_recovered(ra, dec):
    rng = np.random.default_rng(3)
    truth = decam_like_wcs(ra, dec)
    header = decam_like_wcs(ra, dec, shift_x=160.0, shift_y=-160.0, rotation=0.15)
    stars, references = make_field(rng, truth, 150, extra=200)
    options = AstrometryOptions(centroid_floor=0.0, max_order=4)
    fit = fit_astrometry(stars, references, wcs=header, shape=SHAPE, options=options)
    # What a fourth-order polynomial leaves of a rotation of 0.15 deg, and the rounding in degrees
    # (1e-14 * 360 deg = 1e-5 mas).
    assert np.abs(difference_mas(fit.wcs, truth)).max() < 1e-3
    assert len(fit.pairs) == 150
    assert fit.used.all()


def test_rotation_of_a_degree_is_found():
    rng = np.random.default_rng(4)
    truth = decam_like_wcs(150.0, -20.0)
    header = decam_like_wcs(150.0, -20.0, shift_x=100.0, shift_y=100.0, rotation=0.9)
    stars, references = make_field(rng, truth, 200, noise=0.02, ref_noise=2.0, extra=600)
    # The CCD sits 7000 pixel from the centre of rotation: allow the shift that this makes.
    options = AstrometryOptions(max_offset_pix=400.0)
    fit = fit_astrometry(stars, references, wcs=header, shape=SHAPE, options=options)
    assert np.abs(difference_mas(fit.wcs, truth)).max() < 10.0


@pytest.mark.parametrize("n_ref", [40, 150])
def test_scatter_reaches_the_cramer_rao_bound_and_predicts_itself(n_ref):
    truth = decam_like_wcs(150.0, 2.0)
    header = decam_like_wcs(150.0, 2.0, shift_x=40.0, shift_y=-60.0)
    noise, ref_noise = 0.03, 3.0
    sigma = np.hypot(noise * 263.0, ref_noise)
    error, predicted = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stars, references = make_field(
            rng, truth, 400, noise=noise, ref_noise=ref_noise, extra=100, n_ref=n_ref
        )
        fit = fit_astrometry(stars, references, wcs=header, shape=SHAPE)
        error.append(np.sqrt(np.mean(difference_mas(fit.wcs, truth) ** 2)))
        predicted.append(fit.model_error)
    rms = np.sqrt(np.mean(np.square(error)))
    # The mean variance of an affine fit over its own stars is 3 sigma^2 / n; over a filled
    # rectangle it is the same to first order in 1/n. 10 % for the orders above 1 that the
    # information criterion lets through.
    assert rms < 1.1 * sigma * np.sqrt(3.0 / n_ref)
    assert 0.9 < rms / np.sqrt(np.mean(np.square(predicted))) < 1.1


def test_outliers_do_not_move_the_fit():
    rng = np.random.default_rng(9)
    truth = decam_like_wcs(150.0, 2.0)
    stars, references = make_field(rng, truth, 200, noise=0.01, ref_noise=1.0)
    wrong = rng.random(200) < 0.15
    stars.x[wrong] += rng.uniform(1.0, 3.0, wrong.sum())
    fit = fit_astrometry(stars, references, wcs=truth, shape=SHAPE)
    assert not np.isin(np.flatnonzero(wrong), fit.pairs.first[fit.used]).any()
    assert np.abs(difference_mas(fit.wcs, truth)).max() < 3.0


def test_turbulence_becomes_the_pedestal():
    rng = np.random.default_rng(10)
    truth = decam_like_wcs(150.0, 2.0)
    stars, references = make_field(rng, truth, 2000, noise=0.05, ref_noise=0.1)
    claimed = StarPositions(stars.x, stars.y, np.full(2000, 0.02), stars.flux, stars.snr)
    fit = fit_astrometry(claimed, references, wcs=truth, shape=SHAPE)
    expected = 263.0 * np.sqrt(0.05**2 - 0.02**2)
    # 4000 residuals: the pedestal is known to 1.6 %; 4 sigma.
    assert fit.pedestal == pytest.approx(expected, rel=0.07)


def test_no_match_is_one_sentence():
    rng = np.random.default_rng(11)
    wcs = decam_like_wcs(150.0, 2.0)
    stars, _ = make_field(rng, wcs, 200)
    _, other = make_field(np.random.default_rng(12), wcs, 200)
    with pytest.raises(FitError, match="no match of 200 sources to"):
        fit_astrometry(stars, other, wcs=wcs, shape=SHAPE)


def test_too_few_sources():
    rng = np.random.default_rng(13)
    wcs = decam_like_wcs(150.0, 2.0)
    stars, references = make_field(rng, wcs, 5)
    with pytest.raises(NoDataError, match="astrometry needs at least 8"):
        fit_astrometry(stars, references, wcs=wcs, shape=SHAPE)


def test_sparse_field_of_nine_stars():
    rng = np.random.default_rng(14)
    truth = decam_like_wcs(150.0, 2.0)
    header = decam_like_wcs(150.0, 2.0, shift_x=15.0, shift_y=8.0)
    stars, references = make_field(rng, truth, 12, noise=0.01, ref_noise=1.0, extra=3)
    fit = fit_astrometry(stars, references, wcs=header, shape=SHAPE)
    assert fit.order == 1
    assert np.abs(difference_mas(fit.wcs, truth)).max() < 20.0

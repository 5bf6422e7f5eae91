import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import exp1

from skymill.data.errors import ConfigError, DataError
from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.maps.aperture_mass import (
    ApertureMassMap,
    ApertureMassOptions,
    make_aperture_mass_map,
)
from skymill.lensing.maps.filters import FILTER_NAMES, aperture_filter
from skymill.lensing.maps.peaks import PeakOptions, best_peak, find_peaks
from skymill.lensing.nfw import NfwHalo

CENTRE = (0.02, 33.0)


def make_sample(*, n=3000, side=20.0, seed=1, halo=None, at=(0.0, 0.0), sigma=0.25):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    g1, g2 = rng.normal(0, sigma, (2, n))
    if halo is not None:
        dx, dy = east - at[0], north - at[1]
        phi = np.arctan2(dy, dx)
        # Outside of the critical curve: near it the formula of weak lensing diverges.
        g = halo.reduced_shear(np.maximum(np.hypot(dx, dy), 1.0), beta=0.8)
        g1, g2 = g1 - g * np.cos(2 * phi), g2 - g * np.sin(2 * phi)
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    weight = rng.uniform(0.5, 2.0, n)
    sample = ShearSample(ra=ra, dec=dec, g1=g1, g2=g2, weight=weight)
    return sample, east, north


@pytest.mark.parametrize("name", FILTER_NAMES)
def test_map_agrees_with_the_sum_over_galaxies(name):
    sample, east, north = make_sample()
    options = ApertureMassOptions(
        filter=name, aperture_min_arcmin=1.5, aperture_max_arcmin=6.0, n_apertures=4,
        step_arcsec=120.0, extent_arcmin=20.0, radial_bins=4096,
    )  # fmt: skip
    found = make_aperture_mass_map(sample, centre=CENTRE, options=options)
    half = (found.e_mode.shape[1] - 1) // 2
    rng = np.random.default_rng(3)
    for k, radius in enumerate(found.apertures):
        expected, got = [], []
        for j, i in rng.integers(0, 2 * half + 1, (40, 2)):
            dx, dy = east + (i - half) * 2.0, north - (j - half) * 2.0
            r, phi = np.hypot(dx, dy), np.arctan2(dy, dx)
            inside = r < radius
            w, area = sample.weight[inside], np.pi * radius**2
            q = aperture_filter(name, r[inside] / radius) / radius**2
            c, s = np.cos(2 * phi[inside]), np.sin(2 * phi[inside])
            g1, g2 = sample.g1[inside], sample.g2[inside]
            expected.append(
                (
                    area * np.sum(q * w * -(g1 * c + g2 * s)) / w.sum(),
                    area * np.sum(q * w * (g1 * s - g2 * c)) / w.sum(),
                    area**2 * np.sum(q**2 * w**2 * (g1**2 + g2**2)) / (2 * w.sum() ** 2),
                )
            )
            got.append((found.e_mode[k, j, i], found.b_mode[k, j, i], found.variance[k, j, i]))
        expected, got = np.array(expected), np.array(got)
        # Radial bins: 1 % of the rms is the goal that the default (1024) meets for full fields;
        # points at the edge with a dozen galaxies in the aperture are the worst (0.65 %).
        # The Gaussian filter does not vanish at the edge, where a bin is in or out as a whole.
        for column in range(3):
            scale = expected[:, column].std()
            assert (
                np.std(got[:, column] - expected[:, column])
                < (0.02 if name == "gaussian" else 0.01) * scale
            )


@pytest.mark.parametrize(
    ("name", "integral"),
    [
        ("polynomial", 1.0),
        ("tsis", 1.0),
        # With s = 9 x^2: the integral of (1 - exp(-s)) / s - exp(-s) from 0 to 9.
        ("gaussian", exp1(9) + np.log(9) + np.euler_gamma - 1 + np.exp(-9)),
    ],
)
def test_filters_have_their_integrals(name, integral):
    value, _ = quad(lambda x: 2 * np.pi * x * float(aperture_filter(name, x)), 0, 1)
    assert value == pytest.approx(integral, rel=1e-9)


def test_isothermal_filter_belongs_to_a_compensated_smooth_mass_filter():
    # U = int_x^1 2 Q / y dy - Q: one in the core, no jump, no mass of its own.
    def u(x):
        outer, _ = quad(lambda y: 2 * float(aperture_filter("tsis", y)) / y, x, 1, points=[0.8])
        return outer - float(aperture_filter("tsis", x))

    assert u(0.01) == pytest.approx(u(0.049), rel=1e-6)
    total, _ = quad(lambda x: x * u(x), 1e-6, 1, points=[0.05, 0.8], epsabs=1e-9)
    assert abs(total) < 1e-6 * u(0.01)
    assert u(0.8001) == pytest.approx(u(0.7999), abs=2e-3 * u(0.01))


def test_schirmer_filter_is_finite_at_the_centre_and_zero_outside():
    values = aperture_filter("schirmer", [0.0, 0.1, 0.999999, 1.5])
    assert np.isfinite(values).all()
    assert values[0] < 0.01 * values[1]
    assert values[3] == 0.0


def test_peak_position_and_orientation():
    at = (-3.0, 4.0)  # West and North of the middle
    sample, _, _ = make_sample(n=20000, halo=NfwHalo(mass=1e15, z=0.2), at=at, sigma=0.1, side=24.0)
    options = ApertureMassOptions(aperture_max_arcmin=8.0, n_apertures=5, step_arcsec=30.0)
    found = make_aperture_mass_map(sample, centre=CENTRE, options=options)
    peaks = find_peaks(found)
    ra, dec = best_peak(peaks)
    truth = plane_to_sky(east=at[0], north=at[1], centre=CENTRE)
    d_ra = (ra - truth[0] + 180) % 360 - 180
    # S/N of about 30 and a core of 1 arcmin: a few arcsec.
    assert np.hypot(d_ra * np.cos(np.radians(dec)), dec - truth[1]) * 60 < 0.2
    # The table's pixel and sky positions are those of the FITS header.
    top = peaks[peaks["is_best"]][0]
    header_wcs = ApertureMassMap.from_hdulist(found.to_hdulist()).wcs
    x, y = header_wcs.sky_to_pixel(ra=[ra], dec=[dec])
    assert (x[0], y[0]) == pytest.approx((top["x"], top["y"]), abs=1e-6)


def test_middle_pixel_is_the_centre():
    sample, _, _ = make_sample(n=500)
    found = make_aperture_mass_map(
        sample, centre=CENTRE, options=ApertureMassOptions(step_arcsec=60, n_apertures=2)
    )
    middle = (found.e_mode.shape[1] - 1) / 2
    ra, dec = found.wcs.pixel_to_sky(x=[middle], y=[middle])
    assert (ra[0], dec[0]) == pytest.approx(CENTRE, abs=1e-9)


def test_noise_has_the_width_that_the_variance_says():
    values = []
    for seed in range(12):
        sample, _, _ = make_sample(seed=seed, n=4000)
        options = ApertureMassOptions(
            aperture_min_arcmin=3, aperture_max_arcmin=3, n_apertures=1, step_arcsec=180
        )
        found = make_aperture_mass_map(sample, centre=CENTRE, options=options)
        values.append([found.snr("E").ravel(), found.snr("B").ravel()])
    # About 12 * 12 independent apertures a mode: width 1 +- 0.06 each.
    assert np.std(values, axis=(0, 2)) == pytest.approx([1, 1], abs=0.15)


def test_a_mass_leaves_no_b_mode():
    sample, _, _ = make_sample(n=30000, halo=NfwHalo(mass=1e15, z=0.2), sigma=0.0)
    options = ApertureMassOptions(
        aperture_min_arcmin=4, aperture_max_arcmin=4, n_apertures=1, step_arcsec=60
    )
    found = make_aperture_mass_map(sample, centre=CENTRE, options=options)
    core = slice(6, -6)
    # Poisson sampling of the shear field by 75 galaxies an arcmin2.
    assert np.abs(found.b_mode[0, core, core]).max() < 0.05 * found.e_mode.max()


def test_no_peaks_is_an_empty_table():
    sample, _, _ = make_sample(n=300)
    found = make_aperture_mass_map(
        sample, centre=CENTRE, options=ApertureMassOptions(step_arcsec=60, n_apertures=2)
    )
    peaks = find_peaks(found, PeakOptions(threshold=50.0))
    assert len(peaks) == 0
    with pytest.raises(RuntimeError, match="no E-mode peak; give a centre"):
        best_peak(peaks)


def test_centre_off_the_field_is_refused():
    sample, _, _ = make_sample(n=100)
    with pytest.raises(DataError, match="lies outside the catalogue"):
        make_aperture_mass_map(sample, centre=(5.0, 33.0))
    with pytest.raises(DataError, match="more than 89 deg"):
        make_aperture_mass_map(sample, centre=(180.0, -33.0))


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="filter must be one of"):
        ApertureMassOptions(filter="tophat")
    with pytest.raises(ConfigError, match="aperture_max_arcmin must be >= aperture_min_arcmin"):
        ApertureMassOptions(aperture_min_arcmin=5.0, aperture_max_arcmin=2.0)

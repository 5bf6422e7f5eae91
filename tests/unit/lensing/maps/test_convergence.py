import dataclasses

import numpy as np
import pytest

from skymill.data.errors import ConfigError, DataError
from skymill.lensing.catalogue import ShearSample, plane_to_sky, sky_to_plane
from skymill.lensing.maps.convergence import (
    ConvergenceMap,
    ConvergenceOptions,
    _multipoles,
    make_convergence_map,
    wiener_filter,
)
from skymill.lensing.nfw import NfwHalo

CENTRE = (0.02, 33.0)
HALO = NfwHalo(mass=1e15, z=0.2)


def make_sample(*, n=8000, side=24.0, seed=1, at=(-3.0, 2.0), sigma=0.0, hole=None):
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    if hole is not None:
        keep = np.hypot(east - hole[0], north - hole[1]) > hole[2]
        east, north = east[keep], north[keep]
    offset = (east - at[0]) + 1j * (north - at[1])
    g = (
        -HALO.reduced_shear(np.maximum(np.abs(offset), 0.3), beta=0.8)
        * (offset / np.abs(offset)) ** 2
    )
    g = g + rng.normal(0, sigma or 1e-6, len(g)) + 1j * rng.normal(0, sigma or 1e-6, len(g))
    ra, dec = plane_to_sky(east=east, north=north, centre=CENTRE)
    return ShearSample(ra=ra, dec=dec, g1=g.real.copy(), g2=g.imag.copy(), weight=np.ones(len(ra)))


def test_wiener_filter_is_the_solution_of_the_dense_equations():
    rng = np.random.default_rng(2)
    n, step = 12, 3e-4
    modulus, phase = _multipoles(n, step)
    power = np.where(modulus > 0, 1e-7 / (1 + (modulus / 3000) ** 2), 0.0)
    inverse = rng.uniform(20, 200, (n, n)) * (rng.random((n, n)) > 0.3)
    data = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    got = wiener_filter(data, inverse, power, phase, pixel=step**2, tolerance=1e-10,
                        max_iterations=2000)  # fmt: skip
    # kappa = S R^H (R S R^H + N)^-1 d, with the matrices of a 2-D Fourier transform.
    one = np.fft.fft(np.eye(n), norm="ortho")
    fourier = np.kron(one, one)
    shear_of = fourier.conj().T @ np.diag(phase.ravel()) @ fourier
    prior = fourier.conj().T @ np.diag(power.ravel() / step**2) @ fourier
    seen = inverse.ravel() > 0
    rows = shear_of[seen]
    covariance = rows @ prior @ rows.conj().T + np.diag(1 / inverse.ravel()[seen])
    expected = prior @ rows.conj().T @ np.linalg.solve(covariance, data.ravel()[seen])
    assert got.ravel() == pytest.approx(expected, abs=1e-8)


def test_convergence_of_a_halo_comes_back():
    options = ConvergenceOptions(smoothing_arcmin=0.5, n_noise=0, step_arcsec=15.0)
    found = make_convergence_map(
        make_sample(n=40000), rng=np.random.default_rng(1), centre=CENTRE, options=options
    )
    ra, dec = plane_to_sky(east=[-3.0], north=[2.0], centre=CENTRE)
    x0, y0 = found.wcs.sky_to_pixel(ra=ra, dec=dec)
    for name in ("kappa_e", "wiener_e"):
        plane = getattr(found, name)
        y, x = np.unravel_index(plane.argmax(), plane.shape)
        assert np.hypot(x - x0[0], y - y0[0]) < 1.5
    # Between 1.5 and 4 arcmin, against the mean at the edge: the mass sheet is free.
    yy, xx = np.mgrid[: plane.shape[0], : plane.shape[1]]
    radius = np.hypot(xx - x0[0], yy - y0[0]) * 0.25
    rings = [(radius > low) & (radius < low + 0.4) for low in (1.6, 2.4, 3.4)]
    outer = (radius > 6.0) & (radius < 7.0)
    truth = HALO.convergence(radius, beta=0.8)
    for ring in rings:
        expected = truth[ring].mean() - truth[outer].mean()
        got = found.kappa_e[ring].mean() - found.kappa_e[outer].mean()
        # Smoothing of half an arcminute and a finite field: 8 per cent.
        assert got == pytest.approx(expected, rel=0.12)
    inside = radius < 7.0
    assert np.abs(found.kappa_b[inside]).mean() < 0.06 * found.kappa_e.max()


def test_errors_of_the_direct_map_are_its_scatter():
    values, sigma = [], []
    for seed in range(6):
        found = make_convergence_map(
            turned(make_sample(n=4000, sigma=0.25, seed=seed), seed),
            rng=np.random.default_rng(1), centre=CENTRE,
            options=ConvergenceOptions(n_noise=0, n_reduced=0, step_arcsec=30.0),
        )  # fmt: skip
        inside = ~found.mask
        inside[:8] = inside[-8:] = False
        inside[:, :8] = inside[:, -8:] = False
        for plane in (found.kappa_e, found.kappa_b):
            values.append(plane[inside].std())
            sigma.append(found.sigma[inside].mean())
    # 12 maps of about 50 independent patches: 4 %.
    assert np.mean(values) == pytest.approx(np.mean(sigma), rel=0.12)


def turned(sample, seed):
    angle = np.random.default_rng([seed, 7]).uniform(0, 2 * np.pi, len(sample))
    g = (sample.g1 + 1j * sample.g2) * np.exp(1j * angle)
    return dataclasses.replace(sample, g1=g.real.copy(), g2=g.imag.copy())


def test_wiener_filter_is_nearer_to_the_truth_than_smoothing_and_fills_holes():
    errors = {"kappa_e": [], "wiener_e": []}
    for seed in range(4):
        sample = make_sample(n=6000, sigma=0.25, seed=seed, hole=(4.0, -4.0, 1.5))
        found = make_convergence_map(
            sample, rng=np.random.default_rng(1), centre=CENTRE,
            options=ConvergenceOptions(n_noise=2, step_arcsec=30.0, smoothing_arcmin=0.6),
        )  # fmt: skip
        ra, dec = plane_to_sky(east=[-3.0, 4.0], north=[2.0, -4.0], centre=CENTRE)
        x, y = found.wcs.sky_to_pixel(ra=ra, dec=dec)
        yy, xx = np.mgrid[: found.mask.shape[0], : found.mask.shape[1]]
        radius = np.maximum(np.hypot(xx - x[0], yy - y[0]) * 0.5, 0.3)
        truth = HALO.convergence(radius, beta=0.8)
        for name, values in errors.items():
            difference = getattr(found, name) - truth
            used = (radius > 1.0) & ~found.mask
            values.append((difference[used] - difference[used].mean()).std())
        hole = np.hypot(xx - x[1], yy - y[1]) * 0.5 < 0.7
        assert found.mask[hole].all()
        assert (found.kappa_e[hole] == 0).all()
        assert np.isfinite(found.wiener_e).all()
        assert (found.wiener_e[hole] != 0).all()
        assert (found.wiener_sigma[hole] > 0).all()
        assert found.wiener_e.max() > 4 * np.abs(found.wiener_b).std()
    assert np.mean(errors["wiener_e"]) < 0.7 * np.mean(errors["kappa_e"])


def test_a_small_field_has_a_prior():
    # Its longest wave is as short as the usual core.
    sample = make_sample(n=800, side=3.4, at=(0.3, 0.2), sigma=0.2)
    options = ConvergenceOptions(step_arcsec=12.0, smoothing_arcmin=0.4, n_noise=1)
    found = make_convergence_map(sample, rng=np.random.default_rng(1), options=options)
    assert all(p > 0 for p in found.prior)
    y, x = np.unravel_index(found.wiener_e.argmax(), found.wiener_e.shape)
    ra, dec = found.wcs.pixel_to_sky(x=[x], y=[y])
    east, north = sky_to_plane(ra=ra, dec=dec, centre=CENTRE)
    assert np.hypot(east[0] - 0.3, north[0] - 0.2) < 0.5


def test_files_hold_everything():
    found = make_convergence_map(
        make_sample(n=500), rng=np.random.default_rng(1), options=ConvergenceOptions(n_noise=1)
    )
    again = ConvergenceMap.from_hdulist(found.to_hdulist())
    for name in ("kappa_e", "kappa_b", "sigma", "wiener_e", "wiener_b", "wiener_sigma", "mask"):
        assert np.array_equal(getattr(again, name), getattr(found, name))
    assert again.wcs == found.wcs or np.allclose(
        again.wcs.pixel_to_sky(x=[3.0], y=[5.0]), found.wcs.pixel_to_sky(x=[3.0], y=[5.0])
    )
    assert again.prior == pytest.approx(found.prior)


def test_clear_sentences():
    sample, rng = make_sample(n=100), np.random.default_rng(1)
    with pytest.raises(DataError, match="lies outside the catalogue"):
        make_convergence_map(sample, rng=rng, centre=(5.0, 33.0))
    with pytest.raises(ConfigError, match=r"step_arcsec = 0\.01 is too fine"):
        make_convergence_map(sample, rng=rng, options=ConvergenceOptions(step_arcsec=0.01))
    hdus = make_convergence_map(sample, rng=rng, options=ConvergenceOptions(n_noise=0)).to_hdulist()
    with pytest.raises(DataError, match="no extension KAPPA_E"):
        ConvergenceMap.from_hdulist(hdus[:1])

"""Derivatives, normal equations and fits of one source on several exposures."""

from __future__ import annotations

import numpy as np
import pytest
from release_scenes import BANDS, galaxy, make_blob, make_scene, make_visits

from skymill.model.blob import FitOptions
from skymill.model.blob_fitter import BlobFitter
from skymill.model.blob_source import internal_shape
from skymill.model.multi_fit import N_PARAMETER, Limits, evaluate_source, fit_source
from skymill.model.sources import SourceType

TRUE_FLUX = {"g": 8.0, "r": 14.0, "z": 22.0}


@pytest.fixture(scope="module")
def exposures():
    """One EXP galaxy on turned, mirrored and unlike exposures."""
    rng = np.random.default_rng(3)
    visits = make_visits(rng, 2)
    return make_scene(rng, visits, [(galaxy(1.0, 0.9, 0.25, -0.2), 0.31, -0.17, TRUE_FLUX)], 61)


def make_stamps(exposures, size=64):
    fitter = BlobFitter(exposures, make_blob([(0.0, 0.0)], [TRUE_FLUX]), FitOptions(bands=BANDS))
    return fitter._stamps(fitter.sources[0], size, None)


@pytest.mark.parametrize("kind", list(SourceType))
def test_normal_equations_are_those_of_numeric_derivatives(exposures, kind):
    stamps = make_stamps(exposures)
    p = N_PARAMETER[kind]
    start = internal_shape(0.8, 0.2, 0.15, 1.7)
    start[:2] = 0.2, -0.1
    if kind == SourceType.REX:
        start[3:5] = 0.0
    fit = evaluate_source(stamps, kind, start, len(BANDS))
    assert fit.hessian.shape == (p, p)
    hessian, gradient = np.zeros((p, p)), np.zeros(p)
    slopes = np.zeros((p, *stamps.data.shape))
    for i in range(p):
        step = np.zeros(6)
        step[i] = 1e-3
        high = evaluate_source(stamps, kind, start + step, len(BANDS), derivatives=False).planes
        low = evaluate_source(stamps, kind, start - step, len(BANDS), derivatives=False).planes
        slopes[i] = (high.astype(float) - low) / 2e-3
    flux = fit.flux[stamps.band][:, None, None]
    residual = stamps.data - flux * fit.planes
    for i in range(p):
        gradient[i] = (stamps.weight * residual * flux * slopes[i]).sum()
        for j in range(p):
            hessian[i, j] = (stamps.weight * flux**2 * slopes[i] * slopes[j]).sum()
    if p >= 5:
        hessian[3, 3] += 16.0
        hessian[4, 4] += 16.0
        gradient -= np.array([0, 0, 0, start[3], start[4], 0][:p]) * 16.0
    # Single-precision planes, differences of step 1e-3.
    scale = np.sqrt(np.outer(np.diag(hessian), np.diag(hessian)))
    np.testing.assert_allclose(fit.hessian / scale, hessian / scale, atol=2e-3)
    size = np.sqrt(np.diag(hessian))
    np.testing.assert_allclose(fit.gradient / size, gradient / size, rtol=5e-3, atol=0.5)


def test_fluxes_and_chi2_are_those_of_least_squares(exposures):
    stamps = make_stamps(exposures)
    fit = evaluate_source(stamps, SourceType.PSF, np.zeros(6), len(BANDS))
    change = 0.0
    for b in range(len(BANDS)):
        own = stamps.band == b
        w, p, d = stamps.weight[own], fit.planes[own].astype(float), stamps.data[own]
        flux = (w * p * d).sum() / (w * p * p).sum()
        assert fit.flux[b] == pytest.approx(flux, rel=1e-6)
        change += (w * (d - flux * p) ** 2).sum() - (w * d**2).sum()
    assert fit.chi2 == pytest.approx(change, rel=1e-6)
    assert fit.signed_gain == pytest.approx(-fit.chi2)


def test_background_is_eliminated(exposures):
    stamps = make_stamps(exposures)
    stamps.background = True
    fit = evaluate_source(stamps, SourceType.PSF, np.zeros(6), len(BANDS))
    for b in range(len(BANDS)):
        rows, values = [], []
        for k in np.flatnonzero(stamps.band == b):
            use = stamps.weight[k] > 0
            w = np.sqrt(stamps.weight[k][use])
            column = np.zeros((use.sum(), 1 + stamps.band.size))
            column[:, 0], column[:, 1 + k] = fit.planes[k][use] * w, w
            rows.append(column)
            values.append(stamps.data[k][use] * w)
        solved = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
        assert fit.flux[b] == pytest.approx(solved[0], rel=1e-5)


def test_fit_finds_the_galaxy(exposures):
    stamps = make_stamps(exposures)
    start = internal_shape(0.37, 0.0, 0.0, 1.0)
    fit = fit_source(stamps, SourceType.EXP, start, len(BANDS), Limits())
    radius, e1, e2 = fit.shape
    sigma = np.sqrt(np.diag(np.linalg.inv(fit.hessian)))
    # One draw of the noise: within 4 sigma.
    assert abs(fit.parameters[0] - 0.31) < 4 * sigma[0]
    assert abs(fit.parameters[1] + 0.17) < 4 * sigma[1]
    assert radius == pytest.approx(0.9, rel=0.05)
    assert e1 == pytest.approx(0.25, abs=0.04)
    assert e2 == pytest.approx(-0.2, abs=0.04)
    np.testing.assert_allclose(fit.flux, [TRUE_FLUX[b] for b in BANDS], rtol=0.03)
    assert not fit.at_radius_limit
    assert fit.steps < 20


def test_limits_are_kept(exposures):
    stamps = make_stamps(exposures)
    start = internal_shape(0.37, 0.0, 0.0, 1.0)
    small = fit_source(stamps, SourceType.EXP, start, len(BANDS), Limits(max_radius=0.5))
    assert small.at_radius_limit
    assert np.exp(small.parameters[2]) <= 0.5 * (1 + 1e-9)
    fixed = fit_source(stamps, SourceType.EXP, start, len(BANDS), Limits(fixed_position=True))
    assert fixed.parameters[0] == 0.0
    assert fixed.parameters[1] == 0.0
    stay = Limits(inside=lambda east, north: east < 0.1)
    assert fit_source(stamps, SourceType.PSF, start, len(BANDS), stay).parameters[0] < 0.1


def test_covariance_of_fixed_position(exposures):
    stamps = make_stamps(exposures)
    fit = evaluate_source(stamps, SourceType.PSF, np.zeros(6), len(BANDS))
    covariance, index = fit.covariance(fixed_position=True)
    np.testing.assert_array_equal(index, [6, 7, 8])
    np.testing.assert_allclose(np.diag(covariance), 1.0 / fit.gain)

import itertools

import numpy as np
import pytest

from skymill.lensing.masses.large_scale_structure import (
    MatterPower,
    convergence_power,
    shear_covariance,
)

K = np.geomspace(1e-3, 20.0, 9)


@pytest.fixture(scope="module")
def universe():
    pyccl = pytest.importorskip("pyccl")
    return pyccl.Cosmology(
        Omega_c=0.252, Omega_b=0.048, h=0.7, sigma8=0.8, n_s=0.965, Neff=0.0, m_nu=0,
        T_CMB=2.7255, transfer_function="eisenstein_hu_nowiggles",
        matter_power_spectrum="halofit",
    )  # fmt: skip


def test_matter_power_agrees_with_pyccl(universe):
    import pyccl

    matter = MatterPower()
    linear = pyccl.linear_matter_power(universe, K * 0.7, 1.0) * 0.7**3
    assert matter.linear(K) == pytest.approx(linear, rel=1e-4)
    # Photons count in pyccl's growth: 1e-4.
    full = pyccl.nonlin_matter_power(universe, K * 0.7, 1 / 1.3) * 0.7**3
    assert matter.nonlinear(K, 0.3) == pytest.approx(full, rel=1e-3)


def test_convergence_power_agrees_with_pyccl(universe):
    import pyccl

    ell = np.geomspace(100, 3e4, 6)
    z = np.linspace(0, 2, 4001)
    sources = np.array([0.5, 1.0, 1.5])
    density = np.exp(-0.5 * ((z[:, None] - sources) / 0.004) ** 2).sum(axis=1)
    tracer = pyccl.WeakLensingTracer(universe, dndz=(z, density))
    expected = pyccl.angular_cl(universe, tracer, tracer, ell)
    got = convergence_power(ell, z_source=sources, weight=np.ones(3))
    # 40 planes along the line of sight.
    assert got == pytest.approx(expected, rel=5e-3)


def test_covariance_of_rings_is_that_of_gaussian_fields():
    # A flat power cut at l_max on a periodic field: mean tangential shear in rings, many fields.
    rng = np.random.default_rng(1)
    n, step = 128, 1.0  # arcmin
    radians = np.pi / 10800
    l_axis = 2 * np.pi * np.fft.fftfreq(n, d=step * radians)
    ell = l_axis[None, :] + 1j * l_axis[:, None]
    modulus = np.abs(ell)
    top = 2 * np.pi / (8 * radians)
    power = np.where((modulus > 0) & (modulus < top), 1e-9, 0.0)
    phase = np.where(modulus > 0, ell**2 / np.maximum(modulus, 1) ** 2, 0)
    y, x = np.mgrid[:n, :n] - n / 2
    r, angle = np.hypot(x, y), np.arctan2(y, x)
    edges = np.array([4.0, 8.0, 14.0, 22.0])
    rings = [(r >= low) & (r < high) for low, high in itertools.pairwise(edges)]
    means = []
    for _ in range(600):
        noise = np.fft.fft2(rng.normal(size=(n, n)))
        kappa = noise * np.sqrt(power) / (step * radians)
        shear = np.fft.ifft2(phase * kappa)
        g_t = -(shear.real * np.cos(2 * angle) + shear.imag * np.sin(2 * angle))
        means.append([g_t[ring].mean() for ring in rings])
    measured = np.cov(np.array(means).T)
    grid = np.geomspace(20, top, 4000)
    expected = shear_covariance(edges, ell=grid, power=np.full(4000, 1e-9))
    # 600 fields: variances to 6 %; pixels in rings and discrete modes a few per cent more.
    assert np.diag(measured) == pytest.approx(np.diag(expected), rel=0.25)
    correlation = [c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in (measured, expected)]
    assert correlation[0] == pytest.approx(correlation[1], abs=0.12)

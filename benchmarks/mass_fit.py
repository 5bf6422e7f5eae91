"""NFW fit with 2000 bootstrap samples of 20,000 galaxies; ratio to refitting each sample."""

from __future__ import annotations

import time

import numpy as np
from scipy.optimize import minimize_scalar

from skymill.lensing.catalogue import ShearSample, plane_to_sky
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.masses.mass_fit import fit_nfw_mass
from skymill.lensing.masses.sources import SourceOptions, select_sources
from skymill.lensing.nfw import NfwHalo


def main() -> None:
    """Time the fit, and one fit by direct evaluation, scaled to the number of samples."""
    rng = np.random.default_rng(1)
    n, side, z = 20000, 108.0, 0.0555
    east, north = rng.uniform(-side / 2, side / 2, (2, n))
    phi = np.arctan2(north, east)
    beta = FIDUCIAL.lensing_efficiency(0.8, z_lens=z)
    g = NfwHalo(mass=1e15, z=z).reduced_shear(np.hypot(east, north), beta=beta)
    noise = rng.normal(0, 0.25, (2, n))
    ra, dec = plane_to_sky(east=east, north=north, centre=(10.0, -20.0))
    sample, _ = ShearSample.from_columns(
        ra=ra, dec=dec, g1=-g * np.cos(2 * phi) + noise[0], g2=-g * np.sin(2 * phi) + noise[1],
        z=np.full(n, 0.8),
    )  # fmt: skip
    options = SourceOptions(radius_max_mpc=10.0)
    times = []
    for seed in range(4):
        start = time.process_time()
        fit_nfw_mass(
            sample, z_lens=z, centre=(10.0, -20.0), rng=np.random.default_rng(seed),
            sources=options,
        )  # fmt: skip
        times.append(time.process_time() - start)
    src = select_sources(sample, z_lens=z, centre=(10.0, -20.0), options=options)
    radius = src.radius / src.mpc_per_arcmin

    def chi2(log_mass):
        model = NfwHalo(mass=10**log_mass, z=z).reduced_shear(radius, beta=src.beta)
        return np.sum(src.weight * (src.tangential()[0] - model) ** 2)

    start = time.process_time()
    for _ in range(5):
        minimize_scalar(chi2, bounds=(12, 16), method="bounded")
    direct = (time.process_time() - start) / 5 * 2000
    best = np.median(times[1:])
    print(
        f"fit and 2000 bootstraps: {best:.2f} s; one by one {direct:.0f} s, x {direct / best:.0f}"
    )


if __name__ == "__main__":
    main()

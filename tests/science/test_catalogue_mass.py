"""Masses from gri photometry and shears of a whole sky, members and foreground included.

Each realisation is the sky of the simulations (field galaxies, lensing, cluster members) with
catalogue-level errors of the demonstration; redshifts come from the photo-z code, the sources are
chosen by them, the masses come from the fit with p(z).
"""

import numpy as np
import pytest

from skymill.lensing.catalogue import ShearSample
from skymill.lensing.masses.mass_fit import MassFitOptions, fit_nfw_mass
from skymill.photoz.estimate import estimate_photoz
from skymill.photoz.storage import decode_pz, grid_of
from skymill.sims.scene import SceneOptions, make_scene

pytestmark = pytest.mark.slow

N_SKY = 30
MASS, REDSHIFT = 1e15, 0.2
# 5 sigma limits of galaxies.
DEPTH = {"g": 25.0, "r": 25.2, "i": 24.4}
SHAPE_ERROR = 0.12


def draw_sky(seed):
    rng = np.random.default_rng([42, seed])
    options = SceneOptions(mass=MASS, redshift=REDSHIFT, half_width=0.15, half_height=0.15)
    galaxies = make_scene(options, rng).galaxies
    snr = 5 * 10 ** (-0.4 * (np.asarray(galaxies["mag_r"]) - DEPTH["r"]))
    # Those with a shape: faint ones are lost gradually, a third to blends and resolution.
    galaxies = galaxies[(snr > 10) & (rng.random(len(galaxies)) < 0.65)]
    flux, error = [], []
    for band, depth in DEPTH.items():
        true = 10 ** (-0.4 * (np.asarray(galaxies[f"mag_{band}"]) - 31.4))
        sigma = np.full(len(galaxies), 10 ** (-0.4 * (depth - 31.4)) / 5)
        flux.append(true + rng.normal(0, np.hypot(sigma, 0.01 * true)))
        error.append(sigma)
    shear = np.asarray(galaxies["g1"]) + 1j * np.asarray(galaxies["g2"])
    intrinsic = np.asarray(galaxies["g1_int"]) + 1j * np.asarray(galaxies["g2_int"])
    seen = (intrinsic + shear) / (1 + np.conj(shear) * intrinsic)
    seen = seen + rng.normal(0, SHAPE_ERROR, (2, len(galaxies))).T @ np.array([1, 1j])
    return options, galaxies, np.stack(flux, 1), np.stack(error, 1), seen


def fit_sky(seed):
    options, galaxies, flux, error, seen = draw_sky(seed)
    table = estimate_photoz(flux, error, bands=tuple(DEPTH))
    sample, _ = ShearSample.from_columns(
        ra=galaxies["ra"], dec=galaxies["dec"], g1=seen.real, g2=seen.imag, z=table["z_phot"],
        pz=decode_pz(np.asarray(table["pz"])), z_grid=grid_of(table),
    )  # fmt: skip
    fit = fit_nfw_mass(
        sample, z_lens=REDSHIFT, centre=(options.ra, options.dec), rng=np.random.default_rng(seed),
        options=MassFitOptions(n_bootstrap=300),
    )  # fmt: skip
    area = 4 * 3600 * options.half_width * options.half_height
    row = fit.table[0]
    return row["m200"], row["m200_err"], len(galaxies) / area


def test_masses_and_their_errors():
    mass, error, density = np.array([fit_sky(k) for k in range(N_SKY)]).T
    assert 8 < density.mean() < 20
    sem = mass.std(ddof=1) / np.sqrt(N_SKY)
    print(  # noqa: T201
        f"{N_SKY} skies: mean mass {mass.mean() / MASS:.3f} +- {sem / MASS:.3f} of the truth, "
        f"error of one {np.median(error / mass):.3f}, {density.mean():.1f} galaxies per arcmin2"
    )
    # Members that pass for background galaxies and wrong redshifts may cost a tenth.
    assert abs(mass.mean() / MASS - 1) < 0.10 + 2 * sem / MASS, (mass.mean(), sem)
    assert sem < 0.1 * MASS
    pulls = (mass - MASS) / error
    # The width of 30 pulls is known to 13 %.
    assert pulls.std() == pytest.approx(1.0, abs=0.4), pulls
    # The promise of the demonstration.
    assert np.median(error / mass) < 0.30

"""The COSMOS shapes have an E mode of the aperture mass and no B mode."""

import dataclasses

import numpy as np
import pytest

from skymill.lensing.aperture_mass import ApertureMassOptions, make_aperture_mass_map
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.files import read_catalogue

N_ROTATED = 20


@pytest.fixture(scope="module")
def variances(shared_data):
    path = shared_data / "shear" / "cosmos_hst_shapes.fits.gz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    t = read_catalogue(path)
    # x of this catalogue runs to the West.
    sample, _ = ShearSample.from_columns(
        ra=t["ra"], dec=t["dec"], g1=t["e1"], g2=-t["e2"], weight=t["w"], max_shear=1.4
    )
    options = ApertureMassOptions(
        aperture_min_arcmin=4.0, aperture_max_arcmin=4.0, n_apertures=1, step_arcsec=90.0,
        radial_bins=256,
    )  # fmt: skip

    def variance(sample):
        found = make_aperture_mass_map(sample, options=options)
        inside = found.coverage[0] > 0.8
        return found.e_mode[0][inside].var(), found.b_mode[0][inside].var()

    e, b = variance(sample)
    rng = np.random.default_rng(1)
    rotated = []
    for _ in range(N_ROTATED):
        g = (sample.g1 + 1j * sample.g2) * np.exp(1j * rng.uniform(0, 2 * np.pi, len(sample)))
        rotated.append(variance(dataclasses.replace(sample, g1=g.real.copy(), g2=g.imag.copy())))
    return e, b, np.array(rotated)


def test_e_mode_exceeds_every_rotated_catalogue(variances):
    e, _, rotated = variances
    assert e > rotated.max()


def test_b_mode_does_not(variances):
    _, b, rotated = variances
    assert b < rotated.max()

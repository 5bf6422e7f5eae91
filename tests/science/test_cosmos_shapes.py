"""The COSMOS shapes have an E mode of the aperture mass and no B mode."""

import numpy as np
import pytest

from skymill.data.catalogue_files import read_catalogue
from skymill.lensing.catalogue import ShearSample
from skymill.lensing.maps.aperture_mass import ApertureMassOptions, make_aperture_mass_map
from skymill.lensing.maps.rotation import turn_shapes

N_ROTATED = 100


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

    found = make_aperture_mass_map(sample, options=options)
    inside = found.coverage[0] > 0.8
    rng = np.random.default_rng(1)
    rotated = []
    for _ in range(N_ROTATED):
        turned = make_aperture_mass_map(turn_shapes(sample, rng), options=options)
        rotated.append((turned.e_mode[0][inside].var(), turned.b_mode[0][inside].var()))
    e, b = found.e_mode[0][inside].var(), found.b_mode[0][inside].var()
    rotated = np.array(rotated)
    print(  # noqa: T201
        f"variance E {e:.3e}, B {b:.3e}; {N_ROTATED} rotated: E up to {rotated[:, 0].max():.3e}, "
        f"B up to {rotated[:, 1].max():.3e}"
    )
    return e, b, rotated


def test_e_mode_exceeds_every_rotated_catalogue(variances):
    e, _, rotated = variances
    assert e > rotated.max()


def test_b_mode_does_not(variances):
    _, b, rotated = variances
    assert b < rotated.max()

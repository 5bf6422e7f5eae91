"""Numbers of the report that depend on where the field is."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.demo import numbers, redshifts
from skymill.demo.truth import Truth
from skymill.lensing.cosmology import FIDUCIAL
from skymill.lensing.masses.contamination import member_shape
from skymill.photoz.storage import encode_pz


@pytest.mark.parametrize(("ra0", "dec0"), [(150.0, 2.2), (0.0, -60.0), (359.99, 60.0)])
def test_field_and_area_do_not_depend_on_the_meridian(ra0, dec0):
    rng = np.random.default_rng(3)
    # A field of 20 x 20 arcmin, dense enough that no cell of 1 arcmin is empty.
    east, north = rng.uniform(-10, 10, (2, 20_000)) / 60
    ra = (ra0 + east / np.cos(np.radians(dec0))) % 360
    objects = Table({"coord_ra": ra, "coord_dec": dec0 + north})
    beside = Table({"ra": [(ra0 + 0.5) % 360, ra0, (ra0 - 0.5) % 360], "dec": [dec0] * 3})
    assert numbers._inside(beside, objects).tolist() == [False, True, False]
    area = numbers._area_arcmin2(Table({"ra": ra, "dec": dec0 + north}))
    # The outermost row and column of cells are cut.
    assert area == pytest.approx(400, rel=0.11)


def sources_with_members(n=9000, n_member=1000, seed=4):
    """Sources of which a part are members with the redshifts of the others, and their truth."""
    rng = np.random.default_rng(seed)
    z_lens, mpc = 0.2, float(FIDUCIAL.angular_distance(0.2)) * np.pi / 10800
    angle = rng.uniform(0, 2 * np.pi, n)
    radius = np.sqrt(rng.uniform(0, 25.0**2, n))  # arcmin
    member = np.arange(n) < n_member
    # Members follow the projected NFW profile that is fitted to them, out to 3 Mpc.
    bins = np.linspace(0.005, 3.0, 600)
    density = bins * member_shape(bins / 0.4)
    radius[member] = rng.choice(bins, n_member, p=density / density.sum()) / mpc
    ra = 150.0 + radius * np.sin(angle) / 60 / np.cos(np.radians(2.2))
    dec = 2.2 + radius * np.cos(angle) / 60
    z_phot = rng.uniform(0.5, 1.0, n)
    grid = 0.02 + 0.02 * np.arange(75)
    cell = np.rint((z_phot - grid[0]) / 0.02).astype(int)
    pz = np.zeros((n, 75), np.float32)
    pz[np.arange(n), cell] = 1.0
    names = np.arange(n).astype(str)
    photoz = Table({"ID": names, "pz": encode_pz(pz), "pz_z0": np.full(n, grid[0]),
                    "pz_dz": np.full(n, 0.02)})  # fmt: skip
    g = rng.normal(0, 0.25, (2, n))
    shear = Table({"ID": names, "ra": ra, "dec": dec, "g1": g[0], "g2": g[1], "z_phot": grid[cell],
                   "weight": np.ones(n), "mag": np.full(n, 23.0),
                   "use": np.ones(n, bool)})  # fmt: skip
    galaxies = Table({"ra": ra, "dec": dec, "z": np.where(member, z_lens, grid[cell]),
                      "is_member": member})  # fmt: skip
    halos = Table({"ra": [150.0], "dec": [2.2], "redshift": [z_lens], "m200": [1e15]})
    return shear, photoz, Truth(galaxies, Table(), halos, Table())


def test_signal_of_sources_with_members_among_them():
    shear, photoz, truth = sources_with_members()
    found = redshifts.source_numbers(shear, photoz, truth)
    # Members are 11 % of all, and more of those from 0.2 to 3 Mpc (the field reaches 5 Mpc).
    assert 0.15 < found["members"] < 0.30
    assert found["not_behind"] == pytest.approx(found["members"])
    # They carry no signal; all others carry what they promise.
    assert found["signal_ratio"] == pytest.approx(1 - found["members"], abs=0.02)
    assert found["dilution"] > 5 * found["dilution_err"]
    # The excess of sources towards the centre tells it; 1000 members do to 5 per cent.
    assert found["signal_ratio_boosted"] == pytest.approx(1.0, abs=0.1)
    clean = redshifts.source_numbers(*sources_with_members(n_member=0))
    assert clean["signal_ratio"] == pytest.approx(1.0, abs=1e-6)
    assert clean["members"] == 0.0

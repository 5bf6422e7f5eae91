"""Raw frames of another simulator through ``skymill run`` to the mass, with settings by hand.

The field straddles right ascension 0, a focus chip lies among the CCDs, files are plain and
compressed, the photometric catalogue is the observer's own and has no colour terms.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

sys.path.insert(0, str(Path(__file__).parent))

import foreign_simulator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    foreign_simulator.make_night(folder)
    words = [str(Path(sys.prefix) / "bin/skymill"), "run", "cluster.yaml", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_the_cluster_is_where_and_as_heavy_as_it_was_made(campaign):
    sky = foreign_simulator.Field()
    peaks = Table.read(
        campaign / "mass_map_output/Map_E_peak_catalog_schirmer.csv", format="ascii.csv"
    )
    best = peaks[0]
    east = (best["ra"] - sky.ra + 180) % 360 - 180
    offset = 60 * np.hypot(east * np.cos(np.radians(sky.dec)), best["dec"] - sky.dec)
    fit = Table.read(campaign / "mass_fit_output/FOREIGN_mass_fit.csv", format="ascii.csv")[0]
    print(  # noqa: T201
        f"peak at {offset:.2f} arcmin, S/N {best['snr']:.1f}; M200 = {fit['m200']:.3g} +- "
        f"{fit['m200_err']:.2g} Msun, true {sky.mass:.3g}"
    )
    assert offset < 1.0
    assert best["snr"] > 5.0
    assert abs(fit["m200"] - sky.mass) < 2 * fit["m200_err"]
    assert fit["m200_err"] < 0.3 * fit["m200"]


def test_magnitudes_are_those_of_the_observers_catalogue(campaign):
    # The catalogue is in the system of the camera: nothing is left for the zero points to do.
    table = Table.read(
        campaign / "photometric_correction_output/FOREIGN_zero_points.csv", format="ascii.csv"
    )
    print(f"zero points {np.round(1e3 * np.asarray(table['offset']), 1)} mmag")  # noqa: T201
    assert set(table["band"]) == {"g", "r", "i"}
    assert np.all(np.abs(table["offset"]) < 0.015), table
    assert np.all(table["n_star"] > 50)


def test_stars_lie_where_they_were_put(campaign):
    objects = Table.read(
        campaign / "photometric_correction_output/FOREIGN_dered_dezp_stars.csv", format="ascii.csv"
    )
    stars = Table.read(campaign / "stars.ecsv")
    stars = stars[(stars["r"] > 18.5) & (stars["r"] < 20.5)]
    years = (58390.2 - 57388.5) / 365.25
    cos_dec = np.cos(np.radians(stars["dec"]))
    ra = stars["ra"] + stars["pmra"] * years / 3.6e6 / cos_dec
    dec = stars["dec"] + stars["pmdec"] * years / 3.6e6
    east = ((objects["ra"][:, None] - np.asarray(ra)) + 180) % 360 - 180
    distance = 3.6e6 * np.hypot(east * np.asarray(cos_dec), objects["dec"][:, None] - dec)
    nearest = distance.min(axis=0)
    near = nearest < 500
    print(f"{near.sum()} stars, median distance {np.median(nearest[near]):.1f} mas")  # noqa: T201
    assert near.sum() > 100
    # Gaia's errors, the scatter of a star at S/N 100 and of the joint fit: some mas.
    assert np.median(nearest[near]) < 25.0

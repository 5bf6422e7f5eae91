"""The members of a real cluster of the SDSS, found without the calibration of its catalogue."""

import numpy as np
import pytest
from astropy.table import Table

from skymill.lensing.members.red_sequence import RedSequenceOptions, find_red_sequence


def probability_at(sequence, places):
    """Probability of the candidate within an arcsecond of each place; -1 without one."""
    cos = np.cos(np.radians(np.asarray(places["DEC"])))
    east = (np.asarray(sequence["ra"])[:, None] - np.asarray(places["RA"])) * cos
    distance = np.hypot(east, np.asarray(sequence["dec"])[:, None] - np.asarray(places["DEC"]))
    near = distance.argmin(axis=0)
    found = np.asarray(sequence["p_member"])[near]
    return np.where(distance.min(axis=0) < 1 / 3600, found, -1.0)


def test_members_of_a_published_catalogue(shared_data):
    folder = shared_data / "red_sequence"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    galaxies = Table.read(folder / "test_dr8_gals_with_zred.fit")
    members = Table.read(folder / "test_cluster_members.fit")
    catalogue = Table({"ID": galaxies["ID"].astype(str)})
    catalogue["ra"], catalogue["dec"] = galaxies["RA"], galaxies["DEC"]
    for k, band in enumerate("ugriz"):
        catalogue[f"{band}_cmodel_mag"] = galaxies["MAG"][:, k]
        catalogue[f"{band}_cmodel_magerr"] = galaxies["MAG_ERR"][:, k]
    brightest = members[members["PMEM"].argmax()]
    found = find_red_sequence(
        catalogue, z=float(members["Z"][0]), centre=(brightest["RA"], brightest["DEC"]),
        options=RedSequenceOptions(camera="sdss"),
    )  # fmt: skip
    sure = members[members["PMEM"] > 0.8]
    ours = probability_at(found.table, sure)
    meta = found.table.meta
    print(  # noqa: T201
        f"of {len(sure)} members {np.sum(ours >= 0)} are in the file, {np.sum(ours > 0.5)} have "
        f"p > 0.5, {np.sum(ours > 0.8)} p > 0.8, median {np.median(ours):.2f}; richness above "
        f"0.2 L* {meta['richness_bright']:.1f} (published {members['PMEM'].sum():.1f})"
    )
    # The goal is 80 %; one of the 14 is not in the file of galaxies.
    assert len(sure) == 14
    assert np.sum(ours > 0.5) >= 0.8 * len(sure)
    # As sure as they are of four in five of those that are there.
    assert np.sum(ours > 0.8) >= 0.8 * np.sum(ours >= 0)
    # Of the galaxies that we are sure of, most are theirs: four in five within binomial errors.
    mine = found.table[found.table["p_member"] > 0.8]
    place = members[members["PMEM"] > 0.3]
    east = np.asarray(mine["ra"])[:, None] - np.asarray(place["RA"])
    east *= np.cos(np.radians(65.1))
    north = np.asarray(mine["dec"])[:, None] - np.asarray(place["DEC"])
    assert (np.hypot(east, north).min(axis=1) < 1 / 3600).mean() > 0.6
    # Their richness to 0.2 L* from the same sky by another programme: within the error.
    assert abs(meta["richness_bright"] - members["PMEM"].sum()) < meta["richness_err"]

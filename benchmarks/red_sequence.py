"""Red sequence and density map of 20,600 galaxies; ratio to a direct kernel density estimate."""

from __future__ import annotations

import time

import numpy as np
from astropy.table import Table
from scipy.stats import gaussian_kde

from skymill.lensing.members.red_sequence import find_red_sequence
from skymill.lensing.members.ridge import expected_colour


def _catalogue(rng: np.random.Generator, n_field: int, n_members: int) -> Table:
    east, north = rng.uniform(-54, 54, (2, n_field + n_members))
    east[n_field:], north[n_field:] = rng.normal(0, 6.0, (2, n_members))
    mag = rng.uniform(15, 21, n_field + n_members)
    colours = rng.uniform((0.2, 0.0, 0.0), (2.0, 0.9, 0.6), (n_field + n_members, 3)).T
    for k, pair in enumerate(("gr", "ri", "iz")):
        colours[k, n_field:] = expected_colour(0.08, *pair) + rng.normal(0, 0.03, n_members)
    mags = np.stack([mag + colours[1] + colours[0], mag + colours[1], mag, mag - colours[2]])
    table = Table({"ID": np.arange(len(mag)).astype(str), "ra": 10 + east / 60, "dec": north / 60})
    for k, band in enumerate("griz"):
        table[f"{band}_cmodel_mag"] = mags[k]
        table[f"{band}_cmodel_magerr"] = np.full(len(mag), 0.02)
    return table


def main() -> None:
    """Time the whole search with its map, and scipy's kernel density on the same pixels."""
    rng = np.random.default_rng(1)
    table = _catalogue(rng, 20000, 600)
    find_red_sequence(table, z=0.08, centre=(10.0, 0.0))
    times = []
    for _ in range(3):
        start = time.process_time()
        found = find_red_sequence(table, z=0.08, centre=(10.0, 0.0))
        times.append(time.process_time() - start)
    plane = found.density["DENSITY"].data
    y, x = np.indices(plane.shape)
    places = np.stack([found.table["ra"], found.table["dec"]])
    start = time.process_time()
    kernel = gaussian_kde(places, bw_method=0.1)
    rows = plane.shape[0] // 20
    kernel(np.stack([10.0 + x[:rows].ravel() * 1e-3, y[:rows].ravel() * 1e-3]))
    direct = (time.process_time() - start) * plane.shape[0] / rows
    meta = found.table.meta
    print(f"red sequence and map {plane.shape[0]}^2, {len(table)} galaxies: {min(times):.2f} s")
    print(f"direct kernel density of {len(found.table)} candidates: {direct:.2f} s")
    print(f"richness {meta['richness']:.0f} +- {meta['richness_err']:.0f}")


if __name__ == "__main__":
    main()

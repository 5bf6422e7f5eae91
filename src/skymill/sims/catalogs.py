"""Reference catalogues of the simulated sky: Gaia-like and Pan-STARRS1-like, with real defects."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.data.tables import load_schema
from skymill.data.units import njy_from_magnitude
from skymill.sims.scene import Scene

__all__ = ["gaia_catalogue", "ps1_catalogue"]

Float64Array = NDArray[np.float64]

_GAIA_EPOCH = 57388.0  # J2016.0
_PS1_EPOCH = 55927.0  # 2012.0


def _drop_gaps(
    ra: Float64Array, dec: Float64Array, rng: np.random.Generator, fraction: float, holes: int
) -> NDArray[np.bool_]:
    """False for a random share of the rows and inside a few round holes."""
    keep = rng.random(ra.size) >= fraction
    if ra.size == 0:
        return keep
    for _ in range(holes):
        k = int(rng.integers(ra.size))
        separation = np.hypot((ra - ra[k]) * np.cos(np.radians(dec[k])), dec - dec[k]) * 3600.0
        keep &= separation > rng.uniform(15.0, 40.0)
    return keep


def _new_table(
    identifier: NDArray[np.int64],
    ra: Float64Array,
    dec: Float64Array,
    error: Float64Array,
    rng: np.random.Generator,
    epoch: float,
) -> Table:
    n = ra.size
    table = Table()
    table["id"] = identifier
    table["ra"] = (ra + rng.normal(0, 1, n) * error / 3.6e6 / np.cos(np.radians(dec))) % 360.0
    table["dec"] = dec + rng.normal(0, 1, n) * error / 3.6e6
    table["ra_err"], table["dec_err"] = error, error.copy()
    table["epoch"] = np.full(n, epoch)
    for name, unit in (
        ("ra", "deg"), ("dec", "deg"), ("ra_err", "mas"), ("dec_err", "mas"), ("epoch", "d"),
    ):  # fmt: skip
        table[name].unit = unit
    return table


def _stars_at(scene: Scene, epoch: float) -> tuple[Float64Array, Float64Array]:
    years = (epoch - scene.epoch) / 365.25
    dec = np.asarray(scene.stars["dec"]) + np.asarray(scene.stars["pm_dec"]) * years / 3.6e6
    step = np.asarray(scene.stars["pm_ra"]) * years / 3.6e6
    return np.asarray(scene.stars["ra"]) + step / np.cos(np.radians(dec)), dec


def gaia_catalogue(scene: Scene, rng: np.random.Generator) -> Table:
    """A Gaia-like catalogue: stars of G < 20.7 with proper motions.

    Errors grow from 0.05 mas at G = 15 to about 0.7 mas at 20; 2 % of the stars and some holes are
    missing; stars fainter than G = 20.3 have no proper motion.

    Parameters
    ----------
    scene : Scene
        The sky.
    rng : numpy.random.Generator
        Random numbers.

    Returns
    -------
    astropy.table.Table
        Columns of the ``refcat`` schema with ``phot_g_mean_flux``.
    """
    stars = scene.stars
    magnitude = np.asarray(stars["gaia_g"])
    ra, dec = _stars_at(scene, _GAIA_EPOCH)
    keep = (magnitude < 20.7) & _drop_gaps(ra, dec, rng, 0.02, 3)
    m = magnitude[keep]
    error = np.hypot(0.05, 0.05 * 10 ** (0.235 * (m - 15.0)))
    table = _new_table(np.asarray(stars["id"])[keep], ra[keep], dec[keep], error, rng, _GAIA_EPOCH)
    n = m.size
    for name in ("ra", "dec"):
        motion = np.asarray(stars[f"pm_{name}"])[keep] + rng.normal(0, 1, n) * error * 1.1
        motion[m > 20.3] = np.nan
        table[f"pm_{name}"] = motion
        table[f"pm_{name}_err"] = np.where(m > 20.3, np.nan, error * 1.1)
        table[f"pm_{name}"].unit = table[f"pm_{name}_err"].unit = "mas/yr"
    parallax = np.asarray(stars["parallax"])[keep] + rng.normal(0, 1, n) * error * 1.1
    table["parallax"] = np.where(m > 20.3, np.nan, parallax)
    table["parallax"].unit = "mas"
    flux = njy_from_magnitude(m)
    flux_err = flux * np.hypot(0.0005, 0.001 * 10 ** (0.3 * (m - 17.0)))
    _add_flux(table, "phot_g_mean", flux, flux_err, rng)
    table["is_star"] = np.ones(n, bool)
    return load_schema("refcat").apply(table)


def ps1_catalogue(scene: Scene, rng: np.random.Generator) -> Table:
    """A Pan-STARRS1-like catalogue: stars and galaxies of i < 21.5 in g r i z y.

    Positions are good to 8 mas for bright sources and carry no proper motions; fluxes have a floor
    of 4 mmag; 3 % of the sources and some holes are missing and single bands are absent.

    Parameters
    ----------
    scene : Scene
        The sky.
    rng : numpy.random.Generator
        Random numbers.

    Returns
    -------
    astropy.table.Table
        Columns of the ``refcat`` schema with ``g_flux`` ... ``y_flux``.
    """
    stars, galaxies = scene.stars, scene.galaxies
    ra, dec = _stars_at(scene, _PS1_EPOCH)
    ra = np.concatenate([ra, np.asarray(galaxies["ra"])])
    dec = np.concatenate([dec, np.asarray(galaxies["dec"])])
    # Galaxies: DECam magnitudes stand for PS1 ones (differences of a few hundredths).
    pairs = list(zip("grizy", ("g", "r", "i", "z", "Y"), strict=True))
    mags = {
        b: np.concatenate([np.asarray(stars[f"ps1_{b}"]), np.asarray(galaxies[f"mag_{d}"])])
        for b, d in pairs
    }
    is_star = np.arange(ra.size) < len(stars)
    identifier = np.concatenate([np.asarray(stars["id"]), np.asarray(galaxies["id"])])
    keep = (mags["i"] < 21.5) & (mags["i"] > 13.5) & _drop_gaps(ra, dec, rng, 0.03, 2)
    m = mags["i"][keep]
    error = np.hypot(8.0, 20.0 * 10 ** (0.3 * (m - 20.0)))
    table = _new_table(identifier[keep], ra[keep], dec[keep], error, rng, _PS1_EPOCH)
    n = m.size
    for name, unit in (
        ("pm_ra", "mas/yr"), ("pm_ra_err", "mas/yr"), ("pm_dec", "mas/yr"),
        ("pm_dec_err", "mas/yr"), ("parallax", "mas"),
    ):  # fmt: skip
        table[name] = np.full(n, np.nan)
        table[name].unit = unit
    depth = {"g": 23.3, "r": 23.2, "i": 23.1, "z": 22.3, "y": 21.3}  # 5 sigma
    for b, _ in pairs:
        flux = njy_from_magnitude(mags[b][keep])
        noise = njy_from_magnitude(depth[b]) / 5.0
        flux_err = np.hypot(0.004 * flux, noise)
        absent = rng.random(n) < 0.01
        _add_flux(table, b, np.where(absent, np.nan, flux), flux_err, rng)
    table["is_star"] = is_star[keep]
    return load_schema("refcat").apply(table)


def _add_flux(
    table: Table, band: str, flux: Float64Array, error: Float64Array, rng: np.random.Generator
) -> None:
    table[f"{band}_flux"] = flux + rng.normal(0, 1, flux.size) * error
    table[f"{band}_flux_err"] = np.where(np.isfinite(flux), error, np.nan)
    table[f"{band}_flux"].unit = table[f"{band}_flux_err"].unit = "nJy"

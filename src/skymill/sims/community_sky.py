"""The sky of a simulated release patch: stars and galaxies of one Sersic profile each."""

from __future__ import annotations

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skymill.sims import populations
from skymill.sims.community_draw import profile_edge
from skymill.sims.community_plan import ReleasePatchOptions
from skymill.sims.scene import Scene, SceneOptions, sky_offsets, sky_positions

__all__ = ["KINDS", "legacy_magnitudes", "make_patch_sky"]

Float64Array = NDArray[np.float64]

#: Names of the models of the surveys' catalogues, and how often the truth takes the galaxies'.
KINDS = {"REX": 0.20, "EXP": 0.45, "DEV": 0.15, "SER": 0.20}
_SERSIC = (0.7, 1.5, 2.0, 2.8, 3.5, 5.0)

# DECam minus Pan-STARRS1 [mag], cubic in PS1 g - i; source: Legacy Surveys' zero points.
_COLOUR_TERMS = {
    "g": (0.00062, 0.03604, 0.01028, -0.00613),
    "r": (0.00495, -0.08435, 0.03222, -0.01140),
    "i": (0.00904, -0.04171, 0.00566, -0.00829),
    "z": (0.02583, -0.07690, 0.02824, -0.00898),
    "Y": (0.02332, -0.05992, 0.02840, -0.00572),
}


def legacy_magnitudes(stars: Table) -> None:
    """Give stars the magnitudes that the surveys' colour terms predict.

    Parameters
    ----------
    stars : astropy.table.Table
        ``ps1_{grizy}`` [mag]; ``mag_{grizY}`` are set.
    """
    colour = np.asarray(stars["ps1_g"]) - np.asarray(stars["ps1_i"])
    for band, terms in _COLOUR_TERMS.items():
        correction = np.clip(np.polynomial.polynomial.polyval(colour, terms), -1.0, 1.0)
        stars[f"mag_{band}"] = np.asarray(stars[f"ps1_{band.lower()}"]) + correction


def _make_stars(options: ReleasePatchOptions, rng: np.random.Generator) -> Table:
    width, height = options.sky_size()
    stars = populations.draw_stars(
        rng, width=width, height=height, density=options.star_density, brightest=13.5
    )
    legacy_magnitudes(stars)
    stars["parallax"] = 0.0  # The images do not show it.
    template = Table(stars[:1], copy=True)
    for east, north, magnitude in options.bright_stars:
        star = Table(template, copy=True)
        shift = magnitude - float(star["gaia_g"][0])
        for name in star.colnames:
            if name.startswith(("mag_", "ps1_")) or name == "gaia_g":
                star[name] = star[name] + shift
        star["east"], star["north"] = [east], [north]
        stars = vstack([star, stars])
    return stars


def _make_galaxies(options: ReleasePatchOptions, rng: np.random.Generator) -> Table:
    width, height = options.sky_size()
    galaxies = populations.draw_field_galaxies(
        rng, width=width, height=height, density=options.galaxy_density, depth=options.depth
    )
    half_width, half_height = (0.5 * v + 45.0 for v in options.patch_size())
    near = (np.abs(galaxies["east"]) < half_width) & (np.abs(galaxies["north"]) < half_height)
    # Far from the bricks only what a calibration can see.
    galaxies = galaxies[near | (np.asarray(galaxies["mag_i"]) < 22.0)]
    n = len(galaxies)
    kind = rng.choice(list(KINDS), n, p=list(KINDS.values()))
    index = np.array(_SERSIC)[rng.integers(len(_SERSIC), size=n)]
    galaxies["kind"] = kind
    galaxies["sersic"] = np.select([kind == "DEV", kind == "SER"], [4.0, index], 1.0)
    size = np.asarray(galaxies["hlr_disk"]) * np.where(galaxies["sersic"] > 3.0, 0.75, 1.0)
    # Smaller ones are mirrored, so that none is exactly the smallest.
    least = options.smallest_radius
    galaxies["radius"] = np.clip(np.where(size < least, 2.0 * least - size, size), least, 4.0)
    for name in ("g1_int", "g2_int"):
        galaxies[name] = np.where(kind == "REX", 0.0, galaxies[name])
    return galaxies


def _blend(options: ReleasePatchOptions, galaxies: Table, rng: np.random.Generator) -> None:
    """Move some galaxies beside others of about their magnitude."""
    half_width, half_height = (0.5 * v for v in options.patch_size())
    inside = (np.abs(galaxies["east"]) < half_width) & (np.abs(galaxies["north"]) < half_height)
    bright = np.flatnonzero(inside & (np.asarray(galaxies["mag_r"]) < 22.7))
    number = round(options.blends * bright.size)
    chosen = rng.permutation(bright)[: 2 * number]
    for host, guest in zip(chosen[0::2], chosen[1::2], strict=False):
        distance, angle = rng.uniform(1.2, 2.8), rng.uniform(0.0, 2 * np.pi)
        galaxies["east"][guest] = galaxies["east"][host] + distance * np.cos(angle)
        galaxies["north"][guest] = galaxies["north"][host] + distance * np.sin(angle)


def make_patch_sky(options: ReleasePatchOptions, rng: np.random.Generator) -> tuple[Table, Scene]:
    """Draw the sky of a patch.

    Parameters
    ----------
    options : ReleasePatchOptions
        What is on it.
    rng : numpy.random.Generator
        Random numbers.

    Returns
    -------
    sources : astropy.table.Table
        The truth: ``id kind ra dec pm_ra pm_dec flux_{band} shape_r shape_e1 shape_e2 sersic edge
        nearest`` (of anything that is at most 1.5 mag fainter in r), brightest first.
    scene : Scene
        The same stars for the makers of reference catalogues.
    """
    ra0, dec0 = options.centre()
    stars, galaxies = _make_stars(options, rng), _make_galaxies(options, rng)
    _blend(options, galaxies, rng)
    for table, first in ((stars, 10_000_001), (galaxies, 1)):
        ra, dec = sky_positions(
            np.asarray(table["east"]), np.asarray(table["north"]), ra0=ra0, dec0=dec0
        )
        table["ra"], table["dec"] = ra, dec
        table["id"] = np.arange(first, first + len(table), dtype=np.int64)
        table.remove_columns(["east", "north"])
    width, height = options.sky_size()
    scene = Scene(
        options=SceneOptions(ra=ra0 % 360.0, dec=dec0, half_width=width / 2,
                             half_height=height / 2, mass=0.0, depth=options.depth),
        stars=stars, galaxies=galaxies, halos=(),
    )  # fmt: skip
    return _as_sources(options, stars, galaxies), scene


def _as_sources(options: ReleasePatchOptions, stars: Table, galaxies: Table) -> Table:
    n_star = len(stars)
    columns: dict[str, Float64Array] = {}
    for name in ("id", "ra", "dec"):
        columns[name] = np.concatenate([np.asarray(stars[name]), np.asarray(galaxies[name])])
    zeros = np.zeros(len(galaxies))
    for name in ("pm_ra", "pm_dec"):
        columns[name] = np.concatenate([np.asarray(stars[name]), zeros])
    for band in options.bands:
        mag = np.concatenate([np.asarray(t[f"mag_{band}"]) for t in (stars, galaxies)])
        columns[f"flux_{band}"] = 10.0 ** (0.4 * (22.5 - mag))
    none = np.zeros(n_star)
    for name, values in (
        ("shape_r", galaxies["radius"]),
        # Position angles run from North through East: a galaxy along East has e1 < 0.
        ("shape_e1", -np.asarray(galaxies["g1_int"])),
        ("shape_e2", galaxies["g2_int"]), ("sersic", galaxies["sersic"]),
        ("edge", [profile_edge(n) for n in galaxies["sersic"]]),
    ):  # fmt: skip
        columns[name] = np.concatenate([none, np.asarray(values, np.float64)])
    sources = Table(columns)
    sources["kind"] = np.concatenate([np.full(n_star, "PSF"), np.asarray(galaxies["kind"])])
    reference = "r" if "r" in options.bands else options.bands[0]
    sources = sources[np.argsort(-np.asarray(sources[f"flux_{reference}"]), kind="stable")]
    ra0, dec0 = options.centre()
    east, north = sky_offsets(sources["ra"], sources["dec"], ra0=ra0, dec0=dec0)
    sources["nearest"] = _nearest(east, north, np.asarray(sources[f"flux_{reference}"]))
    return sources


def _nearest(east: Float64Array, north: Float64Array, flux: Float64Array) -> Float64Array:
    """Distance to the nearest source of more than a quarter of the flux [arcsec]."""
    points = np.stack([east, north], axis=1)
    k = min(25, flux.size)
    distance, other = cKDTree(points).query(points, k=k)
    distance, other = distance.reshape(-1, k), other.reshape(-1, k)
    counts = (flux[other] > 0.25 * flux[:, None]) & (other != np.arange(flux.size)[:, None])
    return np.asarray(np.where(counts, distance, np.inf).min(axis=1))

"""The sky of a simulation: stars, galaxies behind and in front of the lens, the cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from skymill.data.options import check_range, option
from skymill.sims import populations
from skymill.sims.halo import NfwHalo, concentration_of_mass
from skymill.sims.sky_tables import BANDS

__all__ = ["Scene", "SceneOptions", "lens_galaxies", "make_scene"]

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """What is on the sky."""

    ra: float = option(150.0, "right ascension of the cluster", unit="deg")
    dec: float = option(2.2, "declination of the cluster", unit="deg")
    half_width: float = option(0.30, "half of the width of the field, East to West", unit="deg")
    half_height: float = option(0.30, "half of its height, South to North", unit="deg")
    mass: float = option(1.0e15, "M200 (critical) of the cluster; 0 for none", unit="Msun")
    redshift: float = option(0.2, "redshift of the cluster")
    concentration: float = option(0.0, "c200 of the cluster; 0 takes the mean relation of c(M, z)")
    depth: float = option(25.5, "faintest galaxy that is drawn, i band", unit="mag")
    galaxy_density: float = option(1.0, "galaxies relative to the real sky")
    star_density: float = option(1.0, "stars relative to the real sky at galactic latitude 42 deg")
    brightest_star: float = option(13.0, "brightest star, i band", unit="mag")
    shape_noise: float = option(1.05, "factor on the CFHTLenS ellipticities; 0 makes them round")
    richness: float = option(1.0, "factor on the number of cluster members")
    ebv: float = option(0.0, "reddening E(B-V) of the field", unit="mag")

    def __post_init__(self) -> None:
        check_range(self, "dec", low=-89.0, high=89.0)
        check_range(self, "ra", low=0.0, high=360.0)
        for name in ("half_width", "half_height"):
            check_range(self, name, low=0.0, high=5.0, low_open=True)
        check_range(self, "mass", low=0.0, high=1e17)
        check_range(self, "redshift", low=0.01, high=2.0)
        check_range(self, "concentration", low=0.0, high=50.0)
        check_range(self, "depth", low=15.0, high=28.0)
        check_range(self, "ebv", low=0.0, high=3.0)
        check_range(self, "brightest_star", low=6.0, high=25.0)
        for name in ("galaxy_density", "star_density", "shape_noise", "richness"):
            check_range(self, name, low=0.0)


@dataclass(frozen=True)
class Scene:
    """Everything on the simulated sky.

    Parameters
    ----------
    options : SceneOptions
        How it was made.
    stars : astropy.table.Table
        ``id ra dec`` (ICRS at ``epoch``), ``pm_ra pm_dec`` [mas/yr], ``mag_{band}`` (DECam),
        ``ps1_{grizy}``, ``gaia_g`` (AB).
    galaxies : astropy.table.Table
        ``id ra dec z template is_member``, ``mag_{band}`` observed (lensed and reddened),
        ``mag_unlensed_i``, ``bulge_fraction``, ``hlr_disk hlr_bulge`` [arcsec, before lensing],
        ``g1_int g2_int`` (intrinsic), ``kappa gamma1 gamma2 g1 g2 mu`` in sky axes.
    halos : tuple of NfwHalo
        The masses.
    epoch : float [MJD TAI]
        Epoch of the positions of the stars.
    """

    options: SceneOptions
    stars: Table
    galaxies: Table
    halos: tuple[NfwHalo, ...]
    epoch: float = field(default=57388.0)

    def halo_table(self) -> Table:
        """The halos as a table."""
        rows = [
            (h.ra, h.dec, h.redshift, h.mass, h.concentration, h.r200, h.scale_arcsec)
            for h in self.halos
        ]
        names = ["ra", "dec", "redshift", "m200", "c200", "r200", "scale_radius"]
        table = Table(rows=rows or None, names=names, dtype=["f8"] * 7)
        for name, unit in zip(names, ("deg", "deg", "", "Msun", "", "Mpc", "arcsec"), strict=True):
            table[name].unit = unit or None
        return table


#: A_band / E(B-V) of Schlafly & Finkbeiner (2011), R_V = 3.1, DES filters (u: SDSS u).
EXTINCTION = {"u": 4.239, "g": 3.237, "r": 2.176, "i": 1.595, "z": 1.217, "Y": 1.058}


def sky_offsets(
    ra: Float64Array, dec: Float64Array, *, ra0: float, dec0: float
) -> tuple[Float64Array, Float64Array]:
    """Gnomonic offsets of positions from a centre.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions.
    ra0, dec0 : float [deg]
        Centre.

    Returns
    -------
    east, north : (n,) float64 [arcsec]
        Tangent-plane offsets.
    """
    a, d = np.radians(np.asarray(ra) - ra0), np.radians(dec)
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    cos_r = s0 * np.sin(d) + c0 * np.cos(d) * np.cos(a)
    east = np.cos(d) * np.sin(a) / cos_r
    north = (c0 * np.sin(d) - s0 * np.cos(d) * np.cos(a)) / cos_r
    return np.degrees(east) * 3600.0, np.degrees(north) * 3600.0


def sky_positions(
    east: Float64Array, north: Float64Array, *, ra0: float, dec0: float
) -> tuple[Float64Array, Float64Array]:
    """Inverse of `sky_offsets`.

    Parameters
    ----------
    east, north : (n,) float64 [arcsec]
        Tangent-plane offsets.
    ra0, dec0 : float [deg]
        Centre.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions, ra in [0, 360).
    """
    x, y = np.radians(np.asarray(east) / 3600.0), np.radians(np.asarray(north) / 3600.0)
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    ra = ra0 + np.degrees(np.arctan2(x, c0 - y * s0))
    dec = np.degrees(np.arctan2((s0 + y * c0) * np.cos(np.radians(ra - ra0)), c0 - y * s0))
    return ra % 360.0, dec


def lens_galaxies(galaxies: Table, halos: tuple[NfwHalo, ...], rng: np.random.Generator) -> Table:
    """Shear, magnify and thin out galaxies behind masses.

    The galaxies come with their observed positions, uniform on the sky; each is kept with the
    probability 1 / mu, which is how magnification dilutes the area behind the lens. Shears and
    convergences of several halos add (no multi-plane terms).

    Parameters
    ----------
    galaxies : astropy.table.Table
        Columns ``ra dec z mag_{band}``; changed.
    halos : tuple of NfwHalo
        The masses.
    rng : numpy.random.Generator
        Random numbers.

    Returns
    -------
    astropy.table.Table
        The kept rows with ``kappa gamma1 gamma2 g1 g2 mu`` and magnified magnitudes.
    """
    n = len(galaxies)
    kappa, gamma1, gamma2 = np.zeros(n), np.zeros(n), np.zeros(n)
    z = np.asarray(galaxies["z"])
    for halo in halos:
        east, north = sky_offsets(
            np.asarray(galaxies["ra"]), np.asarray(galaxies["dec"]), ra0=halo.ra, dec0=halo.dec
        )
        k, a, b = halo.kappa_gamma(east=east, north=north, source_redshift=z)
        kappa, gamma1, gamma2 = kappa + k, gamma1 + a, gamma2 + b
    det = (1.0 - kappa) ** 2 - gamma1**2 - gamma2**2
    mu = 1.0 / np.where(np.abs(det) > 1e-3, np.abs(det), 1e-3)
    # Members and foreground are not diluted; arcs longer than mu = 20 are left out.
    keep = (rng.random(n) * mu < 1.0) & (mu < 20.0) & (kappa < 1.0)
    for name, values in (
        ("kappa", kappa), ("gamma1", gamma1), ("gamma2", gamma2),
        ("g1", gamma1 / np.where(kappa < 1.0, 1.0 - kappa, 1.0)),
        ("g2", gamma2 / np.where(kappa < 1.0, 1.0 - kappa, 1.0)), ("mu", mu),
    ):  # fmt: skip
        galaxies[name] = values
    for band in BANDS:
        galaxies[f"mag_{band}"] -= 2.5 * np.log10(mu)
    return galaxies[keep]


def make_scene(options: SceneOptions, rng: np.random.Generator) -> Scene:
    """Draw a sky.

    Parameters
    ----------
    options : SceneOptions
        What is on it.
    rng : numpy.random.Generator
        Random numbers; the same generator state gives the same sky.

    Returns
    -------
    Scene
        Stars, lensed galaxies, cluster members and halos.
    """
    halos: tuple[NfwHalo, ...] = ()
    if options.mass > 0.0:
        c200 = options.concentration or concentration_of_mass(options.mass, options.redshift)
        halos = (NfwHalo(options.ra, options.dec, options.redshift, options.mass, c200),)
    stars = populations.draw_stars(
        rng,
        width=2 * options.half_width,
        height=2 * options.half_height,
        density=options.star_density,
        brightest=options.brightest_star,
    )
    field_ = populations.draw_field_galaxies(
        rng,
        width=2 * options.half_width,
        height=2 * options.half_height,
        density=options.galaxy_density,
        depth=options.depth,
    )
    members = populations.draw_cluster(
        rng,
        mass=options.mass,
        redshift=options.redshift,
        richness=options.richness,
        depth=options.depth,
        scale_arcsec=halos[0].scale_arcsec if halos else 100.0,
    )
    for table in (stars, field_, members):
        ra, dec = sky_positions(
            np.asarray(table["east"]), np.asarray(table["north"]), ra0=options.ra, dec0=options.dec
        )
        table["ra"], table["dec"] = ra, dec
        table.remove_columns(["east", "north"])
    for table in (field_, members):
        table["mag_unlensed_i"] = table["mag_i"]
        table["g1_int"] *= options.shape_noise
        table["g2_int"] *= options.shape_noise
    lensed = lens_galaxies(field_, halos, rng)
    galaxies = vstack([lens_galaxies(members, (), rng), lensed]) if len(members) else lensed
    galaxies["id"] = np.arange(1, len(galaxies) + 1, dtype=np.int64)
    stars["id"] = np.arange(1, len(stars) + 1, dtype=np.int64) + 10_000_000
    for band in BANDS:
        reddening = EXTINCTION[band] * options.ebv
        galaxies[f"mag_{band}"] += reddening
        stars[f"mag_{band}"] += reddening
    for band in "grizy":
        stars[f"ps1_{band}"] += EXTINCTION["Y" if band == "y" else band] * options.ebv
    stars["gaia_g"] += 2.3 * options.ebv
    return Scene(options=options, stars=stars, galaxies=galaxies, halos=halos)

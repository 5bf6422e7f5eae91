"""How many stars and galaxies there are, how bright, how large, of what colour and shape.

Sources: galaxy counts N(<i) = 46 x 10^(0.31 (i - 25)) per arcmin2 (LSST Science Book 2009, 3.7.2),
with the Euclidean-like bright slope below i = 20; spectral types and redshifts from the prior of
Benitez (2000, ApJ 536, 571, table 1) in i; sizes, bulge fractions and ellipticities from the
CFHTLenS priors of Miller et al. (2013, MNRAS 429, 2858, appendix B); luminosity function of
members: Schechter with M*_r = -21.5 + evolution, alpha = -1.0.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.sims.halo import COSMOLOGY
from skymill.sims.sky_tables import BANDS, galaxy_colours, ps1_to_decam, star_facts

__all__ = ["draw_cluster", "draw_field_galaxies", "draw_stars", "galaxy_counts"]

Float64Array = NDArray[np.float64]

#: Benitez (2000), table 1: alpha, z0, k_m, fraction at i = 20, decline per magnitude.
_PRIOR = {
    "early": (2.46, 0.431, 0.091, 0.35, 0.147),
    "spiral": (1.81, 0.390, 0.0636, 0.50, 0.450),
    "irregular": (0.91, 0.063, 0.123, 0.15, 0.0),
}


def galaxy_counts(magnitude: float) -> float:
    """Galaxies brighter than an i magnitude.

    Parameters
    ----------
    magnitude : float [mag]
        AB limit in i.

    Returns
    -------
    float [1/arcmin2]
        Cumulative counts.
    """
    at_20 = 46.0 * 10 ** (0.31 * (20.0 - 25.0))
    if magnitude <= 20.0:
        return float(at_20 * 10 ** (0.5 * (magnitude - 20.0)))
    return float(46.0 * 10 ** (0.31 * (magnitude - 25.0)))


def _draw_magnitudes(rng: np.random.Generator, n: int, depth: float) -> Float64Array:
    total, at_20 = galaxy_counts(depth), galaxy_counts(20.0)
    value = rng.random(n) * total
    value = np.maximum(value, total * 1e-9)
    faint = 25.0 + np.log10(value / 46.0) / 0.31
    bright = 20.0 + np.log10(value / at_20) / 0.5
    return np.clip(np.where(value > at_20, faint, bright), 14.0, depth)


def _draw_types(
    rng: np.random.Generator, magnitude: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Spectral type (0 to 5 in the sequence of templates) and redshift from the prior."""
    m = np.clip(magnitude, 20.0, 28.0) - 20.0
    early = _PRIOR["early"][3] * np.exp(-_PRIOR["early"][4] * m)
    spiral = _PRIOR["spiral"][3] * np.exp(-_PRIOR["spiral"][4] * m)
    draw = rng.random(m.size)
    kind = np.where(draw < early, 0, np.where(draw < early + spiral, 1, 2))
    alpha, z0, km = (np.array([p[i] for p in _PRIOR.values()])[kind] for i in range(3))
    # p(z) ~ z^alpha exp(-(z/zm)^alpha): with t = (z/zm)^alpha, t is gamma(1 + 1/alpha).
    z = (z0 + km * m) * rng.gamma(1.0 + 1.0 / alpha) ** (1.0 / alpha)
    while (z > 2.95).any():
        k = np.flatnonzero(z > 2.95)
        z[k] = (z0 + km * m)[k] * rng.gamma(1.0 + 1.0 / alpha[k]) ** (1.0 / alpha[k])
    # Bright galaxies are near: the prior is flat below i = 20, so scale down with the flux.
    z *= 10 ** (0.15 * (np.minimum(magnitude, 20.0) - 20.0))
    z = np.clip(z, 0.01, 2.99)
    low = np.array([0.0, 0.5, 2.5])[kind]
    high = np.array([0.5, 2.5, 5.0])[kind]
    return rng.uniform(low, high), z


def _disk_ellipticity(rng: np.random.Generator, n: int) -> Float64Array:
    """Ellipticities |g| of disks (Miller et al. 2013, eq. B2)."""
    e = np.linspace(0.0, 0.804, 2001)
    p = e * (1.0 - np.exp((e - 0.804) / 0.2539)) / ((1.0 + e) * np.sqrt(e**2 + 0.0256**2))
    return _inverse_draw(rng, e, p, n)


def _bulge_ellipticity(rng: np.random.Generator, n: int) -> Float64Array:
    """Ellipticities |g| of bulge-dominated galaxies (Miller et al. 2013, eq. B3)."""
    e = np.linspace(0.0, 0.9, 2001)
    return _inverse_draw(rng, e, e * np.exp(-2.368 * e - 6.691 * e**2), n)


def _inverse_draw(
    rng: np.random.Generator, x: Float64Array, p: Float64Array, n: int
) -> Float64Array:
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (p[1:] + p[:-1]))])
    return np.interp(rng.random(n) * cumulative[-1], cumulative, x)


def _draw_shapes(
    rng: np.random.Generator, table: Table, magnitude: Float64Array, early: NDArray[np.bool_]
) -> None:
    n = magnitude.size
    bulge_dominated = early & (rng.random(n) < 0.8)
    fraction = np.abs(rng.normal(0.0, 0.1, n))
    while (fraction > 1.0).any():
        fraction = np.where(fraction > 1.0, np.abs(rng.normal(0.0, 0.1, n)), fraction)
    table["bulge_fraction"] = np.where(bulge_dominated, 1.0, fraction)
    # Median disk scale length exp(-1.145 - 0.269 (i - 23)) arcsec; p(r) ~ r exp(-(r/a)^(4/3)),
    # a = r_d / 1.13 (eq. B1). With t = (r/a)^(4/3), t is gamma(3/2).
    median = np.exp(-1.145 - 0.269 * (np.clip(magnitude, 16.0, 27.0) - 23.0))
    radius = median / 1.13 * rng.gamma(1.5, size=n) ** 0.75
    radius = np.clip(radius, 0.02, 8.0)
    table["hlr_disk"] = radius * 1.678347
    # Bulges: half-light radius 0.6 of the disk scale length; bulge-dominated: of similar size.
    table["hlr_bulge"] = np.where(bulge_dominated, radius * 1.25, radius * 0.6)
    e = np.where(bulge_dominated, _bulge_ellipticity(rng, n), _disk_ellipticity(rng, n))
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    table["g1_int"], table["g2_int"] = e * np.cos(angle), e * np.sin(angle)


def _set_magnitudes(table: Table, i_magnitude: Float64Array) -> None:
    colours = galaxy_colours().colours(np.asarray(table["template"]), np.asarray(table["z"]))
    for k, band in enumerate(BANDS):
        table[f"mag_{band}"] = i_magnitude + colours[:, k]


def draw_field_galaxies(
    rng: np.random.Generator, *, width: float, height: float, density: float, depth: float
) -> Table:
    """Galaxies of the field, uniform on the sky.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    width, height : float [deg]
        Size of the field.
    density : float
        Factor on the real counts.
    depth : float [mag]
        Faintest, i band.

    Returns
    -------
    astropy.table.Table
        ``east north`` [arcsec], ``z template is_member``, shapes and magnitudes.
    """
    n = rng.poisson(galaxy_counts(depth) * density * width * height * 3600.0)
    table = Table()
    table["east"] = rng.uniform(-0.5, 0.5, n) * width * 3600.0
    table["north"] = rng.uniform(-0.5, 0.5, n) * height * 3600.0
    magnitude = _draw_magnitudes(rng, n, depth)
    template, z = _draw_types(rng, magnitude)
    table["z"], table["template"] = z, template
    table["is_member"] = np.zeros(n, bool)
    _draw_shapes(rng, table, magnitude, template < 0.5)
    _set_magnitudes(table, magnitude)
    return table


def draw_cluster(
    rng: np.random.Generator,
    *,
    mass: float,
    redshift: float,
    richness: float,
    depth: float,
    scale_arcsec: float,
) -> Table:
    """Members of a cluster: a brightest galaxy, a red sequence, some blue ones.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    mass : float [Msun]
        M200; sets the number of members.
    redshift : float
        Redshift.
    richness : float
        Factor on the number.
    depth : float [mag]
        Faintest, i band.
    scale_arcsec : float [arcsec]
        Scale radius of the halo; members follow its surface density out to 8 scale radii.

    Returns
    -------
    astropy.table.Table
        As of `draw_field_galaxies`.
    """
    # About 90 galaxies brighter than M* + 2 in 1e15 Msun; Schechter, alpha = -1.
    m_star = -21.9 - 1.0 * redshift + float(COSMOLOGY.distmod(redshift).value) + redshift
    u = np.linspace(-3.0, np.clip(depth - m_star, -2.9, 6.0), 1200)
    luminosity = 10 ** (-0.4 * u)
    p = np.exp(-luminosity)
    norm = np.trapezoid(np.where(u < 2.0, p, 0.0), u)
    n = rng.poisson(90.0 * richness * (mass / 1e15) ** 0.8 * np.trapezoid(p, u) / max(norm, 1e-9))
    if mass <= 0.0 or richness <= 0.0:
        n = 0
    magnitude = m_star + _inverse_draw(rng, u, p, n)
    magnitude = np.sort(magnitude)
    table = Table()
    x = np.logspace(-2.0, np.log10(8.0), 800)
    # Projected number within x of an NFW profile with the concentration of light = that of mass.
    root = np.sqrt(np.abs(x**2 - 1.0)) + 1e-9
    part = np.where(x < 1, np.arccosh(np.maximum(1 / x, 1.0)), np.arccos(np.minimum(1 / x, 1.0)))
    within = np.log(0.5 * x) + part / root
    radius = np.interp(rng.random(n) * within[-1], within, x) * scale_arcsec
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    table["east"], table["north"] = radius * np.cos(angle), radius * np.sin(angle)
    table["z"] = redshift + rng.normal(0.0, 0.0033, n) * (1.0 + redshift) * (mass / 1e15) ** (1 / 3)
    red = rng.random(n) < 0.8
    table["template"] = np.where(red, 0.0, rng.uniform(0.5, 2.5, n))
    table["is_member"] = np.ones(n, bool)
    _draw_shapes(rng, table, magnitude, red)
    # Members have the sizes of galaxies of their luminosity: r_h ~ 3 kpc at M* (Shen et al. 2003).
    kpc = 60.0 / float(COSMOLOGY.kpc_proper_per_arcmin(redshift).value)
    size = 3.5 * kpc * 10 ** (-0.4 * 0.5 * (magnitude - m_star)) * rng.lognormal(0.0, 0.3, n)
    table["hlr_disk"], table["hlr_bulge"] = size, size
    if n > 0:
        table["east"][0] = table["north"][0] = 0.0
        magnitude[0] = min(magnitude[0], m_star - 1.9)
        table["z"][0], table["template"][0], table["bulge_fraction"][0] = redshift, 0.0, 1.0
        table["hlr_bulge"][0] = table["hlr_disk"][0] = 18.0 * kpc
        red[0] = True
        # Brightest cluster galaxies are rounder than most: |g| < 0.2.
        size_g = max(float(np.hypot(table["g1_int"][0], table["g2_int"][0])), 1e-9)
        for name in ("g1_int", "g2_int"):
            table[name][0] *= min(0.15 / size_g, 1.0)
    table["z"] = np.maximum(table["z"], 0.005)
    _set_magnitudes(table, magnitude)
    # Slope and scatter of the red sequence: -0.025 and 0.03 in g - r.
    tilt = np.where(red, -0.025 * (magnitude - m_star), 0.0) + rng.normal(0.0, 0.03, n)
    for band, share in zip(BANDS, (1.6, 1.0, 0.0, -0.35, -0.6, -0.7), strict=True):
        table[f"mag_{band}"] += share * tilt
    return table


def draw_stars(
    rng: np.random.Generator, *, width: float, height: float, density: float, brightest: float
) -> Table:
    """Stars on the stellar locus.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    width, height : float [deg]
        Size of the field.
    density : float
        Factor on the counts at galactic latitude 42 deg.
    brightest : float [mag]
        Brightest star, i band (PS1).

    Returns
    -------
    astropy.table.Table
        ``east north`` [arcsec], ``pm_ra pm_dec parallax`` [mas/yr, mas], magnitudes in the DECam,
        Pan-STARRS1 and Gaia bands.
    """
    facts = star_facts()
    counts, i_edges = facts.per_deg2, facts.i_edges
    # Beyond Gaia's limit: the colours of the last complete bins, counts growing by 0.12 dex/mag.
    complete = int(np.searchsorted(i_edges, 18.5))
    shape = counts[complete - 2 : complete].mean(axis=0)
    faint_edges = np.arange(18.5, 25.51, 0.5)
    growth = 10 ** (0.12 * (faint_edges[:-1] + 0.25 - 18.0))
    counts = np.concatenate([counts[:complete], shape * growth[:, None]])
    i_edges = np.concatenate([i_edges[:complete], faint_edges])
    area = width * height
    number = rng.poisson(counts * area * density)
    i_bin, c_bin = (np.repeat(a.ravel(), number.ravel()) for a in np.indices(counts.shape))
    i = i_edges[i_bin] + np.diff(i_edges)[i_bin] * rng.random(i_bin.size)
    g_i = facts.g_i_edges[c_bin] + 0.1 * rng.random(i_bin.size)
    keep = i >= brightest
    i, g_i = i[keep], g_i[keep]
    order = np.argsort(i, kind="stable")
    i, g_i = i[order], g_i[order]
    n = i.size
    locus = facts.locus
    at = {c: np.interp(g_i, locus["g_i"], locus[c]) for c in ("r_i", "i_z", "z_y", "gaia_g_r")}
    # Intrinsic scatter of the locus, two thirds of what is seen with photometric errors.
    scatter = 0.5 * np.interp(g_i, locus["g_i"], locus["g_r_scatter"])
    r = i + at["r_i"] + rng.normal(0.0, 1.0, n) * 0.5 * scatter
    g = i + g_i
    z = i - at["i_z"] + rng.normal(0.0, 1.0, n) * 0.3 * scatter
    y = z - at["z_y"] + rng.normal(0.0, 1.0, n) * 0.3 * scatter
    ps1 = np.stack([g, r, i, z, y], axis=1)
    decam = ps1_to_decam(ps1)
    table = Table()
    table["east"] = rng.uniform(-0.5, 0.5, n) * width * 3600.0
    table["north"] = rng.uniform(-0.5, 0.5, n) * height * 3600.0
    motion = np.interp(
        rng.random(n), np.linspace(0.0, 0.995, 41), facts.proper_motion_quantiles
    ) * 10 ** (-0.1 * np.clip(i - 18.0, -3.0, 5.0))
    direction = rng.uniform(0.0, 2 * np.pi, n)
    table["pm_ra"] = motion * np.cos(direction) - 2.0
    table["pm_dec"] = motion * np.sin(direction) - 3.0
    table["parallax"] = motion / 15.0
    for k, band in enumerate(BANDS):
        table[f"mag_{band}"] = decam[:, k]
    for k, band in enumerate("grizy"):
        table[f"ps1_{band}"] = ps1[:, k]
    # Gaia DR2: G(AB) = G(Vega) + 0.105.
    table["gaia_g"] = r + at["gaia_g_r"] + 0.105
    return table

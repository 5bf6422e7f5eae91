"""The red sequence of a cluster at any redshift: found, freed of its field, mapped.

The template of an elliptical galaxy predicts where the ridge of red galaxies lies in all colours
at the cluster's redshift. The line with the most significant excess over the field near the
prediction is taken, and the ridge is then fitted to the members while their probabilities are
solved for: radius, magnitude and all colours of each galaxy against the measured field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import chi2 as chi2_distribution

from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import check_range, option
from skymill.data.tables import float_column, load_schema
from skymill.lensing.catalogue import sky_to_plane
from skymill.lensing.cosmology import FIDUCIAL, Cosmology
from skymill.lensing.members.galaxy_density import Footprint, make_density_map, make_footprint
from skymill.lensing.members.membership import (
    Completeness,
    Mixture,
    characteristic_magnitude,
    cluster_density,
    field_density,
    fit_completeness,
    luminosity_function,
    radial_profile,
    solve_richness,
)
from skymill.lensing.members.ridge import Ridge, choose_colour, expected_colour, predict_ridge

__all__ = ["RedSequence", "RedSequenceOptions", "find_red_sequence"]

Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_ARCMIN = np.pi / 10800.0
#: Rounds of ridge and probabilities; they stand still after about five.
_ROUNDS = 8
#: 0.2 L* is fainter than m* by so much [mag].
_FIFTH = 1.75
#: Galaxies that the cluster's region and the field need.
_MIN_GALAXIES = 5


@dataclass(frozen=True, kw_only=True)
class RedSequenceOptions:
    """Colours, regions and limits of the search."""

    camera: str = option("decam", "Camera whose filters predict the colours")
    bands: str = option("griz", "Bands whose colours are used, as far as the catalogue has them")
    blue: str = option("", "Blue band of the key colour; chosen by the redshift if empty")
    red: str = option("", "Red band of the key colour; chosen by the redshift if empty")
    reference: str = option("", "Band of the magnitudes; i if there is one, or the red band")
    radius_mpc: float = option(1.0, "Radius of the cluster's region", unit="Mpc")
    field_min_mpc: float = option(2.0, "Inner radius of the field", unit="Mpc")
    tolerance: float = option(0.09, "Half width of the strip of the first search", unit="mag")
    search: float = option(0.25, "Largest difference of the template's key colour", unit="mag")
    min_probability: float = option(
        0.003, "Smallest chi-square probability of a candidate's colours"
    )
    bright_mag: float = option(13.5, "Brightest galaxy", unit="mag")
    faint_mag: float = option(
        20.0, "Faintest galaxy at z = 0.08; scaled to the redshift by the distance", unit="mag"
    )
    max_mag: float = option(23.0, "Faintest galaxy at any redshift", unit="mag")
    max_mag_err: float = option(0.1086, "Largest error in the reference band", unit="mag")
    kernel_kpc: float = option(200.0, "Standard deviation of the density map's kernel", unit="kpc")
    step_arcsec: float = option(26.3, "Pixel of the density map", unit="arcsec")

    def __post_init__(self) -> None:
        for name in ("radius_mpc", "tolerance", "search", "max_mag_err", "kernel_kpc",
                     "step_arcsec"):  # fmt: skip
            check_range(self, name, low=0.0, low_open=True)
        check_range(self, "min_probability", low=1e-9, high=0.5)
        if self.field_min_mpc < self.radius_mpc:
            raise ConfigError(
                f"field_min_mpc must be >= radius_mpc = {self.radius_mpc} Mpc; "
                f"got {self.field_min_mpc}"
            )
        if bool(self.blue) != bool(self.red):
            raise ConfigError("blue and red must be given together")


@dataclass(frozen=True, kw_only=True)
class RedSequence:
    """A sequence with its candidates.

    Parameters
    ----------
    table : astropy.table.Table
        Schema ``redSequence``: the galaxies on the ridge; the ridge and the richness are metadata.
    density : astropy.io.fits.HDUList
        Map of members for a square arcminute, field subtracted, edges corrected.
    ridge : Ridge
        Colours of the members.
    """

    table: Table
    density: fits.HDUList
    ridge: Ridge


@dataclass(frozen=True)
class _Galaxies:
    """What is used of the catalogue: magnitudes (n_band, n), offsets [arcmin], radius [Mpc]."""

    mag: Float64Array
    err: Float64Array
    level: Float64Array
    east: Float64Array
    north: Float64Array
    radius: Float64Array
    row: NDArray[np.intp]


@dataclass(frozen=True)
class _Regions:
    """Cluster and field: covered areas [Mpc2], covered share of the profile, magnitudes."""

    near: float
    far: float
    share: float
    limits: tuple[float, float]
    completeness: Completeness


def find_red_sequence(
    catalogue: Table,
    *,
    z: float,
    centre: tuple[float, float],
    options: RedSequenceOptions = RedSequenceOptions(),
    cosmology: Cosmology = FIDUCIAL,
) -> RedSequence:
    """Find the red sequence around a position.

    Parameters
    ----------
    catalogue : astropy.table.Table
        Galaxies with ``ID``, ``ra``, ``dec`` and dereddened ``{band}_cmodel_mag`` and ``magerr``;
        NaN where a galaxy lacks a band.
    z : float
        Redshift of the cluster.
    centre : (ra, dec) [deg]
        Its centre.
    options : RedSequenceOptions
        Search.
    cosmology : Cosmology
        Distances.

    Returns
    -------
    RedSequence
        Candidates with probabilities of membership, density map.

    Raises
    ------
    NoDataError
        If there are too few galaxies, or none in the field.
    DataError
        If a column or a band is missing.
    """
    if not 0.005 < z < 1.5:
        raise ConfigError(f"the redshift of the cluster must be in (0.005, 1.5); got {z}")
    ridge, key = _predict(catalogue, z, options, cosmology)
    scale = float(cosmology.angular_distance(z)) * _ARCMIN
    east, north = sky_to_plane(
        ra=_column(catalogue, "ra"), dec=_column(catalogue, "dec"), centre=centre
    )
    faint = _faint_limit(z, options, cosmology)
    galaxies = _select(catalogue, ridge, east, north, scale, faint, options)
    footprint = make_footprint(east, north, step=options.step_arcsec / 60.0)
    regions = _regions(galaxies, footprint, scale, options)
    ridge, excess = _search(galaxies, ridge, key, regions, options)
    m_star = characteristic_magnitude(z, _modulus(z, cosmology)) + _from_i(
        z, ridge.reference, options.camera
    )
    ridge, chi2, odds, mixture = _solve(galaxies, ridge, regions, m_star, options)
    on = chi2 < chi2_distribution.isf(options.min_probability, ridge.n_colours)
    density = max(mixture.richness, float(_MIN_GALAXIES)) / (np.pi * options.radius_mpc**2)
    p_colour = density * odds / (1.0 + density * odds)
    table = _table(catalogue, galaxies, ridge, key, on, chi2, p_colour, mixture.probability)
    table.meta.update(_describe(ridge, key, galaxies, regions, mixture, m_star))
    table.meta.update(strip_significance=excess, radius_arcmin=options.radius_mpc / scale)
    return RedSequence(
        table=load_schema("redSequence").apply(table),
        density=_map(galaxies, footprint, np.where(on, p_colour, 0.0), mixture, regions, centre,
                     scale, options),
        ridge=ridge,
    )  # fmt: skip


def _describe(
    ridge: Ridge, key: int, galaxies: _Galaxies, regions: _Regions, mixture: Mixture, m_star: float
) -> dict[str, str | float]:
    """The metadata of the table: ridge, limits, richness."""
    bright_enough = galaxies.level < m_star + _FIFTH
    seen = np.maximum(regions.completeness.share(galaxies.level[bright_enough]), 0.1)
    return {
        "blue": ridge.bands[key],
        "red": ridge.bands[key + 1],
        "reference": ridge.reference,
        "bands": "".join(ridge.bands),
        "slope": float(ridge.slope[key]),
        "colour_at_middle": float(ridge.colour[key]),
        "middle_mag": ridge.pivot,
        "scatter": float(ridge.scatter[key]),
        "m_star": m_star,
        "faint_mag": regions.limits[1],
        "complete_mag": min(regions.completeness.limit, regions.limits[1]),
        "richness": mixture.richness,
        "richness_err": mixture.richness_err,
        "significance": mixture.significance,
        "richness_bright": float((mixture.probability[bright_enough] / seen).sum()) / regions.share,
        "covered_share": regions.share,
    }


def _map(
    galaxies: _Galaxies, footprint: Footprint, weight: Float64Array, mixture: Mixture,
    regions: _Regions, centre: tuple[float, float], scale: float, options: RedSequenceOptions,
) -> fits.HDUList:  # fmt: skip
    """Density of members: what each galaxy counts by its colours, over what a member counts."""
    p = mixture.probability
    member = float((p * weight).sum() / p.sum()) if p.sum() > 0 else 1.0
    weight = weight / max(member, 0.05)
    far = _near_and_far(galaxies, options)[1]
    area = regions.far / scale**2
    return make_density_map(
        galaxies.east, galaxies.north, footprint, weight=weight, centre=centre,
        sigma=options.kernel_kpc / 1000.0 / scale,
        background=(float(weight[far].sum()) / area, float((weight[far] ** 2).sum()) / area),
    )  # fmt: skip


def _column(catalogue: Table, name: str) -> Float64Array:
    if name not in catalogue.colnames:
        raise DataError(f"the catalogue of galaxies has no column {name!r}")
    return float_column(catalogue, name)


def _modulus(z: float, cosmology: Cosmology) -> float:
    """Distance modulus less that of z = 0.1 [mag]."""
    distance = cosmology.comoving_distance([z, 0.1]) * np.array([1 + z, 1.1])
    return float(5.0 * np.log10(distance[0] / distance[1]))


def _from_i(z: float, reference: str, camera: str) -> float:
    """Magnitude of a red galaxy in the reference band less that in i."""
    if reference == "i":
        return 0.0
    try:
        return expected_colour(z, reference, "i", camera=camera)
    except ConfigError:
        # A camera without i: only m* depends on it, and the filters of two cameras differ little.
        return expected_colour(z, reference, "i", camera="decam")


def _faint_limit(z: float, options: RedSequenceOptions, cosmology: Cosmology) -> float:
    scaled = options.faint_mag + _modulus(z, cosmology) - _modulus(0.08, cosmology)
    return min(scaled, options.max_mag)


def _predict(
    catalogue: Table, z: float, options: RedSequenceOptions, cosmology: Cosmology
) -> tuple[Ridge, int]:
    """The template's ridge in the bands at hand, and the index of the key colour."""
    known = [
        b
        for b in options.bands
        if f"{b}_cmodel_mag" in catalogue.colnames
        and np.isfinite(float_column(catalogue, f"{b}_cmodel_mag")).any()
    ]
    chosen = (options.blue, options.red) if options.blue else choose_colour(z, known)
    for band in chosen:
        if band not in known:
            raise DataError(
                f"the catalogue has no magnitudes of band {band!r}: a column {band}_cmodel_mag "
                f"with numbers is needed, and the band must be among {options.bands}"
            )
    reference = options.reference or ("i" if "i" in known else chosen[1])
    if reference not in known:
        raise DataError(f"the catalogue has no magnitudes of the reference band {reference!r}")
    if known.index(chosen[1]) != known.index(chosen[0]) + 1:
        # A band between the two is left out, so that the key colour is one of neighbours.
        known = [b for b in known if b in chosen or not _between(b, chosen, known)]
    middle = 0.5 * (_faint_limit(z, options, cosmology) + options.bright_mag)
    ridge = predict_ridge(
        z, tuple(known), key=chosen, reference=reference, pivot=middle, camera=options.camera
    )
    return ridge, ridge.index(*chosen)


def _between(band: str, pair: Sequence[str], known: list[str]) -> bool:
    return known.index(pair[0]) < known.index(band) < known.index(pair[1])


def _select(
    catalogue: Table, ridge: Ridge, east: Float64Array, north: Float64Array, scale: float,
    faint: float, options: RedSequenceOptions,
) -> _Galaxies:  # fmt: skip
    """Galaxies with a good magnitude in the reference band and one other band."""
    mag = np.stack([_column(catalogue, f"{b}_cmodel_mag") for b in ridge.bands])
    err = np.stack([_column(catalogue, f"{b}_cmodel_magerr") for b in ridge.bands])
    known = np.isfinite(mag) & np.isfinite(err) & (err > 0)
    mag, err = np.where(known, mag, np.nan), np.where(known, err, np.nan)
    k = ridge.bands.index(ridge.reference)
    with np.errstate(invalid="ignore"):
        good = (mag[k] > options.bright_mag) & (mag[k] < faint) & (err[k] < options.max_mag_err)
    good &= (known.sum(axis=0) > 1) & np.isfinite(east) & np.isfinite(north)
    row = np.flatnonzero(good)
    return _Galaxies(
        mag[:, row], err[:, row], mag[k, row], east[row], north[row],
        np.hypot(east[row], north[row]) * scale, row,
    )  # fmt: skip


def _regions(
    galaxies: _Galaxies, footprint: Footprint, scale: float, options: RedSequenceOptions
) -> _Regions:
    near, far = _near_and_far(galaxies, options)
    if near.sum() < _MIN_GALAXIES or far.sum() < _MIN_GALAXIES:
        raise NoDataError(
            f"{int(near.sum())} galaxies within {options.radius_mpc} Mpc of the centre and "
            f"{int(far.sum())} beyond {options.field_min_mpc} Mpc; {_MIN_GALAXIES} of each are "
            "needed (is the centre off the field, or field_min_mpc beyond it?)"
        )
    radius = footprint.radius * scale
    share = footprint.covered_share(
        lambda r: radial_profile(r * scale, limit=options.radius_mpc) * scale**2
    )
    return _Regions(
        near=footprint.area(radius < options.radius_mpc) * scale**2,
        far=footprint.area(radius > options.field_min_mpc) * scale**2,
        share=min(share, 1.0),
        # A catalogue that ends brighter than the limit holds members to its own end only.
        limits=(options.bright_mag, float(np.percentile(galaxies.level, 99.0)) + 0.05),
        completeness=fit_completeness(galaxies.level),
    )


def _near_and_far(galaxies: _Galaxies, options: RedSequenceOptions) -> tuple[BoolArray, BoolArray]:
    return galaxies.radius < options.radius_mpc, galaxies.radius > options.field_min_mpc


def _search(
    galaxies: _Galaxies, ridge: Ridge, key: int, regions: _Regions, options: RedSequenceOptions
) -> tuple[Ridge, float]:
    """Move the key colour to the strip with the most significant excess; the excess in sigma."""
    near, far = _near_and_far(galaxies, options)
    ratio = regions.near / regions.far
    colour = galaxies.mag[key] - galaxies.mag[key + 1]
    shift = np.arange(-options.search, options.search + 0.005, 0.01)
    best = (-np.inf, 0.0, float(ridge.slope[key]))
    for slope in np.arange(-0.08, 0.021, 0.01):
        counts = []
        for region in (near, far):
            value = (colour - ridge.colour[key] - slope * (galaxies.level - ridge.pivot))[region]
            value = np.sort(value[np.isfinite(value)])
            low = np.searchsorted(value, shift - options.tolerance)
            counts.append(np.searchsorted(value, shift + options.tolerance) - low)
        expected = counts[1] * ratio
        excess = (counts[0] - expected) / np.sqrt(counts[0] + expected * ratio + 1.0)
        # The template is good to some 0.1 mag; without an excess it stands.
        merit = excess - 0.5 * (shift / 0.1) ** 2 / np.maximum(excess, 1.0)
        k = int(merit.argmax())
        if merit[k] > best[0]:
            best = (float(merit[k]), float(shift[k]), float(slope))
    if best[0] < 2.0:
        return ridge, max(best[0], 0.0)
    moved, tilted = ridge.colour.copy(), ridge.slope.copy()
    moved[key] += best[1]
    tilted[key] = best[2]
    return replace(ridge, colour=moved, slope=tilted), best[0]


def _solve(
    galaxies: _Galaxies, ridge: Ridge, regions: _Regions, m_star: float,
    options: RedSequenceOptions,
) -> tuple[Ridge, Float64Array, Float64Array, Mixture]:  # fmt: skip
    """Ridge, distances, odds by colour [Mpc2] and probabilities that agree with each other."""
    near, far = _near_and_far(galaxies, options)
    profile = radial_profile(galaxies.radius, limit=options.radius_mpc)
    bright, faint = regions.limits
    brightness = luminosity_function(galaxies.level, m_star=m_star, bright=bright, faint=faint)
    brightness *= regions.completeness.share(galaxies.level)
    grid = np.linspace(bright, faint, 400)
    seen = np.trapezoid(
        luminosity_function(grid, m_star=m_star, bright=bright, faint=faint)
        * regions.completeness.share(grid),
        grid,
    )
    prior, probability = ridge, np.zeros(len(galaxies.level))
    chi2_max = float(chi2_distribution.isf(1e-5, ridge.n_colours))
    for turn in range(_ROUNDS):
        # At first the ridge is as wide as the template is uncertain.
        wide = replace(ridge, scatter=np.hypot(ridge.scatter, 0.06)) if turn == 0 else ridge
        chi2 = np.nan_to_num(wide.chi2(galaxies.mag, galaxies.err), nan=np.inf)
        field = field_density(
            chi2, galaxies.level, np.where(near, 1.0 - probability, far.astype(np.float64)),
            area=regions.near + regions.far, n_colours=ridge.n_colours, chi2_max=chi2_max,
        )  # fmt: skip
        odds = brightness * cluster_density(chi2, ridge.n_colours) * (chi2 < chi2_max) / field
        mixture = solve_richness(profile * odds, covered=regions.share * float(seen))
        probability = mixture.probability
        if turn < _ROUNDS - 1 and probability.sum() > _MIN_GALAXIES:
            ridge = ridge.refine(galaxies.mag, galaxies.err, probability, prior=prior)
    return ridge, chi2, odds, mixture


def _table(
    catalogue: Table, galaxies: _Galaxies, ridge: Ridge, key: int, on: BoolArray,
    chi2: Float64Array, p_colour: Float64Array, probability: Float64Array,
) -> Table:  # fmt: skip
    row = galaxies.row[on]
    colour = (galaxies.mag[key] - galaxies.mag[key + 1])[on]
    return Table(
        {
            "ID": np.asarray(catalogue["ID"]).astype(str)[row],
            "ra": _column(catalogue, "ra")[row],
            "dec": _column(catalogue, "dec")[row],
            "mag": galaxies.level[on],
            "colour": colour,
            "colour_err": np.hypot(galaxies.err[key], galaxies.err[key + 1])[on],
            "offset": colour - ridge.line(galaxies.level[on])[key],
            "chi2": chi2[on],
            "radius": galaxies.radius[on],
            "p_colour": p_colour[on],
            "p_member": probability[on],
        }
    )

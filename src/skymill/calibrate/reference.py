"""Reference catalogues: shards in the `refcat` schema -> positions at an epoch and fluxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from skymill.calibrate.colour_terms import CatalogueTerm
from skymill.data.errors import ConfigError, DataError, NoDataError
from skymill.data.options import option
from skymill.data.units import njy_from_magnitude

__all__ = [
    "ReferenceOptions",
    "ReferenceStars",
    "load_references",
    "move_to_epoch",
    "resolve_flux_column",
]

Float64Array = NDArray[np.float64]

_DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class ReferenceStars:
    """Reference stars at one epoch.

    Parameters
    ----------
    id : (n,) int64
        Identifiers in the catalogue.
    ra, dec : (n,) float64
        ICRS position at the epoch [deg].
    error : (n,) float64
        Standard deviation of the position per axis [mas], with that of the proper motion.
    flux, flux_err : (n,) float64
        Flux in the chosen column [nJy]; NaN where unknown.
    band : str
        Name of the column without ``_flux``.
    pm_ra, pm_dec : (n,) float64
        Proper motion [mas/yr]; 0 where unknown.
    colour : (n,) float64, optional
        Colour for a colour term [mag].
    """

    id: NDArray[np.int64]
    ra: Float64Array
    dec: Float64Array
    error: Float64Array
    flux: Float64Array
    flux_err: Float64Array
    band: str
    pm_ra: Float64Array
    pm_dec: Float64Array
    colour: Float64Array | None = None

    def __len__(self) -> int:
        return int(self.id.size)

    def select(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> ReferenceStars:
        """Some of the stars.

        Parameters
        ----------
        index : (n,) bool or (k,) int
            Which.

        Returns
        -------
        ReferenceStars
            Those.
        """
        return ReferenceStars(
            self.id[index],
            self.ra[index],
            self.dec[index],
            self.error[index],
            self.flux[index],
            self.flux_err[index],
            self.band,
            self.pm_ra[index],
            self.pm_dec[index],
            None if self.colour is None else self.colour[index],
        )


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Which reference stars serve."""

    flux_field: str = option("", "Column of the flux; empty for the band of the exposure.")
    mag_min: float = option(-np.inf, "Brightest reference star.", unit="mag")
    mag_max: float = option(np.inf, "Faintest reference star.", unit="mag")
    require_proper_motion: bool = option(False, "Leave out stars without a proper motion.")
    stars_only: bool = option(True, "Leave out what the catalogue calls extended.")
    error_floor: float = option(1.0, "Smallest error of a position.", unit="mas")

    def __post_init__(self) -> None:
        if not self.mag_min < self.mag_max:
            raise ConfigError(
                f"mag_min must be < mag_max; got mag_min={self.mag_min}, mag_max={self.mag_max} mag"
            )


def move_to_epoch(
    ra: Float64Array,
    dec: Float64Array,
    pm_ra: Float64Array,
    pm_dec: Float64Array,
    *,
    years: Float64Array | float,
) -> tuple[Float64Array, Float64Array]:
    """Positions after a time under proper motion.

    Uniform motion along the tangent of the sphere: right at the poles as well.

    Parameters
    ----------
    ra, dec : (n,) float64 [deg]
        Positions at the start.
    pm_ra, pm_dec : (n,) float64 [mas/yr]
        Proper motion; the first includes cos(dec).
    years : (n,) float64 or float [yr]
        Julian years from the start.

    Returns
    -------
    ra, dec : (n,) float64 [deg]
        Positions at the end.
    """
    a, d = np.radians(ra), np.radians(dec)
    step = np.radians(1.0 / 3.6e6) * np.asarray(years)
    east, north = pm_ra * step, pm_dec * step
    sin_a, cos_a, sin_d, cos_d = np.sin(a), np.cos(a), np.sin(d), np.cos(d)
    x = cos_d * cos_a - east * sin_a - north * sin_d * cos_a
    y = cos_d * sin_a + east * cos_a - north * sin_d * sin_a
    z = sin_d + north * cos_d
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


#: Names under which a flux may stand besides ``{name}_flux``.
_SUFFIXES = ("", "_flux", "_mean_flux", "_psf_flux")


def resolve_flux_column(names: Sequence[str], field: str) -> str:
    """Find the flux column that a setting or a band names.

    Parameters
    ----------
    names : sequence of str
        Columns of the catalogue.
    field : str
        ``i_flux``, ``i``, or the published pipeline's ``imag``, ``i_psf``,
        ``phot_g_mean_mag``.

    Returns
    -------
    str
        Name of the column.

    Raises
    ------
    DataError
        If no column fits.
    """
    stems = [field]
    for ending in ("_mag", "mag", "_psf", "_flux"):
        if field.endswith(ending) and len(field) > len(ending):
            stems.append(field[: -len(ending)])
    # DECam's Y is the y of other catalogues.
    for stem in [*stems, *(s.lower() for s in stems)]:
        for suffix in _SUFFIXES:
            name = f"{stem}{suffix}"
            if name.endswith("_flux") and name in names:
                return name
    have = ", ".join(n for n in names if n.endswith("_flux")) or "none"
    raise DataError(
        f"the reference catalogue has no flux column for {field!r} (looked for {stems[-1]}_flux); "
        f"its flux columns: {have}. Set the reference field or choose another catalogue."
    )


def _column(table: Table, name: str, default: float | None = None) -> Float64Array:
    if name in table.colnames:
        column = table[name]
        values = np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan)
        return np.asarray(values, dtype=np.float64)
    if default is None:
        raise DataError(
            f"the reference catalogue has no column {name!r}; its columns: "
            f"{', '.join(table.colnames)}. See the schema 'refcat'."
        )
    return np.full(len(table), default)


def _join(tables: Sequence[Table], name: str, default: float | None = None) -> Float64Array:
    return np.concatenate([_column(t, name, default) for t in tables])


def load_references(
    tables: Sequence[Table],
    *,
    band: str,
    epoch_mjd: float,
    options: ReferenceOptions = ReferenceOptions(),
    colour: tuple[str, str] | None = None,
    flux_needed: bool = True,
    near: tuple[float, float, float] | None = None,
    colour_term: CatalogueTerm | None = None,
) -> ReferenceStars:
    """Join shards, move the stars to an epoch and choose by magnitude.

    Parameters
    ----------
    tables : sequence of Table
        Shards in the ``refcat`` schema; a star in two shards counts once.
    band : str
        Band of the exposure: the flux column unless the options name another.
    epoch_mjd : float [day]
        Epoch of the positions, MJD in TAI.
    options : ReferenceOptions
        Choice.
    colour : tuple of str, optional
        Two flux fields whose colour is wanted for a colour term.
    flux_needed : bool
        Whether a missing flux column is an error; without it the flux is NaN (and no limit in
        magnitude applies).
    near : (float, float, float), optional
        Centre ra, dec and radius of the circle that is wanted [deg].
    colour_term : CatalogueTerm, optional
        Turns the fluxes into those of the camera, if the flux column is that of its primary band;
        stars without the colour, or out of its range, have no flux.

    Returns
    -------
    ReferenceStars
        The stars.

    Raises
    ------
    NoDataError
        If there is no shard or no star is left.
    DataError
        If a column is missing.
    """
    if near is not None:
        tables = [t[_within(t, *near)] for t in tables]
    tables = [t for t in tables if len(t)]
    if not tables:
        raise NoDataError(
            "no reference stars: the reference catalogue has no shard, or only empty ones, here; "
            "ingest one that covers this part of the sky"
        )
    ids = np.concatenate([np.asarray(t["id"], dtype=np.int64) for t in tables])
    _, first = np.unique(ids, return_index=True)
    ra, dec = _join(tables, "ra")[first], _join(tables, "dec")[first]
    motion = _Motion.read(tables, first, epoch_mjd)
    ra, dec = move_to_epoch(ra, dec, motion.ra, motion.dec, years=motion.years)
    flux, flux_err, name = _fluxes(tables, options.flux_field or band, flux_needed)
    if colour_term is not None:
        flux, flux_err = _in_camera_system(tables, flux, flux_err, name, colour_term)
    out = ReferenceStars(
        ids[first],
        ra,
        dec,
        np.maximum(motion.error, options.error_floor),
        flux[first],
        flux_err[first],
        name,
        motion.ra,
        motion.dec,
        None if colour is None else _colour(tables, colour)[first],
    )
    keep = np.isfinite(ra) & np.isfinite(dec)
    if options.require_proper_motion:
        keep &= motion.known
    if options.stars_only and all("is_star" in t.colnames for t in tables):
        keep &= _join(tables, "is_star")[first] > 0
    keep &= _within_limits(out.flux, options, flux_needed)
    if not keep.any():
        raise NoDataError(
            f"none of the {len(out)} reference objects here is a usable star with {name} within "
            f"{options.mag_min} to {options.mag_max} mag"
        )
    return out.select(keep)


def _within(table: Table, ra: float, dec: float, radius: float) -> NDArray[np.bool_]:
    a = np.radians(_column(table, "ra") - ra)
    d, d0 = np.radians(_column(table, "dec")), np.radians(dec)
    haversine = np.sin(0.5 * (d - d0)) ** 2 + np.cos(d) * np.cos(d0) * np.sin(0.5 * a) ** 2
    return np.asarray(haversine <= np.sin(0.5 * np.radians(radius)) ** 2)


@dataclass(frozen=True)
class _Motion:
    ra: Float64Array
    dec: Float64Array
    years: Float64Array
    error: Float64Array
    known: NDArray[np.bool_]

    @staticmethod
    def read(tables: Sequence[Table], rows: NDArray[np.int64], epoch_mjd: float) -> _Motion:
        pm_ra, pm_dec = _join(tables, "pm_ra", np.nan)[rows], _join(tables, "pm_dec", np.nan)[rows]
        years = (epoch_mjd - _join(tables, "epoch")[rows]) / _DAYS_PER_YEAR
        known = np.isfinite(pm_ra) & np.isfinite(pm_dec) & np.isfinite(years)
        static = np.hypot(_join(tables, "ra_err")[rows], _join(tables, "dec_err")[rows])
        moving = np.hypot(
            np.nan_to_num(_join(tables, "pm_ra_err", 0.0)[rows]),
            np.nan_to_num(_join(tables, "pm_dec_err", 0.0)[rows]),
        )
        years = np.where(np.isfinite(years), years, 0.0)
        error = np.hypot(np.nan_to_num(static), np.where(known, moving * years, 0.0)) / np.sqrt(2)
        zero = np.zeros(rows.size)
        return _Motion(
            np.where(known, pm_ra, zero), np.where(known, pm_dec, zero), years, error, known
        )


def _fluxes(
    tables: Sequence[Table], field: str, needed: bool
) -> tuple[Float64Array, Float64Array, str]:
    try:
        name = resolve_flux_column(tables[0].colnames, field)
    except DataError:
        if needed:
            raise
        blank = np.full(sum(len(t) for t in tables), np.nan)
        return blank, blank, field
    return (
        _join(tables, name),
        _join(tables, f"{name}_err", np.nan),
        name.removesuffix("_flux"),
    )


def _in_camera_system(
    tables: Sequence[Table],
    flux: Float64Array,
    flux_err: Float64Array,
    name: str,
    term: CatalogueTerm,
) -> tuple[Float64Array, Float64Array]:
    """Apply a colour term, if the column is that of its primary band."""
    column = resolve_flux_column(tables[0].colnames, term.primary)
    if f"{name}_flux" != column:
        return flux, flux_err
    try:
        secondary, secondary_err, _ = _fluxes(tables, term.secondary, True)
    except DataError as err:
        raise DataError(
            f"the colour term of {name} needs the band {term.secondary}, but {err} "
            "Or set applyColorTerms=False."
        ) from err
    return term.transform(flux, flux_err, secondary, secondary_err)


def _colour(tables: Sequence[Table], colour: tuple[str, str]) -> Float64Array:
    a, b = (_fluxes(tables, field, True)[0] for field in colour)
    good = (a > 0) & (b > 0)
    ratio = np.where(good, a, 1.0) / np.where(good, b, 1.0)
    return np.where(good, -2.5 * np.log10(ratio), np.nan)


def _within_limits(
    flux: Float64Array, options: ReferenceOptions, flux_needed: bool
) -> NDArray[np.bool_]:
    keep = flux > 0 if flux_needed else np.ones(flux.size, bool)
    if np.isfinite(options.mag_max):
        keep &= flux >= njy_from_magnitude(options.mag_max)
    if np.isfinite(options.mag_min):
        keep &= flux <= njy_from_magnitude(options.mag_min)
    return keep

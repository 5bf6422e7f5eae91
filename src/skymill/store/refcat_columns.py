"""How the columns of public reference catalogues become those of the ``refcat`` schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy import units as u
from astropy.table import Column, Table
from astropy.time import Time
from numpy.typing import NDArray

from skymill.data.errors import DataError
from skymill.data.tables import load_schema
from skymill.data.units import MAG_ERR_FACTOR, njy_from_magnitude

__all__ = ["COLUMN_MAPS", "ColumnMap", "convert_refcat"]

Float64Array = NDArray[np.float64]

#: Photometric zero point offsets between the Vega magnitudes of Gaia DR3 and AB.
#: Source: Gaia DR3 documentation, table 5.4.
_GAIA_AB = {"phot_g_mean": 0.1136, "phot_bp_mean": 0.0229, "phot_rp_mean": 0.3596}


@dataclass(frozen=True, kw_only=True)
class ColumnMap:
    """Names that a catalogue's columns go by; the first that is present is taken.

    Parameters
    ----------
    columns : mapping of str to sequence of str
        Column of the ``refcat`` schema to its names in the catalogue.
    magnitudes : mapping of str to sequence of (str, str)
        Band to pairs of a magnitude column and its error's.
    fluxes : mapping of str to sequence of (str, str)
        Band to pairs of a flux column [nJy] and its error's.
    to_ab : mapping of str to float [mag]
        What is added to a magnitude to make it AB.
    epoch : float [MJD TAI]
        Epoch of positions where the catalogue has no column for it; NaN if it must have one.
    position_error : float [mas]
        Where the catalogue has no column for it.
    per_band : bool
        One dataset type for each band, ``<name>_<band>``, as the published pipeline has them.
    """

    columns: Mapping[str, Sequence[str]]
    magnitudes: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    fluxes: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    to_ab: Mapping[str, float] = field(default_factory=dict)
    epoch: float = float("nan")
    position_error: float = float("nan")
    per_band: bool = False


_ID = ("id", "ID", "source_id", "objID", "object_id", "Source", "objid", "OBJID")
_RA = ("ra", "RA", "RAJ2000", "RA_ICRS", "raj2000", "raMean", "ra_deg", "RAdeg")
_DEC = ("dec", "DEC", "DEJ2000", "DE_ICRS", "dej2000", "decMean", "dec_deg", "DEdeg")
_POSITION = {
    "id": _ID,
    "ra": _RA,
    "dec": _DEC,
    "ra_err": ("ra_err", "ra_error", "ra_err_mas", "e_RA_ICRS", "e_RAJ2000", "e_ra"),
    "dec_err": ("dec_err", "dec_error", "dec_err_mas", "e_DE_ICRS", "e_DEJ2000", "e_dec"),
    "pm_ra": ("pm_ra", "pmra", "pmRA", "pmra_masyr"),
    "pm_dec": ("pm_dec", "pmdec", "pmDE", "pmdec_masyr"),
    "pm_ra_err": ("pm_ra_err", "pmra_error", "e_pmRA"),
    "pm_dec_err": ("pm_dec_err", "pmdec_error", "e_pmDE"),
    "parallax": ("parallax", "Plx", "parallax_mas"),
    "epoch": ("epoch", "epoch_mjd"),
    "is_star": ("is_star",),
}


def _bands(bands: str, *patterns: tuple[str, str]) -> dict[str, list[tuple[str, str]]]:
    return {b: [(m.format(b=b), e.format(b=b)) for m, e in patterns] for b in bands}


_SAME = (("{b}_flux", "{b}_flux_err"), ("flux_{b}", "err_{b}"), ("flux_{b}", "flux_err_{b}"))
_MAG = (("{b}mag", "e_{b}mag"),)
_BARE = ("{b}", "{b}_err")
_GAIA_BANDS = {
    "phot_g_mean": [
        ("phot_g_mean_mag", "phot_g_mean_mag_error"), ("Gmag", "e_Gmag"), ("g", "g_err"),
    ],
    "phot_bp_mean": [
        ("phot_bp_mean_mag", "phot_bp_mean_mag_error"), ("BPmag", "e_BPmag"), ("bp", "bp_err"),
    ],
    "phot_rp_mean": [
        ("phot_rp_mean_mag", "phot_rp_mean_mag_error"), ("RPmag", "e_RPmag"), ("rp", "rp_err"),
    ],
}  # fmt: skip


def _mjd(year: float) -> float:
    return float(Time(year, format="jyear", scale="tcb").tai.mjd)


#: Column maps by the name of the catalogue; ``refcat`` takes the schema's own columns.
COLUMN_MAPS: dict[str, ColumnMap] = {
    "refcat": ColumnMap(columns=_POSITION),
    "gaia": ColumnMap(
        columns=_POSITION,
        magnitudes=_GAIA_BANDS,
        fluxes={b: [(f"{b}_flux_njy", f"{b}_flux_njy_err")] for b in _GAIA_BANDS},
        to_ab=_GAIA_AB,
        epoch=_mjd(2016.0),
    ),
    "ps1": ColumnMap(
        columns=_POSITION,
        magnitudes=_bands("grizy", *_MAG, ("{b}MeanPSFMag", "{b}MeanPSFMagErr"), _BARE),
        fluxes=_bands("grizy", *_SAME),
        epoch=_mjd(2012.0),
        position_error=10.0,
    ),
    "sm_dr4": ColumnMap(
        columns=_POSITION,
        magnitudes=_bands(
            "uvgriz", ("{b}_psf", "e_{b}_psf"), ("{b}PSF", "e_{b}PSF"), ("{b}mag", "e_{b}mag")
        ),
        fluxes=_bands("uvgriz", *_SAME),
        epoch=_mjd(2017.0),
        position_error=50.0,
        per_band=True,
    ),
    "sdss": ColumnMap(
        columns=_POSITION,
        magnitudes={
            **_bands("ugriz", ("{b}pmag", "e_{b}pmag"), *_MAG, ("psfMag_{b}", "psfMagErr_{b}")),
            "up": [("upmag", "e_upmag")],
        },
        fluxes=_bands("ugriz", *_SAME),
        epoch=_mjd(2005.0),
        position_error=50.0,
    ),
}  # fmt: skip


def _values(column: Column) -> NDArray[np.generic]:
    if column.dtype.kind in "iu":
        return np.asarray(column.filled(0) if hasattr(column, "filled") else column)
    filled = (
        column.filled(np.nan) if hasattr(column, "filled") and column.dtype.kind == "f" else column
    )
    return np.asarray(filled)


def _float(table: Table, name: str, unit: str = "") -> Float64Array:
    column = table[name]
    try:
        values = np.asarray(_values(column), np.float64)
    except (TypeError, ValueError) as err:
        raise DataError(f"column {name!r} of the catalogue does not hold numbers ({err})") from err
    if unit and column.unit:
        try:
            return np.asarray((values * u.Unit(column.unit)).to_value(unit))
        except u.UnitConversionError as err:
            raise DataError(f"column {name!r} is in {column.unit}, which is no {unit}") from err
    return values


def _find(table: Table, names: Sequence[str]) -> str | None:
    return next((n for n in names if n in table.colnames), None)


def _required(table: Table, column: str, names: Sequence[str]) -> str:
    found = _find(table, names)
    if found is None:
        raise DataError(
            f"the catalogue has no column for {column!r}; looked for {', '.join(names)}; it has "
            f"{', '.join(table.colnames)}. Name it with --column {column}=NAME"
        )
    return found


def _error_column(table: Table, name: str, size: int, unit: str = "") -> Float64Array:
    return _float(table, name, unit) if name in table.colnames else np.full(size, np.nan)


def _one_band(
    table: Table, catalogue: ColumnMap, band: str
) -> tuple[Float64Array, Float64Array] | None:
    """Flux and error [nJy] of a band; None if the catalogue has none."""
    n = len(table)
    for flux, error in ((f"{band}_flux", f"{band}_flux_err"), *catalogue.fluxes.get(band, ())):
        if flux in table.colnames:
            return _float(table, flux, "nJy"), _error_column(table, error, n, "nJy")
    for column, error in catalogue.magnitudes.get(band, ()):
        if column in table.colnames:
            magnitude = _float(table, column) + catalogue.to_ab.get(band, 0.0)
            # Catalogues write 99, 0 or -999 for a magnitude that was not measured.
            unknown = ~np.isfinite(magnitude) | (magnitude <= 0.5) | (magnitude > 40)
            value = np.where(unknown, np.nan, njy_from_magnitude(np.where(unknown, 20, magnitude)))
            size = _error_column(table, error, n)
            return value, value * np.where(np.abs(size) < 5, size, np.nan) / MAG_ERR_FACTOR
    return None


def _add_bands(out: Table, table: Table, catalogue: ColumnMap, bands: Sequence[str] | None) -> None:
    known = list(dict.fromkeys([*catalogue.magnitudes, *catalogue.fluxes]))
    absent = []
    for band in known if bands is None else bands:
        found = _one_band(table, catalogue, band) if band in known else None
        if found is None:
            absent.append(band)
        else:
            out[f"{band}_flux"], out[f"{band}_flux_err"] = found
    if (bands is not None and absent) or len(absent) == len(known):
        names = [m for b in absent for m, _ in catalogue.magnitudes.get(b, [(f"{b}_flux", "")])]
        raise DataError(
            f"the catalogue has no flux or magnitude for band {', '.join(absent) or '(any)'}; "
            f"looked for {', '.join(names) or 'columns <band>_flux'}; it has "
            f"{', '.join(table.colnames)}"
        )


def convert_refcat(
    table: Table,
    catalogue: str | ColumnMap = "refcat",
    *,
    columns: Mapping[str, str] | None = None,
    bands: Sequence[str] | None = None,
    epoch: float | None = None,
) -> Table:
    """A reference catalogue in the ``refcat`` schema.

    Parameters
    ----------
    table : astropy.table.Table
        The catalogue; units of its columns are honoured.
    catalogue : str or ColumnMap
        One of `COLUMN_MAPS`: refcat, gaia, ps1, sm_dr4, sdss.
    columns : mapping of str to str, optional
        Column of the schema to its name here, before all others.
    bands : sequence of str, optional
        Bands that must be there; all that are found if omitted.
    epoch : float [MJD TAI], optional
        Epoch of the positions, if the catalogue has no column for it.

    Returns
    -------
    astropy.table.Table
        Rows with finite positions; columns of the schema.

    Raises
    ------
    DataError
        If a needed column is absent, with the names that were looked for.
    """
    words = COLUMN_MAPS.get(catalogue) if isinstance(catalogue, str) else catalogue
    if words is None:
        raise DataError(f"there is no column map {catalogue!r}; known: {', '.join(COLUMN_MAPS)}")
    given = dict(columns or {})
    for column, name in given.items():
        if name not in table.colnames:
            raise DataError(
                f"the catalogue has no column {name!r} (given for {column}); it has "
                f"{', '.join(table.colnames)}"
            )
    names = {**words.columns, **{column: (name,) for column, name in given.items()}}
    out = Table()
    _add_positions(out, table, names, words.position_error)
    out["epoch"] = _epoch(table, _find(table, names["epoch"]), words.epoch, epoch)
    if not (words.magnitudes or words.fluxes):
        known = [c.name for c in load_schema("refcat").columns if c.name.endswith("_flux")]
        present = [c.removesuffix("_flux") for c in known if c in table.colnames]
        words = ColumnMap(columns=words.columns, fluxes=dict.fromkeys(present, ()))
    _add_bands(out, table, words, bands)
    keep = np.isfinite(np.asarray(out["ra"])) & (np.abs(np.asarray(out["dec"])) <= 90)
    return load_schema("refcat").apply(out[keep])


def _add_positions(
    out: Table, table: Table, names: Mapping[str, Sequence[str]], position_error: float
) -> None:
    identifiers = _values(table[_required(table, "id", names["id"])])
    try:
        out["id"] = identifiers.astype(np.int64)
    except (TypeError, ValueError):
        # Names instead of numbers: count them; the name itself is not kept.
        out["id"] = np.arange(len(table), dtype=np.int64)
    out["ra"] = _float(table, _required(table, "ra", names["ra"]), "deg") % 360.0
    out["dec"] = _float(table, _required(table, "dec", names["dec"]), "deg")
    for column in ("ra_err", "dec_err"):
        found = _find(table, names[column])
        if found is not None:
            out[column] = _float(table, found, "mas")
        elif np.isfinite(position_error):
            out[column] = np.full(len(table), position_error)
        else:
            _required(table, column, names[column])
    for column in ("pm_ra", "pm_dec", "pm_ra_err", "pm_dec_err", "parallax"):
        found = _find(table, names[column])
        if found is not None:
            out[column] = _float(table, found, "mas" if column == "parallax" else "mas / yr")
    found = _find(table, names["is_star"])
    if found is not None:
        out["is_star"] = np.asarray(table[found]).astype(bool)


def _epoch(
    table: Table, name: str | None, default: float, given: float | None
) -> Float64Array | float:
    n = len(table)
    if given is not None:
        return np.full(n, given)
    if name is not None:
        values = _float(table, name)
        # Julian years are a few thousand, modified Julian dates tens of thousands.
        years = values < 10000
        mjd = Time(np.where(years, values, 2000.0), format="jyear", scale="tcb").tai.mjd
        return np.where(years, mjd, values)
    if not np.isfinite(default):
        raise DataError(
            "the catalogue has no column for 'epoch'; give the epoch of its positions with --epoch"
        )
    return np.full(n, default)
